"""The server's own noise: how much, independent or correlated as planned, and nothing of it that could be kept."""

from __future__ import annotations

import copy
import math
import os
import pickle
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import linalg

from server.noise import ServerNoise
from shared.errors import PrivacyError
from shared.privacy.plan import PrivacyPlan
from shared.secagg.encoding import ROUNDING_MARGIN, RingEncoding
from tests.plans import central_plan, distributed_plan

SIZE = 16_384
Z = 5.0  # two-sided false-alarm rate 6e-7 for a normal statistic
SEED = int.from_bytes(os.urandom(4), "little") if os.environ.get("TACIT_FRESH_SEEDS") else 0
FTRL = {"mechanism": "dp-ftrl-central", "min_separation": 4, "rounds": 12}


def _noise(
    server: ServerNoise, encoding: RingEncoding, round_number: int, purpose: str = "train", *, step: int = 0
) -> NDArray[np.float64]:
    """What is added to a sum of 5 in every coordinate, as numbers around zero."""
    total = np.full(encoding.dimension, 5, dtype=np.uint32)
    ring = server.added_to(total, encoding, purpose=purpose, round_number=round_number, step=step)
    np.testing.assert_array_equal(total, 5)
    half = 1 << (encoding.bits - 1)
    return ((ring.astype(np.int64) - 5 + half) % (1 << encoding.bits) - half).astype(np.float64)


def _server(plan: PrivacyPlan, seed: int = SEED) -> tuple[ServerNoise, RingEncoding]:
    return ServerNoise(plan, seed=seed), plan.update_encoding(SIZE, l2_clip_norm=0.5)


def _stddev(plan: PrivacyPlan, encoding: RingEncoding) -> float:
    """In integer steps, from the plan's own numbers: C = 0.5 and no share of adaptive clipping."""
    return plan.noise_multiplier * 0.5 * encoding.scale * (1 + ROUNDING_MARGIN)


def _variance_is(sample: NDArray[np.floating[Any]], variance: float) -> bool:
    return bool(abs(np.square(sample).sum() / variance - sample.size) < Z * math.sqrt(2 * sample.size))


def _correlation_is(a: NDArray[np.floating[Any]], b: NDArray[np.floating[Any]], expected: float) -> bool:
    """Fisher's z of a sample correlation of n pairs is normal with stddev 1/sqrt(n - 3)."""
    found = float(np.corrcoef(a, b)[0, 1])
    return abs(math.atanh(found) - math.atanh(expected)) < Z / math.sqrt(len(a) - 3)


@pytest.mark.parametrize("reproducible", [True, False], ids=["replayable", "secret"])
@pytest.mark.parametrize(
    ("mechanism", "purpose"), [("central", "train"), ("central", "popularity"), ("dp-ftrl-central", "evaluate")]
)
def test_the_servers_noise_has_the_plans_standard_deviation(mechanism: str, purpose: str, reproducible: bool) -> None:
    """Null: variance (multiplier * sensitivity)^2 in each of 16,384 integers.

    False alarms 6e-7; a scale wrong by 5 % is found with power > .99. Negative controls: 2/3 and 3/2.
    """
    plan = central_plan(mechanism=mechanism, reproducible=reproducible)
    server, encoding = _server(plan)
    sample, stddev = _noise(server, encoding, 1, purpose), _stddev(plan, encoding)
    np.testing.assert_array_equal(sample, np.rint(sample))
    assert _variance_is(sample, stddev**2)
    assert not _variance_is(sample, (stddev * 2 / 3) ** 2)
    assert not _variance_is(sample, (stddev * 3 / 2) ** 2)
    assert abs(sample.mean()) < Z * stddev / math.sqrt(SIZE)


def test_the_server_adds_no_noise_where_clients_added_their_shares() -> None:
    server, encoding = _server(distributed_plan())
    assert not _noise(server, encoding, 1).any()


def test_the_server_adds_no_noise_to_a_release_without_any() -> None:
    plan = central_plan(noise_multiplier=0.0)
    server, encoding = _server(plan)
    assert not _noise(server, encoding, 1).any()


@pytest.mark.parametrize("mechanism", ["central", "dp-ftrl-central"])
def test_noise_of_successive_releases_that_are_not_correlated_by_plan_is_independent(mechanism: str) -> None:
    """Null: correlation 0, n = 16,384; false alarms 6e-7 each. Controls: nearly the same noise, DP-FTRL's rounds."""
    plan = central_plan(mechanism=mechanism, reproducible=True, min_separation=4 if "ftrl" in mechanism else 0, rounds=12)
    server, encoding = _server(plan)
    popularity, evaluation, later = (
        _noise(server, encoding, number, purpose)
        for number, purpose in ((0, "popularity"), (1, "evaluate"), (2, "evaluate"))
    )
    for a, b in ((popularity, evaluation), (evaluation, later), (popularity, later)):
        assert _correlation_is(a, b, 0.0)
    # Correlated training noise takes nothing from releases that were in between.
    rounds = [_noise(server, encoding, number) for number in (1, 2)]
    assert _correlation_is(rounds[0], evaluation, 0.0)
    assert _correlation_is(*rounds, 0.0) == (mechanism == "central")
    assert not _correlation_is(evaluation, 0.9 * evaluation + 0.1 * later, 0.0)


