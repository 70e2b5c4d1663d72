"""The statement of privacy: all that a run or a plan says about privacy, composed once and rendered everywhere.

`statement_of` is the only place that composes it, from a plan, the events of what was released, and public facts.
`run.json`, `release.json` and `tacit privacy plan --json` hold its fields under the same names; pages and the terminal lay
the same object out and phrase no promise themselves. Every value is accounted or public.
What never lives here: how a bound is found (`accounting.py`), the sentences of claims (`claims.py`), of assumptions
(`assumptions.py`) and of what is sent (`sent.py`), and how any of it looks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic.dataclasses import dataclass

from shared.config import RunConfig
from shared.errors import UnsupportedMechanism
from shared.privacy import accounting
from shared.privacy.assumptions import Assumption, assumptions
from shared.privacy.claims import NOT_PROTECTED, RELEASE_SCOPE, Claim, claims, group_claim, not_kept, warnings
from shared.privacy.events import Event, Relation, with_known_participation
from shared.privacy.mechanism import Mechanism
from shared.privacy.plan import PrivacyPlan
from shared.privacy.releases import ReleaseName
from shared.privacy.sent import Sent, sent_by_a_client
from shared.privacy.shares import trusted_server

ACCOUNTS = 2
"""Accounts of the person that the group line speaks of."""


class Facts(BaseModel):
    """Values that belong together; frozen, strict, and no other key is taken."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Group(Facts):
    """The bound of a person with several accounts, against the run's own adversary."""

    accounts: int = Field(ge=1, description="Accounts of the person.")
    epsilon: float | None = Field(description="Upper bound; null where nothing is claimed.")
    delta: float = Field(ge=0, lt=1, description="Of the bound.")


class PerClient(Facts):
    """The two bounds of one client; the second is the worst case over clients, a public number."""

    with_amplification: float | None = Field(description="Against an adversary without knowledge of who took part.")
    known_participation: float | None = Field(description="Against an adversary that knows who took part.")


class Released(Facts):
    """One kind of release beside training."""

    name: str = Field(description="Which.")
    times: int = Field(description="How often it is planned.")
    noise_multiplier: float = Field(description="Noise in the sum over the L2 bound 1 of a contribution; 0: exact.")


class Share(Facts):
    """What one release beside training gets of the budget."""

    release: str
    times: int
    noise_multiplier: float
    noise_in_the_sum: float = Field(description="In users.")
    share: float = Field(description="Of the releases' squared signal.")


class MechanismFacts(Facts):
    """What is done to contributions in training; every number is a public constant. Other releases: `Statement.releases`."""

    name: str
    unit: str
    relation: str
    secure_aggregation: str
    windows_per_user: int
    population: int
    clients: int
    colluding_clients: int
    rounds: int
    steps_per_round: int
    sampling_rate: float
    expected_cohort: float
    cohort_cap: int
    minimum_survivors: int
    smallest_active_sum: int = Field(
        0, description="Honest clients in every sum that an active server can open; 0, or not said: unbounded."
    )
    min_separation: int
    noise_multiplier: float | None = Field(description="Of training; null where nothing is trained.")
    l2_clip_norm: float | None
    clipping: str
    statistics: str
    evaluations: int
    delta: float
    target_epsilon: float | None

    @field_validator("name")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name not in list(Mechanism):
            raise ValueError(f"a mechanism is one of {', '.join(Mechanism)}")
        return name


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True, allow_inf_nan=False))
class RecordedEvent(Event):
    """An event as a file holds it; an unknown key, and a value that no release has, is refused."""

    @model_validator(mode="after")
    def _is_an_event(self) -> Self:
        if self.noise_multiplier <= 0 or not 0 < self.sampling_rate <= 1 or self.steps < 1:
            raise ValueError("an event has no noise, no steps, or a sampling rate outside (0, 1]")
        return self


