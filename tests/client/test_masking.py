"""A client against servers and clients that do not keep the protocol: one test for each thing that it refuses."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from client.masking import Credentials, MaskingSession
from shared.errors import CohortTooSmall, ProtocolViolation, SecureAggregationError, SensitivityError, ShareRequestRefused
from shared.secagg.context import RoundContext
from shared.secagg.keys import AgreementKey, Roster
from shared.secagg.merkle import CohortTree, order_key
from shared.secagg.messages import (
    AcknowledgmentDelivery,
    Acknowledgments,
    Advertisement,
    CohortAnnouncement,
    HolderAdvertisements,
    HolderChoice,
    MaskedInput,
    Member,
    OpenedShares,
    SealedShares,
    ShareDelivery,
    SurvivorReport,
)
from shared.secagg.parameters import Assumptions, Neighborhoods
from tests.secure_sums import (
    FIRST_HANDLE,
    NOW,
    ROUND,
    STAGES,
    Federation,
    context,
    identity,
    inputs_of,
    plain_sum,
    roster,
    session,
    signing_key,
)

VICTIM = FIRST_HANDLE
COUNT = 8  # complete: k = 7 holders, of which 4 open a secret
HOLDERS = COUNT - 1


def _until(stage: str, *, count: int = COUNT, round_context: RoundContext = ROUND, **lost: list[int]) -> Federation:
    """A federation in which `stage` is the next; without it, only messages to the clients are there."""
    federation = Federation(round_context, count)
    if (before := STAGES.index(stage) - 1) >= 0:
        federation.advance(STAGES[before], lost=lost)
    return federation


def _announcement(federation: Federation) -> CohortAnnouncement:
    return CohortAnnouncement.from_bytes(federation.to_clients[VICTIM])


# Parameters and places.


@pytest.mark.parametrize("name", ["degree", "threshold", "min_survivors", "length", "bits"])
def test_a_client_refuses_parameters_that_are_not_its_own(name: str) -> None:
    federation = _until("choose")
    announced = _announcement(federation)
    lowered = dataclasses.replace(announced, **{name: getattr(announced, name) - 1})
    with pytest.raises(ProtocolViolation, match=rf"announce: Expected {name} = \d+, got {name}=\d+\. The server runs other"):
        federation.sessions[VICTIM].choose_holders(lowered.to_bytes())
    assert HolderChoice.from_bytes(federation.sessions[VICTIM].choose_holders(announced.to_bytes())).holders


@pytest.mark.parametrize(
    "change",
    [
        {"run": "other"}, {"round_number": 4}, {"release": "pairs"}, {"adapter_digest": b"a" * 32},
        {"plan_digest": b"p" * 32}, {"assumptions": Assumptions(0.01, 0.34)},
    ],
)  # fmt: skip
def test_a_client_refuses_a_round_that_is_not_its_own(change: dict[str, Any]) -> None:
    announced = dataclasses.replace(_announcement(federation := _until("choose")), context=context(**change).digest)
    with pytest.raises(ProtocolViolation, match="Expected this client's run, round, release, adapter, plan and assumptions"):
        federation.sessions[VICTIM].choose_holders(announced.to_bytes())


def test_a_client_refuses_an_announcement_of_another_round_of_the_same_run() -> None:
    """Replayed whole: signed keys of the earlier round are in its tree, not this round's."""
    earlier, federation = _until("choose"), _until("choose")
    with pytest.raises(ProtocolViolation, match="announce: Expected an advertisement at its place in the cohort's tree"):
        federation.sessions[VICTIM].choose_holders(earlier.to_clients[VICTIM])


@pytest.mark.parametrize("change", [{"index": 1}, {"root": bytes(32)}, {"path": ()}])
def test_a_client_refuses_a_cohort_that_it_is_not_in_at_that_place(change: dict[str, Any]) -> None:
    announced = _announcement(federation := _until("choose"))
    change = {"index": (announced.index + 1) % COUNT} if "index" in change else change
    with pytest.raises(ProtocolViolation, match="Expected an advertisement at its place in the cohort's tree"):
        federation.sessions[VICTIM].choose_holders(dataclasses.replace(announced, **change).to_bytes())


