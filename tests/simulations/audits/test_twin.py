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

import client.answering
import client.batch
import client.contribution
import client.statistics.popularity
import client.training.dp_sgd
import client.training.optimizer
import server.noise
import shared.randomness
from client.statistics.popularity import within_catalog
from shared.audit.document import Evidence, Results
from shared.audit.judgment import results_of
from shared.config import RunConfig
from shared.errors import ConfigError
from shared.privacy.statement import statement_of
from shared.protocol.messages import ContributionReply
from shared.protocol.wire import Received
from shared.randomness import replayable_source
from shared.secagg.encoding import RingEncoding
from simulations.audits.audit import evidence_of
from simulations.audits.twin import Twin
from simulations.preparing import dataset_of, split_of
from tests import running

CANARIES = 300
SILOS = {"federation__clients": 3}
DEVICES = {"federation__clients": 0, "privacy__mechanism": "central"}
TRAINED = {**DEVICES, "federation__rounds": 2, "statistics__releases": "none"}
STEPS = {**SILOS, "federation__rounds": 2, "statistics__releases": "none"}
SHARES = {**TRAINED, "privacy__mechanism": "distributed"}
TURNS = {**TRAINED, "privacy__mechanism": "dp-ftrl-central", "federation__rounds": 4, "privacy__min_separation": 2}


@dataclasses.dataclass(frozen=True)
class Audited:
    """What an audit saw and what follows."""

    evidence: Evidence
    results: Results


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory, tiny_bert: str) -> Callable[..., Audited]:
    """Audits a run on 150 users, silos or devices; populations are written once."""
    folder = tmp_path_factory.mktemp("twins")
    data = running.write_interactions(folder / "data.csv", users=150, items=40)
    made: dict[str, RunConfig] = {}

    def audit(kind: dict[str, Any]) -> Audited:
        own = {"federation__rounds": 0, "statistics__releases": "pairs,transitions,blending", "evaluation__k": 3}
        config = running.settings(data, tiny_bert, **{**own, **kind})
        name = str(sorted(kind))
        if name not in made:
            dataset = dataset_of(config)
            histories = split_of(config, dataset, private=True).histories
            made[name] = running.population(folder / f"{len(made)}", config, histories, dataset.catalog)
        config = config.with_values({"data.population": made[name].data.population, "run.out": made[name].run.out})
        twin = Twin.of(folder, config, canaries=CANARIES)
        statement = statement_of(twin.plan, twin.plan.events(), config=config)
        evidence = evidence_of(statement, twin.run(), twin.canaries)
        return Audited(evidence, results_of(statement, evidence))

    return audit


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


Plant = Callable[[pytest.MonkeyPatch], None]


def _noised(change: Callable[[Any, float], tuple[Any, float]]) -> Plant:
    """A silo's last step before its reply, with other rows or another standard deviation."""

    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        noised = client.contribution.noised

        def changed(rows: Any, *, stddev: float, sources: Any) -> Any:
            rows, stddev = change(rows, stddev)
            return noised(rows, stddev=stddev, sources=sources)

        monkeypatch.setattr(client.contribution, "noised", changed)

    return plant


def _noise_reused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client.batch, "secret_source", lambda: replayable_source(0, "the same"))


def _a_long_history_counts_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each item counts 1, so that a user moves the sum by the root of the number of items."""

    def unbounded(histories: Any, clients: Any, *, num_clients: int, num_items: int, first: Any = None) -> Any:
        known = within_catalog(histories, num_items=num_items)
        distinct = histories.filter(known).list.unique()
        sizes = distinct.list.len().to_numpy().astype(np.int64)
        items = distinct.explode(empty_as_null=False).to_numpy().astype(np.int64)
        places = np.repeat(clients[known.to_numpy()], sizes) * num_items + items
        return np.bincount(places, minlength=num_clients * num_items).astype(np.float64).reshape(num_clients, num_items)

    monkeypatch.setattr(client.statistics.popularity, "count_items", unbounded)


def _weighted(rows: Any, stddev: float) -> tuple[Any, float]:
    """A silo counts by a weight of its own."""
    return rows * np.linspace(0.8, 1.4, len(rows))[:, None], stddev


def _a_value_beside_the_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    resident = ContributionReply.to_resident_record

    def with_loss(reply: ContributionReply) -> Any:
        record = resident(reply)
        record["fields"] = ConfigRecord({"loss": 0.25})
        return record

    monkeypatch.setattr(ContributionReply, "to_resident_record", with_loss)
    monkeypatch.setattr(Received, "verify_contribution", lambda self: None)  # a server of today leaves such a reply out


def _server_noise(scale: float) -> Plant:
    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        added_to = server.noise.ServerNoise.added_to

        def less(self: Any, total: Any, encoding: Any, **asked: Any) -> Any:
            if scale == 0.0:
                return total
            encoding = dataclasses.replace(encoding, noise_multiplier=scale * encoding.noise_multiplier)
            return added_to(self, total, encoding, **asked)

        monkeypatch.setattr(server.noise.ServerNoise, "added_to", less)

    return plant


def _server_noise_reused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.noise, "secret_source", lambda: replayable_source(0, "the same"))


def _noise_not_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that draws each round's noise with the variance that only noise over time is enough for."""

    def fresh(self: Any, encoding: RingEncoding, source: Any, round_number: int) -> Any:
        return source.gaussian(encoding.dimension, stddev=1.5 * np.sqrt(encoding.noise_variance))

    monkeypatch.setattr(server.noise.ServerNoise, "_correlated", fresh)


