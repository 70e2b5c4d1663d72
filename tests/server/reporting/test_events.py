"""TensorBoard event files: TensorBoard itself reads back what the record holds."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest

from server.reporting.events import write_events as write_events_of
from server.reporting.records import parse_run

RECORD_FILE = Path(__file__).with_name("record.json")


@pytest.fixture
def record() -> dict[str, Any]:
    return json.loads(RECORD_FILE.read_text(encoding="utf-8"))


def write_events(record: dict[str, Any], folder: Path) -> Path:
    return write_events_of(parse_run(record), folder)


def _scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return {tag: [(event.step, event.value) for event in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]}


def test_events_hold_every_round_of_the_run(record: dict[str, Any], tmp_path: Path) -> None:
    assert write_events(record, tmp_path / "events") == tmp_path / "events"
    scalars = _scalars(tmp_path / "events" / "this-run")
    for tag, value in {
        "loss/training": lambda row: row["training_loss"],
        "privacy/epsilon_spent": lambda row: row["epsilon_spent"],
        "validation/hr_at_10": lambda row: row["validation"]["hr@10"],
        "validation/ndcg_at_10": lambda row: row["validation"]["ndcg@10"],
    }.items():
        expected = [(row["round_number"], pytest.approx(value(row), rel=1e-6)) for row in record["rounds"]]
        assert scalars[tag] == expected
    assert scalars["test/ndcg_at_10"] == [(20, pytest.approx(0.0629, rel=1e-6))]


def test_events_of_a_baseline_are_a_level_line_under_the_same_tag(record: dict[str, Any], tmp_path: Path) -> None:
    write_events(record, tmp_path)
    scalars = _scalars(tmp_path / "baseline-item_knn")
    value = pytest.approx(0.110, rel=1e-6)
    assert scalars["validation/ndcg_at_10"] == [(1, value), (20, value)]
    assert scalars["test/hr_at_10"] == [(20, pytest.approx(0.164, rel=1e-6))]
    assert len(list(tmp_path.iterdir())) == 1 + len(record["baselines"])


def test_events_written_twice_are_one_file_without_a_host_name(record: dict[str, Any], tmp_path: Path) -> None:
    write_events(record, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    write_events(record, tmp_path)
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert before.keys() == after.keys()
    assert {path.name for path in after} == {"events.out.tfevents.1770818557.tacit"}


def test_events_leave_out_what_is_not_finite(record: dict[str, Any], tmp_path: Path) -> None:
    poor = copy.deepcopy(record)
    poor["rounds"] = poor["rounds"][:2]
    poor["rounds"][0].update(training_loss=math.nan, validation=None, epsilon_spent=None)
    poor["baselines"] = []
    poor["metrics"] = {}
    write_events(poor, tmp_path)
    scalars = _scalars(tmp_path / "this-run")
    assert [step for step, _ in scalars["loss/training"]] == [2]
    assert [step for step, _ in scalars["validation/hr_at_10"]] == [2]
    assert not [tag for tag in scalars if tag.startswith("test/")]


def test_events_of_a_run_without_rounds_are_written(record: dict[str, Any], tmp_path: Path) -> None:
    write_events({**record, "rounds": [], "metrics": {}, "baselines": []}, tmp_path)
    assert _scalars(tmp_path / "this-run") == {}


def test_baseline_keys_cannot_leave_the_folder(record: dict[str, Any], tmp_path: Path) -> None:
    record["baselines"] = [{**record["baselines"][0], "key": "../../etc/x"}]
    write_events(record, tmp_path / "events")
    assert [path.name for path in tmp_path.iterdir()] == ["events"]
    assert sorted(path.name for path in (tmp_path / "events").iterdir()) == [
        "baseline-______etc_x",
        "this-run",
    ]
