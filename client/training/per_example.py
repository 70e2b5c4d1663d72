"""Per-user gradients of LoRA in closed form: what DP-SGD clips, without the summed gradient that it never uses.

For a linear layer, u its input (B, L, in) and g the gradient of its output (B, L, out), the gradient of user b's loss is the
sum over positions of g[b]^T u[b], one small matrix product for each user. While `closed_form` is active, every trained
layer's forward pass records u and its backward pass stores these products. The weight itself gets no gradient: the sum over
users that autograd would compute is of no use to anybody who clips first. Frozen layers are not touched.

What a recorded layer does not see would leave a user's gradient unclipped, so it is refused: trained parameters other than
weights of linear layers, a weight that is used a second time in any way, variants of LoRA that read a weight outside its
layer, layers whose first dimension is not the users. No refusal depends on a user's data.

Under gradient checkpointing (not reentrant) a layer's forward pass runs again in the backward pass, but the gradient still
goes through the record of the first pass, once, with the inputs computed again: what is collected is the same.

What never lives here: clipping, noise, sampling (`client/training/dp_sgd.py`), Opacus.

Source:
    Goodfellow 2015, "Efficient Per-Example Gradient Computations"; Lee and Kifer 2021, "Scaling up Differentially Private
    Deep Learning with Fast Per-Example Gradient Clipping".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from shared.errors import UnsupportedMechanism

# Takes the gradients of the users of the last backward pass, whose number is given: one tensor (B, ...) a parameter.
Collect = Callable[[int], list[Tensor]]


@contextmanager
def closed_form(model: nn.Module, parameters: Sequence[nn.Parameter]) -> Iterator[Collect]:
    """Records per-user gradients of every trained layer, in float32 whatever the precision of the forward pass.

    Guarantee:
        A trained weight's influence on the loss is in what is collected, or collecting raises: no part of a user's gradient
        goes past clipping.

    Args:
        model: Its trained parameters are weights of linear layers, which is what LoRA trains.
        parameters: Those parameters, in the order in which gradients are wanted.

    Yields:
        A function that takes the gradients after each backward pass.

    Raises:
        UnsupportedMechanism: If something else is trained, or a weight is used otherwise than once in a forward pass.
    """
    layers = trained_layers(model)
    for layer in layers:
        if "forward" in layer.__dict__:
            raise UnsupportedMechanism(
                "Expected trained layers with their own forward pass, got one that was replaced. Per-user gradients would "
                "be taken twice or not at all; remove what replaced it."
            )
    _forget(parameters)
    for layer in layers:
        layer.forward = partial(_recorded_forward, layer)  # type: ignore[method-assign]

    def collect(users: int) -> list[Tensor]:
        if any(parameter.grad is not None for parameter in parameters):
            raise _used_elsewhere()
        return take(parameters, users)

    try:
        yield collect
    finally:
        for layer in layers:
            del layer.forward
        _forget(parameters)


def trained_layers(model: nn.Module) -> list[nn.Linear]:
    """The layers whose weights are trained.

    Raises:
        UnsupportedMechanism: If per-user gradients of this model cannot be told apart, whoever computes them.
    """
    layers: dict[nn.Parameter, nn.Linear] = {}
    for name, module in model.named_modules():
        if getattr(module, "lora_variant", None):
            raise UnsupportedMechanism(
                f"Expected plain LoRA under privacy, got a variant such as DoRA in {name}. It reads a trained weight "
                "outside its layer, where it cannot be clipped; leave use_dora and its like off."
            )
        for own_name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            if type(module) is not nn.Linear or own_name != "weight":
                raise UnsupportedMechanism(
                    f"Expected only weights of LoRA's linear layers to be trained under privacy, got {name}.{own_name}. Its "
                    "per-user gradient would not be clipped; freeze it, or set epsilon to inf."
                )
            if parameter in layers:
                raise UnsupportedMechanism(
                    f"Expected every trained weight in one layer under privacy, got the one of {name} in two. What a user "
                    "adds to a tied weight cannot be told apart; untie it."
                )
            layers[parameter] = module
    return list(layers.values())


def use_own_weights(parameters: Sequence[nn.Parameter], weights: Sequence[Tensor] | None) -> None:
    """Gives every row of the next forward pass weights of its own, or with None all rows the layers' own.

    Clients whose adapters have come apart are so trained in one pass: the frozen layers see one batch, and each trained
    layer is one batched product.

    Args:
        parameters: Of layers that are being recorded.
        weights: One tensor a parameter, (B, *its shape), float32.
    """
    for place, parameter in enumerate(parameters):
        parameter.own_weights = None if weights is None else weights[place]  # type: ignore[attr-defined]


def take(parameters: Sequence[nn.Parameter], users: int) -> list[Tensor]:
    """Takes the gradients off the parameters.

    Args:
        parameters: Each holds `grad_sample`. (private)
        users: B. (private)

    Returns:
        One tensor a parameter, (B, *its shape).

    Raises:
        UnsupportedMechanism: If a layer was not used, or saw another number of rows than there are users.
    """
    samples = []
    for parameter in parameters:
        sample = getattr(parameter, "grad_sample", None)
        if not isinstance(sample, Tensor) or sample.shape != (users, *parameter.shape):
            raise _rows_are_not_users()
        samples.append(sample)
    _forget(parameters)
    return samples


def _forget(parameters: Sequence[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.grad_sample = None  # type: ignore[attr-defined]
    use_own_weights(parameters, None)


def _used_elsewhere() -> UnsupportedMechanism:
    return UnsupportedMechanism(
        "Expected every trained weight to be used once in a forward pass, got a second use. It would go past clipping; use "
        "a layer of its own there."
    )


def _rows_are_not_users() -> UnsupportedMechanism:
    return UnsupportedMechanism(
        "Expected every trained layer to run once with one row a user, got another number of rows or passes. Rows "
        "would be clipped in place of users; give every user one row in every trained layer."
    )


def _recorded_forward(layer: nn.Linear, inputs: Tensor) -> Tensor:
    """`layer(inputs)`; the weight is detached, so that autograd itself computes the gradient of the inputs alone."""
    own: Tensor | None = getattr(layer.weight, "own_weights", None)
    if own is None:
        outputs = nn.functional.linear(inputs, layer.weight.detach(), layer.bias)
    elif len(own) != len(inputs):
        raise _rows_are_not_users()
    else:
        rows = torch.bmm(inputs.reshape(len(inputs), -1, inputs.shape[-1]), own.detach().mT)
        outputs = rows.view(*inputs.shape[:-1], -1) + (0.0 if layer.bias is None else layer.bias)
    recorded: Tensor = _Record.apply(outputs, inputs.detach(), layer.weight)  # type: ignore[no-untyped-call]
    return recorded


class _Record(torch.autograd.Function):
    """The identity, whose backward pass stores the weight's per-user gradient."""

    @staticmethod
    def forward(ctx: Any, outputs: Tensor, inputs: Tensor, weight: nn.Parameter) -> Tensor:
        """Remembers the inputs."""
        ctx.save_for_backward(inputs)
        ctx.weight = weight
        return outputs.view_as(outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Stores sum over positions of g^T u for each user."""
        if ctx.weight.grad_sample is not None:
            raise _used_elsewhere()
        (inputs,) = ctx.saved_tensors
        with torch.autocast(inputs.device.type, enabled=False):
            ctx.weight.grad_sample = _products(_by_user(gradients[0]), _by_user(inputs))
        return gradients[0], None, None


def _by_user(rows: Tensor) -> Tensor:
    """(B, ..., n) -> (B, positions, n) in float32."""
    return rows.reshape(len(rows), -1, rows.shape[-1]).float()


def _products(gradients: Tensor, inputs: Tensor) -> Tensor:
    """(B, L, out), (B, L, in) -> (B, out, in).

    The longer side is the product's inner one in memory: with a rank of 8 this is five times faster than the other order.
    """
    if gradients.shape[-1] > inputs.shape[-1]:
        return torch.bmm(inputs.mT, gradients).mT
    return torch.bmm(gradients.mT, inputs)
