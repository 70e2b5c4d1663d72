"""A client of a secure sum here against one of Flower's SecAgg+ (its legacy path), with the same vector.

Processor time of one client over all stages, in turns within one process. Here a client clips, rotates, rounds, draws its
exact share of Skellam noise, masks and opens shares (`client/masking.py`). Flower's client clips, quantizes, masks and opens
shares; it adds no noise. Flower's client is in a complete graph and has `--neighbors` neighbors. Ours draws that many
holders (or a few more) from a larger cohort, so it has more neighbors: with 50 holders about 68. Flower's client lacks the
following, and its time does not contain it: signed keys, a threshold of its own, a cohort that all see alike, drop-outs
before the masked input, seeds above 32 bits.

What never lives here: speed of a server, or of messages.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from flwr.app import ConfigRecord
from flwr.client.mod.secure_aggregation.secaggplus_mod import (
    SecAggPlusState,
    _collect_masked_vectors,
    _setup,
    _share_keys,
    _unmask,
)
from flwr.common import ndarrays_to_parameters
from flwr.common.secure_aggregation.secaggplus_constants import Key
from numpy.typing import NDArray

from client.contribution import bounded
from client.masking import MaskingSession
from server.unmasking import SecureSum
from shared.randomness import secret_source
from shared.secagg.context import RoundContext
from shared.secagg.encoding import RingEncoding
from shared.secagg.identities import Credentials, generate
from shared.secagg.keys import Roster
from shared.secagg.parameters import Assumptions, Neighborhoods
from simulations.benchmarks.timing import Comparison, Spread, options, show

_NOW = 0
# Ours at most a tenth of Flower's.
_TARGET = 0.1


def main() -> None:
    """Measures and prints."""
    parser = options(__doc__, repeats=5)
    parser.add_argument("--values", type=int, default=100_000, help="values of an input (default 100000)")
    parser.add_argument("--neighbors", type=int, default=50, help="of Flower's client; holders of ours (default 50)")
    chosen = parser.parse_args()
    vector = np.random.default_rng(0).normal(size=chosen.values).astype(np.float32)
    vector /= np.linalg.norm(vector)
    ours, theirs = [], []
    for turn in range(chosen.repeats + 1):
        pair = {"a": _ours, "b": _theirs} if turn % 2 else {"b": _theirs, "a": _ours}
        times = {name: one(vector, chosen.neighbors) for name, one in pair.items()}
        if turn:  # the first turn fills the caches
            ours.append(times["a"])
            theirs.append(times["b"])
    comparison = Comparison(
        Spread.of(ours),
        Spread.of(theirs),
        Spread.of([a / b for a, b in zip(ours, theirs, strict=True)]),
        chosen.repeats,
        "ms of processor time",
    )
    show(
        "against_secaggplus",
        comparison,
        a="a client here, clipping, encoding and noise included",
        b="a client of Flower's SecAgg+",
        target=_TARGET,
        as_json=chosen.json,
        values=chosen.values,
        neighbors=chosen.neighbors,
    )


class _Clock:
    """Processor time of some calls, in ms."""

    def __init__(self) -> None:
        self.spent = 0.0

    def call(self, call: Callable[[], Any]) -> Any:
        start = time.process_time()
        result = call()
        self.spent += 1000 * (time.process_time() - start)
        return result


def _ours(vector: NDArray[np.float32], neighbors: int) -> float:
    """Processor time of the first client over a whole round, in ms; the others only do what it needs."""
    assumptions = Assumptions(1 / 3, 0.3, "curious")
    count = neighbors + 1
    while Neighborhoods.derive(count, assumptions).degree < neighbors:
        count += 1
    encoding = RingEncoding.choose(size=len(vector), l2_bound=1.0, noise_multiplier=1.0, num_summands=count, seed=0)
    context = RoundContext("benchmark", 1, "update", bytes(32), bytes(32), assumptions, 2, encoding.dimension, encoding.bits)
    made = [generate(valid_until=_NOW) for _ in range(count)]
    roster = Roster({identity: entry for identity, _, entry in made})
    server, clock, source = SecureSum(context, roster, now=_NOW), _Clock(), secret_source()
    credentials = [Credentials(identity, key, roster) for identity, key, _ in made]
    sessions = [clock.call(lambda: MaskingSession(context, credentials[0], now=_NOW))]
    sessions += [MaskingSession(context, own, now=_NOW) for own in credentials[1:]]
    zeros = np.zeros(encoding.dimension, dtype=np.uint32)

    def contribution() -> NDArray[np.uint32]:
        (ring,) = encoding.encode_rows(bounded(vector[np.newaxis], l2_bound=1.0), [source])
        return encoding.add(ring, encoding.noise(source, share=1 / count))

    def stage(answer: Callable[[MaskingSession, bytes], bytes], told: dict[int, bytes]) -> dict[int, bytes]:
        first = clock.call(lambda: answer(sessions[0], told[0]))
        return {0: first, **{number: answer(sessions[number], told[number]) for number in told if number}}

    told = dict.fromkeys(range(count), b"")
    told = server.announce(stage(lambda one, _: one.advertise(), told))
    told = server.introduce(stage(MaskingSession.choose_holders, told))
    told = server.deliver(stage(MaskingSession.share, told))
    values = clock.call(contribution)
    sent = stage(lambda one, asked: one.mask(asked, values if one is sessions[0] else zeros), told)
    told = server.report_survivors(sent.items())
    told = server.deliver_acknowledgments(stage(MaskingSession.acknowledge, told))
    server.unmask(stage(MaskingSession.open_shares, told))
    return clock.spent


def _theirs(vector: NDArray[np.float32], neighbors: int) -> float:
    """Processor time of the first client over its four stages, in ms; the others only do what it needs."""
    count = neighbors + 1
    settings = ConfigRecord({
        Key.SAMPLE_NUMBER: count, Key.SHARE_NUMBER: count, Key.THRESHOLD: count // 2 + 1, Key.CLIPPING_RANGE: 1.0,
        Key.TARGET_RANGE: 2**14, Key.MOD_RANGE: 2**32, Key.MAX_WEIGHT: 1.0,
    })  # fmt: skip
    clock = _Clock()
    states = [SecAggPlusState(nid=number) for number in range(1, count + 1)]
    # The first one's stages are timed; every stage of the others is needed, too.
    keys = {1: clock.call(lambda: _setup(states[0], settings))}
    keys |= {state.nid: _setup(state, settings) for state in states[1:]}
    table = ConfigRecord({str(nid): [found[Key.PUBLIC_KEY_1], found[Key.PUBLIC_KEY_2]] for nid, found in keys.items()})
    shared = {1: clock.call(lambda: _share_keys(states[0], table))}
    shared |= {state.nid: _share_keys(state, table) for state in states[1:]}
    sources, ciphertexts = [], []
    for nid, found in shared.items():
        for receiver, ciphertext in zip(found[Key.DESTINATION_LIST], found[Key.CIPHERTEXT_LIST], strict=True):
            if receiver == 1:
                sources.append(nid)
                ciphertexts.append(ciphertext)
    delivered = ConfigRecord({Key.SOURCE_LIST: sources, Key.CIPHERTEXT_LIST: ciphertexts})
    parameters = ndarrays_to_parameters([vector])
    clock.call(lambda: _collect_masked_vectors(states[0], delivered, 1, parameters))
    living = ConfigRecord({Key.ACTIVE_NODE_ID_LIST: list(range(1, count + 1)), Key.DEAD_NODE_ID_LIST: []})
    clock.call(lambda: _unmask(states[0], living))
    return clock.spent


if __name__ == "__main__":
    main()
