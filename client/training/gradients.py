"""Gradients of many clients' examples, one forward and backward pass after the other.

Two ways, by what the model allows. Together: examples of all clients share a pass, and LoRA's closed form
(`per_example.py`) gives the gradient of each. In turns: one client after the other, through autograd alone (a sum,
for one who need not clip) or through Opacus' hooks (the reference). What never lives here: clipping, sums, noise
(`client/training/dp_sgd.py`).

When memory runs out in a pass, that pass is repeated in halves and later ones are smaller. No noise has been drawn by then
and nothing was added to any sum, so nothing is released twice and nothing counts twice.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from client.training.examples import Examples, batch_losses, to_batch
from client.training.negatives import Proposal, PublicNegatives
from client.training.per_example import Collect, closed_form, take, trained_layers, use_own_weights
from shared.config import TrainingSection
from shared.data.sequences import RaggedHistories
from shared.errors import OutOfMemory, UnsupportedMechanism
from shared.model.passes import PassShapes
from shared.model.recommender import Recommender
from shared.privacy.plan import PrivacyPlan

# What the gradients of the examples of one pass may take; own weights and a copy in float64 come on top.
_GRADIENT_BYTES = 2**28
_BYTES_A_PARAMETER = 16
# The numbers of negatives with which each model was tried out; 0 is every item.
_TRIED: weakref.WeakKeyDictionary[Recommender, set[int]] = weakref.WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class Gradients:
    """What one pass gave. (private)

    Attributes:
        samples: One tensor a parameter, (B, ...) float32: a gradient an example, or of all of them together.
        rows: (B,) int64, the client each gradient belongs to.
        examples: (B,) int64, the places of the pass's examples in the step.
    """

    samples: Sequence[Tensor]
    rows: Tensor
    examples: NDArray[np.int64]


class Source:
    """Where gradients come from.

    Args:
        recommender: The resident model.
        collect: Takes what the last backward pass left.
        together: Whether examples of several clients may share a pass.
        several: Whether there may be several clients; a single one of several is computed as they are.
        shapes: Of passes.
    """

    def __init__(
        self, recommender: Recommender, collect: Collect, *, together: bool, several: bool, shapes: PassShapes
    ) -> None:
        self._recommender, self._collect = recommender, collect
        self._together, self._several, self._shapes = together, several, shapes

    def of(self, examples: Examples, owner: NDArray[np.int64], adapters: Tensor, *, apart: bool) -> Iterator[Gradients]:
        """The gradients of one step.

        Args:
            examples: B. (private)
            owner: (B,), whose each is, ascending. (private)
            adapters: (clients, d), where each client's adapter stands.
            apart: Whether they may differ.
        """
        attached = self._recommender.attached
        if self._together:
            own = attached.split(adapters) if self._several and apart else None
            if own is None:
                attached.load_tensor(adapters[0])
            for rows, width in self._shapes.passes(examples.windows.lengths):
                yield from self._gradients(examples, owner, rows, width, own)
        else:
            for client in np.unique(owner):
                attached.load_tensor(adapters[client])
                (mine,) = np.nonzero(owner == client)
                for rows, width in self._shapes.passes(examples.windows.lengths[mine]):
                    yield from self._gradients(examples, owner, mine[rows], width, None)

    def _gradients(
        self,
        examples: Examples,
        owner: NDArray[np.int64],
        rows: NDArray[np.int64],
        width: int,
        own: Sequence[Tensor] | None,
    ) -> Iterator[Gradients]:
        done = 0
        while done < len(rows):
            most = self._shapes.most_rows(width)
            part = rows[done : done + most]
            count = most if self._shapes.fills_up else len(part)
            try:
                found = self._one_pass(examples, owner, part, width, count, own)
            except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or count == 1:
                    raise
                self._shapes = replace(self._shapes, tokens=count // 2 * width)
                _forget(self._recommender)
                continue
            yield found
            done += len(part)

    def _one_pass(
        self,
        examples: Examples,
        owner: NDArray[np.int64],
        rows: NDArray[np.int64],
        width: int,
        count: int,
        own: Sequence[Tensor] | None,
    ) -> Gradients:
        clients = owner[rows]
        filled = np.append(clients, np.repeat(clients[:1], count - len(rows)))
        index = torch.from_numpy(filled).to(self._recommender.device)
        parameters = self._recommender.attached.parameters
        if own is not None:
            use_own_weights(parameters, [weights[index] for weights in own])
        batch = to_batch(examples.take(rows), self._recommender, width=width, rows=count)
        _backward(batch_losses(self._recommender, batch).sum())
        samples = [sample[: len(rows)] for sample in self._collect(count)]
        gradients = index[: len(samples[0])]  # one for all examples, or one each
        return Gradients(samples, gradients, rows)


@contextmanager
def gradients_of(recommender: Recommender, plan: PrivacyPlan, config: TrainingSection, *, clients: int) -> Iterator[Source]:
    """Chooses how gradients are taken, for as long as the block lasts.

    Args:
        recommender: The resident model.
        plan: Whether each example is clipped by itself. (public)
        config: Which way is asked for, and the size of a pass. (public)
        clients: How many train at once.

    Raises:
        UnsupportedMechanism: If examples must be told apart and cannot be.
    """
    model, parameters = recommender.attached.model, recommender.attached.parameters
    tokens = config.physical_batch_size * (model.config.max_history_length + 1)
    # How many of a cohort's users are computed here at once depends on who was drawn; a single one is computed like several.
    several = clients > 1 or plan.clips_whole_updates
    if plan.adds_noise_locally and config.gradients == "opacus":
        way, together = opacus_hooks, False
    elif plan.adds_noise_locally or (several and trains_together(recommender)):
        way, together = closed_form, True
    else:
        way, together = _autograd, False
    # The margin of clipping is for rounding in float32; in bfloat16 none would do.
    fixed = plan.adds_noise and recommender.arithmetic == torch.bfloat16
    # Short histories leave room for more of them, but each has a gradient of its own.
    shapes = PassShapes(
        tokens=tokens,
        rows=max(config.physical_batch_size, _GRADIENT_BYTES // (_BYTES_A_PARAMETER * recommender.attached.size)),
        longest=model.config.max_history_length + 1,
        fills_up=fixed,
        coarse=fixed,
    )
    _forget(recommender)  # what a pass of an earlier task left when it failed would be in this one's gradient
    try:
        with way(model, parameters) as collect:
            yield Source(recommender, collect, together=together, several=several, shapes=shapes)
    finally:
        _forget(recommender)


def require_memory(recommender: Recommender, negatives: PublicNegatives | None = None) -> None:
    """Tries out one example of the greatest length, once a process and number of negatives, before any data is read.

    Whether a user's own history fits would tell its length; this asks about the model alone.

    Args:
        recommender: The resident model.
        negatives: What targets are compared with; None: with every item. (public)

    Raises:
        OutOfMemory: If there is no memory for it.
    """
    tried, count = _TRIED.setdefault(recommender, set()), 0 if negatives is None else negatives.count
    if count in tried:
        return
    length = recommender.attached.model.config.max_history_length
    windows = RaggedHistories.of([np.zeros(length + 1, dtype=np.int64)])
    flat = np.zeros(recommender.num_items, dtype=np.float32)
    drawn = None if negatives is None else Proposal(negatives, flat, device=recommender.device).draw(0)
    batch = to_batch(Examples(windows, np.zeros(1, dtype=np.bool_), drawn), recommender)
    try:
        _backward(batch_losses(recommender, batch).sum())
    except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(
            "Expected memory for one history of the greatest length, ran out of it. No data was read; use a smaller "
            "model.max_history_length, fewer model.layers, training.negatives or a smaller catalog, or go on with --resume "
            "where there is more."
        ) from None
    finally:
        _forget(recommender)
    tried.add(count)


def _forget(recommender: Recommender) -> None:
    for parameter in recommender.attached.parameters:
        parameter.grad = parameter.grad_sample = None  # type: ignore[attr-defined]
    if recommender.device.type == "cuda":
        torch.cuda.empty_cache()


def trains_together(recommender: Recommender) -> bool:
    """Whether examples of several clients can share a pass: whether all that is trained are LoRA's linear layers."""
    try:
        trained_layers(recommender.attached.model)
    except UnsupportedMechanism:
        return False
    return True


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on the GPU or beside it; torch has no type of its own for the latter."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


