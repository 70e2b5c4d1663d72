"""What a plan, or what was spent under it, promises to whom: one line an adversary, in numbers and in plain words.

A claim names six things: unit, neighboring relation, adversary, release scope, epsilon and delta; one number without the
rest is an error. The release scope is always the whole run: every adapter, the popularity prior and the released metrics.
What never lives here: the numbers' making (`plan.py`, `accounting.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from shared.privacy.accounting import delta_curve, group_epsilon
from shared.privacy.events import Event
from shared.privacy.matrix import ADVERSARIES, Adversary
from shared.privacy.plan import PrivacyPlan

RELEASE_SCOPE = "every adapter of the run, the popularity prior and the released metrics"
WHO: dict[str, str] = {
    "outsider": "outsider with every released adapter",
    "server": "honest-but-curious server",
    "active-server": "active server, or clients it mints",
    "colluding-clients": "clients colluding with one another",
    "own-device": "whoever runs the user's own client",
}
# Where a delta is larger than this many users' worth, even a perfect mechanism may give somebody away.
_WARNING_SHARE = 0.1
_CURVE_DELTAS = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10)

NOT_PROTECTED = (
    "The client itself: whoever runs it sees the histories it holds.",
    "The screen: recommendations shown to a user reveal that user's history to whoever sees them.",
    "A person with accounts in several silos: the unit is one user in one silo; budgets of several add up.",
    "A server, or anybody else, that is given a history to recommend for has seen it.",
    "Settings that were chosen by looking at exact metrics of the same users: tuning costs privacy that no claim counts.",
    "The exact metrics, baselines and training losses in the research record: they are not noised.",
)


@dataclass(frozen=True)
class Claim:
    """One promise to one unit against one adversary.

    Attributes:
        adversary: Stable name: `outsider`, `server`, `active-server`, `colluding-clients` or `own-device`.
        who: The same for people.
        unit: `user` or `window`.
        relation: What neighboring data sets are.
        scope: What is released.
        epsilon: Upper bound; None where nothing is claimed.
        delta: Of the bound.
        protected: Whether the bound holds as the run is; False where it rests on something that is not there.
        statement: Plain words: what the bound means, and why it holds.
        reason: Why it holds, or why not, alone.
    """

    adversary: str
    who: str
    unit: str
    relation: str
    scope: str
    epsilon: float | None
    delta: float
    protected: bool
    statement: str
    reason: str


def claims(plan: PrivacyPlan, events: Sequence[Event]) -> list[Claim]:
    """One line for each adversary.

    Args:
        plan: What is done to every contribution.
        events: What was, or will be, released, as an outsider sees it (`PrivacyPlan.events`).
    """
    return [*(_claim(plan, adversary, events) for adversary in ADVERSARIES), _own_device(plan)]


def group_claim(plan: PrivacyPlan, events: Sequence[Event], *, size: int = 2) -> float | None:
    """Epsilon for a person with `size` accounts, against the plan's own adversary; None where nothing is claimed."""
    if not plan.is_private:
        return None
    seen = plan.seen_by(plan.adversary, events)  # type: ignore[arg-type]
    return None if seen is None else group_epsilon(seen, delta=plan.delta, relation=plan.relation, size=size)


def curve(plan: PrivacyPlan, events: Sequence[Event]) -> list[tuple[float, float]]:
    """Pairs (delta, epsilon) of the same events against the plan's own adversary."""
    seen = plan.seen_by(plan.adversary, events) if plan.is_private else None  # type: ignore[arg-type]
    if seen is None:
        return []
    deltas = sorted({*_CURVE_DELTAS, plan.delta}, reverse=True)
    return delta_curve(seen, deltas=[value for value in deltas if value <= plan.delta * 100], relation=plan.relation)


def warnings(plan: PrivacyPlan) -> list[str]:
    """What weakens a claim without making it false."""
    if plan.is_private and plan.delta > _WARNING_SHARE / plan.population:
        return [
            f"delta={plan.delta:g} is above a tenth of 1/population ({_WARNING_SHARE / plan.population:.1e}): with that "
            "probability the bound may fail for somebody among so many. Use at most the default."
        ]
    return []


def assumptions(plan: PrivacyPlan, *, fixed_reply_times: bool = False) -> list[tuple[str, bool]]:
    """What a claim rests on, each checked or declared.

    Args:
        plan: The plan.
        fixed_reply_times: Whether replies leave at fixed times.
    """
    rows = [
        ("Noise and sampling come from a cryptographic source", not plan.reproducible),
        ("Every contribution is clipped before it is added up", plan.adds_noise),
        ("Sampling rate, divisor and weights are public constants", True),
        ("The catalog and its texts exist independently of these users (declared)", plan.public_catalog),
        ("The released round was fixed in advance or chosen from noised, accounted values", True),
        ("Replies leave at fixed times, whatever a client computes", fixed_reply_times),
        ("Noise is added to integers, so that no float gives a value away", plan.clips_whole_updates),
        ("delta is at most a tenth of 1/population", plan.delta * plan.population <= _WARNING_SHARE),
    ]
    if plan.adversary == "active-server":
        rows.append(("The owner of every device set a limit in its ledger (a plan cannot know)", False))
    if plan.mechanism == "distributed":
        rows.append(("Single updates are hidden from the server by secure aggregation", False))
    if plan.clips_whole_updates and plan.sampling_rate < 1 and not plan.min_separation:
        rows.append(("Who took part in a round, and how many, stays secret from the outsider", True))
    return rows


