"""Sampled softmax: what negatives depend on, that the estimate is right on average, and how fast it approaches the whole."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from client.training.dp_sgd import TrainingTask, train
from client.training.examples import Batch, Draws, batch_losses, draw_examples, to_batch
from client.training.gradients import require_memory
from client.training.negatives import Negatives, Proposal, PublicNegatives
from shared.config import RunConfig
from shared.data.catalog import ItemCatalog
from shared.errors import OutOfMemory
from shared.model.recommender import Recommender, build
from shared.model.sequence_recommender import sampled_user_losses
from shared.model.state import RecommenderState
from shared.privacy.calibration import plan_of
from shared.randomness import replayable_source
from tests import rounding

NUM_ITEMS = 300
CPU = torch.device("cpu")
PRIOR = np.log(1.0 / np.arange(1, NUM_ITEMS + 1)).astype(np.float32)


def _draw(count: int, *, seed: int = 0, round_number: int = 1, step: int = 0, prior: Any = PRIOR) -> Negatives:
    return Proposal(PublicNegatives(count, seed, round_number), prior, device=CPU).draw(step)


@pytest.fixture(scope="module")
def catalog() -> ItemCatalog:
    texts = tuple(f"w{row % 60} w{row * 7 % 59} w{row * row % 53}" for row in range(NUM_ITEMS))
    return ItemCatalog(ids=tuple(f"i{row}" for row in range(NUM_ITEMS)), texts=texts)


@pytest.fixture(scope="module")
def recommender(tiny_config: RunConfig, catalog: ItemCatalog) -> Recommender:
    return _built(tiny_config, catalog)


def _built(config: RunConfig, catalog: ItemCatalog, **changes: Any) -> Recommender:
    found = build(config.with_values({"adapter.head_rank": 0, **changes}), catalog)
    adapter = np.random.default_rng(3).normal(0, 0.3, found.attached.size).astype(np.float32)
    found.load_state(RecommenderState(PRIOR, adapter))
    return found


def _batch(recommender: Recommender, config: RunConfig, users: int = 6) -> Batch:
    rng = np.random.default_rng(8)
    histories = [rng.integers(0, NUM_ITEMS, size=size).tolist() for size in range(3, 3 + users)]
    settings = config.training.model_copy(update={"random_windows": False})
    draws = Draws([replayable_source(0)])
    series = pl.Series(histories, dtype=pl.List(pl.Int32))
    return to_batch(
        draw_examples(series, np.zeros(users, dtype=np.int64), max_length=6, config=settings, draws=draws), recommender
    )


def _with(batch: Batch, negatives: Negatives | None) -> Batch:
    return Batch(batch.inputs, batch.targets, batch.mask, batch.recurring, negatives)


def _everything() -> Negatives:
    """As if every item had been drawn as often as is to be expected."""
    return Negatives(torch.arange(NUM_ITEMS), torch.zeros(NUM_ITEMS))


def _gradient(recommender: Recommender, batch: Batch) -> np.ndarray:
    parameters = recommender.attached.parameters
    found = torch.autograd.grad(batch_losses(recommender, batch).sum(), parameters)
    return torch.cat([part.flatten() for part in found]).double().numpy()


def test_negatives_follow_from_the_seed_the_round_and_the_step_alone() -> None:
    first = _draw(40)
    assert torch.equal(first.items, _draw(40).items)
    assert torch.equal(first.log_weights, _draw(40).log_weights)
    for other in (_draw(40, seed=1), _draw(40, round_number=2), _draw(40, step=1)):
        assert not torch.equal(first.items, other.items)
    assert PublicNegatives.of(RunConfig(), 3) is None
    config = RunConfig.from_mapping({"training.negatives": 7, "run.seed": 5})
    assert PublicNegatives.of(config, 3) == PublicNegatives(7, 5, 3)


@pytest.mark.parametrize("count", [1, 2, 7, 600])
def test_negatives_are_distinct_rows_of_the_catalog_and_their_weights_make_up_for_their_frequency(count: int) -> None:
    proposal = Proposal(PublicNegatives(count, 0, 1), PRIOR, device=CPU)
    drawn = proposal.draw(0)
    items, weights = drawn.items.numpy(), drawn.log_weights.double().exp().numpy()
    assert (np.diff(items) > 0).all()
    assert items[0] >= 0
    assert items[-1] < NUM_ITEMS
    times = weights * proposal.expected[items]
    rounding.assert_close(times, np.rint(times), within=rounding.rounding(sums=2))  # a logarithm and its inverse
    assert times.sum() == pytest.approx(count)
    assert proposal.expected.sum() == pytest.approx(count)
    assert proposal.expected.min() >= count / 2 / NUM_ITEMS  # half are drawn from all alike


def test_a_prior_up_to_a_constant_and_a_flat_one_are_distributions_too() -> None:
    shifted = Proposal(PublicNegatives(40, 0, 1), PRIOR + np.float32(700), device=CPU)
    np.testing.assert_allclose(shifted.expected, Proposal(PublicNegatives(40, 0, 1), PRIOR, device=CPU).expected, rtol=1e-3)
    flat = Proposal(PublicNegatives(40, 0, 1), np.zeros(NUM_ITEMS, np.float32), device=CPU)
    np.testing.assert_allclose(flat.expected, 40 / NUM_ITEMS)


@pytest.mark.parametrize("target", [0, 3, NUM_ITEMS - 1])
def test_the_estimated_partition_function_is_the_exact_one_on_average_only_with_the_log_q_correction(target: int) -> None:
    """Null: the mean of the estimate over 3,000 independent draws of 20 is the sum over the catalog.

    The mean of so many is normal enough: |z| > 5 by chance has a probability below 1e-5, skewness included. Negative
    controls that must be rejected: weights as if negatives were drawn uniformly, and a target that is counted again as its
    own negative (not for the rarest, which is hardly ever drawn).
    """
    scores = torch.randn(NUM_ITEMS, generator=torch.Generator().manual_seed(1)) + 0.5 * torch.from_numpy(PRIOR)
    scores[target] = 2.0
    exact = float(scores.double().exp().sum())

    def z(*, corrected: bool = True, masked: bool = True) -> float:
        estimates = np.empty(3000)
        for step in range(len(estimates)):
            drawn = _draw(20, step=step)
            weights = drawn.log_weights
            if not corrected:
                expected = Proposal(PublicNegatives(20, 0, 1), PRIOR, device=CPU).expected[drawn.items.numpy()]
                weights = weights + torch.from_numpy(np.log(expected * NUM_ITEMS / 20)).float()
            of_all = torch.cat([scores[target].view(1), scores[drawn.items]]).view(1, 1, -1)
            (loss,) = sampled_user_losses(
                of_all,
                torch.tensor([[target]]),
                torch.ones(1, 1, dtype=torch.bool),
                negatives=drawn.items if masked else drawn.items + NUM_ITEMS,
                log_weights=weights,
            )
            estimates[step] = math.exp(float(loss) + float(scores[target]))
        return abs(estimates.mean() - exact) / (estimates.std() / math.sqrt(len(estimates)))

    assert z() < 5
    assert z(corrected=False) > 5
    if target < 10:
        assert z(masked=False) > 5


def test_a_loss_is_that_of_a_target_among_its_weighted_negatives_and_never_negative() -> None:
    scores = torch.tensor([[[1.0, 2.0, -0.5, 0.3], [0.0, 1.0, 2.0, 3.0]], [[5.0, 1.0, 1.0, 1.0], [9.0, 9.0, 9.0, 9.0]]])
    targets, negatives = torch.tensor([[7, 2], [1, 0]]), torch.tensor([2, 4, 7])
    log_weights = torch.tensor([0.1, -0.4, 2.0])
    mask = torch.tensor([[True, True], [True, False]])
    losses = sampled_user_losses(scores, targets, mask, negatives=negatives, log_weights=log_weights)
    first = math.log(math.exp(1) + math.exp(2.1) + math.exp(-0.9)) - 1  # without 7, which is the target
    second = math.log(1 + math.exp(1.6) + math.exp(5))  # without 2
    third = math.log(math.exp(5) + math.exp(1.1) + math.exp(0.6) + math.exp(3)) - 5
    rounding.assert_close(losses, [(first + second) / 2, third], within=rounding.rounding(sums=3, length=4))
    alone = sampled_user_losses(scores[..., :1], targets, mask, negatives=negatives[:0], log_weights=log_weights[:0])
    assert alone.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("ranks", [{}, {"adapter.rank": 0, "adapter.input_rank": 0}])
def test_negatives_that_are_all_items_give_the_full_softmax_and_its_gradient(
    ranks: dict[str, int], tiny_config: RunConfig, catalog: ItemCatalog
) -> None:
    recommender = _built(tiny_config, catalog, **ranks)
    batch = _batch(recommender, tiny_config)
    sampled, full = (batch_losses(recommender, _with(batch, found)).detach() for found in (_everything(), None))
    rounding.assert_close(sampled, full, within=rounding.of_scores(recommender))
    gradients = [_gradient(recommender, _with(batch, found)) for found in (_everything(), None)]
    within = rounding.of_gradients(recommender)
    assert np.linalg.norm(gradients[0] - gradients[1]) < within * np.linalg.norm(gradients[1])


def test_the_sampled_gradient_approaches_the_full_one_as_one_over_the_root_of_the_number_of_negatives(
    recommender: Recommender, tiny_config: RunConfig
) -> None:
    """Root mean square errors of 60 draws a number; their slope in a log-log plot is -1/2 up to 0.1.

    The relative error of each is known to about 10 %, so a slope over a factor of 64 is known to about 0.03.
    Negative control: with weights as if negatives were drawn uniformly the error stays, and the slope is above -0.25.
    """
    batch = _batch(recommender, tiny_config)
    full = _gradient(recommender, batch)
    counts = [32, 128, 512, 2048]

    def errors(*, corrected: bool) -> list[float]:
        found = []
        for count in counts:
            proposal = Proposal(PublicNegatives(count, 0, 1), PRIOR, device=CPU)
            squares = 0.0
            for step in range(60):
                drawn = proposal.draw(step)
                if not corrected:
                    expected = torch.from_numpy(proposal.expected[drawn.items.numpy()]).float()
                    drawn = Negatives(drawn.items, drawn.log_weights + (expected * NUM_ITEMS / count).log())
                squares += float(np.square(_gradient(recommender, _with(batch, drawn)) - full).sum()) / 60
            found.append(math.sqrt(squares) / float(np.linalg.norm(full)))
        return found

    right, wrong = errors(corrected=True), errors(corrected=False)
    assert -0.6 < np.polyfit(np.log(counts), np.log(right), 1)[0] < -0.4
    assert np.polyfit(np.log(counts), np.log(wrong), 1)[0] > -0.25
    assert wrong[-1] > 3 * right[-1]


def test_sampled_losses_of_a_user_do_not_depend_on_who_else_is_in_the_batch(
    recommender: Recommender, tiny_config: RunConfig
) -> None:
    batch = _with(_batch(recommender, tiny_config), _draw(40))
    together = batch_losses(recommender, batch).detach()
    for row in range(len(together)):
        alone = Batch(
            batch.inputs[row : row + 1],
            batch.targets[row : row + 1],
            batch.mask[row : row + 1],
            batch.recurring[row : row + 1],
            batch.negatives,
        )
        within = rounding.of_scores(recommender)
        rounding.assert_close(batch_losses(recommender, alone)[0], together[row], within=within)


def test_a_step_draws_one_set_for_all_clients_and_a_round_another(
    tiny_config: RunConfig, catalog: ItemCatalog, tiny_histories: pl.DataFrame
) -> None:
    """Two clients at once get what each gets alone, also where the next task is of another round."""
    config = tiny_config.with_values({"adapter.head_rank": 0, "privacy.epsilon": math.inf, "privacy.delta": 0.0})
    recommender = build(config, catalog)
    state = RecommenderState(PRIOR, recommender.initial_adapter)
    plan = plan_of(config, num_users=9, num_clients=3)

    def updates(*rounds: int | None) -> list[np.ndarray]:
        tasks = [
            TrainingTask(
                state,
                tiny_histories["train"],
                4.5,
                0.1,
                replayable_source(1),
                negatives=None if number is None else PublicNegatives(5, 0, number),
            )
            for number in rounds
        ]
        return list(train(tasks, recommender, plan, config.local_training()))

    one, two, full = (updates(number)[0] for number in (1, 2, None))
    for found, expected in zip(updates(1, 1, 2, None), (one, one, two, full), strict=True):
        rounding.assert_close(found, expected, within=rounding.of_gradients(recommender))
    assert np.linalg.norm(one - two) > 0.05 * np.linalg.norm(one)
    assert np.linalg.norm(one - full) > 0.05 * np.linalg.norm(one)


def test_memory_is_tried_out_for_every_item_too_after_it_was_for_negatives(
    tiny_config: RunConfig, tiny_catalog: Any
) -> None:
    recommender = build(tiny_config.with_values({"adapter.head_rank": 0}), tiny_catalog)
    some = PublicNegatives(count=2, seed=0, round_number=1)
    require_memory(recommender, some)

    def run_out(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    handle = recommender.attached.model.transformer.register_forward_pre_hook(run_out)
    try:
        require_memory(recommender, some)
        with pytest.raises(OutOfMemory, match=r"^Expected memory for one history of the greatest length, ran out of it\."):
            require_memory(recommender)
    finally:
        handle.remove()
