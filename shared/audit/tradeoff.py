"""Trade-off functions: how well neighboring data sets can be told apart, as a whole curve instead of one (epsilon, delta).

For a test that says "the user is in" with probability x where the user is not, f(x) is the least probability that it misses
a user who is. An audit asks the other way round: how often must guesses be wrong if they are right so often (`least_wrong`)?

What never lives here: how guesses are counted (`one_run.py`), and what events cost (`shared/privacy/accounting.py`).

Source:
    Dong, Roth and Su 2022, "Gaussian Differential Privacy"; Balle and Wang 2018 (the exact delta of a Gaussian release).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from shared.privacy import accounting, loss_distribution
from shared.privacy.events import Event, Relation

Floats = NDArray[np.float64]

# Epsilons at which a curve is cut into straight lines; the lines lie on the safe side, so that more of them only help.
_LINES = 240
# No audit tells mechanisms apart beyond this.
_LARGEST_MU = 60.0


class Tradeoff(Protocol):
    """A symmetric trade-off function f."""

    def least_wrong(self, right: Floats) -> Floats:
        """The least probability of a wrong guess that a probability `right` of a right one comes with: inverse of 1 - f.

        Guarantee:
            Never above the true value, so that what contradicts it contradicts the mechanism.

        Args:
            right: In [0, 1], any shape.
        """
        ...


@dataclass(frozen=True, eq=False)
class GaussianTradeoff:
    """N(0, 1) against N(mu, 1): one release in which a user moves the sum by mu standard deviations of the noise.

    Attributes:
        mu: >= 0; several at once as an array of the shape of what is asked.
    """

    mu: float | Floats

    def least_wrong(self, right: Floats) -> Floats:
        """As `Tradeoff.least_wrong`; exact."""
        return np.asarray(ndtr(ndtri(right) - self.mu))


@dataclass(frozen=True, eq=False)
class CurveTradeoff:
    """The trade-off that a curve of pairs (epsilon, delta) allows, each pair a bound.

    Attributes:
        epsilons: (E,) >= 0.
        deltas: (E,) in [0, 1], none below the true one at its epsilon.
    """

    epsilons: Floats
    deltas: Floats

    def least_wrong(self, right: Floats) -> Floats:
        """As `Tradeoff.least_wrong`: the largest of the lines that the pairs are."""
        asked = np.asarray(right, dtype=np.float64)[..., np.newaxis]
        few = (asked - self.deltas) * np.exp(-self.epsilons)
        many = 1.0 - self.deltas - np.exp(np.minimum(self.epsilons, 700.0)) * (1.0 - asked)
        return np.asarray(np.clip(np.maximum(few, many).max(axis=-1), 0.0, 1.0))


@lru_cache(maxsize=4096)
def epsilon_of(mu: float, delta: float) -> float:
    """The epsilon of a Gaussian release in which one user moves the sum by `mu` standard deviations of the noise."""
    return 0.0 if mu <= 0.0 else accounting.epsilon([Event(1.0 / mu)], delta=delta)


@lru_cache(maxsize=256)
def mu_of(epsilon: float, delta: float) -> float:
    """The `mu` of the Gaussian release that costs so much; the inverse of `epsilon_of`."""
    from scipy.optimize import brentq

    if epsilon <= 0.0:
        return 0.0
    if epsilon_of(_LARGEST_MU, delta) <= epsilon:
        return _LARGEST_MU
    return float(brentq(lambda mu: epsilon_of(mu, delta) - epsilon, 1e-9, _LARGEST_MU, xtol=1e-9))


def total_mu(events: Sequence[Event], relation: Relation = "add-or-remove-one") -> float | None:
    """The `mu` of releases to which every unit contributes, all together; None where sampling makes it another curve.

    Skellam noise counts as Gaussian noise of its variance: all of a run's together is within a few thousandths of it, as a
    factor of any probability (`shared/privacy/skellam.py`).
    """
    if any(event.sampling_rate < 1.0 or event.sampling != "poisson" for event in events):
        return None
    doubled = 2.0 if relation == "replace-one" else 1.0
    return doubled * math.sqrt(math.fsum(event.steps / event.noise_multiplier**2 for event in events))


def tradeoff_of(
    events: Sequence[Event], relation: Relation = "add-or-remove-one", *, noise_scale: float = 1.0
) -> GaussianTradeoff | CurveTradeoff:
    """The trade-off function of composed events.

    Args:
        events: What is released. (public)
        relation: What neighboring data sets are.
        noise_scale: What all noise is multiplied by, > 0: the mechanism if its noise were not what is claimed.

    Raises:
        UnsupportedMechanism: If the accountant knows no bound on the events.
    """
    scaled = [_scaled(event, noise_scale) for event in events]
    mu = total_mu(scaled, relation)
    if mu is not None:
        return GaussianTradeoff(mu)
    merged = accounting.merged(scaled)
    epsilons = np.concatenate([[0.0], np.geomspace(1e-3, 40.0, _LINES - 1)])
    return CurveTradeoff(epsilons, loss_distribution.deltas_at(merged, relation, epsilons=epsilons))


def _scaled(event: Event, noise_scale: float) -> Event:
    return Event(
        event.noise_multiplier * noise_scale,
        event.sampling_rate,
        event.steps,
        sampling=event.sampling,
        population=event.population,
        sample_cap=event.sample_cap,
    )
