"""What stands ready before a federation begins: absolute paths, and the folder that the clients open."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest

from client.store.population import read_clients
from shared.config import RunConfig
from shared.errors import CheckpointError, ConfigError
from shared.run_folder import load_config
from simulations.preparing import located, write_partitions
from simulations.simulate import simulate
from tests import running
from tests.running import FinishedRun, settings


def test_paths_of_a_run_are_absolute(tmp_path: Path, tiny_bert: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = running.write_interactions(Path("interactions.csv"))
    (tmp_path / "bert").symlink_to(tiny_bert)
    config = located(settings(data, "bert"), Path("run"))
    for path in (config.data.path, config.model.backbone, config.run.out, config.data.population):
        assert Path(path).is_absolute()
    default = located(RunConfig(), Path("run"))
    assert (default.data.path, default.model.backbone) == ("synthetic", "all-MiniLM-L6-v2")


def test_a_population_that_cannot_be_written_leaves_no_run(
    tmp_path: Path, tiny_bert: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("simulations.preparing.write_population", full)
    data = running.write_interactions(tmp_path / "interactions.csv")
    with pytest.raises(OSError, match="No space left"):
        simulate(settings(data, tiny_bert), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_run_that_began_and_lost_its_population_is_not_resumed(finished_run: FinishedRun, tmp_path: Path) -> None:
    run_dir = Path(shutil.copytree(finished_run.folder, tmp_path / "run"))
    shutil.rmtree(run_dir / "population")
    (run_dir / "run.json").unlink()
    config = load_config(run_dir).with_values({"run.resume": True})
    with pytest.raises(CheckpointError, match="Expected the population of an interrupted run in run/, found none"):
        simulate(config, run_dir, quiet=True)
    assert (run_dir / "config.json").exists()


def test_a_folder_that_is_in_use_is_refused_with_an_option_of_the_command(tmp_path: Path, tiny_bert: str) -> None:
    data = running.write_interactions(tmp_path / "interactions.csv")
    with pytest.raises(ConfigError, match=r"found other files in .+/\. Choose another --out\.$"):
        write_partitions(settings(data, tiny_bert, federation__clients=4), tmp_path)


def test_partitions_are_what_a_client_opens(tmp_path: Path, tiny_bert: str) -> None:
    data = running.write_interactions(tmp_path / "interactions.csv")
    summary = write_partitions(settings(data, tiny_bert, federation__clients=4), tmp_path / "population")
    assert (summary.num_clients, summary.num_users) == (4, 30)
    users = [user for client in range(4) for user in read_clients(tmp_path / "population", [client]).histories["user"]]
    assert len(users) == len(set(users)) == 30
