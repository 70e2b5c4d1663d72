"""The clients that answer one instruction: their configuration, interactions, ledger, and the plan that they would make.

On a device there is one; a simulation plays a whole cohort, whose clients share a configuration, a population folder and a
ledger file. Nothing else is shared: each is refused, accounted for and answers by itself.

Here a server's plan is held against the nodes' own configuration, before the ledger holds it against what the owner of the
device allows. What never lives here: training, noise, or a contribution.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from flwr.app import Context
from numpy.typing import NDArray

from client.admission import Reservation, reserved
from client.ledger.accounts import Accounts
from client.ledger.ledger import Binding, Ledger, Policy, Request, Spending
from client.store.population import ClientRows, open_population, read_clients
from client.training.dp_sgd import TrainingTask, examples, user_groups
from client.training.negatives import PublicNegatives
from shared.config import RunConfig
from shared.config.defaults import fitted
from shared.data.catalog import ItemCatalog
from shared.data.splitting import HISTORIES_SCHEMA
from shared.errors import ConfigError, PolicyRefused, TacitError
from shared.keyed_hash import keyed_hash
from shared.model.recommender import Recommender, resident
from shared.model.state import RecommenderState
from shared.privacy.calibration import plan_of
from shared.privacy.correlated_noise import BandedNoise
from shared.privacy.events import Event
from shared.privacy.plan import PrivacyPlan
from shared.privacy.releases import release_of
from shared.randomness import NoiseSource, replayable_source, secret_source

# Any constant would do; the assignment of users to turns is public.
_TURNS = "turns"
_RANKS = b"tacit-ranks"
# Generators of correlated noise that a process keeps, one a silo and run; beyond, the oldest would begin anew every round.
_MOST_GENERATORS = 4096
# Probability that a client is asked more often than its ledger expects of a plan.
_ASKED_MORE_OFTEN = 1e-6
# Calibration is a search; the same plan made on another machine may differ in its last digits.
_CALIBRATION_TOLERANCE = 1e-6


@dataclass(frozen=True, eq=False)
class Nodes:
    """One client or many.

    Attributes:
        config: What these nodes were configured with.
        partitions: Which clients of the population they are, (N,) int64.
        folder: Where their interactions are.
        own_ledger: The ledger file that the device was started with; empty where there is none, as in a simulation.
        own_data_name: What the device was started with as the name of its data; empty for the population's own.
        own_rank: The largest rank that the device was started with; 0 where it has no limit of its own.
    """

    config: RunConfig
    partitions: NDArray[np.int64]
    folder: Path
    own_ledger: str = ""
    own_data_name: str = ""
    own_rank: int = 0

    @classmethod
    def of(cls, context: Context) -> Nodes:
        """The one client that a node's context describes.

        `node_config` is what the owner started the device with, the run's configuration what was submitted: where both name
        the interactions (`population`) or the ledger (`ledger`), the device's own win. Its `rank` limits every rank, its
        `data-name` is what the ledger is bound to.

        Raises:
            ConfigError: If the population's folder or the partition is missing, or a setting is wrong.
        """
        if "partition-id" not in context.node_config:
            raise ConfigError("Expected partition-id in the node's configuration, found none. Start the node with it.")
        config = _config(tuple(sorted(context.run_config.items())))
        partitions = np.array([int(context.node_config["partition-id"])])
        folder = str(context.node_config.get("population", "") or config.data.population)
        if not folder:
            raise ConfigError(
                "Expected data.population to name a folder of clients' interactions, got data.population=''. "
                "Write one with `tacit data partition`, then pass --run-config 'data.population=\"FOLDER\"'."
            )
        size = open_population(Path(folder)).size
        config = fitted(config, num_users=size.users, num_clients=size.clients)
        own_rank = context.node_config.get("rank", 0)
        if type(own_rank) is not int or own_rank < ("rank" in context.node_config):
            raise ConfigError(
                f"Expected rank to be a whole number >= 1 in the node's configuration, got rank={own_rank}. It limits the "
                "ranks that this device trains; leave it out for no limit."
            )
        own_ledger, own_name = (str(context.node_config.get(name, "")) for name in ("ledger", "data-name"))
        return cls(config, partitions, Path(folder), own_ledger, own_name, own_rank)

    def __len__(self) -> int:
        """N."""
        return len(self.partitions)

    def take(self, places: NDArray[np.int64] | slice) -> Nodes:
        """Some of the clients."""
        return dataclasses.replace(self, partitions=self.partitions[places])

    # Public facts and the model.

    @property
    def catalog(self) -> ItemCatalog:
        """The items. (public)"""
        return open_population(self.folder).catalog

    @cached_property
    def _accounts(self) -> Accounts:
        return open_population(self.folder).accounts

    def owner(self, place: int) -> str:
        """The account of one of these clients in the ledger. (private where it is named by a user)"""
        return self._accounts.name(int(self.partitions[place]))

    def largest_ranks(self, users: Sequence[pl.Series] | None = None) -> list[int | None]:
        """The largest rank of each client: what the run gives it, and no more than its device allows; None is no limit.

        Args:
            users: Where a client is one user, the ids of each: the rank then follows from the id, because a client's number
                depends on which other users there are. (private)
        """
        given = self.config.adapter.largest_ranks()
        if not given:
            return [self.own_rank or None] * len(self)
        turns = self.partitions.tolist()
        if users is not None:
            turns = [int(keyed_hash(own, key=b"", person=_RANKS).sum()) for own in users]
        return [min(given[turn % len(given)], self.own_rank or given[turn % len(given)]) for turn in turns]

    def recommender(self) -> Recommender:
        """The worker's resident model."""
        return resident(self.config, self.catalog)

    # Private data: inside a reservation only.

    def rows(self, columns: Sequence[str]) -> ClientRows:
        """Some columns of the HISTORIES TABLE of all these clients' users, each with whose it is. (private)"""
        return read_clients(self.folder, self.partitions, columns)

    def no_rows(self) -> ClientRows:
        """The users of clients without any: what a faulty client answers with."""
        return ClientRows(histories=pl.DataFrame(schema=HISTORIES_SCHEMA), client=np.empty(0, dtype=np.int64))

    def units(self, rows: ClientRows, plan: PrivacyPlan) -> tuple[pl.Series, NDArray[np.int64]]:
        """What one unit contributes, a user's training history or a window of it, and whose each is. (private)"""
        histories = rows.histories["train"]
        if plan.unit == "user":
            return histories, rows.client
        length = self.config.model.max_history_length
        own = [examples(part, plan, length) for part in self._by_client(rows, histories)]
        return pl.concat(own), np.repeat(np.arange(len(own)), [len(part) for part in own])

    def tasks(
        self, rows: ClientRows, plan: PrivacyPlan, work: RoundOfTraining, sources: Sequence[NoiseSource]
    ) -> list[TrainingTask]:
        """Each client's local work, its users in it. (private)

        Under DP-FTRL a user's group depends on the user alone. It does not depend on the run, whose name the server
        chooses, so the ledger's account of a group is about the same users in every run; nor on who else is there, so
        adding a user moves nobody.
        """
        histories = self._by_client(rows, rows.histories["train"])
        users = self._by_client(rows, rows.histories["user"])
        size = len(work.state.adapter)
        expected_batch_size = plan.expected_batch_size
        ranks = self.largest_ranks(users if plan.clips_whole_updates else None)
        negatives = PublicNegatives.of(self.config, work.round_number)
        return [
            TrainingTask(
                state=work.state,
                histories=histories[place],
                expected_batch_size=expected_batch_size,
                learning_rate=work.learning_rate,
                source=source,
                groups=user_groups(users[place], key=_TURNS, groups=plan.min_separation) if _in_groups(plan) else None,
                first_step=(work.round_number - 1) * plan.steps_per_round if _in_groups(plan) else 0,
                noise=self._correlated_noise(place, plan, work.run, size, source) if _in_groups(plan) else None,
                largest_rank=ranks[place],
                negatives=negatives,
            )
            for place, source in enumerate(sources)
        ]

    def _by_client(self, rows: ClientRows, column: pl.Series) -> list[pl.Series]:
        ends = np.searchsorted(rows.client, np.arange(len(self)), side="right").tolist()
        return [column.slice(start, end - start) for start, end in zip([0, *ends[:-1]], ends, strict=True)]

    # Privacy.

    def check(self, plan: PrivacyPlan, *, round_number: int | None = None, l2_clip_norm: float | None = None) -> None:
        """Refuses a plan other than the one that these nodes' own configuration leads to, and a round that it does not have.

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
        if plan.is_private and population.shaped_by_all:
            raise PolicyRefused(
                f"Expected training data that depend on no other user, got {', '.join(population.shaped_by_all)} in this "
                "population. No data was read; declare what was computed from all users (data.cut_offs), and write the "
                "population again."
            )
        size = population.size
        mine = plan_of(self.config, num_users=size.users, num_clients=size.clients)
        clip = plan.l2_clip_norm if l2_clip_norm is None else l2_clip_norm
        other_clip = not plan.clipping_share and clip != mine.l2_clip_norm
        if (what := _difference(plan, mine)) or other_clip or math.isnan(clip):
            what = what or "l2_clip_norm"
            raise PolicyRefused(
                f"Expected a plan with this node's own settings, got another {what}. No data was read; use the same "
                "configuration on both ends."
            )

    @property
    def ledger_file(self) -> Path:
        """Where this device keeps its ledger: what the device was started with wins over what a run asks for."""
        return Path(self.own_ledger or self.config.privacy.ledger or self.folder / "ledger.sqlite")

    def binding(self, plan: PrivacyPlan) -> Binding:
        """What the ledger has to be about: the data by their declared name, never by anything computed from them."""
        name = self.own_data_name or open_population(self.folder).data_name
        return Binding(name, plan.unit, plan.relation, plan.delta)

    def under_limits(self) -> dict[int, TacitError]:
        """The clients that answer no plan without secret noise, because an owner set a limit: none could hold for it.

        Returns:
            The refusal of each such client, by its place among these.
        """
        if not self.ledger_file.exists() or not (limits := _limits(self.ledger_file)).policies():
            return {}
        refusal = PolicyRefused(
            "Expected a plan with secret noise, because the owner of this device set limits, got a run that is not "
            "private. No data was read; use a finite privacy.epsilon without run.reproducible, and no exact metrics."
        )
        return {place: refusal for place in range(len(self)) if limits.policy(self.owner(place)) != Policy()}

    @contextmanager
    def reserve(
        self, plan: PrivacyPlan, purpose: str, *, run: str, round_number: int, l2_clip_norm: float | None = None
    ) -> Iterator[Reservation]:
        """Reserves what a message costs before data is read; see `client/admission.py`. Without privacy nothing is recorded.

        Guarantee:
            The whole plan of the run is held against each owner's limits, at its first message and at every later one: what
            is refused has spent nothing.

        Yields:
            The clients that their own ledger or owner refused, and where faults are counted.

        Raises:
            PrivacyError: If the ledger cannot be used.
            PolicyRefused: If the plan has no noise for such a request.
        """
        spend = self._spending(plan, purpose, round_number)
        if plan.adds_noise and spend is None:
            raise PolicyRefused(
                f"Expected a request that the plan has noise for, got one for {purpose} without. No data "
                "was read; a private run gives no exact answer."
            )
        refused = {} if plan.is_private else self.under_limits()
        if spend is None:
            yield Reservation(None, refused=refused)
            return
        # Clients are refused here only in a reproducible run, whose noise is no secret.
        asked = [place for place in range(len(self)) if place not in refused] if refused else range(len(self))
        request = Request(
            unit=plan.unit,
            mechanism=plan.mechanism,
            secure_aggregation=plan.secure_aggregation,
            l2_clip_norm=l2_clip_norm or plan.l2_clip_norm,
            noise_multiplier=plan.smallest_noise_multiplier,
            rounds=plan.rounds,
            delta=plan.delta,
        )
        separation = plan.min_separation if purpose == "train" and plan.mechanism.clients_take_turns else 0
        with reserved(
            _ledger(self.ledger_file, self.binding(plan)),
            Made(len(asked), lambda place: spend(self.owner(asked[place]))),
            asked=asked,
            refused=refused,
            request=request,
            run=run,
            purpose=purpose,
            round_number=round_number,
            min_separation=separation,
        ) as reservation:
            yield reservation

    def _spending(self, plan: PrivacyPlan, purpose: str, round_number: int) -> Callable[[str], list[Spending]] | None:
        """What a message asks of a client's accounts, by the client's name; under DP-FTRL its users are accounted by group.

        The groups whose turn it is not are named too, without an event, so that the whole plan is held against all of them.
        None where nothing is recorded: without noise there is nothing that could be.
        """
        if not plan.adds_noise:
            return None
        planned = _planned(plan)
        if purpose == "train" and _in_groups(plan):
            event, turns = plan.round_event(), _group_steps(plan, round_number)
            parts = [[dataclasses.replace(event, steps=turns[group])] if group in turns else [] for group in _groups(plan)]
            return lambda owner: [Spending(_group(owner, plan, group), own, planned) for group, own in enumerate(parts)]
        events: tuple[Event, ...] = (plan.round_event(),) if purpose == "train" else plan.release_events(release_of(purpose))
        if not events:
            return None
        if not _in_groups(plan):
            return lambda owner: [Spending(owner, events, planned)]
        return lambda owner: [Spending(_group(owner, plan, group), events, planned) for group in _groups(plan)]

    def noise_sources(self, plan: PrivacyPlan, purpose: str, round_number: int) -> list[NoiseSource]:
        """One a client: the system's CSPRNG, or in a reproducible run a source derived from the seed."""
        if not plan.reproducible:
            return [secret_source()] * len(self)
        seed = self.config.run.seed
        return [replayable_source(seed, purpose, round_number, partition) for partition in self.partitions.tolist()]

    def _correlated_noise(self, place: int, plan: PrivacyPlan, run: str, size: int, source: NoiseSource) -> BandedNoise:
        """What DP-FTRL takes back later: the generator that lives across rounds."""
        noise = _banded(run, int(self.partitions[place]), size, plan.min_separation, plan.noise_stddev)
        noise.source = source  # a reproducible run derives a round's noise from the round
        return noise


