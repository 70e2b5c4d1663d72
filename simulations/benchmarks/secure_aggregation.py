"""What a secure sum costs: processor time of one core for a client by stage and for the server, and a client's bytes.

The client takes part in a whole round of a complete graph, so it has `--degree` neighbors, each of them holder and owner. In
a larger cohort, where clients draw k holders, it has k holders and up to 2 k neighbors. The server's clients are stand-ins:
what the server checks and opens is real (signed keys, shares of committed secrets); it relays zeros, and adds one random
vector again and again. Inputs count as encoded and noised already: see `noise_cost`. `tests/server/test_unmasking.py` tests
that sums are exact.
"""

from __future__ import annotations

import functools
import hashlib
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.masking import MaskingSession
from server.unmasking import SecureSum
from shared.errors import ConfigError
from shared.secagg import keys, masks, secret_sharing
from shared.secagg.context import RoundContext
from shared.secagg.identities import Credentials
from shared.secagg.keys import AgreementKey, Roster, RosterEntry
from shared.secagg.messages import (
    SEALED_BYTES,
    Acknowledgments,
    Advertisement,
    CohortAnnouncement,
    HolderChoice,
    MaskedInput,
    OpenedShares,
    SealedShares,
    ShareDelivery,
    SurvivorReport,
)
from shared.secagg.packing import packed_bytes
from shared.secagg.parameters import LARGEST_COHORT, Assumptions, Neighborhoods
from simulations.benchmarks.timing import Spread, options

_CLIENT_TARGET_MS = 15.0
_SERVER_TARGET_SECONDS = 5.0
_NOW = 0

T = TypeVar("T")


def main() -> None:
    """Measures and prints."""
    parser = options(__doc__, repeats=9)
    parser.add_argument("--values", type=int, default=100_000, help="values of an input (default 100000)")
    parser.add_argument("--bits", type=int, default=20, help="bits of the ring (default 20)")
    parser.add_argument("--degree", type=int, default=50, help="holders of a client, both parts (default 50)")
    parser.add_argument("--clients", type=int, default=1000, help="of the server; 0 leaves the server out (default 1000)")
    parser.add_argument("--drop-outs", type=float, default=0.1, help="part of them that sends no input (default 0.1)")
    chosen = parser.parse_args()
    record: dict[str, Any] = {
        "benchmark": "secure_aggregation", "values": chosen.values, "bits": chosen.bits, "degree": chosen.degree,
        "client_target_ms": _CLIENT_TARGET_MS, "server_target_seconds": _SERVER_TARGET_SECONDS,
        "primitives_us": _primitives(chosen.values, chosen.repeats),
        "client_keys_masks_shares_ms": asdict(_parts(chosen.degree, chosen.values, chosen.bits, chosen.repeats)),
        **_client(chosen.degree, chosen.values, chosen.bits, chosen.repeats),
    }  # fmt: skip
    if chosen.clients:
        record |= _server(chosen.clients, chosen.degree, chosen.values, chosen.bits, chosen.drop_outs)
    if chosen.json:
        print(json.dumps(record))
        return
    for key, value in record.items():
        print(f"{key}: {value}")


