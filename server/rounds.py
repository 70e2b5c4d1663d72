"""The round loop: the only file that knows the order.

    wait for nodes -> popularity prior
    -> [draw a cohort -> train -> sum -> server optimizer -> checkpoint -> validate] x rounds
    -> choose the released round -> test -> release

Every step that a person may want to see is appended to `events.jsonl` in the run's folder (`event_log.py`); the terminal
display, the run record and the report read that file, wherever the server runs. What comes out of a sum is noised already
(`releases.py`), so state, checkpoints and the adapter hold noised values only.
"""

from __future__ import annotations

import math
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import MessageType
from flwr.serverapp import Grid

from server import checkpoints, cohort
from server.aggregation import Aggregation, FloatSum, ServerOptimizer, held_shares, next_clip_norm, popularity_prior
from server.event_log import EVENTS, EventLog
from server.exact import aggregated
from server.release_report import write_release_report
from server.releases import Releases, RoundOutcome
from shared.catalog import ItemCatalog
from shared.config import RunConfig, schedule_factor
from shared.errors import CohortTooSmall, ProtocolViolation
from shared.files import write_atomically
from shared.metrics import EvaluationSums, summarize
from shared.privacy.plan import PrivacyPlan
from shared.privacy.planning import validated_rounds
from shared.protocol import EvaluateInstruction, EvaluateReply, Target
from shared.recommender import resident
from shared.update import RecommenderState

__all__ = ["EVENTS", "Federation"]

# Rounds in a row that may be dropped before the run gives up.
_MAX_DROPPED_ROUNDS = 3


@dataclass
class Progress:
    """Where a run stands; what a checkpoint holds.

    Attributes:
        state: Prior and adapter; noised.
        optimizer: The server's.
        finished: Rounds finished.
        l2_clip_norm: Of the next round.
        run_id: What the clients' ledgers know this run by.
        best: Round, noised score and state vector of the best validated round; empty where none is chosen.
    """

    state: RecommenderState
    optimizer: ServerOptimizer
    finished: int
    l2_clip_norm: float
    run_id: str
    best: dict[str, Any] = field(default_factory=dict)


