from collections import Counter, defaultdict

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from shared.data.catalog import ItemCatalog
from shared.data.interactions import Interactions
from shared.data.splitting import (
    HISTORIES_SCHEMA,
    NO_TARGET,
    NO_TRAINING,
    NO_TRAINING_ROWS,
    NOT_TARGET,
    TOO_SHORT,
    SplitMethod,
    histories_of,
    scoring_histories,
    split,
)
from shared.errors import ConfigError, DataError

Row = tuple[str, str, int]
CATALOG = ItemCatalog(tuple("abcdefgh"), tuple("ABCDEFGH"))
# Times from a small range, so that ties are the rule.
ROWS = st.lists(
    st.tuples(st.sampled_from("uvwxyz"), st.sampled_from(CATALOG.ids), st.integers(0, 12)),
    min_size=1,
    max_size=60,
    unique=True,
)


def interactions(rows: list[Row], *, positional: bool = False) -> Interactions:
    frame = pl.DataFrame(rows, schema=["user", "item", "timestamp"], orient="row")
    return Interactions.validated(frame, source="rows", positional=positional)


def by_user(rows: list[Row]) -> dict[str, list[tuple[int, str]]]:
    grouped: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for user, item, time in rows:
        grouped[user].append((time, item))
    return grouped


def names(rows: list[int]) -> list[str]:
    return [CATALOG.ids[row] for row in rows]


def times_of(items: list[str], events: list[tuple[int, str]]) -> list[int]:
    """Times of items in an order that never goes back, taking the earliest possible event each time."""
    left, times = sorted(events), []
    for item in items:
        event = min(e for e in left if e[1] == item and (not times or e[0] >= times[-1]))
        left.remove(event)
        times.append(event[0])
    return times


def test_leave_last_out_by_hand() -> None:
    rows: list[Row] = [
        ("v", "a", 9),
        ("u", "c", 3),
        ("u", "a", 1),
        ("u", "d", 4),
        ("u", "b", 2),
        ("v", "b", 1),
    ]
    result = split(interactions(rows), CATALOG, method="leave-last-out", seed=0)
    assert result.histories.rows() == [("u", [0, 1], [2], [3]), ("v", [1, 0], [], [])]
    assert result.histories.schema == HISTORIES_SCHEMA
    assert result.repairs == {TOO_SHORT: 1}
    assert scoring_histories(result.histories, "validation").to_list() == [[0, 1], [1, 0]]
    assert scoring_histories(result.histories, "test").to_list() == [[0, 1, 2], [1, 0]]


@given(rows=ROWS, seed=st.integers(0, 50))
def test_leave_last_out_puts_every_interaction_in_exactly_one_place(rows: list[Row], seed: int) -> None:
    grouped = by_user(rows)
    assume(any(len(events) >= 3 for events in grouped.values()))
    result = split(interactions(rows), CATALOG, method="leave-last-out", seed=seed)
    assert result.histories["user"].to_list() == sorted(grouped)
    for user, train, validation, test in result.histories.iter_rows():
        assert Counter(names(train + validation + test)) == Counter(item for _, item in grouped[user])
        held_out = 1 if len(grouped[user]) >= 3 else 0
        assert (len(validation), len(test)) == (held_out, held_out)
    assert result.repairs.get(TOO_SHORT, 0) == sum(len(events) < 3 for events in grouped.values())


@given(rows=ROWS, seed=st.integers(0, 50))
def test_leave_last_out_has_no_target_before_its_history(rows: list[Row], seed: int) -> None:
    """Guarantee: no training interaction is later than the validation target, nor that than the test's."""
    grouped = by_user(rows)
    assume(any(len(events) >= 3 for events in grouped.values()))
    result = split(interactions(rows), CATALOG, method="leave-last-out", seed=seed)
    for user, train, validation, test in result.histories.iter_rows():
        ordered = sorted(time for time, _ in grouped[user])
        assert times_of(names(train + validation + test), grouped[user]) == ordered


@given(rows=ROWS, seed=st.integers(0, 50), data=st.data())
def test_a_split_does_not_depend_on_the_order_of_rows(rows: list[Row], seed: int, data: st.DataObject) -> None:
    assume(any(len(events) >= 3 for events in by_user(rows).values()))
    shuffled = data.draw(st.permutations(rows))
    first = split(interactions(rows), CATALOG, method="leave-last-out", seed=seed)
    second = split(interactions(shuffled), CATALOG, method="leave-last-out", seed=seed)
    assert first.histories.equals(second.histories) and first.repairs == second.repairs


