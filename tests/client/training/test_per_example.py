"""Per-user gradients in closed form: against Opacus, against one user at a time, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor, nn

from client.training.examples import Batch, Examples, batch_losses, to_batch
from client.training.gradients import _backward, opacus_hooks
from client.training.per_example import closed_form
from shared.config import RunConfig
from shared.data.sequences import RaggedHistories
from shared.errors import UnsupportedMechanism
from shared.model.recommender import Recommender, build
from shared.model.state import RecommenderState
from tests import rounding

BOTH = pytest.mark.parametrize("per_user", [closed_form, opacus_hooks])


def _recommender(config: RunConfig, catalog: Any) -> Recommender:
    """Its trained tensors are off zero, where half of all gradients vanish and nothing could be compared."""
    recommender = build(config, catalog)
    generator = np.random.default_rng(0)
    adapter = recommender.initial_adapter + generator.normal(0, 0.3, recommender.attached.size).astype(np.float32)
    recommender.load_state(RecommenderState(np.zeros(recommender.num_items, dtype=np.float32), adapter))
    return recommender


def _batch(recommender: Recommender, config: RunConfig, histories: pl.DataFrame) -> Batch:
    windows = RaggedHistories.of(histories["train"]).last(config.model.max_history_length + 1)
    return to_batch(Examples(windows, np.zeros(len(windows), dtype=np.bool_)), recommender)


def _gradients(per_user: Any, recommender: Recommender, batch: Batch) -> Tensor:
    """(B, d) float32."""
    with per_user(recommender.attached.model, recommender.attached.parameters) as collect:
        _backward(batch_losses(recommender, batch).sum())
        samples = collect(len(batch.inputs))
    assert all(sample.dtype == torch.float32 for sample in samples)
    return torch.cat([sample.reshape(len(sample), -1) for sample in samples], dim=1)


def _one_by_one(recommender: Recommender, batch: Batch) -> Tensor:
    """(B, d): each user alone, without padding, through plain autograd."""
    parameters = recommender.attached.parameters
    rows = []
    for inputs, targets, mask in zip(batch.inputs, batch.targets, batch.mask, strict=True):
        length = int(mask.sum())
        if length:
            scores = recommender.attached.model(inputs[None, :length])
            gradients = torch.autograd.grad(nn.functional.cross_entropy(scores[0], targets[:length]), parameters)
        else:
            gradients = tuple(torch.zeros_like(parameter) for parameter in parameters)
        rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
    return torch.stack(rows)


def _distance(a: Tensor, b: Tensor) -> float:
    """The largest relative L2 distance over users."""
    norms = b.double().norm(dim=1)
    return float(((a.double() - b.double()).norm(dim=1) / norms.clamp(min=norms.max() * 1e-3)).max())


@pytest.mark.parametrize("backbone", ["tiny_bert", "tiny_gpt2"])
@pytest.mark.parametrize("kind", ["ffa", "lora"])
def test_closed_form_gradients_equal_opacus_and_a_loop_of_single_user_backward_passes(
    backbone: str, kind: str, request: pytest.FixtureRequest, tiny_config: RunConfig, tiny_catalog: Any, tiny_histories: Any
) -> None:
    config = tiny_config.with_values({"model.backbone": request.getfixturevalue(backbone), "adapter.kind": kind})
    recommender = _recommender(config, tiny_catalog)
    batch = _batch(recommender, config, tiny_histories)
    closed = _gradients(closed_form, recommender, batch)
    opacus = _gradients(opacus_hooks, recommender, batch)
    alone = _one_by_one(recommender, batch)
    assert closed.shape == (9, recommender.attached.size)
    assert float(closed.norm(dim=1).min()) > 1e-3
    within = rounding.of_gradients(recommender)
    assert _distance(closed, opacus) < within
    assert _distance(closed, alone) < within
    assert _distance(opacus, alone) < within
    # The negative control: a gradient that is wrong by a thousandth is told apart.
    assert _distance(closed * 1.001, alone) > within


@BOTH
def test_a_users_gradient_does_not_depend_on_who_else_is_in_the_batch(
    per_user: Any, tiny_config: RunConfig, tiny_catalog: Any, tiny_histories: Any
) -> None:
    """In-batch negatives would couple users, and no hook could notice."""
    recommender = _recommender(tiny_config, tiny_catalog)
    batch = _batch(recommender, tiny_config, tiny_histories)
    together = _gradients(per_user, recommender, batch)
    others = replace(batch, inputs=batch.inputs.clone(), targets=batch.targets.clone())
    others.inputs[1:], others.targets[1:] = (others.inputs[1:] + 5) % 12, (others.targets[1:] + 5) % 12
    changed = _gradients(per_user, recommender, others)
    assert torch.equal(together[0], changed[0])
    assert _distance(together[1:], changed[1:]) > 0.1


def test_the_forward_pass_is_the_layers_own_and_the_weight_gets_no_summed_gradient(
    tiny_config: RunConfig, tiny_catalog: Any, tiny_histories: Any
) -> None:
    recommender = _recommender(tiny_config.with_values({"adapter.kind": "lora"}), tiny_catalog)
    model, parameters = recommender.attached.model, recommender.attached.parameters
    batch = _batch(recommender, tiny_config, tiny_histories)
    plain = model(batch.inputs)
    with closed_form(model, parameters):
        recorded = model(batch.inputs)
        assert torch.equal(recorded, plain)
        recorded.sum().backward()
        assert all(parameter.grad is None for parameter in parameters)
        replaced = {name for name, module in model.named_modules() if "forward" in module.__dict__}
    trained = {name.removesuffix(".weight") for name, _ in recommender.attached.trained}
    assert replaced == trained


def test_the_layers_own_forward_pass_is_restored_also_after_an_error(
    tiny_config: RunConfig, tiny_catalog: Any, tiny_histories: Any
) -> None:
    recommender = _recommender(tiny_config, tiny_catalog)
    model, parameters = recommender.attached.model, recommender.attached.parameters
    batch = _batch(recommender, tiny_config, tiny_histories)
    with pytest.raises(RuntimeError, match="stop"), closed_form(model, parameters):
        batch_losses(recommender, batch).sum().backward()
        raise RuntimeError("stop")
    assert not any("forward" in module.__dict__ for module in model.modules())
    assert all(parameter.grad_sample is None for parameter in parameters)
    batch_losses(recommender, batch).sum().backward()
    assert all(parameter.grad is not None for parameter in parameters)


def test_nothing_is_recorded_without_gradients(tiny_config: RunConfig, tiny_catalog: Any) -> None:
    recommender = _recommender(tiny_config, tiny_catalog)
    with closed_form(recommender.attached.model, recommender.attached.parameters), torch.no_grad():
        for _ in range(2):
            assert not recommender.attached.model(torch.zeros(1, 3, dtype=torch.int64)).requires_grad


class _Chain(nn.Module):
    """Two layers, the second with the longer side first and a frozen bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 3, bias=False)
        self.second = nn.Linear(3, 7)
        self.second.bias.requires_grad_(False)

    def forward(self, rows: Tensor) -> Tensor:
        hidden: Tensor = self.second(self.first(rows).tanh())
        return hidden


