"""Private training inside a silo: DP-SGD over users, on the device. A function of a list of tasks.

One example is one user's whole history, or where the plan's unit is a window, one window of it with fixed boundaries. In
every local step each example is drawn by an independent coin (Poisson), the gradient of its own loss is computed
(`client/per_user_gradients.py`, or Opacus as the reference), clipped to C, summed, noised once and divided by a public
constant. Under `dp-ftrl-silo` there are no coins: users take turns in groups, and the noise is correlated over the steps.
Where the noise is added elsewhere, or not at all, the very same loop runs with plain gradients, which is what makes
"private = plain iff noise is 0 and the bound infinite" a statement about one path.

What is done differently from Opacus' own optimizer, and why:

* An empty batch is an ordinary event under Poisson sampling: noise alone is added (Opacus crashes).
* A user whose gradient is not finite counts as zero, and so does one whose history does not fit the catalog: an exception
  would tell others about the data.
* Norms are taken and clipping is done in float32 whatever the precision of the forward pass: bfloat16 norms overshoot the
  bound by 0.4 %. A factor of 1 - 2**-16 covers the rounding that is left; sums over batches are float64.
* Noise comes from `shared/randomness.py`, because Opacus' secure mode needs a package that cannot be installed. The
  sampling rate is the plan's own (Opacus rounds it to 1 / n).
* Steps and sampling come from the plan, and accounting is done on the ledger's events over the whole run: an engine
  made anew for every message would claim one message's epsilon.

Source:
    Abadi et al. 2016, Alg. 1; McMahan et al. 2018, Alg. 1 (user level); Yousefpour et al. 2021 (Opacus).
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn

from client.batches import batch_losses, draw_batch
from client.per_user_gradients import Collect, closed_form, take, trained_layers
from shared.config import TrainingSection
from shared.errors import PrivacyError
from shared.privacy.banded import BandedNoise
from shared.privacy.plan import PrivacyPlan
from shared.randomness import NoiseSource
from shared.recommender import Recommender
from shared.update import RecommenderState

# Clipping aims this much below the bound, so that float32 rounding of a norm over d values cannot exceed it.
_CLIP_MARGIN = 1.0 - 2.0**-16


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
    """

    state: RecommenderState
    histories: pl.Series
    expected_batch_size: float
    learning_rate: float
    source: NoiseSource
    groups: NDArray[np.int64] | None = None
    first_step: int = 0
    noise: BandedNoise | None = None


@dataclass(frozen=True, eq=False)
class TrainingResult:
    """What came of one task.

    Attributes:
        update: New adapter minus old, (d,) float32; noised where the plan adds noise locally.
        training_loss: Mean over the examples drawn, nats; exact. (private)
    """

    update: NDArray[np.float32]
    training_loss: float


def train(
    tasks: Sequence[TrainingTask], recommender: Recommender, plan: PrivacyPlan, config: TrainingSection
) -> list[TrainingResult]:
    """Trains each task from its own state.

    Guarantee:
        Under a plan that adds noise locally, each result's update is a function of the private histories only through
        `plan.steps_per_round` sums of gradients, each example's of L2 norm <= plan.l2_clip_norm, plus Gaussian noise of
        standard deviation plan.noise_stddev in every coordinate, over Poisson samples of rate plan.sampling_rate. Under
        `dp-ftrl-silo` the noise is that of `BandedNoise`, and a user is in step t only if t mod plan.min_separation is the
        user's group.

    Args:
        tasks: One or many clients' work. (private)
        recommender: The resident model; its state is overwritten.
        plan: Clip norm, noise, sampling rate, steps. (public)
        config: Optimizer settings. (public)

    Raises:
        PrivacyError: If users' gradients cannot be told apart, or DP-FTRL lacks groups or noise; whatever the data.
    """
    return [_train_one(task, recommender, plan, config) for task in tasks]


