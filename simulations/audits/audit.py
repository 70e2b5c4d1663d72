"""From a finished run to its audit: the twin, what was read of it, what follows, and the signed document."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import itertools
import secrets
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.ledger.ledger import Ledger
from client.store.population import Population, open_population
from server import checkpoints
from server.event_log import EventLog
from server.reporting.audit_page import write_audit_page
from server.reporting.records import ReleaseRecord, read_release
from server.reporting.release_page import AUDIT_PAGE
from server.reporting.research_page import PAGE as RESEARCH_PAGE
from server.reporting.research_page import RECORDS
from server.reporting.verification import verify_release
from shared import wording
from shared.audit.document import (
    KIND,
    Attack,
    AuditDocument,
    AuditProtocol,
    CanaryClass,
    Evidence,
    Independence,
    ReleaseRead,
    Skipped,
)
from shared.audit.judgment import planned, results_of, views_of
from shared.audit.verification import PLANNED, commitment_of, verify
from shared.config import RunConfig
from shared.errors import CheckpointError, PrivacyError
from shared.folder_claim import claimed
from shared.hash_chain import head_of, linked
from shared.model.recommender import resident
from shared.privacy.events import Event
from shared.privacy.plan import PrivacyPlan
from shared.privacy.statement import Statement
from shared.run_file import RunFile
from shared.run_folder import EVENTS, POPULATION, RELEASE, load_config
from shared.signing import Signed, sign
from shared.versions import code_digest, versions
from simulations.audits.adapter_reconstruction import reconstruct_from_updates, why_not
from simulations.audits.attributes import write_attributes
from simulations.audits.black_box import write_black_box
from simulations.audits.canaries import Canaries
from simulations.audits.directions import Floats
from simulations.audits.linkage import write_linkage
from simulations.audits.linkage_frontier import linkage_frontier
from simulations.audits.membership_inference import check_shadow_runs, write_membership
from simulations.audits.planning import plan_before
from simulations.audits.reconstruction import reconstruct
from simulations.audits.sampling_probe import probe_sampling
from simulations.audits.skipped import skipped_of
from simulations.audits.stand_ins import departures_from, not_on_nodes, of_deployment, stand_ins
from simulations.audits.twin import Twin
from simulations.audits.views import Class, View, independence
from simulations.audits.window_inference import write_windows
from simulations.audits.witness import Witness

AUDIT = "audit.json"
_ON_PAPER = "audit.pdf"
# Of an event in the run's log: what is public. How many clients were asked or answered is not.
_PUBLIC = ("event", "purpose", "round_number", "statistic", "chosen", "released_round", "audit")
_PUBLIC_EVENTS = (PLANNED, "started", "asked", "refined", "selected", "finished", "stopped")
_ATTRIBUTES = Skipped(
    attack="attribute inference",
    reason="It reads real users and their attributes, so it is a research record and no part of this document.",
)
_DRAWS = Skipped(
    attack="whether users or clients are drawn by independent coins",
    reason="No claim rests on coins, cohorts are cut to a size, or the model is too large to read enough sums.",
)


def _of_real_users(shadow_runs: int | None) -> Iterator[Skipped]:
    """What is learned of real users is in no document; whether it was tried at all is said."""
    yield _ATTRIBUTES
    record = "It reads what copies of the run would release of real users, so it is a research record and no part of this "
    left_out = "; it was left out here, as was asked for." if shadow_runs == 0 else "."
    yield Skipped(attack="membership inference on users and on windows", reason=f"{record}document{left_out}")


def audit(
    run_dir: Path,
    *,
    key: Ed25519PrivateKey,
    canaries: int,
    contact: str = "",
    shadow_runs: int | None = None,
    say: Callable[[str], None] = lambda what: None,
) -> Signed:
    """Audits a finished run, and writes `audit.json`, its page and the research records into its folder.

    What an earlier audit left there is removed when the new document is signed, so that an audit that is interrupted later
    leaves no page and no record that is about another one.

    Args:
        run_dir: The run's folder.
        key: That signs. (private)
        canaries: How many to plant, fewer where there is no room; what was planned before the run counts instead.
        contact: Who answers questions about it.
        shadow_runs: Copies of the run from which membership inference learns, an even number; 0 leaves the attack out, and
            without it one copy is attacked without any.
        say: Told the purpose of each release once it has been read.

    Returns:
        The signed document.

    Raises:
        CheckpointError: If there is no finished run, or its log was changed.
        ConfigError: If this kind of run cannot be audited, or another process writes into its folder.
        PrivacyError: If the run's release report does not follow from its own events, or these are not of its plan.
    """
    check_shadow_runs(shadow_runs or 0)
    with claimed(run_dir, lambda folder: verify_release(read_release(folder))):
        return _audited(run_dir, key=key, canaries=canaries, contact=contact, shadow_runs=shadow_runs, say=say)


def _audited(
    run_dir: Path,
    *,
    key: Ed25519PrivateKey,
    canaries: int,
    contact: str,
    shadow_runs: int | None,
    say: Callable[[str], None],
) -> Signed:
    release, run = read_release(run_dir), of_deployment(run_dir)
    with tempfile.TemporaryDirectory(prefix="tacit-audit-") as folder:
        population = stand_ins(run, run_dir, Path(folder) / POPULATION) if run else None
        document, twin, witness = _document(
            run_dir, release, run, population, canaries=canaries, contact=contact, shadow_runs=shadow_runs, say=say
        )
        signed = sign(KIND, document.as_json(), key)
        for name in (AUDIT_PAGE, _ON_PAPER, RESEARCH_PAGE, *RECORDS.values()):
            (run_dir / name).unlink(missing_ok=True)
        signed.write(run_dir / AUDIT)
        write_audit_page(run_dir, verify(run_dir / AUDIT, public_key=signed.signer))
        write_black_box(run_dir, document.statement, witness.recommended, twin.canaries.included)
        say("twins at other epsilons")
        frontier = linkage_frontier(run_dir, twin.config, canaries=canaries, population=population)
        write_linkage(run_dir, document.statement, witness.linked, twin.canaries.included, frontier=frontier)
    if run is None:
        _write_of_real_users(run_dir, twin, document.statement, shadow_runs=shadow_runs, say=say)
    return signed


def _write_of_real_users(
    run_dir: Path, twin: Twin, statement: Statement, *, shadow_runs: int | None, say: Callable[[str], None]
) -> None:
    """The records of attacks on a simulation's own users."""
    config, population = twin.config, twin.population
    say("the lists of users")
    write_attributes(run_dir, config, population)
    if shadow_runs == 0:
        return
    say("copies without half of the users")
    write_membership(run_dir, config, population, statement, shadow_runs=shadow_runs or 0)
    say("copies without half of the windows")
    write_windows(run_dir, config, population, statement, shadow_runs=shadow_runs or 0)


