"""Every unit and mechanism end to end in `tacit simulate`: the claim, the noise, the ledger and both outputs agree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.ledger.ledger import Ledger
from shared.privacy.accounting import epsilon
from shared.privacy.events import with_known_participation
from tests import running

SILO = {"federation__clients": 3}
USERS = {"federation__clients": 0, "privacy__mechanism": "central", "training__local_steps": 2, "privacy__delta": 0.001}
# Thirty users: delta must be below 1/30.
RUNS: dict[str, dict[str, Any]] = {
    "dp-sgd": {**SILO},
    "dp-sgd by Opacus": {**SILO, "training__gradients": "opacus"},
    "window": {**SILO, "privacy__unit": "window", "model__max_history_length": 3},
    "dp-ftrl-silo": {**SILO, "privacy__mechanism": "dp-ftrl-silo", "privacy__min_separation": 2},
    "central": {**USERS},
    "central, sampled": {**USERS, "privacy__expected_cohort": 12},
    "central, capped": {**USERS, "privacy__expected_cohort": 12, "privacy__cohort_cap": 20},
    "central, adaptive": {**USERS, "privacy__clipping": "adaptive"},
    "central, best round": {**USERS, "evaluation__released_round": "best-noised"},
    "dp-ftrl-central": {
        **USERS, "privacy__mechanism": "dp-ftrl-central", "privacy__expected_cohort": 15, "federation__rounds": 4,
    },
    "distributed": {**USERS, "privacy__mechanism": "auto", "privacy__colluding_clients": 3},
    "distributed, sampled, adaptive": {
        **USERS, "privacy__mechanism": "distributed", "privacy__expected_cohort": 24, "privacy__clipping": "adaptive",
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return running.write_interactions(tmp_path_factory.mktemp("data") / "interactions.csv")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, data: Path, tiny_bert: str) -> Any:
    """Runs each mechanism once, on first use."""
    finished: dict[str, Path] = {}

    def run(name: str, capsys: pytest.CaptureFixture[str]) -> Path:
        if name not in finished:
            out = tmp_path_factory.mktemp("runs") / "run"
            flags = running.flags(tiny_bert, adapter__item_rank=0, **RUNS[name])
            outcome = running.run_tacit(capsys, "simulate", "--data", data, "--out", out, "--json", *flags)
            assert outcome.status == 0, outcome.stderr
            finished[name] = out
        return finished[name]

    return run


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", RUNS)
def test_a_private_run_claims_its_target_and_its_ledgers_agree(
    name: str, runs: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = runs(name, capsys)
    record, release = _json(run_dir / "run.json"), _json(run_dir / "release.json")
    privacy = record["privacy"]
    assert record["status"] == "complete"
    assert privacy["is_private"] is True
    assert 7.9 < privacy["epsilon"] <= 8.0
    assert release["spending"]["together"] == pytest.approx(privacy["epsilon"])
    assert release["claims"] == privacy["claims"]
    # Every client's own ledger, for whoever knows when it took part, never says more than the public worst case.
    spent = privacy["ledger"]["epsilon_known_participation"]
    assert 0 < spent <= privacy["per_client"]["known_participation"] + 1e-6
    assert privacy["ledger"]["faults"] == 0
    assert privacy["per_client"]["with_amplification"] <= privacy["per_client"]["known_participation"] + 1e-6


@pytest.mark.parametrize("name", RUNS)
def test_every_event_in_a_ledger_was_sent_and_none_is_left_reserved(
    name: str, runs: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = Ledger(runs(name, capsys) / "population" / "ledger.sqlite")
    exported = ledger.export()
    ledger.close()
    assert {event["state"] for event in exported["events"]} == {"sent"}
    assert {event["purpose"] for event in exported["events"]} >= {"train", "popularity", "test"}


@pytest.mark.parametrize("name", ["central", "distributed", "dp-sgd"])
def test_the_release_report_holds_no_exact_number_of_the_research_record(
    name: str, runs: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = runs(name, capsys)
    record = _json(run_dir / "run.json")
    exact = {
        round(value["mean"], 12)
        for target in record["metrics"].values()
        for value in target.values()
        # Round numbers are settings as well as metrics.
        if value["mean"] is not None and abs(value["mean"] * 1000 - round(value["mean"] * 1000)) > 1e-6
    }
    exact |= {round(row["training_loss"], 12) for row in record["rounds"]}
    found = set(_numbers(_json(run_dir / "release.json")))
    assert len(exact) > 5
    assert not exact & {round(number, 12) for number in found}
    text = (run_dir / "release.json").read_text(encoding="utf-8")
    for private in ("clients_asked", "clients_answered", "training_loss", "seconds", "faults", "person-", "thing-"):
        assert private not in text


def _numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [number for inner in value.values() for number in _numbers(inner)]
    if isinstance(value, list):
        return [number for inner in value for number in _numbers(inner)]
    return [float(value)] if isinstance(value, int | float) and not isinstance(value, bool) else []


def test_dp_ftrl_separates_the_participations_of_every_client(runs: Any, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = Ledger(runs("dp-ftrl-central", capsys) / "population" / "ledger.sqlite")
    runs_seen = {event["run"] for event in ledger.export()["events"]}
    (run,) = runs_seen
    for owner in ledger.owners():
        rounds = ledger.participations(owner, run=run)
        assert len(rounds) == 2  # four rounds, half of the clients in each
        assert np.diff(rounds).min() >= 2
    ledger.close()


def test_a_silo_under_dp_ftrl_accounts_for_its_users_by_group(runs: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = runs("dp-ftrl-silo", capsys)
    ledger = Ledger(run_dir / "population" / "ledger.sqlite")
    assert ledger.owners() == [f"client-{client}/group-{group}-of-2" for client in range(3) for group in range(2)]
    delta = _json(run_dir / "run.json")["privacy"]["delta"]
    for owner in ledger.owners():
        spent = with_known_participation(ledger.spent(owner))
        # Two rounds of two steps, in turns: every group is in two steps.
        assert epsilon(spent, delta=delta) == pytest.approx(8.0, abs=0.1)
    ledger.close()


def test_adaptive_clipping_moves_the_bound_toward_the_quantile(runs: Any, capsys: pytest.CaptureFixture[str]) -> None:
    rounds = _json(runs("central, adaptive", capsys) / "run.json")["rounds"]
    bounds = [row["l2_clip_norm"] for row in rounds]
    assert len({0.1, *bounds}) == len(bounds) + 1
    for before, after in zip([0.1, *bounds], bounds, strict=False):
        assert np.exp(-0.1) - 1e-9 <= after / before <= np.exp(0.1) + 1e-9  # rate 0.2 around a median


def test_a_second_run_on_the_same_ledger_sees_what_the_first_one_spent_and_is_refused_beyond_the_limit(
    tmp_path: Path, data: Path, tiny_bert: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "own.sqlite"
    flags = running.flags(tiny_bert, federation__clients=3)
    first = running.run_tacit(
        capsys, "simulate", "--data", data, "--out", tmp_path / "1", "--ledger", path, "--json", *flags
    )
    assert first.status == 0, first.stderr
    second = running.run_tacit(
        capsys, "simulate", "--data", data, "--out", tmp_path / "2", "--ledger", path, "--json", *flags
    )
    assert second.status == 0, second.stderr
    spent = [run.json["privacy"]["ledger"]["epsilon_known_participation"] for run in (first, second)]
    assert spent[0] == pytest.approx(8.0, abs=0.1)
    assert spent[0] + 2 < spent[1] < 2 * spent[0]
    outcome = running.run_tacit(capsys, "node", "budget", "set-limit", "--ledger", path, "--epsilon", spent[1] + 0.1)
    assert outcome.status == 0, outcome.stderr
    third = running.run_tacit(capsys, "simulate", "--data", data, "--out", tmp_path / "3", "--ledger", path, *flags)
    assert third.status == 1
    assert "Expected a plan that fits what the owner of this device still allows" in third.stderr
    assert not (tmp_path / "3" / "adapter").exists()
    # It was refused whole, before its first release: the third run spent nothing.
    ledger = Ledger(path)
    assert len({event["run"] for event in ledger.export()["events"]}) == 2
    ledger.close()


def test_a_plan_beyond_the_limit_spends_nothing_and_one_within_it_is_carried_out(
    tmp_path: Path, data: Path, tiny_bert: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The popularity count alone would fit, and so would most rounds."""
    path = tmp_path / "own.sqlite"
    flags = running.flags(tiny_bert, federation__clients=3)
    running.run_tacit(capsys, "node", "budget", "set-limit", "--ledger", path, "--epsilon", "5")
    for number, (target, status) in enumerate([(8, 1), (5.1, 1), (5, 0)]):
        out = tmp_path / str(number)
        outcome = running.run_tacit(
            capsys, "simulate", "--data", data, "--out", out, "--ledger", path, "--epsilon", target, *flags
        )
        assert outcome.status == status, outcome.stderr
        ledger = Ledger(path)
        assert bool(ledger.owners()) is not bool(status)
        ledger.close()


