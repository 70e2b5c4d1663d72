"""Plain `flwr run .`: the bundle that Flower builds from the project runs the same two apps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests import running


@pytest.mark.soak
def test_flwr_run_trains_and_releases_an_adapter_without_exact_metrics(
    tmp_path: Path, tiny_bert: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two nodes and two rounds; Flower's home is the test's own, and the SuperLink it leaves behind is ended."""
    data = running.write_interactions(tmp_path / "interactions.csv")
    partitioned = running.run_tacit(
        capsys, "data", "partition", "--data", data, "--clients", 2, "--out", tmp_path / "population"
    )
    assert partitioned.status == 0, partitioned.stderr
    run_config = (
        f"data.population='{tmp_path / 'population'}' run.out='{tmp_path / 'run'}' model.backbone='{tiny_bert}' "
        "model.max_history_length=12 federation.rounds=2 federation.clients=2 data.public_catalog=true"
    )
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # Flower starts its own commands by name
        "FLWR_HOME": str(tmp_path / "flwr"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    }
    flwr = Path(sys.executable).with_name("flwr")
    try:
        run = subprocess.run(
            [flwr, "run", ".", "--stream", "--federation-config", "num-supernodes=2", "--run-config", run_config],
            cwd=running.ROOT, env=environment, capture_output=True, text=True, timeout=400,
        )  # fmt: skip
    finally:
        _end_what_flower_left(environment["FLWR_HOME"])
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    # Flower installs an app's dependencies into such an environment, from the network, unless it is told not to.
    assert not (tmp_path / "flwr" / "runtime-envs").exists()
    manifest = json.loads((tmp_path / "run" / "adapter" / "manifest.json").read_text())
    assert manifest["round_number"] == 2
    assert 0 < manifest["epsilon"] <= 8
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    rounds = [event for event in events if event["event"] == "round"]
    assert [event["clients_answered"] for event in rounds] == [2, 2]
    assert not any({"validation", "training_loss"} & set(event) for event in events)  # exact numbers are a simulator's
    assert not (tmp_path / "run" / "evaluation").exists()
    assert "RELEASE REPORT" in (tmp_path / "run" / "release.html").read_text(encoding="utf-8")


def _end_what_flower_left(home: str) -> None:
    """Ends every process that was started with this Flower home."""
    for process in psutil.process_iter():
        try:
            if process.environ().get("FLWR_HOME") == home:
                process.kill()
        except psutil.Error:  # gone meanwhile, or somebody else's
            continue