def _document(
    run_dir: Path,
    release: ReleaseRecord,
    run: RunFile | None,
    population: Population | None,
    *,
    canaries: int,
    contact: str,
    shadow_runs: int | None,
    say: Callable[[str], None],
) -> tuple[AuditDocument, Twin, Witness]:
    """Runs the twin, and says what follows; of a deployment's run with its file and made-up users."""
    config = load_config(run_dir)
    statement = Statement(**{name: getattr(release, name) for name in Statement.model_fields})
    subject = _subject(run_dir, release)
    fixed = plan_before(run_dir)
    wanted = canaries if fixed is None else fixed.facts["canaries"]
    twin = Twin.of(run_dir, config, canaries=wanted, population=population)
    _verify_plan(statement, twin.plan)
    if fixed is not None:
        twin = fixed.with_coins(twin)
    salt = secrets.token_hex(16) if fixed is None else fixed.salt
    coins = "".join("1" if coin else "0" for coin in twin.canaries.included)
    protocol = AuditProtocol(
        canaries=len(twin.canaries),
        long_histories=int(twin.canaries.long.sum()),
        displaced=twin.canaries.displace,
        commitment=commitment_of(coins, salt),
        salt=salt,
        plan=None if fixed is None else fixed.facts,
    )
    before: list[dict[str, Any]] = [*_run_records(run_dir), {"kind": "protocol", "commitment": protocol.commitment}]
    witness = twin.run(say)
    say("contributions of made-up users")
    recommender = resident(config, twin.population.catalog)
    recovered = (
        *reconstruct(twin.plan, num_items=recommender.num_items, seed=config.run.seed),
        *reconstruct_from_updates(config, twin.plan, recommender),
    )
    seen = evidence_of(statement, witness, twin.canaries)
    sampling = probe_sampling(config, twin.plan, recommender)
    of_ledger = {} if run else _of_ledger(run_dir, config, statement)
    evidence = seen.model_copy(update={"reconstruction": recovered, "sampling": sampling, **of_ledger})
    records = linked([*before, {"kind": "twin", "releases": len(witness.sums.releases)}])
    document = AuditDocument(
        name=release.name or run_dir.resolve().name,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        contact=contact,
        subject=subject,
        versions=versions(),
        statement=statement,
        protocol=protocol,
        evidence=evidence,
        results=results_of(statement, evidence),
        skipped=(
            *skipped_of(twin.plan, config),
            *_not_made(twin.plan, why_not(twin.plan, recommender), reads_draws=bool(sampling)),
            *(not_on_nodes() if run else _of_real_users(shadow_runs)),
        ),
        departures=departures_from(run, run_dir) if run else (),
        records=tuple(records),
        head=head_of(records),
    )
    return document, twin, witness


def _not_made(plan: PrivacyPlan, why_no_updates: str, *, reads_draws: bool) -> Iterator[Skipped]:
    """What was not tried of updates and draws, and why."""
    if why_no_updates:
        yield Skipped(attack="reconstruction of items from updates of adapters", reason=why_no_updates)
    if plan.rounds and plan.sampling_rate < 1.0 and not reads_draws:
        yield _DRAWS


