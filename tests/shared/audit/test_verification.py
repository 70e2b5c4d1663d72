"""A signed audit: what is intact passes, and any change is found."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared.audit.document import KIND
from shared.audit.verification import COUNTERSIGNATURE, countersign, plan_digest, verify, verify_countersignature
from shared.errors import ConfigError, PrivacyError
from shared.hash_chain import head_of, linked
from shared.signing import Signed, sign
from tests import audits
from tests.running import ROOT

KEY = Ed25519PrivateKey.generate()
CANARIES = 40


@pytest.fixture(scope="module")
def body() -> dict[str, Any]:
    return audits.body(canaries=CANARIES)


def _written(folder: Path, body: dict[str, Any], key: Ed25519PrivateKey = KEY) -> tuple[Path, Signed]:
    signed = sign(KIND, body, key)
    signed.write(folder / "audit.json")
    return folder / "audit.json", signed


def test_an_intact_audit_is_verified_with_and_without_the_key(tmp_path: Path, body: dict[str, Any]) -> None:
    path, signed = _written(tmp_path, body)
    assert not verify(path).signer_known
    known = verify(path, public_key=signed.signer)
    assert known.signer_known and known.document.results.verdict == "passed"


def test_another_signer_than_the_one_that_is_named_is_refused(tmp_path: Path, body: dict[str, Any]) -> None:
    path, _ = _written(tmp_path, body, Ed25519PrivateKey.generate())
    with pytest.raises(PrivacyError, match="found another signer"):
        verify(path, public_key=KEY.public_key().public_bytes_raw())


def test_guarantee_any_changed_byte_fails(tmp_path: Path, body: dict[str, Any]) -> None:
    """Every 151st byte of the file is changed, the last bytes are cut off, and one is added."""
    path, _ = _written(tmp_path, body)
    content = path.read_bytes()
    changed = [content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :] for place in range(0, len(content), 151)]
    for other in [
        *changed,
        content[:-1],
        content[: len(content) // 2],
        content + b"\n",
        content.replace(b'"kind":', b'"kind": '),
    ]:
        path.write_bytes(other)
        with pytest.raises(PrivacyError):
            verify(path)


def test_upper_case_hexadecimal_is_another_text(tmp_path: Path, body: dict[str, Any]) -> None:
    path, signed = _written(tmp_path, body)
    path.write_bytes(path.read_bytes().replace(signed.signature.hex().encode(), signed.signature.hex().upper().encode()))
    with pytest.raises(PrivacyError, match="found another text"):
        verify(path)


def _set(*path: Any) -> Callable[[dict[str, Any]], None]:
    """A change that sets what a path leads to to the path's last part."""

    def change(body: dict[str, Any]) -> None:
        *inner, last, value = path
        for key in inner:
            body = body[key]
        body[last] = value

    return change


def _flip_a_coin(body: dict[str, Any]) -> None:
    coins = body["evidence"]["attacks"][0]["included"]
    body["evidence"]["attacks"][0]["included"] = ("0" if coins[0] == "1" else "1") + coins[1:]


def _leave_an_attack_out(body: dict[str, Any]) -> None:
    del body["evidence"]["attacks"][0]


def _leave_a_record_out(body: dict[str, Any]) -> None:
    del body["records"][0]


def _attack_twice(body: dict[str, Any]) -> None:
    """Each test is then made at half of the level."""
    body["evidence"]["attacks"] *= 2


def _plant_nobody(body: dict[str, Any]) -> None:
    body["protocol"]["canaries"] = 0
    for attack in body["evidence"]["attacks"]:
        attack.update(scores=[], included="")


def _leave_a_reading_out(body: dict[str, Any]) -> None:
    """The one that would have shown too little noise."""
    del body["evidence"]["releases"][0]


def _recorded(*kinds: str) -> Callable[[dict[str, Any]], None]:
    """Other records, chained anew."""

    def change(body: dict[str, Any]) -> None:
        bodies = {"other": {"kind": "protocol", "commitment": "00" * 32}}
        bodies |= {record["body"]["kind"]: record["body"] for record in body["records"]}
        body["records"] = linked([bodies[kind] for kind in kinds])
        body["head"] = head_of(body["records"])

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_set("statement", "epsilon", 0.5), "Expected epsilons that follow from the events"),
        (_set("statement", "claims", 0, "epsilon", 0.5), "Expected epsilons that follow from the events"),
        (_set("results", "bounds", 0, "epsilon", 3.0), "got another bounds.0.epsilon"),
        (_set("results", "verdict", "failed"), "got another verdict"),
        (_set("evidence", "attacks", 0, "scores", 3, 50.0), "Expected results that follow from the evidence"),
        (_set("evidence", "releases", 0, "total", 80.0), "Expected results that follow from the evidence"),
        (_set("evidence", "attacks", 0, "guesses", "f-dp", 2), "Expected the planned number of guesses"),
        (_flip_a_coin, "Expected the coins that were committed"),
        (_leave_an_attack_out, "Expected one attack against every claim"),
        (_attack_twice, "Expected one attack against every claim"),
        (_plant_nobody, "Expected a score and a coin for each canary"),
        (_set("evidence", "reconstruction", 0, "recovered", 101), "Expected evidence from which results follow"),
        (_leave_a_reading_out, "Expected a reading of every kind of release"),
        (_recorded("run", "twin"), "Expected records of the commitment and then of the twin"),
        (_recorded("run", "twin", "protocol"), "Expected records of the commitment and then of the twin"),
        (_recorded("run", "other", "twin"), "Expected records of the commitment and then of the twin"),
        (_recorded("run", "other", "protocol", "twin"), "Expected records of the commitment and then of the twin"),
        (_set("statement", "claims", 0, "promise", "Nobody learns anything."), "got another promise of the claim"),
        (_set("protocol", "canaries", 39), "Expected a score and a coin for each canary"),
        (_set("records", 0, "body", {"kind": "run", "event": "other"}), "Expected records that follow from one another"),
        (_leave_a_record_out, "Expected records that follow from one another"),
        (_set("head", "0" * 64), "Expected records that follow from one another"),
        (_set("schema", "tacit-audit-2"), "Use the version of Tacit that wrote the file"),
        (_set("contact", 3), "got one that is damaged at contact"),
        (_set("surplus", 1), "got one that is damaged at surplus"),
    ],
)
def test_numbers_that_do_not_follow_from_one_another_are_found_even_if_their_author_signed_them(
    change: Callable[[dict[str, Any]], None], said: str, tmp_path: Path, body: dict[str, Any]
) -> None:
    other = json.loads(json.dumps(body))
    change(other)
    path, _ = _written(tmp_path, other)
    with pytest.raises(PrivacyError, match=said):
        verify(path)