def test_data_may_grow_under_a_ledger_that_goes_on_counting(
    tmp_path: Path, data: Path, tiny_bert: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """More interactions, and more users, of data that keep their name."""
    path, own = tmp_path / "own.sqlite", tmp_path / "own.csv"
    flags = running.flags(tiny_bert, federation__clients=3, privacy__delta=1e-4)
    spent = []
    for number, users in enumerate((30, 31)):
        running.write_interactions(own, users=users)
        run = running.run_tacit(
            capsys, "simulate", "--data", own, "--out", tmp_path / str(number), "--ledger", path, "--json", *flags
        )
        assert run.status == 0, run.stderr
        spent.append(run.json["privacy"]["ledger"]["epsilon_known_participation"])
    assert spent[0] + 2 < spent[1]
    renamed = own.rename(tmp_path / "renamed.csv")
    arguments = ("simulate", "--data", renamed, "--ledger", path, *flags)
    refused = running.run_tacit(capsys, *arguments, "--out", tmp_path / "2")
    assert refused.status == 1
    assert "got one that is bound to another name" in refused.stderr
    named = running.run_tacit(capsys, *arguments, "--out", tmp_path / "3", "--set", "data.name=own.csv")
    assert named.status == 0, named.stderr


def test_an_epsilon_limit_alone_refuses_a_mechanism_whose_noise_the_server_adds(
    tmp_path: Path, data: Path, tiny_bert: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "own.sqlite"
    flags = running.flags(
        tiny_bert, federation__clients=0, privacy__mechanism="central", privacy__expected_cohort=15, federation__rounds=1
    )
    limits = ("node", "budget", "set-limit", "--ledger", path)
    for number, (limit, status) in enumerate([(("--epsilon", "100"), 1), (("--mechanism", "central,dp-sgd"), 0)]):
        running.run_tacit(capsys, *limits, *limit)
        out = tmp_path / str(number)
        outcome = running.run_tacit(capsys, "simulate", "--data", data, "--out", out, "--ledger", path, *flags)
        assert outcome.status == status, outcome.stderr
        wanted = "Expected a plan that protects against adversary=server, which the owner of this device allows, got"
        assert (wanted in outcome.stderr) is bool(status)
        ledger = Ledger(path)
        assert bool(ledger.owners()) is not bool(status)
        ledger.close()


def test_a_ledger_of_other_data_is_refused(
    tmp_path: Path, data: Path, tiny_bert: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "own.sqlite"
    flags = running.flags(tiny_bert, federation__rounds=1)
    running.run_tacit(capsys, "simulate", "--data", data, "--out", tmp_path / "1", "--ledger", path, *flags)
    other = running.write_interactions(tmp_path / "other.csv", seed=1)
    outcome = running.run_tacit(capsys, "simulate", "--data", other, "--out", tmp_path / "2", "--ledger", path, *flags)
    assert outcome.status == 1
    assert "Expected the privacy ledger of the data that this device names, got one that is bound to" in outcome.stderr
    assert not (tmp_path / "2" / "adapter").exists()


def test_a_plan_that_the_owner_does_not_allow_is_refused_before_data_is_read(
    tmp_path: Path, data: Path, tiny_bert: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "own.sqlite"
    running.run_tacit(capsys, "node", "budget", "set-limit", "--ledger", path, "--max-clip-norm", "0.01")
    outcome = running.run_tacit(
        capsys, "simulate", "--data", data, "--out", tmp_path / "1", "--ledger", path, *running.flags(tiny_bert)
    )
    assert outcome.status == 1
    assert "No data was read" in outcome.stderr
    assert "set-limit" in outcome.stderr


def test_users_with_an_account_by_group_get_no_second_one(
    tmp_path: Path, data: Path, tiny_bert: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A server that changed the turns from run to run could make a user spend in accounts that do not add up."""
    path = tmp_path / "own.sqlite"
    for number, (settings, status) in enumerate(
        [
            ({"privacy__mechanism": "dp-ftrl-silo", "privacy__min_separation": 2}, 0),
            ({"privacy__mechanism": "dp-ftrl-silo", "privacy__min_separation": 2, "federation__rounds": 3}, 0),
            ({"privacy__mechanism": "dp-ftrl-silo", "privacy__min_separation": 4}, 1),
            ({}, 1),
        ]
    ):
        flags = running.flags(tiny_bert, federation__clients=3, **settings)
        out = tmp_path / str(number)
        outcome = running.run_tacit(capsys, "simulate", "--data", data, "--out", out, "--ledger", path, *flags)
        assert outcome.status == status, outcome.stderr
        assert ("found other accounts of theirs. No data was read" in outcome.stderr) is bool(status)