def test_a_client_refuses_a_cohort_that_is_too_small() -> None:
    announced = _announcement(_until("choose", count=4))
    with pytest.raises(CohortTooSmall, match=r"announce: Expected num_clients >= 5, got num_clients=4\. Ask more clients"):
        session(0, context(min_survivors=5), 4).choose_holders(announced.to_bytes())


def test_a_client_refuses_a_cohort_in_which_an_active_server_opens_a_smaller_sum_than_the_plan_counts_on() -> None:
    assumed = Assumptions(0.05, 0.05)
    fewest = Neighborhoods.derive(40, assumed).smallest_active_sum
    announced = _announcement(_until("choose", count=40, round_context=context(assumptions=assumed)))
    member = session(0, context(assumptions=assumed, smallest_active_sum=fewest + 1), 40)
    with pytest.raises(CohortTooSmall, match=rf"announce: Expected a cohort in which .* fewer than {fewest + 1} honest"):
        member.choose_holders(announced.to_bytes())
    # The server notices as well, and exactly as many are enough.
    with pytest.raises(CohortTooSmall, match=r"advertise: Expected a cohort in which no active server opens"):
        _until("choose", count=40, round_context=context(assumptions=assumed, smallest_active_sum=fewest + 1))
    _until("share", count=40, round_context=context(assumptions=assumed, smallest_active_sum=fewest))


def test_a_client_refuses_a_cohort_of_two() -> None:
    announced = dataclasses.replace(_announcement(federation := _until("choose")), num_clients=2)
    with pytest.raises(CohortTooSmall, match=r"announce: Expected num_clients in \[3, 10000\], got num_clients=2"):
        federation.sessions[VICTIM].choose_holders(announced.to_bytes())


def test_clients_draw_different_holders_of_their_own_and_never_themselves() -> None:
    federation = _until("choose", count=40, round_context=context(assumptions=Assumptions(0.05, 0.05, "curious")))
    choices = {}
    for client, told in federation.to_clients.items():
        choices[client] = HolderChoice.from_bytes(federation.sessions[client].choose_holders(told)).holders
        assert CohortAnnouncement.from_bytes(told).index not in choices[client]
        assert list(choices[client]) == sorted(set(choices[client]))
    assert len(set(choices.values())) > 30
    # A place that nobody draws is no rarity; ten of them would be.
    assert len(set().union(*choices.values())) > 30


# Whose keys they are.


def _with_member(federation: Federation, change: dict[str, bytes]) -> tuple[bytes, bytes]:
    """What a server sends the victim if it swaps something in the first holder's advertisement, and commits to that."""
    server = federation.server
    members = [member.advertisement for member in server._members]
    own = _announcement(federation).index
    target = 0 if own else 1
    members[target] = dataclasses.replace(members[target], **change)
    tree = CohortTree([order_key(member.identity) for member in members], [member.to_bytes() for member in members])
    announced = dataclasses.replace(_announcement(federation), root=tree.root, path=tree.path(own))
    introduced = HolderAdvertisements(
        tuple(Member(members[index], tree.path(index)) for index in range(COUNT) if index != own)
    )
    return announced.to_bytes(), introduced.to_bytes()


@pytest.mark.parametrize("name", ["mask_key", "channel_key", "signature", "identity"])
def test_a_client_refuses_swapped_keys(name: str) -> None:
    """Whether the server commits to them or not."""
    value = identity(77) if name == "identity" else AgreementKey.generate().public * (2 if name == "signature" else 1)
    federation = _until("choose")
    announced, introduced = _with_member(federation, {name: value})
    federation.sessions[VICTIM].choose_holders(announced)
    with pytest.raises(
        ProtocolViolation, match=r"introduce: Expected (a signature of this identity|an identity of|an advertisement at)"
    ):
        federation.sessions[VICTIM].share(introduced)
    honest = _until("share")
    members = list(HolderAdvertisements.from_bytes(honest.to_clients[VICTIM]).members)
    swapped = dataclasses.replace(members[0].advertisement, **{name: value})
    members[0] = dataclasses.replace(members[0], advertisement=swapped)
    with pytest.raises(ProtocolViolation, match="introduce: Expected an advertisement at its place in the cohort's tree"):
        honest.sessions[VICTIM].share(HolderAdvertisements(tuple(members)).to_bytes())


