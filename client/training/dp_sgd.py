"""Private training inside a silo: DP-SGD over users, on the device. A function of a list of tasks.

One task is what a device does in a round; a simulation hands over those of many clients, and they train in one batch. Their
adapters lie one below the other in a matrix (clients, d), whose rows one optimizer moves. The frozen layers see all
clients' examples as one batch. While the clients' adapters are still the same, which in the first local step they are, so do
the trained layers; after that each example meets its own client's weights in a batched product. Every example's gradient
is recorded by itself either way, and only then scaled or clipped and added to its client's row. Where gradients cannot be
recorded (Opacus' hooks, item factors at the input) the clients take turns in the same loop.

One example is one user's whole history, or where the plan's unit is a window, one window of it with fixed boundaries. In
every local step each example is drawn by an independent coin (Poisson), the gradient of its own loss is computed
(`client/training/per_example.py`, or Opacus as the reference), clipped to C, summed, noised once and divided by a public
constant. Under `dp-ftrl-silo` there are no coins: users take turns in groups, and the noise is correlated over the steps.
Where the noise is added elsewhere, or not at all, the very same loop runs with plain gradients, which is what makes
"private = plain iff noise is 0 and the bound infinite" a statement about one path.

What is done differently from Opacus' own optimizer, and why:

* An empty batch is an ordinary event under Poisson sampling: noise alone is added (Opacus crashes).
* A user whose gradient is not finite counts as zero, and so does one whose history does not fit the catalog: an exception
  would tell others about the data.
* Norms are taken in float32 whatever the precision of the forward pass, and sums are float64. A user's gradient is computed
  in a pass whose shape depends on that user's own length, so that nobody's presence changes the rounding of another's;
  a margin by precision covers the rounding that is left (`client/training/clipping.py`).
* Noise comes from `shared/randomness.py`, because Opacus' secure mode needs a package that cannot be installed. The
  sampling rate is the plan's own (Opacus rounds it to 1 / n).
* Steps and sampling come from the plan, and accounting is done on the ledger's events over the whole run: an engine
  made anew for every message would claim one message's epsilon.

Source:
    Abadi et al. 2016, Alg. 1; McMahan et al. 2018, Alg. 1 (user level); Yousefpour et al. 2021 (Opacus).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import nn

from client.training.clipping import add_rows
from client.training.examples import Draws, draw_examples
from client.training.gradients import Gradients, Source, gradients_of
from client.training.negatives import Proposal, PublicNegatives
from shared.config import TrainingSection
from shared.errors import PrivacyError
from shared.model.adapter import AttachedAdapter
from shared.model.recommender import Recommender
from shared.model.state import RecommenderState
from shared.privacy.correlated_noise import BandedNoise
from shared.privacy.plan import PrivacyPlan
from shared.randomness import NoiseSource

if TYPE_CHECKING:
    from client.training.optimizer import UserLevelOptimizer


@dataclass(frozen=True, eq=False)
class TrainingTask:
    """One client's local work of one round.

    Attributes:
        state: What to start from. (public)
        histories: List[Int32], catalog rows of each user, training part only. (private)
        expected_batch_size: Public constant that a step's sum is divided by, > 0.
        learning_rate: Of this round. (public)
        source: Noise and sampling.
        groups: DP-FTRL: the group of each user, from `user_groups`. (private)
        first_step: DP-FTRL: number of the round's first local step in the whole run, from 0. (public)
        noise: DP-FTRL: the generator that lives as long as the run does in this process.
        largest_rank: Of this client; every pair of factors is cut to that prefix, trained and sent so. None: the whole
            rank. (public)
        negatives: What the round's steps compare targets with; None: with every item. (public)
    """

    state: RecommenderState
    histories: pl.Series
    expected_batch_size: float
    learning_rate: float
    source: NoiseSource
    groups: NDArray[np.int64] | None = None
    first_step: int = 0
    noise: BandedNoise | None = None
    largest_rank: int | None = None
    negatives: PublicNegatives | None = None


def train(
    tasks: Sequence[TrainingTask],
    recommender: Recommender,
    plan: PrivacyPlan,
    config: TrainingSection,
    *,
    gradients: Callable[..., AbstractContextManager[Source]] = gradients_of,
) -> NDArray[np.float32]:
    """Trains each task from its own state; what comes of a task does not depend on the others.

    Guarantee:
        Under a plan that adds noise locally, each update is a function of the private histories only through
        `plan.steps_per_round` sums of gradients, each example's of L2 norm <= plan.l2_clip_norm, plus Gaussian noise of
        standard deviation plan.noise_stddev in every coordinate, over Poisson samples of rate plan.sampling_rate. Under
        `dp-ftrl-silo` the noise is that of `BandedNoise`, and a user is in step t only if t mod plan.min_separation is the
        user's group. A client with a largest rank has the coordinates of that prefix, gradients being cut to it before
        they are clipped; in all others its update is 0, whatever the data.

        Under a plan that clips whole updates, the update of a client without a single interaction is 0.

    Args:
        tasks: One or many clients' work; those that follow one another and share state, divisor, rate, first step and
            negatives are trained in one batch. (private)
        recommender: The resident model; its state is overwritten.
        plan: Clip norm, noise, sampling rate, steps. (public)
        config: Optimizer settings. (public)
        gradients: Where gradients come from, before anything is bounded.

    Returns:
        Each client's update, new adapter minus old, (clients, d); noised where the plan adds noise locally. Nothing else is
        computed from the histories: no loss, no count.

    Raises:
        PrivacyError: If users' gradients cannot be told apart, or DP-FTRL lacks groups or noise; whatever the data.
        OutOfMemory: If a single example does not fit.
    """
    groups = (list(together) for _, together in groupby(tasks, key=_in_common))
    results = [_train_together(together, recommender, plan, config, gradients) for together in groups]
    return results[0] if len(results) == 1 else np.concatenate(results)


def _in_common(task: TrainingTask) -> tuple[object, ...]:
    return id(task.state), task.expected_batch_size, task.learning_rate, task.first_step, task.negatives


def _train_together(
    tasks: list[TrainingTask],
    recommender: Recommender,
    plan: PrivacyPlan,
    config: TrainingSection,
    source_of: Callable[..., AbstractContextManager[Source]],
) -> NDArray[np.float32]:
    first = tasks[0]
    recommender.load_state(first.state)
    attached = recommender.attached
    max_length = attached.model.config.max_history_length
    if plan.unit == "window":
        config = config.model_copy(update={"random_windows": False, "history_dropout": 0.0})
    own = [examples(task.histories, plan, max_length) for task in tasks]
    histories = own[0] if len(own) == 1 else pl.concat(own, rechunk=True)
    clients = np.repeat(np.arange(len(tasks)), [len(part) for part in own])
    draws = Draws([task.source for task in tasks])
    # Who takes part is drawn before any noise, so that a replayed run without noise sees the same batches.
    samples = _samples(tasks, plan, [len(part) for part in own])
    proposal = _proposal(first, recommender.device)
    start = torch.from_numpy(first.state.adapter).to(recommender.device).repeat(len(tasks), 1)
    prefixes = _Prefixes([task.largest_rank for task in tasks], attached, recommender.device)
    prefixes.cut(start)
    adapters = nn.Parameter(start.clone())
    optimizer = _optimizer([adapters], config, first.learning_rate)
    private = (
        _user_level(optimizer, plan, first.expected_batch_size, recommender.arithmetic) if plan.adds_noise_locally else None
    )
    with source_of(recommender, plan, config, clients=len(tasks)) as gradients:
        for step, drawn in enumerate(samples, start=first.first_step):
            owner = clients[drawn]
            chosen = draw_examples(histories.gather(drawn), owner, max_length=max_length, config=config, draws=draws)
            if proposal is not None:
                chosen = replace(chosen, negatives=proposal.draw(step))
            adapters.grad = None
            apart = step > first.first_step or prefixes.differ
            for found in gradients.of(chosen, owner, adapters.detach(), apart=apart):
                prefixes.cut_samples(found.samples, found.rows)
                if private:
                    private.accumulate(found.samples, found.rows)
                else:
                    _add_plain(adapters, found, divisor=first.expected_batch_size)
            if private:
                private.add_noise(prefixes.of_noise(_noise(tasks, plan, attached.size, step)))
                private.scale_grad()
            elif adapters.grad is None:  # a step in which nobody was drawn still moves momentum and weight decay
                adapters.grad = torch.zeros_like(adapters)
            optimizer.step()
    updates: NDArray[np.float32] = adapters.detach().sub_(start).cpu().numpy()
    if plan.clips_whole_updates:
        # Weight decay alone moves an adapter. What a user without data contributes must be zero: the bound on an update is
        # then also the largest distance that taking a user's data out makes.
        interactions = np.bincount(clients, weights=histories.list.len().to_numpy(), minlength=len(tasks))
        updates[interactions == 0] = 0.0
    return updates


def _proposal(task: TrainingTask, device: torch.device) -> Proposal | None:
    """Where the negatives of each step come from; None where all items are scored."""
    return None if task.negatives is None else Proposal(task.negatives, task.state.log_prior, device=device)


class _Prefixes:
    """What each client has of the adapter, where their largest ranks are limited."""

    def __init__(self, largest_ranks: Sequence[int | None], attached: AttachedAdapter, device: torch.device) -> None:
        masks = {rank: attached.prefix(rank) for rank in set(largest_ranks)}
        self.differ = len({mask.tobytes() for mask in masks.values()}) > 1
        self._held: NDArray[np.bool_] | None = None
        if not all(mask.all() for mask in masks.values()):
            self._held = np.stack([masks[rank] for rank in largest_ranks])
            self._tensor = torch.from_numpy(self._held).to(device)
            self._parts = attached.split(self._tensor)

    def cut(self, adapters: torch.Tensor) -> None:
        """Sets what a client does not have to zero; (clients, d)."""
        if self._held is not None:
            adapters.mul_(self._tensor)

    def cut_samples(self, samples: Sequence[torch.Tensor], rows: torch.Tensor) -> None:
        """The same with gradients, one tensor a parameter (B, ...), of the clients `rows` (B,). NaN stays, and is found."""
        if self._held is not None:
            for sample, held in zip(samples, self._parts, strict=True):
                sample.mul_(held[rows])

    def of_noise(self, noise: NDArray[np.float32]) -> NDArray[np.float32]:
        """Noise (clients, d) for the coordinates that each client has."""
        return noise if self._held is None else noise * self._held


def examples(histories: pl.Series, plan: PrivacyPlan, length: int) -> pl.Series:
    """What one coin is thrown for and one bound holds for: a user's history, or a window of it.

    Guarantee:
        Under unit `window`, changing one interaction changes exactly one example: windows are disjoint and their boundaries
        depend on positions alone, 0 to L, L + 1 to 2 L + 1 and so on. Short ones stay, so that this holds for the last too.
        Of one user there are at most plan.windows_per_user, the latest ones.

    Args:
        histories: List[Int32] of catalog rows. (private)
        plan: The unit. (public)
        length: L, the most interactions the model reads; a window has one more, the last target. (public)

    Returns:
        List[Int32], windows in the order of users and positions.
    """
    if plan.unit == "user":
        return histories
    positions = histories.to_frame("item").with_row_index("user").filter(pl.col("item").list.len() > 0).explode("item")
    window = pl.int_range(pl.len()).over("user") // (length + 1)
    windows = positions.group_by("user", window.alias("window"), maintain_order=True).agg("item")
    before_the_latest = pl.col("window").max().over("user") - pl.col("window") >= plan.windows_per_user
    return windows.filter(~before_the_latest)["item"]


def user_groups(users: pl.Series, *, key: str, groups: int) -> NDArray[np.int64]:
    """The group in whose turn each user takes part; depends on the user and the key alone, never on who else is there.

    Args:
        users: User ids. (private)
        key: What the run is called; another run shuffles anew. (public)
        groups: Number of groups, >= 1. (public)

    Returns:
        Shape (users,), int64 in [0, groups).
    """
    run = hashlib.blake2b(key.encode()).digest()
    digests = (hashlib.blake2b(str(user).encode(), key=run, digest_size=8).digest() for user in users)
    return np.fromiter((int.from_bytes(digest, "little") % groups for digest in digests), dtype=np.int64, count=len(users))


def _samples(tasks: Sequence[TrainingTask], plan: PrivacyPlan, sizes: Sequence[int]) -> list[NDArray[np.int64]]:
    """The examples of each local step, all clients' one after the other."""
    before = np.cumsum([0, *sizes[:-1]])
    own = [_who_takes_part(task, plan, size) for task, size in zip(tasks, sizes, strict=True)]
    return [
        np.concatenate([drawn + start for drawn, start in zip(step, before, strict=True)]) for step in zip(*own, strict=True)
    ]


