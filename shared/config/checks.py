"""Settings that contradict one another, refused before anything is read.

What never lives here: the range of one key (`sections.py`), and what cannot be claimed (`shared/privacy/calibration.py`).
"""

from __future__ import annotations

import re
from typing import Protocol

from shared.config.sections import (
    AdapterSection,
    DataSection,
    EvaluationSection,
    FederationSection,
    ModelSection,
    PrivacySection,
    SecureAggregationSection,
    ServerSection,
    StatisticsSection,
    TrainingSection,
)  # fmt: skip
from shared.errors import ConfigError
from shared.privacy.mechanism import Mechanism

# No bound above this is worth a number.
_LARGEST_EPSILON = 1e9


class Settings(Protocol):
    """The sections of a configuration (`run.py: RunConfig`), and what follows from them."""

    @property
    def data(self) -> DataSection:
        """[data]."""
        ...

    @property
    def federation(self) -> FederationSection:
        """[federation]."""
        ...

    @property
    def model(self) -> ModelSection:
        """[model]."""
        ...

    @property
    def adapter(self) -> AdapterSection:
        """[adapter]."""
        ...

    @property
    def mechanism(self) -> Mechanism:
        """`privacy.mechanism` with `auto` resolved."""
        ...

    @property
    def secure_aggregation(self) -> SecureAggregationSection:
        """[secure_aggregation]."""
        ...

    @property
    def server(self) -> ServerSection:
        """[server]."""
        ...

    @property
    def training(self) -> TrainingSection:
        """[training]."""
        ...

    @property
    def privacy(self) -> PrivacySection:
        """[privacy]."""
        ...

    @property
    def statistics(self) -> StatisticsSection:
        """[statistics]."""
        ...

    @property
    def evaluation(self) -> EvaluationSection:
        """[evaluation]."""
        ...

    @property
    def is_private(self) -> bool:
        """Whether noise is asked for at all."""
        ...

    @property
    def freezes_a(self) -> bool:
        """Whether lora_A stays at its public initialization."""
        ...

    def server_optimization(self) -> ServerSection:
        """`server`, resolved."""
        ...


def verify(config: Settings) -> None:
    """Raises unless all keys can be kept together.

    Raises:
        ConfigError: For two settings that contradict one another.
    """
    if config.data.cut_off_seconds() and config.data.split != "global-temporal":
        raise ConfigError(
            f"Expected data.split=global-temporal with data.cut_offs, got data.split={config.data.split}. Cut-offs mean "
            "nothing there; leave them out, or use global-temporal."
        )
    if not config.privacy.epsilon > 0:  # also refuses NaN
        raise ConfigError(
            f"Expected privacy.epsilon > 0, got privacy.epsilon={config.privacy.epsilon}. "
            "Use a value such as 8, or inf to turn privacy off."
        )
    if config.is_private and config.privacy.epsilon > _LARGEST_EPSILON:
        raise ConfigError(
            f"Expected privacy.epsilon <= {_LARGEST_EPSILON:g} or inf, got privacy.epsilon={config.privacy.epsilon:g}. It "
            "promises nothing; use a value such as 8, or inf to turn privacy off."
        )
    if config.evaluation.released_round == "best-noised" and not config.is_private:
        raise ConfigError(
            "Expected evaluation.released_round=last without privacy, got best-noised. There are no noised validations "
            "to choose by; use last."
        )
    if not config.privacy.delta < 1:  # also refuses NaN
        raise ConfigError(
            f"Expected privacy.delta < 1, got privacy.delta={config.privacy.delta}. Use at most 1/(10 x population)."
        )
    if config.training.gradient_checkpointing and config.training.gradients == "opacus":
        raise ConfigError(
            "Expected training.gradient_checkpointing=false with training.gradients=opacus, got true. Opacus' hooks "
            "cannot record a layer that runs again in the backward pass; use training.gradients=closed-form."
        )
    if config.secure_aggregation.simulate == "full" and not config.mechanism.shares_noise:
        raise ConfigError(
            f"Expected privacy.mechanism=distributed with secure_aggregation.simulate=full, got {config.mechanism}. Only "
            "noise in shares needs sums that hide their summands; use simulate=sum, or mechanism=distributed."
        )
    config.statistics.names()
    _verify_adapter(config)
    _verify_rule(config)
    if config.federation.sizes == "attribute" and not config.federation.attribute:
        raise ConfigError(
            "Expected federation.attribute to name a user attribute, got federation.attribute=''. "
            "Set it, or use federation.sizes = equal."
        )


