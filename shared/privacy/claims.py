"""The claims of a statement: one for each adversary, in numbers and in plain words.

A claim names six things: unit, neighboring relation, adversary, release scope, epsilon and delta; one number without the
rest is an error. The release scope is always the whole run: every adapter, every released statistic and metric.
A claim is computed with its assumptions: where one fails that it rests on, it protects nothing and says which. `promise` is
the one sentence that says what a bound means; no page, card or terminal has words of its own for it.
What never lives here: the numbers' making (`plan.py`, `accounting.py`), what holds (`assumptions.py`), and what else a
statement says (`statement.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

from pydantic import ConfigDict, model_validator
from pydantic.dataclasses import dataclass

from shared import wording
from shared.privacy.accounting import delta_curve, group_epsilon
from shared.privacy.assumptions import LARGEST_SHARE_OF_DELTA, failed
from shared.privacy.events import Event
from shared.privacy.plan import PrivacyPlan
from shared.privacy.supported_claims import ADVERSARIES, LARGEST_MEANINGFUL_EPSILON, Adversary

RELEASE_SCOPE = "every adapter of the run, every released statistic and the released metrics"
WHO: dict[str, str] = {
    "outsider": "outsider with every released adapter",
    "server": "honest-but-curious server",
    "active-server": "active server, or clients it mints",
    "colluding-clients": "clients colluding with one another",
    "own-device": "the person or program that runs the user's own client",
}
# Below, delta is so large, and a user so large a part of a sum, that the words of a claim promise little.
SMALL_POPULATION = 100
# What a guess about a user is right with before, for the sentence that says what it can be right with after.
_GUESS = 0.01
_LARGEST_EXPONENT = 700.0  # of a float
_CURVE_DELTAS = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10)
# What differs between neighboring data sets, by unit and relation.
CHANGES: dict[tuple[str, str], str] = {
    ("user", "add-or-remove-one"): "Including or leaving out one user's full history",
    ("user", "zero-out"): "Emptying one user's full history, with the client still replying,",
    ("window", "replace-one"): "Replacing one window of a history with another",
}

NOT_PROTECTED = (
    "The client itself: the person or program that runs it sees the histories it holds.",
    "The screen: recommendations shown to a user reveal that user's history to everybody who sees them.",
    "A person with accounts in several silos: the unit is one user in one silo; budgets of several add up.",
    "A history that is sent to a server to recommend for: that server has seen it.",
    "Settings that were chosen by looking at exact metrics of the same users: tuning costs privacy that no claim counts.",
    "The exact metrics, baselines and training losses in the research record: they are not noised.",
)


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True, allow_inf_nan=False))
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
        protected: Whether the bound holds as the run is; False where an assumption that it rests on does not hold.
        failed_assumptions: Those that do not, each a sentence.
        factor: e to the epsilon as it is printed, by which at most the probability of any outcome changes; None where
            nothing is claimed or no float holds it.
        guess: What a guess that is right with probability 1 % before can at most be right with after, delta aside.
        promise: The bound as a sentence (`promise`).
        reason: Why it holds, or why not.
        statement: Promise and reason together.
    """

    adversary: str
    who: str
    unit: str
    relation: str
    scope: str
    epsilon: float | None
    delta: float
    protected: bool
    failed_assumptions: tuple[str, ...]
    factor: float | None
    guess: float | None
    promise: str
    reason: str
    statement: str

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        """A file that calls something protected without a bound, or on failed assumptions, is damaged."""
        if self.protected and (self.epsilon is None or self.failed_assumptions):
            raise ValueError("a claim is called protected without a bound, or on an assumption that fails")
        return self

    @property
    def is_meaningful(self) -> bool:
        """Whether the bound holds and is small enough to be of use."""
        return self.protected and self.epsilon is not None and self.epsilon <= LARGEST_MEANINGFUL_EPSILON

    @property
    def verdict(self) -> str:
        """Whether this adversary is shut out, in a word or three."""
        if not self.protected:
            return "no"
        return "yes" if self.is_meaningful else "no meaningful protection"


def claims(plan: PrivacyPlan, events: Sequence[Event], *, continued: bool = False) -> list[Claim]:
    """One line for each adversary.

    Args:
        plan: What is done to every contribution.
        events: What was, or will be, released, as an outsider sees it (`PrivacyPlan.events`).
        continued: Whether earlier runs are among them, whose shares of noise were made for colluding clients of their own
            number.
    """
    return [*(_claim(plan, adversary, events, continued=continued) for adversary in ADVERSARIES), _own_device(plan)]


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


