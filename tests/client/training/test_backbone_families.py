"""Every family of backbones, kept in every way, with every way to take gradients: it works, or is refused with a reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from client.training.examples import batch_losses
from client.training.gradients import opacus_hooks
from client.training.per_example import closed_form, use_own_weights
from shared.config import RunConfig
from shared.errors import UnsupportedMechanism
from shared.model.backbone import encode_texts, load_backbone
from shared.model.families import SUPPORTED_MODEL_TYPES, linear_layers
from shared.model.recommender import Recommender
from tests import rounding
from tests.client.training.test_per_example import _batch, _distance, _gradients, _one_by_one, _recommender

FAMILIES = pytest.mark.parametrize("family", SUPPORTED_MODEL_TYPES)
Folders = Callable[[str], str]
WIDTH = 64


@FAMILIES
@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
def test_the_output_at_a_position_depends_on_inputs_up_to_it_only_in_every_family(
    family: str, weights: str, tiny_family: Folders
) -> None:
    transformer = load_backbone(tiny_family(family), weights=weights).transformer
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2, 12, WIDTH, generator=generator)
    before = transformer(inputs_embeds=inputs).last_hidden_state
    for position in (0, 5, 10):
        changed = inputs.clone()
        changed[:, position + 1 :] = torch.randn(2, 11 - position, WIDTH, generator=generator)
        after = transformer(inputs_embeds=changed).last_hidden_state
        within = rounding.of_model(transformer)
        rounding.assert_close(after[:, : position + 1], before[:, : position + 1], within=within)
        # What comes later does move, and an earlier input does reach a later output.
        assert (after[:, position + 1 :] - before[:, position + 1 :]).abs().amax(dim=2).min() > 1e-2
        earlier = inputs.clone()
        earlier[:, position] += torch.randn(WIDTH, generator=generator)
        moved = (transformer(inputs_embeds=earlier).last_hidden_state - before)[:, position + 1]
        assert moved.abs().max() > 1e-3


@FAMILIES
def test_a_family_without_its_causal_setting_would_look_ahead_where_it_has_one(family: str, tiny_family: Folders) -> None:
    """The negative control of the test above: bidirectional families do look ahead as they come from their file."""
    from transformers import AutoModel

    plain = AutoModel.from_pretrained(tiny_family(family)).eval()
    inputs = torch.randn(1, 8, WIDTH, generator=torch.Generator().manual_seed(0))
    changed = inputs.clone()
    changed[:, 5:] = torch.randn(1, 3, WIDTH, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        moved = (plain(inputs_embeds=changed).last_hidden_state - plain(inputs_embeds=inputs).last_hidden_state)[:, :5]
    assert (moved.abs().max() > 1e-2) == (family in ("bert", "modernbert"))


@FAMILIES
def test_the_kept_layers_of_every_family_are_the_lowest_ones_and_the_word_table_is_gone(
    family: str, tiny_family: Folders
) -> None:
    folder = tiny_family(family)
    one, whole = load_backbone(folder, num_layers=1), load_backbone(folder)
    kept = dict(one.transformer.named_parameters())
    assert len(linear_layers(one.transformer)) * whole.num_layers == len(linear_layers(whole.transformer))
    for name, parameter in kept.items():
        if "embed" in name or "wte" in name:
            continue  # the word table's stand-in is random
        assert torch.equal(parameter, whole.transformer.get_parameter(name))
    assert not [m for m in whole.transformer.modules() if isinstance(m, nn.Embedding) and m.num_embeddings == 74]
    assert not [m for m in whole.transformer.modules() if isinstance(m, nn.Dropout) and m.p > 0]
    assert not any(parameter.requires_grad for parameter in whole.transformer.parameters())


@FAMILIES
def test_texts_are_encoded_by_every_family_whatever_shares_their_batch(family: str, tiny_family: Folders) -> None:
    texts = ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9"]
    together = encode_texts(texts, backbone=tiny_family(family))
    within = rounding.of_model(load_backbone(tiny_family(family)).transformer)
    assert together.shape == (3, WIDTH)
    for text, vector in zip(texts, together, strict=True):
        (alone,) = encode_texts([text], backbone=tiny_family(family))
        rounding.assert_close(vector, alone, within=within)


def _learned(family: str, folders: Folders, config: RunConfig, catalog: Any, **values: object) -> Recommender:
    settings = {"model.backbone": folders(family), **{key.replace("__", "."): value for key, value in values.items()}}
    return _recommender(config.with_values(settings), catalog)


@FAMILIES
def test_per_user_gradients_of_every_family_equal_opacus_and_a_loop_of_single_users(
    family: str, tiny_family: Folders, tiny_config: RunConfig, tiny_catalog: Any, tiny_histories: Any
) -> None:
    recommender = _learned(family, tiny_family, tiny_config, tiny_catalog)
    within = [name for name, _ in recommender.attached.trained if name.startswith("transformer.")]
    # Each frozen layer has a LoRA of two layers beside it, of which FFA trains one.
    assert 3 * len(within) == len(linear_layers(recommender.attached.model.transformer)) > 0
    batch = _batch(recommender, tiny_config, tiny_histories)
    closed = _gradients(closed_form, recommender, batch)
    assert float(closed.norm(dim=1).min()) > 1e-3
    alone = _one_by_one(recommender, batch)
    within = rounding.of_gradients(recommender)
    assert _distance(closed, alone) < within
    assert _distance(closed, _gradients(opacus_hooks, recommender, batch)) < within
    # The negative control: a gradient that is wrong by a thousandth is told apart.
    assert _distance(closed * 1.001, alone) > within


@FAMILIES
@pytest.mark.parametrize("weights", ["bfloat16", "int8", "int4"])
def test_per_user_gradients_are_float32_and_right_whatever_the_frozen_weights(
    family: str, weights: str, tiny_family: Folders, tiny_config: RunConfig, tiny_catalog: Any, tiny_histories: Any
) -> None:
    """The loop runs through the same frozen weights: what is compared is the taking of gradients, not the rounding."""
    recommender = _learned(family, tiny_family, tiny_config, tiny_catalog, model__weights=weights)
    assert all(parameter.dtype == torch.float32 for parameter in recommender.attached.parameters)
    frozen = {str(layer.weight.dtype) + type(layer.weight).__name__ for layer in _base_layers(recommender)}
    assert frozen == {
        "bfloat16": {"torch.bfloat16Parameter"}, "int8": {"torch.int8Int8Params"}, "int4": {"torch.uint8Params4bit"},
    }[weights]  # fmt: skip
    batch = _batch(recommender, tiny_config, tiny_histories)
    closed = _gradients(closed_form, recommender, batch)
    alone = _one_by_one(recommender, batch)
    # A batch of another size rounds otherwise in bfloat16.
    stored = torch.bfloat16 if weights == "bfloat16" else torch.float32
    assert _distance(closed, alone) < rounding.of_model(recommender.attached.model, backward=True, stored=stored)
    whole = _gradients(closed_form, _learned(family, tiny_family, tiny_config, tiny_catalog), batch)
    assert _distance(closed, whole) > 1e-6


@FAMILIES
@pytest.mark.parametrize("weights", ["float32", "bfloat16", "int8", "int4"])
def test_gradients_are_those_of_each_users_loss_in_the_same_pass_and_of_nobody_else(
    family: str, weights: str, tiny_family: Folders, tiny_config: RunConfig, tiny_catalog: Any, tiny_histories: Any
) -> None:
    """In a pass of one shape every row rounds alike, so that bfloat16 leaves no room: closed form, Opacus, autograd of one
    user's loss, checkpointed or not; and what others did changes nothing at all."""
    recommender = _learned(family, tiny_family, tiny_config, tiny_catalog, model__weights=weights)
    batch = _batch(recommender, tiny_config, tiny_histories)
    closed = _gradients(closed_form, recommender, batch)
    assert float(closed.norm(dim=1).min()) > 1e-3
    within = rounding.of_gradients(recommender)
    assert _distance(closed, _of_each_loss(recommender, batch)) < within
    assert _distance(closed, _gradients(opacus_hooks, recommender, batch)) < within
    values = {"model__weights": weights, "training__gradient_checkpointing": True}
    again = _learned(family, tiny_family, tiny_config, tiny_catalog, **values)
    assert _distance(closed, _gradients(closed_form, again, batch)) < within
    others = replace(batch, inputs=batch.inputs.clone(), targets=batch.targets.clone())
    others.inputs[1:], others.targets[1:] = (others.inputs[1:] + 5) % 12, (others.targets[1:] + 5) % 12
    changed = _gradients(closed_form, recommender, others)
    assert torch.equal(changed[0], closed[0])
    assert _distance(changed[1:], closed[1:]) > 0.1


