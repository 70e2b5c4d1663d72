"""A finished run in Python: what it says is what its record holds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from shared.errors import CheckpointError
from simulations.finished_run import Run
from tests.running import FinishedRun


@pytest.fixture
def run(finished_run: FinishedRun) -> Run:
    return Run.open(finished_run.folder)


def test_a_run_says_what_its_record_holds(run: Run, finished_run: FinishedRun) -> None:
    record = finished_run.record
    assert run.folder == finished_run.folder and run.record == record
    assert run.metrics == record["metrics"]["test"]
    assert run.claims == record["privacy"]["claims"]
    assert list(run.baselines) == ["popularity", "text_similarity"]
    for row in record["baselines"]:
        baseline = run.baselines[row["key"]]
        assert baseline.metrics == row["metrics"]["test"] and baseline.difference == row["difference"]
        assert (baseline.label, baseline.private) == (row["label"], row["private"])


def test_the_history_has_a_row_a_round(run: Run, finished_run: FinishedRun) -> None:
    rounds = finished_run.record["rounds"]
    assert run.history["round_number"].to_list() == [1, 2]
    assert run.history["training_loss"].to_list() == [row["training_loss"] for row in rounds]
    assert run.history["epsilon_spent"].to_list() == [row["epsilon_spent"] for row in rounds]
    assert run.history["validation.ndcg@5"].to_list() == [row["validation"]["ndcg@5"] for row in rounds]
    assert Run(run.folder, {**run.record, "rounds": []}).history.is_empty()


def test_the_text_of_a_run_says_quality_and_claim(run: Run) -> None:
    assert str(run).startswith(f"Run({str(run.folder)!r}): interactions, 30 users, 15 items, 2 rounds; test ndcg@5 0.")
    own = next(claim for claim in run.claims if claim["adversary"] == run.record["privacy"]["adversary"])
    assert str(run).endswith(f"epsilon 8.00, delta {own['delta']:g} against {own['who']}")


def test_the_text_of_a_run_that_does_not_protect_says_so(run: Run) -> None:
    privacy = run.record["privacy"]
    void = [{**claim, "failed_assumptions": ["The catalog is public"]} for claim in privacy["claims"]]
    for changed, words in ({"claims": void}, "NOT PROTECTED against its "), ({"is_private": False}, "; NOT PRIVATE"):
        assert words in str(Run(run.folder, {**run.record, "privacy": {**privacy, **changed}}))


def test_a_run_draws_itself(run: Run, tmp_path: Path) -> None:
    copy = Run(tmp_path, run.record)
    assert copy.plot() == tmp_path / "run.png"
    assert copy.plot(tmp_path / "other.png").read_bytes() == (tmp_path / "run.png").read_bytes()
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")
    assert Run(tmp_path, {**run.record, "rounds": [], "baselines": []}).plot(tmp_path / "few.png").exists()


def test_the_recommender_of_a_run_is_what_it_released(run: Run) -> None:
    first, second = run.recommender().recommend(["thing-3"], k=2)
    assert (first.rank, second.rank) == (1, 2) and first.score >= second.score


def test_a_folder_without_a_finished_run_is_refused(finished_run: FinishedRun, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"^Expected a finished run in .*\. Expected a readable run\.json"):
        Run.open(tmp_path)
    copy = Path(shutil.copytree(finished_run.folder, tmp_path / "run"))
    (copy / "run.json").write_text(json.dumps({**finished_run.record, "status": "interrupted"}), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"got status=interrupted. Continue it with: tacit simulate --resume"):
        Run.open(copy)