def altered(claim: Claim, *, colluding_clients: int, central: bool, continued: bool) -> str | None:
    """Which words or numbers of a claim do not follow from its own bound; None where all do.

    Args:
        claim: As it was read. (public)
        colluding_clients: As of its plan. (public)
        central: Whether the server adds the noise. (public)
        continued: As in `claims`. (public)
    """
    bound = claim.epsilon
    sentence = promise(
        unit=claim.unit, relation=claim.relation, epsilon=bound, delta=claim.delta, failed=claim.failed_assumptions
    )
    found: dict[str, object] = {
        "who": _who(claim.adversary, colluding_clients=colluding_clients, central=central, continued=continued),
        "scope": RELEASE_SCOPE,
        "promise": sentence,
        "statement": f"{sentence} {claim.reason}".strip(),
    }
    for name, value in found.items():
        if getattr(claim, name) != value:
            return name
    for name, number in (("factor", _factor(bound)), ("guess", None if bound is None else _guess_after(bound))):
        said: float | None = getattr(claim, name)
        if said != number and (said is None or number is None or not math.isclose(said, number, rel_tol=1e-9)):
            return name
    return None


def not_kept(plan: PrivacyPlan, found: Sequence[Claim]) -> str | None:
    """A sentence where the claim that a private run was planned for does not hold; else None."""
    own = next((claim for claim in found if claim.adversary == plan.adversary), None) if plan.is_private else None
    if own is None or own.protected:
        return None
    because = f", because this does not hold: {'; '.join(own.failed_assumptions)}" if own.failed_assumptions else ""
    return f"NOT PROTECTED against {own.who}, contrary to the plan{because}."


def warnings(plan: PrivacyPlan, found: Sequence[Claim]) -> list[str]:
    """What weakens a claim without making it false."""
    if not plan.is_private:
        return []
    said = []
    if plan.delta > LARGEST_SHARE_OF_DELTA / plan.num_units * (1 + 1e-9):
        units = "population" if plan.unit == "user" else "number of windows"
        said.append(
            f"delta={plan.delta:g} is above a tenth of 1/{units} ({LARGEST_SHARE_OF_DELTA / plan.num_units:.1e}): the bound "
            f"may fail for one {plan.unit} with that probability. Use at most the default."
        )
    if plan.population < SMALL_POPULATION:
        said.append(
            f"A population of {plan.population} is small: the bound may fail with probability delta={plan.delta:g}, and one "
            f"user is a large part of every sum. Claims say little below {SMALL_POPULATION} users."
        )
    useless = [claim for claim in found if claim.protected and not claim.is_meaningful]
    for sentence in dict.fromkeys(claim.promise for claim in useless):
        against = "; ".join(claim.who for claim in useless if claim.promise == sentence)
        said.append(f"{sentence} Against: {against}.")
    return said


def _claim(plan: PrivacyPlan, adversary: Adversary, events: Sequence[Event], *, continued: bool) -> Claim:
    bound = plan.epsilon_against(adversary, events) if plan.is_private else None
    if bound is not None and not math.isfinite(bound):
        bound = None  # an infinite bound promises nothing
    missing = failed(plan, adversary) if plan.is_private else ()
    relation, reason = _relation(plan, adversary), _reason(plan, adversary) if plan.is_private else ""
    sentence = promise(unit=plan.unit, relation=relation, epsilon=bound, delta=plan.delta, failed=missing)
    if not plan.is_private:
        sentence = _nothing(plan)
    return Claim(
        adversary=adversary,
        who=_who(
            adversary,
            colluding_clients=plan.colluding_clients,
            central=plan.mechanism.adds_noise_centrally,
            continued=continued,
        ),
        unit=plan.unit,
        relation=relation,
        scope=RELEASE_SCOPE,
        epsilon=bound,
        delta=plan.delta,
        protected=bound is not None and not missing,
        failed_assumptions=missing,
        factor=_factor(bound),
        guess=None if bound is None else _guess_after(bound),
        promise=sentence,
        reason=reason,
        statement=f"{sentence} {reason}".strip(),
    )


def _who(adversary: str, *, colluding_clients: int, central: bool, continued: bool) -> str:
    if adversary == "colluding-clients" and colluding_clients:
        if continued:
            return f"colluding clients, in each run up to those that its noise is made for (here {colluding_clients})"
        return f"up to {colluding_clients} colluding clients"
    if adversary == "server" and central:
        return "the server, which adds the noise itself"
    return WHO[adversary]


def _relation(plan: PrivacyPlan, adversary: Adversary) -> str:
    if plan.unit == "window" or adversary == "outsider":
        return plan.relation
    return "zero-out"  # who took part is known


