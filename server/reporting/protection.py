"""What a run's privacy block says, laid out for both pages: headline claim, claims by adversary, bounds, mechanism.

Lives here: which words and rounded numbers stand where. `privacy` is the `privacy` part of a run record or a whole release
report, which share their keys. Never here: an epsilon that was not read, or HTML. A bound is shown as a promise only where
run, claim and epsilon agree (`sentences.claim_protects`); every other epsilon is called arithmetic, or left out where the
run is not private at all.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from server.reporting import sentences
from server.reporting.document import scalar_text
from server.reporting.sentences import entries, finite, section
from shared import wording
from shared.privacy.claims import CHANGES, WHO
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

_AGGREGATION = {"none": "none", "stand-in": "stand-in: a sum in the open, which hides nothing"}

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
    "cohort_cap": ("largest cohort", "no cap", "count"),
    "minimum_survivors": ("fewest answers for a release", "not set", "count"),
    "min_separation": ("least separation of two participations", "none", "count"),
    "popularity_noise_multiplier": ("noise multiplier of the popularity prior", "0: no noised prior", "down"),
    "statistics": ("statistics that are released", "", "words"),
    "pairs_noise_multiplier": ("noise multiplier of the pairs", "0: no noised pairs", "down"),
    "transitions_noise_multiplier": ("noise multiplier of the transitions", "0: no noised transitions", "down"),
    "refinement_noise_multiplier": ("noise multiplier of the refined statistic", "0: none refined", "down"),
    "blending_noise_multiplier": ("noise multiplier of the scores' weights", "0: none learned", "down"),
    "selection_noise_multiplier": ("noise multiplier of the selection", "0: no noised selection", "down"),
    "evaluation_noise_multiplier": ("noise multiplier of released metrics", "0: no noised metrics", "down"),
    "evaluations": ("releases of metrics", "none", "count"),
    "target_epsilon": ("epsilon asked for", "", "epsilon"),
    "delta": ("delta", "none", "delta"),
}
_NUMBERS: Final[dict[str, Callable[[float], str]]] = {
    "up": lambda number: sentences.rounded_text(number, up=True),
    "down": lambda number: sentences.rounded_text(number, up=False),
    "count": sentences.count_text,
    "epsilon": sentences.epsilon_text,
    "delta": sentences.delta_text,
}


@dataclass(frozen=True)
class Headline:
    """The claim that a run leads with, all six parts.

    Attributes:
        who: The adversary, for people.
        unit: What is protected.
        relation: What neighboring data sets are.
        scope: What is released.
        epsilon: Upper bound, or None.
        delta: Of the bound, or None.
        holds: Whether the bound is a promise.
        failed: Where it is none: the assumptions that do not hold.
        factor: e^epsilon; None where it was not recorded.
        guess: What a guess that was right with 1 % can be right with after, in [0, 1]; None where it was not recorded.
        why_not: Where the run as a whole is not private: why.
    """

    who: str
    unit: str
    relation: str
    scope: str
    epsilon: float | None
    delta: float | None
    holds: bool
    failed: tuple[str, ...]
    factor: float | None
    guess: float | None
    why_not: str | None

    @property
    def is_meaningful(self) -> bool:
        """Whether the bound is a promise and small enough to be of use."""
        return self.holds and sentences.is_meaningful({"epsilon": self.epsilon})

    @property
    def sentence(self) -> str:
        """The claim, or that there is none, in one sentence."""
        if self.why_not is not None:
            return f"NOT PRIVATE: {self.why_not}."
        parts = f"unit {self.unit}, relation {self.relation}"
        if self.holds:
            change = CHANGES.get((self.unit, self.relation), f"Changing one {self.unit}")
            factor = "e^ε" if self.factor is None else f"{wording.factor(self.factor)} (e^ε)"
            return (
                f"Claim against {self.who} ({parts}; ε = {sentences.epsilon_text(self.epsilon)}, δ = "
                f"{sentences.delta_text(self.delta)}): {change} changes the probability of anything that may be seen in "
                f"{self.scope} by a factor of at most {factor}, plus δ.{self._guess_sentence}"
            )
        if self.epsilon is None:
            return f"No claim against {self.who} ({parts}; scope: {self.scope}): the report holds no bound."
        return (
            f"No claim against {self.who} ({parts}; scope: {self.scope}): by arithmetic epsilon is "
            f"{sentences.epsilon_text(self.epsilon)} at delta {sentences.delta_text(self.delta)}, but that bound rests on "
            f"something that does not hold in this run{f': {self.failed_text}' if self.failed else ''}."
        )

    @property
    def failed_text(self) -> str:
        """The assumptions that do not hold, one after the other."""
        return "; ".join(self.failed)

    @property
    def _guess_sentence(self) -> str:
        if not self.is_meaningful:
            return " That is no meaningful protection."
        if self.guess is None:
            return ""
        after = sentences.rounded_text(100 * self.guess, up=True, digits=2)
        return f" A guess about it that is right with 1 % before is right with at most {after} % after."


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
    """An epsilon with the sentence that says for whom it is.

    Attributes:
        name: What it is called.
        epsilon: As text.
        sentence: Plain words.
    """

    name: str
    epsilon: str
    sentence: str


def headline(privacy: Mapping[str, Any]) -> Headline:
    """Finds the claim against the adversary that the run was planned for; where none is named, the first that holds.

    Args:
        privacy: A privacy block.

    Returns:
        The claim; `holds` is False where the block makes none.
    """
    claims = entries(privacy, "claims")
    key = privacy.get("adversary")
    wanted = [
        claim
        for claim in claims
        if (claim.get("adversary") == key if key is not None else sentences.claim_protects(privacy, claim))
    ]
    claim = wanted[0] if wanted else {}
    is_private = privacy.get("is_private") is True

    def word(*values: object) -> str:
        return str(next((value for value in values if value), "not stated"))

    return Headline(
        who=sentences.who(claim) if claim else word(key if is_private else None),
        unit=word(claim.get("unit"), privacy.get("unit"), section(privacy, "mechanism").get("unit")),
        relation=word(
            claim.get("relation"), privacy.get("neighboring_relation"), section(privacy, "mechanism").get("relation")
        ),
        scope=word(claim.get("scope"), privacy.get("scope")),
        epsilon=finite(claim.get("epsilon")) if is_private else None,
        delta=finite(claim.get("delta")) if is_private else None,
        holds=bool(claim) and sentences.claim_protects(privacy, claim),
        failed=tuple(sentences.failed_assumptions(claim)),
        factor=finite(claim.get("factor")) if is_private else None,
        guess=finite(claim.get("guess")) if is_private else None,
        why_not=None if is_private else sentences.why_not(privacy),
    )


def claim_rows(privacy: Mapping[str, Any]) -> list[ClaimRow]:
    """Lays out the claims, one row an adversary.

    Guarantee:
        Where the run is not private no row shows an epsilon.

    Args:
        privacy: A privacy block.

    Returns:
        The rows in the block's order.
    """
    return [_claim_row(privacy, claim) for claim in entries(privacy, "claims")]


def _claim_row(privacy: Mapping[str, Any], claim: Mapping[str, Any]) -> ClaimRow:
    holds, bound = sentences.claim_protects(privacy, claim), finite(claim.get("epsilon"))
    is_private = privacy.get("is_private") is True
    contradicts = not holds and (claim.get("protected") is True or (bound is not None and not is_private))
    arithmetic = is_private and not holds and not contradicts and bound is not None
    note = f"{sentences.epsilon_text(bound)} by arithmetic" if arithmetic else ""
    is_meaningful = sentences.is_meaningful(claim)
    return ClaimRow(
        who=sentences.who(claim),
        holds=holds and is_meaningful,
        verdict="no" if not holds else "yes" if is_meaningful else "not in a meaningful way",
        epsilon=sentences.epsilon_text(bound) if holds else "not claimed" if arithmetic else "∞",
        note=note,
        delta=sentences.delta_text(claim.get("delta")) if holds else sentences.MISSING,
        unit=f"{claim.get('unit') or 'unit not stated'}, {claim.get('relation') or 'relation not stated'}",
        scope=str(claim.get("scope") or privacy.get("scope") or "not stated"),
        statement="This run makes no such claim." if contradicts else str(claim.get("statement") or ""),
    )


def bounds(privacy: Mapping[str, Any]) -> list[Bound]:
    """Lays out what goes with the claims: both bounds of one client, and the bound of a person with several accounts.

    Args:
        privacy: A privacy block.

    Returns:
        Those of the three that the block holds; none where the run is not private.
    """
    if privacy.get("is_private") is not True:
        return []
    client, group = section(privacy, "per_client"), section(privacy, "group")
    found = []
    amplified, known = client.get("with_amplification"), client.get("known_participation")
    equal = finite(amplified) is not None and amplified == known
    if "with_amplification" in client:
        found.append(
            Bound(
                "One client, with amplification",
                sentences.epsilon_text(amplified),
                "For an adversary that cannot learn in which rounds a client took part; it counts on sampling that stayed "
                "secret.",
            )
        )
    if "known_participation" in client:
        found.append(
            Bound(
                "One client, known participation",
                sentences.epsilon_text(known),
                "The worst case: for an adversary that knows that the client took part in all it could; it counts on no "
                "secret about who took part."
                + (" Equal here, because no client was drawn by the server in secret." if equal else ""),
            )
        )
    if "epsilon" in group:
        accounts = sentences.count_text(group.get("accounts", 2))
        claim = headline(privacy)
        delta = finite(group.get("delta")) or claim.delta
        found.append(
            Bound(
                f"A person with {accounts} accounts" + ("" if claim.holds else " (arithmetic only)"),
                sentences.epsilon_text(group.get("epsilon")),
                f"Against {claim.who}, for somebody whose data lies in {accounts} accounts"
                + (f", at delta {sentences.delta_text(delta)}." if delta is not None else "."),
            )
        )
    return found


def mechanism_rows(privacy: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Lays out the numbers that say what was done; what would flatter is rounded the other way.

    Args:
        privacy: A privacy block.

    Returns:
        Pairs of name and text; what this page does not know comes last, as it is.
    """
    held = section(privacy, "mechanism")
    rows = []
    for key, (label, zero, kind) in _ROWS.items():
        if key not in held:
            continue
        value = held.pop(key)
        number = finite(value)
        if number == 0 and zero:
            written = zero
        elif value is None:
            written = "none"
        elif kind == "words":
            written = _words(key, str(value))
        else:
            written = sentences.MISSING if number is None else _NUMBERS[kind](number)
        rows.append((label, written))
    return rows + [(key.replace("_", " "), scalar_text(value)) for key, value in held.items() if value is not None]


