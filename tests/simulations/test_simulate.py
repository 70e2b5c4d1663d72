"""The main job's own decisions: what is refused, which folder may be used, what a run leaves behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from shared.errors import CheckpointError, CohortTooSmall, ConfigError
from shared.run_folder import check_unused, load_catalog, load_config
from simulations.simulate import simulate
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


@pytest.mark.parametrize("secure", [True, False])
def test_one_user_a_client_is_a_federation_too_and_a_trusted_server_is_said(
    secure: bool, tmp_path: Path, tiny_bert: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = running.write_interactions(tmp_path / "interactions.csv", users=8)
    changes = {"federation__clients": 0, "secure_aggregation__enabled": secure, "run__reproducible": False}
    record = simulate(settings(data, tiny_bert, **changes), tmp_path / "run")
    assert record["data"]["clients"] == 8
    assert record["rounds"][-1]["clients_answered"] == 8
    assert record["privacy"]["mechanism"]["name"] == ("distributed" if secure else "central")
    said = "".join(capsys.readouterr())
    for text in (" ".join(said.split()), " ".join(record["privacy"]["warnings"])):
        assert (
            "The server adds the noise and has to be trusted, because noise cannot come in shares." in text
        ) is not secure