def test_a_client_refuses_an_advertisement_of_another_round() -> None:
    """The same client's keys, signed in an earlier round, and committed to now."""
    old = session(1, context(round_number=2), COUNT).advertise()
    federation = Federation(ROUND, COUNT)
    replies = federation.replies("advertise")
    fresh = Advertisement.from_bytes(replies[FIRST_HANDLE + 1])
    federation.answer("advertise", replies)
    place = [member.advertisement for member in federation.server._members].index(fresh)
    federation.server._members[place] = Member(Advertisement.from_bytes(old), ())
    advertisements = [member.advertisement for member in federation.server._members]
    tree = CohortTree([order_key(one.identity) for one in advertisements], [one.to_bytes() for one in advertisements])
    own = _announcement(federation).index
    announced = dataclasses.replace(_announcement(federation), root=tree.root, path=tree.path(own))
    federation.sessions[VICTIM].choose_holders(announced.to_bytes())
    members = tuple(Member(advertisements[index], tree.path(index)) for index in range(COUNT) if index != own)
    with pytest.raises(ProtocolViolation, match="introduce: Expected a signature of this identity over this context"):
        federation.sessions[VICTIM].share(HolderAdvertisements(members).to_bytes())


@pytest.mark.parametrize(
    ("change", "problem"),
    [({"revoked": True}, "got a revoked one"), ({"valid_until": NOW - 1}, "got an expired one"), (None, "of the roster")],
)
def test_a_client_refuses_a_neighbor_whose_identity_does_not_count(change: dict[str, Any] | None, problem: str) -> None:
    """The cohort of one honest client whose others the operator invents is the last case."""
    entries = dict(roster(COUNT).entries)
    for number in range(1, COUNT):
        entry = entries.pop(identity(number))
        if change is not None:
            entries[identity(number)] = dataclasses.replace(entry, **change)
    federation = Federation(ROUND, COUNT)
    credentials = Credentials(identity(0), signing_key(0), Roster(entries))
    federation.sessions[VICTIM] = MaskingSession(ROUND, credentials, now=NOW)
    federation.advance("choose")
    with pytest.raises(ProtocolViolation, match=f"introduce: Expected an identity .*{problem}"):
        federation.reply("share", VICTIM)


def test_a_client_refuses_fewer_holders_than_it_drew() -> None:
    federation = _until("share")
    members = HolderAdvertisements.from_bytes(federation.to_clients[VICTIM]).members
    with pytest.raises(ProtocolViolation, match="introduce: Expected an advertisement for each of 7 holders, got members=6"):
        federation.sessions[VICTIM].share(HolderAdvertisements(members[1:]).to_bytes())


@pytest.mark.parametrize("name", ["mask_key", "channel_key"])
def test_a_client_refuses_a_low_order_key_that_its_owner_signed(name: str) -> None:
    """Of a mask key, too, before an input is asked for: the ledger is charged by the time it is used."""
    good = AgreementKey.generate().public
    federation = Federation(ROUND, COUNT)
    replies = dict(federation.replies("advertise"))
    federation.answer("advertise", replies)
    unsigned = dataclasses.replace(Advertisement(identity(1), good, good, b""), **{name: b"\x01" + bytes(31)})
    bad = dataclasses.replace(unsigned, signature=signing_key(1).sign(unsigned.signed(ROUND)))
    advertisements = [member.advertisement for member in federation.server._members]
    place = [one.identity for one in advertisements].index(identity(1))
    advertisements[place] = bad
    tree = CohortTree([order_key(one.identity) for one in advertisements], [one.to_bytes() for one in advertisements])
    own = _announcement(federation).index
    announced = dataclasses.replace(_announcement(federation), root=tree.root, path=tree.path(own))
    federation.sessions[VICTIM].choose_holders(announced.to_bytes())
    members = tuple(Member(advertisements[index], tree.path(index)) for index in range(COUNT) if index != own)
    with pytest.raises(ProtocolViolation, match="introduce: Expected an X25519 public key of high order"):
        federation.sessions[VICTIM].share(HolderAdvertisements(members).to_bytes())


# Shares on their way.


def _delivery(federation: Federation, client: int = VICTIM) -> ShareDelivery:
    return ShareDelivery.from_bytes(federation.to_clients[client])


