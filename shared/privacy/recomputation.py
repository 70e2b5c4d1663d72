"""The epsilons of a statement, computed again from the events that the statement itself holds, and its sentences from these.

A report that was edited by hand, or damaged, must not be rendered as a promise. What is checked here needs no run and no
plan: events, mechanism, unit, relation and delta stand in the file. How an adversary sees an event is therefore written a
second time, apart from `PrivacyPlan.seen_by`, and a test compares the two for every mechanism.
What never lives here: whether events are those of a run (the manifest and its digest say that), and signatures.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from shared import wording
from shared.errors import PrivacyError, UnsupportedMechanism
from shared.privacy import accounting
from shared.privacy.claims import NOT_PROTECTED, WHO, Claim, altered
from shared.privacy.events import Event, with_known_participation
from shared.privacy.mechanism import Mechanism
from shared.privacy.statement import Statement

# Other processors and versions of the accountant differ by less; and so does what a page prints, with two decimals.
RELATIVE, _ABSOLUTE = 1e-5, 1e-9
_OWN_DEVICE = "own-device"


def verify_statement(statement: Statement, *, name: str) -> None:
    """Raises unless every epsilon of a statement follows from its own events, and every promise from its epsilon.

    Guarantee:
        When this returns, no claim, group line or bound of one client in the statement is smaller, or larger, than what the
        accountant of this version finds for the events in it; each claim is of the statement's unit, relation and delta, and
        says in words what its bound means; and nothing is missing from the list of what is not protected.

    Args:
        statement: As it was read. (public)
        name: Of the file, for the message. (public)

    Raises:
        PrivacyError: If one does not.
        UnsupportedMechanism: If the accountant does not know one of the events.
    """
    if not statement.is_private:
        return  # a statement that claims nothing holds no epsilon (`Statement`)
    for which, said, found in _epsilons(statement):
        if not agree(said, found):
            raise mismatch(name, said=said, which=which, found=found)
    found = _cross_check(statement)
    if not agree(statement.rdp_cross_check, found):
        raise mismatch(name, said=statement.rdp_cross_check, which="of the Rényi cross-check", found=found)
    where = _altered(statement)
    if where is not None:
        raise PrivacyError(
            f"Expected sentences and numbers that follow from the epsilons in {name}, got another {where}. The file was "
            "changed, or made by another version: do not pass it on."
        )


def _cross_check(statement: Statement) -> float | None:
    """The Rényi bound; None where none is known."""
    own = statement.own
    everything = [_plain(event) for event in (*statement.earlier_events, *statement.events)]
    seen = None if own is None else _seen(statement, own, everything)
    if seen is None:
        return None
    try:
        return accounting.rdp_epsilon(seen, delta=statement.delta, relation=statement.neighboring_relation)
    except UnsupportedMechanism:
        return None


def _altered(statement: Statement) -> str | None:
    """What does not follow from the epsilons; None if nothing."""
    used = statement.mechanism
    kind, own = Mechanism.named(used.name), [statement.unit, statement.neighboring_relation, statement.delta]
    if own != [used.unit, used.relation, used.delta]:
        return "unit, relation or delta of the mechanism"
    if not set(NOT_PROTECTED) <= set(statement.not_protected):
        return "list of what is not protected"
    if statement.target_epsilon != used.target_epsilon:
        return "epsilon that was asked for"
    if (statement.not_kept is None) != (statement.own is None or statement.own.protected):
        return "sentence about what is not kept"
    shown = {one.noise_multiplier for one in statement.releases} | {used.noise_multiplier}
    # Correlated noise is shown as it is drawn, and its events say what it is worth.
    if not kind.takes_turns and not {event.noise_multiplier for event in statement.events} <= shown:
        return "noise of a release or of training"
    for claim in statement.claims:
        if claim.adversary not in WHO:
            return "adversary"
        of_outsiders = claim.adversary == "outsider" or statement.unit == "window"
        relation = statement.neighboring_relation if of_outsiders else "zero-out"
        where: str | None = "unit, relation or delta"
        if [claim.unit, claim.relation, claim.delta] == [statement.unit, relation, statement.delta]:
            where = altered(
                claim,
                colluding_clients=used.colluding_clients,
                central=kind.adds_noise_centrally,
                continued=bool(statement.earlier_events),
            )
        if where is not None:
            return f"{where} of the claim against {WHO[claim.adversary]}"
    return None


def epsilons_at(statement: Statement, deltas: Sequence[float]) -> list[float | None]:
    """The epsilon of the same events at other deltas, against the run's own adversary; None where nothing protects.

    Args:
        statement: As it was read. (public)
        deltas: In (0, 1). (public)
    """
    own = statement.own
    everything = [_plain(event) for event in (*statement.earlier_events, *statement.events)]
    seen = None if own is None else _seen(statement, own, everything)
    if seen is None or not deltas:
        return [None for _ in deltas]
    found = dict(accounting.delta_curve(seen, deltas=list(deltas), relation=statement.neighboring_relation))
    return [found[delta] if math.isfinite(found[delta]) else None for delta in deltas]


def epsilons_after(statement: Statement, *, most: int = 8) -> list[tuple[int, float | None]]:
    """The epsilon after each of the run's releases, in their order, against the run's own adversary.

    Args:
        statement: As it was read. (public)
        most: Of an event of many releases, such as the rounds of training, so many points.

    Returns:
        Releases so far, those of continued runs left out of the number, and the bound with those; the last is the run's.
    """
    own = statement.own
    done: list[Event] = [_plain(event) for event in statement.earlier_events]
    found, number = [], 0
    for event in map(_plain, statement.events):
        parts = min(most, event.steps)
        for steps in sorted({round(event.steps * part / parts) for part in range(1, parts + 1)}):
            seen = None if own is None else _seen(statement, own, [*done, replace(event, steps=steps)])
            found.append((number + steps, _bound(statement, seen, statement.delta)))
        done.append(event)
        number += event.steps
    return found


def _epsilons(statement: Statement) -> Iterator[tuple[str, float | None, float | None]]:
    """Where an epsilon stands, what is said there, and what follows from the events."""
    own = [_plain(event) for event in statement.events]
    everything = [*(_plain(event) for event in statement.earlier_events), *own]
    for claim in statement.claims:
        if claim.adversary != _OWN_DEVICE:
            yield f"against {claim.who}", claim.epsilon, _bound(statement, _seen(statement, claim, everything), claim.delta)
    claim = next(one for one in statement.claims if one.adversary == statement.adversary)
    seen = _seen(statement, claim, everything)
    yield "of the run", statement.epsilon, _bound(statement, seen, statement.delta)
    alone = _seen(statement, claim, own)
    yield "of this run alone", statement.epsilon_of_this_run, _bound(statement, alone, statement.delta)
    group = statement.group
    together = (
        None
        if seen is None
        else accounting.group_epsilon(seen, delta=group.delta, relation=statement.neighboring_relation, size=group.accounts)
    )
    yield f"of {group.accounts} accounts", group.epsilon, together
    client = statement.per_client
    yield "of one client", client.with_amplification, _bound(statement, everything, statement.delta)
    known = with_known_participation(everything)
    yield (
        f"of one client, {wording.WITHOUT_AMPLIFICATION},",
        client.known_participation,
        _bound(statement, known, statement.delta),
    )


def _seen(statement: Statement, claim: Claim, events: Sequence[Event]) -> list[Event] | None:
    """The events as an adversary sees them; None where nothing protects against it."""
    used, kind = statement.mechanism, Mechanism.named(statement.mechanism.name)
    if kind.adds_noise_centrally and claim.adversary in ("server", "active-server"):
        return None
    if claim.adversary == "outsider":
        return list(events)
    known = with_known_participation(events)
    if used.smallest_active_sum and claim.adversary == "active-server":
        part = min(1.0, used.smallest_active_sum / (used.minimum_survivors - used.colluding_clients))
        return [replace(one, noise_multiplier=one.noise_multiplier * math.sqrt(part)) for one in known]
    if kind.shares_noise and claim.adversary == "active-server":
        share = math.sqrt(1.0 / (used.minimum_survivors - used.colluding_clients))
        return [
            replace(one, noise_multiplier=one.noise_multiplier * share, mechanism="gaussian", l2_sensitivity=0.0)
            for one in known
        ]
    return known


def _bound(statement: Statement, seen: Sequence[Event] | None, delta: float) -> float | None:
    return None if seen is None else accounting.epsilon(list(seen), delta=delta, relation=statement.neighboring_relation)


def _plain(event: Event) -> Event:
    return Event(**vars(event))


def agree(said: float | None, found: float | None) -> bool:
    """Whether an epsilon that is said is the one that was found; None stands for infinity."""
    if found is None or not math.isfinite(found):
        return said is None
    return said is not None and math.isclose(said, found, rel_tol=RELATIVE, abs_tol=_ABSOLUTE)


def mismatch(name: str, *, said: float | None, which: str, found: float | None) -> PrivacyError:
    """The error about an epsilon that does not follow from the events.

    Args:
        name: Of the file. (public)
        said: What the file says. (public)
        which: Of what it is said. (public)
        found: What the events give. (public)
    """
    return PrivacyError(
        f"Expected epsilons that follow from the events in {name}, got epsilon={wording.epsilon_text(said)} {which} where "
        f"the events give {wording.epsilon_text(found)}. The file was changed or damaged: restore it, and do not pass it on."
    )
