"""`Event`: one kind of release and how often it happened. What a ledger stores and an accountant composes.

An event says what was done to the data, never what it cost: an epsilon follows from all events together, the neighboring
relation and delta. What never lives here: epsilons (`accounting.py`), the choice of noise (`plan.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

Mechanism = Literal["gaussian", "skellam"]
Sampling = Literal["poisson", "truncated-poisson", "fixed-size"]
SampledBy = Literal["device", "server"]
Relation = Literal["add-or-remove-one", "zero-out", "replace-one"]


@dataclass(frozen=True, order=True)
class Event:
    """`steps` noised releases of a sum to which one unit (a user, or a window) contributes a bounded vector.

    Attributes:
        noise_multiplier: Standard deviation of the noise over the L2 bound of one unit's contribution, > 0. Under
            replace-one the accountant doubles the sensitivity itself.
        sampling_rate: Probability that a unit is in one release, in (0, 1]; 1 means that all are in all releases.
        steps: Number of releases, >= 1.
        mechanism: Distribution of the noise.
        sampling: How units are drawn where sampling_rate < 1. `fixed-size` is recorded so that it can be refused.
        sampled_by: Who draws. `device`: the device draws among its own users, and nobody else learns whom. `server`: the
            server draws clients, so that it, and whoever it tells, knows who took part.
        population: Units that a capped or fixed-size sample is drawn from; 0 elsewhere.
        sample_cap: Largest (truncated) or exact (fixed-size) number of units in a sample; 0 elsewhere.
        l2_sensitivity: Skellam noise only: the L2 bound of one unit's contribution in integer steps of the ring, or fewer; a
            contribution has at most (steps / FINENESS)**4 coordinates (`shared/secagg/encoding.py`).
    """

    noise_multiplier: float
    sampling_rate: float = 1.0
    steps: int = 1
    mechanism: Mechanism = "gaussian"
    sampling: Sampling = "poisson"
    sampled_by: SampledBy = "device"
    population: int = 0
    sample_cap: int = 0
    l2_sensitivity: float = 0.0

    def with_known_participation(self) -> Event:
        """The same release for somebody who knows which clients took part: sampling by the server hides nothing."""
        if self.sampled_by == "device":
            return self
        return replace(self, sampling_rate=1.0, sampling="poisson", sampled_by="device", population=0, sample_cap=0)


def with_known_participation(events: Iterable[Event]) -> list[Event]:
    """`Event.with_known_participation` of each."""
    return [event.with_known_participation() for event in events]
