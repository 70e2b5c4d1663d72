"""Secure sums, whole: every sum is exact or an error, whoever drops out and whatever is sent."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from server.unmasking import RingSum, SecureSum
from shared.errors import CohortTooSmall, ConfigError, ProtocolViolation, SecureAggregationError
from shared.secagg.keys import Roster
from shared.secagg.messages import Acknowledgments, Advertisement, HolderChoice, MaskedInput, OpenedShares, SealedShares
from shared.secagg.parameters import Assumptions
from tests.secure_sums import (
    FIRST_HANDLE,
    NOW,
    ROUND,
    STAGES,
    Federation,
    context,
    identity,
    plain_sum,
    roster,
    session,
    signing_key,
)

CURIOUS = Assumptions(0.05, 0.05, "curious")


def _is_exact(federation: Federation, result: RingSum) -> None:
    kept = [federation.inputs[client] for client in result.survivors]
    assert result.values.tolist() == plain_sum(kept, federation.round_context.bits)


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
    _is_exact(federation, result)


@pytest.mark.parametrize("stage", STAGES)
def test_a_masked_sum_is_the_sum_of_the_survivors_when_clients_drop_out(stage: str) -> None:
    """In one stage; who drops out after its input came is in the sum."""
    federation = Federation(ROUND, 9)
    lost = [FIRST_HANDLE + 2, FIRST_HANDLE + 5]
    result = federation.finish({stage: lost})
    expected = set(federation.sessions) - (set(lost) if STAGES.index(stage) <= STAGES.index("mask") else set())
    assert set(result.survivors) == expected
    _is_exact(federation, result)


def test_a_sum_with_neighborhoods_that_differ_is_exact_when_clients_drop_out_in_every_stage() -> None:
    """k below n - 1: who holds whose shares, and who shares a mask with whom, is each client's own draw."""
    federation = Federation(context(assumptions=Assumptions(0.05, 0.15, "curious")), 60)
    lost = {stage: [FIRST_HANDLE + 7 * place, FIRST_HANDLE + 7 * place + 1] for place, stage in enumerate(STAGES) if place}
    result = federation.finish(lost)
    assert federation.server._known_cohort().neighborhoods.degree < 50
    assert len(result.survivors) == 60 - 6
    _is_exact(federation, result)
    assert list(federation.server.answered.values()) == [60, 58, 56, 54, 52, 50]


def test_too_many_drop_outs_open_nothing() -> None:
    federation = Federation(ROUND, 8)
    with pytest.raises(
        SecureAggregationError, match=r"Expected shares >= 4 of every secret that is needed, got shares=[123]\."
    ):
        federation.finish({"open": list(range(FIRST_HANDLE, FIRST_HANDLE + 5))})


@pytest.mark.parametrize("stage", STAGES[:4])
def test_fewer_clients_than_the_noise_is_shared_among_open_nothing(stage: str) -> None:
    federation = Federation(context(min_survivors=7), 8)
    with pytest.raises(CohortTooSmall, match=r"Expected clients >= 7, got 6\. The round was dropped and nothing was opened"):
        federation.finish({stage: [FIRST_HANDLE, FIRST_HANDLE + 1]})


def test_a_cohort_of_two_is_refused() -> None:
    with pytest.raises(CohortTooSmall, match=r"advertise: Expected num_clients in \[3, 10000\], got num_clients=2"):
        Federation(ROUND, 2).advance("advertise")


# What clients send.