def _train_one(task: TrainingTask, recommender: Recommender, plan: PrivacyPlan, config: TrainingSection) -> TrainingResult:
    recommender.load_state(task.state)
    parameters = recommender.attached.parameters
    optimizer = _optimizer(parameters, config, task.learning_rate)
    private = UserLevelOptimizer(optimizer, plan, task.expected_batch_size) if plan.adds_noise_locally else None
    histories = examples(task.histories, plan, recommender.attached.model.config.max_history_length)
    if plan.unit == "window":
        config = config.model_copy(update={"random_windows": False, "history_dropout": 0.0})
    generator = task.source.generator()
    lengths = histories.list.len().to_numpy()
    # Who takes part is drawn before any noise, so that a replayed run without noise sees the same batches.
    samples = _who_takes_part(task, plan, len(histories))
    losses: list[float] = []
    per_user = closed_form if config.gradients == "closed-form" else opacus_hooks
    with per_user(recommender.attached.model, parameters) if private else nullcontext() as collect:
        for step, drawn in enumerate(samples, start=task.first_step):
            optimizer.zero_grad(set_to_none=True)
            # Histories of like length share a forward pass, so that little is computed on padding.
            drawn = drawn[np.argsort(lengths[drawn], kind="stable")]
            for start in range(0, len(drawn), config.physical_batch_size):
                chosen = drawn[start : start + config.physical_batch_size]
                user_loss = batch_losses(recommender, draw_batch(histories.gather(chosen), recommender, config, generator))
                if private and collect:
                    _backward(user_loss.sum())
                    private.accumulate(collect(len(chosen)))
                else:
                    _backward(user_loss.sum() / task.expected_batch_size)
                losses += user_loss.detach().tolist()
            if private:
                private.add_noise(_noise(task, plan, recommender.attached.size, step))
                private.scale_grad()
            else:
                _fill_missing_gradients(parameters)
            optimizer.step()
    update = recommender.attached.to_vector() - task.state.adapter
    return TrainingResult(update=update, training_loss=float(np.mean(losses)) if losses else math.nan)


def examples(histories: pl.Series, plan: PrivacyPlan, length: int) -> pl.Series:
    """What one coin is thrown for and one bound holds for: a user's history, or a window of it.

    Guarantee:
        Under unit `window`, changing one interaction changes exactly one example: windows are disjoint and their boundaries
        depend on positions alone, 0 to L, L + 1 to 2 L + 1 and so on. Short ones stay, so that this holds for the last too.

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
    return positions.group_by("user", window.alias("window"), maintain_order=True).agg("item")["item"]


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


def _who_takes_part(task: TrainingTask, plan: PrivacyPlan, num_examples: int) -> list[NDArray[np.int64]]:
    """The examples of each local step: by independent coins, or under DP-FTRL by turns."""
    steps = range(task.first_step, task.first_step + plan.steps_per_round)
    if plan.mechanism != "dp-ftrl-silo":
        coins = (task.source.bernoulli(num_examples, probability=plan.local_sampling_rate) for _ in steps)
        return [np.flatnonzero(drawn) for drawn in coins]
    groups = np.zeros(0) if task.groups is None else task.groups
    if len(groups) != num_examples:
        raise PrivacyError("Expected a group for every user under dp-ftrl-silo, got another number. Use user_groups().")
    return [np.flatnonzero(groups == step % plan.min_separation) for step in steps]


def _noise(task: TrainingTask, plan: PrivacyPlan, size: int, step: int) -> NDArray[np.float32]:
    """The noise of one step's sum, drawn here, once, and used once."""
    if plan.mechanism != "dp-ftrl-silo":
        return task.source.gaussian(size, stddev=plan.noise_stddev)
    noise = task.noise
    if noise is None or (noise.size, noise.bands, noise.stddev) != (size, plan.min_separation, plan.noise_stddev):
        raise PrivacyError("Expected the plan's correlated noise under dp-ftrl-silo, got another or none. Make it anew.")
    return noise.next(step)


