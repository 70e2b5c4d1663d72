"""The Python interface: what `import tacit` offers, and that it does what the command line does."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

import tacit
from shared.config import RunConfig
from shared.errors import CheckpointError, ConfigError, DataError, EpsilonOutOfReach
from simulations.interface import compare, load, plan, read, simulate
from tests import running
from tests.running import FinishedRun


@dataclass(frozen=True)
class Called:
    """A run that was started from Python, its data, and what its progress was told."""

    run: tacit.Run
    data: Path
    told: list[dict[str, Any]]


def small(backbone: str) -> dict[str, Any]:
    """Settings of a run of a second, but for those that have an argument of their own."""
    own = {"federation.rounds", "federation.clients"}
    pairs = (flag.split("=", 1) for flag in running.flags(backbone)[1::2])
    return {key: value for key, value in pairs if key not in own}


def hits(lists: NDArray[np.int64], targets: list[NDArray[np.int64]]) -> NDArray[Any]:
    return np.array([np.isin(own, listed).any() for listed, own in zip(lists, targets, strict=True)])


class Counts:
    def fit(self, histories: list[NDArray[np.int64]], num_items: int) -> None:
        self.counts = np.bincount(np.concatenate(histories), minlength=num_items)

    def __call__(self, histories: list[NDArray[np.int64]]) -> NDArray[np.int64]:
        return np.tile(self.counts, (len(histories), 1))


@pytest.fixture(scope="module")
def called(tmp_path_factory: pytest.TempPathFactory, tiny_bert: str) -> Called:
    folder = tmp_path_factory.mktemp("called")
    data, told = running.write_interactions(folder / "interactions.csv"), []
    run = simulate(
        data, rounds=2, clients=3, out=folder / "run", settings=small(tiny_bert) | {"evaluation.baselines": "popularity"},
        baselines={"abacus": Counts()}, metrics={"own_hits": hits}, progress=told.append,
    )  # fmt: skip
    return Called(run, data, told)


def test_the_run_is_the_one_that_the_command_line_reads(called: Called, capsys: pytest.CaptureFixture[str]) -> None:
    assert called.run.record == json.loads((called.run.folder / "run.json").read_text(encoding="utf-8"))
    assert called.run.record["config"]["privacy"]["epsilon"] == 8.0
    done = running.run_tacit(capsys, "recommend", called.run.folder, "--history", "thing-3,thing-1", "-k", 4, "--json")
    places = called.run.recommender().recommend(["thing-3", "thing-1"], k=4)
    assert [vars(place) for place in places] == done.json["recommendations"]


def test_baselines_and_metrics_of_the_caller_stand_beside_ours(called: Called) -> None:
    run = called.run
    assert run.baselines["abacus"].metrics["ndcg@5"] == run.baselines["popularity"].metrics["ndcg@5"]
    assert not run.baselines["abacus"].private
    for metrics in (run.metrics, run.baselines["popularity"].metrics, run.baselines["abacus"].metrics):
        assert metrics["own_hits"].keys() == {"mean", "low", "high"}
    recorded = {name: run.metrics["hr@5"][name] for name in ("mean", "low", "high")}
    assert run.metrics["own_hits"] == pytest.approx(recorded)


def test_what_the_caller_measures_is_in_the_research_record_and_in_no_release(called: Called) -> None:
    """NOT PRIVATE: it is stamped so, and nothing of it is in what leaves the simulation."""
    own = json.loads((called.run.folder / "evaluation" / "own_metrics.json").read_text(encoding="utf-8"))
    assert own["stamp"] == "NOT PRIVATE" and set(own["test"]) == {"released", "popularity", "abacus"}
    for name in ("release.json", "release.html", "events.jsonl"):
        text = (called.run.folder / name).read_text(encoding="utf-8")
        assert "own_hits" not in text and "abacus" not in text


def test_progress_is_told_of_each_round(called: Called) -> None:
    assert [row["round_number"] for row in called.told] == called.run.history["round_number"].to_list() == [1, 2]
    assert [row["training_loss"] for row in called.told] == called.run.history["training_loss"].to_list()


def test_a_callers_baselines_metrics_and_progress_change_nothing_of_the_run(
    called: Called, tmp_path: Path, tiny_bert: str
) -> None:
    settings = small(tiny_bert) | {"run.reproducible": True}
    with_own = simulate(
        called.data, rounds=1, clients=3, out=tmp_path / "own", settings=settings,
        baselines={"abacus": Counts()}, metrics={"own_hits": hits}, progress=lambda row: None,
    )  # fmt: skip
    alone = simulate(called.data, rounds=1, clients=3, out=tmp_path / "alone", settings=settings)
    for name in ("adapter_model.safetensors", "prior.safetensors"):
        assert (with_own.folder / "adapter" / name).read_bytes() == (alone.folder / "adapter" / name).read_bytes()
    assert {name: value for name, value in with_own.metrics.items() if name != "own_hits"} == alone.metrics
    assert not (alone.folder / "evaluation" / "own_metrics.json").exists()


def test_a_run_without_a_folder_gets_one_of_its_own(tmp_path: Path, tiny_bert: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = running.write_interactions(tmp_path / "interactions.csv", users=12)
    folders = [simulate(data, rounds=1, clients=2, settings=small(tiny_bert)).folder for _ in range(2)]
    assert len(set(folders)) == 2 and {folder.parent.name for folder in folders} == {"runs"}


def test_a_wrong_call_is_refused_before_anything_is_written(called: Called, tmp_path: Path, tiny_bert: str) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"epsilon": -1}, "Expected privacy.epsilon > 0"),
        ({"model__layer": 1}, "Did you mean 'model.layers'"),
        ({"settings": {"privacy.epsilon": 1}}, "Expected privacy.epsilon once"),
        ({"metrics": {"auc": hits}}, "Expected names of metrics that are free"),
        ({"baselines": {"popularity": Counts()}}, "Expected names of baselines that are free"),
        ({"baselines": {"mine": lambda histories: np.zeros(3)}}, "Expected scores of the baseline 'mine' to be numbers"),
    ]
    for arguments, message in wrong:
        with pytest.raises(ConfigError, match=message):
            simulate(called.data, **{"settings": small(tiny_bert), "out": tmp_path / "run", **arguments})
        assert not (tmp_path / "run").exists(), message
    with pytest.raises(ConfigError, match="Expected an empty or new output directory"):
        simulate(called.data, settings=small(tiny_bert), out=called.run.folder)
    with pytest.raises(DataError, match="nowhere"):
        simulate(tmp_path / "nowhere", settings=small(tiny_bert), out=tmp_path / "run")


def test_defaults_are_those_of_the_settings() -> None:
    named = {
        "epsilon": "privacy.epsilon", "rounds": "federation.rounds", "clients": "federation.clients", "seed": "run.seed",
        "data": "data.path",
    }  # fmt: skip
    defaults = RunConfig().to_flat()
    for function in (simulate, plan):
        parameters = inspect.signature(function).parameters
        for name in named.keys() & parameters.keys():
            assert parameters[name].default == defaults[named[name]], name


def test_a_recommender_is_loaded_from_a_folder(finished_run: FinishedRun, tmp_path: Path) -> None:
    recommender = load(str(finished_run.folder))
    assert recommender.score([["thing-3"], []]).shape == (2, 15)
    assert repr(recommender).endswith("15 items)")
    with pytest.raises(CheckpointError, match=r"^Expected a run in .*, could not read its config.json"):
        load(tmp_path)


def test_a_data_set_is_read_as_a_run_would(finished_run: FinishedRun, tmp_path: Path) -> None:
    data = read(finished_run.data)
    assert data.interactions.num_users == 30 and data.catalog.num_items == 15
    table = tmp_path / "table.csv"
    table.write_text(finished_run.data.read_text().replace("user,item,timestamp", "who,what,timestamp"))
    assert read(table, columns="user=who,item=what,timestamp=timestamp").interactions.num_users == 30
    with pytest.raises(ConfigError, match=r"format"):
        read(finished_run.data, format="excel")


def test_a_plan_is_what_the_command_line_prints(capsys: pytest.CaptureFixture[str]) -> None:
    facts = plan(num_users=5000, epsilon=2, rounds=3, clients=0)
    done = running.run_tacit(
        capsys, "privacy", "plan", "--users", 5000, "--epsilon", 2, "--rounds", 3, "--clients", 0, "--json"
    )
    assert json.loads(json.dumps(facts)) == done.json


def test_a_plan_that_cannot_be_kept_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^Expected num_users >= 1, got num_users=0\."):
        plan(num_users=0)
    with pytest.raises(EpsilonOutOfReach, match="epsilon"):
        plan(num_users=943, epsilon=1, privacy__popularity_noise_multiplier=3, privacy__evaluation_noise_multiplier=5)


def test_runs_are_compared_in_one_table(called: Called, finished_run: FinishedRun, capsys: Any) -> None:
    table = compare(called.run, str(called.run.folder))
    done = running.run_tacit(capsys, "compare", called.run.folder, called.run.folder, "--json")
    for column in ("hr@5", "ndcg@5"):
        assert table[column].to_list() == [row["test"][column]["mean"] for row in done.json["runs"]]
        assert table[f"{column}.difference"].to_list() == [None, 0.0]
    assert table["epsilon"].to_list() == [called.run.record["privacy"]["epsilon"]] * 2
    assert isinstance(table, pl.DataFrame)
    with pytest.raises(ConfigError, match="Expected at least 2 runs to compare, got runs=1"):
        compare(called.run)


def test_every_public_name_is_there_and_nothing_is_loaded_before_it_is_used() -> None:
    code = (
        "import sys, tacit; names = dir(tacit); "
        "print([name for name in ('torch', 'numpy', 'flwr', 'polars', 'simulations', 'shared') if name in sys.modules]); "
        "tacit.simulate, tacit.frontier, tacit.plan; "
        "print([name for name in ('torch', 'numpy', 'flwr', 'polars', 'matplotlib', 'pydantic') if name in sys.modules]); "
        "print([name for name in names if not hasattr(tacit, name)])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=running.ROOT, check=True)
    assert done.stdout.splitlines() == ["[]", "[]", "[]"]


def test_a_name_that_there_is_not_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match=r"^module 'tacit' has no attribute 'simulat'$"):
        tacit.simulat  # noqa: B018


@pytest.mark.parametrize("name", sorted(set(tacit.__all__) - {"main"}))
def test_every_public_name_is_documented(name: str) -> None:
    found: Callable[..., object] = getattr(tacit, name)
    assert (found.__doc__ or "").strip().endswith((".", ")")) or "Example:" in (found.__doc__ or "")
    if inspect.isfunction(found):
        arguments = [name.lstrip("*") for name in inspect.signature(found).parameters]
        assert [argument for argument in arguments if f"{argument}:" not in (found.__doc__ or "")] == []


@pytest.mark.parametrize("package", ["client", "server", "shared", "simulations"])
def test_packages_say_that_they_are_typed(package: str) -> None:
    assert (running.ROOT / package / "py.typed").is_file()
    assert f'{package} = ["py.typed"]' in (running.ROOT / "pyproject.toml").read_text(encoding="utf-8")