def _mask(federation: Federation, delivery: ShareDelivery) -> bytes:
    return federation.sessions[VICTIM].mask(delivery.to_bytes(), federation.inputs[VICTIM])


NOTHING = bytes(33)  # in place of a share that did not unseal


def _opened_after(federation: Federation, delivery: ShareDelivery) -> list[bool]:
    """For each owner of the victim whether it opened a share in the end; the round is the others', and its sum exact."""
    masked = _mask(federation, delivery)
    federation.answer("mask", {**federation.replies("mask", lost=[VICTIM]), VICTIM: masked})
    federation.advance("acknowledge")
    opened = [share != NOTHING for share in OpenedShares.from_bytes(federation.reply("open", VICTIM)).shares]
    result = federation.finish()
    kept = [federation.inputs[client] for client in result.survivors]
    assert len(kept) == COUNT
    assert result.values.tolist() == plain_sum(kept, ROUND.bits)
    return opened


def test_a_changed_share_counts_for_nothing_and_stops_nobody() -> None:
    delivery = _delivery(federation := _until("mask"))
    owner = delivery.owners[2]
    changed = dataclasses.replace(owner, sealed=owner.sealed[:-1] + bytes([owner.sealed[-1] ^ 1]))
    owners = (*delivery.owners[:2], changed, *delivery.owners[3:])
    assert _opened_after(federation, dataclasses.replace(delivery, owners=owners)) == [True, True, False] + [True] * 4


def test_a_client_refuses_its_own_message_reflected() -> None:
    """As its own; as if the holder had sent it, it counts for nothing."""
    federation = _until("mask")
    delivery = _delivery(federation)
    sent = SealedShares.from_bytes(federation.log["share"][VICTIM])
    first = dataclasses.replace(delivery.owners[0], sealed=sent.sealed[0])
    assert _opened_after(federation, dataclasses.replace(delivery, owners=(first, *delivery.owners[1:]))) == (
        [False] + [True] * 6
    )
    delivery = _delivery(federation := _until("mask"))
    own = CohortAnnouncement.from_bytes(federation.told["choose"][VICTIM])
    itself = dataclasses.replace(
        delivery.owners[0],
        index=own.index,
        member=Member(Advertisement.from_bytes(federation.log["advertise"][VICTIM]), own.path),
    )
    with pytest.raises(ProtocolViolation, match=r"mask: Expected another client, got this one. The message was reflected"):
        _mask(federation, dataclasses.replace(delivery, owners=(itself,)))


def test_the_share_of_another_receiver_counts_for_nothing() -> None:
    federation = _until("mask")
    theirs = {owner.index: owner for owner in _delivery(federation, FIRST_HANDLE + 1).owners[:2]}
    delivery = _delivery(federation)
    owners = tuple(theirs.get(owner.index, owner) for owner in delivery.owners)
    assert _opened_after(federation, dataclasses.replace(delivery, owners=owners)) == [
        owner.index not in theirs for owner in delivery.owners
    ]


def test_nothing_is_opened_between_two_cohorts() -> None:
    """A server shows one client another tree, with the same clients and keys but one: nothing fits between the two."""
    federation = Federation(ROUND, COUNT)
    federation.answer("advertise", federation.replies("advertise"))
    announced, introduced = _with_other_tree(federation)
    federation.sessions[VICTIM].choose_holders(announced)
    federation.sessions[VICTIM].share(introduced)
    replies = federation.replies("choose", lost=[VICTIM])
    # The victim's choice in the other tree is the complete one, so the rest goes on with it.
    own = _announcement(federation).index
    choice = HolderChoice(tuple(index for index in range(COUNT) if index != own)).to_bytes()
    federation.answer("choose", {**replies, VICTIM: choice})
    sent = federation.sessions[VICTIM].share(introduced)
    federation.answer("share", {**federation.replies("share", lost=[VICTIM]), VICTIM: sent})
    # The proofs are of the other tree, so the server shows the victim those of its own; what is sealed stays as it was.
    shown = {member.advertisement.identity: member for member in HolderAdvertisements.from_bytes(introduced).members}
    delivery = _delivery(federation)
    owners = tuple(dataclasses.replace(one, member=shown[one.member.advertisement.identity]) for one in delivery.owners)
    with pytest.raises(ProtocolViolation, match="mask: Expected an advertisement at its place"):
        _mask(federation, delivery)
    masked = _mask(federation, dataclasses.replace(delivery, owners=owners))
    federation.answer("mask", {**federation.replies("mask", lost=[VICTIM]), VICTIM: masked})
    federation.advance("acknowledge")
    with pytest.raises(CohortTooSmall, match="open: Expected holders that count this client >= 4, got 0"):
        federation.reply("open", VICTIM)
    with pytest.raises(SecureAggregationError, match="Expected shares that give what their owner published, got others"):
        federation.answer("open", federation.replies("open", lost=[VICTIM]))
    assert federation.server.unopened == [VICTIM]


