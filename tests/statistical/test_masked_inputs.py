"""What a server and the clients that help it see of an honest client's input: a vector that is uniform, and nothing else.

Null: every bit of the view is a fair coin, and every byte uniform. The input is all zeros, so what is left of it shows. One
round of 60 clients has 2**16 values of 20 bits. The bits' counts are binomial: 20 two-sided tests at z = 6, 4e-8 together.
The leading 8 bits are compared by chi-square with 255 degrees at p > 1e-8. Power: with all masks removed but one that a
colluder knows, every bit is zero, and both fail with certainty: that is the negative control. Everything is drawn from the
system's CSPRNG, as always: a mask has no seed that a test could set.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from client.masking import MaskingSession
from shared.secagg import masks
from shared.secagg.messages import MaskedInput
from shared.secagg.packing import unpack
from shared.secagg.parameters import Assumptions
from tests.secure_sums import FIRST_HANDLE, Federation, context

LENGTH, BITS, COUNT, CORRUPT = 2**16, 20, 60, 12
VICTIM = FIRST_HANDLE


class View:
    """A round up to the victim's masked input, and what the server and corrupt clients can take away from it."""

    def __init__(self) -> None:
        assumptions = Assumptions(CORRUPT / COUNT, 0.1, "curious")
        self.federation = Federation(context(length=LENGTH, bits=BITS, assumptions=assumptions), COUNT)
        self.federation.inputs[VICTIM] = np.zeros(LENGTH, dtype=np.uint32)
        self.federation.advance("share")
        # The state from which the victim masks: what the test needs to know the masks apart.
        self.shared = self.federation.sessions[VICTIM]._sequence
        self.own = self.shared.own  # type: ignore[union-attr]
        self.masked = MaskedInput.from_bytes(self.federation.reply("mask", VICTIM))
        server = self.federation.server
        around = {*server._holders[self.own.index], *server._owners[self.own.index]}
        self.neighbors = {server._clients[index]: index for index in around}

    def without(self, clients: list[int], *, own_mask: bool) -> NDArray[np.uint32]:
        """The masked input without the masks that these clients share with the victim, and perhaps without its own."""
        values = unpack(self.masked.packed, length=LENGTH, bits=BITS)
        for client in clients:
            if client not in self.neighbors:
                continue
            other, index = self._mask_key(self.federation.sessions[client]), self.neighbors[client]
            key = masks.pair_mask_key(
                other.agree(self.own.mask_key.public, stage="test"), self.own.cohort, self.own.index, index
            )
            (masks.subtract_mask if self.own.index < index else masks.add_mask)(values, key)
        if own_mask:
            masks.subtract_mask(values, masks.own_mask_key(self.shared.seed, self.own.cohort, self.own.index))  # type: ignore[union-attr]
        return values & np.uint32(2**BITS - 1)

    @staticmethod
    def _mask_key(member: MaskingSession):
        return member._sequence.own.mask_key  # type: ignore[union-attr]


@functools.cache
def _view() -> View:
    return View()


def _is_uniform(values: NDArray[np.uint32]) -> bool:
    spread = 6 * math.sqrt(len(values)) / 2
    fair = all(abs(int((values >> bit & 1).sum()) - len(values) / 2) < spread for bit in range(BITS))
    bytes_ = np.bincount(values >> (BITS - 8), minlength=256)
    return fair and bool(stats.chisquare(bytes_).pvalue > 1e-8)


def test_a_masked_input_of_zeros_is_uniform_to_the_server() -> None:
    assert _is_uniform(unpack(_view().masked.packed, length=LENGTH, bits=BITS))


@pytest.mark.parametrize("own_mask", [False, True])
def test_a_masked_input_is_uniform_to_a_server_with_colluders_who_know_all_but_one_honest_client(own_mask: bool) -> None:
    """The server has the own mask of every survivor; colluders give their pairs' masks; one honest neighbor is enough."""
    view = _view()
    honest = next(iter(view.neighbors))
    known = [client for client in view.neighbors if client != honest]
    assert _is_uniform(view.without(known, own_mask=own_mask))


def test_a_masked_input_is_uniform_while_its_own_mask_is_closed() -> None:
    """All pairs' masks may be known: this is a client that was counted as lost and whose input came late."""
    assert _is_uniform(_view().without(list(_view().neighbors), own_mask=False))


def test_a_masked_input_with_its_last_mask_removed_is_the_input() -> None:
    """The negative control: the test above notices one mask that is missing."""
    values = _view().without(list(_view().neighbors), own_mask=True)
    assert not values.any()
    assert not _is_uniform(values)


def test_masked_inputs_of_two_clients_are_independent() -> None:
    """Their difference is uniform too: no mask is used twice with one sign."""
    federation = Federation(context(length=LENGTH, bits=BITS, assumptions=Assumptions(0.0, 0.1)), 12)
    zeros = np.zeros(LENGTH, dtype=np.uint32)
    federation.inputs = dict.fromkeys(federation.inputs, zeros)
    federation.advance("mask")
    sent = [
        unpack(MaskedInput.from_bytes(message).packed, length=LENGTH, bits=BITS)
        for message in federation.log["mask"].values()
    ]
    for other in sent[1:]:
        assert _is_uniform((sent[0] - other) & np.uint32(2**BITS - 1))
        assert _is_uniform((sent[0] + other) & np.uint32(2**BITS - 1))
