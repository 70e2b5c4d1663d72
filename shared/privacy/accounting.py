"""Epsilon of composed events: what a sequence of noised releases costs one user.

The quoted bound is the privacy loss distribution (PLD) of `dp_accounting`, which rounds pessimistically; Renyi DP is the
cross-check, 8-51 % looser. Opacus' own accountants are not quoted: its GDP bound is too low in most settings.

What never lives here: the choice of noise for a run (`plan.py`), or an epsilon that is stored. Events are stored; epsilons
are computed from them when somebody asks.

Source:
    Meiser and Mohammadi 2018; Koskela et al. 2020; Doroshenko et al. 2022, "Connect the dots" (the PLD); Mironov 2017 (RDP).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from shared.errors import PrivacyError
from shared.privacy.events import Event

# RDP orders of the cross-check; integers, because fractional ones do not converge at large sampling rates.
_RDP_ORDERS = (*range(2, 64), 80, 96, 128, 192, 256, 512)
# Width of the grid the PLD is rounded to, always upwards. A coarser grid than the 1e-4 of dp_accounting is many times
# faster and moves the bound by less than 0.02 (tested); the result stays an upper bound at any width.
_PLD_GRID = 4e-3


def merged(events: Sequence[Event]) -> tuple[Event, ...]:
    """Adds up the steps of equal releases, so that long histories compose fast.

    Releases to which everybody contributes compose exactly into one Gaussian release whose squared inverse multiplier is
    the sum of theirs.
    """
    steps: dict[tuple[float, float], int] = {}
    for event in events:
        key = (event.noise_multiplier, event.sampling_rate)
        steps[key] = steps.get(key, 0) + event.steps
    sampled = [Event(*key, count) for key, count in steps.items() if key[1] < 1.0]
    precision = sum(count / multiplier**2 for (multiplier, rate), count in steps.items() if rate == 1.0)
    full = [Event(precision**-0.5, 1.0, 1)] if precision else []
    return tuple(sorted(sampled + full))


def epsilon(events: Sequence[Event], *, delta: float) -> float:
    """An upper bound on epsilon for all events together, add-or-remove one user.

    Args:
        events: What was or will be released. Empty costs nothing.
        delta: In (0, 1). (public)

    Returns:
        Epsilon >= 0.
    """
    return _pld_epsilon(merged(events), delta)


@lru_cache(maxsize=4096)
def _pld_epsilon(events: tuple[Event, ...], delta: float) -> float:
    from dp_accounting.pld import PLDAccountant

    if not events:
        return 0.0
    accountant = PLDAccountant(value_discretization_interval=_PLD_GRID)
    for event in events:
        accountant.compose(_dp_event(event), event.steps)
    return float(accountant.get_epsilon(delta))


def rdp_epsilon(events: Sequence[Event], *, delta: float) -> float:
    """The Renyi-DP bound on the same events: looser, from other mathematics and other code; a cross-check."""
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant(orders=_RDP_ORDERS)
    for event in merged(events):
        accountant.compose(_dp_event(event), event.steps)
    return float(accountant.get_epsilon(delta))


def _dp_event(event: Event):  # type: ignore[no-untyped-def]  # dp_accounting has no types
    import dp_accounting

    gaussian = dp_accounting.GaussianDpEvent(event.noise_multiplier)
    if event.sampling_rate == 1.0:
        return gaussian
    return dp_accounting.PoissonSampledDpEvent(event.sampling_rate, gaussian)


@lru_cache(maxsize=64)
def calibrate(
    *,
    target_epsilon: float,
    delta: float,
    sampling_rate: float,
    steps: int,
    others: tuple[Event, ...] = (),
) -> float:
    """The smallest noise multiplier (to 0.1 %) whose events, with `others`, stay within epsilon.

    The RDP bound is looser, so its multiplier is a safe upper end of the search; each PLD costs up to a second.

    Raises:
        PrivacyError: If the others alone exceed the target, or no multiplier up to 10,000 reaches it.
    """
    from scipy.optimize import brentq

    if others and epsilon(others, delta=delta) >= target_epsilon:
        raise PrivacyError(
            f"Expected the popularity prior to cost less than epsilon={target_epsilon}, got "
            f"epsilon={epsilon(others, delta=delta):.2f}. Raise privacy.popularity_noise_multiplier, or set it to 0."
        )

    def excess(multiplier: float, bound=epsilon) -> float:  # type: ignore[no-untyped-def]
        return float(bound([*others, Event(multiplier, sampling_rate, steps)], delta=delta)) - target_epsilon

    def excess_rdp(multiplier: float) -> float:
        return excess(multiplier, rdp_epsilon)

    if excess_rdp(1e4) > 0 and excess(1e4) > 0:
        raise PrivacyError(
            f"Expected a noise multiplier up to 10000 to reach privacy.epsilon={target_epsilon}, got none. "
            "Raise epsilon or lower the number of rounds."
        )
    upper = float(brentq(excess_rdp, 0.2, 1e4, rtol=1e-3)) if excess_rdp(0.2) > 0 and excess_rdp(1e4) < 0 else 1e4
    upper *= 1.001
    lower = upper * 0.8
    while lower > 1e-2 and excess(lower) < 0:
        lower *= 0.8
    root = float(brentq(excess, lower, upper, rtol=5e-4)) if excess(lower) > 0 > excess(upper) else upper
    while excess(root) > 0:  # the root may lie a rounding error on the wrong side
        root *= 1.0005
    return root
