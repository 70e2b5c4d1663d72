"""A statement of privacy laid out for both pages: headline claim, claims by adversary, bounds, mechanism.

Lives here: which words and rounded numbers of the statement stand where. Never here: a promise, which the statement phrases
itself, an epsilon that was not read, or HTML. A bound is shown as a promise only where its claim is protected; every other
epsilon is called arithmetic, or left out where the run is not private at all.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from markupsafe import Markup

from server.reporting.charts import Point, Reference, line_chart
from shared import wording
from shared.privacy.assumptions import Assumption
from shared.privacy.claims import WHO, Claim
from shared.privacy.mechanism import Mechanism
from shared.privacy.statement import MechanismFacts, Statement
from shared.privacy.supported_claims import ADVERSARIES

MECHANISMS = {
    "none": "none: contributions are neither clipped nor noised",
    "dp-sgd": "DP-SGD in each silo: at every local step the silo clips each unit's gradient and adds its own noise",
    "dp-ftrl-silo": "banded DP-FTRL in each silo: clipped gradients under the silo's own noise, correlated over steps; a "
    "least distance between two uses of a user stands in for secret sampling",
    "central": "central noise: each client clips its whole update, and the server adds the noise to the exact sum",
    "dp-ftrl-central": "banded DP-FTRL by the server: each client clips its whole update, the server adds noise correlated "
    "over rounds; a least distance between two participations stands in for secret sampling",
    "distributed": "distributed noise: each client clips its whole update and adds a share of the noise, and only the sum "
    "carries all of it",
}
"""What each mechanism of a privacy plan does, in plain words."""

_OF_STATISTICS = {
    "none": MECHANISMS["none"],
    "silo": "noise in each silo: for each release the silo clips each unit's contribution and adds its own noise",
    "central": "central noise: each client clips its contribution to a release, and the server adds the noise to the exact "
    "sum",
    "shares": "distributed noise: each client clips its contribution to a release and adds a share of the noise, and only "
    "the sum carries all of it",
}
# What says how a run trains, and nothing where it does not.
_OF_TRAINING = frozenset({
    "noise_multiplier", "l2_clip_norm", "clipping", "sampling_rate", "rounds", "steps_per_round", "expected_cohort",
    "cohort_cap", "min_separation",
})  # fmt: skip

_AGGREGATION = {
    "none": "none",
    "stand-in": "stand-in: a sum in the open, which hides nothing",
    "masked": "every client masks its contribution; the server gets the sum",
}

# Key -> label, what a zero means, and how the number is written. A smaller noise and a larger rate promise less.
_ROWS: Final[dict[str, tuple[str, str, str]]] = {
    "name": ("mechanism", "", "words"),
    "unit": ("unit", "", "words"),
    "relation": ("neighboring relation", "", "words"),
    "secure_aggregation": ("secure aggregation", "", "words"),
    "noise_multiplier": ("noise multiplier (noise over clip norm)", "0: no noise", "down"),
    "l2_clip_norm": ("clip norm (L2)", "", "up"),
    "clipping": ("clip norm is", "", "words"),
    "sampling_rate": ("sampling rate", "", "up"),
    "rounds": ("rounds", "", "count"),
    "steps_per_round": ("local steps a round", "", "count"),
    "windows_per_user": ("most windows of one user", "", "count"),
    "population": ("users, a public constant", "", "count"),
    "clients": ("clients, a public constant", "", "count"),
    "expected_cohort": ("expected cohort", "", "up"),
    "colluding_clients": ("clients whose shares of noise do not count", "none", "count"),
    "cohort_cap": ("largest cohort", "no cap", "count"),
    "minimum_survivors": ("fewest answers for a release", "not set", "count"),
    "smallest_active_sum": ("fewest honest clients in a sum that an active server opens", "not bounded", "count"),
    "min_separation": ("least separation of two participations", "none", "count"),
    "releases.popularity": ("noise multiplier of the popularity prior", "0: no noised prior", "down"),
    "statistics": ("statistics that are released", "", "words"),
    "releases.pairs": ("noise multiplier of the pairs", "0: no noised pairs", "down"),
    "releases.transitions": ("noise multiplier of the transitions", "0: no noised transitions", "down"),
    "releases.refinement": ("noise multiplier of the refined statistic", "0: none refined", "down"),
    "releases.blending": ("noise multiplier of the scores' weights", "0: none learned", "down"),
    "releases.selection": ("noise multiplier of the selection", "0: no noised selection", "down"),
    "releases.metrics": ("noise multiplier of released metrics", "0: no noised metrics", "down"),
    "evaluations": ("releases of metrics", "none", "count"),
    "target_epsilon": ("epsilon asked for", "", "epsilon"),
    "delta": ("delta", "none", "delta"),
}
_NUMBERS: Final[dict[str, Callable[[float], str]]] = {
    "up": lambda number: wording.rounded_text(number, up=True),
    "down": lambda number: wording.rounded_text(number, up=False),
    "count": wording.count_text,
    "epsilon": wording.epsilon_text,
    "delta": wording.delta_text,
}


@dataclass(frozen=True)
class Headline:
    """The claim that a run leads with, all six parts.

    Attributes:
        sentence: What the statement says first.
        who: The adversary, for people.
        unit: What is protected.
        relation: What neighboring data sets are.
        scope: What is released.
        epsilon: Upper bound, or None.
        delta: Of the bound, or None.
        holds: Whether the bound is a promise.
        is_meaningful: Whether it is a promise, and small enough to be of use.
        why_not: Where the run as a whole is not private: why.
    """

    sentence: str
    who: str
    unit: str
    relation: str
    scope: str
    epsilon: float | None
    delta: float | None
    holds: bool
    is_meaningful: bool
    why_not: str | None


@dataclass(frozen=True)
class ClaimRow:
    """One line of the table of claims.

    Attributes:
        who: The adversary, for people.
        holds: Whether the bound is a promise, and small enough to be of use.
        verdict: The same in words.
        epsilon: As text.
        note: What stands below epsilon, or nothing.
        delta: As text.
        unit: Unit and relation.
        scope: What is released.
        statement: Plain words.
    """

    who: str
    holds: bool
    verdict: str
    epsilon: str
    note: str
    delta: str
    unit: str
    scope: str
    statement: str


@dataclass(frozen=True)
class Bound:
    """An epsilon with the sentence that says against whom it holds.

    Attributes:
        name: What it is called.
        epsilon: As text.
        sentence: Plain words.
    """

    name: str
    epsilon: str
    sentence: str


def headline(statement: Statement) -> Headline:
    """The claim against the adversary that the run was planned for; without one, `holds` is False and `why_not` says why."""
    own = statement.own
    return Headline(
        sentence=statement.headline,
        who="not stated" if own is None else own.who,
        unit=statement.unit,
        relation=statement.neighboring_relation if own is None else own.relation,
        scope=statement.scope,
        epsilon=None if own is None else own.epsilon,
        delta=None if own is None else own.delta,
        holds=own is not None and own.protected,
        is_meaningful=own is not None and own.is_meaningful,
        why_not=statement.reason_why_not if own is None else None,
    )


def claim_rows(statement: Statement) -> list[ClaimRow]:
    """Lays out the claims, one row an adversary, in the statement's order.

    Guarantee:
        Where the run is not private no row shows an epsilon, because no claim of such a statement has one.
    """
    return [_claim_row(claim) for claim in statement.claims]


def _claim_row(claim: Claim) -> ClaimRow:
    arithmetic = not claim.protected and claim.epsilon is not None
    bound = wording.epsilon_text(claim.epsilon)
    return ClaimRow(
        who=claim.who,
        holds=claim.is_meaningful,
        verdict=claim.verdict,
        epsilon="not claimed" if arithmetic else bound,
        note=f"{bound} by arithmetic" if arithmetic else "",
        delta=wording.delta_text(claim.delta) if claim.protected else wording.MISSING,
        unit=f"{claim.unit}, {claim.relation}",
        scope=claim.scope,
        statement=claim.statement,
    )


def bounds(statement: Statement) -> list[Bound]:
    """Lays out what goes with the claims: both bounds of one client, and the bound of a person with several accounts.

    Returns:
        Three; none where the run is not private.
    """
    if not statement.is_private:
        return []
    client, group, claim = statement.per_client, statement.group, headline(statement)
    equal = client.with_amplification == client.known_participation
    accounts = wording.count_text(group.accounts)
    return [
        Bound(
            "One client, with amplification",
            wording.epsilon_text(client.with_amplification),
            "Against an adversary without knowledge of the rounds in which a client took part. It assumes that sampling "
            "stayed secret.",
        ),
        Bound(
            f"One client, {wording.WITHOUT_AMPLIFICATION}",
            wording.epsilon_text(client.known_participation),
            "The worst case: against an adversary that knows that the client took part in every round it could. It assumes "
            "no secret about participation."
            + (" Equal here, because the server draws no client in secret." if equal else ""),
        ),
        Bound(
            f"A person with {accounts} accounts" + ("" if claim.holds else " (arithmetic only)"),
            wording.epsilon_text(group.epsilon),
            f"Against {claim.who}, for a person with data in {accounts} accounts, at delta "
            f"{wording.delta_text(group.delta)}.",
        ),
    ]


def mechanism_rows(statement: Statement, *, without: frozenset[str] = frozenset()) -> list[tuple[str, str]]:
    """Lays out the numbers that say what was done; what would flatter is rounded the other way.

    Of a run without training it says nothing about training.

    Args:
        statement: Whose mechanism and releases. (public)
        without: Names of the values to leave out.

    Returns:
        Pairs of name and text.
    """
    mechanism = statement.mechanism
    held = mechanism.model_dump() | {f"releases.{one.name}": one.noise_multiplier for one in statement.releases}
    if not mechanism.rounds:
        without |= _OF_TRAINING
    return [
        (label, _done(mechanism) if key == "name" else _written(key, held.get(key, 0.0), zero, kind))
        for key, (label, zero, kind) in _ROWS.items()
        if key not in without
    ]


def _done(mechanism: MechanismFacts) -> str:
    """What the mechanism does to contributions: to those of training, or in a run without it to those of statistics."""
    if mechanism.rounds:
        return MECHANISMS[mechanism.name]
    kind = Mechanism.named(mechanism.name)
    if kind.shares_noise:
        return _OF_STATISTICS["shares"]
    place = "silo" if kind.adds_noise_locally else "central" if kind.adds_noise_centrally else "none"
    return _OF_STATISTICS[place]


def _written(key: str, value: Any, zero: str, kind: str) -> str:
    if value is None:
        return "none"
    if kind == "words":
        if key == "statistics":
            return str(value).replace(",", ", ") or "none"
        return _AGGREGATION.get(str(value), str(value)) if key == "secure_aggregation" else str(value)
    return zero if value == 0 and zero else _NUMBERS[kind](value)


def sent_rows(statement: Statement) -> list[tuple[str, str, str]]:
    """Lays out what a client sends: the thing, how often and how large, and what is done to it before."""
    return [
        (row.what, row.when + (f", {wording.bytes_text(row.bytes)}" if row.bytes else ""), row.how) for row in statement.sent
    ]


def safeguards(statement: Statement) -> dict[str, Any]:
    """Lays out what claims rest on, what weakens them, and what nothing protects.

    Returns:
        `assumptions` as (text, verdict, holds), `broken` where one does not hold, `warnings` and `not_protected` as texts.
    """
    return {
        "assumptions": [(one.text, _verdict(one), one.holds) for one in statement.assumptions],
        "broken": any(not one.holds for one in statement.assumptions),
        "warnings": list(statement.warnings),
        "not_protected": list(statement.not_protected),
    }


def _verdict(assumption: Assumption) -> str:
    """Whether an assumption holds, and what follows where it does not."""
    if assumption.holds:
        return "holds"
    if not assumption.voids:
        return "does not hold: a stated limit, beside the numbers that are claimed"
    everybody = len(assumption.voids) == len(ADVERSARIES)
    voided = "every adversary" if everybody else ", ".join(WHO[name] for name in assumption.voids)
    return f"does not hold: voids the claims against {voided}"


def delta_curve(curve: Iterable[tuple[float, float | None]], quoted: Sequence[Reference]) -> Markup:
    """Epsilon at each delta; a bound holds at all of them at once.

    Args:
        curve: Delta and epsilon, ascending; None for infinity.
        quoted: What is promised.
    """
    return line_chart(
        [
            Point(math.log10(delta), epsilon, f"delta {wording.delta_text(delta)}: epsilon {wording.epsilon_text(epsilon)}")
            for delta, epsilon in curve
        ],
        label="Epsilon at each delta",
        x_label="δ",
        x_text=lambda exponent: f"1e{exponent:.0f}",
        references=quoted,
        labels="left",
        from_zero=True,
        width=440,
    )