def _updates_counted_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = client.answering.encoded

    def twice(vectors: Any, encoding: RingEncoding, **asked: Any) -> Any:
        ring = encoded(vectors, encoding, **asked)
        return encoding.add(ring, ring)

    monkeypatch.setattr(client.answering, "encoded", twice)


def _steps_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = client.training.dp_sgd._noise
    monkeypatch.setattr(client.training.dp_sgd, "_noise", lambda *asked: noise(*asked) / 2)


def _steps_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    def unclipped(samples: Any, l2_clip_norm: float) -> Any:
        factor, finite = clip_factors(samples, l2_clip_norm)
        return factor * 0.0 + 1.0, finite

    clip_factors = client.training.optimizer.clip_factors
    monkeypatch.setattr(client.training.optimizer, "clip_factors", unclipped)


def _shares_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each three clients one adds no noise."""
    noise = RingEncoding.noise

    def less(self: RingEncoding, source: Any, *, share: float = 1.0, shares: int = 1) -> Any:
        return noise(self, source, share=2 * share / 3, shares=shares)

    monkeypatch.setattr(RingEncoding, "noise", less)


BUGS: dict[str, tuple[dict[str, Any], Plant, str]] = {
    "half the noise": (SILOS, _noised(lambda rows, stddev: (rows, stddev / 2)), "less noise than claimed"),
    "no noise": (SILOS, _noised(lambda rows, stddev: (rows, 0.0)), "less noise than claimed"),
    "noise used again": (SILOS, _noise_reused, "noise is used twice"),
    "users counted twice": (SILOS, _noised(lambda rows, stddev: (2 * rows, stddev)), "a user counts more than once"),
    "no bound on a history": (SILOS, _a_long_history_counts_more, "a long history is not bounded"),
    "a weighted sum": (SILOS, _noised(_weighted), "in the replies"),
    "a value beside the sums": (SILOS, _a_value_beside_the_sums, "fields.loss"),
    "half the server's noise": (DEVICES, _server_noise(0.5), "less noise than claimed"),
    "no noise of the server": (DEVICES, _server_noise(0.0), "less noise than claimed"),
    "updates counted twice": (
        TRAINED,
        _updates_counted_twice,
        "train of round 1, in the sums: a user counts more than once",
    ),
    "half the noise of a local step": (STEPS, _steps_noise, "train of round 2, in the replies: less noise than claimed"),
    "a gradient is not clipped": (STEPS, _steps_clip, "train of round 1, in the replies: a user counts more than once"),
    "half the noise of a round": (TRAINED, _server_noise(0.5), "train of round 2, in the sums: less noise than claimed"),
    "half the noise under a bound that moves": (
        {**TRAINED, "privacy__clipping": "adaptive"},
        _server_noise(0.5),
        "train of round 2, in the sums: less noise than claimed",
    ),
    "correlated noise is forgotten": (TURNS, _noise_not_taken_back, "train of round 2, in the sums: more in the sum"),
    "a third of the shares is missing": (SHARES, _shares_missing, "train of round 1, in the sums: less noise than claimed"),
    "the server's noise used again": (DEVICES, _server_noise_reused, "noise is used twice"),
}


@pytest.mark.parametrize("bug", BUGS)
def test_power_a_planted_bug_fails_the_audit_and_the_probe_that_is_meant_for_it_says_so(
    bug: str, audited: Callable[..., Audited], monkeypatch: pytest.MonkeyPatch
) -> None:
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
    _noised(lambda rows, stddev: (rows, 0.0))(monkeypatch)
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
