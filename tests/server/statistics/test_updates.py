"""What the server makes of noised sums: of noise alone the free baseline, and in any order of clients the same."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from server.statistics.statistic import Total
from server.statistics.updates import StatisticUpdates
from server.statistics.weighing import learned_weights
from shared.config import RunConfig
from shared.data.catalog import ItemCatalog
from shared.model.recommender import build
from shared.model.state import RecommenderState
from shared.model.statistics import PART_UNITS, TRANSITION_DECAY, TRANSITION_ITEMS, Statistics, untrained_weights
from shared.privacy.calibration import plan_for
from shared.privacy.plan import PrivacyPlan
from shared.privacy.shapes import StatisticShapes
from tests import rounding

USERS = 9
RELEASES = {"statistics.releases": "pairs,transitions,refinement,blending,selection", "federation.rounds": 0}


@pytest.fixture(scope="module")
def updates(tiny_config: RunConfig, tiny_catalog: ItemCatalog) -> StatisticUpdates:
    config = tiny_config.with_values(RELEASES)
    plan: PrivacyPlan = plan_for(config, USERS, 3)
    recommender = build(config, tiny_catalog)
    return StatisticUpdates(config, plan, recommender, StatisticShapes.of(config, plan, recommender))


def _untrained(updates: StatisticUpdates) -> RecommenderState:
    recommender = updates.recommender
    return RecommenderState(np.zeros(recommender.num_items, dtype=np.float32), recommender.initial_adapter.copy())


def _totals(updates: StatisticUpdates, noise: float, seed: int) -> dict[str, Total]:
    """A popularity that says something, pairs and transitions that are noise alone."""
    rng, sizes = np.random.default_rng(seed), updates.shapes.sizes
    return {
        "popularity": Total(rng.gamma(2.0, 1.0, sizes["popularity"]), 0.5),
        "pairs": Total(rng.normal(0, noise, sizes["pairs"]), noise),
        "transitions": Total(rng.normal(0, noise, sizes["transitions"]), noise),
    }


@pytest.mark.parametrize("seed", range(5))
def test_with_noise_alone_the_recommender_is_the_free_baseline(updates: StatisticUpdates, seed: int) -> None:
    """Text similarity and noised popularity: noise moves their weights by less than what is not known of them anyway."""
    totals, noise = _totals(updates, 1e6, seed), 1e6
    head = updates.shapes.head_of(np.zeros(updates.recommender.num_items, dtype=np.float32))
    state, weighing = updates.learned(_untrained(updates), totals, head)
    rng = np.random.default_rng(seed)
    led = Total(rng.normal(0, noise, updates.shapes.sizes["blending"]), noise)
    weights = updates.step(state, led, weighing).weights
    compared = Total(np.ones(updates.shapes.sizes["selection"]), noise)
    chosen, _ = updates.with_selected(updates.with_weights(state, weights), compared)

    assert (np.abs(weights - weighing.defaults) <= weighing.spread / 2).all()

    recommender, histories = updates.recommender, [np.array([1, 2, 3]), np.array([7]), np.array([], dtype=np.int64)]
    recommender.load_state(chosen)
    found = recommender.score(histories)
    text, prior, *_ = recommender.score_parts(histories)
    model = recommender.attached.model
    free = model.text_weight * text + model.popularity_weight * prior
    assert np.abs(free).max() > 0.1
    np.testing.assert_allclose(found, free, atol=1e-4)


def test_a_statistic_above_its_noise_moves_the_scores(updates: StatisticUpdates) -> None:
    """The control of the test above."""
    totals = _totals(updates, 1e-3, 0)
    pairs = np.zeros(updates.shapes.sizes["pairs"])
    pairs[0] = 8.0
    totals["pairs"] = Total(pairs, 1e-3)
    head = np.arange(updates.shapes.head)
    state, weighing = updates.learned(_untrained(updates), totals, head)
    free, _ = updates.learned(_untrained(updates), {"popularity": totals["popularity"]}, head)
    assert weighing.defaults[2] > 0.1
    recommender, history = updates.recommender, [np.array([0])]
    recommender.load_state(state)
    found = recommender.score(history)
    recommender.load_state(RecommenderState(free.log_prior, free.adapter))
    assert np.abs(found - recommender.score(history)).max() > 0.1


def test_transitions_stay_between_the_directions_in_which_they_were_counted(updates: StatisticUpdates) -> None:
    """A refinement of the pairs gives other factors, and a map that still is between those that clients were told."""
    shapes, rng = updates.shapes, np.random.default_rng(9)
    head = np.arange(shapes.head)
    totals = {name: Total(rng.gamma(1.0, 1.0, shapes.sizes[name]), 0.1) for name in ("popularity", "pairs")}
    told, _ = updates.learned(_untrained(updates), totals, head)
    first = Statistics.from_vector(told.statistics, num_items=updates.recommender.num_items)
    assert first is not None and first.directions.shape[1] == shapes.factor_dimensions > 0
    assert first.directions.any() and not first.transition.size

    totals["transitions"] = Total(rng.normal(0, 5.0, shapes.sizes["transitions"]), 0.1)
    totals["pairs"] = totals["pairs"].with_another(Total(rng.gamma(1.0, 1.0, shapes.sizes["pairs"]), 0.1))
    refined, _ = updates.learned(told, totals, head)
    second = Statistics.from_vector(refined.statistics, num_items=updates.recommender.num_items)
    assert second is not None and np.abs(second.factors - first.factors).max() > 1e-3
    np.testing.assert_array_equal(second.directions, first.directions)
    anew, _ = updates.learned(_untrained(updates), totals, head)  # the negative control
    other = Statistics.from_vector(anew.statistics, num_items=updates.recommender.num_items)
    assert other is not None and np.abs(other.directions - first.directions).max() > 1e-3


def test_the_score_of_transitions_is_the_direction_of_the_last_items_through_the_map(updates: StatisticUpdates) -> None:
    """An oracle in numpy, item by item."""
    rng, recommender = np.random.default_rng(10), updates.recommender
    items, texts = recommender.num_items, recommender.attached.model.content.numpy()[:, :3].astype(np.float64)
    own, square = rng.normal(size=(items, 2)).astype(np.float32), rng.normal(size=(5, 5)).astype(np.float32)
    statistics = Statistics(np.ones(5, np.float32), np.zeros((items, 0), np.float32), own, square)
    recommender.load_state(replace(_untrained(updates), statistics=statistics.to_vector()))
    directions = np.hstack([texts, own])
    for history in ([4], [4, 1], [0, 3, 4, 1]):
        last = sum(TRANSITION_DECAY**back * directions[item] for back, item in enumerate(history[::-1][:TRANSITION_ITEMS]))
        expected = directions @ ((last / np.linalg.norm(last)) @ square)
        found = recommender.score_parts([np.array(history, dtype=np.int32)])[3, 0]
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    assert np.abs(expected - directions @ (last @ square)).max() > 1e-2  # the negative control: a sum, not a direction


@pytest.mark.parametrize("noise", [0.0, 0.7])
def test_sums_in_another_order_of_clients_give_the_same_state(updates: StatisticUpdates, noise: float) -> None:
    rng, sizes = np.random.default_rng(3), updates.shapes.sizes
    head, answers = np.arange(updates.shapes.head), list[dict[str, np.ndarray[Any, Any]]]()
    for _ in range(7):
        answers.append({name: rng.gamma(1.0, 1.0, sizes[name]) for name in ("popularity", "pairs", "transitions")})

    def learned(order: list[int]) -> RecommenderState:
        sums = {name: np.sum([answers[client][name] for client in order], axis=0) for name in answers[0]}
        totals = {name: Total(values, noise) for name, values in sums.items()}
        return updates.learned(_untrained(updates), totals, head)[0]

    first, second = learned([0, 1, 2, 3, 4, 5, 6]), learned([6, 2, 0, 5, 1, 4, 3])
    np.testing.assert_allclose(second.log_prior, first.log_prior, atol=1e-6)
    recommender, histories = updates.recommender, [np.array([1, 2, 3]), np.array([7])]
    scores = []
    for state in (first, second):
        recommender.load_state(state)
        scores.append(recommender.score(histories))
    # The scale is sought to a tenth, in its logarithm; the same sums but for their last digits lead to the same search.
    rounding.assert_close(scores[1], scores[0], within=1e-4)


def test_a_part_of_the_statistics_is_released_only_where_it_is_clearly_better(updates: StatisticUpdates) -> None:
    names = updates.shapes.candidates
    assert names == ("untrained", "weighted", "pairs", "transitions", "statistics")
    learned = np.array([0.7, 1.1, 0.3, 0.4, 0.0])
    state = updates.with_weights(_untrained(updates), learned)

    def chosen(noise: float, **gains: float) -> tuple[str, list[bool]]:
        total = Total(np.array([gains.get(name, 0.0) for name in names[1:]]), noise)
        found, number = updates.with_selected(state, total)
        statistics = Statistics.from_vector(found.statistics, num_items=updates.recommender.num_items)
        assert statistics is not None
        return names[number], (statistics.weights > 0).tolist()

    assert chosen(1.0, statistics=5.0) == ("statistics", [True, True, True, True, False])
    # Nine users and a noise of 2/9 in each mean: a lead of .005 x (2 x .0494 + .0011) / .0001 = 5.0, or 22 in the sum.
    assert chosen(1.0, statistics=5.0, pairs=26.0)[0] == "statistics"
    assert chosen(1.0, statistics=5.0, pairs=29.0) == ("pairs", [True, True, True, False, False])
    # Nearly without noise .056 are left of it, .25 in the sum.
    assert chosen(0.01, statistics=0.5, transitions=0.7)[0] == "statistics"
    assert chosen(0.01, statistics=0.5, transitions=0.8) == ("transitions", [True, True, False, True, False])
    assert chosen(0.01, statistics=-3.0, weighted=0.1) == ("weighted", [True, True, False, False, False])
    assert chosen(1.0, statistics=-0.9)[0] == "statistics"
    # 2.5 for the untrained one, 11.4 in the sum.
    assert chosen(1.0, weighted=-11.0, pairs=-11.0, transitions=-11.0, statistics=-11.0)[0] == "statistics"
    assert chosen(1.0, weighted=-12.0, pairs=-12.0, transitions=-12.0, statistics=-12.0)[0] == "untrained"


def test_weights_that_were_set_are_read_as_they_were_learned(updates: StatisticUpdates) -> None:
    learned = np.array([0.7, 1.1, 0.3, 0.4, 0.0])
    state = updates.with_weights(_untrained(updates), learned)
    found = Statistics.from_vector(state.statistics, num_items=updates.recommender.num_items)
    np.testing.assert_allclose(learned_weights(found, updates.config.model), [0.7, 1.1, 0.3, 0.4, np.nan], rtol=1e-6)
    of_texts = updates.with_weights(_untrained(updates), np.array([0.8, 1.3, 0.0, 0.0, 0.0]))
    found = Statistics.from_vector(of_texts.statistics, num_items=updates.recommender.num_items)
    np.testing.assert_allclose(learned_weights(found, updates.config.model), [0.8, 1.3, *[np.nan] * 3], rtol=1e-6)
    untrained = updates.with_weights(_untrained(updates), untrained_weights(updates.config.model) * PART_UNITS)
    nothing = Statistics.from_vector(untrained.statistics, num_items=updates.recommender.num_items)
    assert np.isnan(learned_weights(nothing, updates.config.model)).all()
    assert np.isnan(learned_weights(None, updates.config.model)).all()
