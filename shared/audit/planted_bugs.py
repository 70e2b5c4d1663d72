"""Which probe finds which bug, and with what power in an audit of this size: numbers that follow from the evidence.

A bug is planted in one release at a time; its power is given where it shows most and where it shows least, because whoever
reads a report does not know where a bug would be. What whole audits of runs with planted bugs found: SECURITY.md.

What never lives here: the probes (`judgment.py`).
"""

from __future__ import annotations

import math

from scipy import stats

from shared.audit.document import CanaryClass, Evidence, PlantedBug, ReleaseRead
from shared.audit.noise_probe import power_of_noise_probe
from shared.audit.sampling import SamplingDesign, power_of_sampling_probe

# What a contribution may exceed its bound by: rounding to integers leaves room for a thousandth (`secagg/encoding.py`).
ROOM = 1.002
# On fewer directions noise is not measured: half of it would not be found, and an estimate takes it as it is claimed.
FEWEST_SAMPLES = 15
_LESS, _MORE, _LONG = "less noise than claimed", "a user counts more than once", "a long history is not bounded"
_TWICE, _BESIDE, _COINS = "noise is used twice", "a field beside the contribution", "cohorts vary too little"


def planted_bugs(evidence: Evidence, designs: tuple[SamplingDesign, ...], *, level: float) -> tuple[PlantedBug, ...]:
    """The table of bugs.

    Args:
        evidence: What was read.
        designs: Of the draws that were read.
        level: What each probe may be wrong with.

    Returns:
        One row a bug, whether or not a release was read in which it could be.
    """
    noised = [read for read in evidence.releases if read.noise_stddev > 0.0 and read.samples >= FEWEST_SAMPLES]
    short = [read.short for read in evidence.releases if read.short is not None]
    long = [read.long for read in evidence.releases if read.long is not None]
    rows: list[tuple[str, str, list[float]]] = [
        ("no noise", _LESS, [_of_noise(read, 0.0, level) for read in noised]),
        ("half of the noise", _LESS, [_of_noise(read, 0.5, level) for read in noised]),
        ("nine tenths of the noise", _LESS, [_of_noise(read, 0.9, level) for read in noised]),
        ("the same noise each time", _TWICE, [_of_products(one.products, level) for one in evidence.independence]),
        ("users counted twice", _MORE, [_of_length(kind, 2.0, level) for kind in short]),
        ("a weighted mean, weights up to 1.4", _MORE, [_of_length(kind, 1.4, level) for kind in short]),
        ("no bound, a history ten times as long", _LONG, [_of_length(kind, 10.0, level) for kind in long]),
        ("a value beside the sums", _BESIDE, [1.0] if evidence.releases else []),
        (
            "cohorts of a fixed size accounted as independent coins",
            _COINS,
            [power_of_sampling_probe(design, level=level) for design in designs],
        ),
    ]
    return tuple(
        PlantedBug(bug=bug, probe=probe, least=min(powers, default=None), most=max(powers, default=None))
        for bug, probe, powers in rows
    )


def _of_noise(read: ReleaseRead, ratio: float, level: float) -> float:
    return power_of_noise_probe(read.samples, ratio=ratio, level=level)


def _of_products(products: int, level: float) -> float:
    """Where both noises are alike the sum of their products is the root of its number times its standard error, always."""
    return float(math.sqrt(products) > stats.norm.isf(level / 2.0))


def _of_length(kind: CanaryClass, length: float, level: float) -> float:
    """Canaries that are in so many times, read with the error of their class."""
    error = kind.error * kind.norm
    return 1.0 if error <= 0.0 else float(stats.norm.sf(stats.norm.isf(level) - (length * kind.norm - ROOM) / error))