def _difference(plan: PrivacyPlan, mine: PrivacyPlan) -> str | None:
    """The field in which a plan differs from a node's own, or has less noise; None where it may be followed."""
    noise = {"noise_multiplier": (plan.noise_multiplier, mine.noise_multiplier)} | {
        f"noise of {one.name}": (one.noise_multiplier, mine.noise_of(one.name)) for one in plan.releases
    }
    releases = tuple(dataclasses.replace(one, noise_multiplier=mine.noise_of(one.name)) for one in plan.releases)
    rest = dataclasses.replace(plan, noise_multiplier=mine.noise_multiplier, releases=releases)
    names = [one.name for one in dataclasses.fields(plan) if getattr(rest, one.name) != getattr(mine, one.name)]
    less = [name for name, (sent, own) in noise.items() if not sent >= own * (1 - _CALIBRATION_TOLERANCE)]
    return next(iter([*names, *less]), None)


@dataclass(frozen=True, eq=False)
class RoundOfTraining:
    """What every client of a round is asked for. (public)

    Attributes:
        state: Where all start.
        learning_rate: Of the local steps.
        run: What the ledgers know the run by.
        round_number: From 1.
    """

    state: RecommenderState
    learning_rate: float
    run: str
    round_number: int


class Made(Sequence[list[Spending]]):
    """A sequence whose entries are made when they are looked at, so that a million of them take no memory."""

    def __init__(self, length: int, make: Callable[[int], list[Spending]]) -> None:
        self._length, self._make = length, make

    def __len__(self) -> int:
        """How many there are."""
        return self._length

    def __getitem__(self, place: Any) -> Any:
        """One of them."""
        if not 0 <= place < self._length:
            raise IndexError(place)
        return self._make(place)


