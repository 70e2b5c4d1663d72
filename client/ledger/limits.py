"""The limits of a device's owner, and the refusal of a plan that asks for more.

`Binding` says what the events of a ledger are about, `Policy` what the owner set, `Request` what a plan asks for. A refusal
travels to the server: it quotes the plan and the owner's limits, never a digest of data, the name of the data, or a number
of another run. What never lives here: how much was spent and whether more fits (`costs.py`), and any number that a server
sent as a limit: limits are the owner's alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_args

from shared.errors import ConfigError, PolicyRefused, PrivacyError
from shared.privacy import supported_claims
from shared.privacy.events import Relation
from shared.privacy.mechanism import Mechanism

# The owner name under which a policy holds for every owner that has none of its own.
EVERYONE = "*"

_UNITS = ("user", "window")
LONGEST_DATA_NAME = 100
# Policy field, request field, whether larger is worse, option of `tacit node budget set-limit`.
_LIMITS = (
    ("l2_clip_norm_at_most", "l2_clip_norm", True, "--max-clip-norm"),
    ("noise_multiplier_at_least", "noise_multiplier", False, "--min-noise-multiplier"),
    ("rounds_at_most", "rounds", True, "--max-rounds"),
    ("delta_at_most", "delta", True, "--max-delta"),
    ("corrupt_fraction_at_least", "corrupt_fraction", False, "--min-corrupt-fraction"),
    ("dropout_fraction_at_most", "dropout_fraction", True, "--max-dropout-fraction"),
)


@dataclass(frozen=True)
class Binding:
    """What all events of one ledger are about; events about anything else are refused.

    The data may grow under a ledger, so they are known by a name that their owner declares and by nothing that is computed
    from them: a digest tells neighboring data sets apart.

    Attributes:
        data_name: The owner's name for the data. It stays on the device.
        unit: Whose privacy an event counts for: "user" or "window".
        relation: How neighboring data sets differ.
        delta: The delta of every epsilon, in (0, 1).
    """

    data_name: str
    unit: str
    relation: Relation
    delta: float

    def __post_init__(self) -> None:
        verify_data_name(self.data_name)
        _expect(self.unit in _UNITS, f"unit to be one of {', '.join(_UNITS)}", f"unit={self.unit}")
        relations = get_args(Relation)
        _expect(self.relation in relations, f"relation to be one of {', '.join(relations)}", f"relation={self.relation}")
        _expect(0 < self.delta < 1, "0 < delta < 1", f"delta={self.delta:g}")

    def verify_same(self, other: Binding) -> None:
        """Raises unless `other`, what a ledger is bound to, is this one.

        Guarantee:
            The message names the field and quotes neither value: it travels to the server, and what the ledger is bound to
            comes from another run. Its advice never lets the same users begin with an empty ledger.

        Raises:
            PrivacyError: If a field differs.
        """
        if self.data_name != other.data_name:
            raise PrivacyError(
                "Expected the privacy ledger of the data that this device names, got one that is bound to another name. No "
                "data was read. `tacit node budget show` prints the name; give the data their former name (data-name), or "
                "name the ledger that belongs to these data."
            )
        for field in ("unit", "relation", "delta"):
            if getattr(self, field) != getattr(other, field):
                raise PrivacyError(_other_setting(field))


@dataclass(frozen=True)
class Policy:
    """The limits that the owner of a device set; None is no limit.

    Attributes:
        epsilon: Largest epsilon of all events together, > 0. It counts noise, so it also excludes every mechanism that does
            not protect against the server, unless the owner names the mechanism or another adversary.
        unit: The only unit of privacy that is served: "user" or "window".
        l2_clip_norm_at_most: Largest bound on one unit's contribution, > 0.
        noise_multiplier_at_least: Smallest noise multiplier, > 0.
        rounds_at_most: Longest run, >= 1.
        delta_at_most: Largest delta, in (0, 1).
        mechanisms: The only mechanisms that are served, sorted.
        adversary: The weakest adversary whom a plan must protect against.
        corrupt_fraction_at_least: Smallest part of a cohort that a plan with noise in shares may assume to collude with the
            server, in [0, 1).
        dropout_fraction_at_most: Largest part of a cohort that it may assume to drop out, in [0, 1): what may drop out may
            also be left out by a server.
    """

    epsilon: float | None = None
    unit: str | None = None
    l2_clip_norm_at_most: float | None = None
    noise_multiplier_at_least: float | None = None
    rounds_at_most: int | None = None
    delta_at_most: float | None = None
    mechanisms: tuple[str, ...] | None = None
    adversary: str | None = None
    corrupt_fraction_at_least: float | None = None
    dropout_fraction_at_most: float | None = None

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
        for name in ("corrupt_fraction_at_least", "dropout_fraction_at_most"):
            value = getattr(self, name)
            _expect(value is None or 0 <= value < 1, f"{name} in [0, 1)", f"{name}={value}")
        if self.mechanisms is not None:
            known = [one for one in Mechanism if not one.is_none]
            among = bool(self.mechanisms) and set(self.mechanisms) <= set(known)
            _expect(among, f"mechanisms among {', '.join(known)}", f"mechanisms={','.join(self.mechanisms)}")
            object.__setattr__(self, "mechanisms", tuple(sorted(set(self.mechanisms))))
        adversaries = supported_claims.ADVERSARIES
        _expect(
            self.adversary is None or self.adversary in adversaries,
            f"adversary to be one of {', '.join(adversaries)}",
            f"adversary={self.adversary}",
        )

    def required_adversary(self, mechanism: str) -> str | None:
        """The adversary whom a plan of a mechanism must protect against; None for no requirement.

        A limit on epsilon counts noise. Where the server adds it, what leaves the device has none, so such a limit alone
        asks for protection against the server.
        """
        allowed = mechanism in (self.mechanisms or ())
        return self.adversary or ("server" if self.epsilon is not None and not allowed else None)

    def verify(self, request: Request | None) -> None:
        """Raises unless a plan stays within all limits but that on epsilon, which the ledger checks.

        Guarantee:
            A limit that is set refuses whatever is not known to keep it: NaN, and a plan that does not say what it asks.

        Raises:
            PolicyRefused: Says what was asked, what is allowed, and what to do.
        """
        if request is None:
            if self != Policy():
                raise PolicyRefused(
                    "Expected the plan to say what the owner of this device limits (unit, mechanism, l2_clip_norm, "
                    "noise_multiplier, rounds, delta), got nothing. No data was read. Run with a plan that says it."
                )
            return
        if self.unit not in {None, request.unit}:
            raise _refusal(f"unit={self.unit}", f"unit={request.unit}", "--unit")
        self._verify_mechanism(request)
        limited = [limit for limit in _LIMITS if getattr(self, limit[0]) is not None]
        for limit, name, larger_is_worse, option in limited:
            allowed, asked = getattr(self, limit), getattr(request, name)
            if asked is None:  # the plan assumes nothing of the kind
                continue
            if not (asked <= allowed if larger_is_worse else asked >= allowed):
                relation = "<=" if larger_is_worse else ">="
                raise _refusal(f"{name} {relation} {allowed:.10g}", f"{name}={asked:.10g}", option)

    def _verify_mechanism(self, request: Request) -> None:
        if self.mechanisms is not None and request.mechanism not in self.mechanisms:
            wanted = f"mechanism to be one of {', '.join(self.mechanisms)}"
            raise _refusal(wanted, f"mechanism={request.mechanism}", "--mechanism")
        adversary = self.required_adversary(request.mechanism)
        if adversary is not None and not request.protects_against(adversary):
            option = "--adversary" if self.adversary else f"--mechanism {request.mechanism}` or `--adversary"
            wanted = f"a plan that protects against adversary={adversary}"
            raise _refusal(wanted, f"mechanism={request.mechanism}, which does not", option)


@dataclass(frozen=True)
class Request:
    """What a plan asks of a device, checked against its policy before any data is read. All of it is public.

    Attributes:
        unit: "user" or "window".
        mechanism: Where noise is added, a mechanism of `shared/privacy/supported_claims.py`.
        secure_aggregation: "none", "masked", or "stand-in": a plain sum in the open.
        l2_clip_norm: Bound on one unit's contribution.
        noise_multiplier: Noise over that bound; 0 without noise.
        rounds: Rounds of the whole run.
        delta: Delta of the claim.
        corrupt_fraction: Part of a cohort that is assumed to collude with the server; None where noise is not in shares, so
            that nothing rests on it.
        dropout_fraction: Part of a cohort that is assumed to drop out; None likewise.
    """

    unit: str
    mechanism: str
    secure_aggregation: str
    l2_clip_norm: float
    noise_multiplier: float
    rounds: int
    delta: float
    corrupt_fraction: float | None = None
    dropout_fraction: float | None = None

    def protects_against(self, adversary: str) -> bool:
        """Whether the noise of the plan protects against an adversary as things are.

        Shares of noise protect against the server behind secure aggregation alone; a stand-in in the open is none.
        """
        if adversary in ("server", "active-server") and self.secure_aggregation == "stand-in":
            return False
        refused = supported_claims.why_refused(
            unit=self.unit,
            mechanism=Mechanism.named(self.mechanism),
            secure_aggregation=self.secure_aggregation,
            adversary=adversary,
        )
        return refused is None

    def verify_about(self, binding: Binding) -> None:
        """Raises unless the request is about the unit and delta of the ledger.

        Raises:
            PrivacyError: If it is about another one.
        """
        for field in ("unit", "delta"):
            if getattr(self, field) != getattr(binding, field):
                raise PrivacyError(_other_setting(field))


def verify_data_name(name: str) -> None:
    """Raises unless a name of data is one that a ledger can be bound to.

    Raises:
        ConfigError: If it is empty, too long, or not printable.
    """
    if not 1 <= len(name) <= LONGEST_DATA_NAME or not name.isprintable():
        raise ConfigError(
            f"Expected the name of the data to be 1 to {LONGEST_DATA_NAME} printable characters, got {len(name)}. Give "
            "another data-name."
        )


def _refusal(allowed: str, asked: str, option: str) -> PolicyRefused:
    return PolicyRefused(
        f"Expected {allowed}, which the owner of this device allows, got {asked}. No data was read. Change the plan, or let "
        f"the owner run `tacit node budget set-limit {option}`."
    )


def _other_setting(field: str) -> PrivacyError:
    return PrivacyError(
        f"Expected a plan with the {field} of the privacy ledger, got another {field}. No data was read. One ledger "
        f"composes like with like, and a new one would forget what these users spent: use the {field} of the earlier runs, "
        "which `tacit node budget show` prints."
    )


def _expect(holds: bool, relation: str, got: str) -> None:
    if not holds:
        raise ConfigError(f"Expected {relation}, got {got}. Give another value.")
