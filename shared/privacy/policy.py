"""What the owner of a device allows, and the refusal of a plan that asks for more.

`Binding` says what the events of a ledger are about, `Policy` what the owner of the device set, `Request` what a plan asks
for. What never lives here: how much was spent and whether more fits (`ledger.py`), and any number that a server sent as a
limit: limits are the owner's alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_args

from shared.errors import ConfigError, PolicyRefused, PrivacyError
from shared.privacy.events import Relation

# The owner name under which a policy holds for every owner that has none of its own.
EVERYONE = "*"

_UNITS = ("user", "window")
# Limit, what it limits in a request, whether a larger value is the worse one, option of `tacit node budget set-limit`.
_LIMITS = (
    ("l2_clip_norm_at_most", "l2_clip_norm", True, "--max-clip-norm"),
    ("noise_multiplier_at_least", "noise_multiplier", False, "--min-noise-multiplier"),
    ("rounds_at_most", "rounds", True, "--max-rounds"),
    ("delta_at_most", "delta", True, "--max-delta"),
)


@dataclass(frozen=True)
class Binding:
    """What all events of one ledger are about; events about anything else are refused.

    Attributes:
        dataset: Digest or declared name of the data. (public)
        unit: Whose privacy an event counts for: "user" or "window".
        relation: How neighboring data sets differ.
        delta: The delta of every epsilon, in (0, 1).
    """

    dataset: str
    unit: str
    relation: Relation
    delta: float

    def __post_init__(self) -> None:
        _expect(bool(self.dataset), "dataset to name the data", "dataset=''")
        _expect(self.unit in _UNITS, f"unit to be one of {', '.join(_UNITS)}", f"unit={self.unit}")
        relations = get_args(Relation)
        _expect(self.relation in relations, f"relation to be one of {', '.join(relations)}", f"relation={self.relation}")
        _expect(0 < self.delta < 1, "0 < delta < 1", f"delta={self.delta:g}")

    def verify_same(self, other: Binding) -> None:
        """Raises unless `other`, what a ledger is bound to, is this one.

        Raises:
            PrivacyError: If a field differs; names it.
        """
        for field in ("dataset", "unit", "relation", "delta"):
            mine, theirs = getattr(self, field), getattr(other, field)
            if mine != theirs:
                raise PrivacyError(
                    f"Expected the privacy ledger to be about {field}={_shown(mine)}, got {field}={_shown(theirs)}. No data "
                    "was read. One ledger composes like with like: name another file for other data, unit, relation or "
                    "delta."
                )


@dataclass(frozen=True)
class Policy:
    """The limits that the owner of a device set; None is no limit.

    Attributes:
        epsilon: Largest epsilon of all events together, > 0.
        unit: The only unit of privacy that is served: "user" or "window".
        l2_clip_norm_at_most: Largest bound on one unit's contribution, > 0.
        noise_multiplier_at_least: Smallest noise multiplier, > 0.
        rounds_at_most: Longest run, >= 1.
        delta_at_most: Largest delta, in (0, 1).
    """

    epsilon: float | None = None
    unit: str | None = None
    l2_clip_norm_at_most: float | None = None
    noise_multiplier_at_least: float | None = None
    rounds_at_most: int | None = None
    delta_at_most: float | None = None

    def __post_init__(self) -> None:
        _expect(self.unit is None or self.unit in _UNITS, f"unit to be one of {', '.join(_UNITS)}", f"unit={self.unit}")
        for name in ("epsilon", "l2_clip_norm_at_most", "noise_multiplier_at_least"):
            value = getattr(self, name)
            _expect(value is None or 0 < value < math.inf, f"{name} > 0 and finite", f"{name}={value}")
        _expect(
            self.rounds_at_most is None or self.rounds_at_most >= 1,
            "rounds_at_most >= 1",
            f"rounds_at_most={self.rounds_at_most}",
        )
        _expect(
            self.delta_at_most is None or 0 < self.delta_at_most < 1,
            "0 < delta_at_most < 1",
            f"delta_at_most={self.delta_at_most}",
        )

    def verify(self, request: Request | None) -> None:
        """Raises unless a plan stays within all limits but that on epsilon, which the ledger checks.

        Guarantee:
            A limit that is set refuses whatever is not known to keep it: NaN, and a plan that does not say what it asks.

        Raises:
            PolicyRefused: Says what was asked, what is allowed, and what to do.
        """
        limited = [limit for limit in _LIMITS if getattr(self, limit[0]) is not None]
        if request is None:
            if self.unit is not None or limited:
                raise PolicyRefused(
                    "Expected the plan to say what the owner of this device limits (unit, l2_clip_norm, noise_multiplier, "
                    "rounds, delta), got nothing. No data was read. Run with a plan that says it."
                )
            return
        if self.unit not in {None, request.unit}:
            raise _refusal(f"unit={self.unit}", f"unit={request.unit}", "--unit")
        for limit, name, larger_is_worse, option in limited:
            allowed, asked = getattr(self, limit), getattr(request, name)
            if not (asked <= allowed if larger_is_worse else asked >= allowed):
                relation = "<=" if larger_is_worse else ">="
                raise _refusal(f"{name} {relation} {allowed:.10g}", f"{name}={asked:.10g}", option)


@dataclass(frozen=True)
class Request:
    """What a plan asks of a device, checked against its policy before any data is read. All of it is public.

    Attributes:
        unit: "user" or "window".
        l2_clip_norm: Bound on one unit's contribution.
        noise_multiplier: Noise over that bound; 0 without noise.
        rounds: Rounds of the whole run.
        delta: Delta of the claim.
    """

    unit: str
    l2_clip_norm: float
    noise_multiplier: float
    rounds: int
    delta: float

    def verify_about(self, binding: Binding) -> None:
        """Raises unless the request is about the unit and delta of the ledger.

        Raises:
            PrivacyError: If it is about another one.
        """
        for field in ("unit", "delta"):
            mine, theirs = getattr(self, field), getattr(binding, field)
            if mine != theirs:
                raise PrivacyError(
                    f"Expected a plan about {field}={theirs}, as the ledger is, got {field}={mine}. No data was read. Name "
                    "another ledger file for another unit or delta."
                )


def _refusal(allowed: str, asked: str, option: str) -> PolicyRefused:
    return PolicyRefused(
        f"Expected {allowed}, which the owner of this device allows, got {asked}. No data was read. Change the plan, or let "
        f"the owner run `tacit node budget set-limit {option}`."
    )


def _expect(holds: bool, relation: str, got: str) -> None:
    if not holds:
        raise ConfigError(f"Expected {relation}, got {got}. Give another value.")


def _shown(value: str | float) -> str:
    """A value as a message may hold it: of a digest only the beginning."""
    if isinstance(value, str) and len(value) >= 32 and not value.lower().strip("0123456789abcdef"):
        return f"{value[:12]}..."
    return str(value)
