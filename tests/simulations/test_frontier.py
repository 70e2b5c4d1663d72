"""The frontier: which runs there are, what it writes, how it goes on, what it refuses."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import simulations.simulate
from server.reporting.frontier_page import render_frontier
from shared.config import RunConfig
from shared.errors import CheckpointError, ConfigError, EpsilonOutOfReach
from simulations.comparison.runs import compare_runs
from simulations.frontier import FrontierRun, finished, frontier, parse_epsilons, run_frontier
from simulations.frontier_results import released
from tests import running
from tests.running import settings

Tacit = Callable[..., running.Outcome]


@dataclass(frozen=True)
class Finished:
    """A frontier's folder (not to be changed), what it returned, and its base configuration."""

    folder: Path
    result: dict[str, Any]
    base: RunConfig
    said: list[str]


@pytest.fixture
def tacit(capsys: pytest.CaptureFixture[str]) -> Tacit:
    return lambda *arguments: running.run_tacit(capsys, *arguments)


def base_config(data: Path, backbone: str, **changes: object) -> RunConfig:
    return settings(data, backbone, federation__clients=0, federation__rounds="auto", **changes)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, tiny_bert: str) -> Finished:
    """Two epsilons, one of them infinite, and one seed."""
    folder = tmp_path_factory.mktemp("frontier")
    base, said = base_config(running.write_interactions(folder / "interactions.csv"), tiny_bert), []
    result = run_frontier(base, [math.inf, 8], 1, folder / "out", say=said.append)
    return Finished(folder / "out", result, base, said)


def test_a_frontier_holds_a_run_and_its_free_baseline_for_every_epsilon(measured: Finished) -> None:
    result = measured.result
    assert json.loads((measured.folder / "frontier.json").read_text("utf-8")) == result
    assert (result["schema"], result["users"], result["clients"], result["seeds"]) == ("tacit-frontier-1", 30, 30, [0])
    assert result["epsilons"] == [8.0, "inf"]
    assert [(row["epsilon"], row["seed"]) for row in result["runs"]] == [(8.0, 0), ("inf", 0)]
    for row in result["runs"]:
        for which, folder in (("test", row["folder"]), ("free_baseline", row["free_baseline_folder"])):
            record = json.loads((measured.folder / folder / "run.json").read_text("utf-8"))
            mean = record["metrics"]["test"]["ndcg@5"]["mean"]
            assert row[which]["ndcg@5"] == row[f"{which}.ndcg@5"] == mean
            epsilon = math.inf if row["epsilon"] == "inf" else row["epsilon"]
            asked = record["config"]["privacy"]["epsilon"]
            assert asked == (None if math.isinf(epsilon) else epsilon)
            assert (record["privacy"]["epsilon"] or 0.0) <= epsilon
        free = record["config"]
        assert (free["statistics"]["releases"], free["federation"]["rounds"]) == ("blending", 0)
    private, unbounded = result["runs"]
    assert private["epsilon_upper"] <= 8 < private["epsilon_upper"] + 0.5
    assert unbounded["epsilon_upper"] is None
    assert unbounded["chosen"] in ("untrained", "statistics")


def test_the_summary_compares_with_the_free_baseline_and_names_the_limits(measured: Finished) -> None:
    for row, summary in zip(measured.result["runs"], measured.result["summary"], strict=True):
        own, free = row["test"]["ndcg@5"], row["free_baseline"]["ndcg@5"]
        assert summary["test"]["ndcg@5"]["mean"] == pytest.approx(own)
        assert summary["ratio"]["ndcg@5"]["mean"] == pytest.approx(own / free)
        difference = summary["difference"]["ndcg@5"]
        assert difference["mean"] == pytest.approx(own - free)
        assert difference["low"] <= difference["high"] and 0 < difference["p_value"] <= 1
        assert summary["chosen"] == {row["chosen"]: 1}
    limits = measured.result["limits"]
    assert limits["no_privacy"]["ndcg@5"]["mean"] == pytest.approx(measured.result["runs"][1]["test"]["ndcg@5"])
    assert 0 < limits["item_knn"]["ndcg@5"]["low"] <= limits["item_knn"]["ndcg@5"]["mean"] <= 1