@pytest.mark.parametrize("positions", [(), (4,), (2, 3)])
@pytest.mark.parametrize("inputs_need_gradient", [False, True])
def test_inputs_of_every_number_of_dimensions_give_the_gradient_of_each_user(
    positions: tuple[int, ...], inputs_need_gradient: bool
) -> None:
    torch.manual_seed(0)
    chain, rows = _Chain(), torch.randn(6, *positions, 5, requires_grad=inputs_need_gradient)
    parameters = [chain.first.weight, chain.second.weight]
    with closed_form(chain, parameters) as collect:
        chain(rows).square().sum().backward()
        samples = collect(6)
    by_closed_form, rows.grad = rows.grad, None
    for user in range(6):
        expected = torch.autograd.grad(chain(rows[user : user + 1]).square().sum(), parameters)
        for sample, gradient in zip(samples, expected, strict=True):
            rounding.assert_close(sample[user], gradient, within=rounding.of_model(chain, backward=True))
    if inputs_need_gradient:
        chain(rows).square().sum().backward()
        rounding.assert_close(by_closed_form, rows.grad, within=rounding.of_model(chain, backward=True))


@pytest.mark.parametrize("backward_too", [False, True])
def test_gradients_are_float32_products_under_bfloat16(backward_too: bool) -> None:
    """Inputs and outputs' gradients are bfloat16, what they are multiplied to is not rounded to it."""
    torch.manual_seed(0)
    layer, rows, weights = nn.Linear(5, 3, bias=False), torch.randn(4, 6, 5), torch.randn(4, 6, 3)
    with closed_form(layer, [layer.weight]) as collect:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = (layer(rows) * weights.bfloat16()).sum()
            if backward_too:
                loss.backward()
        if not backward_too:
            loss.backward()
        (sample,) = collect(4)
    assert sample.dtype == torch.float32
    # A sum over six positions; rounded to bfloat16 it would be off by 2**-9.
    rounding.assert_close(sample, weights.bfloat16().float().mT @ rows, within=rounding.rounding(length=6))


# What is refused. Each would let a part of a user's gradient go past clipping.