@contextmanager
def opacus_hooks(model: nn.Module, parameters: Sequence[nn.Parameter]) -> Iterator[Collect]:
    """The reference for `closed_form`, and used like it: Opacus' hooks, which compute the summed gradient too.

    Raises:
        UnsupportedMechanism: As `trained_layers`, and with gradient checkpointing: the hooks keep the inputs of every
            forward pass, and a second one would be taken for another use of the layer.
    """
    from opacus import GradSampleModule

    trained_layers(model)
    if any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
        raise UnsupportedMechanism(
            "Expected training.gradient_checkpointing=false with training.gradients=opacus, got true. Opacus' hooks cannot "
            "record a layer that runs again in the backward pass; use training.gradients=closed-form."
        )
    hooks = GradSampleModule(model, batch_first=True, loss_reduction="sum")

    def collect(users: int) -> list[Tensor]:
        for parameter in parameters:
            parameter.grad = None
        return [sample.float() for sample in take(parameters, users)]

    try:
        yield collect
    finally:
        hooks.remove_hooks()


@contextmanager
def _autograd(model: nn.Module, parameters: Sequence[nn.Parameter]) -> Iterator[Collect]:
    """One summed gradient, for whoever need not tell examples apart."""

    def collect(users: int) -> list[Tensor]:
        found = [torch.zeros_like(part) if part.grad is None else part.grad for part in parameters]
        for parameter in parameters:
            parameter.grad = None
        return [gradient.unsqueeze(0) for gradient in found]

    yield collect


def _backward(loss: Tensor) -> None:
    with warnings.catch_warnings():
        # Under Opacus' hooks torch warns that the first adapted layer's input needs no gradient, which is meant.
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        loss.backward()  # type: ignore[no-untyped-call]
