"""`ClientBatch`: the clients that answer one instruction, their settings and their interactions.

On a device there is one; a simulation plays a whole cohort, whose clients share a configuration, a population folder and a
ledger file. Nothing else is shared: each is refused, accounted for and answers by itself. What never lives here: whether a
plan is followed and what it costs (`admission.py`), training, noise, or a contribution.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import polars as pl
from flwr.app import Context
from numpy.typing import NDArray

from client.statistics.sparse import SparseRows
from client.store.data import ClientData, ClientRows
from client.store.population import open_population
from client.training.dp_sgd import TrainingTask, examples, train, user_groups
from client.training.negatives import PublicNegatives
from shared.config import RunConfig, TrainingSection
from shared.config.defaults import fitted
from shared.data.splitting import HISTORIES_SCHEMA
from shared.errors import ConfigError
from shared.keyed_hash import keyed_hash
from shared.model.recommender import Recommender, resident
from shared.model.state import RecommenderState
from shared.privacy.correlated_noise import BandedNoise
from shared.privacy.plan import PrivacyPlan
from shared.public_facts import PublicFacts
from shared.randomness import NoiseSource, replayable_source, secret_source

# Any constant would do; the assignment of users to turns is public.
_TURNS = "turns"
_RANKS = b"tacit-ranks"
# Generators of correlated noise that a process keeps, one a silo and run; beyond, the oldest would begin anew every round.
_MOST_GENERATORS = 4096


@dataclass(frozen=True, eq=False)
class ClientBatch:
    """One client or many.

    Attributes:
        config: What these clients were configured with.
        public: The population's constants and its catalog. (public)
        data: Their interactions and accounts. (private)
        partitions: Which clients of the data they are, (N,) int64.
        own_ledger: The ledger file that the device was started with; empty where there is none, as in a simulation.
        own_data_name: What the device was started with as the name of its data; empty for the population's own.
        own_rank: The largest rank that the device was started with; 0 where it has no limit of its own.
        own_identity: The file of the key that the device was provisioned with; empty where it takes part in no secure sum.
        own_roster: The file of the identities that it knows.
    """

    config: RunConfig
    public: PublicFacts
    data: ClientData
    partitions: NDArray[np.int64]
    own_ledger: str = ""
    own_data_name: str = ""
    own_rank: int = 0
    own_identity: str = ""
    own_roster: str = ""

    @classmethod
    def of(cls, context: Context) -> ClientBatch:
        """The one client that a node's context describes.

        `node_config` is what the owner started the device with, the run's configuration what was submitted: where both name
        the interactions (`population`) or the ledger (`ledger`), the device's own win. Its `rank` limits every rank, its
        `data-name` is what the ledger is bound to. `identity` and `roster` are the files that it was provisioned with.

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
        population = open_population(Path(folder))
        size = population.size
        config = fitted(config, num_users=size.users, num_clients=size.clients)
        own_rank = context.node_config.get("rank", 0)
        if type(own_rank) is not int or own_rank < ("rank" in context.node_config):
            raise ConfigError(
                f"Expected rank to be a whole number >= 1 in the node's configuration, got rank={own_rank}. It limits the "
                "ranks that this device trains; leave it out for no limit."
            )
        names = ("ledger", "data-name", "identity", "roster")
        own_ledger, own_name, identity, roster = (str(context.node_config.get(name, "")) for name in names)
        return cls(config, population.public, population, partitions, own_ledger, own_name, own_rank, identity, roster)

    def __len__(self) -> int:
        """N."""
        return len(self.partitions)

    def take(self, places: NDArray[np.int64] | slice) -> ClientBatch:
        """Some of the clients."""
        return dataclasses.replace(self, partitions=self.partitions[places])

    @classmethod
    def of_population(cls, config: RunConfig, folder: Path, partitions: NDArray[np.int64]) -> ClientBatch:
        """Some clients of a population folder, with nothing of their own."""
        population = open_population(folder)
        return cls(config, population.public, population, partitions)

    def account(self, index: int) -> str:
        """The account of one of these clients in the ledger. (private where it is named by a user)"""
        return self.data.account(int(self.partitions[index]))

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
        return resident(self.config, self.public.catalog)

    # Private data: inside a reservation only.

    def rows(self, columns: Sequence[str]) -> ClientRows:
        """Some columns of the HISTORIES TABLE of all these clients' users, each with whose it is. (private)"""
        return self.data.rows(self.partitions, columns)

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
                groups=user_groups(users[place], key=_TURNS, groups=plan.min_separation)
                if plan.mechanism.users_take_turns
                else None,
                first_step=(work.round_number - 1) * plan.steps_per_round if plan.mechanism.users_take_turns else 0,
                noise=self._correlated_noise(place, plan, work.run, size, source)
                if plan.mechanism.users_take_turns
                else None,
                largest_rank=ranks[place],
                negatives=negatives,
            )
            for place, source in enumerate(sources)
        ]

    def trained(self, tasks: Sequence[TrainingTask], plan: PrivacyPlan, settings: TrainingSection) -> NDArray[np.float32]:
        """Each client's update, (N, d), noised where the plan adds noise locally; not yet bounded elsewhere. (private)"""
        return train(tasks, self.recommender(), plan, settings)

    def contributed(self, vectors: Vectors, rows: ClientRows) -> NDArray[np.float64] | SparseRows:
        """Each client's exact sum of bounded vectors, as a statistic works it out. (private)"""
        return vectors(self, rows)

    def _by_client(self, rows: ClientRows, column: pl.Series) -> list[pl.Series]:
        ends = np.searchsorted(rows.client, np.arange(len(self)), side="right").tolist()
        return [column.slice(start, end - start) for start, end in zip([0, *ends[:-1]], ends, strict=True)]

    # What the owner of a device decides.

    @property
    def ledger_file(self) -> Path:
        """Where this device keeps its ledger: what the device was started with wins over what a run asks for."""
        return Path(self.own_ledger or self.config.privacy.ledger or self.data.ledger_file)

    @property
    def data_name(self) -> str:
        """The declared name of the data, which the ledger is bound to."""
        return self.own_data_name or self.data.data_name

    # Randomness.

    def noise_sources(self, plan: PrivacyPlan, purpose: str, round_number: int, *, step: int = 0) -> list[NoiseSource]:
        """One a client: the system's CSPRNG, or in a reproducible run a source derived from the seed, anew in each step."""
        if not plan.reproducible:
            return [secret_source()] * len(self)
        seed = self.config.run.seed
        labels: tuple[int | str, ...] = ("step", step) if step else ()
        return [replayable_source(seed, purpose, round_number, *labels, partition) for partition in self.partitions.tolist()]

    def _correlated_noise(self, place: int, plan: PrivacyPlan, run: str, size: int, source: NoiseSource) -> BandedNoise:
        """What DP-FTRL takes back later: the generator that lives across rounds."""
        noise = _banded(run, int(self.partitions[place]), size, plan.min_separation, plan.noise_stddev)
        noise.source = source  # a reproducible run derives a round's noise from the round
        return noise


# What a statistic works out for some clients and their users, one row a client.
Vectors = Callable[[ClientBatch, ClientRows], NDArray[np.float64] | SparseRows]


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


@lru_cache(maxsize=8)
def _config(items: tuple[tuple[str, bool | int | float | str], ...]) -> RunConfig:
    return RunConfig.from_mapping(dict(items), source="the run's configuration")


@lru_cache(maxsize=_MOST_GENERATORS)
def _banded(run: str, partition: int, size: int, bands: int, stddev: float) -> BandedNoise:
    """The generator of one client in one run. In memory alone: after a restart it begins anew, which costs no privacy."""
    return BandedNoise(size, bands=bands, stddev=stddev, source=secret_source())
