"""Whether an audit document is what its author signed, and whether its numbers follow from one another; offline.

What it can show: nothing was changed since it was signed; epsilons follow from the events, bounds from the scores.
What it cannot: that the scores are those of the run. For that a third party runs the audit again, or was there, and
countersigns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from shared.audit.document import KIND, SCHEMA, AuditDocument
from shared.audit.gate import LEVEL
from shared.audit.judgment import claimed_against, planned, results_of, views_of
from shared.errors import CheckpointError, ConfigError, PrivacyError
from shared.hash_chain import verify_linked
from shared.privacy.recomputation import verify_statement
from shared.privacy.releases import KINDS
from shared.signing import Signed, canonical, read_signed, sign

COUNTERSIGNATURE = "audit-countersignature"
# The event in a run's log that holds the digest of an audit's plan.
PLANNED = "audit_planned"
# Purpose of a request of the server -> the release that it is for.
_RELEASES: dict[str, str] = {purpose: kind.name for kind in KINDS for purpose in (kind.name, *kind.about)}
# Bytes, some 2 kB a round: more than the audit of any trained run.
_LARGEST = 100_000_000
# Another processor rounds otherwise.
_RELATIVE, _ABSOLUTE = 1e-6, 1e-9


@dataclass(frozen=True)
class Verified:
    """A document that was verified.

    Attributes:
        document: Its content.
        signed: The signature under it.
        signer_known: Whether it is the key that was asked for.
    """

    document: AuditDocument
    signed: Signed
    signer_known: bool


def verify(path: Path, *, public_key: bytes | None = None) -> Verified:
    """Verifies a document.

    Guarantee:
        When this returns, the file is byte for byte what the signer signed; every epsilon in it follows from its events, and
        every result from its evidence, by this version's arithmetic.

    Args:
        path: The file.
        public_key: Whose signature it has to bear, 32 bytes; None: intact is enough.

    Raises:
        ConfigError: If there is no such file.
        PrivacyError: If something differs; the message says what.
    """
    if not path.is_file():
        raise ConfigError(f"Expected an audit in {path.name}, found no file. Make one with `tacit audit run RUN_DIR`.")
    try:
        signed = read_signed(path, KIND, signer=public_key, largest=_LARGEST)
    except ConfigError as error:
        raise PrivacyError(str(error)) from None
    document = parse(signed.body, name=path.name)
    verify_statement(document.statement, name=path.name)
    try:
        verify_linked(document.records, document.head)
    except CheckpointError as error:
        raise PrivacyError(f"{path.name}: {error}") from None
    _verify_protocol(document, path.name)
    _verify_plan(document, path.name)
    try:
        found = results_of(document.statement, document.evidence).model_dump(mode="json")
    except (ValueError, ArithmeticError, LookupError):
        raise PrivacyError(
            f"Expected evidence from which results follow in {path.name}, got some that no audit has. Its author "
            "changed it; ask for the audit again."
        ) from None
    where = _difference(document.results.model_dump(mode="json"), found)
    if where is not None:
        raise PrivacyError(
            f"Expected results that follow from the evidence in {path.name}, got another {where}. The document was made by "
            "another version, or its author changed it; ask for the audit again."
        )
    return Verified(document, signed, public_key is not None)


def countersign(verified: Verified, key: Ed25519PrivateKey, *, at: str) -> Signed:
    """A third party's signature under an audit that it verified: it says that this is the document it saw, at that time.

    Args:
        verified: The audit.
        key: Of the third party. (private)
        at: When, as text.

    Raises:
        ConfigError: If it is the author's own key.
    """
    signed = verified.signed
    if key.public_key().public_bytes_raw() == signed.signer:
        raise ConfigError(
            "Expected the key of a third party, got the author's own. Its signature is under the audit already; let another "
            "person countersign."
        )
    body = {"digest": signed.digest, "signer": signed.signer.hex(), "verdict": verified.document.results.verdict, "at": at}
    return sign(COUNTERSIGNATURE, body, key)


def verify_countersignature(path: Path, verified: Verified, *, public_key: bytes | None = None) -> Signed:
    """Verifies that a countersignature is one under this audit.

    Args:
        path: The countersignature's file.
        verified: The audit.
        public_key: Whose it has to be, 32 bytes; None: anybody's but the author's.

    Raises:
        ConfigError: If there is no such file.
        PrivacyError: If it is under another document, damaged, or by the author.
    """
    if not path.is_file():
        raise ConfigError(f"Expected a countersignature in {path.name}, found no file. Ask the third party for it.")
    try:
        found = read_signed(path, COUNTERSIGNATURE, signer=public_key)
    except ConfigError as error:
        raise PrivacyError(str(error)) from None
    if found.body.get("digest") != verified.signed.digest:
        raise PrivacyError(f"Expected a countersignature under this audit in {path.name}, got one under another document.")
    if found.signer == verified.signed.signer:
        raise PrivacyError(f"Expected the signature of a third party in {path.name}, got the author's own. It adds nothing.")
    return found


def parse(body: Mapping[str, Any], *, name: str) -> AuditDocument:
    """The document of a JSON object.

    Raises:
        PrivacyError: If it is of another schema, or damaged.
    """
    if body.get("schema") != SCHEMA:
        raise PrivacyError(
            f"Expected schema == '{SCHEMA}' in {name}, got another. Use the version of Tacit that wrote the file."
        )
    import json

    try:
        return AuditDocument.model_validate_json(json.dumps(body))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise PrivacyError(f"Expected a whole audit in {name}, got one that is damaged at {where[:120]}.") from None


def commitment_of(coins: str, salt: str) -> str:
    """SHA-256 of coins and a salt: what is fixed before the twin runs."""
    return hashlib.sha256(f"tacit audit coins\n{salt}\n{coins}\n".encode()).hexdigest()


def plan_digest(plan: Mapping[str, Any]) -> str:
    """SHA-256 of what was fixed before a run began: what its log holds. Coins are in it by their salted commitment alone."""
    return hashlib.sha256(b"tacit audit plan\n" + canonical(plan)).hexdigest()


def precedes_every_request(events: Sequence[Mapping[str, Any]], digest: str) -> bool:
    """Whether a run's log holds the digest of an audit's plan before anything was asked of a client.

    Args:
        events: Of the run, in order.
        digest: Of the plan.
    """
    for event in events:
        if event.get("event") == "asked":
            return False
        if event.get("event") == PLANNED and event.get("audit") == digest:
            return True
    return False


def _verify_plan(document: AuditDocument, name: str) -> None:
    """What was fixed before training is what was done."""
    protocol, plan = document.protocol, document.protocol.plan
    if plan is None:
        return
    if not precedes_every_request([record.get("body", {}) for record in document.records], plan_digest(plan)):
        raise _not_the_protocol(name, "a plan that the run's log holds before its first request")
    done = {
        "canaries": protocol.canaries,
        "long_histories": protocol.long_histories,
        "displaced": protocol.displaced,
        "coins": protocol.commitment,
        "level": LEVEL,
    }
    if any(plan.get(key) != value for key, value in done.items()):
        raise _not_the_protocol(name, "the canaries, coins and level that were planned")
    if plan.get("code") != document.subject.get("code_digest"):
        raise _not_the_protocol(name, "the code that was planned")
    for attack in document.evidence.attacks:
        claim = claimed_against(document.statement, attack.adversaries)
        # A round that was repeated costs more than was planned; guesses then follow from what is claimed.
        same_claim = _difference(plan.get("claimed", {}).get(attack.view), claim) is None
        if same_claim and plan.get("guesses", {}).get(attack.view) != dict(attack.guesses):
            raise _not_the_protocol(name, "the number of guesses that was planned")


def _verify_protocol(document: AuditDocument, name: str) -> None:
    """The coins are those that were committed, and the attacks and readings those that the claims ask for."""
    views, evidence = views_of(document.statement), document.evidence
    canaries, held = document.protocol.canaries, {attack.view: attack for attack in evidence.attacks}
    if sorted(views) != sorted(attack.view for attack in evidence.attacks):
        raise _not_the_protocol(name, "one attack against every claim")
    done = [record["body"] for record in document.records if record["body"].get("kind") in ("protocol", "twin")]
    committed = {"kind": "protocol", "commitment": document.protocol.commitment}
    if done[:1] != [committed] or [body["kind"] for body in done[1:]] != ["twin"]:
        raise _not_the_protocol(name, "records of the commitment and then of the twin, once each")
    wanted = {release.name for release in document.statement.releases}
    for view in views:
        if not wanted <= {_RELEASES.get(one.purpose) for one in evidence.releases if one.view == view}:
            raise _not_the_protocol(name, "a reading of every kind of release")
    for view, attack in held.items():
        if not len(attack.scores) == len(attack.included) == canaries > 0:
            raise _not_the_protocol(name, "a score and a coin for each canary")
        if commitment_of(attack.included, document.protocol.salt) != document.protocol.commitment:
            raise _not_the_protocol(name, "the coins that were committed")
        if attack.adversaries != views.get(view, attack.adversaries):
            raise _not_the_protocol(name, "attacks against every claim")
        if attack.guesses != planned(document.statement, attack.adversaries, canaries=canaries):
            raise _not_the_protocol(name, "the planned number of guesses")


def _not_the_protocol(name: str, what: str) -> PrivacyError:
    return PrivacyError(f"Expected {what} in {name}, got others. The audit did not follow its protocol; ask for it again.")


def _difference(said: Any, found: Any, where: str = "") -> str | None:
    """Where two JSON values differ by more than rounding; None if nowhere."""
    if isinstance(said, Mapping) and isinstance(found, Mapping):
        if set(said) != set(found):
            return where or "results"
        parts = ((said[key], found[key], f"{where}.{key}".lstrip(".")) for key in said)
        return next((at for one, other, place in parts if (at := _difference(one, other, place)) is not None), None)
    if isinstance(said, Sequence) and isinstance(found, Sequence) and not isinstance(said, str):
        if len(said) != len(found):
            return where
        pairs = enumerate(zip(said, found, strict=True))
        return next((at for i, (a, b) in pairs if (at := _difference(a, b, f"{where}.{i}")) is not None), None)
    if isinstance(said, float) and isinstance(found, float):
        return None if abs(said - found) <= _ABSOLUTE + _RELATIVE * max(abs(said), abs(found)) else where
    return None if said == found and type(said) is type(found) else where
