"""The log of a node: what a changed, missing, repeated or torn line comes to."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import CheckpointError
from shared.hash_chain import START, HashChain
from shared.signing import canonical

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def _filled(path: Path, count: int = 5) -> HashChain:
    chain = HashChain(path)
    for number in range(count):
        chain.append({"what": f"record {number}"})
    return chain


def test_records_come_back_in_order_and_the_head_moves_with_each(tmp_path: Path) -> None:
    chain = HashChain(tmp_path / "log.jsonl")
    assert chain.read() == []
    assert chain.head == START
    heads = [chain.append({"value": value}) for value in ("a", 1, None)]
    assert len({START, *heads}) == 4
    assert chain.head == heads[-1]
    assert [body["value"] for body in chain.read()] == ["a", 1, None]
    assert (tmp_path / "log.jsonl").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("line", range(5))
@pytest.mark.parametrize("fault", ["changed", "left out", "repeated", "swapped"])
def test_no_line_is_changed_left_out_repeated_or_moved(tmp_path: Path, line: int, fault: str) -> None:
    chain = _filled(tmp_path / "log.jsonl", 6)
    lines = chain.path.read_bytes().splitlines(keepends=True)
    if fault == "changed":
        lines[line] = lines[line].replace(b"record", b"Record")
    elif fault == "left out":
        del lines[line]
    elif fault == "repeated":
        lines.insert(line, lines[line])
    else:
        lines[line], lines[line + 1] = lines[line + 1], lines[line]
    chain.path.write_bytes(b"".join(lines))
    with pytest.raises(CheckpointError, match="to follow from the line before"):
        chain.read()


def test_a_forger_who_chains_the_lines_anew_changes_the_head(tmp_path: Path) -> None:
    head = _filled(tmp_path / "log.jsonl").head
    forged = HashChain(tmp_path / "forged.jsonl")
    for number in range(5):
        forged.append({"what": f"record {number if number != 2 else 7}"})
    assert forged.read()
    assert forged.head != head


def test_guarantee_a_head_tells_nothing_of_what_is_logged(tmp_path: Path) -> None:
    """The same records have other heads each time, and so has the one after a head that is known."""
    first, second = _filled(tmp_path / "one.jsonl", 2), _filled(tmp_path / "other.jsonl", 2)
    assert first.head != second.head
    shutil.copy(first.path, tmp_path / "copy.jsonl")
    assert first.append({"what": "a bit"}) != HashChain(tmp_path / "copy.jsonl").append({"what": "a bit"})
    assert [head for head, _ in first.hashed()][-1] == first.head


def test_a_log_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    line = canonical({"number": 0, "previous": START, "body": {"what": "before"}})
    (tmp_path / "log.jsonl").write_bytes(line + b"\n")
    chain = HashChain(tmp_path / "log.jsonl")
    chain.append({"what": "after"})
    assert [body["what"] for body in chain.read()] == ["before", "after"]


@given(TEXT)
def test_no_text_forges_a_record(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    chain = HashChain(tmp_path_factory.mktemp("chain") / "log.jsonl")
    for body in ({"what": text}, {text: "key"}, {"what": f'"}}\n{{"body":{{}},"number":1,"previous":"{START}"}}\n'}):
        chain.append(body)
    assert len(chain.read()) == 3
    assert chain.path.read_bytes().count(b"\n") == 3


@pytest.mark.parametrize("keep", [1, 20, -1])
def test_half_a_line_of_a_killed_process_is_none(tmp_path: Path, keep: int) -> None:
    chain = _filled(tmp_path / "log.jsonl", 3)
    head = chain.head
    last = chain.path.read_bytes().splitlines(keepends=True)[-1]
    with chain.path.open("ab") as stream:
        stream.write(last[:keep])
    assert len(chain.read()) == 3
    assert chain.head == head
    chain.append({"what": "after"})
    assert [body["what"] for body in chain.read()] == ["record 0", "record 1", "record 2", "after"]


def test_a_damaged_last_line_is_not_built_upon(tmp_path: Path) -> None:
    chain = _filled(tmp_path / "log.jsonl", 3)
    content = chain.path.read_bytes()
    chain.path.write_bytes(content[:-3] + b"\0\0\n")
    for use in (lambda: chain.append({}), lambda: chain.head, chain.read):
        with pytest.raises(CheckpointError, match="Expected"):
            use()


def test_long_records_and_many_records_are_found_from_the_end(tmp_path: Path) -> None:
    chain = HashChain(tmp_path / "log.jsonl")
    for number in range(3):
        chain.append({"what": "x" * 200_000, "number": number})
    assert [json.loads(line)["number"] for line in chain.path.read_bytes().splitlines()] == [0, 1, 2]
    assert len(chain.read()) == 3


def _append(path: Path) -> None:
    _filled(path, 20)


def test_processes_that_append_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_append, args=(path,)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(HashChain(path).read()) == 60


def test_a_log_goes_on_after_a_number_beyond_every_safe_integer(tmp_path: Path) -> None:
    log = HashChain(tmp_path / "log.jsonl")
    for _ in range(2):
        log.append({"epsilon": 1e17})
    assert log.read() == [{"epsilon": 1e17}, {"epsilon": 1e17}]
