"""The round loop: the only file that knows the order.

    wait for nodes -> popularity prior
    -> [train -> mean -> server optimizer -> checkpoint -> validate] x rounds
    -> test -> release

Every step that a person may want to see is appended to `events.jsonl` in the run's folder, one JSON object a
line; the terminal display, the run record and the report read that file, wherever the server runs.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import MessageType
from flwr.serverapp import Grid

from server import checkpoints, cohort
from server.aggregation import ServerOptimizer, mean_update, popularity_prior
from shared.catalog import ItemCatalog
from shared.config import RunConfig
from shared.errors import CohortTooSmall, ProtocolViolation
from shared.files import write_atomically
from shared.metrics import EvaluationSums, summarize
from shared.privacy.plan import PrivacyPlan
from shared.protocol import (
    EvaluateInstruction,
    EvaluateReply,
    PopularityInstruction,
    PopularityReply,
    Target,
    TrainInstruction,
    TrainReply,
)
from shared.recommender import resident
from shared.update import RecommenderState, check_update

EVENTS = "events.jsonl"
# Rounds in a row that may be dropped before the run gives up.
_MAX_DROPPED_ROUNDS = 3


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
        self.plan = PrivacyPlan.from_config(self.config, num_users=self.num_users)
        self.recommender = resident(self.config, self.catalog)
        self.digest = self.config.digest()
        self.minimum = self.config.federation.minimum_clients or self.num_clients
        self.nodes: list[int] = []
        self._validated = 0  # the last round whose validation sums are on disk

    def run(self) -> None:
        """From the first message to the released adapter.

        Raises:
            CohortTooSmall: If too few clients connect or answer.
            CheckpointError: If a resumed run's checkpoints are damaged or of another configuration.
        """
        self.nodes = cohort.wait_for_nodes(
            self.grid, count=self.num_clients, timeout_seconds=self.config.federation.timeout_seconds
        )
        resumes = self.config.run.resume and checkpoints.exists(self.run_dir)
        state, optimizer, finished = self._resumed() if resumes else self._started()
        self._event("started", finished=finished, rounds=self.plan.rounds, noise_multiplier=self.plan.noise_multiplier)
        dropped = 0
        for round_number in range(finished + 1, self.plan.rounds + 1):
            try:
                state = self._round(round_number, state, optimizer)
                dropped = 0
            except CohortTooSmall as error:
                dropped += 1
                self._event("round_dropped", round_number=round_number, reason=str(error))
                if dropped == _MAX_DROPPED_ROUNDS:
                    raise
        self._finish(state)

    def _started(self) -> tuple[RecommenderState, ServerOptimizer, int]:
        """The popularity prior and the public initialization."""
        self._event("asked", purpose="popularity")
        answers = cohort.exchange(
            self.grid,
            self.nodes,
            PopularityInstruction(run_digest=self.digest, plan=self.plan).to_record(),
            message_type=MessageType.QUERY,
            read=self._read_popularity,
            timeout_seconds=self.config.federation.timeout_seconds,
            group="0",
        )
        counts = cohort.require(answers, minimum=self.minimum, what="the popularity count")
        noise = self.plan.popularity_noise_multiplier * math.sqrt(len(counts))
        prior = popularity_prior(counts, noise_stddev=noise)
        adapter = self.recommender.initial_adapter.copy()
        state = RecommenderState(log_prior=prior, adapter=adapter)
        optimizer = ServerOptimizer(adapter, self.config.server)
        self._checkpoint(0, state, optimizer)
        return state, optimizer, 0

    def _resumed(self) -> tuple[RecommenderState, ServerOptimizer, int]:
        saved = checkpoints.load(self.run_dir, config_digest=self.digest)
        state = RecommenderState.from_vector(saved.state, num_items=self.catalog.num_items)
        optimizer = ServerOptimizer(state.adapter, self.config.server)
        optimizer.load(state.adapter, saved.optimizer)
        return state, optimizer, saved.round_number

    def _round(self, round_number: int, state: RecommenderState, optimizer: ServerOptimizer) -> RecommenderState:
        start = time.monotonic()
        self._event("asked", purpose="train", round_number=round_number)
        instruction = TrainInstruction(
            run_digest=self.digest,
            round_number=round_number,
            plan=self.plan,
            num_users=self.num_users,
            num_clients=self.num_clients,
            state=state.to_vector(),
        )
        answers = cohort.exchange(
            self.grid,
            self.nodes,
            instruction.to_record(),
            message_type=MessageType.TRAIN,
            read=self._read_update,
            timeout_seconds=self.config.federation.timeout_seconds,
            group=str(round_number),
        )
        replies = cohort.require(answers, minimum=self.minimum, what=f"round {round_number}")
        optimizer.step(mean_update([reply.update for reply in replies]))
        state = RecommenderState(log_prior=state.log_prior, adapter=optimizer.adapter)
        self._checkpoint(round_number, state, optimizer)
        trained = time.monotonic()
        validation, failures = None, answers.failures
        if self.config.evaluation.research and self._validates(round_number):
            try:
                validation = self._evaluate(state, "validation", round_number)
                self._validated = round_number
            except CohortTooSmall as error:  # the round itself is finished and stays
                failures = [*failures, str(error)]
        losses = [reply.training_loss for reply in replies if reply.training_loss is not None]
        losses = [loss for loss in losses if math.isfinite(loss)]
        self._event(
            "round",
            round_number=round_number,
            training_loss=float(np.mean(losses)) if losses else None,
            validation=self._headline(validation) if validation else None,
            epsilon_spent=self._spent(),
            clients_asked=answers.asked,
            clients_answered=len(replies),
            failures=failures[:3],
            seconds=time.monotonic() - start,
            training_seconds=trained - start,
        )
        return state

    def _spent(self) -> float | None:
        """Epsilon of everything that clients were ever asked for in this run; None where nothing is claimed.

        Counted from the events on disk, written before each request: a round that was interrupted and asked for again may
        have been answered twice, and the released adapter's manifest must not say less than the clients' ledgers.
        """
        if not self.plan.is_private:
            return None
        lines = (self.run_dir / EVENTS).read_text(encoding="utf-8").splitlines()
        purposes = [event.get("purpose") for event in map(_read_event, lines) if event.get("event") == "asked"]
        return self.plan.epsilon_after(purposes.count("train"), popularity_releases=purposes.count("popularity"))

    def _validates(self, round_number: int) -> bool:
        return round_number % self.config.evaluation.every_rounds == 0 or round_number == self.plan.rounds

    def _finish(self, state: RecommenderState) -> None:
        """Final metrics, then the adapter, then the last event: who reads it finds everything in place."""
        start = time.monotonic()
        if self.config.evaluation.research:
            if self._validated != self.plan.rounds:
                self._evaluate(state, "validation", self.plan.rounds)
            self._evaluate(state, "test", self.plan.rounds)
        self.recommender.load_state(state)
        manifest = {
            "schema": "tacit-adapter-1",
            "backbone": self.config.model.backbone,
            "backbone_digest": self.recommender.backbone_digest,
            "layers": self.recommender.num_layers,
            "catalog_digest": self.catalog.digest,
            "config_digest": self.digest,
            "round_number": self.plan.rounds,
            "epsilon": self._spent(),
            "delta": self.plan.delta if self.plan.is_private else None,
            "popularity_event": [vars(event) for event in self.plan.popularity_events],
        }
        checkpoints.release(self.recommender, self.run_dir, manifest=manifest)
        self._event("finished", seconds=time.monotonic() - start)

    def _evaluate(self, state: RecommenderState, target: Target, round_number: int) -> EvaluationSums:
        answers = cohort.exchange(
            self.grid,
            self.nodes,
            EvaluateInstruction(target=target, round_number=round_number, state=state.to_vector()).to_record(),
            message_type=MessageType.EVALUATE,
            read=self._read_sums,
            timeout_seconds=self.config.federation.timeout_seconds,
            group=f"{round_number}-{target}",
        )
        replies = cohort.require(answers, minimum=self.minimum, what=f"the evaluation of round {round_number}")
        total = replies[0]
        for sums in replies[1:]:
            total = total + sums
        vector = total.to_vector()
        write_atomically(self.run_dir / "evaluation" / f"{target}.npy", lambda stream: np.save(stream, vector))
        return total

    def _headline(self, sums: EvaluationSums) -> dict[str, float | None]:
        """HR and NDCG alone; the prior stands in for exact popularity, which the server does not know."""
        k = self.config.evaluation.k
        metrics = summarize(sums, item_popularity=np.ones(self.catalog.num_items))
        return {name: metrics[name]["mean"] for name in (f"hr@{k}", f"ndcg@{k}")}

    def _read_update(self, message: Any) -> TrainReply:
        reply = TrainReply.from_message(message)
        check_update(reply.update, size=self.recommender.attached.size)
        return reply

    def _read_popularity(self, message: Any) -> Any:
        return check_update(PopularityReply.from_message(message).counts, size=self.catalog.num_items)

    def _read_sums(self, message: Any) -> EvaluationSums:
        sums = EvaluateReply.from_message(message).sums
        if not np.isfinite(sums).all():
            raise ProtocolViolation("Expected finite sums in an evaluate reply, got NaN or infinity. It was left out.")
        return EvaluationSums.from_vector(
            sums,
            num_items=self.catalog.num_items,
            num_replicates=self.config.evaluation.bootstrap_replicates,
            k=self.config.evaluation.k,
        )

    def _checkpoint(self, round_number: int, state: RecommenderState, optimizer: ServerOptimizer) -> None:
        saved = checkpoints.Checkpoint(self.digest, round_number, state.to_vector(), optimizer.state())
        checkpoints.save(saved, self.run_dir)

    def _event(self, event: str, **fields: Any) -> None:
        line = json.dumps({"event": event, **fields}, allow_nan=False)
        path = self.run_dir / EVENTS
        # A killed process may have left half a line, which must not swallow this one.
        torn = path.exists() and not path.read_bytes().endswith(b"\n") and path.stat().st_size > 0
        with path.open("a", encoding="utf-8") as stream:
            stream.write(("\n" if torn else "") + line + "\n")


def _read_event(line: str) -> dict[str, Any]:
    """One line of the event file; half a line, left by a killed process, is no event."""
    try:
        event: dict[str, Any] = json.loads(line)
    except ValueError:
        return {}
    return event