def test_keys_that_no_known_identity_signed_are_not_let_in() -> None:
    federation = Federation(ROUND, 6)
    replies = dict(federation.replies("advertise"))
    good = Advertisement.from_bytes(replies[FIRST_HANDLE])
    point = b"\x01" + bytes(31)
    low = Advertisement(identity(1), point, good.channel_key, b"")
    signature = signing_key(1).sign(low.signed(ROUND))
    bad = {
        FIRST_HANDLE + 1: dataclasses.replace(low, signature=signature).to_bytes(),
        FIRST_HANDLE + 2: dataclasses.replace(good, identity=identity(2)).to_bytes(),
        FIRST_HANDLE + 3: session(3, context(round_number=2), 6).advertise(),
        FIRST_HANDLE + 4: replies[FIRST_HANDLE],
        FIRST_HANDLE + 5: b"garbage",
        FIRST_HANDLE + 6: session(6, ROUND, 7).advertise(),
    }
    server = SecureSum(ROUND, roster(6), now=NOW)
    with pytest.raises(CohortTooSmall, match="advertise: Expected clients >= 2, got 1"):
        server.announce(replies | bad)


def test_expired_and_revoked_identities_are_not_let_in() -> None:
    federation = Federation(ROUND, 6)
    replies = federation.replies("advertise")
    entries = dict(roster(6).entries)
    entries[identity(0)] = dataclasses.replace(entries[identity(0)], revoked=True)
    entries[identity(1)] = dataclasses.replace(entries[identity(1)], valid_until=NOW - 1)
    told = SecureSum(ROUND, Roster(entries), now=NOW).announce(replies)
    assert set(told) == set(replies) - {FIRST_HANDLE, FIRST_HANDLE + 1}


def _changed(stage: str, message: bytes) -> list[bytes]:
    """Messages of the right kind that mean nothing here."""
    if stage == "choose":
        holders = HolderChoice.from_bytes(message).holders
        return [HolderChoice(wrong).to_bytes() for wrong in (
            holders[:-1], holders[::-1], (holders[0],) * len(holders), (*holders[:-1], 10_000), ())]  # fmt: skip
    if stage == "share":
        shares = SealedShares.from_bytes(message)
        return [dataclasses.replace(shares, sealed=shares.sealed[1:]).to_bytes()]
    if stage == "mask":
        masked = MaskedInput.from_bytes(message)
        return [
            dataclasses.replace(masked, packed=masked.packed + b"\x00").to_bytes(),
            dataclasses.replace(masked, packed=b"").to_bytes(),
            dataclasses.replace(masked, statements=masked.statements[1:]).to_bytes(),
        ]
    if stage == "acknowledge":
        return [Acknowledgments(Acknowledgments.from_bytes(message).statements[1:]).to_bytes()]
    return [OpenedShares(OpenedShares.from_bytes(message).shares[1:]).to_bytes()]


@pytest.mark.parametrize("stage", STAGES[1:])
def test_a_client_that_sends_what_means_nothing_has_dropped_out(stage: str) -> None:
    which = 0
    while True:
        federation = Federation(ROUND, 8)
        federation.advance(STAGES[STAGES.index(stage) - 1])
        replies = dict(federation.replies(stage))
        variants = [b"garbage", *_changed(stage, replies[FIRST_HANDLE])]
        replies[FIRST_HANDLE] = variants[which]
        replies[1] = replies[FIRST_HANDLE + 1]  # a client that was never asked
        result = federation.answer(stage, replies)
        result = result or federation.finish()
        assert (FIRST_HANDLE in result.survivors) == (stage in ("acknowledge", "open"))
        assert 1 not in result.survivors
        _is_exact(federation, result)
        which += 1
        if which == len(variants):
            break


def test_a_second_input_of_a_client_does_not_count() -> None:
    federation = Federation(ROUND, 8)
    federation.advance("share")
    replies = federation.replies("mask")
    twice = [*replies.items(), (FIRST_HANDLE, replies[FIRST_HANDLE])]
    federation.to_clients = federation.server.report_survivors(twice)
    _is_exact(federation, federation.finish())


SECRETS = ["the own mask of the living", "the mask key of the lost"]


