"""What an epsilon costs in time: over a long history of releases for the first time, against asking again.

The history has ten thousand releases of ten kinds. For the first time means that nothing about its noise is remembered:
every turn takes multipliers that have not been seen. Beside it one calibration of the noise is timed, not seen before
either: of Gaussian noise in silos, and of Skellam noise in sums over sampled clients.
"""

from __future__ import annotations

from itertools import count

from shared.privacy.accounting import calibrate, epsilon
from shared.privacy.events import Event
from simulations.benchmarks.timing import Spread, compare, options, seconds, show

_TARGET_SECONDS = 5.0
_DELTA = 1e-5
# Too little to change an epsilon, and enough that nothing is remembered.
_NUDGE = 1e-7


def main() -> None:
    """Measures and prints."""
    parser = options(__doc__, repeats=5)
    parser.add_argument("--releases", type=int, default=10_000, help="releases in the history (default 10000)")
    parser.add_argument("--kinds", type=int, default=10, help="kinds among them (default 10)")
    chosen = parser.parse_args()
    turns = count(1)

    def history(turn: int) -> list[Event]:
        kinds = [Event(0.8 + 0.1 * kind + turn * _NUDGE, 0.01 * (1 + kind)) for kind in range(chosen.kinds)]
        return kinds * int(chosen.releases // chosen.kinds)

    known = history(0)
    comparison = compare(
        lambda: epsilon(history(next(turns)), delta=_DELTA),
        lambda: epsilon(known, delta=_DELTA),
        repeats=chosen.repeats,
    )
    silo = Spread.of([seconds(lambda: _calibrate_silo(next(turns))) for _ in range(chosen.repeats)])
    sums = Spread.of([seconds(lambda: _calibrate_sums(next(turns))) for _ in range(chosen.repeats)])
    show(
        "accounting_cost",
        comparison,
        a="first time",
        b="again",
        target=None,
        as_json=chosen.json,
        target_seconds=_TARGET_SECONDS,
        calibration_of_silo_noise_seconds=silo.median if chosen.json else f"{silo} s",
        calibration_of_skellam_noise_seconds=sums.median if chosen.json else f"{sums} s",
        releases=len(known),
        kinds=chosen.kinds,
        epsilon=round(epsilon(known, delta=_DELTA), 3),
    )


def _calibrate_silo(turn: int) -> None:
    def events(multiplier: float) -> list[Event]:
        return [Event(multiplier + turn * _NUDGE, 0.12, 240), Event(3.0)]

    calibrate(events, target_epsilon=8.0, delta=_DELTA)


def _calibrate_sums(turn: int) -> None:
    def events(multiplier: float) -> list[Event]:
        return [Event(multiplier + turn * _NUDGE, 0.0166, 300, "skellam", l2_sensitivity=1e4)]

    calibrate(events, target_epsilon=8.0, delta=_DELTA)


if __name__ == "__main__":
    main()