def _with_other_tree(federation: Federation) -> tuple[bytes, bytes]:
    """The cohort as it is but for one client, who is asked for its keys again: truly signed, other keys."""
    server = federation.server
    advertisements = [member.advertisement for member in server._members]
    own = _announcement(federation).index
    place = next(index for index, one in enumerate(advertisements) if index != own and one.identity == identity(7))
    advertisements[place] = Advertisement.from_bytes(session(7, ROUND, COUNT).advertise())
    tree = CohortTree([order_key(one.identity) for one in advertisements], [one.to_bytes() for one in advertisements])
    announced = dataclasses.replace(_announcement(federation), root=tree.root, path=tree.path(own))
    members = tuple(Member(advertisements[index], tree.path(index)) for index in range(COUNT) if index != own)
    return announced.to_bytes(), HolderAdvertisements(members).to_bytes()


def test_a_client_refuses_more_owners_than_honest_draws_give() -> None:
    assumptions = Assumptions(0.0, 0.05, "curious")
    federation = _until("mask", count=60, round_context=context(assumptions=assumptions))
    largest = Neighborhoods.derive(60, assumptions).largest_in_degree
    delivery = _delivery(federation)
    crowd = tuple(dataclasses.replace(delivery.owners[0], index=index) for index in range(largest + 1))
    with pytest.raises(
        ProtocolViolation, match=f"mask: Expected at most {largest} clients that chose this one, got owners="
    ):
        _mask(federation, dataclasses.replace(delivery, owners=crowd))


def test_a_client_refuses_an_owner_that_comes_twice() -> None:
    delivery = _delivery(federation := _until("mask"))
    with pytest.raises(ProtocolViolation, match="mask: Expected owners ascending by index"):
        _mask(federation, dataclasses.replace(delivery, owners=(delivery.owners[0], *delivery.owners[:5])))


def test_a_client_masks_nothing_when_too_few_of_its_holders_took_part() -> None:
    delivery = _delivery(federation := _until("mask"))
    took_part = (True,) * 3 + (False,) * 4
    indices = {owner.index for owner in delivery.owners[:3]}
    owners = tuple(owner for owner in delivery.owners if owner.index in indices)
    with pytest.raises(CohortTooSmall, match="mask: Expected holders that took part >= 4, got 3"):
        _mask(federation, ShareDelivery(took_part, owners))


def test_a_client_refuses_a_holder_that_sent_shares_and_took_no_part() -> None:
    delivery = _delivery(federation := _until("mask"))
    with pytest.raises(ProtocolViolation, match="mask: Expected every client whose shares came to have taken part"):
        _mask(federation, dataclasses.replace(delivery, took_part=(False,) + (True,) * 6))
    with pytest.raises(ProtocolViolation, match="mask: Expected a flag for each of 7 holders, got flags=6"):
        _mask(federation, dataclasses.replace(delivery, took_part=(True,) * 6))


@pytest.mark.parametrize(
    "values",
    [
        np.zeros(4, dtype=np.uint32), np.zeros((5, 1), dtype=np.uint32), np.zeros(5, dtype=np.int64),
        np.full(5, 2**20, dtype=np.uint32),
    ],
)  # fmt: skip
def test_a_client_refuses_an_input_that_is_no_ring_vector(values: np.ndarray) -> None:
    federation = _until("mask")
    with pytest.raises(SensitivityError, match="Expected an input of 5 ring integers of 20 bits"):
        federation.sessions[VICTIM].mask(federation.to_clients[VICTIM], values)