def _who_takes_part(task: TrainingTask, plan: PrivacyPlan, num_examples: int) -> list[NDArray[np.int64]]:
    """The examples of each local step: everybody, by independent coins, or under DP-FTRL by turns."""
    steps = range(task.first_step, task.first_step + plan.steps_per_round)
    if plan.mechanism.users_take_turns:
        groups = np.zeros(0) if task.groups is None else task.groups
        if len(groups) != num_examples:
            raise PrivacyError("Expected a group for every user under dp-ftrl-silo, got another number. Use user_groups().")
        return [np.flatnonzero(groups == step % plan.min_separation) for step in steps]
    if plan.local_sampling_rate == 1.0:
        return [np.arange(num_examples)] * len(steps)
    coins = (task.source.bernoulli(num_examples, probability=plan.local_sampling_rate) for _ in steps)
    return [np.flatnonzero(drawn) for drawn in coins]


def _noise(tasks: Sequence[TrainingTask], plan: PrivacyPlan, size: int, step: int) -> NDArray[np.float32]:
    """The noise of one step's sums, (clients, d): drawn here, once, and used once."""
    if not plan.mechanism.users_take_turns:
        return np.stack([task.source.gaussian(size, stddev=plan.noise_stddev) for task in tasks])
    for task in tasks:
        noise = task.noise
        if noise is None or (noise.size, noise.bands, noise.stddev) != (size, plan.min_separation, plan.noise_stddev):
            raise PrivacyError("Expected the plan's correlated noise under dp-ftrl-silo, got another or none. Make it anew.")
    return np.stack([task.noise.next(step) for task in tasks if task.noise is not None])


def _add_plain(adapters: nn.Parameter, found: Gradients, *, divisor: float) -> None:
    """Adds gradients to their clients' without clipping, over the public constant."""
    if adapters.grad is None:
        adapters.grad = torch.zeros_like(adapters)
    factor = torch.full((len(found.rows),), 1.0 / divisor, device=adapters.device)
    add_rows(adapters.grad, found.samples, factor, found.rows)


def _user_level(
    optimizer: torch.optim.Optimizer, plan: PrivacyPlan, divisor: float, precision: torch.dtype
) -> UserLevelOptimizer:
    # Importing Opacus takes a second or two, and only who adds noise to each step needs it.
    from client.training.optimizer import UserLevelOptimizer

    return UserLevelOptimizer(optimizer, plan, divisor, precision)


def _optimizer(parameters: list[nn.Parameter], config: TrainingSection, learning_rate: float) -> torch.optim.Optimizer:
    kind = torch.optim.AdamW if config.optimizer == "adam" else torch.optim.SGD
    return kind(parameters, lr=learning_rate, weight_decay=config.weight_decay)
