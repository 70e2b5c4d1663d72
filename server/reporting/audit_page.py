"""The audit's page: `audit.json` rendered to one self-contained HTML file, for somebody who decides and is no mathematician.

Lives here: which words and numbers of a verified audit stand where. Never here: a bound, or a promise: the statement phrases
its own. The page says "passed" where no attack reached a claim, and beside it what that does not show; where nothing
protects, or an epsilon is too large to be of use, it says that first.
"""

from __future__ import annotations

import datetime
import math
from pathlib import Path
from typing import Any

from markupsafe import Markup

from server.reporting import document, protection
from server.reporting.charts import Bar, Point, Reference, bar_chart, line_chart
from server.reporting.release_page import AUDIT_PAGE
from server.reporting.roc import roc_chart, roc_points
from shared import wording
from shared.audit.document import (
    SEEN_AS,
    Attack,
    AuditDocument,
    Bound,
    Departure,
    Estimate,
    Power,
    RateFacts,
    Reconstruction,
    View,
)
from shared.audit.membership import FEWEST_FALSE_ALARMS
from shared.audit.verification import PLANNED, Verified
from shared.privacy.claims import WHO
from shared.privacy.recomputation import epsilons_after, epsilons_at
from shared.privacy.statement import Statement
from shared.signing import fingerprint

_GUESS = 0.01
# A smaller lower bound is printed as 0.00.
_SHOWN = 0.01
_METHODS = {
    "distribution-free": "no assumption",
    "f-dp": "the noise is normal",
    "one-shot": "canaries known to be in",
    "parametric": "scores taken to be normal",
}
_VIEWS: dict[View, str] = {
    "sums": "from the released sums",
    "sums and cohorts": "from the released sums and who took part",
    "replies": "from each silo's replies",
}
# Beside the sums a run has one of the others.
_STYLES: dict[View, str] = {"sums": "other", "sums and cohorts": "own", "replies": "own"}
GLOSSARY = (
    ("Epsilon (ε)", "The promise as a number: whatever is seen, its probability differs by at most a factor of e to this "
     "number between a world with a person's history and one without. Smaller is safer; above 20 it protects nobody."),
    ("Delta (δ)", "The probability with which that may fail; far below one over the number of persons."),
    ("Canary", "A made-up person, put into a copy of the run by the toss of a coin. Who can tell how the coin fell could "
     "tell it of a real person."),
    ("Twin", "A copy of the run with canaries in it. Nothing of it is released but this report."),
    ("Lower bound", "What attacks prove about the real epsilon: it is at least this, up to the stated error rate. It can "
     "refute a promise; it can never prove one."),
    ("Estimate", "What the real epsilon seems to be, if the noise is normal. It warns and decides nothing."),
    ("Area under the curve", "How well an attack tells persons who are in from others: 0.5 is a guess, 1 is always right."),
    ("False alarm", "A person whom an attack takes to be in and who is not."),
    ("Power", "The probability with which a test finds the fault that it looks for."),
    ("Update, adapter", "What a client's training changed; the adapter is the part of the model that is trained."),
    ("Noise", "Random numbers added to every sum, large enough to hide one person."),
    ("Add-or-remove, zero-out", "How the two worlds differ: the person is left out, or is there with an empty history."),
    ("Honest-but-curious server", "A server that follows the protocol and looks at all it gets."),
    ("Amplification", "What a secret draw of participants adds to the protection; it does not hold against somebody who "
     "knows who was drawn."),
)  # fmt: skip


CANNOT_SHOW = (
    "That the promise holds. Attacks can refute a promise, never prove it.",
    "What the run itself did. A copy of it was attacked, by the code whose digest is below (tacit --version --json prints "
    "that of an installation); an author who ran other code, or wrote this report by hand, signs it all the same.",
    "What happens to real persons alone. Contributions of up to 64 of them to statistics are compared with their bound. "
    "The rest is taken from the code as it is, and subtracted: code that adds less noise for them, or trains on more of "
    "them than it says, passes.",
    "How often it was tried. An author can audit a run again, on a copy of its folder, and keep the report that passed.",
    "That a list of releases, or a ledger, is whole. An author who writes all of it anew can leave something out.",
)  # fmt: skip