class UserLevelOptimizer(DPOptimizer):  # type: ignore[misc]
    """Opacus' optimizer, its clipping and noise replaced as the module's docstring says."""

    def __init__(self, optimizer: torch.optim.Optimizer, plan: PrivacyPlan, divisor: float) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=plan.noise_multiplier,
            max_grad_norm=plan.l2_clip_norm,
            expected_batch_size=None,
            loss_reduction="sum",
        )
        self._divisor = divisor
        self._forget()

    def accumulate(self, samples: Sequence[Tensor]) -> None:
        """Clips the gradients of the users just seen and adds them to the running sums."""
        for parameter, total in zip(self.params, clipped_sums(samples, self.max_grad_norm), strict=True):
            so_far = parameter.summed_grad
            parameter.summed_grad = total.double() if so_far is None else so_far + total

    def add_noise(self, noise: NDArray[np.float32]) -> None:
        """Turns the sums into noised gradients; rounded to float32 only then."""
        start = 0
        for parameter in self.params:
            part = torch.from_numpy(noise[start : start + parameter.numel()]).view_as(parameter).to(parameter.device)
            total = parameter.summed_grad
            parameter.grad = part if total is None else (total + part).float()
            start += parameter.numel()
        self._forget()

    def scale_grad(self) -> None:
        """Divides by the public constant."""
        for parameter in self.params:
            parameter.grad /= self._divisor

    def _forget(self) -> None:
        for parameter in self.params:
            parameter.summed_grad = None


def clipped_sums(samples: Sequence[Tensor], l2_clip_norm: float) -> list[Tensor]:
    """Scales each user's whole gradient down to L2 norm <= l2_clip_norm and adds the users up.

    Guarantee:
        Adding or removing one user moves the result by at most l2_clip_norm in L2 norm over all tensors together,
        whatever their shapes, one value a user included. A user with NaN or infinity anywhere, or with a norm beyond
        float32, counts as zero.

    Args:
        samples: One tensor a parameter, (B, ...) float32. (private)
        l2_clip_norm: C > 0. (public)

    Returns:
        One tensor a parameter, without the leading B.
    """
    # The closed form's longer side may be the inner one in memory; flattened in that order nothing is copied.
    turned = [sample.dim() == 3 and sample.mT.is_contiguous() for sample in samples]
    dense = [sample.mT if turn else sample for sample, turn in zip(samples, turned, strict=True)]
    flat = [sample.reshape(len(sample), -1) for sample in dense]
    norms = torch.stack([torch.linalg.vector_norm(rows, dim=1) for rows in flat]).norm(dim=0)
    finite = norms.isfinite()
    if not finite.all():  # 0 * infinity is NaN, so such rows are overwritten, not scaled
        flat = [torch.where(finite.unsqueeze(1), rows, 0.0) for rows in flat]
    factor = (l2_clip_norm * _CLIP_MARGIN / norms.clamp(min=1e-30)).clamp(max=1.0)
    factor = torch.where(finite, factor, 0.0)
    sums = [(factor @ rows).view(sample.shape[1:]) for rows, sample in zip(flat, dense, strict=True)]
    return [total.mT if turn else total for total, turn in zip(sums, turned, strict=True)]


def _optimizer(parameters: list[nn.Parameter], config: TrainingSection, learning_rate: float) -> torch.optim.Optimizer:
    kind = torch.optim.AdamW if config.optimizer == "adam" else torch.optim.SGD
    return kind(parameters, lr=learning_rate, weight_decay=config.weight_decay)


@contextmanager
def opacus_hooks(model: nn.Module, parameters: Sequence[nn.Parameter]) -> Iterator[Collect]:
    """The reference for `closed_form`, and used like it: Opacus' hooks, which compute the summed gradient too."""
    trained_layers(model)
    hooks = GradSampleModule(model, batch_first=True, loss_reduction="sum")

    def collect(users: int) -> list[Tensor]:
        for parameter in parameters:
            parameter.grad = None
        return [sample.float() for sample in take(parameters, users)]

    try:
        yield collect
    finally:
        hooks.remove_hooks()


def _backward(loss: Tensor) -> None:
    with warnings.catch_warnings():
        # Under Opacus' hooks torch warns that the first adapted layer's input needs no gradient, which is meant.
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        loss.backward()  # type: ignore[no-untyped-call]


def _fill_missing_gradients(parameters: list[nn.Parameter]) -> None:
    """A step in which nobody was drawn still moves momentum and weight decay."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
