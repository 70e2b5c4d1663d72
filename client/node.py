"""This client: its configuration, its interactions, its ledger, and the plan that it would make itself.

Here a server's plan is held against the node's own configuration, before the ledger holds it against what the owner of the
device allows. What never lives here: training, noise, or anything that leaves.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from flwr.app import Context

from client.budget import Reservation, Spending, reserved
from client.dp_sgd import TrainingTask, examples, user_groups
from client.store import ClientStore, open_population
from shared.catalog import ItemCatalog
from shared.config import RunConfig
from shared.errors import ConfigError, PolicyRefused, PrivacyError
from shared.privacy.banded import BandedNoise
from shared.privacy.events import Event
from shared.privacy.ledger import Binding, Ledger, Policy, Request
from shared.privacy.plan import PrivacyPlan
from shared.randomness import NoiseSource, replayable_source, secret_source
from shared.recommender import Recommender, resident
from shared.splitting import HISTORIES_SCHEMA

# Any constant would do; the assignment of users to turns is public.
_TURNS = "turns"
# Calibration is a search; the same plan made on another machine may differ in its last digits.
_CALIBRATION_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Node:
    """One client.

    Attributes:
        config: What this node was configured with.
        partition: Which client of the population it is.
        folder: Where its interactions are.
        own_ledger: The ledger file that the device was started with; empty where there is none, as in a simulation.
    """

    config: RunConfig
    partition: int
    folder: Path
    own_ledger: str = ""

    @classmethod
    def of(cls, context: Context) -> Node:
        """Reads the node's context.

        `node_config` is what the owner started the device with, the run's configuration what somebody submitted: where both
        name the interactions (`population`) or the ledger (`ledger`), the device's own win.

        Raises:
            ConfigError: If the population's folder or the partition is missing, or a setting is wrong.
        """
        config = _config(tuple(sorted(context.run_config.items())))
        folder = str(context.node_config.get("population", "") or config.data.population)
        if not folder:
            raise ConfigError(
                "Expected data.population to name a folder of clients' interactions, got data.population=''. "
                "Write one with `tacit data partition`, then pass --run-config 'data.population=\"FOLDER\"'."
            )
        if "partition-id" not in context.node_config:
            raise ConfigError("Expected partition-id in the node's configuration, found none. Start the node with it.")
        own_ledger = str(context.node_config.get("ledger", ""))
        return cls(config, int(context.node_config["partition-id"]), Path(folder), own_ledger)

    # Public facts and the model.

    @property
    def catalog(self) -> ItemCatalog:
        """The items. (public)"""
        return open_population(self.folder).catalog

    @property
    def owner(self) -> str:
        """The name of this client in the ledger."""
        return f"client-{self.partition}"

    def recommender(self) -> Recommender:
        """The worker's resident model."""
        return resident(self.config, self.catalog)

    # Private data: inside a reservation only.

    def store(self) -> ClientStore:
        """This node's interactions. (private)"""
        return ClientStore.open(self.folder, self.partition)

    def training_histories(self, plan: PrivacyPlan) -> pl.Series:
        """What one unit contributes: a user's history, or a window of it. (private)"""
        return examples(self.store().histories["train"], plan, self.config.model.max_history_length)

    def with_histories(self, task: TrainingTask, plan: PrivacyPlan) -> TrainingTask:
        """The task with this node's users in it. (private)

        Under DP-FTRL a user's group depends on the user alone. It does not depend on the run, whose name the server
        chooses, so the ledger's account of a group is about the same users in every run; nor on who else is there, so
        adding a user moves nobody.
        """
        histories = self.store().histories
        groups = user_groups(histories["user"], key=_TURNS, groups=plan.min_separation) if _in_groups(plan) else None
        return dataclasses.replace(task, histories=histories["train"], groups=groups)

    @property
    def no_histories(self) -> pl.Series:
        """The data of nobody: what a faulty client trains on."""
        return self.no_users["train"]

    @property
    def no_users(self) -> pl.DataFrame:
        """A HISTORIES TABLE without rows."""
        return pl.DataFrame(schema=HISTORIES_SCHEMA)

    # Privacy.

    def check(self, plan: PrivacyPlan, *, round_number: int | None = None, l2_clip_norm: float | None = None) -> None:
        """Refuses a plan other than the one that this node's own configuration leads to, and a round that it does not have.

        Args:
            plan: The server's. (public)
            round_number: What it is for; None before the first round. (public)
            l2_clip_norm: This round's bound; None where nothing is clipped to it. (public)

        Raises:
            PolicyRefused: If a field differs, there is less noise, or the round is not one of the plan's.
        """
        if round_number is not None and not 1 <= round_number <= plan.rounds:
            raise PolicyRefused(
                f"Expected round_number in 1..{plan.rounds}, got round_number={round_number}. No data was read; the plan's "
                "noise is for its own rounds."
            )
        population = open_population(self.folder)
        mine = PrivacyPlan.from_config(self.config, num_users=population.num_users, num_clients=population.num_clients)
        same_noise = plan.noise_multiplier >= mine.noise_multiplier * (1 - _CALIBRATION_TOLERANCE)
        rest = dataclasses.replace(plan, noise_multiplier=mine.noise_multiplier)
        clip = plan.l2_clip_norm if l2_clip_norm is None else l2_clip_norm
        other_clip = not plan.clipping_share and clip != mine.l2_clip_norm
        if rest != mine or not same_noise or other_clip or math.isnan(clip):
            names = [
                field.name for field in dataclasses.fields(plan) if getattr(rest, field.name) != getattr(mine, field.name)
            ]
            what = names[0] if names else "l2_clip_norm" if same_noise else "noise_multiplier"
            raise PolicyRefused(
                f"Expected a plan with this node's own settings, got another {what}. No data was read; use the same "
                "configuration on both ends."
            )

    @property
    def ledger_file(self) -> Path:
        """Where this device keeps its ledger: what the device was started with wins over what a run asks for."""
        return Path(self.own_ledger or self.config.privacy.ledger or self.folder / "ledger.sqlite")

    def refuse_under_limits(self) -> None:
        """Refuses an exact answer where the owner of this device set any limit, since no limit could hold for it.

        Raises:
            PolicyRefused: If there is a limit.
        """
        if self.ledger_file.exists() and _limits(self.ledger_file).policy(self.owner) != Policy():
            raise PolicyRefused(
                "Expected a plan with secret noise, because the owner of this device set limits, got a run that is not "
                "private. No data was read; use a finite privacy.epsilon without run.reproducible, and no exact metrics."
            )

    @contextmanager
    def reserve(
        self, plan: PrivacyPlan, purpose: str, *, run: str, round_number: int, l2_clip_norm: float | None = None
    ) -> Iterator[Reservation]:
        """Reserves what a message costs before data is read; see `client/budget.py`. Without privacy nothing is recorded.

        Raises:
            PrivacyError: If the ledger cannot be used, or the budget is exceeded.
            PolicyRefused: If the owner of this device does not allow the plan, or set any limit and the plan has no secret
                noise.
        """
        if not plan.is_private:
            self.refuse_under_limits()
        spendings = self._spendings(plan, purpose, round_number)
        if plan.adds_noise and not spendings:
            raise PolicyRefused(
                f"Expected a request that the plan has noise for, got one for {purpose.partition('-')[0]} without. No data "
                "was read; a private run gives no exact answer."
            )
        if not spendings:
            yield Reservation(None, self.owner, run=run, round_number=round_number)
            return
        binding = Binding(open_population(self.folder).digest, plan.unit, plan.relation, plan.delta)
        clip_norm = l2_clip_norm or plan.l2_clip_norm
        request = Request(plan.unit, clip_norm, plan.smallest_noise_multiplier, plan.rounds, plan.delta)
        ledger = _ledger(self.ledger_file, binding)
        self._verify_accounts(ledger, plan)
        separation = plan.min_separation if purpose == "train" and plan.mechanism == "dp-ftrl-central" else 0
        with reserved(
            ledger,
            spendings,
            owner=self.owner,
            request=request,
            run=run,
            purpose=purpose,
            round_number=round_number,
            min_separation=separation,
        ) as reservation:
            yield reservation

    def _spendings(self, plan: PrivacyPlan, purpose: str, round_number: int) -> list[Spending]:
        """Who of this client spends what; under DP-FTRL the users of a silo are accounted by group."""
        planned = plan.events()
        if purpose == "train":
            event = plan.round_event() if plan.adds_noise else None
            if event is None:
                return []
            if not _in_groups(plan):
                return [Spending(self.owner, [event], planned)]
            return [
                Spending(self._group(plan, group), [dataclasses.replace(event, steps=steps)], planned)
                for group, steps in _group_steps(plan, round_number).items()
            ]
        events: tuple[Event, ...] = plan.popularity_events if purpose == "popularity" else plan.evaluation_events
        owners = [self._group(plan, group) for group in range(plan.min_separation)] if _in_groups(plan) else [self.owner]
        return [Spending(owner, events, planned) for owner in owners] if events else []

    def _group(self, plan: PrivacyPlan, group: int) -> str:
        return f"{self.owner}/group-{group}-of-{plan.min_separation}"

    def _verify_accounts(self, ledger: Ledger, plan: PrivacyPlan) -> None:
        """Refuses to open a second account for users who have one: neither would then say what they spent.

        Raises:
            PrivacyError: If the ledger holds this client's users in other groups, or in groups where the plan has none.
        """
        known = set(ledger.accounts_of(self.owner))
        groups = range(plan.min_separation if _in_groups(plan) else 0)
        if known - ({self._group(plan, group) for group in groups} or {self.owner}):
            raise PrivacyError(
                f"Expected a ledger that accounts for this client's users as mechanism={plan.mechanism} with "
                f"min_separation={plan.min_separation} does, found other accounts of theirs. No data was read; name another "
                "ledger file, or use the earlier run's settings."
            )

    def noise_source(self, plan: PrivacyPlan, purpose: str, round_number: int) -> NoiseSource:
        """The system's CSPRNG, or in a reproducible run a source derived from the seed."""
        if plan.reproducible:
            return replayable_source(self.config.run.seed, purpose, round_number, self.partition)
        return secret_source()

    def correlated_noise(
        self, plan: PrivacyPlan, run: str, size: int, source: NoiseSource, round_number: int
    ) -> dict[str, Any]:
        """What DP-FTRL adds to a training task: the generator that lives across rounds, and where in time the round is."""
        if not _in_groups(plan):
            return {}
        noise = _banded(run, self.partition, size, plan.min_separation, plan.noise_stddev)
        noise.source = source  # a reproducible run derives a round's noise from the round
        nobody = np.zeros(0, dtype=np.int64)
        return {"noise": noise, "groups": nobody, "first_step": (round_number - 1) * plan.steps_per_round}