class _Tower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 4)
        self.layer = nn.Linear(4, 4)

    def forward(self, items: Tensor) -> Tensor:
        output: Tensor = self.layer(self.embedding(items))
        return output


def _with_lora(**settings: Any) -> nn.Module:
    from peft import LoraConfig, get_peft_model

    return get_peft_model(_Tower(), LoraConfig(**{"r": 2, "target_modules": ["layer"], **settings}))


def _refused(per_user: Any, model: nn.Module, match: str, run: Callable[[nn.Module], Tensor] | None = None) -> None:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with pytest.raises(UnsupportedMechanism, match=match), per_user(model, parameters) as collect:
        assert run is not None, "refused only when it was run"
        _backward(run(model).sum())
        collect(3)


@BOTH
def test_dora_is_refused(per_user: Any) -> None:
    _refused(
        per_user, _with_lora(use_dora=True), r"Expected plain LoRA under privacy, got a variant such as DoRA in \S+layer\."
    )


@BOTH
@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"target_modules": ["embedding"]}, r"embedding\.lora_embedding_A\.default"),
        ({"lora_bias": True}, r"layer\.lora_B\.default\.bias"),
        ({"bias": "lora_only"}, r"layer\.base_layer\.bias"),
        ({"trainable_token_indices": {"embedding": [0, 1]}}, r"token_adapter\.trainable_tokens_delta\.default"),
        ({"modules_to_save": ["embedding"]}, r"embedding\.modules_to_save\.default\.weight"),
    ],
    ids=["embedding", "lora-bias", "bias", "trainable-tokens", "whole-embedding"],
)
def test_whatever_is_trained_beside_loras_linear_layers_is_refused(
    per_user: Any, settings: dict[str, Any], named: str
) -> None:
    message = rf"Expected only weights of LoRA's linear layers to be trained under privacy, got \S+{named}\. Its"
    _refused(per_user, _with_lora(**settings), message)


@BOTH
def test_a_tied_weight_is_refused(per_user: Any) -> None:
    chain = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    chain[1].weight = chain[0].weight
    _refused(per_user, chain, "Expected every trained weight in one layer under privacy, got the one of 1 in two")


def test_a_layer_that_runs_twice_is_refused_and_never_bypassed() -> None:
    layer = nn.Linear(4, 4, bias=False)
    rows = torch.randn(3, 2, 4)
    _refused(closed_form, layer, "got a second use. It would go past clipping", lambda model: model(model(rows)))
    _refused(closed_form, layer, "got a second use", lambda model: model(rows) + model(rows + 1))


def test_a_weight_that_is_used_outside_its_layer_is_refused_and_never_bypassed() -> None:
    layer = nn.Linear(4, 4, bias=False)
    rows = torch.randn(3, 2, 4)
    _refused(closed_form, layer, "got a second use", lambda model: model(rows) @ layer.weight)
    _refused(closed_form, layer, "got a second use", lambda model: model(rows).sum() + layer.weight.square().sum())


@BOTH
def test_rows_that_are_not_users_are_refused(per_user: Any) -> None:
    """A tower that sees B * K candidates would have its rows clipped, not its users."""
    layer = nn.Sequential(nn.Linear(4, 4, bias=False))
    rows = torch.randn(3, 2, 4)
    message = "Expected every trained layer to run once with one row a user"
    _refused(per_user, layer, message, lambda model: model(rows.flatten(0, 1)))
    _refused(per_user, layer, message, lambda model: rows + model(rows[:1]))


@BOTH
def test_a_trained_layer_that_did_not_run_is_refused(per_user: Any) -> None:
    pair = nn.ModuleList([nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)])
    message = "Expected every trained layer to run once with one row a user"
    _refused(per_user, pair, message, lambda model: model[0](torch.randn(3, 2, 4)))


def test_gradients_of_two_batches_are_never_mixed() -> None:
    """What was not collected before the next backward pass is an error, not a sum."""
    layer, rows = nn.Linear(4, 4, bias=False), torch.randn(3, 2, 4)
    with pytest.raises(UnsupportedMechanism, match="got a second use"), closed_form(layer, [layer.weight]):
        layer(rows).sum().backward()
        layer(rows).sum().backward()


def test_recording_twice_at_a_time_is_refused(tiny_config: RunConfig, tiny_catalog: Any) -> None:
    attached = build(tiny_config, tiny_catalog).attached
    with closed_form(attached.model, attached.parameters):
        with (
            pytest.raises(UnsupportedMechanism, match="Expected trained layers with their own forward pass"),
            closed_form(attached.model, attached.parameters),
        ):
            pass
        # The outer one is still in place.
        assert any("forward" in module.__dict__ for module in attached.model.modules())
    assert not any("forward" in module.__dict__ for module in attached.model.modules())