class Statement(Facts):
    """What a run, or a plan, promises to whom, and on what that rests.

    An epsilon that is null is not claimed: it is infinite, or the run is not private. All of them count every run that was
    continued, except `epsilon_of_this_run`.
    """

    is_private: bool = Field(description="Whether anything is claimed.")
    why_not: str | None = Field(description="Why nothing is claimed; null where something is.")
    unit: str = Field(description="What is protected: user or window.")
    neighboring_relation: Relation = Field(description="How neighboring data sets differ, for an outsider.")
    scope: str = Field(description="What is released.")
    adversary: str = Field(description="Whom the epsilon that was asked for is promised against.")
    epsilon: float | None = Field(description="Upper bound against that adversary.")
    epsilon_of_this_run: float | None = Field(description="The same for this run alone.")
    target_epsilon: float | None = Field(description="The epsilon that was asked for; null: infinity.")
    delta: float = Field(ge=0, lt=1, description="Of every bound.")
    rdp_cross_check: float | None = Field(description="The Renyi bound on the same events; null where none is known.")
    claims: tuple[Claim, ...] = Field(description="One for each adversary.")
    not_kept: str | None = Field(description="Where the run does not protect as planned: a sentence.")
    group: Group
    per_client: PerClient
    mechanism: MechanismFacts
    releases: tuple[Released, ...] = Field(description="What is released beside training.")
    events: tuple[RecordedEvent, ...] = Field(description="What this run released, as an outsider sees it.")
    earlier_events: tuple[RecordedEvent, ...] = Field(description="What the runs that it continues released.")
    assumptions: tuple[Assumption, ...] = Field(description="What the claims rest on.")
    sent: tuple[Sent, ...] = Field(description="What a client sends.")
    warnings: tuple[str, ...] = Field(description="What weakens a claim and leaves it true.")
    not_protected: tuple[str, ...] = Field(description="What nothing protects.")

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        """A file that claims something for a run without privacy, or despite a failed assumption, is damaged."""
        bounds = [self.epsilon, *(claim.epsilon for claim in self.claims)]
        if not self.is_private and (any(claim.protected for claim in self.claims) or bounds != [None] * len(bounds)):
            raise ValueError("a run without privacy has a claim")
        for claim in self.claims:
            void = [one.text for one in self.assumptions if not one.holds and claim.adversary in one.voids]
            if claim.protected and void:
                raise ValueError("a claim is called protected on an assumption that fails")
        if self.is_private and (self.delta == 0 or self.group.delta == 0):
            raise ValueError("a bound without a delta is none of this accountant's")
        if (
            Mechanism.named(self.mechanism.name).shares_noise
            and self.mechanism.minimum_survivors <= self.mechanism.colluding_clients
        ):
            raise ValueError("there are as many colluding clients as survivors")
        if self.is_private and self.adversary not in {claim.adversary for claim in self.claims}:
            raise ValueError("there is no claim against the run's own adversary")
        return self

    @property
    def own(self) -> Claim | None:
        """The claim against the adversary that the run was planned for; None where the run claims nothing."""
        return next((claim for claim in self.claims if claim.adversary == self.adversary), None) if self.is_private else None

    @property
    def shares(self) -> tuple[Share, ...]:
        """What each release beside training gets of the budget: its noise, and its share of the releases' squared signal.

        Empty where one of them is exact: a run without noise divides no budget.
        """
        if any(one.noise_multiplier <= 0 for one in self.releases):
            return ()
        adders = self.mechanism.clients if Mechanism.named(self.mechanism.name).adds_noise_locally else 1
        signal = {one.name: one.times / one.noise_multiplier**2 for one in self.releases}
        return tuple(
            Share(
                release=one.name,
                times=one.times,
                noise_multiplier=one.noise_multiplier,
                noise_in_the_sum=one.noise_multiplier * math.sqrt(adders),
                share=signal[one.name] / sum(signal.values()),
            )
            for one in self.releases
        )

    @property
    def headline(self) -> str:
        """The first thing to say: the claim against the run's own adversary, or why there is none."""
        if self.own is None:
            return f"NOT PRIVATE: {self.reason_why_not}."
        return f"Against {self.own.who}: {self.own.promise}"

    @property
    def reason_why_not(self) -> str:
        """Why nothing is claimed, as the end of a sentence."""
        return str(self.why_not or "the run makes no privacy claim").removeprefix("not private: ").rstrip(".")