def evidence_of(statement: Statement, witness: Witness, canaries: Canaries) -> Evidence:
    """What a witness saw, as a document holds it.

    Args:
        statement: What is claimed: each view is held against its claims.
        witness: After the twin has run.
        canaries: What was planted.
    """
    seen = {"sums": witness.sums, "sums and cohorts": witness.known, "replies": witness.replies}
    attacks, releases, drawn = [], [], []
    for name, adversaries in views_of(statement).items():
        view = seen[name]
        if view is None:
            continue
        attacks.append(
            Attack(
                view=name,
                adversaries=adversaries,
                scores=tuple(view.scores().tolist()),
                included="".join("1" if coin else "0" for coin in canaries.included),
                guesses=planned(statement, adversaries, canaries=len(canaries)),
            )
        )
        releases += [
            ReleaseRead(
                view=name,
                purpose=one.purpose,
                round_number=one.round_number,
                values=one.values,
                noise_stddev=one.noise_stddev,
                guessed=one.guessed,
                samples=one.samples,
                total=one.total,
                short=_class(one.short),
                long=_class(one.long),
            )
            for one in view.releases
        ]
        drawn += _independence(view)
    return Evidence(
        attacks=tuple(attacks),
        releases=tuple(releases),
        independence=tuple(drawn),
        beside=tuple(sorted(witness.beside)),
        uncharged=(),
        unbounded=tuple(sorted(witness.unbounded)),
    )


def _independence(view: View) -> list[Independence]:
    """Noise of the parts of one release, and of releases of one size, each against the other."""
    of_parts: list[tuple[Floats, Floats]] = []
    of_releases: list[tuple[Floats, Floats]] = []
    for one in view.releases:
        of_parts += itertools.combinations(one.noise, 2)
    for one, other in itertools.combinations(view.releases, 2):
        if one.values == other.values:
            of_releases += zip(one.noise, other.noise, strict=False)
    found = []
    for between, pairs in (("replies to one request", of_parts), ("releases of one size", of_releases)):
        if pairs:
            products, z = independence(pairs)
            found.append(Independence(view=view.name, between=between, products=products, z=z))  # type: ignore[arg-type]
    return found


def _class(found: Class | None) -> CanaryClass | None:
    return None if found is None else CanaryClass(factor=found.factor, error=found.error, norm=found.norm)


def _run_records(run_dir: Path) -> list[dict[str, Any]]:
    """What the run did, in order, as far as it is public."""
    return [
        {"kind": "run", **{name: event[name] for name in _PUBLIC if name in event}}
        for event in EventLog(run_dir / EVENTS).read()
        if event["event"] in _PUBLIC_EVENTS
    ]


def _verify_plan(statement: Statement, plan: PrivacyPlan) -> None:
    """Raises unless the releases that are claimed are those of the run's plan, against which the twin's noise is held."""
    if not _kinds(statement.events) <= _kinds(plan.events()):
        raise PrivacyError(
            f"Expected releases of the run's own plan in {RELEASE}, got others. The file, or the configuration beside it, "
            "was changed after the run; restore both."
        )


def _kinds(events: Sequence[Event]) -> set[Event]:
    """Kinds of releases, however often each was made."""
    return {dataclasses.replace(Event(**vars(event)), steps=1) for event in events}


def _of_ledger(run_dir: Path, config: RunConfig, statement: Statement) -> dict[str, tuple[str, ...]]:
    """Requests that the clients' ledger lacks, and kinds of releases that only the claim or only the ledger holds."""
    if not config.is_private:
        return {}
    own = run_dir / POPULATION
    population = open_population(own if own.exists() else Path(config.data.population))
    path = Path(config.privacy.ledger) if config.privacy.ledger else population.ledger_file
    if not path.exists():
        raise CheckpointError(f"Expected the ledger of the run's clients in {path.name}, found none. Restore it.")
    run = checkpoints.load(run_dir, config_digest=config.digest()).run_id
    ledger = Ledger(path)
    try:
        asked = [event for event in EventLog(run_dir / EVENTS).read() if event["event"] == "asked"]
        uncharged = tuple(
            f"{event['purpose']} of round {event.get('round_number', 0)}"
            for event in asked
            if not ledger.charged(run, event["purpose"], int(event.get("round_number", 0)))
        )
        differ = sorted(_kinds(statement.events) ^ ledger.charged_for(run), reverse=True)
        return {"uncharged": uncharged, "mischarged": tuple(map(_kind_of_release, differ))}
    finally:
        ledger.close()


def _kind_of_release(event: Event) -> str:
    return f"releases with noise multiplier {wording.significant(event.noise_multiplier, up=False, digits=4)}"


def _subject(run_dir: Path, release: ReleaseRecord) -> dict[str, str | None]:
    """Digests of what was audited."""
    named = {name: value for name, value in release.identity.items() if name.endswith("digest")}
    return {
        **{name: None if value is None else str(value) for name, value in named.items()},
        "events_head": EventLog(run_dir / EVENTS).head,
        "release_digest": hashlib.sha256((run_dir / RELEASE).read_bytes()).hexdigest(),
        "code_digest": code_digest(),
    }
