"""Private training: DP-SGD over users, on the device. A function of a list of tasks.

One example is one user's whole history. In every local step each user is drawn by an independent coin (Poisson), the
gradient of each user's own loss is computed by Opacus' hooks, clipped to C, summed, noised once and divided by a
public constant. Without privacy the very same loop runs with plain gradients, which is what makes "private = plain
iff noise is 0 and the bound infinite" a statement about one path.

What is done differently from Opacus' own optimizer, and why:

* An empty batch is an ordinary event under Poisson sampling: noise alone is added (Opacus crashes).
* A user whose gradient is not finite counts as zero: an exception would tell others about the data.
* Norms are taken and clipping is done in float32 whatever the precision of the forward pass: bfloat16 norms overshoot the
  bound by 0.4 %. A factor of 1 - 2**-16 covers the rounding that is left.
* Noise comes from `shared/randomness.py` (system CSPRNG), because Opacus' secure mode needs a package that cannot be
  installed.
* Steps and sampling come from the plan, and accounting is done on the ledger's events over the whole run: an engine
  made anew for every message would claim one message's epsilon.

Source:
    Abadi et al. 2016, Alg. 1; McMahan et al. 2018, Alg. 1 (user level); Yousefpour et al. 2021 (Opacus).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn

from shared.config import TrainingSection
from shared.model import user_losses
from shared.privacy.plan import PrivacyPlan
from shared.randomness import NoiseSource
from shared.recommender import Recommender
from shared.sequences import draw_windows, pad_histories
from shared.update import RecommenderState

# Clipping aims this much below the bound, so that float32 rounding of a norm over d values cannot exceed it.
_CLIP_MARGIN = 1.0 - 2.0**-16


@dataclass(frozen=True, eq=False)
class TrainingTask:
    """One client's local work of one round.

    Attributes:
        state: What to start from. (public)
        histories: One list of catalog rows a user, polars List[Int32], training part only. (private)
        expected_batch_size: Public constant that a step's sum is divided by, > 0.
        learning_rate: Of this round. (public)
        source: Noise and sampling.
    """

    state: RecommenderState
    histories: pl.Series
    expected_batch_size: float
    learning_rate: float
    source: NoiseSource


@dataclass(frozen=True, eq=False)
class TrainingResult:
    """What came of one task.

    Attributes:
        update: New adapter minus old, (d,) float32; noised under privacy.
        training_loss: Mean over the users drawn, nats; exact. (private)
    """

    update: NDArray[np.float32]
    training_loss: float


def train(
    tasks: Sequence[TrainingTask], recommender: Recommender, plan: PrivacyPlan, config: TrainingSection
) -> list[TrainingResult]:
    """Trains each task from its own state.

    Guarantee:
        Under a plan that adds noise, each result's update is a function of the private histories only through
        `plan.steps_per_round` sums of gradients, each user's of L2 norm <= plan.l2_clip_norm, plus Gaussian noise of
        standard deviation plan.noise_stddev in every coordinate, over Poisson samples of rate plan.sampling_rate.

    Args:
        tasks: One or many clients' work. (private)
        recommender: The resident model; its state is overwritten.
        plan: Clip norm, noise, sampling rate, steps. (public)
        config: Optimizer settings. (public)

    Returns:
        One result a task, in order.
    """
    return [_train_one(task, recommender, plan, config) for task in tasks]


def _train_one(task: TrainingTask, recommender: Recommender, plan: PrivacyPlan, config: TrainingSection) -> TrainingResult:
    recommender.load_state(task.state)
    parameters = recommender.attached.parameters
    optimizer = _optimizer(parameters, config, task.learning_rate)
    private = UserLevelOptimizer(optimizer, plan, task) if plan.adds_noise else None
    hooks = _hooks(recommender) if private else None
    windows = task.source.generator()
    lengths = task.histories.list.len().to_numpy()
    # Who takes part is drawn before any noise, so that a replayed run without noise sees the same batches.
    samples = [
        np.flatnonzero(task.source.bernoulli(len(task.histories), probability=plan.sampling_rate))
        for _ in range(plan.steps_per_round)
    ]
    losses: list[float] = []
    for drawn in samples:
        optimizer.zero_grad(set_to_none=True)
        # Histories of like length share a forward pass, so that little is computed on padding.
        drawn = drawn[np.argsort(lengths[drawn], kind="stable")]
        for start in range(0, len(drawn), config.physical_batch_size):
            users = drawn[start : start + config.physical_batch_size]
            batch = _batch(task.histories.gather(users), recommender, config, windows)
            user_loss = _losses(recommender, batch)
            if private:
                _backward(user_loss.sum())
                private.accumulate()
            else:
                _backward(user_loss.sum() / task.expected_batch_size)
            losses += user_loss.detach().tolist()
        if private:
            private.add_noise()
            private.scale_grad()
        else:
            _fill_missing_gradients(parameters)
        optimizer.step()
    if hooks:
        hooks.disable_hooks()
    update = recommender.attached.to_vector() - task.state.adapter
    return TrainingResult(update=update, training_loss=float(np.mean(losses)) if losses else math.nan)


class UserLevelOptimizer(DPOptimizer):  # type: ignore[misc]
    """Opacus' optimizer, its clipping and noise replaced as the module's docstring says."""

    def __init__(self, optimizer: torch.optim.Optimizer, plan: PrivacyPlan, task: TrainingTask) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=plan.noise_multiplier,
            max_grad_norm=plan.l2_clip_norm,
            expected_batch_size=None,
            loss_reduction="sum",
        )
        self._stddev = plan.noise_stddev
        self._source = task.source
        self._divisor = task.expected_batch_size
        self._forget()

    def accumulate(self) -> None:
        """Clips the gradients of the users just seen and adds them to the running sums."""
        samples = [parameter.grad_sample.float() for parameter in self.params]
        for parameter, total in zip(self.params, clipped_sums(samples, self.max_grad_norm), strict=True):
            parameter.summed_grad = total if parameter.summed_grad is None else parameter.summed_grad + total
            parameter.grad_sample = None
            parameter.grad = None

    def add_noise(self) -> None:
        """Turns the sums into noised gradients; the noise is drawn here, once, and used once."""
        size = sum(parameter.numel() for parameter in self.params)
        noise = torch.from_numpy(self._source.gaussian(size, stddev=self._stddev))
        start = 0
        for parameter in self.params:
            part = noise[start : start + parameter.numel()].view_as(parameter).to(parameter.device)
            total = parameter.summed_grad
            parameter.grad = part if total is None else total + part
            start += parameter.numel()
        self._forget()

    def scale_grad(self) -> None:
        """Divides by the public constant."""
        for parameter in self.params:
            parameter.grad /= self._divisor

    def _forget(self) -> None:
        for parameter in self.params:
            parameter.grad_sample = None
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
    flat = [sample.reshape(len(sample), -1) for sample in samples]
    norms = torch.stack([torch.linalg.vector_norm(rows, dim=1) for rows in flat]).norm(dim=0)
    finite = norms.isfinite()
    if not finite.all():  # 0 * infinity is NaN, so such rows are overwritten, not scaled
        flat = [torch.where(finite.unsqueeze(1), rows, 0.0) for rows in flat]
    factor = (l2_clip_norm * _CLIP_MARGIN / norms.clamp(min=1e-30)).clamp(max=1.0)
    factor = torch.where(finite, factor, 0.0)
    return [(factor @ rows).view(sample.shape[1:]) for rows, sample in zip(flat, samples, strict=True)]


def _optimizer(parameters: list[nn.Parameter], config: TrainingSection, learning_rate: float) -> torch.optim.Optimizer:
    if config.optimizer == "adam":
        return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=config.weight_decay)
    return torch.optim.SGD(parameters, lr=learning_rate, weight_decay=config.weight_decay)


def _hooks(recommender: Recommender) -> GradSampleModule:
    """Opacus' hooks on the resident model, attached once and switched off between tasks."""
    model = recommender.attached.model
    hooks: GradSampleModule | None = getattr(model, "_user_gradient_hooks", None)
    if hooks is None:
        hooks = GradSampleModule(model, batch_first=True, loss_reduction="sum")
        # Not a submodule: as one it would show up in the model's own parameters a second time.
        object.__setattr__(model, "_user_gradient_hooks", hooks)
    hooks.enable_hooks()
    return hooks


