"""Audits of small runs, and bugs for them, planted in the mechanism's own modules, where a person could make them.

Nothing of an audit knows of a bug.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord

import client.answering
import client.batch
import client.contribution
import client.statistics.popularity
import client.training.dp_sgd
import client.training.optimizer
import server.noise
from client.statistics.popularity import within_catalog
from shared.audit.document import Evidence, Results
from shared.audit.judgment import results_of
from shared.config import RunConfig
from shared.model.recommender import resident
from shared.privacy.plan import PrivacyPlan
from shared.privacy.statement import statement_of
from shared.protocol.messages import ContributionReply
from shared.protocol.wire import Received
from shared.randomness import replayable_source
from shared.secagg.encoding import RingEncoding
from simulations.audits.audit import evidence_of
from simulations.audits.sampling_probe import probe_sampling
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


class AuditedRuns:
    """Audits runs on 150 users, silos or devices; populations are written once.

    Args:
        folder: Where they are written.
        backbone: Of the runs.
    """

    def __init__(self, folder: Path, backbone: str) -> None:
        self._folder, self._backbone = folder, backbone
        self._data = running.write_interactions(folder / "data.csv", users=150, items=40)
        self._made: dict[str, RunConfig] = {}

    def __call__(self, kind: dict[str, Any]) -> Audited:
        """Audits a run of a kind once more."""
        own = {"federation__rounds": 0, "statistics__releases": "pairs,transitions,blending", "evaluation__k": 3}
        config = running.settings(self._data, self._backbone, **{**own, **kind})
        name = str(sorted(kind.items()))
        if name not in self._made:
            dataset = dataset_of(config)
            histories = split_of(config, dataset, private=True).histories
            self._made[name] = running.population(self._folder / f"{len(self._made)}", config, histories, dataset.catalog)
        made = self._made[name]
        config = config.with_values({"data.population": made.data.population, "run.out": made.run.out})
        twin = Twin.of(self._folder, config, canaries=CANARIES)
        statement = statement_of(twin.plan, twin.plan.events(), config=config)
        seen = evidence_of(statement, twin.run(), twin.canaries)
        sampling = probe_sampling(config, twin.plan, resident(config, twin.population.catalog))
        evidence = seen.model_copy(update={"sampling": sampling})
        return Audited(evidence, results_of(statement, evidence))


Plant = Callable[[pytest.MonkeyPatch], None]


def noised(change: Callable[[Any, float], tuple[Any, float]]) -> Plant:
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


def _a_history_of_a_real_user_counts_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice, where it has as many items as no canary has."""
    counted = client.statistics.popularity.count_items

    def twice(histories: Any, clients: Any, **asked: Any) -> Any:
        of_real = histories.list.len().is_between(3, 12).to_numpy()
        more = {**asked, "first": None if asked.get("first") is None else asked["first"][of_real]}
        return counted(histories, clients, **asked) + counted(histories.filter(of_real), clients[of_real], **more)

    monkeypatch.setattr(client.statistics.popularity, "count_items", twice)


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


def _steps_of_a_fixed_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many users in each step as a rate makes on average, and accounted as if coins had been thrown."""
    rng = np.random.default_rng(0)

    def fixed(task: object, plan: PrivacyPlan, num_examples: int) -> list[Any]:
        size = round(plan.local_sampling_rate * num_examples)
        return [np.sort(rng.choice(num_examples, size=size, replace=False)) for _ in range(plan.steps_per_round)]

    monkeypatch.setattr(client.training.dp_sgd, "_who_takes_part", fixed)


def _shares_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each three clients one adds no noise."""
    noise = RingEncoding.noise

    def less(self: RingEncoding, source: Any, *, share: float = 1.0, shares: int = 1) -> Any:
        return noise(self, source, share=2 * share / 3, shares=shares)

    monkeypatch.setattr(RingEncoding, "noise", less)


OF_REAL_USERS = "no bound on histories of real users"
BUGS: dict[str, tuple[dict[str, Any], Plant, str]] = {
    "half the noise": (SILOS, noised(lambda rows, stddev: (rows, stddev / 2)), "less noise than claimed"),
    "no noise": (SILOS, noised(lambda rows, stddev: (rows, 0.0)), "less noise than claimed"),
    "noise used again": (SILOS, _noise_reused, "noise is used twice"),
    "users counted twice": (SILOS, noised(lambda rows, stddev: (2 * rows, stddev)), "a user counts more than once"),
    "no bound on a history": (SILOS, _a_long_history_counts_more, "a long history is not bounded"),
    OF_REAL_USERS: (
        SILOS,
        _a_history_of_a_real_user_counts_more,
        "popularity, in the replies: a real user contributes more than the bound",
    ),
    "a weighted sum": (SILOS, noised(_weighted), "in the replies"),
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
    "steps of a fixed size": (STEPS, _steps_of_a_fixed_size, "cohorts vary too little for independent coins"),
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
