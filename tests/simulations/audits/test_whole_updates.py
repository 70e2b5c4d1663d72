"""Readings of rounds: likelihood ratios against densities, correlated noise against its matrix.

Rounds of a whole federation are read in `test_twin.py`.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from server.statistics.statistic import Total
from shared.audit.membership import area
from shared.randomness import replayable_source
from simulations.audits.canaries import Canaries, plant
from simulations.audits.directions import Frame
from simulations.audits.local_steps import log_odds_of_draws
from simulations.audits.views import View
from simulations.audits.whole_updates import WholeUpdates, hides_participation, log_odds_if_drawn, reads_rounds
from tests.plans import central_plan, distributed_plan, silo_plan

SIZE, CLIENTS = 600, 200


def test_the_log_odds_of_a_draw_are_those_of_the_two_densities() -> None:
    along, length, noise, rate = np.linspace(-4.0, 5.0, 19), 0.7, 0.6, 0.15
    out = stats.norm.pdf(along, scale=noise)
    inside = (1.0 - rate) * out + rate * stats.norm.pdf(along, loc=length, scale=noise)
    np.testing.assert_allclose(log_odds_if_drawn(along, length, noise, rate=rate), np.log(inside / out), atol=1e-9)


def test_without_noise_a_canary_that_shows_is_in_and_of_one_that_does_not_little_is_known() -> None:
    found = log_odds_if_drawn(np.array([0.0, 1.0]), 1.0, 0.0, rate=0.25)
    assert found[0] == pytest.approx(np.log(0.75)) and found[1] > 20


def test_the_log_odds_of_several_draws_are_those_of_the_densities() -> None:
    along, noise, rate, steps = np.linspace(-2.0, 3.0, 11), 0.4, 0.3, 3
    out = stats.norm.pdf(along, scale=noise)
    inside = sum(
        stats.binom.pmf(times, steps, rate) * stats.norm.pdf(along, loc=times / steps, scale=noise)
        for times in range(steps + 1)
    )
    found = log_odds_of_draws(along, noise, rate=rate, steps=steps)
    np.testing.assert_allclose(found, np.log(inside / out), atol=1e-9)


def _canaries() -> Canaries:
    return plant(
        np.arange(100, 0, -1), wanted=100, clients=CLIENTS, head=100, displace=True, rng=np.random.default_rng(0),
        coins=replayable_source(0, "coins"),
    )  # fmt: skip


def test_readings_under_correlated_noise_become_those_of_independent_noise() -> None:
    """The noise of all rounds is C^-1 z with C of numpy; a canary stands in its round and, by C, in the next ones."""
    bands, rounds, noise = 3, 7, 0.2
    plan = central_plan(mechanism="dp-ftrl-central", min_separation=bands, rounds=rounds)
    canaries, rng = _canaries(), np.random.default_rng(1)
    column = np.array([1.0, 0.5, 0.375])
    matrix = sum(np.diag(np.full(rounds - back, column[back]), -back) for back in range(bands))
    fresh = rng.normal(size=(rounds, SIZE), scale=noise)
    drawn = np.linalg.solve(matrix, fresh)
    made, frame = WholeUpdates(canaries, plan, lambda size: frame), Frame.of(SIZE, len(canaries), seed=rounds)
    view = View("sums", canaries.included, canaries.long)
    for number in range(rounds):
        clients = np.flatnonzero(np.arange(CLIENTS) % bands == number % bands)
        made.begin(0.5, clients)
        real = rng.normal(size=(len(clients), SIZE)).astype(np.float32)
        updates = made.trained(clients, real)
        bounded = updates * np.minimum(1.0, 0.5 / np.linalg.norm(updates, axis=1))[:, None]
        total = Total(bounded.astype(np.float64).sum(axis=0) + 0.5 * drawn[number], 0.5 * noise)
        made.read(view, None, number + 1, total)
    for read, own in zip(view.releases, fresh, strict=True):
        assert read.short is not None and read.short.factor == pytest.approx(1.0, abs=5 * read.short.error)
        assert read.total / read.samples == pytest.approx(1.0, abs=0.3)
        assert np.corrcoef(read.noise[0], own[np.linspace(0, SIZE - 1, len(read.noise[0])).astype(int)])[0, 1] > 0.9
    assert area(view.scores()[canaries.included], view.scores()[~canaries.included]).value > 0.99


def test_which_rounds_are_read_and_who_may_not_know_who_was_drawn() -> None:
    moving = {"clipping_share": 0.05}
    assert reads_rounds(central_plan()) and reads_rounds(distributed_plan()) and reads_rounds(central_plan(**moving))
    assert not reads_rounds(silo_plan())
    assert not reads_rounds(central_plan(mechanism="dp-ftrl-central", min_separation=3, **moving))
    assert hides_participation(central_plan(sampling_rate=0.1))
    assert not hides_participation(central_plan(sampling_rate=1.0))
    assert not hides_participation(distributed_plan(sampling_rate=0.1))
    assert not hides_participation(central_plan(mechanism="dp-ftrl-central", min_separation=3, sampling_rate=0.1))