def test_a_line_for_each_run_says_how_long_the_rest_takes(measured: Finished) -> None:
    first, *runs, last = measured.said
    assert first == f"4 runs, 0 of them done already; writing to {measured.folder}/."
    assert [line.split("]")[0] for line in runs] == ["[1/4", "[2/4", "[3/4", "[4/4"]
    assert runs[1].startswith("[2/4] epsilon 8, seed 0, free baseline: test NDCG@5 0.")
    assert all(line.endswith(" left") for line in runs[:3]) and runs[3].endswith("the last one")
    assert last == f"Wrote frontier.json, frontier.html and frontier.png to {measured.folder}/."


def test_page_and_picture_show_the_frontier(measured: Finished) -> None:
    page = (measured.folder / "frontier.html").read_text("utf-8")
    assert page.count("<svg") == 2
    assert "NOT PRIVATE" in page and "item-kNN, not private" in page
    assert "<script" not in page and "src=" not in page and 'href="http' not in page
    for row in measured.result["runs"]:
        assert f"{row['test']['ndcg@5']:.4f}" in page
    picture = (measured.folder / "frontier.png").read_bytes()
    assert picture.startswith(b"\x89PNG\r\n\x1a\n") and len(picture) > 10_000


def test_the_page_escapes_names_and_takes_what_is_missing(measured: Finished) -> None:
    page = render_frontier({**measured.result, "data": "<b>set</b>"})
    assert "<b>set</b>" not in page and "&lt;b&gt;set&lt;/b&gt;" in page
    empty = render_frontier({"schema": "tacit-frontier-1"})
    assert "nothing was measured" in empty and "No run was recorded" in empty
    with pytest.raises(CheckpointError, match=r"Expected schema == 'tacit-frontier-1' in frontier.json, got schema=None"):
        render_frontier({})


def test_the_same_frontier_again_runs_nothing(measured: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.stat().st_mtime_ns for path in (measured.folder / "runs").rglob("run.json")}
    monkeypatch.setattr(simulations.simulate, "simulate", _no_run)
    again = run_frontier(measured.base, [8, math.inf], 1, measured.folder)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert {**again, "created": ""} == {**measured.result, "created": ""}


def _no_run(*_: object, **__: object) -> None:
    raise AssertionError("a run that is done was begun again")