def test_a_client_masks_one_input_ever() -> None:
    """The same request again gives the same bytes, whatever the input then; another request gives nothing."""
    federation = _until("mask")
    delivery = _delivery(federation)
    first = _mask(federation, delivery)
    assert federation.sessions[VICTIM].mask(delivery.to_bytes(), federation.inputs[VICTIM + 1]) == first
    fewer = ShareDelivery((False,) + (True,) * 6, delivery.owners[1:])
    with pytest.raises(ShareRequestRefused, match="mask: Expected the request that was answered, got another"):
        _mask(federation, fewer)


# Opening.


def _report(federation: Federation) -> SurvivorReport:
    return SurvivorReport.from_bytes(federation.to_clients[VICTIM])


def test_a_client_never_gives_both_shares_of_an_owner() -> None:
    """Not in one message, which has one place an owner, and not over repeated requests, in either order."""
    for reverse in (False, True):
        federation = _until("acknowledge")
        report = _report(federation)
        dead = dataclasses.replace(report, owners=(None, *report.owners[1:]))
        requests = [report.to_bytes(), dead.to_bytes()][:: -1 if reverse else 1]
        member = federation.sessions[VICTIM]
        first = member.acknowledge(requests[0])
        assert member.acknowledge(requests[0]) == first
        with pytest.raises(ShareRequestRefused, match="acknowledge: Expected the request that was answered, got another"):
            member.acknowledge(requests[1])
        sent = Acknowledgments.from_bytes(first).statements
        padded = Acknowledgments((bytes(16),) * (HOLDERS - len(sent)) + sent).to_bytes()  # as the server expects it
        federation.answer("acknowledge", {**federation.replies("acknowledge", lost=[VICTIM]), VICTIM: padded})
        told = AcknowledgmentDelivery.from_bytes(federation.to_clients[VICTIM])
        opened = member.open_shares(told.to_bytes())
        assert member.open_shares(told.to_bytes()) == opened
        assert len(OpenedShares.from_bytes(opened).shares) == len(report.owners)
        with pytest.raises(ShareRequestRefused, match="open: Expected the request that was answered, got another"):
            member.open_shares(AcknowledgmentDelivery((None, *told.holders[1:])).to_bytes())


def test_an_owner_that_did_not_state_that_it_sent_an_input_counts_as_lost() -> None:
    """It gets no statement, and of its secrets the one that opens the mask of the lost; never a share of the other."""
    for place in (None, 1):
        federation = _until("acknowledge")
        report = _report(federation)
        statement = bytes(16) if place is None else report.owners[place]
        forged = dataclasses.replace(report, owners=(statement, *report.owners[1:]))
        federation.to_clients[VICTIM] = forged.to_bytes()
        first = _delivery_of(federation, VICTIM).owners[0].index
        owner = federation.server._clients[first]
        federation.advance("acknowledge")
        stated = AcknowledgmentDelivery.from_bytes(federation.to_clients[owner])
        own = CohortAnnouncement.from_bytes(federation.told["choose"][VICTIM]).index
        assert stated.holders[federation.server._holders[first].index(own)] is not None  # something, of no meaning
        given = federation.sessions[VICTIM]._sequence
        assert first not in given.living and len(given.living) == HOLDERS - 1  # type: ignore[union-attr]
        told = AcknowledgmentDelivery(
            tuple(one if holder == own else None for one, holder in zip(
                stated.holders, federation.server._holders[first], strict=True))
        )  # fmt: skip
        with pytest.raises(CohortTooSmall, match="open: Expected holders that count this client >= 4, got 0"):
            federation.sessions[owner].open_shares(told.to_bytes())
        kept = given.masked.owners[0]  # type: ignore[union-attr]
        assert OpenedShares.from_bytes(federation.reply("open", VICTIM)).shares[0] == kept.of_key != kept.of_seed


def test_a_client_refuses_a_report_of_too_few_survivors_or_of_other_owners() -> None:
    federation = _until("acknowledge", round_context=context(min_survivors=4))
    report = _report(federation)
    with pytest.raises(CohortTooSmall, match="report survivors: Expected survivors >= 4, got 3"):
        federation.sessions[VICTIM].acknowledge(dataclasses.replace(report, num_survivors=3).to_bytes())
    with pytest.raises(ProtocolViolation, match="Expected each of 7 owners as living or dropped out, got owners=6"):
        federation.sessions[VICTIM].acknowledge(dataclasses.replace(report, owners=report.owners[1:]).to_bytes())