def write_audit_page(run_dir: Path, verified: Verified) -> Path:
    """Renders an audit to `audit.html` in a folder; whole or not at all."""
    return document.write_page(run_dir / AUDIT_PAGE, render_audit(verified))


def render_audit(verified: Verified) -> str:
    """Renders a verified audit as one HTML page that needs no network and no other file.

    Guarantee:
        Text of the audit is escaped, and the page holds no script and no reference that a browser loads. An epsilon that is
        not claimed, or above 20, is never shown beside a good verdict without saying so.

    Args:
        verified: The audit. (public)
    """
    held = verified.document
    return document.render(
        "audit.html",
        name=held.name,
        created=document.date_text(held.created),
        version=held.versions.get("tacit", wording.MISSING),
        signer=verified.signed.signer.hex(),
        fingerprint=fingerprint(verified.signed.signer),
        signer_known=verified.signer_known,
        contact=held.contact,
        passed=held.results.verdict == "passed",
        is_private=held.statement.is_private,
        claim=protection.headline(held.statement),
        promises=_promises(held),
        unprotected=_unprotected(held),
        tried=_tried(held),
        attacked=[(SEEN_AS[attack.view], _attacked(held, attack)) for attack in held.evidence.attacks],
        failures=held.results.failures,
        warnings=held.results.warnings,
        reached=_reached(held),
        claims=protection.claim_rows(held.statement),
        bounds=protection.bounds(held.statement),
        curves=_curves(held.statement) if held.statement.is_private else None,
        safeguards=protection.safeguards(held.statement),
        pictures=[_picture(held, attack) for attack in held.evidence.attacks],
        rates=_rates(held),
        recovered=[
            (row.setting, f"{row.share.value:.1%} ({row.share.low:.1%} to {row.share.high:.1%})", f"{row.chance:.1%}")
            for row in held.results.recovered
        ],
        examples=[_example(row) for row in held.evidence.reconstruction if row.example],
        power=[_power_row(row) for row in held.results.power],
        planted=[(row.bug, row.probe, _probability(row.most), _probability(row.least)) for row in held.results.planted]
        if held.evidence.releases
        else [],
        probes=_probes(held),
        tested=_tested(held),
        releases=_releases(held),
        skipped=[(row.attack, row.reason) for row in held.skipped],
        departures=[_departure(row) for row in held.departures],
        records=[(str(row["number"]), _record(row["body"])) for row in held.records],
        head=held.head,
        subject=[(name.replace("_", " "), value or wording.MISSING) for name, value in held.subject.items()],
        versions=document.scalar_rows(held.versions),
        canaries=wording.count_text(held.protocol.canaries),
        commitment=held.protocol.commitment,
        planned=_planned(held),
        cannot_show=CANNOT_SHOW,
        glossary=GLOSSARY,
        level=wording.significant(100 * held.results.level, up=True, digits=2),
    )


def _departure(row: Departure) -> tuple[str, str, str, str]:
    """A node that has left."""
    left = datetime.datetime.fromtimestamp(row.left_at, datetime.UTC).date().isoformat()
    spent = "nothing spent" if row.epsilon is None else wording.at_most(row.epsilon)
    return row.log_head[:16], left, wording.count_text(row.contributions), spent


def _planned(held: AuditDocument) -> str:
    """When the audit's protocol was fixed."""
    if held.protocol.plan is None:
        left = any(record["body"].get("event") == PLANNED for record in held.records)
        not_followed = " The run's log holds the digest of a plan that this audit did not follow." if left else ""
        return f"The protocol was fixed after the run: its author knew the run.{not_followed}"
    return (
        "The protocol (canaries, coins, guesses, level) was fixed before the run asked anybody anything: the run's log "
        "holds its digest before the first request."
    )


def _promises(held: AuditDocument) -> list[tuple[str, str]]:
    """Against whom, and what, in words; nothing of what is not protected."""
    return [(claim.who, claim.promise) for claim in held.statement.claims if claim.protected]


def _unprotected(held: AuditDocument) -> list[str]:
    """Against whom nothing is promised, though something is promised against others; the own client is on every list."""
    if not held.statement.is_private:
        return []
    return [claim.who for claim in held.statement.claims if not claim.protected and claim.adversary != "own-device"]