def _of_each_loss(recommender: Recommender, batch: Any) -> torch.Tensor:
    """(B, d): the whole batch goes forward, one user's loss comes back, through plain autograd."""
    rows = []
    for user in range(len(batch.inputs)):
        loss = batch_losses(recommender, batch)[user]
        gradients = torch.autograd.grad(loss, recommender.attached.parameters)
        rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
    return torch.stack(rows)


def test_eight_bits_choose_no_columns_by_the_largest_value_of_a_batch(tiny_family: Folders) -> None:
    """Kernels for GPUs do, above a threshold that is 6 by default: a user's row would then depend on the others'."""
    layers = linear_layers(load_backbone(tiny_family("llama"), weights="int8").transformer)
    assert {layer.state.threshold for layer in layers} == {0.0}


def _base_layers(recommender: Recommender) -> list[Any]:
    model = recommender.attached.model.transformer
    return [module.get_base_layer() for module in model.modules() if hasattr(module, "get_base_layer")]


@FAMILIES
def test_checkpointed_gradients_equal_kept_ones_with_weights_of_each_users_own_too(
    family: str, tiny_family: Folders, tiny_config: RunConfig, tiny_catalog: Any, tiny_histories: Any
) -> None:
    kept = _learned(family, tiny_family, tiny_config, tiny_catalog)
    again = _learned(family, tiny_family, tiny_config, tiny_catalog, training__gradient_checkpointing=True)
    batch = _batch(kept, tiny_config, tiny_histories)
    assert _passes_of_a_layer(kept, batch) == 1 and _passes_of_a_layer(again, batch) == 2
    within = rounding.of_gradients(kept)
    assert _distance(_gradients(closed_form, again, batch), _gradients(closed_form, kept, batch)) < within
    generator = torch.Generator().manual_seed(3)
    users = len(batch.inputs)
    own = [
        parameter.detach() + 0.1 * torch.randn(users, *parameter.shape, generator=generator)
        for parameter in kept.attached.parameters
    ]
    assert _distance(_with_own(again, batch, own), _with_own(kept, batch, own)) < within


