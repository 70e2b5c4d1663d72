"""Exact metrics of a simulation: the simulator made the data and holds it, so it measures the server's states itself.

The server shows each state, noised already, to the `Evaluator` (`server.rounds.Observer`), which ranks the whole catalog for
every user. No client sends an exact loss or metric, in a simulation as little as in a deployment; the message types for it
do not exist. What is measured goes into `evaluation/` in the run's folder, for the research record alone, which is stamped
NOT PRIVATE: nothing here is noised, and nothing here reaches the server's choices or the release report.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from client.statistics.metrics import evaluate
from client.store.data import ClientRows
from server.event_log import EventLog
from server.statistics.statistic import Total
from shared.config import RunConfig
from shared.data.catalog import ItemCatalog
from shared.files import write_atomically
from shared.metrics import EvaluationSums, summarize, users_at_once
from shared.model.recommender import Recommender, resident
from shared.model.state import RecommenderState
from shared.privacy.calibration import validated_rounds
from shared.privacy.releases import Purpose
from shared.protocol.messages import Target
from simulations.rounds import FOLDER, ROUNDS, measured_rounds

# Users whose last training interaction the loss is taken of; always the same ones, so that rounds can be compared.
_USERS_OF_LOSS = 512


class Evaluator:
    """Measures the states of one run.

    Args:
        config: The run: list length, replicates, seed, rounds to validate. (public)
        catalog: The items. (public)
        histories: The HISTORIES TABLE of all users. (private)
        run_dir: The run's folder; what an interrupted run measured is kept.
        progress: Called with what was measured after each round. (private)

    Attributes:
        rounds: What was measured after each round, by its number. (private)
    """

    def __init__(
        self,
        config: RunConfig,
        catalog: ItemCatalog,
        histories: pl.DataFrame,
        run_dir: Path,
        *,
        progress: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self._progress = progress
        self._config, self._catalog, self._folder = config, catalog, run_dir / FOLDER
        self._rows = ClientRows(histories=histories, client=np.zeros(len(histories), dtype=np.int64))
        self._known, self._next = _training_targets(histories, seed=config.run.seed)
        self._validated_rounds = frozenset(validated_rounds(config))
        self._last_validated = -1  # round 0 is a state too: that of a run without training
        self.rounds: dict[int, Mapping[str, Any]] = measured_rounds(run_dir)

    def begins(self, log: EventLog) -> None:
        """Writes nothing down."""

    def summed(self, purpose: Purpose, round_number: int, total: Total) -> None:
        """Measures nothing: what a sum is worth shows in the state that is made of it."""

    def round_finished(self, state: RecommenderState, round_number: int) -> None:
        """Measures the loss, and in the rounds that the configuration names the validation metrics."""
        recommender = self._loaded(state)
        row: dict[str, Any] = {"round_number": round_number, "training_loss": self._loss(recommender), "validation": None}
        if round_number in self._validated_rounds:
            row["validation"] = self._headline(self._measure(recommender, "validation"))
            self._last_validated = round_number
        self.rounds[round_number] = row
        lines = "".join(json.dumps(self.rounds[number], allow_nan=False) + "\n" for number in sorted(self.rounds))
        write_atomically(self._folder / ROUNDS, lambda stream: stream.write(lines.encode()))
        if self._progress is not None:
            self._progress(dict(row))

    def released(self, state: RecommenderState, round_number: int) -> None:
        """Measures what is released."""
        recommender = self._loaded(state)
        if self._last_validated != round_number:
            self._measure(recommender, "validation")
        self._measure(recommender, "test")

    def _loaded(self, state: RecommenderState) -> Recommender:
        recommender = resident(self._config, self._catalog)
        recommender.load_state(state)
        return recommender

    def _measure(self, recommender: Recommender, target: Target) -> EvaluationSums:
        settings = self._config.evaluation
        (vector,) = evaluate(self._rows, recommender, self._config, target=target, num_clients=1)
        write_atomically(self._folder / f"{target}.npy", lambda stream: np.save(stream, vector))
        return EvaluationSums.from_vector(vector, recommender.num_items, settings.bootstrap_replicates, k=settings.k)

    def _headline(self, sums: EvaluationSums) -> dict[str, float | None]:
        """HR and NDCG alone; exact popularity, which only other metrics need, is not computed for every round."""
        k = self._config.evaluation.k
        metrics = summarize(sums, item_popularity=np.ones(self._catalog.num_items))
        return {name: metrics[name]["mean"] for name in (f"hr@{k}", f"ndcg@{k}")}

    def _loss(self, recommender: Recommender) -> float | None:
        """Mean cross-entropy of users' last training interaction, in nats; None where no user has two, or it diverged."""
        if not len(self._next):
            return None
        losses = []
        at_once = users_at_once(recommender.num_items, self._config.evaluation.batch_size)
        for start in range(0, len(self._next), at_once):
            part = slice(start, start + at_once)
            scores = recommender.score(self._known[part]).astype(np.float64)
            highest = scores.max(axis=1, keepdims=True)
            total = np.log(np.exp(scores - highest).sum(axis=1)) + highest[:, 0]
            losses.append(total - scores[np.arange(len(scores)), self._next[part]])
        mean = float(np.concatenate(losses).mean())
        return mean if np.isfinite(mean) else None


def _training_targets(histories: pl.DataFrame, *, seed: int) -> tuple[list[NDArray[np.int32]], NDArray[np.int64]]:
    """For some users drawn by the seed: all training interactions but the last, and the last."""
    trained = histories.filter(pl.col("train").list.len() > 1)["train"]
    if len(trained) > _USERS_OF_LOSS:
        chosen = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0x6C6F7373,)))
        trained = trained.gather(np.sort(chosen.choice(len(trained), size=_USERS_OF_LOSS, replace=False)))
    rows = [history.to_numpy() for history in trained]
    return [row[:-1] for row in rows], np.array([row[-1] for row in rows], dtype=np.int64)
