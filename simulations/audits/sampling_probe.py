"""Sampling: are users, or clients, drawn by independent coins of the claimed rate, as the accountant takes them to be?

A cohort of a fixed size, accounted as if each were drawn by a coin, is the commonest wrong claim: who is in then changes who
else is, and the true epsilon is that of replacing a user. The worst population shows it. All made-up users but one send -C
along one direction and that one sends +C. By coins the sum along it varies with the number that is drawn; at a fixed size it
hardly does, so that one user's +C stands out by 2 C.

The draws are the run's own: in silos the clients' local steps, whose gradients are put in the place of those of a model; for
clients the server's cohorts. What never lives here: what follows from the readings (`shared/audit/judgment.py`).

Source:
    Lebeda, Regehr, Kamath and Steinke 2024, "Avoiding Pitfalls for Privacy Accounting of Subsampled Mechanisms under
    Composition" (Poisson against a fixed size, and the population).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from client.training import dp_sgd
from client.training.examples import Examples
from client.training.gradients import Gradients, Source
from server import cohort
from shared.audit.document import SamplingRead
from shared.config import RunConfig, TrainingSection
from shared.model.recommender import Recommender
from shared.model.state import RecommenderState
from shared.privacy.plan import PrivacyPlan
from shared.randomness import NoiseSource, replayable_source, secret_source

Floats = NDArray[np.float64]

# Sums that are read, and users of a made-up silo; of the real number no more than the plan says is used.
READINGS, MOST_USERS = 50, 300
_FEWEST_USERS = 20
# Standard deviations above the mean that a cohort hardly ever has.
_SELDOM = 3.0
# Numbers of all gradients that are made: some seconds.
_MOST_NUMBERS = 1_000_000_000
_AT_ONCE = 4_000_000


def probe_sampling(config: RunConfig, plan: PrivacyPlan, recommender: Recommender) -> tuple[SamplingRead, ...]:
    """Reads sums over the worst population.

    Args:
        config: Of the run. (public)
        plan: Of the run. (public)
        recommender: Of the run's catalog; its state is overwritten.

    Returns:
        One reading; none where no claim rests on coins, or a model is so large that too few sums could be read.
    """
    if not plan.rounds or not plan.adds_noise or plan.sampling_rate == 1.0 or plan.mechanism.takes_turns:
        return ()
    if plan.adds_noise_locally:
        users = max(_FEWEST_USERS, min(MOST_USERS, round(plan.population / plan.num_clients)))
        expected = users * plan.sampling_rate * plan.steps_per_round * recommender.attached.size
        if READINGS * expected > _MOST_NUMBERS:
            return ()
        sums = _local_steps(config, plan, recommender, users)
        return (_read("users in local steps", sums, plan, users=users, steps=plan.steps_per_round),)
    spread = math.sqrt(plan.num_clients * plan.sampling_rate * (1.0 - plan.sampling_rate))
    cut = plan.cohort_cap and plan.cohort_cap < plan.num_clients * plan.sampling_rate + _SELDOM * spread
    if plan.mechanism.shares_noise or cut:  # amplification is not claimed there; cohorts that are cut vary less
        return ()
    return (_read("clients in rounds", _rounds(config, plan), plan, users=plan.num_clients, steps=1),)


def _local_steps(config: RunConfig, plan: PrivacyPlan, recommender: Recommender, users: int) -> Floats:
    """Sums of the noised steps of made-up silos, over C; (READINGS,)."""
    size, clip = recommender.attached.size, plan.l2_clip_norm
    uniform = np.full(recommender.num_items, -math.log(recommender.num_items), dtype=np.float32)
    residual = np.zeros(recommender.attached.residual_size, dtype=np.float32)
    state = RecommenderState(uniform, recommender.initial_adapter, residual)
    # The first user is known by an item of its own.
    histories = pl.Series([[1, 0]] + [[0, 1]] * (users - 1), dtype=pl.List(pl.Int32))
    settings = config.local_training().model_copy(update={"optimizer": "sgd", "weight_decay": 0.0, "history_dropout": 0.0})
    tasks = [
        dp_sgd.TrainingTask(
            state=state,
            histories=histories,
            expected_batch_size=plan.expected_batch_size,
            learning_rate=1.0,
            source=_source(config, plan, reading),
        )
        for reading in range(READINGS)
    ]

    @contextmanager
    def gradients(own: Recommender, _: PrivacyPlan, __: TrainingSection, *, clients: int) -> Iterator[Source]:
        yield _Worst(own, clip)

    updates = dp_sgd.train(tasks, recommender, plan, settings, gradients=gradients)
    along = np.full(size, 1.0 / math.sqrt(size))
    return np.asarray(-plan.expected_batch_size / clip * (updates.astype(np.float64) @ along))


class _Worst(Source):
    """Gradients of the worst population: all users -C along one direction, the first +C."""

    def __init__(self, recommender: Recommender, l2_clip_norm: float) -> None:
        self._attached, self._device = recommender.attached, recommender.device
        self._most = max(1, _AT_ONCE // recommender.attached.size)
        self._value = l2_clip_norm / math.sqrt(recommender.attached.size)

    def of(self, examples: Examples, owner: NDArray[np.int64], adapters: Tensor, *, apart: bool) -> Iterator[Gradients]:
        """As `Source.of`."""
        windows = examples.windows
        signs = np.where(windows.flat[windows.starts[: len(owner)]] == 1, 1.0, -1.0)
        for start in range(0, len(owner), self._most):
            places = np.arange(start, min(start + self._most, len(owner)))
            rows = torch.from_numpy(signs[places].astype(np.float32) * np.float32(self._value)).to(self._device)
            whole = rows[:, None].expand(-1, self._attached.size).clone()
            yield Gradients(self._attached.split(whole), torch.from_numpy(owner[places]).to(self._device), places)


def _rounds(config: RunConfig, plan: PrivacyPlan) -> Floats:
    """Sums over the server's cohorts, over C; (READINGS,)."""
    nodes, found = list(range(plan.num_clients)), []
    for reading in range(READINGS):
        drawn = cohort.draw(nodes, plan, round_number=1 + reading, source=_source(config, plan, reading))
        found.append(2.0 * (0 in drawn) - len(drawn))
    return np.array(found)


def _source(config: RunConfig, plan: PrivacyPlan, reading: int) -> NoiseSource:
    return replayable_source(config.run.seed, "sampling probe", reading) if plan.reproducible else secret_source()


def _read(where: str, sums: Floats, plan: PrivacyPlan, *, users: int, steps: int) -> SamplingRead:
    return SamplingRead(
        where=where,
        users=users,
        rate=plan.sampling_rate,
        steps=steps,
        noise_multiplier=plan.noise_multiplier if plan.adds_noise_locally else 0.0,
        sums=tuple(sums.tolist()),
    )
