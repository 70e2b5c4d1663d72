"""The files about a run as types: whole or refused with one line, and the same on disk as in memory."""

import json
from pathlib import Path
from typing import Any

import pytest

from server.reporting import records
from server.reporting.records import parse_release, parse_run, read_release, read_run
from shared.errors import CheckpointError
from shared.privacy.statement import Statement

HERE = Path(__file__).parent
RECORD: dict[str, Any] = json.loads((HERE / "record.json").read_text(encoding="utf-8"))
REPORTS: dict[str, dict[str, Any]] = json.loads((HERE / "release.json").read_text(encoding="utf-8"))


def test_a_record_is_the_same_after_it_was_written_and_read(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps(RECORD), encoding="utf-8")
    assert read_run(tmp_path).as_json() == RECORD
    for report in REPORTS.values():
        (tmp_path / "release.json").write_text(json.dumps(report), encoding="utf-8")
        assert read_release(tmp_path).as_json() == report


def test_a_file_begins_with_its_schema_and_name() -> None:
    assert list(parse_run(RECORD).as_json())[:3] == ["schema", "name", "created"]
    assert list(parse_release(REPORTS["central"]).as_json())[:3] == ["schema", "name", "stamp"]


def test_both_files_state_privacy_under_the_same_names() -> None:
    names = set(Statement.model_fields)
    assert names <= set(REPORTS["central"])
    assert set(RECORD["privacy"]) == names | {"ledger"}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("schema",), "tacit-run-1", "Expected schema == 'tacit-run-3' in run.json, got schema='tacit-run-1'."),
        (("schema",), None, "Expected schema == 'tacit-run-3' in run.json, got schema=None."),
        (("status",), "half", "Expected a whole run.json, got one that is damaged at status: "),
        (("data", "users"), "many", "Expected a whole run.json, got one that is damaged at data.users: "),
        (("surplus\x1b\n",), 1, "Expected a whole run.json, got one that is damaged at surplus  : Extra inputs"),
        (
            ("privacy", "ledger", "owners"),
            None,
            "Expected a whole run.json, got one that is damaged at privacy.ledger.owners",
        ),
        (("metrics", "test", "hr@10", "mean"), "0.1", "Expected a whole run.json, got one that is damaged at metrics.test."),
    ],
)
def test_a_damaged_record_or_one_of_another_version_is_refused_with_one_line(
    path: tuple[str, ...], value: Any, message: str
) -> None:
    damaged = json.loads(json.dumps(RECORD))
    here = damaged
    for step in path[:-1]:
        here = here[step]
    here[path[-1]] = value
    with pytest.raises(CheckpointError) as caught:
        parse_run(damaged)
    assert str(caught.value).startswith(message)
    assert str(caught.value).isprintable()


def test_a_message_quotes_no_long_text_of_a_damaged_file() -> None:
    with pytest.raises(CheckpointError) as caught:
        records.parse_run({**RECORD, "schema": "x" * 10_000})
    assert len(str(caught.value)) < 400