@dataclass
class Federation:
    """One run as the server sees it.

    Attributes:
        grid: Flower's connection to the nodes.
        config: The run.
        run_dir: Where events, checkpoints and the adapter go.
        num_users: Size of the population. (public)
        num_clients: Clients of the population. (public)
        catalog: The items. (public)
    """

    grid: Grid
    config: RunConfig
    run_dir: Path
    num_users: int
    num_clients: int
    catalog: ItemCatalog

    def __post_init__(self) -> None:
        self.plan = PrivacyPlan.from_config(self.config, num_users=self.num_users, num_clients=self.num_clients)
        self.recommender = resident(self.config, self.catalog)
        attached, adapter = self.recommender.attached, self.config.adapter
        self.plan.verify_encodings(size=attached.size, num_items=self.catalog.num_items)
        shares = held_shares(attached.pairs, attached.size, adapter.largest_ranks(), num_clients=self.num_clients)
        self.aggregation = Aggregation(attached.pairs, products=adapter.aggregates_products, shares=shares)
        self.digest = self.config.digest()
        self.log = EventLog(self.run_dir / EVENTS)
        self.nodes: list[int] = []
        self._validated = 0  # the last round whose validation sums are on disk

    def run(self) -> None:
        """From the first message to the released adapter.

        Raises:
            CohortTooSmall: If too few clients connect or answer.
            CheckpointError: If a resumed run's checkpoints are damaged or of another configuration.
        """
        timeout = self.config.federation.timeout_seconds
        # The plan is for so many clients; any more would be in no population.
        nodes = cohort.wait_for_nodes(self.grid, count=self.num_clients, timeout_seconds=timeout)
        self.nodes = nodes[: self.num_clients]
        resumes = self.config.run.resume and checkpoints.exists(self.run_dir)
        progress = self._resumed() if resumes else self._started()
        noise = self.plan.noise_multiplier
        self.log.append("started", finished=progress.finished, rounds=self.plan.rounds, noise_multiplier=noise)
        dropped = 0
        for round_number in range(progress.finished + 1, self.plan.rounds + 1):
            try:
                self._round(round_number, progress)
                dropped = 0
            except CohortTooSmall as error:
                dropped += 1
                self.log.append("round_dropped", round_number=round_number, reason=str(error))
                # Where no round was finished there is nothing to release.
                if dropped == _MAX_DROPPED_ROUNDS or (round_number == self.plan.rounds and not progress.finished):
                    raise
        self._finish(progress)

    def _releases(self, run_id: str) -> Releases:
        return Releases(
            self.grid,
            self.nodes,
            self.plan,
            self.log,
            run_id=run_id,
            seed=self.config.run.seed,
            timeout_seconds=self.config.federation.timeout_seconds,
        )

    def _started(self) -> Progress:
        """The popularity prior and the public initialization."""
        # Two runs of one configuration are two runs to a ledger.
        run_id = f"{self.digest[:16]}-{'reproducible' if self.plan.reproducible else secrets.token_hex(8)}"
        self.releases = self._releases(run_id)
        total, stddev = self.releases.popularity(self.catalog.num_items)
        adapter = self.recommender.initial_adapter.copy()
        residual = np.zeros(self.recommender.attached.residual_size, dtype=np.float32)
        state = RecommenderState(popularity_prior(total, noise_stddev=stddev), adapter, residual)
        optimizer = ServerOptimizer(adapter, self.config.server_optimization())
        progress = Progress(state, optimizer, 0, self.plan.l2_clip_norm, run_id)
        self._checkpoint(progress)
        return progress

    def _resumed(self) -> Progress:
        saved = checkpoints.load(self.run_dir, config_digest=self.digest)
        self.releases = self._releases(saved.run_id)
        state = self.recommender.read_state(saved.state)
        optimizer = ServerOptimizer(state.adapter, self.config.server_optimization())
        optimizer.load(state.adapter, saved.optimizer)
        return Progress(state, optimizer, saved.round_number, saved.l2_clip_norm, saved.run_id, saved.best)

    def _round(self, round_number: int, progress: Progress) -> None:
        start = time.monotonic()
        outcome = self.releases.update(
            progress.state,
            round_number=round_number,
            size=self.recommender.attached.size,
            l2_clip_norm=progress.l2_clip_norm,
            aggregation=self.aggregation,
        )
        exactness = self._apply(outcome, progress, round_number)
        progress.finished = round_number
        if outcome.bits_sum is not None:
            progress.l2_clip_norm = next_clip_norm(
                progress.l2_clip_norm,
                bits_sum=outcome.bits_sum,
                bit=self.plan.clipping_bit(progress.l2_clip_norm),
                expected_cohort=self.plan.expected_cohort,
                quantile=self.plan.clipping_quantile,
                start=self.plan.l2_clip_norm,
            )
        self._consider(progress)
        self._checkpoint(progress)
        trained = time.monotonic()
        validation, failures = None, list(outcome.failures)
        if self.config.evaluation.research and round_number in validated_rounds(self.config):
            try:
                validation = self._evaluate(progress.state, "validation", round_number)
                self._validated = round_number
            except CohortTooSmall as error:  # the round itself is finished and stays
                failures = [*failures, str(error)]
        self.log.append(
            "round",
            round_number=round_number,
            training_loss=outcome.training_loss,
            validation=self._headline(validation) if validation else None,
            epsilon_spent=self._spent(),
            l2_clip_norm=progress.l2_clip_norm if self.plan.clipping_share else None,
            clients_asked=outcome.asked,
            clients_answered=outcome.answered,
            failures=failures[:3],
            seconds=time.monotonic() - start,
            training_seconds=trained - start,
            **exactness,
        )

    def _apply(self, outcome: RoundOutcome, progress: Progress, round_number: int) -> dict[str, float]:
        """Moves the state by what a round gave; says how exact that was where products are aggregated."""
        if outcome.products is not None:
            found = aggregated(
                outcome.products,
                progress.state,
                self.aggregation.pairs,
                initial=self.recommender.initial_adapter,
                keeps_residual=self.recommender.attached.residual is not None,
            )
            progress.state = found.state
            return {"aggregation_error": found.lost, "aggregation_cut": found.cut}
        # Silos follow the schedule themselves, with every local step; a whole update is scaled here.
        factor = 1.0
        if self.plan.clips_whole_updates:
            factor = schedule_factor(self.config.training.schedule, round_number=round_number, rounds=self.plan.rounds)
        if outcome.update is not None:
            progress.optimizer.step(outcome.update, rate_factor=factor)
        progress.state = RecommenderState(log_prior=progress.state.log_prior, adapter=progress.optimizer.adapter)
        return {}

    def _consider(self, progress: Progress) -> None:
        """Keeps the state of the best round by noised, accounted validations, where the released round is chosen so."""
        chooses = self.plan.evaluations > 1 and self.config.evaluation.released_round == "best-noised"
        if not chooses or progress.finished not in validated_rounds(self.config):
            return
        metrics = self.releases.metrics(progress.state, target="validation", round_number=progress.finished)
        score = metrics.ndcg if metrics.ndcg is not None else -math.inf
        if not progress.best or score > progress.best["score"]:
            vector = progress.state.to_vector().tolist()
            progress.best = {"round_number": progress.finished, "score": score, "state": vector}

    def _spent(self) -> float | None:
        """Epsilon of everything that clients were ever asked for in this run; None where nothing is claimed."""
        if not self.plan.is_private:
            return None
        return self.plan.epsilon_after(**vars(self.log.asked()))

    def _finish(self, progress: Progress) -> None:
        """Final metrics, then the adapter, then the last event: who reads it finds everything in place."""
        start = time.monotonic()
        state, released = progress.state, progress.finished
        if progress.best and progress.best["round_number"] != progress.finished:
            released = int(progress.best["round_number"])
            vector = np.array(progress.best["state"], dtype=np.float32)
            state = self.recommender.read_state(vector)
        if self.config.evaluation.research:
            if self._validated != released:
                self._evaluate(state, "validation", released)
            self._evaluate(state, "test", released)
        if self.plan.evaluations:
            self.releases.metrics(state, target="test", round_number=released)
        self.recommender.load_state(state)
        manifest = {
            "schema": "tacit-adapter-2",
            "backbone": self.config.model.backbone,
            "backbone_digest": self.recommender.backbone_digest,
            "layers": self.recommender.num_layers,
            "catalog_digest": self.catalog.digest,
            "config_digest": self.digest,
            "round_number": released,
            "epsilon": self._spent(),
            "delta": self.plan.delta if self.plan.is_private else None,
            "popularity_event": [vars(event) for event in self.plan.popularity_events],
        }
        checkpoints.release(self.recommender, self.run_dir, manifest=manifest)
        write_release_report(self.run_dir, self.config, self.plan, facts=manifest)
        self.log.append("finished", seconds=time.monotonic() - start, released_round=released)

    def _evaluate(self, state: RecommenderState, target: Target, round_number: int) -> EvaluationSums:
        """Exact metrics of all clients: for the research record alone."""
        settings = self.config.evaluation
        size = EvaluationSums.vector_size(self.catalog.num_items, settings.bootstrap_replicates, k=settings.k)
        total = FloatSum(size)

        def read(message: Any) -> None:
            sums = EvaluateReply.from_message(message).sums
            if sums.shape != (size,) or not np.isfinite(sums).all():
                raise ProtocolViolation(f"Expected {size} finite sums in an evaluate reply, got others. It was left out.")
            total.add(sums)

        answers = cohort.exchange(
            self.grid,
            self.nodes,
            EvaluateInstruction(target=target, round_number=round_number, state=state.to_vector()).to_record(),
            message_type=MessageType.EVALUATE,
            read=read,
            timeout_seconds=self.config.federation.timeout_seconds,
            group=f"{round_number}-{target}",
            progress=self.log.progress(target, round_number=round_number, asked=len(self.nodes)),
        )
        minimum = self.config.federation.minimum_clients or self.num_clients
        cohort.require(answers, minimum=minimum, what=f"the evaluation of round {round_number}")
        vector = total.total
        write_atomically(self.run_dir / "evaluation" / f"{target}.npy", lambda stream: np.save(stream, vector))
        return EvaluationSums.from_vector(vector, self.catalog.num_items, settings.bootstrap_replicates, k=settings.k)

    def _headline(self, sums: EvaluationSums) -> dict[str, float | None]:
        """HR and NDCG alone; the prior stands in for exact popularity, which the server does not know."""
        k = self.config.evaluation.k
        metrics = summarize(sums, item_popularity=np.ones(self.catalog.num_items))
        return {name: metrics[name]["mean"] for name in (f"hr@{k}", f"ndcg@{k}")}

    def _checkpoint(self, progress: Progress) -> None:
        saved = checkpoints.Checkpoint(
            self.digest,
            progress.finished,
            progress.state.to_vector(),
            progress.optimizer.state(),
            progress.l2_clip_norm,
            progress.run_id,
            progress.best,
        )
        checkpoints.save(saved, self.run_dir)