def promise(*, unit: str, relation: str, epsilon: float | None, delta: float, failed: Sequence[str] = ()) -> str:
    """What a bound means, as a sentence.

    Guarantee:
        No number in it is below the one that holds: epsilon, the factor and delta are rounded up.

    Args:
        unit: What is protected. (public)
        relation: What neighboring data sets are. (public)
        epsilon: The bound; None where there is none. (public)
        delta: Of the bound. (public)
        failed: The assumptions that it rests on and that do not hold. (public)
    """
    if epsilon is None:
        return "No protection."
    if failed:
        what = "; ".join(failed)
        return f"Not protected in this run, because this does not hold: {what}. With it epsilon would be {_shown(epsilon)}."
    if epsilon > LARGEST_MEANINGFUL_EPSILON:
        return (
            f"No meaningful protection: epsilon {_shown(epsilon)} is above {LARGEST_MEANINGFUL_EPSILON:g} and allows a "
            f"factor of {_factor_text(epsilon)}."
        )
    after = wording.significant(100 * _guess_after(epsilon), up=True, digits=2)
    return (
        f"{CHANGES[unit, relation]} changes the probability of any outcome by at most a factor of {_factor_text(epsilon)} "
        f"(e^{_shown(epsilon)}), plus {wording.significant(delta, up=True, digits=3)}. A guess about that {unit} "
        f"improves from 1 % to at most {after} %."
    )


def _shown(bound: float) -> str:
    """Rounded up: a bound that is printed must not lie below the one that holds."""
    return wording.at_most(bound)


def _factor(bound: float | None) -> float | None:
    """e to the bound as it is printed, so that a reader with a calculator finds the same."""
    if bound is None or bound > _LARGEST_EXPONENT:
        return None
    return math.exp(float(wording.at_most(bound).replace(",", "")))


def _factor_text(bound: float) -> str:
    factor = _factor(bound)
    return f"e^{_shown(bound)}" if factor is None else wording.factor(factor)


def _guess_after(bound: float) -> float:
    """By Bayes: the odds grow by at most e^epsilon."""
    return _GUESS / (_GUESS + (1.0 - _GUESS) * math.exp(-bound))


def _nothing(plan: PrivacyPlan) -> str:
    return f"Not private: no bound is claimed ({str(plan.why_not_private()).removeprefix('not private: ')})."


def _reason(plan: PrivacyPlan, adversary: Adversary) -> str:
    if plan.adds_noise_locally:
        return {
            "outsider": "Each silo adds its noise before it sends a contribution.",
            "server": "It sees each silo's noised update and who took part, never a clean one.",
            "active-server": "Each silo adds the full noise; this is the cost of the planned replies. Only the limit that "
            "the silo's owner sets stops further requests (`tacit node budget set-limit`).",
            "colluding-clients": "A silo's own noise does not depend on what others add.",
        }[adversary]
    if plan.mechanism.shares_noise:
        return {
            "outsider": "The sum carries the noise shares of all who answered. Their variance tells how many those were, so "
            "sampling does not help, and nothing hides that a client answered.",
            "server": "It knows who took part, so sampling does not help. "
            + (
                "It sees contributions under masks and their sum."
                if plan.masks_contributions
                else "This run adds contributions up in the open, and it sees each under one share of the noise. A "
                "deployment (`tacit server run`) masks them, and so does secure_aggregation.simulate=full. Clients that one "
                "process plays draw the sum of their shares at once."
            ),
            "active-server": "This is one client's own share of the noise, if all other clients are fake: effectively no "
            "protection."
            if not plan.smallest_active_sum
            else "It may leave clients out of a sum. Each client makes sure that it opens none of fewer than "
            f"{plan.smallest_active_sum} honest clients, but for a probability of 2^-41 a sum; this is what their shares of "
            "the noise are worth.",
            "colluding-clients": "Noise is calibrated without their shares, and they know whose updates are theirs.",
        }[adversary]
    return {
        "outsider": "The server adds the noise to the exact sum before anything is released"
        + (", and who took part is secret." if plan.sampling_rate < 1 and not plan.min_separation else "."),
        "server": "It sees every clean update; it has to be trusted.",
        "active-server": "It sees every clean update.",
        "colluding-clients": "They see every release and know in which rounds they were drawn, so sampling does not help.",
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
        failed_assumptions=(),
        factor=None,
        guess=None,
        promise="No protection.",
        reason="The client holds the histories it trains on.",
        statement="No protection. The client holds the histories it trains on.",
    )
