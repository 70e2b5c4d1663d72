"""Which baselines stand beside a run."""

from __future__ import annotations

import pytest

from shared.errors import ConfigError
from simulations.comparison.own_model import CHEAP, baseline_names


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("none", ()),
        ("", ()),
        ("cheap", CHEAP),
        ("item-knn, popularity,item_knn", ("item_knn", "popularity")),
        ("cheap,sasrec", (*CHEAP, "sasrec")),
    ],
)
def test_baselines_are_chosen_by_name(text: str, names: tuple[str, ...]) -> None:
    assert baseline_names(text) == names


def test_a_baseline_that_is_unknown_is_refused() -> None:
    assert {"centralized", "federated", "local_only"} < set(baseline_names("all"))
    with pytest.raises(ConfigError, match=r"Expected evaluation.baselines from popularity, .* got 'sasrek'"):
        baseline_names("cheap,sasrek")
