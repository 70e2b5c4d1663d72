"""What a run takes over from an earlier one that it continues: the released adapter, the totals, the weights, the account.

Statistics add up. A total is a noised sum over what users had done by then; the new run's is over what they have done since
(`client/statistics/question.py`), and the total of both is the sum of sums, whose noise has the sum of the variances. A new
sum over whole histories would measure again what was paid for, and count what is old twice.

To add up, sums must mean the same. The catalog is the earlier one with new items behind it, of which earlier sums say zero,
so every row stays what it was. Pairs are counted in the earlier head, which clients are told: of another head no earlier sum
knows anything, which is not zero. Transitions are between the earlier directions, of texts and of the factors of that time,
each centered by the popularity of its own time.
A new item carries the noise of the new sum alone and is taken to carry that of both, which shrinks it a little too much.

The adapter goes on from the released one, with a fresh optimizer. The learned weights are the prior mean of the new ones.

The released recommender of such a run says something about both runs' answers. Its claim is therefore over the events of
all runs before it and its own, which the manifests hand on.

The earlier folder is only read. What never lives here: data, ledgers, and how a user's history goes on
(`simulations/growing.py`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server import checkpoints
from server.statistics.statistic import Floats, Total
from server.statistics.weighing import learned_weights
from shared.artifact import open_artifact, read_manifest
from shared.config import RunConfig, Scalar
from shared.data.catalog import ItemCatalog
from shared.errors import CheckpointError, ConfigError
from shared.model.growth import grown
from shared.model.recommender import Recommender
from shared.model.state import RecommenderState
from shared.model.statistics import Statistics
from shared.privacy.events import Event
from shared.privacy.plan import PrivacyPlan
from shared.privacy.shapes import StatisticShapes
from shared.run_folder import load_catalog, load_config

# What both runs must have in common: the model, whom a claim is about, who the clients are, what a sum means.
_SAME = ("run.seed", "run.reproducible", "privacy.unit", "federation.clients", "federation.sizes", "federation.attribute",
         "federation.minimum_clients", "secure_aggregation.simulate", "statistics.window",
         "statistics.pair_decay")  # fmt: skip
_SAME_SECTIONS = ("model.", "adapter.")


@dataclass(frozen=True, eq=False)
class EarlierRun:
    """A finished run that another one continues. (public)

    Attributes:
        folder: Where it lies; only read.
        config: What it was started with.
        manifest: Of what it released.
        saved: Its last checkpoint.
    """

    folder: Path
    config: RunConfig
    manifest: Mapping[str, Any]
    saved: checkpoints.Checkpoint

    @classmethod
    def open(cls, folder: Path) -> EarlierRun:
        """Reads a run's folder.

        Raises:
            CheckpointError: If it holds no run, or one that is not finished, damaged, or of another version.
        """
        config = load_config(folder)
        manifest = read_manifest(folder)
        if "events" not in manifest:
            raise CheckpointError(
                f"Expected a run of this version in {folder.name}/, found one whose manifest does not say what it released. "
                "Run it again to continue it."
            )
        saved = checkpoints.load(folder, config_digest=config.digest())
        if config.is_private and config.one_user_a_client and config.privacy.mechanism == "auto":
            config = config.with_values(
                {"privacy.mechanism": "central"}
            )  # a run that does not say it is of an earlier version
        return cls(folder, config, manifest, saved)

    @cached_property
    def totals(self) -> dict[str, Total]:
        """All that was released of each statistic, by this run and by those that it continued."""
        own = {name: Total(*total) for name, total in self.saved.totals.items()}
        return added_up({name: Total(*total) for name, total in self.saved.earlier.items()}, own)

    @property
    def events(self) -> list[Event]:
        """What this run and all before it released, as an outsider sees it."""
        return [Event(**event) for name in ("earlier_events", "events") for event in self.manifest.get(name, [])]

    @property
    def facts(self) -> dict[str, Any]:
        """What a record says of this run where another one continues it: which one it is, and what it claimed."""
        digest = hashlib.sha256((self.folder / "adapter" / "manifest.json").read_bytes()).hexdigest()
        kept = {
            name: self.manifest[name] for name in ("config_digest", "catalog_digest", "round_number", "epsilon", "delta")
        }
        return {"manifest_digest": digest, **kept, "runs": 1 + int(self.manifest.get("runs_before", 0))}

    def settings(self) -> dict[str, Scalar]:
        """What a run has to take over so that its sums mean the same and its epsilons compose."""
        found: dict[str, Scalar] = {"run.continues": str(self.folder.resolve()), "run.resume": False}
        found["federation.clients"] = self.config.federation.clients
        if "pairs" in self.totals:
            found["statistics.head"] = len(self.saved.head)
        if "transitions" in self.totals:
            found["statistics.dimensions"] = math.isqrt(len(self.totals["transitions"].values))
        if self.manifest["delta"] is not None:
            found["privacy.delta"] = float(self.manifest["delta"])
        return found

    def continued(self, given: Mapping[str, Scalar]) -> RunConfig:
        """The configuration of a run that continues this one: its settings, where nothing else is given.

        Args:
            given: What is said for the new run. (public)

        Raises:
            ConfigError: If a setting is given as another that has to stay what it was.
        """
        stays = self.settings()
        for name in stays.keys() & given.keys():
            said, is_so = (self.config.with_values({name: values[name]}).to_flat()[name] for values in (given, stays))
            if said != is_so:
                raise another(name, is_so, said)
        return self.config.with_values({**given, **stays, "run.reproducible": self.config.run.reproducible})

    def verify_continued_by(self, config: RunConfig, plan: PrivacyPlan) -> None:
        """Raises unless a run may continue this one.

        Args:
            config: Of the new run. (public)
            plan: Its plan. (public)

        Raises:
            ConfigError: If a setting is another that has to stay what it was.
        """
        before, after = self.config.to_flat(), config.to_flat()
        names = [name for name in before if name in _SAME or name.startswith(_SAME_SECTIONS)]
        for name in names:
            if before[name] != after[name]:
                raise another(name, before[name], after[name])
        if self.config.is_private != config.is_private:
            raise another("privacy.epsilon", f"{self.config.privacy.epsilon:g}", f"{config.privacy.epsilon:g}")
        if self.config.mechanism != config.mechanism:
            raise another("privacy.mechanism", self.config.mechanism, config.mechanism)
        if config.privacy.colluding_clients > self.config.privacy.colluding_clients:  # its noise was not made for more
            colluding = self.config.privacy.colluding_clients, config.privacy.colluding_clients
            raise another("privacy.colluding_clients", *colluding)
        if config.is_private and config.data.public_catalog and not self.config.data.public_catalog:
            raise another("data.public_catalog", False, True)
        lacking = [name for name in ("pairs", "transitions") if plan.release(name) is not None and name not in self.totals]
        if lacking:
            raise ConfigError(
                f"Expected statistics that the run that is continued released, got {', '.join(lacking)} besides. What was "
                "used before would be left out of them; leave them out of statistics.releases, or start a new run."
            )
        if plan.unit != "user":
            raise ConfigError(
                f"Expected privacy.unit=user in a run that continues another, got privacy.unit={plan.unit}. Windows move "
                "when a history grows; start a new run."
            )
        if plan.is_private and plan.delta != self.manifest["delta"]:
            raise another("privacy.delta", f"{self.manifest['delta']:g}", f"{plan.delta:g}")
        if plan.reproducible and plan.adds_noise:
            raise ConfigError(
                "Expected a run without run.reproducible to be continued, got one with noise from the seed. The noise of "
                "both would be the same and not add up as noise does; use epsilon inf, or leave --reproducible out of both."
            )
        if self.saved.round_number and not plan.rounds:
            raise ConfigError(
                "Expected federation.rounds >= 1, because the run that is continued trained its adapter, got "
                "federation.rounds=0. Without training nothing says what the adapter is still worth; use at least 1."
            )


@dataclass(frozen=True, eq=False)
class Start:
    """Where a run starts that continues another; everything in it was released. (public)

    Attributes:
        state: The released adapter, residual and directions of factors, grown to the new catalog.
        totals: The earlier totals, over the new catalog.
        head: The items whose pairs are counted; empty where no earlier run counted any.
        weights: (5,) learned weights in the units of the scores, NaN where none was learned.
        events: What all earlier runs released.
        facts: What a record says of the run that is continued.
    """

    state: RecommenderState
    totals: dict[str, Total]
    head: NDArray[np.int64]
    weights: Floats
    events: list[Event]
    facts: dict[str, Any]

    @classmethod
    def of(
        cls, earlier: EarlierRun, config: RunConfig, plan: PrivacyPlan, recommender: Recommender, catalog: ItemCatalog
    ) -> Start:
        """Reads what was released and brings it to the new catalog.

        Args:
            earlier: The run that is continued.
            config: Of the new run.
            plan: Its plan.
            recommender: Its recommender.
            catalog: Its catalog, grown from the earlier one.

        Raises:
            ConfigError: If a setting is another that has to stay what it was.
            CheckpointError: If the earlier files are damaged, or belong to another backbone or catalog.
        """
        earlier.verify_continued_by(config, plan)
        artifact = open_artifact(earlier.folder, earlier.config, _verified_catalog(earlier, catalog))
        if artifact.recommender.backbone_digest != recommender.backbone_digest:
            raise CheckpointError(
                "Expected the backbone of the run that is continued, got other weights. Use the backbone that it had."
            )
        added = catalog.num_items - artifact.recommender.num_items
        own = grown(artifact.recommender, config, catalog) if added else artifact.recommender
        _verify_frozen(own, recommender)
        totals = dict(earlier.totals)
        if added and "popularity" in totals:
            total = totals["popularity"]
            totals["popularity"] = replace(total, values=np.concatenate([total.values, np.zeros(added)]))
        sizes = StatisticShapes.of(config, plan, recommender).sizes
        for name, total in totals.items():
            if len(total.values) != sizes[name]:
                raise ConfigError(
                    f"Expected {name} of {len(total.values)} values as in the run that is continued, got {sizes[name]}. "
                    "Leave statistics.head, statistics.dimensions and model.* as they were."
                )
        state = own.state()
        return cls(
            state=replace(state, statistics=_directions(state, recommender.num_items)),
            totals=totals,
            head=earlier.saved.head if "pairs" in totals else np.zeros(0, dtype=np.int64),
            weights=learned_weights(artifact.recommender.attached.model.statistics, earlier.config.model),
            events=earlier.events,
            facts=earlier.facts,
        )


def _directions(state: RecommenderState, num_items: int) -> NDArray[np.float32]:
    """The statistics of a state without all that follows from totals: transitions stay between the directions they were."""
    statistics = Statistics.from_vector(state.statistics, num_items=num_items)
    if statistics is None:
        return np.zeros(0, dtype=np.float32)
    none = np.zeros((num_items, 0), dtype=np.float32)
    return replace(statistics, factors=none, transition=np.zeros((0, 0), dtype=np.float32)).to_vector()


def added_up(earlier: Mapping[str, Total], own: Mapping[str, Total]) -> dict[str, Total]:
    """The sum of sums of each statistic that either has."""
    names = [*earlier, *(name for name in own if name not in earlier)]
    return {
        name: earlier[name].plus(own[name]) if name in earlier and name in own else {**earlier, **own}[name]
        for name in names
    }


def _verified_catalog(earlier: EarlierRun, catalog: ItemCatalog) -> ItemCatalog:
    """The earlier catalog.

    Raises:
        CheckpointError: If the other one was not grown from it.
    """
    before = load_catalog(earlier.folder)
    same = catalog.num_items == before.num_items and catalog.digest == before.digest
    added = catalog.num_items - before.num_items
    grows = 0 < added == catalog.num_new_items - before.num_new_items and catalog.ids[: before.num_items] == before.ids
    if not (same or grows):
        raise CheckpointError(
            f"Expected the catalog of {before.num_items} items of the run that is continued, with new ones behind it, got "
            "another. Use ItemCatalog.grown."
        )
    return before


def _verify_frozen(own: Recommender, recommender: Recommender) -> None:
    """Raises unless all frozen LoRA tensors are those that the earlier adapter was trained beside."""
    trained = {id(parameter) for parameter in own.attached.parameters}
    theirs = dict(recommender.attached.model.named_parameters())
    for name, parameter in own.attached.model.named_parameters():
        frozen = "lora_" in name and id(parameter) not in trained
        if frozen and not bool((theirs[name].detach().cpu() == parameter.detach().cpu()).all()):
            raise CheckpointError(
                "Expected the frozen half of the adapter of the run that is continued, got another. It was "
                "built by another version; start a new run."
            )


def another(name: str, before: object, after: object) -> ConfigError:
    """What is said of a setting that has to stay what it was in the run that is continued."""
    return ConfigError(
        f"Expected {name}={before} as in the run that is continued, got {name}={after}. Leave it as it was, or start a "
        "new run."
    )