def _in_groups(plan: PrivacyPlan) -> bool:
    return plan.mechanism == "dp-ftrl-silo"


def _group_steps(plan: PrivacyPlan, round_number: int) -> dict[int, int]:
    """Local steps of a round in which each group of users takes part."""
    first = (round_number - 1) * plan.steps_per_round
    steps: dict[int, int] = {}
    for step in range(first, first + plan.steps_per_round):
        group = step % plan.min_separation
        steps[group] = steps.get(group, 0) + 1
    return steps


@lru_cache(maxsize=8)
def _config(items: tuple[tuple[str, bool | int | float | str], ...]) -> RunConfig:
    return RunConfig.from_mapping(dict(items), source="the run's configuration")


@lru_cache(maxsize=8)
def _ledger(path: Path, binding: Binding) -> Ledger:
    return Ledger(path, binding=binding)


@lru_cache(maxsize=8)
def _limits(path: Path) -> Ledger:
    """The same file, opened to look at its limits whatever it is bound to; checked once a process, not once a message."""
    return Ledger(path)


@lru_cache(maxsize=64)
def _banded(run: str, partition: int, size: int, bands: int, stddev: float) -> BandedNoise:
    """The generator of one client in one run. In memory alone: after a restart it begins anew, which costs no privacy."""
    return BandedNoise(size, bands=bands, stddev=stddev, source=secret_source())