def _words(key: str, value: str) -> str:
    known = {"name": MECHANISMS, "secure_aggregation": _AGGREGATION}.get(key, {})
    return known.get(value, value)


def sent_rows(privacy: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Lays out what a client sends: the thing, how often and how large, and what is done to it before."""
    rows = []
    for row in entries(privacy, "sent"):
        size = f", {sentences.bytes_text(row['bytes'])}" if row.get("bytes") else ""
        rows.append((str(row.get("what") or ""), f"{row.get('when') or ''}{size}", str(row.get("how") or "")))
    return rows


def safeguards(privacy: Mapping[str, Any]) -> dict[str, Any]:
    """Lays out what claims rest on, what weakens them, and what nothing protects.

    Args:
        privacy: A privacy block.

    Returns:
        `assumptions` as (text, verdict, holds), `broken` where one does not hold or was not checked, `warnings` and
        `not_protected` as texts.
    """
    assumptions = []
    for item in entries(privacy, "assumptions"):
        assumptions.append((str(item.get("text") or ""), _verdict(item), item.get("holds") is True))
    return {
        "assumptions": assumptions,
        "broken": any(not holds for _, _, holds in assumptions),
        "warnings": sentences.texts(privacy, "warnings"),
        "not_protected": sentences.texts(privacy, "not_protected"),
    }


def _verdict(assumption: Mapping[str, Any]) -> str:
    """Whether an assumption holds, and what follows where it does not."""
    if not isinstance(assumption.get("holds"), bool):
        return "not checked"
    if assumption["holds"]:
        return "holds"
    voided = [WHO.get(name, name) for name in sentences.texts(assumption, "voids")]
    if not voided:
        return "does not hold: a stated limit, beside the numbers that are claimed"
    return "does not hold: voids the claims against " + (
        "everybody" if len(voided) == len(ADVERSARIES) else ", ".join(voided)
    )
