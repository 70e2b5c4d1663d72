"""The main job's own decisions: what is refused, which folder may be used, what a run leaves behind."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from client.store.population import ClientStore
from shared.config import RunConfig
from shared.errors import CheckpointError, CohortTooSmall, ConfigError
from shared.run_folder import check_unused
from simulations.comparison.own_model import CHEAP
from simulations.simulate import (
    baseline_names,
    load_catalog,
    load_config,
    located,
    read_rounds,
    simulate,
    write_partitions,
)
from tests import running
from tests.running import FinishedRun, settings


def test_every_artifact_that_the_record_names_exists(finished_run: FinishedRun) -> None:
    artifacts = finished_run.record["artifacts"]
    assert set(artifacts) == {"record", "report", "adapter", "events", "tensorboard", "ledger", "release"}
    for path in artifacts.values():
        assert (finished_run.folder / path).exists(), path
    assert {path.name for path in (finished_run.folder / "adapter").iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", "prior.safetensors", "manifest.json",
    }  # fmt: skip
    assert list((finished_run.folder / "tensorboard").rglob("events.out.tfevents.*"))


def test_the_adapter_holds_lora_alone(finished_run: FinishedRun) -> None:
    names = load_file(finished_run.folder / "adapter" / "adapter_model.safetensors")
    assert names
    assert all(".lora_" in name for name in names)


def test_no_half_written_file_is_left(finished_run: FinishedRun) -> None:
    names = [path.name for path in finished_run.folder.rglob("*")]
    assert not [name for name in names if name.startswith(".")]


def test_the_configuration_comes_back_from_the_folder(finished_run: FinishedRun) -> None:
    config = load_config(finished_run.folder)
    assert config.digest() == finished_run.record["config_digest"]
    assert Path(config.data.path) == finished_run.data.resolve()
    assert load_catalog(finished_run.folder).num_items == finished_run.record["data"]["items"]


def test_paths_of_a_run_are_absolute(tmp_path: Path, tiny_bert: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = running.write_interactions(Path("interactions.csv"))
    (tmp_path / "bert").symlink_to(tiny_bert)
    config = located(settings(data, "bert"), Path("run"))
    for path in (config.data.path, config.model.backbone, config.run.out, config.data.population):
        assert Path(path).is_absolute()
    default = located(RunConfig(), Path("run"))
    assert (default.data.path, default.model.backbone) == ("synthetic", "all-MiniLM-L6-v2")


def test_a_folder_may_be_used_when_it_is_new_or_empty(tmp_path: Path) -> None:
    check_unused(tmp_path)
    check_unused(tmp_path / "new")
    (tmp_path / "thesis.docx").touch()
    for taken in (tmp_path, tmp_path / "thesis.docx"):
        with pytest.raises(ConfigError, match="Expected an empty or new output directory, found other files in"):
            check_unused(taken)


def test_what_a_killed_process_left_half_written_is_no_run(tmp_path: Path, tiny_bert: str) -> None:
    data, run_dir = running.write_interactions(tmp_path / "interactions.csv"), tmp_path / "run"
    (run_dir / ".population.abc" / "clients").mkdir(parents=True)
    (run_dir / ".config.json.abc").write_text("{", encoding="utf-8")
    check_unused(run_dir)
    simulate(settings(data, tiny_bert, federation__rounds=1), run_dir, quiet=True)
    assert not [path for path in run_dir.rglob("*") if path.name.startswith(".")]


def test_a_population_that_cannot_be_written_leaves_no_run(
    tmp_path: Path, tiny_bert: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("simulations.simulate.write_population", full)
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


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("none", ()),
        ("", ()),
        ("cheap", CHEAP),
        ("item-knn, popularity,item_knn", ("item_knn", "popularity")),
        ("cheap,sasrec", (*CHEAP, "sasrec")),
    ],
)
def test_baselines_are_chosen_by_name(text: str, names: tuple[str, ...]) -> None:
    assert baseline_names(text) == names


def test_a_baseline_that_is_unknown_is_refused() -> None:
    assert {"centralized", "federated", "local_only"} < set(baseline_names("all"))
    with pytest.raises(ConfigError, match=r"Expected evaluation.baselines from popularity, .* got 'sasrek'"):
        baseline_names("cheap,sasrek")


def test_a_complete_run_is_not_resumed(finished_run: FinishedRun) -> None:
    before = (finished_run.folder / "run.json").read_bytes()
    config = load_config(finished_run.folder).with_values({"run.resume": True})
    with pytest.raises(ConfigError, match="Expected an interrupted run in run/, found a complete one"):
        simulate(config, finished_run.folder, quiet=True)
    assert (finished_run.folder / "run.json").read_bytes() == before


def test_a_folder_without_a_run_has_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"could not read its config.json. Give the folder that `tacit simulate` wrote"
    ):
        load_config(tmp_path)
    (tmp_path / "config.json").write_text('{"training.gone": "1"}', encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"was written by another version. Unknown key 'training.gone'"):
        load_config(tmp_path)


def test_a_run_says_that_the_items_file_knows_few_items(
    tmp_path: Path, tiny_bert: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = running.write_interactions(tmp_path / "interactions.csv")
    (tmp_path / "items.csv").write_text("item,title\nthing-0,w1\n")
    simulate(settings(data, tiny_bert, federation__rounds=1), tmp_path / "run")
    said = " ".join(capsys.readouterr().err.split())
    assert "items.csv knows only 1 of the 15 items of interactions.csv: are its ids another's" in said


def test_a_run_that_cannot_go_on_keeps_its_record(tmp_path: Path, tiny_bert: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One client's part is damaged after round 1, as a failing disk would; rounds 2 to 4 are then dropped.

    Under privacy nobody would see it (`tests/client/test_app.py`), so the run is one without.
    """
    from client.store.population import _read_part
    from server.rounds import Federation

    data, run_dir = running.write_interactions(tmp_path / "interactions.csv"), tmp_path / "run"
    original = Federation._round

    def after_damage(self: Federation, round_number: int, *rest: Any) -> Any:
        if round_number == 2:
            (part, *_) = sorted((run_dir / "population" / "clients").iterdir())
            part.write_bytes(b"")
            _read_part.cache_clear()
        return original(self, round_number, *rest)

    monkeypatch.setattr(Federation, "_round", after_damage)
    with pytest.raises(CohortTooSmall, match=r"2 of 3 clients answered round 4; the plan needs 3.* is damaged"):
        simulate(
            settings(data, tiny_bert, federation__rounds=5, federation__minimum_clients=3, privacy__epsilon="inf"),
            run_dir,
            quiet=True,
        )
    record = json.loads((run_dir / "run.json").read_text(encoding="utf-8"))
    assert record["status"] == "interrupted"
    assert [row["round_number"] for row in record["rounds"]] == [1]