def _covariance_of_rounds(bands: int, rounds: int) -> NDArray[np.float64]:
    """Of C^-1 z, by inverting the banded matrix C: diagonals binom(2k, k) / 4^k."""
    column = [math.comb(2 * k, k) / 4**k if k < bands else 0.0 for k in range(rounds)]
    inverse = np.linalg.inv(linalg.toeplitz(column, np.zeros(rounds)))
    return inverse @ inverse.T


def test_noise_of_successive_rounds_is_correlated_as_the_banded_factorization_says() -> None:
    """Null: variance and correlations of C^-1 z over six rounds, four bands; n = 16,384 coordinates.

    False alarms 6e-7 each (21 statistics). Negative controls: independent noise (also: central's), 2/3 and 3/2 of the scale.
    """
    plan = central_plan(**FTRL, reproducible=True)
    server, encoding = _server(plan)
    rounds = [_noise(server, encoding, number) for number in range(1, 7)]
    covariance, stddev = _covariance_of_rounds(4, 6), _stddev(plan, encoding)
    for first in range(6):
        variance = covariance[first, first] * stddev**2
        assert _variance_is(rounds[first], variance)
        assert not _variance_is(rounds[first], variance * 4 / 9)
        assert not _variance_is(rounds[first], variance * 9 / 4)
        for second in range(first):
            correlation = covariance[first, second] / math.sqrt(covariance[first, first] * covariance[second, second])
            assert _correlation_is(rounds[first], rounds[second], correlation)
            if abs(first - second) == 1:
                assert correlation < -0.2
                assert not _correlation_is(rounds[first], rounds[second], 0.0)
    independent, encoding = _server(central_plan(reproducible=True))
    a, b = (_noise(independent, encoding, number) for number in (1, 2))
    assert _correlation_is(a, b, 0.0)
    assert not _correlation_is(a, b, covariance[0, 1] / math.sqrt(covariance[1, 1]))


def test_sums_over_dp_ftrl_rounds_have_less_noise_than_independent_rounds_would() -> None:
    """Null: variance of the sum of six rounds is that of ones @ C^-1 z; n = 16,384; false alarms 6e-7.

    Negative control: six independent rounds.
    """
    plan = central_plan(**FTRL, reproducible=True)
    server, encoding = _server(plan)
    total = np.sum([_noise(server, encoding, number) for number in range(1, 7)], axis=0)
    variance = _stddev(plan, encoding) ** 2
    expected = float(_covariance_of_rounds(4, 6).sum()) * variance
    assert expected < 0.5 * 6 * variance
    assert _variance_is(total, expected)
    assert not _variance_is(total, 6 * variance)


def test_a_server_that_is_started_again_begins_anew() -> None:
    """Null: the first round after a restart has plain variance and correlation 0 with all before; n = 16,384.

    False alarms 6e-7 each. Negative control: the same round of a server that was not restarted.
    """
    plan = central_plan(**FTRL)
    server, encoding = _server(plan)
    before = [_noise(server, encoding, number) for number in (1, 2, 3)]
    went_on = _noise(server, encoding, 4)
    anew = _noise(_server(plan)[0], encoding, 4)
    variance = _stddev(plan, encoding) ** 2
    assert _variance_is(anew, variance)
    assert not _variance_is(went_on, variance)
    for past in before:
        assert _correlation_is(anew, past, 0.0)
    assert not _correlation_is(went_on, before[-1], 0.0)


def test_correlated_noise_of_the_server_cannot_be_saved_or_copied() -> None:
    server, encoding = _server(central_plan(**FTRL))
    _noise(server, encoding, 1)
    for keep in (pickle.dumps, copy.copy, copy.deepcopy):
        target = server if keep is not copy.copy else server._banded  # a shallow copy of the holder shares, copies nothing
        with pytest.raises(PrivacyError, match="Correlated noise cannot be saved, copied or sent"):
            keep(target)


@pytest.mark.parametrize("mechanism", ["central", "dp-ftrl-central"])
def test_a_private_servers_noise_is_drawn_from_the_system_and_never_the_same_again(mechanism: str) -> None:
    plan = central_plan(**{**FTRL, "mechanism": mechanism, "min_separation": 4 if "ftrl" in mechanism else 0})
    (first, encoding), (second, _) = _server(plan), _server(plan)
    assert first.source("train", 1).kind == "secret"
    assert not np.array_equal(_noise(first, encoding, 1), _noise(second, encoding, 1))


def test_a_reproducible_servers_noise_repeats_by_seed_purpose_round_and_step() -> None:
    plan = central_plan(reproducible=True)
    server, encoding = _server(plan)
    assert server.source("train", 1).kind == "replayable"
    reference = _noise(server, encoding, 1)
    np.testing.assert_array_equal(reference, _noise(_server(plan)[0], encoding, 1))
    others = [
        _noise(_server(plan, seed=SEED + 1)[0], encoding, 1),
        _noise(server, encoding, 2),
        _noise(server, encoding, 1, "evaluate"),
        _noise(server, encoding, 1, step=1),
        _noise(server, encoding, 1, step=2),
    ]
    assert all(_correlation_is(reference, other, 0.0) for other in others)