def test_ties_are_drawn_uniformly_and_never_by_item_id() -> None:
    """Null: each of 5 tied items is the test target with probability 1/5, over users and over seeds.

    n = 2000 users and seeds each; a false alarm (6 sd) has probability below 1e-7.
    """
    catalog = ItemCatalog(tuple("12345"), tuple("12345"))
    rows: list[Row] = [(f"u{user}", item, 7) for user in range(2000) for item in catalog.ids]
    tied = interactions(rows)
    over_users = split(tied, catalog, method="leave-last-out", seed=3).histories["test"].list.first()
    few = interactions(rows[:5])
    over_seeds = [split(few, catalog, method="leave-last-out", seed=seed).histories["test"][0][0] for seed in range(2000)]
    for targets in (over_users.to_list(), over_seeds):
        counts = np.bincount(targets, minlength=5)
        assert np.abs(counts - 400).max() < 6 * np.sqrt(2000 * 0.2 * 0.8)


def test_another_seed_changes_only_the_order_among_ties() -> None:
    rows: list[Row] = [("u", item, time) for time, items in enumerate(["abcd", "e", "fgh"]) for item in items]
    orders = set()
    for seed in range(20):
        table = split(interactions(rows), CATALOG, method="leave-last-out", seed=seed).histories
        order = "".join(names([row for column in ("train", "validation", "test") for row in table[column][0]]))
        assert (set(order[:4]), order[4], set(order[5:])) == (set("abcd"), "e", set("fgh"))
        orders.add(order)
    assert len(orders) > 10


@pytest.mark.parametrize("seed", [0, 12345678901234567890, -1])
def test_the_draw_among_ties_is_the_same_on_every_machine(seed: int) -> None:
    rows: list[Row] = [("u", item, 7) for item in CATALOG.ids]
    table = split(interactions(rows), CATALOG, method="leave-last-out", seed=seed).histories
    order = "".join(names([row for column in ("train", "validation", "test") for row in table[column][0]]))
    assert order == {0: "fadbechg", 12345678901234567890: "bdafcghe", -1: "egfdahcb"}[seed]


def test_repeated_items_of_a_user_stay() -> None:
    rows: list[Row] = [("u", "a", 1), ("u", "b", 2), ("u", "a", 3), ("u", "a", 4)]
    table = split(interactions(rows), CATALOG, method="leave-last-out", seed=0).histories
    assert table.rows() == [("u", [0, 1], [0], [0])]


def test_global_temporal_by_hand() -> None:
    # Ten times 0..9: the cut-offs are 8 and 9.
    rows: list[Row] = [
        ("u", "a", 0),
        ("u", "b", 1),
        ("u", "c", 8),
        ("v", "a", 2),
        ("v", "b", 3),
        ("v", "c", 9),
    ]
    rows += [("w", "a", 4), ("w", "b", 5), ("w", "d", 6), ("w", "e", 7)]
    result = split(interactions(rows), CATALOG, method="global-temporal", seed=0)
    assert result.histories.rows() == [
        ("u", [0, 1], [2], []),
        ("v", [0, 1], [], [2]),
        ("w", [0, 1, 3, 4], [], []),
    ]
    assert result.repairs == {NO_TARGET: 1}
    assert result.histories.schema == HISTORIES_SCHEMA


def test_global_temporal_keeps_only_the_first_of_a_window_and_leaves_out_users_without_training() -> None:
    rows: list[Row] = [("u", "abcdefgh"[t % 8], t) for t in range(16)]
    rows += [("u", "a", 16), ("u", "b", 17), ("v", "c", 18), ("v", "d", 19)]
    result = split(interactions(rows), CATALOG, method="global-temporal", seed=0)
    # 20 times: cut-offs 16 and 18. User v has nothing before, so only u's window [16, 18) counts.
    assert [(user, len(train)) for user, train, _, _ in result.histories.iter_rows()] == [("u", 16)]
    assert result.histories["validation"].to_list() == [[0]] and result.histories["test"].to_list() == [[]]
    assert result.repairs == {NO_TRAINING: 1, NO_TRAINING_ROWS: 2, NOT_TARGET: 1}