def _tried(held: AuditDocument) -> str:
    """What was done, in two sentences; nothing where no promise could be refuted."""
    if not held.evidence.attacks:
        return "Nothing: there is no promise that an attack could be held against."
    protocol, probes = held.protocol, [probe for probe in held.results.probes if probe.p_value is not None]
    where = "in the place of real persons" if protocol.displaced else "beside the real persons"
    failed = sum(probe.failed for probe in held.results.probes)
    return (
        f"{wording.count_text(protocol.canaries)} made-up persons were put {where} into a copy of the run, each by the toss "
        "of a coin, and an adversary who knew everything else guessed the coins. "
        f"{wording.count_text(len(probes))} further tests looked for noise that is too small or used twice, and for persons "
        f"who count more than once: {'none' if not failed else wording.count_text(failed)} failed."
    )


def _tested(held: AuditDocument) -> str:
    """How many tests there were, and how many failed."""
    made, failed = len(held.results.probes), sum(probe.failed for probe in held.results.probes)
    if not made:
        return "No test was made."
    said = "none failed" if not failed else f"{wording.count_text(failed)} failed"
    return f"{wording.count_text(made)} tests were made, {said}."


def _curves(statement: Statement) -> dict[str, Markup]:
    """Epsilon after each release, and at each delta, found again from the events."""
    after = epsilons_after(statement)
    deltas = [statement.delta * 10.0**exponent for exponent in range(-3, 3) if statement.delta * 10.0**exponent < 1.0]
    quoted = []
    if statement.epsilon is not None:
        own = protection.headline(statement)
        promised = "promised:" if own.is_meaningful else "no meaningful protection:" if own.holds else "by arithmetic:"
        quoted = [Reference(promised, statement.epsilon, wording.epsilon_text(statement.epsilon), True)]
    return {
        "over_releases": line_chart(
            [Point(at, y, f"after release {at}: epsilon {wording.epsilon_text(y)}") for at, y in after],
            label="Epsilon over the run's releases",
            x_label="no.",
            references=quoted,
            from_zero=True,
            width=440,
        ),
        "over_deltas": protection.delta_curve(zip(deltas, epsilons_at(statement, deltas), strict=True), quoted),
    }


def _attacked(held: AuditDocument, attack: Attack) -> str:
    """What the strongest gating bound of a view says, for people."""
    bounds = [bound for bound in held.results.bounds if bound.view == attack.view]
    best = max(bounds, key=lambda bound: bound.epsilon)
    return (
        f"{wording.count_text(best.correct)} of {wording.count_text(best.guesses)} guesses were right (half would be, by "
        f"chance). {_proved(best.epsilon)}; promised is at most {wording.at_most(best.claimed)}."
    )


def _proved(epsilon: float) -> str:
    return f"This proves an epsilon of at least {wording.at_least(epsilon)}" if epsilon >= _SHOWN else "This proves nothing"


def _reached(held: AuditDocument) -> dict[str, str] | None:
    """The largest lower bound over all views, what a guess of 1 % becomes by it, and the largest if all guesses were right.

    None where nothing was attacked; the epsilon is empty where nothing is proved.
    """
    if not held.results.bounds:
        return None
    largest = max(bound.epsilon for bound in held.results.bounds)
    after = _GUESS / (_GUESS + (1.0 - _GUESS) * math.exp(-largest))
    return {
        "epsilon": wording.at_least(largest) if largest >= _SHOWN else "",
        "most": wording.at_least(max(row.largest for row in held.results.power)),
        "guess": f"{wording.significant(100 * after, up=False, digits=2)} %",
    }


def _picture(held: AuditDocument, attack: Attack) -> dict[str, Any]:
    """The claim as a line, and what each attack reached as bars with their intervals."""
    bounds = [bound for bound in held.results.bounds if bound.view == attack.view]
    estimates = [one for one in held.results.estimates if one.view == attack.view]
    claimed = bounds[0].claimed
    bars = [*(_bound_bar(bound) for bound in bounds), *(_estimate_bar(one) for one in estimates)]
    return {
        "title": f"{_VIEWS[attack.view].capitalize()}: against {', '.join(WHO[name] for name in attack.adversaries)}",
        "chart": bar_chart(
            bars,
            label=f"What attacks reached {_VIEWS[attack.view]}, beside the claim",
            limit=Reference("claimed", claimed, wording.at_most(claimed)),
        ),
        "assumed": sorted({name for one in estimates for name in one.assumed}),
    }


