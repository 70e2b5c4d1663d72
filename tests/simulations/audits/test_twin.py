"""Audits of small runs: a correct one passes, and each planted bug is found without knowing which it is.

Bugs are planted in the mechanism's own modules, where a person could make them; nothing of the audit knows of them. The
system's randomness is replaced by a seeded stream, so that noise and coins are the same each time: a correct run may fail
one time in twenty.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shared.randomness
from shared.config import RunConfig
from shared.errors import ConfigError
from simulations.audits.twin import Twin
from tests.planted_bugs import BUGS, DEVICES, SHARES, SILOS, STEPS, TRAINED, Audited, AuditedRuns, noised


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
}


@pytest.mark.parametrize("name", KINDS)
def test_a_correct_run_passes_and_every_release_of_it_is_read(audited: Callable[..., Audited], name: str) -> None:
    kind, purposes = KINDS[name]
    found = audited(kind)
    assert found.results.verdict == "passed", found.results.failures
    assert {one.purpose for one in found.evidence.releases} == purposes
    assert {attack.view for attack in found.evidence.attacks} == (
        {"sums", "replies"} if name in ("silos", "local steps") else {"sums"}
    )


def test_the_estimate_of_a_correct_run_is_close_to_its_claim(audited: Callable[..., Audited]) -> None:
    """With some 150 canaries in, a standard error of the estimate is about 0.6 at 8."""
    (estimate,) = [one for one in audited(SILOS).results.estimates if one.view == "replies" and one.method == "one-shot"]
    assert estimate.claimed == pytest.approx(8.0, abs=0.01)
    assert abs(estimate.epsilon - 8.0) < 1.5 and estimate.low < 8.0 < estimate.high


@pytest.mark.parametrize("bug", BUGS)
def test_power_a_planted_bug_fails_the_audit_and_the_probe_that_is_meant_for_it_says_so(
    bug: str, audited: Callable[..., Audited], monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, plant, what = BUGS[bug]
    plant(monkeypatch)
    results = audited(kind).results
    assert results.verdict == "failed"
    assert any(what in failure for failure in results.failures), results.failures


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
        ({"run.continues": "/somewhere"}, "Expected a run that continues no other"),
        (
            {"federation.clients": 0, "privacy.mechanism": "distributed", "secure_aggregation.simulate": "full"},
            "Expected sums in the open",
        ),
    ],
)
def test_a_run_that_cannot_have_a_twin_is_refused_with_the_reason(
    changes: dict[str, Any], said: str, tmp_path: Path, tiny_config: RunConfig
) -> None:
    with pytest.raises(ConfigError, match=said):
        Twin.of(tmp_path, tiny_config.with_values(changes), canaries=20)