@dataclass(frozen=True, eq=False)
class _Batch:
    inputs: Tensor  # (B, L) int64
    targets: Tensor  # (B, L) int64
    mask: Tensor  # (B, L) bool


def _batch(histories: pl.Series, recommender: Recommender, config: TrainingSection, rng: np.random.Generator) -> _Batch:
    """Windows of at most L + 1 interactions: L inputs, each with the interaction that follows as target."""
    length = recommender.attached.model.config.max_history_length
    if config.history_dropout:
        histories = _thin(histories, config.history_dropout, rng)
    if config.random_windows:
        padded = draw_windows(histories, max_length=length + 1, rng=rng)
    else:
        padded = pad_histories(histories, max_length=length + 1)
    items = torch.from_numpy(np.maximum(padded.items, 0)).to(recommender.device)
    mask = torch.from_numpy(padded.mask).to(recommender.device)
    if items.shape[1] < 2:  # only users with a single interaction: nothing to predict, but the shapes must hold
        items, mask = nn.functional.pad(items, (0, 1)), nn.functional.pad(mask, (0, 1))
    return _Batch(inputs=items[:, :-1], targets=items[:, 1:], mask=mask[:, 1:])


def _thin(histories: pl.Series, largest_share: float, rng: np.random.Generator) -> pl.Series:
    """Leaves out a random share (up to `largest_share`) of each history: augmentation in place of dropout."""
    thinned = []
    for history in histories:
        items = history.to_numpy()
        kept = items[rng.random(len(items)) >= largest_share * rng.random()]
        thinned.append(kept if len(kept) >= 2 else items)
    return pl.Series(thinned, dtype=histories.dtype)


def _losses(recommender: Recommender, batch: _Batch) -> Tensor:
    with recommender.precision():
        scores = recommender.attached.model(batch.inputs)
    return user_losses(scores.float(), batch.targets, batch.mask)


def _backward(loss: Tensor) -> None:
    """Backward under Opacus' hooks; torch warns that the first adapted layer's input needs no gradient, which is meant."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        loss.backward()  # type: ignore[no-untyped-call]


def _fill_missing_gradients(parameters: list[nn.Parameter]) -> None:
    """A step in which nobody was drawn still moves momentum and weight decay."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


def learning_rate(config: TrainingSection, *, round_number: int, rounds: int) -> float:
    """The local learning rate of a round (from 1); cosine falls to a tenth in the last round."""
    if config.schedule == "constant" or rounds == 1:
        return config.learning_rate
    progress = (round_number - 1) / (rounds - 1)
    return config.learning_rate * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress)))
