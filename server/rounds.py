"""The round loop: the only file that knows the order.

    wait for nodes -> popularity prior -> statistics
    -> [draw a cohort -> train -> sum -> server optimizer -> checkpoint] x rounds
    -> select what is released -> noised metrics -> release

Every request is counted, checked against the plan's epsilon (`run_budget.py`) and written to the checkpoint and the event
file before it is sent. The server never has an exact metric: in a simulation an `Observer` is shown each noised state and
measures it on the data that the simulator made.

Every step that a person may want to see is appended to `events.jsonl` in the run's folder (`event_log.py`); the terminal
display, the run record and the report read that file, wherever the server runs. What comes out of a sum is noised already
(`releases.py`), so state, checkpoints and the adapter hold noised values only.
"""

from __future__ import annotations

import math
import secrets
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from flwr.serverapp import Grid
from numpy.typing import NDArray

from server import checkpoints, cohort
from server.aggregation import Aggregation, ServerOptimizer, held_shares, next_clip_norm
from server.continuing import EarlierRun, Start, added_up
from server.event_log import EventLog
from server.masked_sum import MaskedSums, SumsOf
from server.membership import FixedMembers, Members
from server.observer import Observer, Unobserved
from server.product_mean import aggregated
from server.releases import Releases, RoundOutcome
from server.reporting.release_report import write_release_report
from server.robust import rule_of
from server.run_budget import RunBudget
from server.statistics.statistic import Total
from server.statistics.updates import StatisticUpdates, gain_of
from server.statistics.weighing import Weighing
from shared.config import RunConfig, schedule_factor
from shared.errors import BudgetExceeded, CheckpointError, SecureAggregationError
from shared.model.memory import require_memory_for_head
from shared.model.recommender import resident
from shared.model.state import RecommenderState
from shared.model.statistics import NUM_WEIGHTS
from shared.privacy.calibration import plan_of, validated_rounds
from shared.privacy.releases import Purpose, ReleaseName, release_names, release_of, statistic_of
from shared.privacy.shapes import StatisticShapes
from shared.public_facts import PublicFacts
from shared.run_folder import EVENTS

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
        totals: What was released beside training, by statistic.
        head: The items whose pairs are counted.
        asked: Purposes before training that were answered; before the first the state is the public initialization.
        refines: Which statistic is released once more; empty before that is known.
        weighing: The weights before any is learned; follows from the totals.
        weights: (steps, 5), the weights after each blending step that was answered.
        compared: The noised gains of the candidates, once they were asked for.
        best: Round, noised score and state vector of the best validated round; empty where none is chosen.
        earlier: The totals of the runs that this one continues.
    """

    state: RecommenderState
    optimizer: ServerOptimizer
    finished: int
    l2_clip_norm: float
    run_id: str
    totals: dict[str, Total] = field(default_factory=dict)
    head: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    asked: tuple[Purpose, ...] = ()
    refines: Purpose | Literal[""] = ""
    weighing: Weighing = field(default_factory=Weighing.unknown)
    weights: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, NUM_WEIGHTS)))
    compared: Total | None = None
    best: dict[str, Any] = field(default_factory=dict)
    earlier: dict[str, Total] = field(default_factory=dict)

    @property
    def known(self) -> dict[str, Total]:
        """All that was released of each statistic, by this run and by those that it continues."""
        return added_up(self.earlier, self.totals)


@dataclass
class Federation:
    """One run as the server sees it.

    Attributes:
        grid: Flower's connection to the nodes.
        config: The run.
        run_dir: Where events, checkpoints and the adapter go.
        public: The population's constants and its catalog. (public)
        num_nodes: For how many clients to wait; in no plan and no release. (private where a client is one user)
        observer: Is shown every state.
        members: Who can be asked; None for as many nodes as there are clients, all of them throughout.
        sums_of: Gives the secure sums of a run; None for sums in the open.
    """

    grid: Grid
    config: RunConfig
    run_dir: Path
    public: PublicFacts
    num_nodes: int
    observer: Observer = field(default_factory=Unobserved)
    members: Members | None = None
    sums_of: SumsOf = MaskedSums.of

    def __post_init__(self) -> None:
        self.plan = plan_of(self.config, num_users=self.public.size.users, num_clients=self.public.size.clients)
        self.plan.verify_clients(self.num_nodes)
        self.recommender = resident(self.config, self.public.catalog)
        attached, adapter = self.recommender.attached, self.config.adapter
        self.shapes = StatisticShapes.of(self.config, self.plan, self.recommender)
        if self.plan.release("pairs") is not None:
            require_memory_for_head(self.shapes.head)
        self.start = self._start() if self.config.run.continues else None
        self.updates = StatisticUpdates(self.config, self.plan, self.recommender, self.shapes)
        if self.start is not None:
            self.updates = replace(self.updates, learned_before=self.start.weights)
        self.plan.verify_encodings(size=attached.size, sizes=self.shapes.sizes)
        shares = held_shares(attached.pairs, attached.size, adapter.largest_ranks())
        self.aggregation = Aggregation(attached.pairs, products=adapter.aggregates_products, shares=shares)
        self.digest = self.config.digest()
        self.log = EventLog(self.run_dir / EVENTS)

    def run(self) -> None:
        """From the first message to the released adapter.

        Raises:
            CohortTooSmall: If too few clients connect or answer.
            BudgetExceeded: If no round fits into the plan's epsilon any more and none was finished.
            CheckpointError: If a resumed run's checkpoints are damaged or of another configuration.
        """
        timeout = self.config.federation.timeout_seconds
        members = self.members
        if members is None:
            # There are as many clients as partitions; any more nodes would be in no population.
            nodes = cohort.wait_for_nodes(self.grid, count=self.num_nodes, timeout_seconds=timeout)[: self.num_nodes]
            members = FixedMembers(nodes)
        resumes = self.config.run.resume and checkpoints.exists(self.run_dir)
        self.progress = self._resumed() if resumes else self._new()
        self.budget = RunBudget(self.plan, checkpoints.asked_in(self.run_dir))
        self.releases = Releases(
            self.grid,
            members,
            self.plan,
            self.config.local_training(),
            self.log,
            before_asking=self._before_asking,
            run_id=self.progress.run_id,
            seed=self.config.run.seed,
            timeout_seconds=timeout,
            sums=self.sums_of(self.grid, self.config, self.plan, self.run_dir),
            shown=self.observer.summed,
            rule=rule_of(self.config.server),
        )
        self._release_statistics()
        noise = self.plan.noise_multiplier
        self.log.append("started", finished=self.progress.finished, rounds=self.plan.rounds, noise_multiplier=noise)
        # What blending and selection said is about the adapter of that time.
        if not len(self.progress.weights) and self.progress.compared is None:
            self._train()
        self._finish()

    def _train(self) -> None:
        """All rounds that are left, or as many as fit into the plan's epsilon."""
        progress, dropped = self.progress, 0
        for round_number in range(progress.finished + 1, self.plan.rounds + 1):
            try:
                self._round(round_number)
                dropped = 0
            except SecureAggregationError as error:
                dropped += 1
                self.releases.dropped("round_dropped", round_number=round_number, reason=str(error))
                # Where no round was finished there is nothing to release.
                if dropped == _MAX_DROPPED_ROUNDS or (round_number == self.plan.rounds and not progress.finished):
                    raise
            except BudgetExceeded as error:
                if not progress.finished:
                    raise
                done = f"{progress.finished} of {self.plan.rounds} rounds are finished. "
                self.log.append("stopped", round_number=round_number, reason=f"{done}{error}")
                return

    def _before_asking(self, purpose: str, round_number: int, instruction: str | None) -> None:
        """Counts a request and writes that down, twice, before it is sent; once with the digest of its instruction.

        Raises:
            BudgetExceeded: If it does not fit; nothing is sent.
        """
        self.budget.request(purpose, round_number, set_aside=self._set_aside(purpose, round_number))
        self._checkpoint()
        self.log.asking(purpose, round_number, instruction)

    def _set_aside(self, purpose: str, round_number: int) -> dict[ReleaseName, int]:
        """Releases that a request must leave room for: what comes at the end, and the metrics of the round it trains."""
        in_training = purpose in ("train", "validation")
        asked, name = self.budget.asked.released, "blending" if in_training else release_of(purpose)
        rest: dict[ReleaseName, int] = {}
        for one in self.plan.releases:
            if one.name in ("blending", "selection") and release_names().index(name) <= release_names().index(one.name):
                rest[one.name] = max(one.times - asked.get(one.name, 0) - (one.name == name), 0)
            if one.name == "metrics" and purpose != "test":
                rest[one.name] = 1 + (purpose == "train" and self._judges(round_number))
        return rest

    def _judges(self, round_number: int) -> bool:
        """Whether the released round is chosen by noised validations and this is one of the rounds to choose from."""
        chooses = self.plan.evaluations > 1 and self.config.evaluation.released_round == "best-noised"
        return chooses and round_number in validated_rounds(self.config)

    def _start(self) -> Start:
        """What the run that is continued released."""
        earlier = EarlierRun.open(Path(self.config.run.continues))
        return Start.of(earlier, self.config, self.plan, self.recommender, self.public.catalog)

    def _new(self) -> Progress:
        """The public initialization, under a name of its own: two runs of one configuration are two runs to a ledger."""
        return self._initial(f"{self.digest[:16]}-{'reproducible' if self.plan.reproducible else secrets.token_hex(8)}")

    def _initial(self, run_id: str) -> Progress:
        if self.start is not None:
            return self._from_start(self.start, run_id)
        num_items, attached = self.public.catalog.num_items, self.recommender.attached
        adapter = self.recommender.initial_adapter.copy()
        uniform = np.full(num_items, -math.log(num_items), dtype=np.float32)
        state = RecommenderState(uniform, adapter, np.zeros(attached.residual_size, dtype=np.float32))
        optimizer = ServerOptimizer(adapter, self.config.server_optimization())
        return Progress(state, optimizer, 0, self.plan.l2_clip_norm, run_id)

    def _from_start(self, start: Start, run_id: str) -> Progress:
        """The earlier adapter, and what the earlier totals say; the optimizer is fresh."""
        state, _ = self.updates.learned(start.state, start.totals, start.head)
        optimizer = ServerOptimizer(state.adapter.copy(), self.config.server_optimization())
        return Progress(state, optimizer, 0, self.plan.l2_clip_norm, run_id, head=start.head, earlier=dict(start.totals))

    def _resumed(self) -> Progress:
        saved = checkpoints.resumed(self.run_dir, config_digest=self.digest)
        if saved.continues != (self.start.facts["manifest_digest"] if self.start is not None else ""):
            raise CheckpointError(
                "Expected the run that is continued as it was, found another in its place. Put it back, or start again."
            )
        if not len(saved.state):  # interrupted while the popularity count was asked for
            return self._initial(saved.run_id)
        state = self.recommender.read_state(saved.state)
        optimizer = ServerOptimizer(state.adapter, self.config.server_optimization())
        optimizer.load(state.adapter, saved.optimizer)
        return Progress(
            state,
            optimizer,
            finished=saved.round_number,
            l2_clip_norm=saved.l2_clip_norm,
            run_id=saved.run_id,
            totals={name: Total(*total) for name, total in saved.totals.items()},
            head=saved.head,
            asked=saved.released,
            refines=saved.refines,
            weights=saved.weights,
            compared=saved.compared and Total(*saved.compared),
            best=saved.best,
            earlier={name: Total(*total) for name, total in saved.earlier.items()},
        )

    def _release_statistics(self) -> None:
        """Popularity and the pilots, then once more what promises most; each is in the checkpoint before the next one."""
        progress = self.progress
        for one in self.updates.statistics:
            if one.name not in progress.asked:
                self._add(one.name, self._asked_if_it_fits(one.name, progress.state, 0))
        progress.state, progress.weighing = self.updates.learned(progress.state, progress.known, progress.head)
        if self.plan.release("refinement") is None:
            return
        if not progress.refines:
            found = self._asked_if_it_fits("blending", progress.state, 0)
            if found is not None:
                progress.refines = self.updates.most_promising(self.updates.step(progress.state, found, progress.weighing))
            self._checkpoint()
        purpose = progress.refines
        if purpose and purpose not in progress.asked:
            self._add(purpose, self._asked_if_it_fits(purpose, progress.state, 0))
            self.log.append("refined", statistic=statistic_of(purpose))
        progress.state, progress.weighing = self.updates.learned(progress.state, progress.known, progress.head)

    def _known(self) -> NDArray[np.float32]:
        """What clients are told of the state: nothing before the first release."""
        return self.progress.state.to_vector() if self.progress.asked else np.zeros(0, dtype=np.float32)

    def _add(self, purpose: Purpose, found: Total | None) -> None:
        """Takes a release into the totals; the head is that of the first prior, whose pairs clients count.

        What comes next is counted by what these said: pairs in the head, transitions between directions of the factors.
        """
        progress, name = self.progress, statistic_of(purpose)
        if found is not None:
            before = progress.totals.get(name)
            progress.totals[name] = found if before is None else before.with_another(found)
        if purpose in ("popularity", "pairs"):
            progress.state, _ = self.updates.learned(progress.state, progress.known, progress.head)
        if purpose == "popularity" and "pairs" not in progress.earlier:
            progress.head = self.shapes.head_of(progress.state.log_prior)
        progress.asked = (*progress.asked, purpose)
        self._checkpoint()

    def _blend_and_select(self, state: RecommenderState, round_number: int) -> RecommenderState:
        """The state with learned weights, and of these candidates the best, by noised, accounted comparisons.

        What clients answered is in the checkpoint before anything else is asked: who resumes asks for what is left.
        """
        progress = self.progress
        if not len(state.statistics):
            return state
        blending = self.plan.release("blending")
        steps = 0 if blending is None else blending.times - (self.plan.release("refinement") is not None)
        while len(progress.weights) < steps:
            if len(progress.weights):
                state = self.updates.with_weights(state, progress.weights[-1])
            # Those that are answered are in the checkpoint: who resumes goes on with the same number. The pilot's is 0.
            found = self._asked_if_it_fits("blending", state, round_number, step=1 + len(progress.weights))
            if found is None:
                break
            learned = self.updates.step(state, found, progress.weighing).weights
            progress.weights = np.vstack([progress.weights, learned])
            self._checkpoint()
        learned = progress.weights[-1] if len(progress.weights) else progress.weighing.defaults
        state = self.updates.with_weights(state, learned)
        found = progress.compared or self._asked_if_it_fits("selection", state, round_number)
        if found is None:
            return state
        progress.compared = found
        self._checkpoint()
        state, chosen = self.updates.with_selected(state, found)
        gains, stddev = gain_of(found, self.plan.population)
        self.log.append(
            "selected",
            round_number=round_number,
            chosen=self.shapes.candidates[chosen],
            gains=dict(zip(self.shapes.candidates[1:], gains, strict=True)),
            noise_stddev=stddev,
        )
        return state

    def _asked_if_it_fits(self, purpose: Purpose, state: RecommenderState, round_number: int, step: int = 0) -> Total | None:
        """A release; None where there is none, or where interrupted requests used up its budget."""
        known = state.to_vector() if self.progress.asked else np.zeros(0, dtype=np.float32)
        told = statistic_of(purpose) == "pairs" and "pairs" in self.progress.earlier
        head = self.progress.head.tolist() if told else ()
        size, tries = self.shapes.size_of(purpose), 1 if self.members is None else _MAX_DROPPED_ROUNDS
        while True:
            try:
                return self.releases.statistic(purpose, size, state=known, round_number=round_number, head=head, step=step)
            except SecureAggregationError as error:
                tries -= 1
                self.releases.dropped("release_dropped", release=purpose, round_number=round_number, reason=str(error))
                if not tries:
                    raise
            except BudgetExceeded as error:
                self.log.append("stopped", round_number=round_number, reason=str(error))
                return None

    def _round(self, round_number: int) -> None:
        start, progress = time.monotonic(), self.progress
        outcome = self.releases.update(
            progress.state,
            round_number=round_number,
            size=self.recommender.attached.size,
            l2_clip_norm=progress.l2_clip_norm,
            aggregation=self.aggregation,
        )
        exactness = self._apply(outcome, round_number)
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
        if self._judges(round_number):
            self._consider()
        self._checkpoint()
        trained = time.monotonic()
        self.observer.round_finished(progress.state, round_number)
        self.log.append(
            "round",
            round_number=round_number,
            epsilon_spent=self.budget.spent(),
            l2_clip_norm=progress.l2_clip_norm if self.plan.clipping_share else None,
            clients_asked=outcome.asked,
            clients_answered=outcome.answered,
            failures=outcome.failures[:3],
            seconds=time.monotonic() - start,
            training_seconds=trained - start,
            **exactness,
        )

    def _apply(self, outcome: RoundOutcome, round_number: int) -> dict[str, float]:
        """Moves the state by what a round gave; says how exact that was where products are aggregated."""
        progress = self.progress
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
        progress.state = replace(progress.state, adapter=progress.optimizer.adapter)
        return {}

    def _consider(self) -> None:
        """Keeps the state of the best round by noised, accounted validations."""
        progress = self.progress
        metrics = self.releases.metrics(progress.state, target="validation", round_number=progress.finished)
        score = metrics.ndcg if metrics is not None and metrics.ndcg is not None else -math.inf
        if not progress.best or score > progress.best["score"]:
            progress.best = {"round_number": progress.finished, "score": score, "state": progress.state.to_vector().tolist()}

    def _finish(self) -> None:
        """Final metrics, then the adapter, then the last event: who reads it finds everything in place."""
        start, progress = time.monotonic(), self.progress
        state, released = progress.state, progress.finished
        if progress.best and progress.best["round_number"] != progress.finished:
            released = int(progress.best["round_number"])
            state = self.recommender.read_state(np.array(progress.best["state"], dtype=np.float32))
        state = self._blend_and_select(state, released)
        self.observer.released(state, released)
        if self.plan.evaluations:
            try:
                self.releases.metrics(state, target="test", round_number=released)
            except (BudgetExceeded, SecureAggregationError) as error:  # what was trained is released all the same
                self.log.append("stopped", round_number=released, reason=str(error))
        self.recommender.load_state(state)
        manifest = {
            "schema": "tacit-adapter-2",
            "backbone": self.config.model.backbone,
            "backbone_digest": self.recommender.backbone_digest,
            "layers": self.recommender.num_layers,
            "catalog_digest": self.public.catalog.digest,
            "config_digest": self.digest,
            "round_number": released,
            "epsilon": self._claimed(),
            "delta": self.plan.delta if self.plan.is_private else None,
            "events": [vars(event) for event in self.plan.events(**vars(self.budget.asked))],
            **self._continued(),
            "release_events": {
                one.name: [vars(event) for event in self.plan.release_events(one.name)] for one in self.plan.releases
            },
        }
        checkpoints.release(self.recommender, self.run_dir, manifest=manifest)
        earlier = [] if self.start is None else self.start.events
        write_release_report(self.run_dir, self.config, self.plan, self.shapes, facts=manifest, earlier=earlier)
        self.log.append("finished", seconds=time.monotonic() - start, released_round=released)

    def _claimed(self) -> float | None:
        """Epsilon of what is released: of this run, and of those that it continues; None where nothing is claimed."""
        if self.start is None or not self.plan.is_private:
            return self.budget.spent()
        events = [*self.start.events, *self.plan.events(**vars(self.budget.asked))]
        return self.plan.epsilon_against(self.plan.adversary, events)  # type: ignore[arg-type]

    def _continued(self) -> dict[str, Any]:
        """What the manifest says of the runs before this one."""
        if self.start is None:
            return {}
        return {
            "continues": self.start.facts,
            "runs_before": self.start.facts["runs"],
            "epsilon_of_this_run": self.budget.spent(),
            "earlier_events": [vars(event) for event in self.start.events],
        }

    def _checkpoint(self) -> None:
        progress = self.progress
        saved = checkpoints.Checkpoint(
            self.digest,
            progress.finished,
            self._known(),
            progress.optimizer.state(),
            progress.l2_clip_norm,
            progress.run_id,
            {name: (total.values, total.noise_stddev) for name, total in progress.totals.items()},
            progress.head,
            progress.asked,
            progress.refines,
            progress.weights,
            None if progress.compared is None else (progress.compared.values, progress.compared.noise_stddev),
            progress.best,
            self.budget.asked,
            {name: (total.values, total.noise_stddev) for name, total in progress.earlier.items()},
            "" if self.start is None else self.start.facts["manifest_digest"],
        )
        checkpoints.save(saved, self.run_dir)
