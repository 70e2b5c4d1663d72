"""What is done to many clients at once, for one: the tests mostly speak of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from client import contribution
from client.statistics import metrics as evaluation
from client.statistics import popularity, transitions
from client.store.data import ClientRows
from shared.config import RunConfig
from shared.metrics import EvaluationSums
from shared.model.recommender import Recommender
from shared.privacy.plan import PrivacyPlan
from shared.randomness import NoiseSource
from shared.secagg.encoding import RingEncoding


def clipped_update(update: NDArray[np.float32], *, plan: PrivacyPlan, l2_clip_norm: float) -> NDArray[np.float32]:
    return contribution.clipped_updates(update[None], plan=plan, l2_clip_norm=l2_clip_norm).rows[0]


def encode_rows(encoding: RingEncoding, vectors: NDArray[Any], sources: Sequence[NoiseSource]) -> NDArray[np.uint32]:
    return encoding.encode_rows(contribution.bounded(vectors, l2_bound=encoding.l2_bound), sources)


def encode(encoding: RingEncoding, vector: NDArray[Any], source: NoiseSource) -> NDArray[np.uint32]:
    return encode_rows(encoding, vector[np.newaxis], [source])[0]


def pack(vector: NDArray[Any], encoding: RingEncoding, *, plan: PrivacyPlan, source: NoiseSource) -> NDArray[np.uint8]:
    vectors = contribution.bounded(vector[None], l2_bound=encoding.l2_bound)
    return encoding.pack(contribution.encoded(vectors, encoding, plan=plan, sources=[source])[0])


def noised(vector: NDArray[np.float64], *, stddev: float, source: NoiseSource) -> NDArray[np.float32]:
    return contribution.noised(vector[None], stddev=stddev, sources=[source])[0]


def count_items(histories: pl.Series, *, num_items: int) -> NDArray[np.float64]:
    nobody = np.zeros(len(histories), dtype=np.int64)
    return popularity.count_items(histories, nobody, num_clients=1, num_items=num_items)[0]


def transition_vectors(
    histories: pl.Series, directions: NDArray[np.float32], mean: NDArray[np.float64], **settings: Any
) -> NDArray[np.float64]:
    own = np.arange(len(histories))
    return transitions.transition_sums(histories, own, directions, mean, num_clients=len(own), **settings)


def evaluate(histories: pl.DataFrame, recommender: Recommender, config: RunConfig, *, target: Any) -> EvaluationSums:
    rows = ClientRows(histories=histories, client=np.zeros(len(histories), dtype=np.int64))
    (sums,) = evaluation.evaluate(rows, recommender, config, target=target, num_clients=1)
    settings = config.evaluation
    return EvaluationSums.from_vector(sums, recommender.num_items, settings.bootstrap_replicates, k=settings.k)


def vector_of(sums: EvaluationSums) -> NDArray[np.float64]:
    """What a client would have sent: the inverse of `EvaluationSums.from_vector`."""
    parts = [sums.num_users, sums.sums, sums.replicate_sums, sums.replicate_counts, sums.item_counts, sums.histogram]
    return np.concatenate([np.asarray(part, dtype=np.float64).reshape(-1) for part in parts])


def bounded_metrics(
    histories: pl.DataFrame, recommender: Recommender, config: RunConfig, *, target: Any
) -> NDArray[np.float64]:
    rows = ClientRows(histories=histories, client=np.zeros(len(histories), dtype=np.int64))
    return evaluation.bounded_metrics(rows, recommender, config, target=target, num_clients=1)[0]