def _group(owner: str, plan: PrivacyPlan, group: int) -> str:
    return f"{owner}/group-{group}-of-{plan.min_separation}"


def _in_groups(plan: PrivacyPlan) -> bool:
    return plan.mechanism.users_take_turns


def _groups(plan: PrivacyPlan) -> range:
    return range(plan.min_separation)


@lru_cache(maxsize=8)
def _planned(plan: PrivacyPlan) -> tuple[Event, ...]:
    """What the whole run asks of one client.

    Where the server draws the clients, its coins decide how often: counted is what is exceeded for one client in a million.
    Counting every round would refuse plans that no honest server carries out so, and make owners set limits so wide that a
    dishonest one could.
    """
    from scipy.stats import binom

    rounds = plan.rounds
    if plan.clips_whole_updates and not plan.min_separation and plan.sampling_rate < 1:
        rounds = min(rounds, max(1, int(binom.isf(_ASKED_MORE_OFTEN, rounds, plan.sampling_rate))))
    return tuple(plan.events(rounds=rounds))


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
    """The same file, opened to read its limits whatever it is bound to; checked once a process, not once a message."""
    return Ledger(path)


@lru_cache(maxsize=_MOST_GENERATORS)
def _banded(run: str, partition: int, size: int, bands: int, stddev: float) -> BandedNoise:
    """The generator of one client in one run. In memory alone: after a restart it begins anew, which costs no privacy."""
    return BandedNoise(size, bands=bands, stddev=stddev, source=secret_source())