@given(rows=ROWS, seed=st.integers(0, 50))
def test_global_temporal_trains_before_every_validation_and_validates_before_every_test(rows: list[Row], seed: int) -> None:
    """Guarantee: train times < validation times < test times, for all users together.

    The oracle finds the only windows that a list of times allows, by plain sorting.
    """
    grouped = by_user(rows)
    times = sorted(time for _, _, time in rows)
    first_cut, second_cut = times[len(times) * 4 // 5], times[len(times) * 9 // 10]
    has_target = [
        any(t < first_cut for t, _ in events) and any(t >= first_cut for t, _ in events) for events in grouped.values()
    ]
    if not any(has_target):
        with pytest.raises(DataError, match="Expected at least one user with interactions on both sides"):
            split(interactions(rows), CATALOG, method="global-temporal", seed=seed)
        return
    result = split(interactions(rows), CATALOG, method="global-temporal", seed=seed)
    kept = 0
    for user, train, validation, test in result.histories.iter_rows():
        events = grouped[user]
        assert Counter(names(train)) == Counter(item for time, item in events if time < first_cut) != Counter()
        assert times_of(names(train), events) == sorted(time for time, _ in events if time < first_cut)
        for target, low, high in ((validation, first_cut, second_cut), (test, second_cut, float("inf"))):
            window = [event for event in events if low <= event[0] < high]
            assert len(target) == min(1, len(window))
            if window:
                earliest = min(time for time, _ in window)
                assert (earliest, names(target)[0]) in window
        kept += len(train) + len(validation) + len(test)
    dropped = result.repairs.get(NOT_TARGET, 0) + result.repairs.get(NO_TRAINING_ROWS, 0)
    assert kept + dropped == len(rows)
    assert result.histories.height + result.repairs.get(NO_TRAINING, 0) == len(grouped)


def test_global_temporal_is_refused_on_positions() -> None:
    rows: list[Row] = [("u", "a", 0), ("u", "b", 1), ("v", "a", 0)]
    with pytest.raises(ConfigError, match="Expected timestamps that are times for split='global-temporal'"):
        split(interactions(rows, positional=True), CATALOG, method="global-temporal", seed=0)


def test_global_temporal_is_refused_when_all_times_are_equal() -> None:
    rows: list[Row] = [("u", item, 5) for item in CATALOG.ids]
    with pytest.raises(DataError, match="interactions on both sides of the first cut-off in time, found 0"):
        split(interactions(rows), CATALOG, method="global-temporal", seed=0)


def test_data_without_a_user_long_enough_are_refused() -> None:
    rows: list[Row] = [("u", "a", 0), ("u", "b", 1), ("v", "a", 0)]
    message = r"^Expected at least one user with 3 interactions or more, found 0 of 2 users\."
    with pytest.raises(DataError, match=message):
        split(interactions(rows), CATALOG, method="leave-last-out", seed=0)


def test_an_item_outside_the_catalog_is_refused_without_naming_it() -> None:
    rows: list[Row] = [("u", "secret", 0), ("u", "b", 1), ("u", "a", 2)]
    with pytest.raises(DataError, match="found 1 interactions with an item outside it") as caught:
        split(interactions(rows), CATALOG, method="leave-last-out", seed=0)
    assert "secret" not in str(caught.value)


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Expected split in \{leave-last-out, global-temporal\}, got split='random'"):
        split(interactions([("u", "a", 0)]), CATALOG, method="random", seed=0)  # type: ignore[arg-type]


@pytest.mark.parametrize(("method", "cut_offs"), [("leave-last-out", None), ("global-temporal", (4, 8))])
@given(rows=ROWS)
@settings(max_examples=20)
def test_a_user_s_row_is_the_same_whoever_else_is_there(
    method: SplitMethod, cut_offs: tuple[int, int] | None, rows: list[Row]
) -> None:
    """A node makes the table of its own users, and a simulation that of everybody."""
    frame = interactions(rows).frame
    everybody = histories_of(frame, CATALOG, method=method, seed=3, cut_offs=cut_offs).histories
    alone = [
        histories_of(frame.filter(pl.col("user") == user), CATALOG, method=method, seed=3, cut_offs=cut_offs).histories
        for user in sorted(by_user(rows))
    ]
    assert everybody.schema == HISTORIES_SCHEMA
    assert pl.concat(alone).equals(everybody)
    try:
        assert split(interactions(rows), CATALOG, method=method, seed=3, cut_offs=cut_offs).histories.equals(everybody)
    except DataError:
        assert everybody.select(pl.concat_list("validation", "test").list.len().sum()).item() == 0


@pytest.mark.parametrize("method", ["leave-last-out", "global-temporal"])
def test_histories_of_nobody_are_an_empty_table(method: SplitMethod) -> None:
    nothing = interactions([("u", "a", 1)]).frame.clear()
    found = histories_of(nothing, CATALOG, method=method, seed=0)
    assert found.histories.schema == HISTORIES_SCHEMA and found.histories.is_empty() and found.repairs == {}


def test_histories_by_a_method_that_is_unknown_are_refused() -> None:
    with pytest.raises(ConfigError, match="Expected split in"):
        histories_of(interactions([("u", "a", 1)]).frame, CATALOG, method="random", seed=0)  # type: ignore[arg-type]
