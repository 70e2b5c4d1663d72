"""Sums of clipped gradients: one user moves them by at most the bound, whatever the shapes and the values."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from client.training.clipping import add_rows, clip_factors, clipped_sums, with_margin, without_faulty


@given(
    norm=st.floats(1e-3, 1e3),
    scale=st.floats(1e-12, 1e12),
    users=st.integers(0, 5),
    shapes=st.lists(st.sampled_from([(), (1,), (3,), (2, 3), (2, 2, 2)]), min_size=1, max_size=4),
)
@settings(max_examples=80, deadline=None)
def test_one_user_moves_the_clipped_sum_by_at_most_the_bound_for_every_shape(
    norm: float, scale: float, users: int, shapes: list[tuple[int, ...]]
) -> None:
    generator = torch.Generator().manual_seed(users)
    samples = [torch.randn((users + 1, *shape), generator=generator) * scale for shape in shapes]
    alone = clipped_sums([sample[-1:] for sample in samples], with_margin(norm, torch.float32))
    length = sum(float(part.double().square().sum()) for part in alone) ** 0.5
    assert length <= norm * (1 + 1e-9)
    unclipped = sum(float(sample[-1].double().square().sum()) for sample in samples) ** 0.5
    if unclipped < norm * 0.99:
        for part, sample in zip(alone, samples, strict=True):
            torch.testing.assert_close(part, sample[-1].double())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 3e38])
def test_a_user_whose_gradient_is_not_finite_counts_as_zero(bad: float) -> None:
    samples = [torch.ones(2, 3, 2), torch.ones(2, 4)]
    samples[1][0, 1:3] = bad
    with_fault = clipped_sums(samples, 0.5)
    without_user = clipped_sums([sample[1:] for sample in samples], 0.5)
    for a, b in zip(with_fault, without_user, strict=True):
        assert torch.equal(a, b)


def test_a_turned_tensor_is_clipped_like_its_copy() -> None:
    """The closed form hands out views whose longer side is the inner one in memory."""
    generator = torch.Generator().manual_seed(0)
    turned = [torch.randn(4, 3, 5, generator=generator).mT, torch.randn(4, 2, 6, generator=generator)]
    assert not turned[0].is_contiguous()
    for a, b in zip(clipped_sums(turned, 0.7), clipped_sums([part.clone() for part in turned], 0.7), strict=True):
        torch.testing.assert_close(a, b)


def test_rows_of_several_clients_are_their_sums_each_alone() -> None:
    """The way of many clients, against that of one."""
    generator = torch.Generator().manual_seed(1)
    samples = [torch.randn(5, 3, 2, generator=generator) * 4, torch.randn(5, 4, generator=generator)]
    samples[0][3, 1, 1] = float("nan")
    clients = torch.tensor([1, 0, 1, 1, 0])
    sums = torch.zeros(2, 10, dtype=torch.float64)
    factor, finite = clip_factors(samples, 0.7)
    add_rows(sums, without_faulty(samples, finite), factor, clients)
    for client in (0, 1):
        alone = clipped_sums([sample[clients == client] for sample in samples], 0.7)
        torch.testing.assert_close(sums[client], torch.cat([part.reshape(-1) for part in alone]), rtol=1e-6, atol=1e-7)