def _bound_bar(bound: Bound) -> Bar:
    text = f"≥ {wording.at_least(bound.epsilon)}"
    return Bar(f"Lower bound: {_METHODS[bound.method]}", bound.epsilon, text, highlighted=True)


def _estimate_bar(one: Estimate) -> Bar:
    text = wording.epsilon_text(one.epsilon)
    return Bar(f"Estimate: {_METHODS[one.method]}", one.epsilon, text, low=one.low, high=one.high or one.epsilon)


def _rates(held: AuditDocument) -> dict[str, Any]:
    """ROC curves down to the lowest rate that can be measured, and the rates in a table."""
    lines, lowest = [], 0.1
    for attack in held.evidence.attacks:
        members = [coin == "1" for coin in attack.included]
        if any(members) and not all(members):
            lines.append((_STYLES[attack.view], roc_points(attack.scores, members)))
            measurable = FEWEST_FALSE_ALARMS / (len(members) - sum(members))
            lowest = min(lowest, 10.0 ** math.ceil(math.log10(measurable) - 1e-9))
    rows = []
    for row in held.results.rates:
        area = wording.MISSING if row.area is None else f"{row.area.value:.3f} ({row.area.low:.3f} to {row.area.high:.3f})"
        rows.append((_VIEWS[row.view], area, *(_found(row.found.get(rate)) for rate in ("0.01", "0.001"))))
    return {
        "chart": roc_chart(lines, label="ROC curves of the attacks", lowest=lowest) if lines else None,
        "legend": [(_STYLES[attack.view], _VIEWS[attack.view]) for attack in held.evidence.attacks],
        "rows": rows,
    }


def _found(rate: RateFacts | None) -> str:
    return "not measurable" if rate is None else f"{rate.value:.1%} ({rate.low:.1%} to {rate.high:.1%})"


def _example(row: Reconstruction) -> tuple[str, str, str, list[tuple[str, bool]]]:
    """One made-up person's items, and what an attack took for them, each with whether it is right."""
    right = len(set(row.example) & set(row.guessed))
    guessed = [(str(item), item in row.example) for item in row.guessed]
    return row.setting, f"{right} of {len(row.example)}", ", ".join(map(str, row.example)), guessed


def _power_row(row: Power) -> tuple[str, str, str, str, str, str]:
    return (
        _VIEWS[row.view],
        _METHODS[row.method],
        wording.at_most(row.claimed),
        wording.at_least(row.at_the_claim),
        wording.at_least(row.at_half_the_noise),
        wording.at_least(row.largest),
    )


def _probability(power: float | None) -> str:
    """A power for people; never rounded up to certainty."""
    if power is None:
        return "nothing to test"
    return "above 99.9 %" if power > 0.999 else f"{math.floor(1000 * power) / 10:.1f} %"


def _probes(held: AuditDocument) -> list[tuple[str, str, str, str, str, bool]]:
    return [
        (
            probe.release,
            _VIEWS[probe.view],
            probe.what,
            wording.MISSING if probe.value is None else f"{probe.value:.3f}",
            wording.MISSING if probe.p_value is None else wording.p_value_text(probe.p_value),
            not probe.failed,
        )
        for probe in held.results.probes
    ]


def _releases(held: AuditDocument) -> list[tuple[str, str, str, str, str, str]]:
    return [
        (
            read.purpose,
            _VIEWS[read.view],
            f"{read.noise_stddev:.3f}",
            "too few directions" if not read.samples else f"{math.sqrt(read.total / read.samples):.3f}",
            wording.count_text(read.samples),
            wording.MISSING if read.short is None else f"{read.short.factor:.3f} ± {1.96 * read.short.error:.3f}",
        )
        for read in held.evidence.releases
    ]


def _record(body: dict[str, Any]) -> str:
    return ", ".join(f"{name} {document.scalar_text(value)}" for name, value in body.items())