def _with_own(recommender: Recommender, batch: Any, own: list[torch.Tensor]) -> torch.Tensor:
    from client.training.gradients import _backward

    parameters = recommender.attached.parameters
    with closed_form(recommender.attached.model, parameters) as collect:
        use_own_weights(parameters, own)
        _backward(batch_losses(recommender, batch).sum())
        samples = collect(len(batch.inputs))
    return torch.cat([sample.reshape(len(sample), -1) for sample in samples], dim=1)


def _passes_of_a_layer(recommender: Recommender, batch: Any) -> int:
    """How often a transformer's layer runs for one step."""
    passes = 0

    def count(*_: Any) -> None:
        nonlocal passes
        passes += 1

    handle = _base_layers(recommender)[0].register_forward_pre_hook(count)
    try:
        _gradients(closed_form, recommender, batch)
    finally:
        handle.remove()
    return passes


def test_checkpointing_under_opacus_hooks_is_refused_with_the_reason(
    tiny_family: Folders, tiny_config: RunConfig, tiny_catalog: Any, tiny_histories: Any
) -> None:
    recommender = _learned("llama", tiny_family, tiny_config, tiny_catalog, training__gradient_checkpointing=True)
    batch = _batch(recommender, tiny_config, tiny_histories)
    message = r"^Expected training\.gradient_checkpointing=false with training\.gradients=opacus"
    with pytest.raises(UnsupportedMechanism, match=message):
        _gradients(opacus_hooks, recommender, batch)


def test_modernberts_local_layers_look_half_their_window_back_and_no_further(tiny_family: Folders) -> None:
    from shared.model.families import _causal_masks

    transformer = load_backbone(tiny_family("modernbert")).transformer
    _, kwargs = _causal_masks(transformer, (), {"inputs_embeds": torch.zeros(1, 8, WIDTH)})
    masks = kwargs["attention_mask"]
    assert transformer.config.local_attention == 6
    for at in range(8):
        assert masks["full_attention"][0, 0, at].nonzero().flatten().tolist() == list(range(at + 1))
        assert masks["sliding_attention"][0, 0, at].nonzero().flatten().tolist() == list(range(max(0, at - 3), at + 1))