def _claim(plan: PrivacyPlan, adversary: Adversary, events: Sequence[Event]) -> Claim:
    bound = plan.epsilon_against(adversary, events) if plan.is_private else None
    if bound is not None and not math.isfinite(bound):
        bound = None  # an infinite bound promises nothing
    # The stand-in adds up in the open, and the active server's line is a warning, not a promise.
    hidden = plan.mechanism != "distributed" or adversary in ("outsider", "colluding-clients")
    # How often an active server is answered is up to the devices' owners, of whom a plan knows nothing.
    hidden = hidden and adversary != "active-server"
    protected = bound is not None and hidden
    reason = _reason(plan, adversary) if plan.is_private else _nothing(plan)
    return Claim(
        adversary=adversary,
        who=_who(plan, adversary),
        unit=plan.unit,
        relation=_relation(plan, adversary),
        scope=RELEASE_SCOPE,
        epsilon=bound,
        delta=plan.delta,
        protected=protected,
        statement=f"{_promise(plan, bound, protected=protected)} {reason}" if plan.is_private else reason,
        reason=reason,
    )


def _who(plan: PrivacyPlan, adversary: Adversary) -> str:
    if adversary == "colluding-clients" and plan.colluding_clients:
        return f"up to {plan.colluding_clients} colluding clients"
    if adversary == "server" and plan.mechanism in ("central", "dp-ftrl-central"):
        return "the server, which adds the noise itself"
    return WHO[adversary]


def _relation(plan: PrivacyPlan, adversary: Adversary) -> str:
    if plan.unit == "window" or adversary == "outsider":
        return plan.relation
    return "zero-out"  # who took part is known


def _promise(plan: PrivacyPlan, bound: float | None, *, protected: bool) -> str:
    if bound is None:
        return "No protection."
    # Rounded up: a bound that is printed must not lie below the one that holds.
    shown = f"{math.ceil(bound * 100) / 100:.2f}"
    if not protected:
        return f"No protection as things are; the arithmetic gives epsilon {shown}."
    what = "one user's whole history was used" if plan.unit == "user" else "one window of a history was another"
    return (
        f"Whether {what} changes any outcome's probability by at most a factor exp({shown}), up to probability "
        f"{plan.delta:g}."
    )


def _nothing(plan: PrivacyPlan) -> str:
    return f"Not private: no bound is claimed ({str(plan.why_not_private()).removeprefix('not private: ')})."


def _reason(plan: PrivacyPlan, adversary: Adversary) -> str:
    if plan.adds_noise_locally:
        return {
            "outsider": "Noise was added inside each silo before anything left it.",
            "server": "It sees each silo's noised update and who took part, never a clean one.",
            "active-server": "Each silo's noise is full by itself, so that is what the planned number of answers costs. A "
            "server that asks for more is stopped by the limit that the silo's owner set, and by nothing else: `tacit node "
            "budget set-limit`.",
            "colluding-clients": "A silo's own noise does not depend on what others add.",
        }[adversary]
    if plan.mechanism == "distributed":
        return {
            "outsider": "The sum carries the noise shares of all who answered. Their variance tells how many those were, so "
            "sampling does not help, and nothing hides that a client answered.",
            "server": "Only behind secure aggregation, where the server meets sums alone: it knows who took part, so "
            "sampling does not help. The stand-in of this version adds up in the open and protects nothing.",
            "active-server": "That is one client's own share of the noise, all that is left when the others are the "
            "server's inventions: no protection worth the name.",
            "colluding-clients": "Noise is calibrated without their shares, and they know whose updates are theirs.",
        }[adversary]
    return {
        "outsider": "The server adds the noise to the exact sum before anything is released"
        + (", and who took part is secret." if plan.sampling_rate < 1 and not plan.min_separation else "."),
        "server": "It sees every clean update; it has to be trusted.",
        "active-server": "It sees every clean update.",
        "colluding-clients": "They see what everybody sees and know their own part; nothing is gained from who was drawn.",
    }[adversary]


def _own_device(plan: PrivacyPlan) -> Claim:
    return Claim(
        adversary="own-device",
        who=WHO["own-device"],
        unit=plan.unit,
        relation=_relation(plan, "server"),
        scope=RELEASE_SCOPE,
        epsilon=None,
        delta=plan.delta,
        protected=False,
        statement="No protection: the client holds the histories it trains on.",
        reason="It holds the histories it trains on.",
    )