def _opened(secret: str, wrong: Callable[[int, int], int]) -> tuple[Federation, RingSum | SecureAggregationError]:
    """A sum of eight clients in which some holders of one secret send a wrong share of it.

    Args:
        secret: Which.
        wrong: From the holders that answer and the threshold to how many of these send a wrong one, the first ones.
    """
    federation = Federation(ROUND, 8)
    lost = [FIRST_HANDLE + 7] if secret == SECRETS[1] else []
    federation.advance("acknowledge", lost={"mask": lost})
    replies, server = dict(federation.replies("open")), federation.server
    target = server._index[lost[0] if lost else FIRST_HANDLE + 6]
    holders = [holder for holder in server._holders[target] if server._clients[holder] not in lost]
    threshold = server._known_cohort().neighborhoods.threshold
    for holder in holders[: wrong(len(holders), threshold)]:
        client = server._clients[holder]
        replies[client] = OpenedShares(tuple(
            bytes(1) + hashlib.sha256(share).digest() if owner == target else share  # errors of +-1 may cancel
            for owner, share in zip(server._owners[holder], OpenedShares.from_bytes(replies[client]).shares, strict=True)
        )).to_bytes()  # fmt: skip
    try:
        return federation, server.unmask(replies)
    except SecureAggregationError as error:
        return federation, error


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("of_those_to_spare", [0.5, 1.0])
def test_wrong_shares_are_left_out_as_if_their_holders_had_dropped_out(secret: str, of_those_to_spare: float) -> None:
    federation, result = _opened(secret, lambda holders, threshold: round((holders - threshold) * of_those_to_spare + 0.25))
    assert isinstance(result, RingSum)
    assert len(result.survivors) == (7 if secret == SECRETS[1] else 8)
    assert federation.server.mended == 1
    assert federation.server.unopened == []
    _is_exact(federation, result)


def test_holders_of_wrong_shares_come_last_for_the_next_secret() -> None:
    federation, result = _opened(SECRETS[0], lambda holders, threshold: 1)
    assert isinstance(result, RingSum)
    server = federation.server
    target = server._index[FIRST_HANDLE + 6]
    assert set(server._suspected) >= {server._holders[target][0]}
    assert sum(server._suspected.values()) <= 2


@pytest.mark.parametrize("secret", SECRETS)
def test_too_many_wrong_shares_end_the_round_and_falsify_no_sum(secret: str) -> None:
    federation, result = _opened(secret, lambda holders, threshold: holders - threshold + 1)
    assert isinstance(result, SecureAggregationError)
    assert str(result).startswith("Expected shares that give what their owner published, got others. Too many holders sent")
    assert federation.server.mended == 0
    assert federation.server.unopened == [FIRST_HANDLE + (6 if secret == SECRETS[0] else 7)]


@pytest.mark.parametrize("stage", ["share", "mask"])
def test_a_client_that_sends_its_holders_something_false_ends_one_round_and_is_named(stage: str) -> None:
    """Shares that do not unseal, or statements of nothing: no honest client stops for them, so that what is missing in the
    end is the secret of this one alone."""
    federation = Federation(ROUND, 8)
    federation.advance(STAGES[STAGES.index(stage) - 1])
    replies = dict(federation.replies(stage))
    if stage == "share":
        shares = SealedShares.from_bytes(replies[FIRST_HANDLE])
        false: Any = dataclasses.replace(shares, sealed=(bytes(82),) * len(shares.sealed))
    else:
        masked = MaskedInput.from_bytes(replies[FIRST_HANDLE])
        false = dataclasses.replace(masked, statements=(bytes(16),) * len(masked.statements))
    federation.answer(stage, {**replies, FIRST_HANDLE: false.to_bytes()})
    federation.advance("acknowledge")
    opened = federation.replies("open", lost=[FIRST_HANDLE])
    assert len(opened) == 7
    with pytest.raises(SecureAggregationError, match="Expected shares that give what their owner published, got others"):
        federation.answer("open", opened)
    assert federation.server.unopened == [FIRST_HANDLE]