def test_a_client_gives_shares_only_if_enough_of_its_holders_count_it_as_living() -> None:
    federation = _until("open")
    told = AcknowledgmentDelivery.from_bytes(federation.to_clients[VICTIM]).holders
    member = federation.sessions[VICTIM]
    for holders in ((None,) * 4 + told[4:], (bytes(16),) * 4 + told[4:], (told[4],) * 4 + told[4:], (None,) * 7):
        with pytest.raises(CohortTooSmall, match=r"open: Expected holders that count this client >= 4, got [03]"):
            member.open_shares(AcknowledgmentDelivery(holders).to_bytes())
    with pytest.raises(ProtocolViolation, match="open: Expected a statement or none of each of 7 holders, got holders=6"):
        member.open_shares(AcknowledgmentDelivery(told[1:]).to_bytes())
    assert member.open_shares(AcknowledgmentDelivery((None,) * 3 + told[3:]).to_bytes())


def test_holders_that_were_told_another_number_of_survivors_do_not_count() -> None:
    federation = _until("acknowledge")
    for client, told in federation.to_clients.items():
        if client != VICTIM:
            other = dataclasses.replace(SurvivorReport.from_bytes(told), num_survivors=6)
            federation.to_clients[client] = other.to_bytes()
    federation.advance("acknowledge")
    with pytest.raises(CohortTooSmall, match="open: Expected holders that count this client >= 4, got 0"):
        federation.reply("open", VICTIM)


def test_a_server_that_calls_all_but_one_client_lost_opens_nothing() -> None:
    """Every client is told that only the victim lives, with its true statements: its input alone would be opened."""
    federation = _until("acknowledge")
    index = {client: CohortAnnouncement.from_bytes(told).index for client, told in federation.told["choose"].items()}
    for client, told in federation.to_clients.items():
        report = SurvivorReport.from_bytes(told)
        owners = [owner.index for owner in _delivery_of(federation, client).owners]
        only = tuple(
            statement if owner == index[VICTIM] else None for owner, statement in zip(owners, report.owners, strict=True)
        )
        federation.to_clients[client] = dataclasses.replace(report, owners=only).to_bytes()
    acknowledged = federation.replies("acknowledge")
    for client in federation.sessions:
        if client == VICTIM:
            continue
        # Nobody but the victim has a single acknowledgment; the server tries with what it has.
        told = AcknowledgmentDelivery((None,) * (COUNT - 1)).to_bytes()
        with pytest.raises(CohortTooSmall, match="open: Expected holders that count this client >= 4, got 0"):
            federation.sessions[client].open_shares(told)
    assert len(acknowledged) == COUNT


def _delivery_of(federation: Federation, client: int) -> ShareDelivery:
    return ShareDelivery.from_bytes(federation.told["mask"][client])


def test_a_holder_that_was_said_to_take_no_part_gets_no_statement() -> None:
    """So it counts the owner as lost, and the owner does not count on it."""
    federation = _until("mask")
    delivery = _delivery(federation)
    hidden = delivery.owners[0].index
    reply = MaskedInput.from_bytes(
        _mask(federation, ShareDelivery((False,) + (True,) * 6, tuple(o for o in delivery.owners if o.index != hidden)))
    )
    assert len(reply.statements) == 6


# Order, secrets.


def test_stages_out_of_their_order_are_refused() -> None:
    federation = Federation(ROUND, COUNT)
    federation.finish()
    calls: dict[str, Any] = {
        "choose holders": lambda one: one.choose_holders(federation.told["choose"][VICTIM]),
        "share": lambda one: one.share(federation.told["share"][VICTIM]),
        "mask": lambda one: one.mask(federation.told["mask"][VICTIM], federation.inputs[VICTIM]),
        "acknowledge": lambda one: one.acknowledge(federation.told["acknowledge"][VICTIM]),
        "open": lambda one: one.open_shares(federation.told["open"][VICTIM]),
    }
    for stage, call in list(calls.items())[1:]:
        with pytest.raises(ProtocolViolation, match=f"{stage}: Expected the stages in their order, got this one too early"):
            call(session(0, ROUND, COUNT))
    for call in calls.values():  # all were answered: the same again
        assert call(federation.sessions[VICTIM])