def statement_of(
    plan: PrivacyPlan,
    events: Sequence[Event],
    *,
    config: RunConfig,
    earlier: Sequence[Event] = (),
    message_bytes: Mapping[ReleaseName, int] = MappingProxyType({}),
) -> Statement:
    """Composes the statement.

    Guarantee:
        Every claim is over `earlier` and `events` together, hence over all that the released recommender was made from.

    Args:
        plan: What is done to every contribution. (public)
        events: What this run released, or will release, as an outsider sees it (`PrivacyPlan.events`). (public)
        config: What the plan was made of. (public)
        earlier: What the runs that it continues released. (public)
        message_bytes: How large the contribution to each release is, where that is known. (public)
    """
    everything = [*earlier, *events]
    if earlier:  # whose cohorts were others
        plan = replace(plan, smallest_active_sum=0)
    found = claims(plan, everything, continued=bool(earlier))
    trust = trusted_server(config, num_clients=plan.num_clients) if plan.mechanism is Mechanism.CENTRAL else None
    return Statement(
        is_private=plan.is_private,
        why_not=plan.why_not_private(),
        unit=plan.unit,
        neighboring_relation=plan.relation,
        scope=RELEASE_SCOPE,
        adversary=plan.adversary,
        epsilon=_bound(plan, everything),
        epsilon_of_this_run=_bound(plan, events),
        target_epsilon=_finite(plan.target_epsilon),
        delta=plan.delta,
        rdp_cross_check=cross_check(plan, everything),
        claims=tuple(found),
        not_kept=not_kept(plan, found),
        group=Group(accounts=ACCOUNTS, epsilon=_finite(group_claim(plan, everything, size=ACCOUNTS)), delta=plan.delta),
        per_client=_per_client(plan, everything),
        mechanism=_mechanism(plan),
        releases=tuple(
            Released(name=one.name, times=one.times, noise_multiplier=one.noise_multiplier) for one in plan.releases
        ),
        events=tuple(RecordedEvent(**vars(event)) for event in events),
        earlier_events=tuple(RecordedEvent(**vars(event)) for event in earlier),
        assumptions=tuple(assumptions(plan, config)),
        sent=tuple(sent_by_a_client(plan, message_bytes)),
        warnings=(*warnings(plan, found), *([trust] if trust and plan.is_private else [])),
        not_protected=NOT_PROTECTED,
    )


def cross_check(plan: PrivacyPlan, events: Sequence[Event]) -> float | None:
    """The Renyi bound against the plan's own adversary; None where no Renyi bound is known for the mechanism."""
    seen = plan.seen_by(plan.adversary, events) if plan.is_private else None  # type: ignore[arg-type]
    if seen is None:
        return None
    try:
        return _finite(accounting.rdp_epsilon(seen, delta=plan.delta, relation=plan.relation))
    except UnsupportedMechanism:
        return None


def _bound(plan: PrivacyPlan, events: Sequence[Event]) -> float | None:
    return _finite(plan.epsilon_against(plan.adversary, events)) if plan.is_private else None  # type: ignore[arg-type]


def _per_client(plan: PrivacyPlan, events: Sequence[Event]) -> PerClient:
    if not plan.is_private:
        return PerClient(with_amplification=None, known_participation=None)

    def bound(spent: Sequence[Event]) -> float | None:
        return _finite(accounting.epsilon(list(spent), delta=plan.delta, relation=plan.relation))

    return PerClient(with_amplification=bound(events), known_participation=bound(with_known_participation(events)))


def _mechanism(plan: PrivacyPlan) -> MechanismFacts:
    return MechanismFacts(
        name=str(plan.mechanism),
        unit=plan.unit,
        relation=plan.relation,
        secure_aggregation=plan.secure_aggregation,
        windows_per_user=plan.windows_per_user,
        population=plan.population,
        clients=plan.num_clients,
        colluding_clients=plan.colluding_clients,
        rounds=plan.rounds,
        steps_per_round=plan.steps_per_round,
        sampling_rate=plan.sampling_rate,
        expected_cohort=plan.expected_cohort if plan.clips_whole_updates else plan.num_clients,
        cohort_cap=plan.cohort_cap,
        minimum_survivors=plan.minimum_survivors,
        smallest_active_sum=plan.smallest_active_sum,
        min_separation=plan.min_separation,
        noise_multiplier=plan.noise_multiplier if plan.rounds else None,
        l2_clip_norm=_finite(plan.l2_clip_norm),
        clipping="adaptive" if plan.clipping_share else "fixed",
        statistics=",".join(plan.statistics),
        evaluations=plan.evaluations,
        delta=plan.delta,
        target_epsilon=_finite(plan.target_epsilon),
    )


def _finite(number: float | None) -> float | None:
    """None for infinity, which JSON lacks and which promises nothing."""
    return number if number is not None and math.isfinite(number) else None
