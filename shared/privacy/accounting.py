"""Epsilon of composed events: what a sequence of noised releases costs one unit, or one person with several.

The quoted bound on Gaussian noise is exact where every unit contributes to each release, and else the privacy loss
distribution (PLD) of `dp_accounting`, which rounds pessimistically on a grid that is refined until the bound stands still
(both in `loss_distribution.py`). Skellam noise is proven to be so near to Gaussian noise (`skellam.py`) that
the bound on the latter holds for it at a distance of some thousandths; where its steps are too coarse for that, Renyi DP
(`renyi.py`) is quoted. Elsewhere Renyi DP is the cross-check, 8-51 % looser. Opacus' accountants are not quoted: its GDP
bound is too low in most settings.

Samples of fixed size are refused, whatever the relation: accounted as Poisson they are the commonest lie of the field. The
common library says 3.58 for 100 of 10,000 clients (rate 0.01, multiplier 1, 1,000 steps, delta 1e-5), where an explicit pair
of data sets has epsilon >= 13.31.

What never lives here: the choice of noise for a run (`plan.py`), or an epsilon that is stored. Events are stored; epsilons
are computed from them when somebody asks. Who draws a sample changes nothing here: whoever knows who took part applies
`events.with_known_participation` first.

Source:
    Meiser and Mohammadi 2018; Koskela et al. 2020; Doroshenko et al. 2022, "Connect the dots" (the PLD).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import get_args

from shared import wording
from shared.errors import ConfigError, EpsilonOutOfReach, PrivacyError, UnsupportedMechanism
from shared.privacy import loss_distribution, renyi, skellam
from shared.privacy.events import Event, Mechanism, Relation

# The end of the search for noise; beyond it a release tells nothing anyway.
_MOST_MULTIPLIER = 1e4
# Less noise than this costs more than could be wanted.
_LEAST_MULTIPLIER = 1e-6
# A delta that is rounded to 0 may be as large as this.
_SMALLEST_FLOAT = 5e-324
# Of delta, what Skellam noise may differ from Gaussian noise by.
_SHARE_OF_SKELLAM = 1e-3
# Group privacy multiplies delta by about exp((k - 1) e), which has to fit into a float.
_MOST_GROWTH = 700.0


def epsilon(events: Sequence[Event], *, delta: float, relation: Relation = "add-or-remove-one") -> float:
    """The quoted upper bound on epsilon for all events together.

    Guarantee:
        Never below the true value. For Gaussian noise at most 0.02 above it, and 0.02 % where epsilon exceeds 100, for
        rates from 1e-4 on and up to 100,000 releases; farther out the grid ends before the bound is that close.

    Args:
        events: What was or will be released. Empty costs nothing.
        delta: In (0, 1). (public)
        relation: What neighboring data sets are.

    Returns:
        Epsilon >= 0; infinite where it is too large to be represented, or where no finite one holds at so small a delta.

    Raises:
        ConfigError: If delta is not in (0, 1).
        PrivacyError: If an event is malformed.
        UnsupportedMechanism: If no valid bound is known.
    """
    _check_delta(delta)
    return _quoted_epsilon(_checked(events, relation), delta, relation)


def rdp_epsilon(events: Sequence[Event], *, delta: float, relation: Relation = "add-or-remove-one") -> float:
    """The Renyi bound on the same events, a looser cross-check.

    Raises:
        UnsupportedMechanism: If no Renyi bound is known: truncated samples, and any sampling under replace-one (there
            dp_accounting 0.6 forgets to double the sensitivity).
    """
    _check_delta(delta)
    return renyi.to_epsilon(renyi.curve(_checked(events, relation), relation), delta=delta)


def delta(events: Sequence[Event], *, epsilon: float, relation: Relation = "add-or-remove-one") -> float:
    """The quoted upper bound on delta at an epsilon >= 0; the inverse of `epsilon`."""
    if not (epsilon >= 0 and math.isfinite(epsilon)):
        raise ConfigError(f"Expected epsilon >= 0 and finite, got epsilon={epsilon}. Ask for the delta of a finite epsilon.")
    return _quoted_delta(_checked(events, relation), epsilon, relation)


def delta_curve(
    events: Sequence[Event], *, deltas: Sequence[float], relation: Relation = "add-or-remove-one"
) -> list[tuple[float, float]]:
    """Pairs of delta and epsilon, in the order of `deltas`: each holds for the same events."""
    return [(value, epsilon(events, delta=value, relation=relation)) for value in deltas]


def group_epsilon(
    events: Sequence[Event], *, delta: float, relation: Relation = "add-or-remove-one", size: int = 2
) -> float:
    """An upper bound on epsilon for one person with `size` accounts, each of them one unit.

    Guarantee:
        Never below the true value, for data sets in which all accounts of the person differ in the same way. Unsampled
        releases and Poisson-sampled Gaussian ones are accounted by their own worst case, everything else by group privacy:
        what is (e, d)-DP for one unit is (k e, d (1 + exp(e) + ... + exp((k - 1) e)))-DP for k.

    Args:
        events: What is released about every account.
        delta: In (0, 1). (public)
        relation: What neighboring data sets are.
        size: Accounts k >= 1. (public)

    Source:
        Vadhan 2017, "The Complexity of Differential Privacy" (group privacy); Choquette-Choo et al. 2024, "Privacy
        Amplification for Matrix Mechanisms" (mixtures of Gaussians).
    """
    _check_delta(delta)
    if size < 1 or int(size) != size:
        raise ConfigError(f"Expected size >= 1 and whole, got size={size}. Say how many accounts one person has.")
    return _group_epsilon(_checked(events, relation), delta, relation, int(size))


def calibrate(
    events_of: Callable[[float], Sequence[Event]],
    *,
    target_epsilon: float,
    delta: float,
    relation: Relation = "add-or-remove-one",
) -> float:
    """The smallest noise multiplier, to 0.1 %, whose events stay within epsilon.

    Args:
        events_of: All events of a run at a noise multiplier; more noise must not cost more.
        target_epsilon: Positive and finite. (public)
        delta: In (0, 1). (public)
        relation: What neighboring data sets are.

    Returns:
        A multiplier up to 10,000 whose `epsilon` is at most the target.

    Raises:
        EpsilonOutOfReach: If no multiplier up to 10,000 reaches the target; events that do not depend on it may cost too
            much.
    """
    from scipy.optimize import brentq

    if not (target_epsilon > 0 and math.isfinite(target_epsilon)):
        raise ConfigError(
            f"Expected target_epsilon > 0 and finite, got target_epsilon={target_epsilon}. Turn privacy off for none."
        )

    def cost(multiplier: float) -> float:
        return epsilon(events_of(multiplier), delta=delta, relation=relation)

    def excess(log_multiplier: float) -> float:
        # Nearly a straight line. Far from the target only the sign matters.
        ratio = cost(math.exp(log_multiplier)) / target_epsilon
        return math.log(min(max(ratio, 1e-3), 1e3))

    upper, lower = 1.0, 0.5
    while cost(upper) > target_epsilon:
        if upper == _MOST_MULTIPLIER:
            found = wording.significant(cost(upper), up=True, digits=3)
            raise EpsilonOutOfReach(
                f"Expected a noise multiplier up to {_MOST_MULTIPLIER:g} to reach epsilon={target_epsilon:g}, got "
                f"epsilon={found} with {_MOST_MULTIPLIER:g}. Raise privacy.epsilon or privacy.delta, lower "
                "federation.rounds, or put more noise into the other releases."
            )
        lower, upper = upper, min(upper * 4.0, _MOST_MULTIPLIER)
    while cost(lower) <= target_epsilon:
        if lower < _LEAST_MULTIPLIER:
            return lower  # the events do not depend on it
        lower, upper = lower / 2.0, lower
    multiplier = math.exp(brentq(excess, math.log(lower), math.log(upper), xtol=2e-4))
    while cost(multiplier) > target_epsilon:  # the root may lie on the wrong side
        multiplier *= 1.0002
    return multiplier


@lru_cache(maxsize=4096)
def _quoted_epsilon(events: tuple[Event, ...], delta: float, relation: Relation) -> float:
    if not events:
        return 0.0
    if _has_skellam(events):
        holds = renyi.to_epsilon(renyi.curve(events, relation), delta=delta)
        return _epsilon_near_gaussian(events, delta, relation, holds)
    return loss_distribution.epsilon_bound(events, relation, delta=delta)


def _quoted_delta(events: tuple[Event, ...], epsilon: float, relation: Relation) -> float:
    if not events:
        return 0.0
    if _has_skellam(events):
        holds = renyi.to_delta(renyi.curve(events, relation), epsilon=epsilon)
        return _delta_near_gaussian(events, epsilon, relation, holds)
    return loss_distribution.delta_bound(events, relation, epsilon=epsilon)


def _epsilon_near_gaussian(
    events: tuple[Event, ...], delta: float, relation: Relation, holds: float, *, size: int = 1
) -> float:
    """What Gaussian noise in place of Skellam noise costs, and their distance; at most an epsilon that holds anyway.

    Of delta, beta (1 + exp(epsilon' + eta)) is at most `_SHARE_OF_SKELLAM`, as long as the result is below `holds`.
    """
    if not math.isfinite(holds):
        return holds
    distance = skellam.distance(events, log_beta=math.log(_SHARE_OF_SKELLAM * delta / 2.0) - holds)
    if not math.isfinite(distance):
        return holds
    rest = (1.0 - _SHARE_OF_SKELLAM) * delta * math.exp(-distance)
    return min(holds, _group_epsilon(_gaussian(events), rest, relation, size) + 2.0 * distance)


def _delta_near_gaussian(events: tuple[Event, ...], epsilon: float, relation: Relation, holds: float) -> float:
    """The same for delta."""
    if holds <= 0.0:
        return holds
    distance = skellam.distance(events, log_beta=math.log(_SHARE_OF_SKELLAM * holds / 2.0) - epsilon)
    if not 2.0 * distance <= epsilon:
        return holds
    found = _quoted_delta(_gaussian(events), epsilon - 2.0 * distance, relation)
    return min(holds, math.exp(distance) * found + _SHARE_OF_SKELLAM * holds)


def _gaussian(events: tuple[Event, ...]) -> tuple[Event, ...]:
    return merged([replace(event, mechanism="gaussian", l2_sensitivity=0.0) for event in events])


@lru_cache(maxsize=256)
def _group_epsilon(events: tuple[Event, ...], delta: float, relation: Relation, size: int) -> float:
    if not events or size == 1:
        return _quoted_epsilon(events, delta, relation)
    if all(loss_distribution.supports(event, relation, accounts=size) for event in events):
        return loss_distribution.epsilon_bound(events, relation, delta=delta, accounts=size)
    if _has_skellam(events) and all(renyi.why_unsupported(event, relation, accounts=size) is None for event in events):
        holds = renyi.to_epsilon(renyi.curve(events, relation, accounts=size), delta=delta)
        return _epsilon_near_gaussian(events, delta, relation, holds, size=size)
    # Sampling never costs anything but what truncation displaces, one other contribution for each account.
    unsampled = [
        replace(event, sampling_rate=1.0, sampling="poisson", population=0, sample_cap=0)
        if event.sampling == "poisson"
        else Event(event.noise_multiplier / 2.0, steps=event.steps)
        for event in events
    ]
    general = _general_group_epsilon(events, delta, relation, size)
    return min(general, _group_epsilon(merged(unsampled), delta, relation, size))


def _general_group_epsilon(events: tuple[Event, ...], delta: float, relation: Relation, size: int) -> float:
    def holds(single: float) -> bool:
        """Whether size * single is an epsilon of the group."""
        spread = math.fsum(math.exp(-times * single) for times in range(size))
        log_factor = (size - 1) * single + math.log(spread)  # of 1 + exp(e) + ... + exp((k - 1) e)
        found = max(_quoted_delta(events, single, relation), _SMALLEST_FLOAT)
        return math.log(found) + log_factor <= math.log(delta)

    low, high = 0.0, 1.0
    while not holds(high):
        low, high = high, high * 2.0
        if (size - 1) * high > _MOST_GROWTH:
            return math.inf
    while high - low > 1e-3 * high:
        middle = (low + high) / 2.0
        low, high = (low, middle) if holds(middle) else (middle, high)
    return size * high


def _has_skellam(events: tuple[Event, ...]) -> bool:
    return any(event.mechanism == "skellam" for event in events)


def merged(events: Sequence[Event]) -> tuple[Event, ...]:
    """Equal releases added up and put in order, without what does not matter to the cost, so that long histories are fast.

    Unsampled Gaussian releases compose exactly into one, whose squared inverse multiplier is the sum of theirs.

    Raises:
        PrivacyError: If an event is malformed.
        UnsupportedMechanism: If an event is of a kind that no bound is known for.
    """
    steps: Counter[Event] = Counter()
    for event, times in Counter(events).items():
        _check_event(event)
        steps[_essence(event)] += event.steps * times
    unsampled = [event for event in steps if _is_unsampled_gaussian(event)]
    precision = math.fsum(steps.pop(event) / event.noise_multiplier / event.noise_multiplier for event in unsampled)
    composed = [replace(event, steps=count) for event, count in steps.items()]
    if precision > 0.0:  # or too much noise for a float to tell
        composed.append(Event(max(precision**-0.5, 1e-100)))  # not 0, should it be infinite
    return tuple(sorted(composed))


def _essence(event: Event) -> Event:
    """One step of an event with every field at its default that its cost does not depend on."""
    plain = Event(event.noise_multiplier, event.sampling_rate, mechanism=event.mechanism)
    if event.mechanism != "gaussian":
        plain = replace(plain, l2_sensitivity=event.l2_sensitivity)
    never_truncated = event.sampling == "truncated-poisson" and event.sample_cap >= event.population
    if event.sampling == "poisson" or never_truncated:
        return plain
    return replace(plain, sampling=event.sampling, population=event.population, sample_cap=event.sample_cap)


def _is_unsampled_gaussian(event: Event) -> bool:
    return event.mechanism == "gaussian" and event.sampling == "poisson" and event.sampling_rate == 1.0


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise ConfigError(f"Expected delta in (0, 1), got delta={delta}. Use less than 1/population.")


def _checked(events: Sequence[Event], relation: Relation) -> tuple[Event, ...]:
    """The merged events, if every one is well-formed and of a kind that is known."""
    if relation not in get_args(Relation):
        raise UnsupportedMechanism(
            f"Expected relation one of {get_args(Relation)}, got relation={relation!r}. Use one of them."
        )
    return merged(events)


def _check_event(event: Event) -> None:
    def require(holds: bool, expected: str, name: str, advice: str) -> None:
        if not holds:
            raise PrivacyError(f"Expected {expected}, got {name}={getattr(event, name)}. {advice}")

    multiplier = event.noise_multiplier
    require(
        multiplier > 0 and math.isfinite(multiplier),
        "noise_multiplier > 0 and finite",
        "noise_multiplier",
        "A release without noise has no bound.",
    )
    require(
        0 < event.sampling_rate <= 1, "sampling_rate in (0, 1]", "sampling_rate", "Use 1 for releases with everybody in."
    )
    require(
        event.steps >= 1 and int(event.steps) == event.steps, "whole steps >= 1", "steps", "Leave out what was not released."
    )
    if event.mechanism not in get_args(Mechanism):
        raise UnsupportedMechanism(
            f"Expected mechanism one of {get_args(Mechanism)}, got mechanism={event.mechanism!r}. No bound is known for it."
        )
    if event.mechanism == "skellam":
        require(
            event.l2_sensitivity >= 1 and math.isfinite(event.l2_sensitivity),
            "l2_sensitivity >= 1 and finite for Skellam noise",
            "l2_sensitivity",
            "State the bound on one contribution in steps of the ring.",
        )
    if event.sampling == "truncated-poisson":
        require(event.population >= 1, "population >= 1 for a capped sample", "population", "State whom it is drawn from.")
        require(event.sample_cap >= 1, "sample_cap >= 1 for a capped sample", "sample_cap", "State its largest size.")
    elif event.sampling != "poisson":
        raise UnsupportedMechanism(
            f"Expected sampling 'poisson' or 'truncated-poisson', got sampling={event.sampling!r}. No bound on samples of "
            "fixed size is known here, and the one on Poisson sampling is too low for them: draw every unit by itself."
        )
