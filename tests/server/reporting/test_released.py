"""What was released and why, in words."""

from __future__ import annotations

import pytest

from server.reporting.released import asked_sentence, selection_of, selection_sentence


def test_the_selection_of_a_run_is_its_last_one_with_the_last_refinement() -> None:
    events = [
        {"event": "selected", "chosen": "untrained", "gains": {}},
        {"event": "refined", "statistic": "pairs"},
        {"event": "round", "chosen": "nothing"},
        {"event": "selected", "chosen": "trained", "gains": {"trained": 0.1}},
    ]
    assert selection_of(events) == {"chosen": "trained", "gains": {"trained": 0.1}, "refined": "pairs"}
    assert selection_of(events[:1]) == {"chosen": "untrained", "gains": {}, "refined": None}
    assert selection_of(events[1:3]) is None


@pytest.mark.parametrize(
    ("selection", "sentence"),
    [
        ({"chosen": "statistics"}, "Released is the recommender with statistics."),
        (
            {"chosen": "trained", "gains": {"pairs": 0.01, "trained": 0.02}, "noise_stddev": 0.001},
            "Released is the recommender with the trained adapter: on validation its NDCG is +0.0200 ± 0.0020 of noise "
            "against the untrained one.",
        ),
        (
            {"chosen": "untrained", "gains": {"trained": -0.02}, "noise_stddev": 0.0},
            "Released is the untrained recommender: text similarity and popularity. Nothing that was learned did better: on "
            "validation its NDCG is -0.0200 against the untrained one. More users, a larger epsilon "
            "or fewer rounds would help.",
        ),
    ],
)
def test_the_sentence_says_what_is_released_and_what_the_comparison_says_for_it(
    selection: dict[str, object], sentence: str
) -> None:
    assert selection_sentence(selection) == sentence


def test_a_refinement_asks_for_more_of_a_statistic() -> None:
    assert asked_sentence("pairs") == "Asked all clients for pairs of items."
    assert asked_sentence("refine-pairs") == "Asked all clients for more of the pairs of items."
