"""What noise costs a client: integer noise for secure aggregation, against continuous noise, on the same update.

Discrete is all that is done to an update between training and the sum's end: clip, rotate, round, a whole share of Skellam
noise, one modular addition, and the server's rotation back. Continuous is clipping and Gaussian noise. Both draw from the
system's CSPRNG. The table of the Skellam distribution is made once a process and is timed apart.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from client.contribution import bounded
from shared.randomness import secret_source
from shared.secagg.encoding import Bounded, RingEncoding
from simulations.benchmarks.timing import Spread, compare, options, seconds, show

_DISCRETE_TARGET_MS = 50.0
_CONTINUOUS_TARGET_MS = 30.0
_CLIP_NORM = 0.1


def main() -> None:
    """Measures and prints."""
    parser = options(__doc__, repeats=25)
    parser.add_argument("--parameters", type=int, default=131_072, help="size of the update (default 131072)")
    parser.add_argument("--noise-multiplier", type=float, default=5.0, help="of the sum (default 5)")
    parser.add_argument("--clients", type=int, default=100, help="updates in a sum (default 100)")
    parser.add_argument("--shares", type=int, default=1, help="clients that the noise is shared among (default 1: the most)")
    chosen = parser.parse_args()
    source = secret_source()
    update = np.random.default_rng(0).normal(size=chosen.parameters).astype(np.float32)
    encoding = RingEncoding.choose(
        size=chosen.parameters,
        l2_bound=_CLIP_NORM,
        noise_multiplier=chosen.noise_multiplier,
        num_summands=chosen.clients,
        seed=0,
    )
    stddev, share = chosen.noise_multiplier * _CLIP_NORM, 1 / chosen.shares
    table_seconds = seconds(lambda: encoding.noise(source, share=share))

    def clip() -> Bounded:
        return bounded(update[np.newaxis], l2_bound=_CLIP_NORM)

    def encode() -> NDArray[np.uint32]:
        return encoding.encode_rows(clip(), [source]).reshape(-1)

    ring = encode()

    def discrete() -> None:
        encoding.decode(encoding.add(encode(), encoding.noise(source, share=share)))

    def continuous() -> None:
        clip().rows[0] + source.gaussian(chosen.parameters, stddev=stddev)

    def milliseconds(call: Callable[[], object]) -> str:
        return f"{Spread.of([1000 * seconds(call) for _ in range(chosen.repeats)])} ms"

    comparison = compare(discrete, continuous, repeats=chosen.repeats, per=1 / 1000, unit="ms an update")
    show(
        "noise_cost",
        comparison,
        a="discrete",
        b="continuous",
        target=None,
        as_json=chosen.json,
        discrete_target_ms=_DISCRETE_TARGET_MS,
        continuous_target_ms=_CONTINUOUS_TARGET_MS,
        clip=milliseconds(clip),
        encode=milliseconds(encode),
        skellam=milliseconds(lambda: encoding.noise(source, share=share)),
        decode=milliseconds(lambda: encoding.decode(ring)),
        pack=milliseconds(lambda: encoding.pack(ring)),
        first_skellam_seconds=round(table_seconds, 2),
        parameters=chosen.parameters,
        ring_bits=encoding.bits,
        packed_bytes=encoding.packed_bytes,
        noise_steps=round((share * encoding.noise_variance) ** 0.5),
    )


if __name__ == "__main__":
    main()
