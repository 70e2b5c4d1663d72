"""Audits of small runs: a correct one passes, and each planted bug is found without knowing which it is.

Bugs are planted in the mechanism's own modules, where a person could make them; nothing of the audit knows of them. The
system's randomness is replaced by a seeded stream, so that noise and coins are the same each time: a correct run may fail
one time in twenty.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, RecordDict

import shared.randomness
from shared.config import RunConfig
from shared.errors import ConfigError
from shared.protocol.messages import ContributionReply
from simulations.audits.canaries import plant
from simulations.audits.twin import Twin
from simulations.audits.witness import Witness
from tests.plans import distributed_plan, plain_plan, silo_plan
from tests.planted_bugs import (
    BUGS,
    DEVICES,
    OF_REAL_USERS,
    SHARES,
    SILOS,
    STEPS,
    TRAINED,
    TURNS,
    Audited,
    AuditedRuns,
    noised,
)


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory, tiny_bert: str) -> Callable[..., Audited]:
    """Audits a run on 150 users."""
    return AuditedRuns(tmp_path_factory.mktemp("twins"), tiny_bert)


@pytest.fixture(autouse=True)
def _same_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared.randomness, "secret_bytes", np.random.default_rng(11).bytes)


KINDS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "silos": (SILOS, {"popularity", "pairs", "transitions", "blending", "test"}),
    "devices": (DEVICES, {"popularity", "pairs", "transitions", "blending", "test"}),
    "trained": (TRAINED, {"popularity", "train", "test"}),
    "drawn clients": ({**TRAINED, "privacy__expected_cohort": 75}, {"popularity", "train", "test"}),
    "local steps": (STEPS, {"popularity", "train", "test"}),
    "shares of noise": (SHARES, {"popularity", "train", "test"}),
    "masks": ({**SHARES, "secure_aggregation__simulate": "full"}, {"popularity", "train", "test"}),
    "a bound that moves": ({**TRAINED, "privacy__clipping": "adaptive"}, {"popularity", "train", "test"}),
    "correlated noise": (TURNS, {"popularity", "train", "test"}),
    "correlated noise in silos": ({**STEPS, "privacy__mechanism": "dp-ftrl-silo"}, {"popularity", "test"}),
    "another optimizer": ({**STEPS, "training__optimizer": "adam"}, {"popularity", "test"}),
}
IN_SILOS = ("silos", "local steps", "correlated noise in silos", "another optimizer")
VIEWS = {"drawn clients": {"sums", "sums and cohorts"}, **{name: {"sums", "replies"} for name in IN_SILOS}}


@pytest.mark.parametrize("name", KINDS)
def test_a_correct_run_passes_and_every_release_of_it_is_read(audited: Callable[..., Audited], name: str) -> None:
    kind, purposes = KINDS[name]
    found = audited(kind)
    assert found.results.verdict == "passed", found.results.failures
    assert {one.purpose for one in found.evidence.releases} == purposes
    assert {attack.view for attack in found.evidence.attacks} == VIEWS.get(name, {"sums"})


@pytest.mark.soak
@pytest.mark.parametrize("name", ["drawn clients", "a bound that moves", "correlated noise", "local steps", "masks"])
def test_correct_runs_whose_rounds_are_read_seldom_fail(audited: Callable[..., Audited], name: str) -> None:
    """Null: a correct run, 40 audits at 5 %: P[Bin(40, .05) > 7] = 0.1 %. A minute; planted bugs are told above."""
    verdicts = [audited(KINDS[name][0]).results.verdict for _ in range(40)]
    assert verdicts.count("failed") <= 7


def test_the_estimate_of_a_correct_run_is_close_to_its_claim(audited: Callable[..., Audited]) -> None:
    """With some 150 canaries in, a standard error of the estimate is about 0.6 at 8."""
    (estimate,) = [one for one in audited(SILOS).results.estimates if one.view == "replies" and one.method == "one-shot"]
    assert estimate.claimed == pytest.approx(8.0, abs=0.01)
    assert abs(estimate.epsilon - 8.0) < 1.5 and estimate.low < 8.0 < estimate.high


@pytest.mark.parametrize("bug", sorted(BUGS.keys() - {OF_REAL_USERS}))
def test_power_a_planted_bug_fails_the_audit_and_the_probe_that_is_meant_for_it_says_so(
    bug: str, audited: Callable[..., Audited], monkeypatch: pytest.MonkeyPatch
) -> None:
    _fails(bug, audited, monkeypatch)


def test_power_a_missing_bound_on_real_users_alone_fails_the_audit(
    audited: Callable[..., Audited], monkeypatch: pytest.MonkeyPatch
) -> None:
    _fails(OF_REAL_USERS, audited, monkeypatch)


def _fails(bug: str, audited: Callable[..., Audited], monkeypatch: pytest.MonkeyPatch) -> None:
    kind, plant, what = BUGS[bug]
    plant(monkeypatch)
    results = audited(kind).results
    assert results.verdict == "failed"
    assert any(what in failure for failure in results.failures), results.failures


@pytest.mark.parametrize("change", ["another dtype", "another size", "NaN", "something beside"])
def test_a_malformed_reply_that_the_server_leaves_out_is_left_out_of_the_audit_too(
    change: str, audited: Callable[..., Audited], monkeypatch: pytest.MonkeyPatch
) -> None:
    resident, sent = ContributionReply.to_resident_record, iter(range(10**6))

    def malformed(reply: ContributionReply) -> Any:
        if next(sent) % 3:  # of each request the first silo's reply
            return resident(reply)
        values = np.asarray(reply.values)
        if change == "something beside":
            return RecordDict({**resident(reply), "fields": ConfigRecord({"loss": 0.25})})
        changed = {
            "another dtype": values.astype(np.float64),
            "another size": np.append(values, np.float32(0.0)),
            "NaN": np.full_like(values, np.nan),
        }
        return resident(dataclasses.replace(reply, values=changed[change]))

    monkeypatch.setattr(ContributionReply, "to_resident_record", malformed)
    found = audited({**STEPS, "federation__minimum_clients": 2})
    failures = [one for one in found.results.failures if "beside" not in one]
    assert (found.results.verdict == "failed") == (change == "something beside") and not failures


def test_a_run_without_noise_is_given_away_by_the_bounds_alone(
    audited: Callable[..., Audited], monkeypatch: pytest.MonkeyPatch
) -> None:
    noised(lambda rows, stddev: (rows, 0.0))(monkeypatch)
    bounds = {bound.method: bound for bound in audited(SILOS).results.bounds if bound.view == "replies"}
    assert bounds["f-dp"].correct == bounds["f-dp"].guesses and bounds["f-dp"].epsilon > 4.0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"privacy.unit": "window"}, "Expected privacy.unit=user for an audit"),
    ],
)
def test_a_run_that_cannot_have_a_twin_is_refused_with_the_reason(
    changes: dict[str, Any], said: str, tmp_path: Path, tiny_config: RunConfig
) -> None:
    with pytest.raises(ConfigError, match=said):
        Twin.of(tmp_path, tiny_config.with_values(changes), canaries=20)


def test_replies_are_kept_where_each_has_noise_of_its_own_and_nowhere_else() -> None:
    """Without noise nothing is claimed of them, and there may be one of every user, each a whole statistic."""
    canaries = plant(np.ones(40, dtype=np.int64), wanted=20, clients=30, head=40, displace=True,
                     rng=np.random.default_rng(0), coins=shared.randomness.secret_source())  # fmt: skip
    assert Witness(canaries, silo_plan()).replies is not None
    assert Witness(canaries, plain_plan()).replies is None
    assert Witness(canaries, distributed_plan()).replies is None
