"""Flower's own simulation engine: the same apps in other processes learn the same as in this one."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from tests import rounding, running


@pytest.mark.soak
@pytest.mark.ray
def test_the_flower_engine_and_the_in_process_engine_learn_the_same_adapter(
    tmp_path: Path, tiny_bert: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two processes = one: a reproducible private run of two clients and two rounds, on both engines."""
    data = running.write_interactions(tmp_path / "interactions.csv")
    settings = running.flags(tiny_bert, federation__clients=2, training__learning_rate=0.05)
    arguments = ["simulate", *settings, "--data", data, "--reproducible", "--seed", 3, "--json"]
    here = running.run_tacit(capsys, *arguments, "--out", tmp_path / "here")
    assert here.status == 0, here.stderr

    # In a process of its own: Ray's processes and threads end with it.
    there = subprocess.run(
        running.command(*arguments, "--out", tmp_path / "there", "--engine", "flower"), cwd=running.ROOT,
        capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert there.returncode == 0, there.stderr[-3000:]
    record = json.loads(there.stdout)  # JSON alone, whatever Ray and Flower say
    assert [row["clients_answered"] for row in record["rounds"]] == [2, 2]
    # Which engine runs it does not change what a run is.
    assert record["config_digest"] == here.json["config_digest"]
    for name in ("adapter_model.safetensors", "prior.safetensors"):
        expected = load_file(tmp_path / "here" / "adapter" / name)
        found = load_file(tmp_path / "there" / "adapter" / name)
        assert expected.keys() == found.keys()
        for key, tensor in expected.items():
            rounding.assert_close(found[key], tensor, within=rounding.rounding(sums=1000, length=32))
    for name, value in here.json["metrics"]["test"].items():
        assert record["metrics"]["test"][name]["mean"] == pytest.approx(value["mean"], abs=1e-5)