def _verify_adapter(config: Settings) -> None:
    adapter = config.adapter
    adapter.largest_ranks()
    named = [rank for _, rank in adapter.rank_patterns()]
    if not any((adapter.rank, adapter.input_rank, adapter.output_rank, adapter.head_rank, adapter.item_rank, *named)):
        raise ConfigError(
            "Expected at least one of adapter.rank, adapter.input_rank, adapter.output_rank, adapter.head_rank, "
            "adapter.item_rank > 0, got all 0. With every rank 0 there is nothing to train."
        )
    _verify_negatives(config)
    if not adapter.aggregates_products:
        return
    if adapter.aggregation == "residual" and config.model.weights != "float32":
        raise ConfigError(
            f"Expected model.weights=float32 with adapter.aggregation=residual, got model.weights={config.model.weights}. "
            "What is kept is added to the frozen weights, which would round it away; use stack, or float32."
        )
    if config.freezes_a:
        raise ConfigError(
            f"Expected adapter.aggregation=mean with adapter.kind=ffa, got adapter.aggregation={adapter.aggregation}. "
            "With A frozen the mean of the tensors is the mean of the products already; use mean, or adapter.kind=lora."
        )
    server = config.server_optimization()
    if (server.optimizer, server.learning_rate, server.momentum) != ("sgd", 1.0, 0.0):
        raise ConfigError(
            "Expected server.optimizer=sgd, server.learning_rate=1 and server.momentum=0 with "
            f"adapter.aggregation={adapter.aggregation}, got others. The mean of the products "
            "takes the adapter's place; leave the server's settings at their defaults."
        )


def fewest_replies(server: ServerSection) -> int:
    """Replies that the bound of `server.rule` needs: 1, 2 f + 1, or 2 f + 3."""
    return {"mean": 1, "multi-krum": 2 * server.faulty_clients + 3}.get(server.rule, 2 * server.faulty_clients + 1)


def _verify_rule(config: Settings) -> None:
    """Refuses a robust rule where it cannot look at single contributions, or where the claim or the noise needs the sum."""
    rule, adapter, clients = config.server.rule, config.adapter, config.federation.clients
    if rule == "mean":
        return
    reason = None
    if config.mechanism.clips_whole_updates:
        reason = (
            "Its noise is made for a sum of users' contributions; a rule that picks among them follows one user further. "
            "Use privacy.mechanism=dp-sgd in silos, whose noise is in each contribution, or server.rule=mean."
        )
    elif config.mechanism.users_take_turns:
        reason = (
            "Its noise is taken back step by step in the mean of all silos; a rule would leave it in. Use "
            "privacy.mechanism=dp-sgd, or server.rule=mean."
        )
    elif adapter.client_ranks and not adapter.aggregates_products:
        reason = (
            "Clients of a smaller rank send a prefix, and a rule compares whole updates. Use adapter.aggregation=stack, or "
            "leave adapter.client_ranks out."
        )
    elif clients and config.federation.sizes != "attribute" and clients < fewest_replies(config.server):
        reason = (
            f"With server.faulty_clients={config.server.faulty_clients} its bound holds from "
            f"{fewest_replies(config.server)} clients on, and there are {clients}. Use more clients, or server.rule=mean."
        )
    if reason:
        raise ConfigError(f"Expected server.rule=mean with these settings, got server.rule={rule}. {reason}")


def _verify_negatives(config: Settings) -> None:
    adapter, negatives = config.adapter, config.training.negatives
    head_rank = next(
        (rank for pattern, rank in adapter.rank_patterns() if re.search(pattern, "item_head")), adapter.head_rank
    )
    if negatives and head_rank:
        raise ConfigError(
            f"Expected adapter.head_rank=0 with training.negatives={negatives}, got a rank of {head_rank} "
            "for the item head. Every user's gradient of it has a row for every item, which is what negatives are there "
            "to avoid; use adapter.output_rank, or training.negatives=0."
        )
