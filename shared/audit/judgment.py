"""From what was read to what follows: bounds, estimates, probes, power, and whether the audit fails.

One function of the statement and the evidence, so that whoever made the document and whoever verifies it find the same.
What never lives here: where evidence comes from.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from scipy import stats

from shared import wording
from shared.audit import membership, one_run
from shared.audit.document import (
    SEEN_AS,
    Attack,
    Bound,
    CanaryClass,
    Estimate,
    Evidence,
    Power,
    Probe,
    RateFacts,
    Rates,
    Reconstruction,
    Recovered,
    ReleaseRead,
    Results,
    SamplingRead,
    View,
)
from shared.audit.gate import LEVEL, level_of_each
from shared.audit.noise_probe import MORE_IS_UNEXPLAINED
from shared.audit.one_shot import Standout, one_shot
from shared.audit.planted_bugs import FEWEST_SAMPLES, ROOM, planted_bugs
from shared.audit.sampling import SamplingDesign, sampling_probe
from shared.audit.tradeoff import epsilon_of, tradeoff_of
from shared.privacy.events import Event, with_known_participation
from shared.privacy.mechanism import Mechanism
from shared.privacy.statement import Statement

_FALSE_ALARMS = (0.01, 0.001)
NOT_BY_COINS, TOO_OFTEN = "cohorts vary too little for independent coins", "drawn more often than claimed"
_UNMEASURED = 10**9
# Where the standard error of what a canary adds is larger, compared with the bound 1, the release does not show it.
_SHOWS = 0.5


def views_of(statement: Statement) -> dict[View, tuple[str, ...]]:
    """Whose claims each view is held against; a view that no claim is about is left out."""
    found: dict[View, tuple[str, ...]] = {}
    held = [claim.adversary for claim in statement.claims if claim.protected and claim.epsilon is not None]
    in_silos = Mechanism.named(statement.mechanism.name).adds_noise_locally
    sees_replies = [name for name in held if in_silos and name in ("server", "active-server")]
    sees_sums = [name for name in held if name not in sees_replies and name != "own-device"]
    knows_cohorts = [name for name in sees_sums if name != "outsider"] if _hides_participation(statement) else []
    outside = [name for name in sees_sums if name not in knows_cohorts]
    for view, names in (("sums", outside), ("sums and cohorts", knows_cohorts), ("replies", sees_replies)):
        if names:
            found[view] = tuple(names)  # type: ignore[index]
    return found


def _hides_participation(statement: Statement) -> bool:
    """Whether claims against outsiders rest on not knowing who was drawn."""
    mechanism = statement.mechanism
    central = Mechanism.named(mechanism.name).adds_noise_centrally
    return central and mechanism.sampling_rate < 1.0 and not mechanism.min_separation


def claimed_against(statement: Statement, adversaries: Sequence[str]) -> float:
    """The smallest epsilon that is claimed against one of these."""
    return min(claim.epsilon for claim in statement.claims if claim.adversary in adversaries and claim.epsilon is not None)


def planned(statement: Statement, adversaries: Sequence[str], *, canaries: int) -> dict[one_run.Method, int]:
    """How many guesses are made, by method."""
    claim, level = claimed_against(statement, adversaries), _level_of_bounds(len(views_of(statement)))
    return {
        method: one_run.planned_guesses(method, claim, statement.delta, canaries=canaries, level=level)
        for method in one_run.METHODS
    }


def results_of(statement: Statement, evidence: Evidence) -> Results:
    """All that follows from the evidence.

    Guarantee:
        Of a run that does what its statement says, the verdict is "failed" with probability at most 5 %, if the noise is
        normal and canaries were put in by fair coins.

    Args:
        statement: What is claimed. (public)
        evidence: What was read. (public)
    """
    tests = sum(probe.p_value is not None for probe in _probes(evidence, level=0.0))
    level, probe_level = _level_of_bounds(len(evidence.attacks)), level_of_each(tests)
    bounds = tuple(bound for attack in evidence.attacks for bound in _bounds(statement, attack, level=level))
    probes = tuple(_probes(evidence, level=probe_level))
    estimates = tuple(_estimates(statement, evidence))
    failures = (
        *([] if statement.is_private else [f"Nothing is claimed: {statement.reason_why_not}."]),
        *(_of_bound(bound) for bound in bounds if bound.exceeded),
        *(_of_probe(probe) for probe in probes if probe.failed),
    )
    return Results(
        level=level,
        probe_level=probe_level,
        bounds=bounds,
        estimates=estimates,
        probes=probes,
        rates=tuple(_rates(attack) for attack in evidence.attacks),
        recovered=tuple(_recovered(row) for row in evidence.reconstruction),
        power=tuple(power for attack in evidence.attacks for power in _power(statement, attack, level=level)),
        planted=planted_bugs(evidence, tuple(map(design_of, evidence.sampling)), level=probe_level),
        warnings=tuple(_of_estimate(estimate) for estimate in estimates if estimate.exceeded),
        failures=failures,
        verdict="failed" if failures else "passed",
    )


def _level_of_bounds(attacks: int) -> float:
    return level_of_each(attacks * len(one_run.METHODS))


def _bounds(statement: Statement, attack: Attack, *, level: float) -> Iterator[Bound]:
    scores, included = _scores(attack)
    claimed = claimed_against(statement, attack.adversaries)
    for method in one_run.METHODS:
        guessed = one_run.guess(scores, included, guesses=attack.guesses[method])
        found, alone = (
            one_run.lower_bound(method, statement.delta, canaries=len(scores), guessed=guessed, level=at)
            for at in (level, LEVEL)
        )
        refuted = method == "f-dp" and bool(
            one_run.contradicts(
                tradeoff_of(_seen(statement, attack), statement.neighboring_relation),
                canaries=len(scores),
                guesses=guessed.guesses,
                correct=guessed.correct,
                level=level,
            )[0]
        )
        yield Bound(
            view=attack.view,
            method=method,
            guesses=guessed.guesses,
            correct=guessed.correct,
            epsilon=found,
            alone=alone,
            claimed=claimed,
            refuted=refuted,
            exceeded=refuted or found > claimed * (1.0 + 1e-6),
        )


def _seen(statement: Statement, attack: Attack) -> list[Event]:
    """The events as the adversaries of an attack see them: an outsider does not know who took part."""
    every = [Event(**vars(event)) for event in (*statement.earlier_events, *statement.events)]
    return every if attack.adversaries == ("outsider",) else with_known_participation(every)


def _estimates(statement: Statement, evidence: Evidence) -> Iterator[Estimate]:
    for attack in evidence.attacks:
        claimed, delta = claimed_against(statement, attack.adversaries), statement.delta
        read = [one for one in evidence.releases if one.view == attack.view and one.guessed]
        shot = one_shot([found for one in read if (found := _standout(one)) is not None], delta=delta)
        if shot is not None:
            yield Estimate(
                view=attack.view,
                method="one-shot",
                epsilon=shot.epsilon,
                low=shot.low,
                high=shot.high,
                claimed=claimed,
                exceeded=shot.low > claimed,
                assumed=tuple(_release(one) for one in read if not _shows(one)),
            )
        normal = one_run.parametric(*_scores(attack), delta=delta, level=LEVEL)
        yield Estimate(
            view=attack.view,
            method="parametric",
            epsilon=epsilon_of(max(normal.mu, 0.0), delta),
            low=normal.epsilon,
            high=None,
            claimed=claimed,
            exceeded=normal.epsilon > claimed,
            assumed=(),
        )


def _standout(read: ReleaseRead) -> Standout | None:
    """What a user at the bound would show: what canaries show, scaled to the bound where they stay below it."""
    if not read.noise_stddev > 0.0:
        return None
    shift, error = 1.0, 0.0
    if _shows(read) and read.short is not None:
        length = max(read.short.norm, 1.0)
        shift, error = read.short.factor * length, read.short.error * length
    measured = read.samples >= FEWEST_SAMPLES
    return Standout(
        shift=shift,
        shift_error=error,
        claimed_noise=read.noise_stddev,
        noise_ratio=math.sqrt(read.total / read.samples) if measured else 1.0,
        noise_samples=read.samples if measured else _UNMEASURED,
    )


def _shows(read: ReleaseRead) -> bool:
    """Whether canaries tell what a release adds of one user; where they do not, an estimate takes the bound for it."""
    return read.short is not None and read.short.error < _SHOWS


def _probes(evidence: Evidence, *, level: float) -> Iterator[Probe]:
    for read in evidence.releases:
        for what, value, p_value in _tests(read):
            yield Probe(
                view=read.view, release=_release(read), what=what, value=value, p_value=p_value, failed=p_value < level
            )
    for one in evidence.independence:
        p_value = 2.0 * float(stats.norm.sf(abs(one.z)))
        what = "noise is used twice"
        yield Probe(view=one.view, release=one.between, what=what, value=one.z, p_value=p_value, failed=p_value < level)
    for read_of in evidence.sampling:
        found = sampling_probe(design_of(read_of), read_of.sums)
        for what, value, p_value in (
            (NOT_BY_COINS, found.spread, found.p_spread),
            (TOO_OFTEN, found.excess, found.p_excess),
        ):
            yield Probe(view="sums", release=read_of.where, what=what, value=value, p_value=p_value, failed=p_value < level)
    certain = [
        *(("all replies", f"a reply holds something beside the contribution: {name}") for name in evidence.beside),
        *((name, "a client's ledger does not hold the release") for name in evidence.uncharged),
        *((name, "a real user contributes more than the bound") for name in evidence.unbounded),
        *((name, "the claim and the clients' ledger differ about them") for name in evidence.mischarged),
    ]
    for release, what in certain:
        yield Probe(view="replies", release=release, what=what, value=None, p_value=None, failed=True)


def design_of(read: SamplingRead) -> SamplingDesign:
    """What a reading of draws claims."""
    return SamplingDesign(
        users=read.users,
        rate=read.rate,
        steps=read.steps,
        noise_multiplier=read.noise_multiplier,
        readings=len(read.sums),
    )


def _tests(read: ReleaseRead) -> Iterator[tuple[str, float, float]]:
    """What is tested of one release: what it would mean, the reading, and its probability in a correct run."""
    if read.noise_stddev > 0.0 and read.samples >= FEWEST_SAMPLES:
        ratio = math.sqrt(read.total / read.samples)
        yield "less noise than claimed", ratio, float(stats.chi2.cdf(read.total, read.samples))
        explained = read.total / MORE_IS_UNEXPLAINED**2
        yield "more in the sum than is known", ratio, float(stats.chi2.sf(explained, read.samples))
    for kind, what in ((read.short, "a user counts more than once"), (read.long, "a long history is not bounded")):
        if kind is not None:
            yield what, kind.factor * kind.norm, _above_the_bound(kind)


def _above_the_bound(kind: CanaryClass) -> float:
    """Probability of a contribution that looks this long if it is within the bound."""
    length, error = kind.factor * kind.norm, kind.error * kind.norm
    return float(stats.norm.sf((length - ROOM) / error)) if error > 0.0 else float(length <= ROOM)


def _rates(attack: Attack) -> Rates:
    scores, included = _scores(attack)
    inside, outside = scores[included], scores[~included]
    if not len(inside) or not len(outside):
        return Rates(view=attack.view, area=None, found={f"{rate:g}": None for rate in _FALSE_ALARMS})
    found = {f"{rate:g}": membership.members_found(inside, outside, false_alarms=rate) for rate in _FALSE_ALARMS}
    area = membership.area(inside, outside)
    return Rates(
        view=attack.view,
        area=RateFacts(**vars(area)),
        found={name: None if rate is None else RateFacts(**vars(rate)) for name, rate in found.items()},
    )


def _recovered(row: Reconstruction) -> Recovered:
    low, high = membership.clopper_pearson(row.recovered, row.of)
    return Recovered(
        setting=row.setting, share=RateFacts(value=row.recovered / row.of, low=low, high=high), chance=row.chance
    )


def _power(statement: Statement, attack: Attack, *, level: float) -> Iterator[Power]:
    claimed, delta, canaries = claimed_against(statement, attack.adversaries), statement.delta, len(attack.scores)
    for method in one_run.METHODS:
        guesses = attack.guesses[method]
        at_claim, at_half = (
            one_run.expected_bound(
                method, claimed, delta, canaries=canaries, level=level, guesses=guesses, noise_scale=noise_scale
            )
            for noise_scale in (1.0, 0.5)
        )
        yield Power(
            view=attack.view,
            method=method,
            claimed=claimed,
            at_the_claim=at_claim,
            at_half_the_noise=at_half,
            largest=one_run.largest_refutable(method, delta, canaries=canaries, guesses=guesses, level=level),
        )


def _scores(attack: Attack) -> tuple[one_run.Floats, one_run.Coins]:
    return np.array(attack.scores), np.array([coin == "1" for coin in attack.included])


def _release(read: ReleaseRead) -> str:
    return read.purpose if not read.round_number else f"{read.purpose} of round {read.round_number}"


def _of_bound(bound: Bound) -> str:
    if bound.refuted and bound.epsilon <= bound.claimed:
        return (
            f"The noise is not that of the events: {bound.correct} of {bound.guesses} guesses were right, more than their "
            f"trade-off function allows. They were made from {SEEN_AS[bound.view]}."
        )
    return (
        f"The {bound.method} lower bound is epsilon {wording.at_least(bound.epsilon)}, above the claim of "
        f"{wording.at_most(bound.claimed)}: {bound.correct} of {bound.guesses} guesses were right. They were made from "
        f"{SEEN_AS[bound.view]}."
    )


def _of_probe(probe: Probe) -> str:
    chance = "" if probe.p_value is None else f" (probability {wording.p_value_text(probe.p_value)} in a correct run)"
    return f"{probe.release}, in the {probe.view}: {probe.what}{chance}."


def _of_estimate(estimate: Estimate) -> str:
    return (
        f"The {estimate.method} estimate is at least epsilon {wording.at_least(estimate.low)}, above the claim of "
        f"{wording.at_most(estimate.claimed)}, for {SEEN_AS[estimate.view]}. It rests on normal noise: it warns and decides "
        "nothing."
    )