@pytest.mark.parametrize("garbage", [b"", b"\x01", b"\x01\x02" + bytes(500), bytes(3000)])
def test_garbage_is_a_violation_in_every_stage_and_changes_nothing(garbage: bytes) -> None:
    federation = Federation(ROUND, 4)
    for stage in STAGES:
        if stage != "advertise":
            true = dict(federation.to_clients)
            federation.to_clients = dict.fromkeys(true, garbage)
            for client in true:
                with pytest.raises(ProtocolViolation, match="Expected "):
                    federation.reply(stage, client)
            federation.to_clients = true
        result = federation.advance(stage)
    assert result is not None


def _walk(value: object, seen: set[int]) -> Iterator[object]:
    """Everything that an object holds."""
    if id(value) in seen or isinstance(value, str | bytes | int | float | type | None):
        return
    seen.add(id(value))
    yield value
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list | frozenset) else ()
    for part in (*inside, *getattr(value, "__dict__", {}).values()):
        yield from _walk(part, seen)


def test_no_representation_holds_a_secret_a_share_a_key_or_an_identity() -> None:
    """Of a session in every stage, of all that it holds, and of every message; every bytes field is looked for."""
    federation = Federation(ROUND, 4)
    found: list[object] = []
    secrets: set[bytes] = set()
    for stage in STAGES:
        federation.advance(stage)
        for part in _walk([federation.sessions[VICTIM], federation.server], set()):
            found.append(part)
            secrets |= {one for one in getattr(part, "__dict__", {}).values() if isinstance(one, bytes) and len(one) >= 16}
    # A digest of public facts, and a commitment to signed keys, may be shown.
    secrets -= {ROUND.adapter_digest, ROUND.plan_digest, ROUND.digest, federation.server._known_cohort().root}
    secrets -= {federation.server._known_cohort().digest}
    assert len(secrets) > 20 and len(found) > 50
    for part in found:
        if type(part).__module__.split(".")[0] in ("client", "server", "shared") and not isinstance(part, RoundContext):
            shown = repr(part)
            for secret in secrets:
                assert repr(secret)[2:-1] not in shown and secret.hex() not in shown, type(part)


def test_no_error_quotes_what_it_refuses() -> None:
    """Whatever one flips in a message: the error holds neither identities nor keys nor shares."""
    federation = Federation(ROUND, COUNT)
    refused = 0
    for stage in STAGES[:-1]:
        federation.advance(stage)
        client = FIRST_HANDLE + STAGES.index(stage)
        told = federation.to_clients[client]
        for at in range(2, len(told), 37):
            federation.to_clients[client] = told[:at] + bytes([told[at] ^ 0x41]) + told[at + 1 :]
            try:
                federation.reply(STAGES[STAGES.index(stage) + 1], client)
            except SecureAggregationError as error:
                refused += 1
                for number in range(COUNT):
                    assert identity(number).hex() not in str(error) and repr(identity(number))[2:-1] not in str(error)
                assert "\\x" not in str(error)
            else:
                break
        # Whatever it answered, it takes no part in what follows.
        del federation.to_clients[client]
    assert refused > 50


def test_two_sessions_of_one_client_share_no_secret() -> None:
    messages = [Advertisement.from_bytes(session(0, ROUND, 4).advertise()) for _ in range(4)]
    keys = {key for message in messages for key in (message.mask_key, message.channel_key)}
    assert len(keys) == 8


def test_masked_inputs_of_equal_inputs_differ() -> None:
    federation = Federation(ROUND, COUNT)
    federation.inputs = dict.fromkeys(federation.inputs, inputs_of(ROUND, 1)[0])
    federation.advance("mask")
    assert len({MaskedInput.from_bytes(message).packed for message in federation.log["mask"].values()}) == COUNT


def test_own_index_is_bound_into_a_share() -> None:
    """Sealed for another index of the same pair, it does not open: the direction is in key and associated data."""
    federation = _until("mask")
    delivery = _delivery(federation)
    moved = dataclasses.replace(delivery.owners[0], sealed=delivery.owners[1].sealed)
    assert _opened_after(federation, dataclasses.replace(delivery, owners=(moved, *delivery.owners[1:]))) == (
        [False] + [True] * 6
    )
