"""Stopping a real process in the middle of a run, gently and not, and going on from what it left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from client.ledger.ledger import Ledger
from tests import running

ROUNDS = 25
# With noise and a server optimizer that has a state: everything that must be carried over a stop.
SETTINGS: dict[str, object] = {
    "federation.rounds": ROUNDS, "run.reproducible": "true", "run.seed": 5, "server.momentum": 0.5,
    "evaluation.every_rounds": 7, "training.learning_rate": 0.05,
}  # fmt: skip
Tacit = Callable[..., running.Outcome]


def _arguments(backbone: str, data: Path, out: Path) -> list[object]:
    changed = {key.replace(".", "__"): value for key, value in SETTINGS.items()}
    return ["simulate", *running.flags(backbone, **changed), "--data", data, "--out", out]


def _start(arguments: list[object]) -> subprocess.Popen[str]:
    # As many threads as in this process: sums in another order would differ in the last bit.
    return subprocess.Popen(
        running.command(*arguments), cwd=running.ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )  # fmt: skip


def _wait_for_round(process: subprocess.Popen[str], out: Path, round_number: int) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[1]
        if any(row["round_number"] >= round_number for row in _rounds(out)):
            return
        time.sleep(0.005)
    raise AssertionError(f"round {round_number} was not reached")


def _rounds(out: Path) -> list[dict[str, Any]]:
    path = out / "events.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    found = []
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if event["event"] == "round":
            found.append(event)
    return found


def _adapter(out: Path) -> dict[str, np.ndarray]:
    tensors: dict[str, np.ndarray] = load_file(out / "adapter" / "adapter_model.safetensors")
    return {**tensors, **load_file(out / "adapter" / "prior.safetensors")}


def _check_equal(out: Path, other: Path) -> None:
    first, second = _adapter(out), _adapter(other)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        np.testing.assert_array_equal(tensor, second[name], err_msg=name)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return running.write_interactions(tmp_path_factory.mktemp("data") / "interactions.csv")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, data: Path, tiny_bert: str) -> Path:
    """The same run, never stopped."""
    from shared.config import RunConfig, parse_assignments
    from simulations.simulate import simulate

    out = tmp_path_factory.mktemp("whole") / "run"
    assignments = [str(part) for part in _arguments(tiny_bert, data, out) if "=" in str(part)]
    values = {"data.path": str(data), **parse_assignments(assignments)}
    simulate(RunConfig.from_mapping(values), out, quiet=True)
    return out


@pytest.mark.soak
def test_a_run_stopped_by_ctrl_c_says_how_to_continue_and_continues_to_the_same_adapter(
    tmp_path: Path, data: Path, tiny_bert: str, uninterrupted: Path, tacit: Tacit
) -> None:
    out = tmp_path / "run"
    process = _start(_arguments(tiny_bert, data, out))
    _wait_for_round(process, out, 3)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 130
    assert stdout == ""
    assert stderr.splitlines()[-1] == (
        f"tacit: Interrupted. What was finished is kept in {out}/; continue with: tacit simulate --resume {out}"
    )
    assert "Traceback" not in stderr
    record = json.loads((out / "run.json").read_text(encoding="utf-8"))
    finished = [row["round_number"] for row in record["rounds"]]
    assert record["status"] == "interrupted"
    assert finished == list(range(1, len(finished) + 1))
    assert 3 <= len(finished) < ROUNDS
    assert "interrupted" in (out / "report.html").read_text(encoding="utf-8").lower()
    assert not (out / "adapter").exists()

    resumed = tacit("simulate", "--resume", out, "--json")
    assert resumed.status == 0, resumed.stderr
    assert resumed.json["status"] == "complete"
    assert [row["round_number"] for row in resumed.json["rounds"]] == list(range(1, ROUNDS + 1))
    _check_equal(out, uninterrupted)
    whole = json.loads((uninterrupted / "run.json").read_text(encoding="utf-8"))
    assert resumed.json["metrics"] == whole["metrics"]
    assert resumed.json["config_digest"] == whole["config_digest"]


def test_a_run_that_was_killed_continues_to_the_same_adapter_and_pays_for_every_round(
    tmp_path: Path, data: Path, tiny_bert: str, uninterrupted: Path, tacit: Tacit
) -> None:
    out = tmp_path / "run"
    process = _start(_arguments(tiny_bert, data, out))
    _wait_for_round(process, out, 5)
    process.send_signal(signal.SIGSTOP)  # alive, and at work as far as others can tell
    _check_that_a_live_run_is_not_resumed(out, tacit)
    process.kill()
    process.communicate(timeout=300)
    assert not (out / "run.json").exists()
    _check_that_damage_is_told(Path(shutil.copytree(out, tmp_path / "damaged" / "run")), tacit)

    # As after a failing disk, the newest checkpoint is damaged: the one before is used.
    newest = out / "checkpoint.pt"
    if newest.exists():  # a process killed while it wrote leaves the previous one alone
        newest.write_bytes(newest.read_bytes()[:-20])
    resumed = tacit("simulate", "--resume", out, "--json")
    assert resumed.status == 0, resumed.stderr
    assert [row["round_number"] for row in resumed.json["rounds"]] == list(range(1, ROUNDS + 1))
    _check_equal(out, uninterrupted)
    # What was under way when the process died, and what was repeated, counts as spent: never too little.
    asked = sum('"purpose": "train"' in line for line in (out / "events.jsonl").read_text(encoding="utf-8").splitlines())
    ledger = Ledger(out / "population" / "ledger.sqlite")
    try:
        for owner in ledger.owners():
            steps = sum(event.sampling_rate < 1 for event in ledger.spent(owner))
            # The last request of the dead process may not have reached the ledger; a repeated round is asked twice.
            assert ROUNDS <= steps <= asked <= ROUNDS + 2
    finally:
        ledger.close()


def _check_that_a_live_run_is_not_resumed(out: Path, tacit: Tacit) -> None:
    outcome = tacit("simulate", "--resume", out, "--quiet")
    assert outcome.status == 2
    assert outcome.stderr.startswith("tacit: Expected a folder that no other process writes, found one at work in run/.")


def _check_that_damage_is_told(out: Path, tacit: Tacit) -> None:
    for path in out.glob("checkpoint*.pt"):
        path.write_bytes(b"damaged")
    outcome = tacit("simulate", "--resume", out, "--quiet")
    assert outcome.status == 2
    assert outcome.stderr == "tacit: Expected a checkpoint in run/, found only damaged checkpoints. Start the run again.\n"
    assert outcome.stdout == ""
    assert {path.read_bytes() for path in out.glob("checkpoint*.pt")} == {b"damaged"}


def test_a_run_stopped_before_it_started_leaves_nothing(tmp_path: Path, data: Path, tiny_bert: str) -> None:
    out = tmp_path / "run"
    # Once it says so it can be interrupted; on a slow machine Python itself takes longer than any pause here.
    code = "import sys, tacit; print('up', file=sys.stderr, flush=True); sys.argv[0] = 'tacit'; tacit.main()"
    arguments = [str(argument) for argument in _arguments(tiny_bert, data, out)]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], cwd=running.ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    assert process.stderr.readline() == "up\n"
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 130
    assert stdout == ""
    assert stderr.strip().splitlines()[-1].startswith("tacit: Interrupted")
    assert "Traceback" not in stderr
    assert not out.exists()


@pytest.mark.soak
@pytest.mark.parametrize(
    "killed_in",
    ["simulations.preparing.write_population", pytest.param("simulations.population.publish", marks=pytest.mark.soak)],
)
def test_a_run_that_was_killed_before_its_population_was_whole_is_resumed(
    tmp_path: Path, data: Path, tiny_bert: str, uninterrupted: Path, tacit: Tacit, killed_in: str
) -> None:
    out, (module, name) = tmp_path / "run", killed_in.rsplit(".", 1)
    code = (
        f"import os, signal, sys, {module}; {module}.{name} = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL); "
        "import tacit; sys.argv[0] = 'tacit'; tacit.main()"
    )
    arguments = [str(argument) for argument in _arguments(tiny_bert, data, out)]
    killed = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=running.ROOT, capture_output=True, text=True, timeout=300
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (out / "population").exists() or not any((out / "population").glob("*.json"))
    refused = tacit(*_arguments(tiny_bert, data, out), "--quiet")
    assert refused.status == 2
    assert "continue an interrupted run with --resume" in refused.stderr
    resumed = tacit("simulate", "--resume", out, "--json")
    assert resumed.status == 0, resumed.stderr
    _check_equal(out, uninterrupted)
    assert not [path for path in out.rglob("*") if path.name.startswith(".")]