def _planned(body: dict[str, Any], *, late: bool = False, **changes: Any) -> dict[str, Any]:
    """The same audit, planned before training."""
    protocol, attacks = body["protocol"], body["evidence"]["attacks"]
    claims = {claim["adversary"]: claim["epsilon"] for claim in body["statement"]["claims"]}
    plan = {
        **{name: protocol[name] for name in ("canaries", "long_histories", "displaced")},
        "coins": protocol["commitment"],
        "level": 0.05,
        "claimed": {one["view"]: min(claims[name] for name in one["adversaries"]) for one in attacks},
        "guesses": {one["view"]: one["guesses"] for one in attacks},
        "code": "00" * 32,
        **changes,
    }
    event = {"kind": "run", "event": "audit_planned", "audit": plan_digest(plan)}
    bodies = [record["body"] for record in body["records"]]
    records = linked([bodies[0], event, *bodies[1:]] if late else [event, *bodies])
    return {**body, "protocol": {**protocol, "plan": plan}, "records": records, "head": head_of(records)}


def test_an_audit_that_was_planned_before_training_and_followed_its_plan_is_verified(
    tmp_path: Path, body: dict[str, Any]
) -> None:
    path, _ = _written(tmp_path, _planned(body))
    assert verify(path).document.protocol.plan is not None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"late": True}, "a plan that the run's log holds before its first request"),
        ({"canaries": 39}, "the canaries, coins and level that were planned"),
        ({"coins": "11" * 32}, "the canaries, coins and level that were planned"),
        ({"level": 0.01}, "the canaries, coins and level that were planned"),
        ({"guesses": {}}, "the number of guesses that was planned"),
        ({"code": "11" * 32}, "the code that was planned"),
    ],
)
def test_an_audit_that_did_not_follow_its_plan_is_found_even_if_its_author_signed_it(
    changes: dict[str, Any], said: str, tmp_path: Path, body: dict[str, Any]
) -> None:
    path, _ = _written(tmp_path, _planned(body, **changes))
    with pytest.raises(PrivacyError, match=said):
        verify(path)


def test_a_plan_that_was_changed_after_the_run_has_another_digest(tmp_path: Path, body: dict[str, Any]) -> None:
    other = _planned(body)
    other["protocol"]["plan"]["code"] = "11" * 32
    path, _ = _written(tmp_path, other)
    with pytest.raises(PrivacyError, match="a plan that the run's log holds before its first request"):
        verify(path)


def test_a_countersignature_is_under_one_document_and_never_the_authors_own(tmp_path: Path, body: dict[str, Any]) -> None:
    path, _ = _written(tmp_path, body)
    verified, third = verify(path), Ed25519PrivateKey.generate()
    under = tmp_path / "under.json"
    countersign(verified, third, at="today").write(under)
    assert verify_countersignature(under, verified).signer == third.public_key().public_bytes_raw()
    other, _ = _written(tmp_path, {**body, "name": "another run"})
    with pytest.raises(PrivacyError, match="got one under another document"):
        verify_countersignature(under, verify(other))
    with pytest.raises(ConfigError, match="got the author's own"):
        countersign(verified, KEY, at="today")
    sign(COUNTERSIGNATURE, dict(countersign(verified, third, at="today").body), KEY).write(under)
    with pytest.raises(PrivacyError, match="got the author's own"):
        verify_countersignature(under, verified)


def test_an_audit_of_thousands_of_rounds_is_read(tmp_path: Path, body: dict[str, Any]) -> None:
    long = {**body, "skipped": [{"attack": "one", "reason": "long " * 1_000_000}]}
    path, _ = _written(tmp_path, long)
    assert path.stat().st_size > 5_000_000
    assert verify(path).document.results.verdict == "passed"


def test_a_signed_document_of_another_kind_and_a_missing_one_are_refused(tmp_path: Path, body: dict[str, Any]) -> None:
    sign("kit", body, KEY).write(tmp_path / "audit.json")
    with pytest.raises(PrivacyError, match="Expected a signed audit"):
        verify(tmp_path / "audit.json")
    with pytest.raises(ConfigError, match="Make one with `tacit audit run RUN_DIR`"):
        verify(tmp_path / "none.json")


def test_a_verifier_needs_neither_torch_nor_flower_nor_a_run() -> None:
    code = (
        "import sys, shared.audit.verification; "
        "print({'torch', 'flwr', 'opacus', 'transformers', 'client', 'server', 'simulations'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
