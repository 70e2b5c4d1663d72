"""The server's side of a secure sum: it relays what clients say to each other, adds masked inputs, and removes the masks.

One method per stage. It takes the clients' messages by the caller's number of each client, and returns the messages to send,
by the same numbers. A client that misses a stage, or breaks the protocol, has dropped out: it is asked nothing more.

    announce -> introduce -> deliver -> report_survivors -> deliver_acknowledgments -> unmask

The sum is opened only if at least `min_survivors` inputs came and `threshold` holders answer for every secret that is
needed. Otherwise the round ends with an error, and every input stays masked. Each opened secret is checked against what its
owner published, so a wrong share never falsifies a sum. Wrong shares are left out as if their holders had dropped out,
while enough right ones are there: half of those to spare may be wrong, and all of these where there are few ways to choose.
Holders of wrong shares come last for the next secret, and nothing else follows: an owner may have dealt an honest holder a
wrong one. An owner that deals shares of nothing ends a round; `unopened` names it, so that it is left out of the next. Where
holders lie and others drop out, it names honest owners too; `masked_sum.py` bounds how many are left out. Any client can
shift the sum by what it sends: nothing here prevents that.

What never lives here: Flower, files, decoding. What a client checks: `client/masking.py`.

Source:
    Bonawitz et al. 2017; Bell et al. 2020 (see `client/masking.py`).
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from shared.errors import CohortTooSmall, ConfigError, ProtocolViolation, SecureAggregationError
from shared.secagg import masks, secret_sharing
from shared.secagg.context import CohortContext, RoundContext
from shared.secagg.keys import AgreementKey, Roster, verify_point
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
    Message,
    OpenedShares,
    Owner,
    SealedShares,
    ShareDelivery,
    SurvivorReport,
)
from shared.secagg.packing import packed_bytes, unpack

M = TypeVar("M", bound=Message)
S = TypeVar("S")
# So many ways to leave shares out are tried, a third of a millisecond each.
_MOST_CHOICES = 256


class _NoSecret(Exception):  # noqa: N818
    """No choice of the shares gives what their owner published."""


@dataclass(frozen=True)
class RingSum:
    """The result of a secure sum.

    Attributes:
        values: Shape (length,), the sum of the survivors' inputs modulo 2**bits, exactly.
        survivors: The clients whose inputs are in the sum, by the caller's numbers.
    """

    values: NDArray[np.uint32] = field(repr=False)
    survivors: tuple[int, ...]


class SecureSum:
    """One round of the protocol.

    Guarantee:
        What `unmask` returns is exactly the sum of the inputs of `survivors` in the ring, or it raises.

    Args:
        context: Of the round; public.
        roster: The identities that may take part.
        now: Seconds since 1970; keys that have expired by then are refused.

    Attributes:
        answered: Stage -> number of clients whose answer was accepted; the difference to the next stage dropped out between.
        mended: Secrets that were opened although a share of them was wrong.
        unopened: Clients, by the caller's numbers, whose secret no shares fitted although enough came. They dealt wrong
            ones, or more of their holders lie than was assumed.
    """

    def __init__(self, context: RoundContext, roster: Roster, *, now: int) -> None:
        self._context, self._roster, self._now = context, roster, now
        self.answered: dict[str, int] = {}
        self.mended = 0
        self.unopened: list[int] = []
        self._suspected: Counter[int] = Counter()
        self._stages = iter(("announce", "introduce", "deliver", "report_survivors", "deliver_acknowledgments", "unmask"))
        self._clients: list[int] = []
        self._index: dict[int, int] = {}
        self._members: list[Member] = []
        self._holders: dict[int, tuple[int, ...]] = {}
        self._sealed: dict[int, SealedShares] = {}
        self._owners: dict[int, list[int]] = defaultdict(list)
        self._statements: dict[int, dict[int, bytes]] = {}
        self._acknowledged: set[int] = set()
        self._total = np.zeros(context.length, dtype=np.uint32)
        self._cohort: CohortContext | None = None

    def announce(self, advertisements: Mapping[int, bytes]) -> dict[int, bytes]:
        """Takes `Advertisement`s, commits to them, and returns a `CohortAnnouncement` for each.

        Raises:
            CohortTooSmall: If fewer than `min_survivors` may take part, or no neighborhood is large enough for them.
        """
        self._begin("announce")
        found: dict[bytes, tuple[int, Advertisement]] = {}
        for client, message in self._read(Advertisement, advertisements):
            try:
                self._verify(message)
            except ProtocolViolation:
                continue
            found.setdefault(order_key(message.identity), (client, message))
        self._count(Advertisement, len(found))
        ordered = [(key, *found[key]) for key in sorted(found)]
        tree = CohortTree([key for key, _, _ in ordered], [message.to_bytes() for _, _, message in ordered])
        try:
            self._cohort = cohort = self._context.with_cohort(tree.root, len(ordered))
        except ConfigError as error:
            raise CohortTooSmall(f"{Advertisement.stage}: {error}") from None
        self._clients = [client for _, client, _ in ordered]
        self._index = {client: index for index, client in enumerate(self._clients)}
        self._members = [Member(message, tree.path(index)) for index, (_, _, message) in enumerate(ordered)]
        sizes, context = cohort.neighborhoods, self._context
        return {
            client: CohortAnnouncement(
                context.digest, tree.root, sizes.num_clients, sizes.degree, sizes.threshold,
                context.min_survivors, context.length, context.bits, index, self._members[index].path,
            ).to_bytes()
            for client, index in self._index.items()
        }  # fmt: skip

    def introduce(self, choices: Mapping[int, bytes]) -> dict[int, bytes]:
        """Takes `HolderChoice`s, returns `HolderAdvertisements`."""
        self._begin("introduce")
        degree, replies = self._known_cohort().neighborhoods.degree, {}
        for client, message in self._read(HolderChoice, choices):
            holders, own = message.holders, self._index[client]
            if len(holders) == degree and list(holders) == sorted(set(holders) - {own}) and holders[-1] < len(self._clients):
                self._holders[own] = holders
                replies[client] = HolderAdvertisements(tuple(self._members[holder] for holder in holders)).to_bytes()
        self._count(HolderChoice, len(replies))
        return replies

    def deliver(self, shares: Mapping[int, bytes]) -> dict[int, bytes]:
        """Takes `SealedShares`, returns a `ShareDelivery` for each client that sent them.

        Raises:
            CohortTooSmall: If fewer than `min_survivors` clients sent them.
        """
        self._begin("deliver")
        for client, message in self._read(SealedShares, shares):
            own = self._index[client]
            if own in self._holders and len(message.sealed) == len(self._holders[own]):
                self._sealed[own] = message
        self._count(SealedShares, len(self._sealed))
        addressed: dict[int, list[Owner]] = defaultdict(list)
        for owner in sorted(self._sealed):
            for holder, sealed in zip(self._holders[owner], self._sealed[owner].sealed, strict=True):
                if holder in self._sealed:
                    self._owners[holder].append(owner)
                    addressed[holder].append(Owner(owner, self._members[owner], sealed))
        return {
            self._clients[own]: ShareDelivery(
                tuple(holder in self._sealed for holder in self._holders[own]), tuple(addressed[own])
            ).to_bytes()
            for own in self._sealed
        }

    def report_survivors(self, inputs: Iterable[tuple[int, bytes]]) -> dict[int, bytes]:
        """Takes `MaskedInput`s one after another, so that none has to be kept, and returns `SurvivorReport`s.

        Raises:
            CohortTooSmall: If fewer than `min_survivors` clients sent one.
        """
        self._begin("report_survivors")
        context = self._context
        size = packed_bytes(context.length, context.bits)
        for client, message in self._read(MaskedInput, inputs):
            own = self._index[client]
            if own not in self._sealed or own in self._statements or len(message.packed) != size:
                continue
            took_part = [holder for holder in self._holders[own] if holder in self._sealed]
            if len(message.statements) == len(took_part):
                self._total += unpack(message.packed, length=context.length, bits=context.bits)
                self._statements[own] = dict(zip(took_part, message.statements, strict=True))
        self._count(MaskedInput, len(self._statements))
        return {
            self._clients[own]: SurvivorReport(
                len(self._statements),
                tuple(self._statements[owner][own] if owner in self._statements else None for owner in self._owners[own]),
            ).to_bytes()
            for own in self._statements
        }

    def deliver_acknowledgments(self, acknowledgments: Mapping[int, bytes]) -> dict[int, bytes]:
        """Takes `Acknowledgments`, returns an `AcknowledgmentDelivery` for each client that sent them."""
        self._begin("deliver_acknowledgments")
        addressed: dict[int, dict[int, bytes]] = defaultdict(dict)
        for client, message in self._read(Acknowledgments, acknowledgments):
            own = self._index[client]
            living = [owner for owner in self._owners[own] if owner in self._statements]
            if own in self._statements and len(message.statements) == len(living):
                self._acknowledged.add(own)
                for owner, statement in zip(living, message.statements, strict=True):
                    addressed[owner][own] = statement
        self._count(Acknowledgments, len(self._acknowledged), enough=0)
        return {
            self._clients[own]: AcknowledgmentDelivery(
                tuple(addressed[own].get(holder) for holder in self._holders[own])
            ).to_bytes()
            for own in self._acknowledged
        }

    def unmask(self, opened: Mapping[int, bytes]) -> RingSum:
        """Takes `OpenedShares`, removes all masks, and returns the sum.

        Raises:
            SecureAggregationError: If fewer than `threshold` shares of a needed secret came, or too many are wrong.
        """
        self._begin("unmask")
        shares: dict[int, list[tuple[int, bytes]]] = defaultdict(list)
        answered = 0
        for client, message in self._read(OpenedShares, opened):
            own = self._index[client]
            if own not in self._acknowledged or len(message.shares) != len(self._owners[own]):
                continue
            answered += 1
            for owner, share in zip(self._owners[own], message.shares, strict=True):
                shares[owner].append((self._holders[owner].index(own) + 1, share))
        self._count(OpenedShares, answered, enough=0)
        # All secrets are opened and checked before a mask is removed, so that a failure leaves every input masked.
        partners = {
            lost: living for lost in self._sealed if lost not in self._statements and (living := self._partners(lost))
        }
        seeds = self._each(self._statements, lambda own: self._seed(own, shares[own]))
        mask_keys = self._each(partners, lambda lost: self._mask_key(lost, shares[lost]))
        if self.unopened:
            raise SecureAggregationError(
                "Expected shares that give what their owner published, got others. Too many holders sent a wrong share, or "
                "their owner dealt none that fit: drop the round."
            )
        cohort, total = self._known_cohort(), self._total
        for own, seed in seeds.items():
            masks.subtract_mask(total, masks.own_mask_key(seed, cohort, own))
        for lost, mask_key in mask_keys.items():
            for other in partners[lost]:
                secret = mask_key.agree(self._members[other].advertisement.mask_key, stage=OpenedShares.stage)
                key = masks.pair_mask_key(secret, cohort, lost, other)
                (masks.subtract_mask if other < lost else masks.add_mask)(total, key)
        total &= np.uint32((1 << self._context.bits) - 1)
        return RingSum(total, tuple(self._clients[own] for own in sorted(self._statements)))

    def _partners(self, lost: int) -> list[int]:
        """The survivors that share a mask with the lost client: only the lost client would have cancelled it."""
        around = {*self._holders[lost], *self._owners[lost]}
        return sorted(around & self._statements.keys())

    def _each(self, owners: Iterable[int], opened: Callable[[int], S]) -> dict[int, S]:
        """The secrets of owners; `unopened` says which are missing."""
        found = {}
        for owner in owners:
            try:
                found[owner] = opened(owner)
            except _NoSecret:
                self.unopened.append(self._clients[owner])
        return found

    def _seed(self, own: int, shares: list[tuple[int, bytes]]) -> bytes:
        return self._combine(own, shares, lambda seed: self._is_seed_of(own, seed))

    def _is_seed_of(self, own: int, seed: bytes) -> bool:
        return masks.seed_commitment(seed, self._known_cohort(), own) == self._sealed[own].commitment

    def _mask_key(self, lost: int, shares: list[tuple[int, bytes]]) -> AgreementKey:
        published = self._members[lost].advertisement.mask_key
        return AgreementKey.from_secret(
            self._combine(lost, shares, lambda secret: AgreementKey.from_secret(secret).public == published)
        )

    def _combine(self, owner: int, shares: list[tuple[int, bytes]], is_right: Callable[[bytes], bool]) -> bytes:
        """The secret of an owner, of which each share is at a holder's place."""
        threshold = self._known_cohort().neighborhoods.threshold
        if len(shares) < threshold:
            raise SecureAggregationError(
                f"Expected shares >= {threshold} of every secret that is needed, got shares={len(shares)}. "
                "More holders dropped out than was assumed: drop the round."
            )
        holders = self._holders[owner]
        shares = sorted(shares, key=lambda share: self._suspected[holders[share[0] - 1]])
        for number, chosen in enumerate(_choices(shares, threshold)):
            with contextlib.suppress(SecureAggregationError):
                secret = secret_sharing.combine(*zip(*chosen[:threshold], strict=True))
                if is_right(secret):
                    self.mended += number > 0
                    self._suspected.update(holders[share[0] - 1] for share in shares if share not in chosen and number)
                    return secret
        raise _NoSecret

    def _verify(self, message: Advertisement) -> None:
        stage = message.stage
        verify_point(message.mask_key, stage=stage)
        verify_point(message.channel_key, stage=stage)
        signed = message.signed(self._context)
        self._roster.verify(message.identity, message.signature, signed, now=self._now, stage=stage)

    def _begin(self, stage: str) -> None:
        expected = next(self._stages, "nothing")
        if stage != expected:
            raise ProtocolViolation(f"{stage}: Expected the stages in their order, next {expected}. Start a new round.")

    def _read(self, kind: type[M], messages: Mapping[int, bytes] | Iterable[tuple[int, bytes]]) -> Iterable[tuple[int, M]]:
        """The well-formed messages of the cohort's clients; the other clients have dropped out."""
        for client, data in messages.items() if isinstance(messages, Mapping) else messages:
            if self._cohort is not None and client not in self._index:
                continue
            try:
                yield client, kind.from_bytes(data)
            except ProtocolViolation:
                continue

    def _count(self, kind: type[Message], count: int, *, enough: int | None = None) -> None:
        self.answered[kind.stage] = count
        needed = self._context.min_survivors if enough is None else enough
        if count < needed:
            raise CohortTooSmall(
                f"{kind.stage}: Expected clients >= {needed}, got {count}. The round was dropped and nothing was opened."
            )

    def _known_cohort(self) -> CohortContext:
        if self._cohort is None:
            raise ProtocolViolation("Expected announce first, got another stage. Start a new round.")
        return self._cohort


def _choices(shares: list[tuple[int, bytes]], threshold: int) -> Iterator[list[tuple[int, bytes]]]:
    """Shares that may all be right: the first ones, then those on one polynomial, then any where these are few."""
    yield shares[:threshold]
    right = secret_sharing.right_shares(*zip(*shares, strict=True), threshold=threshold)
    if right is not None:
        yield [shares[index] for index in right]
    if math.comb(len(shares), threshold) <= _MOST_CHOICES:
        yield from map(list, itertools.combinations(shares, threshold))
