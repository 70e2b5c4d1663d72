"""What can be claimed at all: unit x mechanism x secure aggregation x adversary, each refusal with its reason.

A combination that is not refused here has an accountant and an implementation, and a test runs it end to end. What never
lives here: numbers (`plan.py`), sentences for a report (`claims.py`).

| mechanism | withstands |
|---|---|
| `dp-sgd`, `dp-ftrl-silo` | all but the silo itself |
| `central`, `dp-ftrl-central` | outsiders, colluding clients |
| `distributed` | the server too, behind secure aggregation |
"""

from __future__ import annotations

from typing import Final, Literal, get_args

from shared.errors import UnsupportedMechanism
from shared.privacy.mechanism import Mechanism

Unit = Literal["user", "window"]
Adversary = Literal["outsider", "server", "active-server", "colluding-clients"]
Aggregation = Literal["none", "stand-in", "masked"]

ADVERSARIES: Final[tuple[Adversary, ...]] = get_args(Adversary)
# Above, a bound is true and of no use: e^20 is half a billion.
LARGEST_MEANINGFUL_EPSILON: Final = 20.0


def strongest_adversary(mechanism: Mechanism, secure_aggregation: str) -> Adversary:
    """Whom `privacy.adversary = auto` means: the strongest whom the run withstands by itself.

    Silos withstand an active server too, answer by answer; how many answers it gets is bounded by the limits that the
    devices' owners set, which no plan knows. Shares of noise that are added up in the open withstand no server.
    """
    return "outsider" if mechanism.adds_noise_centrally or secure_aggregation == "stand-in" else "server"


def check(*, unit: str, mechanism: Mechanism, secure_aggregation: str, adversary: str) -> None:
    """Refuses what nobody can promise, or nobody here has built.

    Raises:
        UnsupportedMechanism: With the reason and what to use instead.
    """
    reason = why_refused(unit=unit, mechanism=mechanism, secure_aggregation=secure_aggregation, adversary=adversary)
    if reason:
        raise UnsupportedMechanism(
            f"Expected a combination that can be claimed, got privacy.unit={unit}, privacy.mechanism={mechanism}, "
            f"secure aggregation {secure_aggregation}, privacy.adversary={adversary}. {reason}"
        )


def check_aggregation(*, aggregation: str, mechanism: Mechanism) -> None:
    """Refuses exact aggregation of products where the plan excludes it.

    Raises:
        UnsupportedMechanism: With the reason and what to use instead.
    """
    if aggregation not in ("stack", "residual"):
        return
    reason = None
    if mechanism.clips_whole_updates:
        reason = (
            "The server may use nothing but the sum of the clients' updates, and the mean of their products does not follow "
            "from it. Use adapter.aggregation=mean with adapter.kind=ffa, whose mean is exact already."
        )
    if mechanism.users_take_turns:
        reason = (
            "Its noise is taken back step by step in the same coordinates; new factors every round would leave it in. "
            "Use adapter.aggregation=mean, or privacy.mechanism=dp-sgd."
        )
    if reason:
        raise UnsupportedMechanism(
            f"Expected adapter.aggregation=mean with privacy.mechanism={mechanism}, got adapter.aggregation={aggregation}. "
            f"{reason}"
        )


def why_refused(*, unit: str, mechanism: Mechanism, secure_aggregation: str, adversary: str) -> str | None:
    """The reason why a combination cannot be claimed; None where it can."""
    if unit == "interaction":
        return (
            "One interaction touches up to max_history_length overlapping training positions, so no per-position clipping "
            "bounds it. Use unit=user, or unit=window."
        )
    if unit == "window" and mechanism is not Mechanism.DP_SGD:
        return (
            "Windows are clipped one by one inside a silo's local step; a whole update or a fixed order of users mixes "
            "them. Use mechanism=dp-sgd, or unit=user."
        )
    if mechanism.adds_noise_locally and secure_aggregation != "none":
        return (
            "A silo takes noised local steps and claims its own noise only, with or without secure aggregation. "
            "Leave secure aggregation out."
        )
    if mechanism.shares_noise and secure_aggregation == "none":
        return (
            "Each client adds only a share of the noise, so the server must see nothing but the sum. "
            "Set secure_aggregation.enabled=true, or use mechanism=dp-sgd in silos."
        )
    if mechanism.adds_noise_centrally and secure_aggregation != "none":
        return (
            "The server adds the noise itself, after it has the exact sum; hiding single updates from it before changes no "
            "claim. Leave secure aggregation out, or use mechanism=distributed."
        )
    if mechanism.adds_noise_centrally and adversary in ("server", "active-server"):
        return (
            "A server that adds the noise itself has the clean sum before: there is no protection against it. "
            "Use adversary=outsider or colluding-clients, or mechanism=distributed."
        )
    if mechanism.shares_noise and adversary == "active-server":
        return (
            "An active server, or clients it mints, can leave clients out of a sum. In the open one client's own share of "
            "the noise is left then; behind masks those of the fewest clients whose sum it can open, as long as it mints "
            "none (`tacit privacy plan` prints that epsilon). Use adversary=server, or silos."
        )
    return None
