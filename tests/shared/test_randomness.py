"""The two sources of randomness: what repeats, what never does. Distributions: `tests/statistical`."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.randomness import NoiseSource, derive, replayable_source, secret_source

LABELS = st.lists(st.integers(0, 5) | st.sampled_from(["a", "b", "windows"]), max_size=3).map(tuple)


@given(st.integers(0, 3), LABELS, st.integers(0, 3), LABELS)
def test_derive_repeats_for_equal_labels_and_differs_for_others(
    seed: int, labels: tuple[int | str, ...], other_seed: int, other_labels: tuple[int | str, ...]
) -> None:
    same = (seed, labels) == (other_seed, other_labels)
    a, b = derive(seed, *labels).random(4), derive(other_seed, *other_labels).random(4)
    assert np.array_equal(a, b) is same


def test_a_number_and_the_same_digits_as_text_are_different_labels() -> None:
    assert derive(0, 1).random() != derive(0, "1").random()
    assert derive(0, 1, 23).random() != derive(0, 12, 3).random()


def _draws(source: NoiseSource) -> tuple[bytes, bytes, bytes]:
    return (
        source.gaussian(50, stddev=1.0).tobytes(),
        source.bernoulli(200, probability=0.5).tobytes(),
        source.generator().bytes(32),
    )


def test_a_replayable_source_repeats_and_depends_on_every_label() -> None:
    first = _draws(replayable_source(1, 2, 3))
    assert _draws(replayable_source(1, 2, 3)) == first
    for other in (replayable_source(2, 2, 3), replayable_source(1, 3, 3), replayable_source(1, 2, 4)):
        assert not set(_draws(other)) & set(first)
    source = replayable_source(1, 2, 3)
    assert not set(_draws(source)) & set(_draws(source))


def test_a_secret_source_never_repeats_and_ignores_every_seed() -> None:
    np.random.seed(0)
    first = _draws(secret_source())
    np.random.seed(0)
    second = _draws(secret_source())
    assert not set(first) & set(second)
    source = secret_source()
    assert not set(_draws(source)) & set(_draws(source))


@pytest.mark.parametrize(("size", "stddev"), [(0, 1.0), (5, 0.0)])
def test_no_noise_is_exactly_zero(size: int, stddev: float) -> None:
    noise = secret_source().gaussian(size, stddev=stddev)
    assert noise.dtype == np.float32
    np.testing.assert_array_equal(noise, np.zeros(size))


@pytest.mark.parametrize(("probability", "expected"), [(0.0, 0), (1.0, 1000)])
def test_certain_coins_are_certain(probability: float, expected: int) -> None:
    assert secret_source().bernoulli(1000, probability=probability).sum() == expected


def test_extreme_random_bytes_give_finite_noise() -> None:
    """All bits 0 and all bits 1 are the ends of the uniform range, where a logarithm may be infinite."""
    for byte in (b"\x00", b"\xff"):
        source = NoiseSource("secret", lambda size, byte=byte: byte * size)
        assert np.isfinite(source.gaussian(8, stddev=1.0)).all()