def test_a_few_shares_that_do_not_unseal_end_no_round() -> None:
    federation = Federation(ROUND, 8)
    federation.advance("choose")
    replies = dict(federation.replies("share"))
    shares = SealedShares.from_bytes(replies[FIRST_HANDLE])
    replies[FIRST_HANDLE] = dataclasses.replace(shares, sealed=(bytes(82), *shares.sealed[1:])).to_bytes()
    federation.answer("share", replies)
    result = federation.finish()
    assert len(result.survivors) == 8 and federation.server.mended == 1
    _is_exact(federation, result)


def test_stages_out_of_their_order_are_refused() -> None:
    server = SecureSum(ROUND, roster(3), now=NOW)
    for call, stage in ((server.introduce, "introduce"),):
        with pytest.raises(ProtocolViolation, match=f"{stage}: Expected the stages in their order, next announce"):
            call({})
    finished = Federation(ROUND, 4)
    finished.finish()
    with pytest.raises(ProtocolViolation, match="unmask: Expected the stages in their order, next nothing"):
        finished.server.unmask({})


CLIENT = st.integers(FIRST_HANDLE, FIRST_HANDLE + 7)


class AnyRound(RuleBasedStateMachine):
    """Stage after stage, anybody may drop out, send bytes that mean nothing, or be asked the same again.

    Draws of neighbors come from the system, so whether a round succeeds may differ from run to run; no rule depends on it.
    """

    @initialize(
        count=st.integers(5, 8),
        bits=st.sampled_from([20, 25, 32]),
        min_survivors=st.integers(2, 4),
        seed=st.integers(0, 3),
        dropout=st.sampled_from([0.0, 0.375]),
    )
    def start(self, count: int, bits: int, min_survivors: int, seed: int, dropout: float) -> None:
        changed = context(bits=bits, min_survivors=min_survivors, assumptions=Assumptions(0.0, dropout))
        self.federation = Federation(changed, count, seed)
        self.stage = 0
        self.over = False
        self.lost: set[int] = set()
        self.garbled: dict[int, bytes | None] = {}

    @rule(client=CLIENT)
    def repeat(self, client: int) -> None:
        """A client that is asked the same again says the same again."""
        if self.stage and not self.over and client in self.federation.log[STAGES[self.stage - 1]]:
            stage = STAGES[self.stage - 1]
            true, self.federation.to_clients = self.federation.to_clients, self.federation.told[stage]
            assert self.federation.reply(stage, client) == self.federation.log[stage][client]
            self.federation.to_clients = true

    @rule(client=CLIENT)
    def lose(self, client: int) -> None:
        """It does not answer in the next stage."""
        self.lost.add(client)

    @rule(client=CLIENT, garbage=st.sampled_from([b"", b"\x01\x02", None]))
    def garble(self, client: int, garbage: bytes | None) -> None:
        """What it sends in the next stage arrives as other bytes, or without its last one."""
        self.garbled[client] = garbage

    @rule()
    def advance(self) -> None:
        if self.over:
            return
        stage = STAGES[self.stage]
        try:
            replies = dict(self.federation.replies(stage, lost=self.lost))
            for client, garbage in self.garbled.items():
                if client in replies:
                    replies[client] = replies[client][:-1] if garbage is None else garbage
            result = self.federation.answer(stage, replies)
        except (SecureAggregationError, ConfigError):
            self.over = True
            return
        self.lost, self.garbled = set(), {}
        self.stage += 1
        if result is not None:
            self.over = True
            assert len(result.survivors) >= self.federation.round_context.min_survivors
            _is_exact(self.federation, result)

    def teardown(self) -> None:
        """Every round goes on to its end."""
        while hasattr(self, "over") and not self.over:
            self.advance()


AnyRound.TestCase.settings = settings(max_examples=100, stateful_step_count=12)


class TestAnyRound(AnyRound.TestCase):  # type: ignore[misc, valid-type]
    """A sum is exact, or the round ends with a typed error."""


def test_the_result_shows_no_values() -> None:
    result: Any = RingSum(np.array([123_456], dtype=np.uint32), (1,))
    assert "123456" not in repr(result)
