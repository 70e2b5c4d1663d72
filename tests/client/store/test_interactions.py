"""A node's interactions: one is one however often and in whatever order it comes, and what is forgotten is in no file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import client.store.interactions as module
from client.store.interactions import SECONDS_A_DAY, Added, InteractionStore
from shared.errors import StoreUnavailable

Row = tuple[str, str, int]
SECRET = bytes(range(64))
SECRETS = pytest.mark.parametrize("secret", [None, SECRET], ids=["clear", "encrypted"])
NOON = 1_600_000_000
ROWS = st.lists(
    st.tuples(st.sampled_from(["u", "v", "wörld\0"]), st.sampled_from("abc"), st.integers(0, 3)), min_size=1, max_size=30
)
SCHEMA = {"user": pl.String(), "item": pl.String(), "timestamp": pl.Int64()}


def frame(rows: Iterable[Row]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=SCHEMA, orient="row")


@dataclass
class Clock:
    """A clock that stands where it was put."""

    now: float = NOON

    def __call__(self) -> float:
        return self.now


def made(
    folder: Path, *, secret: bytes | None = None, retention_days: int = 0, clock: Clock | None = None
) -> InteractionStore:
    store = InteractionStore(
        folder / "node" / "interactions.sqlite",
        secret=secret,
        retention_days=retention_days,
        clock=clock or Clock(),
        timeout_seconds=0.05,
    )
    store.create()
    return store


def add(store: InteractionStore, rows: Iterable[Row]) -> Added:
    with store.adding() as adding:
        return adding(frame(rows))


def content(store: InteractionStore) -> list[Row]:
    return sorted(store.read().iter_rows())


def in_files(store: InteractionStore, text: bytes) -> bool:
    return any(text in file.read_bytes() for file in store.path.parent.iterdir())


@SECRETS
@given(rows=ROWS, data=st.data())
@settings(max_examples=12)
def test_order_duplicates_and_pieces_do_not_matter(
    secret: bytes | None, rows: list[Row], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = made(tmp_path_factory.mktemp("whole"), secret=secret)
    assert add(whole, rows) == Added(len(set(rows)), len(rows) - len(set(rows)))
    pieces = made(tmp_path_factory.mktemp("pieces"), secret=secret)
    shuffled = data.draw(st.permutations(rows + rows[: len(rows) // 2]))
    cut = data.draw(st.integers(0, len(shuffled)))
    with pieces.adding() as adding:
        added = adding(frame(shuffled[:cut])) + adding(frame(shuffled[cut:]))
    assert added == Added(len(set(rows)), len(shuffled) - len(set(rows)))
    assert content(whole) == content(pieces) == sorted(set(rows))


@SECRETS
def test_the_same_again_changes_no_byte(tmp_path: Path, secret: bytes | None) -> None:
    store = made(tmp_path, secret=secret)
    rows = [("u", "a", 1), ("u", "a", 2), ("v", "a", 1)]
    add(store, rows)
    before, revision = store.path.read_bytes(), store.revision()
    assert add(store, reversed(rows)) == Added(0, 3)
    assert (store.path.read_bytes(), store.revision()) == (before, revision)


def test_every_change_counts_the_revision_on(tmp_path: Path) -> None:
    clock = Clock()
    store = made(tmp_path, retention_days=1, clock=clock)
    seen = [store.revision()]
    add(store, [("u", "a", NOON), ("v", "a", NOON)])
    seen.append(store.revision())
    store.forget("u")
    seen.append(store.revision())
    clock.now += 2 * SECONDS_A_DAY
    store.prune()
    seen.append(store.revision())
    assert len(set(seen)) == 4


@SECRETS
def test_after_forgetting_no_file_holds_the_id_or_an_interaction_of_the_user_or_a_ciphertext_of_one(
    tmp_path: Path, secret: bytes | None
) -> None:
    store = made(tmp_path, secret=secret)
    rows = [(f"person-{user}", f"thing-{user}-{item}", NOON + item) for user in range(60) for item in range(30)]
    add(store, rows)
    store.mark_counted("run", {"person-7": 3, "person-8": 4})
    with sqlite3.connect(store.path) as connection:
        gone = [store._sealing.seal(b"person-7")]
        (number,) = connection.execute("SELECT id FROM users WHERE sealed = ?", gone).fetchone()
        gone += [row[0] for row in connection.execute("SELECT sealed FROM interactions WHERE user = ?", (number,))]
        assert all(in_files(store, sealed) for sealed in gone) and len(gone) == 31
        assert store.forget("person-7") == 30  # while another connection is open, so that the log stays there
        assert not any(in_files(store, sealed) for sealed in gone)
        assert not in_files(store, b"person-7") and not in_files(store, b"thing-7-")
    connection.close()
    assert content(store) == sorted(row for row in rows if row[0] != "person-7")
    assert store.counted("run") == {"person-8": 4}
    assert store.forget("person-7") == 0


def test_a_user_who_comes_back_has_nothing_counted(tmp_path: Path) -> None:
    store = made(tmp_path)
    add(store, [("u", "a", 1)])
    store.mark_counted("run", {"u": 1})
    store.forget("u")
    add(store, [("u", "b", 2)])
    assert (content(store), store.counted("run")) == ([("u", "b", 2)], {})


@pytest.mark.parametrize("text", [b"person-", b"thing-", NOON.to_bytes(8, "big"), str(NOON).encode()])
def test_an_encrypted_database_shows_no_user_no_item_and_no_time(tmp_path: Path, text: bytes) -> None:
    rows = [(f"person-{user}", f"thing-{item}", NOON) for user in range(10) for item in range(10)]
    clear, encrypted = made(tmp_path / "a"), made(tmp_path / "b", secret=SECRET)
    assert add(clear, rows) == add(encrypted, rows)
    assert in_files(clear, text) or text.isdigit(), "the negative control: in clear it is there"
    with sqlite3.connect(encrypted.path) as connection:
        assert connection.execute("SELECT COUNT(*) FROM interactions").fetchone() == (100,)
        assert not in_files(encrypted, text)  # with the log
    connection.close()
    assert content(clear) == content(encrypted)


def test_the_same_item_of_two_users_has_nothing_in_common_when_it_is_encrypted(tmp_path: Path) -> None:
    store = made(tmp_path, secret=SECRET)
    add(store, [(f"person-{user}", "thing", NOON) for user in range(50)])
    with sqlite3.connect(store.path) as connection:
        sealed = {row[0] for row in connection.execute("SELECT sealed FROM interactions")}
    connection.close()
    assert len(sealed) == 50


def test_an_interaction_that_was_put_to_another_user_is_refused_when_it_is_encrypted(tmp_path: Path) -> None:
    store = made(tmp_path, secret=SECRET)
    add(store, [("u", "a", 1), ("v", "b", 1)])
    with sqlite3.connect(store.path) as connection:
        connection.execute("UPDATE interactions SET user = 3 - user")
    connection.close()
    with pytest.raises(StoreUnavailable, match="found one that was changed"):
        store.read()


@pytest.mark.parametrize(
    ("made_with", "opened_with", "message"),
    [
        (None, SECRET, "Expected a database encrypted, as encryption in [data] of node.toml says, found one in clear."),
        (SECRET, None, "Expected a database in clear, as encryption in [data] of node.toml says, found one encrypted."),
        (SECRET, SECRET[::-1], "Expected the key with which interactions.sqlite was encrypted, got another."),
    ],
    ids=["in clear", "encrypted", "another key"],
)
def test_another_key_neither_reads_nor_writes(
    tmp_path: Path, made_with: bytes | None, opened_with: bytes | None, message: str
) -> None:
    add(made(tmp_path, secret=made_with), [("u", "a", 1)])
    other = InteractionStore(tmp_path / "node" / "interactions.sqlite", secret=opened_with)
    for use in (other.verify, other.read, other.create, lambda: add(other, [("u", "b", 1)]), lambda: other.forget("u")):
        with pytest.raises(StoreUnavailable) as caught:
            use()
        assert str(caught.value).startswith(message + " Nothing was changed.")
    assert content(InteractionStore(other.path, secret=made_with)) == [("u", "a", 1)]


@SECRETS
def test_interactions_are_kept_as_long_as_the_owner_says_and_then_are_in_no_file(
    tmp_path: Path, secret: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", 3)  # several chunks, of which rows are deleted meanwhile
    clock = Clock()
    store = made(tmp_path, secret=secret, retention_days=10, clock=clock)
    reader = sqlite3.connect(store.path)
    reader.execute("SELECT * FROM about").fetchall()  # as long as it is open, the log's file is there
    days = {day: NOON - day * SECONDS_A_DAY for day in range(13)}
    rows = [(f"person-{user}", f"thing-{day}", time) for user in range(3) for day, time in days.items()]
    assert add(store, rows) == Added(added=33, known=0, expired=6)  # a day of exactly ten days is kept
    assert store.prune() == 0
    clock.now += 3 * SECONDS_A_DAY
    assert store.prune() == 9
    assert {item for _, item, _ in content(store)} == {f"thing-{day}" for day in range(8)}
    assert not any(in_files(store, f"thing-{day}".encode()) for day in (8, 9, 10))
    clock.now += 8 * SECONDS_A_DAY
    assert store.prune() == 24
    assert (store.contents().users, store.contents().interactions, store.prune()) == (0, 0, 0)
    reader.close()


def test_what_was_counted_is_the_beginning_of_a_history_from_which_the_oldest_are_dropped(tmp_path: Path) -> None:
    clock = Clock()
    store = made(tmp_path, retention_days=10, clock=clock)
    day = SECONDS_A_DAY
    add(
        store,
        [("u", "a", NOON), ("u", "b", NOON + day), ("u", "c", NOON + 2 * day), ("v", "a", NOON), ("w", "a", NOON + day)],
    )
    store.mark_counted("run", {"u": 2, "v": 1, "w": 1})
    clock.now += 10 * day + 1
    assert store.prune() == 2
    assert store.counted("run") == {"u": 1, "w": 1}


def test_pruning_is_due_once_a_day_and_never_without_a_limit(tmp_path: Path) -> None:
    clock = Clock()
    store = made(tmp_path, retention_days=1, clock=clock)
    add(store, [("u", "a", NOON)])
    clock.now += SECONDS_A_DAY - 1
    assert store.prune_if_due() == 0
    clock.now += 2
    assert store.prune_if_due() == 1
    add(store, [("u", "a", int(clock.now) - SECONDS_A_DAY)])
    clock.now += 10
    assert store.prune_if_due() == 0
    clock.now += SECONDS_A_DAY
    assert store.prune_if_due() == 1
    endless = made(tmp_path / "endless")
    add(endless, [("u", "a", 0)])
    assert (endless.prune_if_due(), endless.prune(), len(content(endless))) == (0, 0, 1)


@SECRETS
def test_contents_are_counted_a_chunk_at_a_time(
    tmp_path: Path, secret: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = made(tmp_path, secret=secret)
    empty = store.contents()
    assert (empty.interactions, empty.users, dict(empty.items), empty.oldest, empty.newest) == (0, 0, {}, None, None)
    add(store, [("u", "a", 5), ("u", "a", 6), ("u", "b", 4), ("v", "a", 9), ("w", "c", 5)])
    monkeypatch.setattr(module, "CHUNK", 2)
    found = store.contents()
    assert (found.interactions, found.users, dict(found.items)) == (5, 3, {"a": 3, "b": 1, "c": 1})
    assert (found.oldest, found.newest) == (4, 9)
    assert content(store) == [("u", "a", 5), ("u", "a", 6), ("u", "b", 4), ("v", "a", 9), ("w", "c", 5)]


def test_users_beyond_those_in_memory_are_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_PLACES", 1)
    store = made(tmp_path)
    with store.adding() as adding:
        total = sum((adding(frame([(user, "a", time)])) for time in range(3) for user in "uvw"), Added())
    assert (total, store.contents().users) == (Added(9), 3)


def test_all_that_is_added_in_one_block_is_kept_or_nothing(tmp_path: Path) -> None:
    store = made(tmp_path)
    add(store, [("u", "a", 1)])
    with pytest.raises(ZeroDivisionError), store.adding() as adding:
        adding(frame([("v", "a", 1)]))
        raise ZeroDivisionError
    assert content(store) == [("u", "a", 1)] and store.users() == ["u"]


def test_a_note_of_a_run_takes_the_place_of_a_former_one_and_of_no_other_run_s(tmp_path: Path) -> None:
    store = made(tmp_path)
    add(store, [("u", "a", 1), ("v", "a", 1)])
    store.mark_counted("first", {"u": 1, "v": 1})
    store.mark_counted("second", {"u": 3, "stranger": 5})
    store.mark_counted("first", {"u": 2})
    assert (store.counted("first"), store.counted("second"), store.counted("third")) == ({"u": 2}, {"u": 3}, {})


@SECRETS
@given(rows=ROWS)
@settings(max_examples=15, deadline=None)
def test_the_history_of_a_user_is_the_users_items_in_time_order(
    secret: bytes | None, rows: list[Row], tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = made(tmp_path_factory.mktemp("history"), secret=secret)
    add(store, rows)
    for user in ("u", "v", "wörld\0", "nobody"):
        own = sorted({(time, item) for name, item, time in rows if name == user})
        found = store.history(user)
        assert sorted(found) == sorted(item for _, item in own)
        times = dict.fromkeys(time for time, _ in own)
        assert [set(found[: sum(t <= time for t, _ in own)]) for time in times] == [
            {item for t, item in own if t <= time} for time in times
        ]
