"""The claims of a run in one sentence, and the run that it continues.

Lives here: sentences that the page, the terminal and TensorBoard share, so that they cannot say different things. What a
bound means is phrased by the statement itself (`shared/privacy/claims.py`). Never here: HTML, terminal colors, or a number
computed from data.
"""

from collections.abc import Sequence

from server.reporting.records import RunRecord
from shared.privacy.statement import Statement
from shared.wording import count_text, delta_text, epsilon_text


def claim_sentence(statement: Statement) -> str:
    """Writes the headline, and every claim with unit, scope, relation, adversary, epsilon and delta.

    Args:
        statement: Of a run. (public)

    Returns:
        Two sentences, or one that starts with `NOT PRIVATE` where the run makes no claim.
    """
    if not statement.is_private:
        return statement.headline
    against: dict[str, list[str]] = {}
    for claim in statement.claims:
        bound = "no protection"
        if claim.protected:
            numbers = f"epsilon {epsilon_text(claim.epsilon)} ({claim.relation}, delta {delta_text(claim.delta)})"
            bound = numbers if claim.is_meaningful else f"no meaningful protection, {numbers},"
        against.setdefault(bound, []).append(claim.who)
    exposed = against.pop("no protection")  # the own device is always among them
    bounds = [f"{bound} against {_listed(names)}" for bound, names in {**against, "no protection": exposed}.items()]
    first = statement.not_kept or statement.headline
    return f"{first} Unit {statement.unit}, released: {statement.scope}: {'; '.join(bounds)}."


def continued_sentence(record: RunRecord) -> str:
    """Says which run this one continues, and what all of them cost one user together; empty where it continues none.

    Args:
        record: A run record.
    """
    before, privacy = record.continues, record.privacy
    if before is None:
        return ""
    first = f"Continues the model released as {before.manifest_digest[:12]} ({count_text(before.runs)} earlier run(s))"
    if not privacy.is_private:
        return f"{first}."
    own, together = epsilon_text(privacy.epsilon_of_this_run), epsilon_text(privacy.epsilon)
    sentence = (
        f"{first}, which claimed epsilon {epsilon_text(before.epsilon)}; this run alone {own}; all runs together "
        f"{together} for a user who is in all of them."
    )
    if privacy.ledger is None:
        return sentence
    most = epsilon_text(privacy.ledger.epsilon_known_participation)
    return f"{sentence} By the ledger, the account that spent most has spent epsilon {most}."


def _listed(names: Sequence[str]) -> str:
    """Joins names: `a`, `a and b`, `a, b, and c`; with a comma before the `and` where a name holds one."""
    if len(names) == 1:
        return names[0]
    comma = "," if len(names) > 2 or any("," in name for name in names) else ""
    return f"{', '.join(names[:-1])}{comma} and {names[-1]}"