def test_rounds_are_read_once_each_and_half_a_line_is_skipped(tmp_path: Path) -> None:
    assert read_rounds(tmp_path) == []
    lines = [
        {"event": "started"},
        {"event": "round", "round_number": 1, "seconds": 3.0},
        {"event": "round", "round_number": 2, "seconds": 2.0},
        {"event": "round", "round_number": 2, "seconds": 1.0},
    ]
    measured = [{"round_number": 1, "training_loss": 4.0, "validation": {"hr@5": 0.5}}]
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "rounds.jsonl").write_text(json.dumps(measured[0]) + "\n", encoding="utf-8")
    text = "\n".join(json.dumps(line) for line in lines) + '\n{"event": "round", "round_nu'
    (tmp_path / "events.jsonl").write_text(text, encoding="utf-8")
    assert read_rounds(tmp_path) == [
        {"round_number": 1, "seconds": 3.0, "training_loss": 4.0, "validation": {"hr@5": 0.5}},
        {"round_number": 2, "seconds": 1.0, "training_loss": None, "validation": None},
    ]


def test_partitions_are_what_a_client_opens(tmp_path: Path, tiny_bert: str) -> None:
    data = running.write_interactions(tmp_path / "interactions.csv")
    summary = write_partitions(settings(data, tiny_bert, federation__clients=4), tmp_path / "population")
    assert (summary.num_clients, summary.num_users) == (4, 30)
    users = [user for client in range(4) for user in ClientStore.open(tmp_path / "population", client).histories["user"]]
    assert len(users) == len(set(users)) == 30


def test_one_user_a_client_is_a_federation_too(tmp_path: Path, tiny_bert: str) -> None:
    data = running.write_interactions(tmp_path / "interactions.csv", users=8)
    record = simulate(settings(data, tiny_bert, federation__clients=0), tmp_path / "run", quiet=True)
    assert record["data"]["clients"] == 8
    assert record["rounds"][-1]["clients_answered"] == 8