class _Timed:
    """Adds up processor seconds by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def call(self, name: str, call: Callable[[], T]) -> T:
        start = time.process_time()
        result = call()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - start
        return result


def _context(assumptions: Assumptions, values: int, bits: int) -> RoundContext:
    return RoundContext("benchmark", 1, "update", bytes(32), bytes(32), assumptions, 2, values, bits)


def _identities(count: int) -> tuple[list[tuple[bytes, Ed25519PrivateKey]], Roster]:
    made = [(hashlib.sha256(b"%d" % number).digest()[:16], Ed25519PrivateKey.generate()) for number in range(count)]
    return made, Roster({name: RosterEntry(key.public_key().public_bytes_raw(), _NOW) for name, key in made})


def _primitives(values: int, repeats: int) -> dict[str, float]:
    """The calls that take most of the time, in microseconds each: they show how fast the machine is now."""
    key, other, signing, total = (
        AgreementKey.generate(), AgreementKey.generate(), Ed25519PrivateKey.generate(), np.zeros(values, dtype=np.uint32)
    )  # fmt: skip
    signature, public = signing.sign(b"message"), signing.public_key()
    calls: dict[str, Callable[[], object]] = {
        "x25519": lambda: key.agree(other.public, stage="benchmark"),
        "ed25519_verify": lambda: public.verify(signature, b"message"),
        "mask": lambda: masks.add_mask(total, key.secret),
    }
    found = {}
    for name, call in calls.items():
        start = time.process_time()
        for _ in range(20 * repeats):
            call()
        found[name] = round(1e6 * (time.process_time() - start) / (20 * repeats), 1)
    return found


def _parts(degree: int, values: int, bits: int, repeats: int) -> Spread:
    """Keys, masks and shares alone, without messages, proofs and the neighbors' signatures, in ms."""
    cohort = _context(Assumptions(0.0, 0.0), values, bits).with_cohort(bytes(32), degree + 1)
    others = [AgreementKey.generate() for _ in range(degree)]

    def once() -> None:
        mask_key, channel_key, total = AgreementKey.generate(), AgreementKey.generate(), np.zeros(values, dtype=np.uint32)
        seed = secrets.token_bytes(32)
        split = [secret_sharing.split(secret, threshold=degree // 2 + 1, count=degree) for secret in (seed, mask_key.secret)]
        masks.add_mask(total, masks.own_mask_key(seed, cohort, 0))
        for index, (other, *pair) in enumerate(zip(others, *split, strict=True), start=1):
            channel = channel_key.agree(other.public, stage="benchmark")
            for sender, receiver in ((0, index), (index, 0)):  # the message it seals, and the one it unseals
                key = keys.derive_key(channel, "shares", context=cohort.digest, sender=sender, receiver=receiver)
                keys.seal(key, b"".join(pair), associated=cohort.digest)
            secret = mask_key.agree(other.public, stage="benchmark")
            masks.add_mask(total, masks.pair_mask_key(secret, cohort, 0, index))

    clocks = [_Timed() for _ in range(repeats + 1)]
    for clock in clocks:
        clock.call("once", once)
    return Spread.of([1000 * clock.seconds["once"] for clock in clocks[1:]])


def _client(degree: int, values: int, bits: int, repeats: int) -> dict[str, Any]:
    """A whole round of a complete graph. Each client's stages are timed; the last `repeats` clients count."""
    count, lost = degree + 1, (degree + 1) // 3
    # With one more corrupt client no neighborhood would be large enough, so the complete graph is the only one.
    assumptions = Assumptions((count - 2 - lost) / count, lost / count, "curious")
    if Neighborhoods.derive(count, assumptions).degree != degree:
        raise ConfigError(f"Expected a degree with a complete graph, got degree={degree}. Use another.")
    context = _context(assumptions, values, bits)
    identities, roster = _identities(count)
    server = SecureSum(context, roster, now=_NOW)
    vector = np.random.default_rng(0).integers(0, 2**bits, values, dtype=np.uint32)
    times = [_Timed() for _ in range(count)]
    sessions = [
        clock.call("advertise", lambda name=name, key=key: MaskingSession(  # type: ignore[misc]
            context, Credentials(name, key, roster), now=_NOW))
        for clock, (name, key) in zip(times, identities, strict=True)
    ]  # fmt: skip
    stages: tuple[tuple[str, Callable[[MaskingSession, bytes], bytes], Callable[[Any], Any]], ...] = (
        ("advertise", lambda one, _: one.advertise(), server.announce),
        ("choose", lambda one, asked: one.choose_holders(asked), server.introduce),
        ("share", lambda one, asked: one.share(asked), server.deliver),
        ("mask", lambda one, asked: one.mask(asked, vector), lambda sent: server.report_survivors(sent.items())),
        ("acknowledge", lambda one, asked: one.acknowledge(asked), server.deliver_acknowledgments),
        ("open", lambda one, asked: one.open_shares(asked), server.unmask),
    )
    told, sent_bytes, received_bytes = dict.fromkeys(range(count), b""), {}, {}
    for name, answer, serve in stages:
        sent = {
            client: times[client].call(name, functools.partial(answer, sessions[client], told[client])) for client in told
        }
        sent_bytes[name], received_bytes[name] = len(sent[0]), len(told[0])
        result = serve(sent)
        told = result if isinstance(result, dict) else {}
    warm = times[-repeats:]  # the first ones fill the caches
    return {
        "client_ms": asdict(Spread.of([1000 * sum(clock.seconds.values()) for clock in warm])),
        "client_stage_ms": {
            name: round(Spread.of([1000 * clock.seconds[name] for clock in warm]).median, 3) for name, _, _ in stages
        },
        "repeats": len(warm),
        "client_neighbors": degree,
        "upload_bytes": sent_bytes,
        "download_bytes": received_bytes,
        "upload_over_vector": round(sum(sent_bytes.values()) / packed_bytes(values, bits), 4),
    }


@dataclass(frozen=True)
class _StandIn:
    """A client of the server: real secrets, no checks."""

    advertisement: Advertisement
    mask_key: AgreementKey
    seed: bytes = field(default_factory=lambda: secrets.token_bytes(32))

    @classmethod
    def sign(cls, context: RoundContext, identity: bytes, key: Ed25519PrivateKey) -> _StandIn:
        mask_key = AgreementKey.generate()
        unsigned = Advertisement(identity, mask_key.public, AgreementKey.generate().public, b"")
        signature = key.sign(unsigned.signed(context))
        return cls(Advertisement(identity, unsigned.mask_key, unsigned.channel_key, signature), mask_key)


def _assumptions_of_degree(clients: int, degree: int, drop_outs: float) -> Assumptions:
    """Those with the fewest corrupt clients for which each client draws `degree` holders or more."""
    for corrupt in range(clients):
        assumptions = Assumptions(corrupt / clients, drop_outs, "curious")
        found = Neighborhoods.derive(clients, assumptions).degree
        if found >= degree:
            return assumptions
    raise ConfigError(f"Expected degree < clients, got degree={degree}, clients={clients}. Use more clients.")


def _server(clients: int, degree: int, values: int, bits: int, drop_outs: float) -> dict[str, Any]:
    if not 3 <= clients <= LARGEST_COHORT:
        raise ConfigError(
            f"Expected clients in [3, {LARGEST_COHORT}], got clients={clients}. Use 0 to leave the server out."
        )
    assumptions = _assumptions_of_degree(clients, degree, drop_outs)
    context, sizes = _context(assumptions, values, bits), Neighborhoods.derive(clients, assumptions)
    identities, roster = _identities(clients)
    stand_ins = [_StandIn.sign(context, *identity) for identity in identities]
    server, clock = SecureSum(context, roster, now=_NOW), _Timed()
    advertised = {client: one.advertisement.to_bytes() for client, one in enumerate(stand_ins)}
    announced = clock.call("announce", lambda: server.announce(advertised))
    announcements = {client: CohortAnnouncement.from_bytes(told) for client, told in announced.items()}
    index = {client: told.index for client, told in announcements.items()}
    cohort = context.with_cohort(announcements[0].root, clients)
    chosen, shares = {}, {}
    for client, one in enumerate(stand_ins):
        drawn = secrets.SystemRandom().sample(range(clients - 1), sizes.degree)
        chosen[client] = tuple(sorted(place + (place >= index[client]) for place in drawn))
        split = {"threshold": sizes.threshold, "count": sizes.degree}
        shares[index[client]] = [secret_sharing.split(secret, **split) for secret in (one.seed, one.mask_key.secret)]
    holders = {index[client]: drawn for client, drawn in chosen.items()}
    choices = {client: HolderChoice(drawn).to_bytes() for client, drawn in chosen.items()}
    clock.call("introduce", lambda: server.introduce(choices))
    sealed = {
        client: SealedShares(
            masks.seed_commitment(one.seed, cohort, index[client]), (bytes(SEALED_BYTES),) * sizes.degree
        ).to_bytes()
        for client, one in enumerate(stand_ins)
    }
    delivered = clock.call("deliver", lambda: server.deliver(sealed))
    masked = MaskedInput((bytes(16),) * sizes.degree, secrets.token_bytes(packed_bytes(values, bits))).to_bytes()
    survivors = range(round(clients * drop_outs), clients)
    reported = clock.call("report_survivors", lambda: server.report_survivors((client, masked) for client in survivors))
    acknowledged, opened = {}, {}
    for client in survivors:
        owners = [owner.index for owner in ShareDelivery.from_bytes(delivered[client]).owners]
        living = SurvivorReport.from_bytes(reported[client]).owners
        acknowledged[client] = Acknowledgments((bytes(16),) * sum(one is not None for one in living)).to_bytes()
        opened[client] = OpenedShares(tuple(
            shares[owner][state is None][holders[owner].index(index[client])]
            for owner, state in zip(owners, living, strict=True)
        )).to_bytes()  # fmt: skip
    clock.call("deliver_acknowledgments", lambda: server.deliver_acknowledgments(acknowledged))
    result = clock.call("unmask", lambda: server.unmask(opened))
    return {
        "server_seconds": round(sum(clock.seconds.values()), 3),
        "server_stage_seconds": {name: round(seconds, 3) for name, seconds in clock.seconds.items()},
        "server_clients": clients,
        "server_survivors": len(result.survivors),
        "server_degree": sizes.degree,
        "server_threshold": sizes.threshold,
        "server_mean_neighbors": round(sizes.degree * (2 - sizes.degree / (clients - 1)), 1),
    }


if __name__ == "__main__":
    main()
