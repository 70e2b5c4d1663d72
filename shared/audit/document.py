"""The audit document as types: what was claimed, what was done, what was read, and what follows from that.

Everything in `results` follows from the rest by `judgment.results_of`, so that a verifier can find it again.

A document tells nothing of a real user: what they contribute is taken away before anything is read, so that scores are about
canaries and noise, and readings about noise. What depends on them is which statistic the twin refined, a choice among three
that it made from noised sums. What a recommender of the twin says depends on them through all of its sums; that would be one
more release, so it is no part of a document (`simulations/audits/black_box.py`).

What never lives here: how a document is made (`simulations/audits/`), and what it looks like.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field

from shared.audit.one_run import Method
from shared.privacy.statement import Facts, Statement

KIND = "audit"
SCHEMA = "tacit-audit-1"
View = Literal["sums", "sums and cohorts", "replies"]
SEEN_AS: dict[View, str] = {
    "sums": "what is released: the noised sum of all clients, after every release",
    "sums and cohorts": "what is released, by somebody who knows which clients took part in each round",
    "replies": "what the server sees: each silo's own noised reply, to every request",
}


class AuditProtocol(Facts):
    """What was fixed before the twin ran."""

    canaries: int = Field(ge=0, description="Made-up users, m.")
    long_histories: int = Field(ge=0, description="Of these with many items, to find a bound that is missing.")
    displaced: bool = Field(description="Whether canaries took the place of real clients.")
    commitment: str = Field(description="SHA-256 of the coins and a salt, made before the twin ran.")
    salt: str = Field(description="Of the commitment, hex.")
    plan: dict[str, Any] | None = Field(
        None,
        description="What was fixed before training, whose digest the run's log holds; null: fixed before the twin alone.",
    )


class Attack(Facts):
    """Guesses about coins: what one adversary makes of all releases together."""

    view: View
    adversaries: tuple[str, ...] = Field(description="Whose claims this is held against.")
    scores: tuple[float, ...] = Field(description="One a canary: how much likelier in than out, as a logarithm.")
    included: str = Field(pattern="^[01]*$", description="The coins, one a canary: 1 is in.")
    guesses: dict[Method, int] = Field(description="How many guesses are made; planned from public constants.")


class CanaryClass(Facts):
    """What canaries of one kind added to a release."""

    factor: float = Field(description="How often they are in the sum; 1 if as they should be.")
    error: float = Field(ge=0, description="Standard error under the claimed noise.")
    norm: float = Field(ge=0, description="Largest length of one's vector; the bound is 1.")


class ReleaseRead(Facts):
    """What one release showed in one view."""

    view: View
    purpose: str
    round_number: int
    values: int = Field(ge=1, description="Values of a contribution.")
    noise_stddev: float = Field(ge=0, description="Claimed.")
    guessed: bool = Field(
        True,
        description="Whether the one-shot estimate rests on it; else it is tested, and guesses rest on it as far as the "
        "adversary knows who was in it.",
    )
    samples: int = Field(ge=0, description="Directions that nobody used.")
    total: float = Field(ge=0, description="Sum of squared readings along them, over the claimed variance.")
    short: CanaryClass | None
    long: CanaryClass | None


class Independence(Facts):
    """Whether noises are drawn anew."""

    view: View
    between: str
    products: int = Field(ge=1, description="Pairs of readings.")
    z: float = Field(description="Standard normal where all are independent.")


class Reconstruction(Facts):
    """How many items of made-up users a contribution gives away."""

    setting: str
    recovered: int = Field(ge=0)
    of: int = Field(ge=1)
    chance: float = Field(description="Share that guessing would find.")
    example: tuple[int, ...] = Field((), description="Items of the first made-up user, as numbers in the catalog.")
    guessed: tuple[int, ...] = Field((), description="What was taken for them.")


class SamplingRead(Facts):
    """Sums over the worst population: all of its users add -1 when they are drawn, and one adds 1."""

    where: str
    users: int = Field(ge=2)
    rate: float = Field(gt=0, lt=1, description="Claimed.")
    steps: int = Field(ge=1, description="Draws in a sum.")
    noise_multiplier: float = Field(ge=0, description="Claimed of each draw's sum; 0 where the draw alone is read.")
    sums: tuple[float, ...] = Field(min_length=2)


class Evidence(Facts):
    """What was read."""

    attacks: tuple[Attack, ...]
    releases: tuple[ReleaseRead, ...]
    independence: tuple[Independence, ...]
    beside: tuple[str, ...] = Field(description="Fields of replies beside the contribution.")
    uncharged: tuple[str, ...] = Field(description="Releases that a client's ledger does not hold.")
    unbounded: tuple[str, ...] = Field((), description="Releases to which a real user contributed more than the bound.")
    mischarged: tuple[str, ...] = Field(
        (), description="Kinds of releases that only the claim or only the clients' ledger holds."
    )
    reconstruction: tuple[Reconstruction, ...] = Field((), description="Items of made-up users that were found again.")
    sampling: tuple[SamplingRead, ...] = Field((), description="Draws of a made-up population.")


class Bound(Facts):
    """A lower bound on epsilon that holds whatever scores look like; it gates."""

    view: View
    method: Method
    guesses: int
    correct: int
    epsilon: float = Field(description="At the level of the gate.")
    alone: float = Field(description="At 5 %, as if it were the only test.")
    claimed: float
    refuted: bool = Field(description="Whether the events themselves are refuted, by their whole trade-off function.")
    exceeded: bool


class Estimate(Facts):
    """An estimate of epsilon; it warns."""

    view: View
    method: Literal["one-shot", "parametric"]
    epsilon: float
    low: float
    high: float | None
    claimed: float
    exceeded: bool = Field(description="Whether even `low` is above what is claimed.")
    assumed: tuple[str, ...] = Field(description="Releases that canaries tell nothing about: the claim stands for them.")


class Probe(Facts):
    """A test that a correct run almost never fails; it gates."""

    view: View
    release: str
    what: str
    value: float | None
    p_value: float | None
    failed: bool


class RateFacts(Facts):
    """A rate with its 95 % interval."""

    value: float
    low: float
    high: float


class Rates(Facts):
    """How well scores tell canaries that are in from those that are out."""

    view: View
    area: RateFacts | None
    found: dict[str, RateFacts | None] = Field(description="By rate of false alarms; null: not measurable.")


class Recovered(Facts):
    """The share of items that was found again."""

    setting: str
    share: RateFacts
    chance: float


class Power(Facts):
    """What an audit of this size can and cannot refute."""

    view: View
    method: Method
    claimed: float
    at_the_claim: float = Field(description="About what the bound is where the claim is exactly true.")
    at_half_the_noise: float = Field(description="The same where the noise is half of it.")
    largest: float = Field(description="The bound if every guess is right.")


class PlantedBug(Facts):
    """With what probability a bug in one release would fail the audit."""

    bug: str
    probe: str
    least: float | None = Field(description="Where it shows least; null: nothing was read in which it could be.")
    most: float | None = Field(description="Where it shows most.")


class Results(Facts):
    """What follows."""

    level: float = Field(description="What each bound may be wrong with; all together 2.5 %.")
    probe_level: float = Field(description="What each probe may be wrong with; all together 2.5 %.")
    bounds: tuple[Bound, ...]
    estimates: tuple[Estimate, ...]
    probes: tuple[Probe, ...]
    rates: tuple[Rates, ...]
    recovered: tuple[Recovered, ...]
    power: tuple[Power, ...]
    planted: tuple[PlantedBug, ...]
    warnings: tuple[str, ...]
    failures: tuple[str, ...]
    verdict: Literal["passed", "failed"]


class Skipped(Facts):
    """An attack that was not made."""

    attack: str
    reason: str


class Departure(Facts):
    """What a node that has left signed. It is not named: whoever knows its log knows the head."""

    left_at: int = Field(description="Seconds since 1970.")
    contributions: int = Field(description="To this run.")
    epsilon: float | None = Field(
        description="What its account spent in all runs, by its own ledger, without amplification."
    )
    log_head: str = Field(description="The hash of the last line of its log.")


class AuditDocument(Facts):
    """`audit.json`, the signed body."""

    model_config = ConfigDict(serialize_by_alias=True, validate_by_name=True, validate_by_alias=True)

    schema_: Literal["tacit-audit-1"] = Field("tacit-audit-1", alias="schema")
    name: str
    created: str
    contact: str = Field(description="Who is asked about this audit, and about objections and deletion; may be empty.")
    subject: dict[str, str | None] = Field(description="Digests of what was audited.")
    versions: dict[str, str]
    statement: Statement
    protocol: AuditProtocol
    evidence: Evidence
    results: Results
    skipped: tuple[Skipped, ...]
    departures: tuple[Departure, ...] = Field((), description="Nodes that took part and have left; of a deployment's run.")
    records: tuple[dict[str, Any], ...] = Field(description="Hash-chained: what was done, in order.")
    head: str = Field(description="Hash of the last record.")

    def as_json(self) -> dict[str, Any]:
        """The body as JSON holds it."""
        return self.model_dump(mode="json")