def test_an_interrupted_run_is_begun_again_and_finished_ones_are_kept(
    measured: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Path(shutil.copytree(measured.folder, tmp_path / "out"))
    stopped = FrontierRun(8.0, 0, free=True)
    folder = finished(out, stopped)
    assert folder is not None
    (folder / "run.json").unlink()  # as a killed process leaves it
    begun: list[Path] = []
    original = simulations.simulate.simulate

    def counting(config: RunConfig, run_dir: Path, **rest: Any) -> dict[str, Any]:
        begun.append(run_dir)
        return original(config, run_dir, **rest)

    monkeypatch.setattr(simulations.simulate, "simulate", counting)
    said: list[str] = []
    result = run_frontier(measured.base, [8, math.inf], 1, out, say=said.append)
    assert said[0] == f"4 runs, 3 of them done already; writing to {out}/."
    assert [path.name for path in begun] == ["epsilon-8-seed-0-free-attempt-2"]
    assert not folder.exists() and finished(out, stopped) == begun[0]
    assert result["runs"][0]["test"] == measured.result["runs"][0]["test"]
    assert result["runs"][0]["free_baseline_folder"] == "runs/epsilon-8-seed-0-free-attempt-2"


@pytest.mark.soak
def test_a_frontier_goes_on_after_its_process_was_killed(tmp_path: Path, tiny_bert: str) -> None:
    data, out = running.write_interactions(tmp_path / "interactions.csv"), tmp_path / "out"
    flags = running.flags(tiny_bert, federation__clients=0, federation__rounds="auto")
    arguments = ["frontier", *flags, "--data", data, "--epsilon", "8,inf", "--seeds", 1, "--out", out, "--json"]
    process = subprocess.Popen(running.command(*arguments), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    begun = out / "runs" / "epsilon-8-seed-0-free-attempt-1"
    deadline = time.monotonic() + 300
    while not (begun / "config.json").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    process.wait(timeout=60)
    kept = (out / "runs" / "epsilon-8-seed-0-attempt-1" / "run.json").read_bytes()
    done = [run for run in _runs_of(8.0, math.inf) if finished(out, run)]
    assert not (out / "frontier.json").exists() and 1 <= len(done) < 4
    again = subprocess.run(running.command(*arguments), capture_output=True, text=True, timeout=500, check=False)
    assert again.returncode == 0, again.stderr
    assert again.stderr.splitlines()[0] == f"4 runs, {len(done)} of them done already; writing to {out}/."
    result = json.loads(again.stdout)
    assert result == json.loads((out / "frontier.json").read_text("utf-8"))
    assert len(result["runs"]) == 2
    assert (out / "runs" / "epsilon-8-seed-0-attempt-1" / "run.json").read_bytes() == kept
    assert len(list((out / "runs").iterdir())) == 4  # nothing is left of the attempt that was killed


def _runs_of(*epsilons: float) -> list[FrontierRun]:
    return [FrontierRun(epsilon, 0, free) for epsilon in epsilons for free in (False, True)]


def test_a_frontier_that_is_interrupted_says_how_to_go_on(
    measured: Finished, tmp_path: Path, tiny_bert: str, tacit: Tacit, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(simulations.simulate, "simulate", interrupted)
    out, flags = tmp_path / "out", running.flags(tiny_bert, federation__clients=0)
    done = tacit(
        "frontier", *flags, "--data", measured.base.data.path, "--epsilon", 8, "--seeds", 1, "--out", out, "--quiet"
    )
    assert (done.status, done.stdout) == (130, "")
    assert done.stderr == f"tacit: Interrupted. Finished runs are kept in {out}/; the same command goes on with the rest.\n"


def test_other_settings_in_the_folder_are_refused_and_more_epsilons_are_not(
    measured: Finished, tmp_path: Path, tacit: Tacit, tiny_bert: str
) -> None:
    before = sorted(measured.folder.rglob("*"))
    changed = measured.base.with_values({"privacy.l2_clip_norm": 0.5})
    with pytest.raises(ConfigError) as refused:
        run_frontier(changed, [8], 1, measured.folder)
    assert str(refused.value) == (
        "Expected the settings that the frontier in out/ was begun with, got privacy.l2_clip_norm=0.5 instead of 0.1. "
        "Repeat them, or choose another --out."
    )
    (tmp_path / "thesis.docx").touch()
    with pytest.raises(ConfigError, match="Expected an empty or new output directory, or one of `tacit frontier`, found"):
        run_frontier(measured.base, [8], 1, tmp_path)
    assert sorted(measured.folder.rglob("*")) == before
    fewer = run_frontier(measured.base, [8], 1, Path(shutil.copytree(measured.folder, tmp_path / "fewer")))
    assert [row["epsilon"] for row in fewer["runs"]] == [8.0]


@pytest.mark.parametrize(
    ("changes", "epsilons", "seeds", "message"),
    [
        ({}, [], 1, "Expected epsilons > 0, at least one, got epsilons=. "),
        ({}, [1, -2], 1, "Expected epsilons > 0, at least one, got epsilons=1, -2. "),
        ({}, [math.nan], 1, "Expected epsilons > 0, at least one, got epsilons=nan. "),
        ({}, [1], 0, "Expected seeds >= 1, got seeds=0. "),
        ({"privacy.ledger": "ledger.sqlite"}, [1], 1, "Expected a frontier without privacy.ledger, "),
        ({"evaluation.compare": "other"}, [1], 1, "Expected a frontier without privacy.ledger, "),
    ],
)
def test_what_is_no_frontier_is_refused(
    tmp_path: Path, changes: dict[str, Any], epsilons: list[float], seeds: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run_frontier(RunConfig.from_mapping(changes), epsilons, seeds, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_epsilon_out_of_reach_is_refused_before_the_first_run(tmp_path: Path, tiny_bert: str) -> None:
    data = running.write_interactions(tmp_path / "interactions.csv")
    base = base_config(data, tiny_bert, privacy__popularity_noise_multiplier=1.0)
    with pytest.raises((ConfigError, EpsilonOutOfReach), match="epsilon"):
        run_frontier(base, [0.01, 8], 1, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_data_that_changed_between_the_runs_are_refused(measured: Finished, tmp_path: Path) -> None:
    out = Path(shutil.copytree(measured.folder, tmp_path / "out"))
    folder = finished(out, FrontierRun(8.0, 0, free=True))
    assert folder is not None
    record = json.loads((folder / "run.json").read_text("utf-8"))
    record["data"]["digest"] = "0" * 64
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(ConfigError, match="Expected all runs of a frontier on the same data, found others"):
        run_frontier(measured.base, [8, math.inf], 1, out)


@pytest.mark.parametrize(
    ("selection", "rounds", "releases", "name"),
    [
        ({"chosen": "untrained"}, 3, "pairs,blending,selection", "untrained"),
        (None, 3, "pairs", "trained"),
        (None, 0, "transitions,blending", "statistics"),
        (None, 0, "blending", "untrained"),
    ],
)
def test_what_a_run_released_is_what_was_chosen_or_all_that_it_learned(
    selection: dict[str, str] | None, rounds: int, releases: str, name: str
) -> None:
    config = {"federation": {"rounds": rounds}, "statistics": {"releases": releases}}
    assert released({"selection": selection, "config": config}) == name


def test_epsilons_are_read_as_people_write_them() -> None:
    assert parse_epsilons(".5, 1,8,inf") == (0.5, 1.0, 8.0, math.inf)
    with pytest.raises(ConfigError, match="Expected --epsilon to be numbers or inf, got --epsilon=1,two"):
        parse_epsilons("1,two")


def test_no_two_epsilons_share_a_folder() -> None:
    assert FrontierRun(8.0, 0, free=False).name == "epsilon-8-seed-0"
    assert FrontierRun(math.inf, 3, free=True).name == "epsilon-inf-seed-3-free"
    names = {FrontierRun(epsilon, 0, free=False).name for epsilon in (0.1234567, 0.12345671, 1e-7, 1.0, 10.0)}
    assert len(names) == 5


def test_the_function_of_the_package_loads_nothing_until_it_is_called() -> None:
    code = (
        "import sys, tacit; tacit.frontier; "
        "print([name for name in ('torch', 'numpy', 'flwr', 'polars', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=running.ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_the_function_takes_settings_by_name(measured: Finished) -> None:
    import tacit as package

    base = measured.base
    flat = {
        key.replace(".", "__"): value
        for key, value in base.to_flat().items()
        if value != RunConfig().to_flat()[key] and key != "data.path"
    }
    for function in (frontier, package.frontier):
        result = function(base.data.path, [8], 1, measured.folder, **flat)
        assert [row["epsilon"] for row in result["runs"]] == [8.0]
    with pytest.raises(
        ConfigError, match=r"Unknown key 'federation.client' in the arguments. Did you mean 'federation.clients'"
    ):
        frontier(base.data.path, [8], 1, measured.folder, federation__client=0)


def test_runs_of_one_seed_are_compared_with_the_first(measured: Finished, tacit: Tacit) -> None:
    runs = [finished(measured.folder, FrontierRun(epsilon, 0, free=False)) for epsilon in (8.0, math.inf)]
    done = tacit("compare", *runs, "--json")
    assert done.status == 0
    first, second = done.json["runs"]
    assert first["difference"] is None and first["epsilon"] <= 8 and second["epsilon"] is None
    expected = second["test"]["ndcg@5"]["mean"] - first["test"]["ndcg@5"]["mean"]
    assert second["difference"]["ndcg@5"]["mean"] == pytest.approx(expected)
    assert 0 < second["difference"]["ndcg@5"]["p_value"] <= 1
    shown = tacit("compare", *runs)
    assert shown.status == 0
    assert "NOT PRIVATE" in shown.stdout and "not private" in shown.stdout
    assert f"{second['test']['hr@5']['mean']:.4f}" in shown.stdout
    assert "p = " in shown.stdout or "p < " in shown.stdout


def test_runs_on_other_data_and_unfinished_runs_are_not_compared(measured: Finished, tmp_path: Path, tacit: Tacit) -> None:
    folder = finished(measured.folder, FrontierRun(8.0, 0, free=False))
    assert folder is not None
    for name, change in {
        "data": ("data", "digest", "0"), "seed": ("config", "run", {"seed": 1}), "status": (None, "status", "interrupted"),
    }.items():  # fmt: skip
        other = Path(shutil.copytree(folder, tmp_path / name))
        record = json.loads((other / "run.json").read_text("utf-8"))
        section, key, value = change
        place = record if section is None else record[section]
        place[key] = {**place[key], **value} if isinstance(value, dict) else value
        (other / "run.json").write_text(json.dumps(record), encoding="utf-8")
        done = tacit("compare", folder, other)
        assert (done.status, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
        expected = {
            "data": f"Expected the run in {other}/ to have the data of the run in {folder}/, got others.",
            "seed": f"Expected the run in {other}/ to have the seed of the run in {folder}/, got others.",
            "status": f"Expected a finished run in {other}/, got status=interrupted.",
        }
        assert expected[name] in done.stderr
    for none in (tmp_path / "nothing", measured.folder):
        with pytest.raises(CheckpointError, match="Expected a finished run in"):
            compare_runs([folder, none])
    with pytest.raises(ConfigError, match="Expected at least 2 runs to compare, got runs=1"):
        compare_runs([folder])
