"""The ready-made scenarios, each as it is but for fewer users, a tiny backbone and a larger epsilon."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import simulations.datasets
from client.store.population import read_clients
from shared.config import RunConfig
from shared.privacy.calibration import plan_of
from simulations.preparing import population_of
from simulations.worlds.domains import DOMAINS
from tests import running

SCENARIOS = running.ROOT / "simulations" / "scenarios"
NAMES = tuple(DOMAINS)


def scenario(name: str) -> RunConfig:
    return RunConfig.from_toml(SCENARIOS / f"{name}.toml")


@pytest.fixture
def small_domains(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same domains with 240 users, so that a run takes seconds."""
    small = {name: replace(domain, num_users=240) for name, domain in DOMAINS.items()}
    monkeypatch.setattr(simulations.datasets, "DOMAINS", small)


@pytest.mark.parametrize("name", NAMES)
def test_every_domain_has_a_scenario_that_says_what_it_shows(name: str) -> None:
    config, text = scenario(name), (SCENARIOS / f"{name}.toml").read_text(encoding="utf-8")
    assert (config.data.path, config.run.name) == (f"synthetic:{name}", name)
    assert config.is_private and not config.run.reproducible
    assert f"# tacit simulate --config simulations/scenarios/{name}.toml\n" in text


@pytest.mark.parametrize(
    ("name", "clients", "unit", "mechanism", "epsilon"),
    [
        ("e-commerce", 4, "user", "dp-sgd", 6.0),
        ("content", 3, "user", "dp-sgd", 4.0),
        ("financial-products", 6000, "user", "distributed", 4.0),
        ("medical-consultation", 3, "user", "dp-sgd", 2.0),
        ("education", 6, "user", "dp-sgd", 8.0),
    ],
)
def test_a_scenario_promises_what_is_documented(name: str, clients: int, unit: str, mechanism: str, epsilon: float) -> None:
    config, users, num_clients, *_ = population_of(scenario(name), users=None)
    plan = plan_of(config, num_users=users, num_clients=num_clients)
    assert (users, num_clients) == (DOMAINS[name].num_users, clients)
    assert (plan.unit, plan.mechanism, config.privacy.epsilon) == (unit, mechanism, epsilon)
    assert 0.9 * epsilon < plan.epsilon_after(plan.rounds) <= epsilon
    assert plan.delta <= 1 / (10 * users)
    assert plan.rounds == 0 and {"pairs", "transitions", "refinement"} <= set(plan.statistics)


# Two domains stand for the five; all run with the soak tests.
_RUN = [name if name in NAMES[:2] else pytest.param(name, marks=pytest.mark.soak) for name in NAMES]


@pytest.mark.parametrize("name", _RUN)
def test_a_scenario_runs_from_its_file_to_its_report(
    name: str, small_domains: None, tiny_bert: str, tmp_path: Path, tacit: Callable[..., running.Outcome]
) -> None:
    settings = [f"model.backbone={tiny_bert}", "model.max_history_length=12"]
    settings += ["evaluation.bootstrap_replicates=20", "privacy.epsilon=50"]
    flags = [part for setting in settings for part in ("--set", setting)]
    outcome = tacit("simulate", "--config", SCENARIOS / f"{name}.toml", "--out", tmp_path / "run", "--json", *flags)
    assert outcome.status == 0, outcome.stderr
    record = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert (record["status"], record["name"], record["data"]["name"]) == ("complete", name, name)
    assert record["data"]["users"] == 240 and record["config"]["data"]["public_catalog"] is True
    assert 0 < record["privacy"]["epsilon"] <= 50
    assert 0 < record["metrics"]["test"]["ndcg@10"]["mean"] < record["data"]["ceiling"]["ndcg@10"]
    assert "private_text_similarity" in {baseline["key"] for baseline in record["baselines"]}
    assert "NOT PRIVATE" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["medical-consultation", "education"])
def test_silos_of_unequal_size_are_unequal(
    name: str, small_domains: None, tmp_path: Path, tacit: Callable[..., running.Outcome]
) -> None:
    folder = tmp_path / "population"
    found = tacit("data", "partition", "--config", SCENARIOS / f"{name}.toml", "--out", folder, "--json").json
    sizes = [len(read_clients(folder, [client]).client) for client in range(found["clients"])]
    assert sum(sizes) == 240 and max(sizes) > 2 * min(sizes)
