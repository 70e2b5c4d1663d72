"""Secure sums, whole: every sum is exact or an error, whoever drops out and whatever is sent."""

from __future__ import annotations

import numpy as np
import pytest

from shared.secagg.parameters import Assumptions
from tests.secure_sums import FIRST_HANDLE, STAGES, Federation, context, plain_sum

CURIOUS = Assumptions(0.05, 0.05, "curious")


def _is_exact(federation: Federation, values: np.ndarray, survivors: tuple[int, ...]) -> None:
    assert set(survivors) == set(federation.log["mask"])
    kept = [federation.inputs[client] for client in survivors]
    assert values.tolist() == plain_sum(kept, federation.round_context.bits)


@pytest.mark.parametrize(
    ("count", "bits", "length", "assumptions"),
    [
        (3, 20, 5, Assumptions(0.0, 0.0)),
        (3, 32, 1, Assumptions(1 / 3, 0.0)),
        (4, 21, 7, Assumptions(0.0, 0.3)),
        (9, 32, 33_000, Assumptions(0.0, 0.34)),
        (40, 20, 17, CURIOUS),
    ],
)
def test_a_masked_sum_is_the_plain_sum(count: int, bits: int, length: int, assumptions: Assumptions) -> None:
    federation = Federation(context(bits=bits, length=length, assumptions=assumptions), count)
    result = federation.finish()
    assert len(result.survivors) == count
    _is_exact(federation, result.values, result.survivors)


@pytest.mark.parametrize("stage", STAGES)
def test_a_masked_sum_is_the_sum_of_the_survivors_when_clients_drop_out(stage: str) -> None:
    federation = Federation(context(assumptions=Assumptions(0.0, 0.34)), 9)
    result = federation.finish({stage: [FIRST_HANDLE + 2, FIRST_HANDLE + 5]})
    _is_exact(federation, result.values, result.survivors)
