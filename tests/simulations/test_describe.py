import json
from pathlib import Path

import polars as pl
import pytest

from shared.data.catalog import build_catalog
from shared.data.interactions import Interactions
from shared.data.readers import Dataset
from simulations.datasets import load_dataset
from simulations.describe import describe

REAL = Path(__file__).parents[2].parent / "shared" / "data"


def dataset(rows: list[tuple[str, str, int]], *, items: list[str] | None = None, positional: bool = False) -> Dataset:
    frame = pl.DataFrame(rows, schema=["user", "item", "timestamp"], orient="row")
    interactions = Interactions.validated(frame, source="x", positional=positional)
    listed = None if items is None else pl.DataFrame({"item": items, "text": [f"about {item}" for item in items]})
    catalog, repairs = build_catalog(listed, interactions.frame["item"], source="i")
    return Dataset("toy", interactions.with_repairs(repairs), catalog)


def warned(description: dict[str, object], words: str) -> bool:
    warnings = description["warnings"]
    assert isinstance(warnings, list)
    return any(words in warning for warning in warnings)


def test_describe_counts_by_hand() -> None:
    rows = [("u", "a", 0), ("u", "b", 0), ("u", "c", 86_400), ("v", "a", 5), ("v", "a", 6)]
    described = describe(dataset(rows, items=["a", "b", "z"]))
    assert {name: described[name] for name in ("users", "items", "interactions", "positional")} == {
        "users": 2,
        "items": 4,
        "interactions": 5,
        "positional": False,
    }
    assert described["density"] == 5 / 8
    assert described["time"] == {"first": "1970-01-01T00:00:00+00:00", "last": "1970-01-02T00:00:00+00:00"}
    assert described["ties"] == {
        "users": 1,
        "interactions": 2,
        "share": 0.4,
        "users_with_tied_targets": 1,
        "share_of_users_with_tied_targets": 1.0,
    }
    assert described["history_length"] == {
        "min": 2,
        "median": 2.5,
        "mean": 2.5,
        "p90": pytest.approx(2.9),
        "max": 3,
    }
    assert described["users_too_short"] == 1
    assert described["items_without_text"] == described["items_only_in_interactions"] == 1
    assert described["items_never_interacted"] == 1
    assert described["user_attributes"] == [] and described["ceiling"] is None
    assert warned(described, "1 of 4 items have no text") and warned(described, "1 items occur only in")
    json.dumps(described)


def test_describe_warns_of_ties_at_the_targets_only_where_they_are() -> None:
    early = [("u", item, time) for item, time in zip("abcdef", (1, 1, 2, 3, 4, 5), strict=True)]
    late = [("u", item, time) for item, time in zip("abcdef", (1, 2, 3, 4, 5, 5), strict=True)]
    words = "1 users (100%) have ties in time among their last three interactions"
    assert not warned(describe(dataset(early)), words) and warned(describe(dataset(late)), words)


@pytest.mark.parametrize(("descending", "expected"), [(False, True), (True, False)])
def test_describe_warns_when_ties_are_sorted_by_item_id(descending: bool, expected: bool) -> None:
    items = sorted(range(60), reverse=descending)
    described = describe(dataset([("u", str(item), 7) for item in items]))
    assert warned(described, "Within ties in time the file is sorted by item id (100% of neighboring pairs)") is expected


def test_describe_warns_of_positions_and_filters() -> None:
    rows = [(user, item, time) for user in "uv" for time, item in enumerate("abcde")]
    positions = describe(dataset(rows, positional=True))
    assert warned(positions, "Times are positions in each history") and positions["time"] is None
    assert warned(positions, "Every user has 5 interactions or more: the data look filtered (k-core)")
    assert warned(positions, "The catalog holds exactly the items interacted with")
    more = describe(dataset(rows[:9], items=list("abcdef")))
    assert not warned(more, "k-core") and not warned(more, "The catalog holds exactly")


def test_describe_survives_times_beyond_the_calendar() -> None:
    described = describe(dataset([("u", "a", 10**17), ("u", "b", 1), ("u", "c", 2)]))
    assert described["time"] == {"first": "1970-01-01T00:00:01+00:00", "last": None}


def test_describe_of_the_embedded_set_has_no_warning() -> None:
    described = describe(load_dataset("synthetic"))
    assert described["warnings"] == [] and described["user_attributes"] == ["region"]
    assert set(described["ceiling"]) == {"hr@10", "ndcg@10"}


def test_describe_of_real_sets_finds_their_known_pitfalls() -> None:
    if not REAL.is_dir():
        pytest.skip("needs the data sets of ../shared/data beside the repository")
    ml_100k = describe(load_dataset(str(REAL / "ml-100k")))
    assert ml_100k["ties"]["users"] == 943 and ml_100k["history_length"]["min"] == 20
    assert warned(ml_100k, "Every user has 20 interactions or more")
    latest = describe(load_dataset(str(REAL / "ml-latest-small")))
    assert latest["items_never_interacted"] == 59 and warned(latest, "the file is sorted by item id")
    assert warned(describe(load_dataset(str(REAL / "amazon2018-scientific"))), "Times are positions")
