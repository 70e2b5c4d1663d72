"""One client's side of a secure sum: it masks one input, and gives the shares that unmask the sum and nothing else.

A round, as a client sees it. Each method takes the server's bytes and returns the client's (`shared/secagg/messages.py`).
A holder keeps shares of this client's secrets; an owner is a client whose shares this client holds.

| stage | server's message | what the client checks and does | client's message |
|---|---|---|---|
| 1 `advertise` | | draws two X25519 keys, signs them with its identity | keys, signature |
| 2 `choose_holders` | root, n, parameters, place | parameters, place in the tree; draws k holders | their indices |
| 3 `share` | the holders' keys, proofs | they are in tree and roster; shares its secrets | k sealed pairs of shares |
| 4 `mask` | its owners' shares, who took part | owners likewise; unseals, adds all masks | masked input, statements |
| 5 `acknowledge` | which owners sent an input | their statements; enough survivors | a statement to each living owner |
| 6 `open_shares` | its holders' statements | `threshold` of them count this client as living | one share an owner |

**The graph is the clients' own.** After the root fixes all keys, each client draws its holders from its own CSPRNG. Neither
the server nor minted clients can steer who holds an honest client's secrets. (The alternative is a graph from a seed
that all commit to and then open. The party that decides which commitments are opened could choose among many seeds.) The
price is up to twice the masks of a regular graph of equal degree, because pairwise masks run over both directions.

**What the statements are for.** A holder gives a share of a living owner's own mask only if the owner stated to it that
the two share a mask (stage 4). So a server cannot tell an owner that its honest holders took no part, and still open its
input with their help. A client gives shares only once `threshold` of its own holders state that they count it as living
(stage 5). So a server cannot use a client's help and also open its mask key as if it had dropped out. A statement that a
client *sent* an input would not show that it is counted: a server could show it to all, tell each client's holders that all
but one dropped out, and read one input. From both rules follows the bound of `shared/secagg/parameters.py` on the fewest
honest inputs that an active server can add up. Statements are message authentication codes and not signatures, because only
their receiver has to believe them. The exact number of survivors is not proved to a client. All clients of one sum state to
each other the same announced number, at least `min_survivors`; that so many exist and are honest rests on the assumed
corrupt fraction and on the bound.

**A corrupt client stops no other client.** Shares that do not unseal are as good as none: the holder adds the mask with
their owner all the same, and opens zeros in their place, which the server leaves out as a wrong share. An owner whose
statement is false counts as lost, and gets random bytes in place of a statement. Otherwise one client could send each of its
holders something false and so end every sum, and nobody would know who it was; as it is, its own secret is not opened, and
the server leaves it out of the sums that follow. A server gains nothing by it: it could have called that owner lost.

**Repeats.** A repeated request gets the same bytes again. A different request for a stage that was answered is refused, so
at most one input is masked, and the two shares of an owner are never both given. A refused request changes nothing.

What never lives here: Flower, files, encoding and noise (`client/contribution.py`), and saving a session: a client
whose session is lost with its process has dropped out.

Source:
    Bonawitz et al. 2017, "Practical secure aggregation for privacy-preserving machine learning"; Bell et al. 2020, "Secure
    single-server aggregation with (poly)logarithmic overhead" (neighborhoods, and the consistency check against an active
    server).
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from shared.errors import CohortTooSmall, ConfigError, ProtocolViolation, SensitivityError, ShareRequestRefused
from shared.secagg import keys, masks, secret_sharing
from shared.secagg.context import CohortContext, RoundContext
from shared.secagg.identities import Credentials
from shared.secagg.keys import AgreementKey
from shared.secagg.merkle import order_key, verify_membership
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
from shared.secagg.packing import pack

# What clients state to each other, by label.
_SHARES_A_MASK = "shares a mask with you"
_COUNTS_AS_LIVING = "counts you as living"

# In place of shares that do not unseal: as a share of any secret it is wrong, but for a probability of 2**-256.
_NO_SHARES = bytes(2 * secret_sharing.SHARE_BYTES)

S = TypeVar("S")


@dataclass(frozen=True)
class _Neighbor:
    """A holder or an owner whose advertisement was verified; `channel` is (private)."""

    index: int
    advertisement: Advertisement = field(repr=False)
    channel: bytes = field(repr=False)


class MaskingSession:
    """One client in one secure sum; its secrets come from the system's CSPRNG and live as long as this object.

    Guarantee:
        It sends its identity, its signed public keys, its holders' indices, sealed shares, a commitment to the seed of its
        own mask, one masked vector, statements, and one share per owner; nothing else. The vector is uniform to anyone who
        lacks the seed of its own mask or one honest neighbor's secret.

    Args:
        context: As this client knows it from its own configuration. (public)
        credentials: What the client was provisioned with. (private)
        now: Seconds since 1970; keys that have expired by then are refused.
    """

    def __init__(self, context: RoundContext, credentials: Credentials, *, now: int) -> None:
        self._sequence: _Advertised | _Chosen | _Shared | _Masked | _Acknowledged | _Opened
        self._sequence = _Advertised(context, credentials, now, AgreementKey.generate(), AgreementKey.generate())
        self._answered: dict[str, tuple[bytes, bytes]] = {}
        self._delivery: tuple[bytes, _Accepted] | None = None

    def advertise(self) -> bytes:
        """Stage 1; returns an `Advertisement`."""
        if "advertise" not in self._answered:
            self._answered["advertise"] = b"", self._at(_Advertised, "advertise").advertisement().to_bytes()
        return self._answered["advertise"][1]

    def choose_holders(self, announcement: bytes) -> bytes:
        """Stage 2: takes a `CohortAnnouncement`, returns a `HolderChoice`.

        Raises:
            ProtocolViolation: If the server's parameters differ from this client's own, or the client is not in the cohort.
            CohortTooSmall: If the cohort is smaller than `min_survivors`, or no neighborhood is large enough.
        """
        return self._answer("choose holders", announcement, lambda: self._at(_Advertised, "choose holders").choose(
            CohortAnnouncement.from_bytes(announcement)))  # fmt: skip

    def share(self, holders: bytes) -> bytes:
        """Stage 3: takes `HolderAdvertisements`, returns `SealedShares`.

        Raises:
            ProtocolViolation: If a holder is not in the cohort or not in the roster, or did not sign its keys.
        """
        return self._answer("share", holders, lambda: self._at(_Chosen, "share").share(
            HolderAdvertisements.from_bytes(holders)))  # fmt: skip

    def check(self, delivery: bytes) -> bytes | None:
        """Verifies a delivery as `mask` does, before there is an input.

        Returns:
            What `mask` answered to this very delivery before; None if it has not.

        Raises:
            ProtocolViolation: As `mask`.
            CohortTooSmall: As `mask`.
            ShareRequestRefused: If an input was masked for another delivery.
        """
        before = self._repeated("mask", delivery)
        if before is None:
            self._accepted(delivery)
        return before

    def _accepted(self, delivery: bytes) -> _Accepted:
        """The delivery, verified; the latest one is verified only once."""
        asked = hashlib.sha256(delivery).digest()
        if self._delivery is None or self._delivery[0] != asked:
            self._delivery = asked, self._at(_Shared, "mask").accepted(ShareDelivery.from_bytes(delivery))
        return self._delivery[1]

    def mask(self, delivery: bytes, values: NDArray[np.uint32]) -> bytes:
        """Stage 4: takes a `ShareDelivery` and the input, returns a `MaskedInput`.

        A repeated request is answered with what was sent first, whatever `values` holds by then.

        Args:
            delivery: From the server.
            values: Shape (length,), below 2**bits: clipped, encoded and noised. (private)

        Raises:
            ProtocolViolation: If an owner's advertisement does not verify, or too many clients chose this one.
            CohortTooSmall: If fewer than `threshold` holders took part.
            SensitivityError: If the input has another shape or leaves the ring.
        """
        return self._answer("mask", delivery, lambda: self._at(_Shared, "mask").mask(self._accepted(delivery), values))

    def acknowledge(self, report: bytes) -> bytes:
        """Stage 5: takes a `SurvivorReport`, returns `Acknowledgments`; it fixes which owners count as living.

        Raises:
            ProtocolViolation: If the report is about other owners.
            CohortTooSmall: If fewer than `min_survivors` survived.
            ShareRequestRefused: If another report was acknowledged before.
        """
        return self._answer("acknowledge", report, lambda: self._at(_Masked, "acknowledge").acknowledge(
            SurvivorReport.from_bytes(report)))  # fmt: skip

    def open_shares(self, acknowledgments: bytes) -> bytes:
        """Stage 6: takes an `AcknowledgmentDelivery`, returns `OpenedShares`.

        Raises:
            CohortTooSmall: If fewer than `threshold` holders count this client as living.
            ShareRequestRefused: If shares were given for another request.
        """
        return self._answer("open", acknowledgments, lambda: self._at(_Acknowledged, "open").open(
            AcknowledgmentDelivery.from_bytes(acknowledgments)))  # fmt: skip

    def _answer(self, stage: str, request: bytes, compute: Callable[[], _Step]) -> bytes:
        """Answers a stage once; the state moves on only after everything was checked."""
        before = self._repeated(stage, request)
        if before is not None:
            return before
        step = compute()
        self._answered[stage] = hashlib.sha256(request).digest(), step.reply
        self._sequence = step.then
        return step.reply

    def _repeated(self, stage: str, request: bytes) -> bytes | None:
        """The earlier answer to this very request; None if the stage has not been answered."""
        if stage not in self._answered:
            return None
        before, reply = self._answered[stage]
        if before != hashlib.sha256(request).digest():
            raise ShareRequestRefused(
                f"{stage}: Expected the request that was answered, got another. "
                "Do not answer twice: two answers together could unmask a client."
            )
        return reply

    def _at(self, kind: type[S], stage: str) -> S:
        if not isinstance(self._sequence, kind):
            raise ProtocolViolation(
                f"{stage}: Expected the stages in their order, got this one too early. Start a new round."
            )
        return self._sequence


@dataclass(frozen=True)
class _Step:
    reply: bytes = field(repr=False)
    then: _Chosen | _Shared | _Masked | _Acknowledged | _Opened = field(repr=False)


@dataclass(frozen=True)
class _Advertised:
    """Before the cohort is known."""

    context: RoundContext
    credentials: Credentials = field(repr=False)
    now: int
    mask_key: AgreementKey = field(repr=False)
    channel_key: AgreementKey = field(repr=False)

    def advertisement(self) -> Advertisement:
        unsigned = Advertisement(self.credentials.identity, self.mask_key.public, self.channel_key.public, b"")
        signature = keys.sign(self.credentials.signing_key, unsigned.signed(self.context))
        return Advertisement(unsigned.identity, unsigned.mask_key, unsigned.channel_key, signature)

    def choose(self, announced: CohortAnnouncement) -> _Step:
        own, stage = self.context, CohortAnnouncement.stage
        try:
            cohort = own.with_cohort(announced.root, announced.num_clients)
        except ConfigError as error:
            raise CohortTooSmall(f"{stage}: {error}") from None
        if announced.num_clients < own.min_survivors:
            raise CohortTooSmall(
                f"{stage}: Expected num_clients >= {own.min_survivors}, got num_clients={announced.num_clients}. "
                "Ask more clients."
            )
        for name, expected, got in (
            ("degree", cohort.neighborhoods.degree, announced.degree),
            ("threshold", cohort.neighborhoods.threshold, announced.threshold),
            ("min_survivors", own.min_survivors, announced.min_survivors),
            ("length", own.length, announced.length),
            ("bits", own.bits, announced.bits),
        ):
            if expected != got:
                raise ProtocolViolation(
                    f"{stage}: Expected {name} = {expected}, got {name}={got}. The server runs other parameters."
                )
        if announced.context != own.digest:
            raise ProtocolViolation(
                f"{stage}: Expected this client's run, round, release, adapter, plan and assumptions, got others. "
                "The server runs another configuration, or repeats a message."
            )
        member = Member(self.advertisement(), announced.path)
        _verify_place(member, cohort, announced.index, stage=stage)
        drawn = secrets.SystemRandom().sample(range(announced.num_clients - 1), cohort.neighborhoods.degree)
        holders = tuple(sorted(place + (place >= announced.index) for place in drawn))
        return _Step(
            HolderChoice(holders).to_bytes(),
            _Chosen(cohort, self.credentials, self.now, self.mask_key, self.channel_key, announced.index, holders),
        )


def _verify_place(member: Member, cohort: CohortContext, index: int, *, stage: str) -> None:
    advertisement = member.advertisement
    verify_membership(
        cohort.root,
        cohort.neighborhoods.num_clients,
        index,
        key=order_key(advertisement.identity),
        leaf=advertisement.to_bytes(),
        path=member.path,
        stage=stage,
    )


@dataclass(frozen=True)
class _Chosen:
    """In a cohort, with holders drawn."""

    cohort: CohortContext
    credentials: Credentials = field(repr=False)
    now: int
    mask_key: AgreementKey = field(repr=False)
    channel_key: AgreementKey = field(repr=False)
    index: int
    holders: tuple[int, ...] = field(repr=False)
    _keys: dict[tuple[str, int, bool], bytes] = field(default_factory=dict, repr=False, compare=False)

    def neighbor(self, index: int, member: Member, *, stage: str) -> _Neighbor:
        """Verifies an advertisement, and agrees on the channel."""
        if index == self.index:
            raise ProtocolViolation(f"{stage}: Expected another client, got this one. The message was reflected.")
        _verify_place(member, self.cohort, index, stage=stage)
        advertisement = member.advertisement
        signed = advertisement.signed(self.cohort.round)
        self.credentials.roster.verify(advertisement.identity, advertisement.signature, signed, now=self.now, stage=stage)
        keys.verify_point(advertisement.mask_key, stage=stage)  # now: once it is used, the ledger is charged
        return _Neighbor(index, advertisement, self.channel_key.agree(advertisement.channel_key, stage=stage))

    def share(self, introduced: HolderAdvertisements) -> _Step:
        stage = introduced.stage
        if len(introduced.members) != len(self.holders):
            raise ProtocolViolation(
                f"{stage}: Expected an advertisement for each of {len(self.holders)} holders, got "
                f"members={len(introduced.members)}. The cohort is committed to: the server has them all."
            )
        holders = tuple(
            self.neighbor(index, member, stage=stage) for index, member in zip(self.holders, introduced.members, strict=True)
        )
        seed = secrets.token_bytes(keys.KEY_BYTES)
        split = {"threshold": self.cohort.neighborhoods.threshold, "count": len(holders)}
        of_seed = secret_sharing.split(seed, **split)
        of_key = secret_sharing.split(self.mask_key.secret, **split)
        sealed = tuple(
            keys.seal(
                self.key("shares", holder, sending=True), first + second, associated=self.associated(holder, sending=True)
            )
            for holder, first, second in zip(holders, of_seed, of_key, strict=True)
        )
        commitment = masks.seed_commitment(seed, self.cohort, self.index)
        return _Step(SealedShares(commitment, sealed).to_bytes(), _Shared(self, holders, seed))

    def key(self, label: str, neighbor: _Neighbor, *, sending: bool) -> bytes:
        known = self._keys.get((label, neighbor.index, sending))  # statements of both stages use one key per direction
        if known is None:
            sender, receiver = (self.index, neighbor.index) if sending else (neighbor.index, self.index)
            known = keys.derive_key(neighbor.channel, label, context=self.cohort.digest, sender=sender, receiver=receiver)
            self._keys[label, neighbor.index, sending] = known
        return known

    def associated(self, neighbor: _Neighbor, *, sending: bool) -> bytes:
        sender, receiver = (self.index, neighbor.index) if sending else (neighbor.index, self.index)
        return self.cohort.digest + struct.pack(">II", sender, receiver)

    def statement(self, neighbor: _Neighbor, label: str, *what: bytes) -> bytes:
        """A statement of this client to a neighbor."""
        return keys.statement(self.key("statements", neighbor, sending=True), label.encode(), *what)

    def verify_statement(self, neighbor: _Neighbor, claimed: bytes, label: str, *what: bytes) -> None:
        """Passes if the neighbor stated this to this client."""
        keys.verify_statement(self.key("statements", neighbor, sending=False), claimed, label.encode(), *what)


@dataclass(frozen=True)
class _Shared:
    """After its secrets were shared among the holders."""

    own: _Chosen
    holders: tuple[_Neighbor, ...] = field(repr=False)
    seed: bytes = field(repr=False)

    def accepted(self, delivery: ShareDelivery) -> _Accepted:
        """Verifies which holders took part, verifies the owners, and unseals their shares for this client."""
        stage = MaskedInput.stage
        owners = self._owners(delivery, stage=stage)
        return _Accepted(owners, self._took_part(delivery, owners, stage=stage))

    def mask(self, delivery: _Accepted, values: NDArray[np.uint32]) -> _Step:
        context, owners, took_part = self.own.cohort.round, delivery.owners, delivery.took_part
        if values.shape != (context.length,) or values.dtype != np.uint32 or int(values.max()) >> context.bits:
            raise SensitivityError(
                f"Expected an input of {context.length} ring integers of {context.bits} bits, got shape={values.shape}, "
                f"dtype={values.dtype} or a larger value. Encode it first."
            )
        total = values.copy()
        masks.add_mask(total, masks.own_mask_key(self.seed, self.own.cohort, self.own.index))
        for neighbor in {one.index: one for one in (*took_part, *(owner.neighbor for owner in owners))}.values():
            secret = self.own.mask_key.agree(neighbor.advertisement.mask_key, stage=MaskedInput.stage)
            key = masks.pair_mask_key(secret, self.own.cohort, self.own.index, neighbor.index)
            (masks.add_mask if self.own.index < neighbor.index else masks.subtract_mask)(total, key)
        total &= np.uint32((1 << context.bits) - 1)
        statements = tuple(self.own.statement(holder, _SHARES_A_MASK) for holder in took_part)
        reply = MaskedInput(statements, pack(total, context.bits))
        masked = _Masked(self.own, self.holders, frozenset(holder.index for holder in took_part), owners)
        return _Step(reply.to_bytes(), masked)

    def _owners(self, delivery: ShareDelivery, *, stage: str) -> tuple[_Owned, ...]:
        """Verifies the owners, and unseals their shares for this client."""
        largest = self.own.cohort.neighborhoods.largest_in_degree
        if len(delivery.owners) > largest:
            raise ProtocolViolation(
                f"{stage}: Expected at most {largest} clients that chose this one, got owners={len(delivery.owners)}. "
                "Draws were forged: drop the round."
            )
        indices = [owner.index for owner in delivery.owners]
        if any(later <= earlier for earlier, later in pairwise(indices)):
            raise ProtocolViolation(f"{stage}: Expected owners ascending by index, got another order. Send each once.")
        known = {holder.index: holder for holder in self.holders}
        owners = []
        for owner in delivery.owners:
            neighbor = known.get(owner.index)
            if neighbor is None or neighbor.advertisement != owner.member.advertisement:
                neighbor = self.own.neighbor(owner.index, owner.member, stage=stage)
            shares = _NO_SHARES
            with contextlib.suppress(ProtocolViolation):  # a corrupt owner must not stop its holders
                shares = keys.unseal(
                    self.own.key("shares", neighbor, sending=False),
                    owner.sealed,
                    associated=self.own.associated(neighbor, sending=False),
                    stage=stage,
                )
            owners.append(_Owned(neighbor, shares[: secret_sharing.SHARE_BYTES], shares[secret_sharing.SHARE_BYTES :]))
        return tuple(owners)

    def _took_part(self, delivery: ShareDelivery, owners: Sequence[_Owned], *, stage: str) -> tuple[_Neighbor, ...]:
        """The holders that took part; this client shares a mask with each."""
        if len(delivery.took_part) != len(self.holders):
            raise ProtocolViolation(
                f"{stage}: Expected a flag for each of {len(self.holders)} holders, got flags={len(delivery.took_part)}. "
                "Send them in the order of the choice."
            )
        took_part = tuple(holder for holder, flag in zip(self.holders, delivery.took_part, strict=True) if flag)
        absent = {holder.index for holder in self.holders} - {holder.index for holder in took_part}
        if absent & {owner.neighbor.index for owner in owners}:
            raise ProtocolViolation(
                f"{stage}: Expected every client whose shares came to have taken part, got one that did not. Drop the round."
            )
        _verify_enough(len(took_part), self.own.cohort.neighborhoods.threshold, "holders that took part", stage=stage)
        return took_part


@dataclass(frozen=True)
class _Owned:
    """What this client holds of an owner: a share of the seed of its own mask, and one of its mask key. (private)"""

    neighbor: _Neighbor = field(repr=False)
    of_seed: bytes = field(repr=False)
    of_key: bytes = field(repr=False)


@dataclass(frozen=True)
class _Accepted:
    """A verified delivery of shares: the owners whose shares this client holds, and the holders that took part."""

    owners: tuple[_Owned, ...] = field(repr=False)
    took_part: tuple[_Neighbor, ...] = field(repr=False)


@dataclass(frozen=True)
class _Masked:
    """After the one masked input was made; the seed of its own mask is gone, and its keys remain for statements."""

    own: _Chosen
    holders: tuple[_Neighbor, ...] = field(repr=False)
    took_part: frozenset[int] = field(repr=False)
    owners: tuple[_Owned, ...] = field(repr=False)

    def acknowledge(self, report: SurvivorReport) -> _Step:
        stage = report.stage
        if len(report.owners) != len(self.owners):
            raise ProtocolViolation(
                f"{stage}: Expected each of {len(self.owners)} owners as living or dropped out, got "
                f"owners={len(report.owners)}. Send them in the order of the delivery."
            )
        _verify_enough(report.num_survivors, self.own.cohort.round.min_survivors, "survivors", stage=stage)
        number = struct.pack(">I", report.num_survivors)
        living, statements = set(), []
        for owner, claimed in zip(self.owners, report.owners, strict=True):
            if claimed is None:
                continue
            try:
                self.own.verify_statement(owner.neighbor, claimed, _SHARES_A_MASK)
            except ProtocolViolation:  # a corrupt owner must not stop its holders: it counts as lost
                statements.append(secrets.token_bytes(keys.STATEMENT_BYTES))
                continue
            living.add(owner.neighbor.index)
            statements.append(self.own.statement(owner.neighbor, _COUNTS_AS_LIVING, number))
        return _Step(Acknowledgments(tuple(statements)).to_bytes(), _Acknowledged(self, frozenset(living), number))


@dataclass(frozen=True)
class _Acknowledged:
    """After the living owners were fixed."""

    masked: _Masked
    living: frozenset[int] = field(repr=False)
    num_survivors: bytes = field(repr=False)

    def open(self, delivery: AcknowledgmentDelivery) -> _Step:
        stage, own = OpenedShares.stage, self.masked.own
        if len(delivery.holders) != len(self.masked.holders):
            raise ProtocolViolation(
                f"{stage}: Expected a statement or none of each of {len(self.masked.holders)} holders, got "
                f"holders={len(delivery.holders)}. Send them in the order of the choice."
            )
        acknowledged = 0
        for holder, claimed in zip(self.masked.holders, delivery.holders, strict=True):
            if claimed is None or holder.index not in self.masked.took_part:
                continue
            # A corrupt holder must not stop a client with a false statement: such a statement is not counted.
            with contextlib.suppress(ProtocolViolation):
                own.verify_statement(holder, claimed, _COUNTS_AS_LIVING, self.num_survivors)
                acknowledged += 1
        _verify_enough(acknowledged, own.cohort.neighborhoods.threshold, "holders that count this client", stage=stage)
        shares = tuple(
            owner.of_seed if owner.neighbor.index in self.living else owner.of_key for owner in self.masked.owners
        )
        return _Step(OpenedShares(shares).to_bytes(), _Opened())


@dataclass(frozen=True)
class _Opened:
    """The end: the shares were given."""


def _verify_enough(count: int, needed: int, what: str, *, stage: str) -> None:
    if count < needed:
        raise CohortTooSmall(f"{stage}: Expected {what} >= {needed}, got {count}. Drop the round and ask again later.")
