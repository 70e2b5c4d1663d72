"""`tacit audit` on a finished run: the file, its verification, exit statuses, what a run must have."""

from __future__ import annotations

import fcntl
import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shared.randomness
from client.store.population import open_population
from server.reporting.records import read_release
from server.reporting.verification import verify_release
from shared.audit.document import Evidence
from shared.audit.judgment import results_of
from shared.audit.verification import plan_digest
from shared.errors import PrivacyError
from shared.folder_claim import CLAIM
from shared.privacy.calibration import plan_of
from shared.run_folder import load_config
from simulations.audits.attributes import ATTRIBUTES
from simulations.audits.audit import AUDIT, _of_ledger, _verify_plan
from simulations.audits.black_box import BLACK_BOX
from simulations.audits.linkage import LINKAGE
from simulations.audits.membership_inference import MEMBERSHIP
from simulations.audits.planning import PLAN
from simulations.audits.signing_key import KEY_FILE
from simulations.audits.window_inference import WINDOWS
from tests import running
from tests.running import FinishedRun, run_tacit


@pytest.fixture(scope="module")
def audited(finished_run: FinishedRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the finished run with its audit; not to be changed. Its noise and coins are the same each time."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from simulations.audits.audit import audit

    folder = tmp_path_factory.mktemp("audited") / "run"
    shutil.copytree(finished_run.folder, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared.randomness, "secret_bytes", np.random.default_rng(5).bytes)
        audit(folder, key=Ed25519PrivateKey.generate(), canaries=40, contact="privacy@example.org")
    return folder


@pytest.fixture
def copied(audited: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(audited, tmp_path / "run"))


def _body(folder: Path) -> dict[str, Any]:
    body: dict[str, Any] = json.loads((folder / AUDIT).read_text("utf-8"))["body"]
    return body


def test_the_audit_of_a_run_names_what_was_audited_and_what_was_not_attacked(audited: Path) -> None:
    body = _body(audited)
    assert body["results"]["verdict"] == "passed", body["results"]["failures"]
    assert body["protocol"]["canaries"] == 40 and body["contact"] == "privacy@example.org"
    assert {"release_digest", "manifest_digest", "config_digest", "code_digest", "events_head"} <= set(body["subject"])
    assert {row["purpose"] for row in body["evidence"]["releases"]} == {"popularity", "train", "test"}
    assert any("local steps" in row["attack"] for row in body["skipped"])
    assert [row["body"]["kind"] for row in body["records"]][-2:] == ["protocol", "twin"]


def test_guarantee_no_count_of_clients_and_no_user_or_item_of_the_run_is_in_the_audit(
    audited: Path, finished_run: FinishedRun
) -> None:
    """The ids are person-0 to person-29 and thing-0 to thing-14; counts of who was asked stand in the run's own log."""
    text = (audited / AUDIT).read_text("utf-8")
    assert "person-" not in text and "thing-" not in text
    assert "clients_asked" in (finished_run.folder / "events.jsonl").read_text("utf-8")
    assert "clients_asked" not in text and "clients_answered" not in text


def test_the_run_itself_is_left_as_it_was_and_its_clients_were_charged_nothing(
    audited: Path, finished_run: FinishedRun
) -> None:
    def held(folder: Path) -> dict[str, bytes]:
        files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and "audit" not in path.name]
        names = [path for path in files if "ledger" not in path.name]  # opening one writes its journal
        return {str(path): (folder / path).read_bytes() for path in names}

    def charged(folder: Path) -> int:
        with sqlite3.connect(folder / "population" / "ledger.sqlite") as ledger:
            return int(ledger.execute("SELECT COUNT(*) FROM events").fetchone()[0])

    assert held(audited) == held(finished_run.folder)
    assert charged(audited) == charged(finished_run.folder)


def test_guarantee_what_the_twins_recommender_says_is_no_part_of_the_audit_and_is_stamped_not_private(audited: Path) -> None:
    held = json.loads((audited / BLACK_BOX).read_text("utf-8"))
    assert held["stamp"].startswith("NOT PRIVATE") and held["canaries"] == 40
    assert set(held["lower_bounds"]) == {"distribution-free", "f-dp"}
    assert "recommender" not in json.dumps(_body(audited)["evidence"])


@pytest.mark.parametrize("record", [LINKAGE, ATTRIBUTES, MEMBERSHIP, WINDOWS])
def test_guarantee_a_research_record_is_no_part_of_the_audit_and_is_stamped_not_private(audited: Path, record: str) -> None:
    held = json.loads((audited / record).read_text("utf-8"))
    assert held["stamp"].startswith("NOT PRIVATE")
    skipped = [row for row in _body(audited)["skipped"] if "research record" in row["reason"]]
    assert {row["attack"] for row in skipped} == {"membership inference on users and on windows", "attribute inference"}
    assert held["stamp"] not in (audited / AUDIT).read_text("utf-8")
    assert not {"linkage", "attributes", "membership", "windows"} & set(_body(audited)["evidence"])


def test_verify_says_who_signed_if_it_is_told_and_ends_with_0(audited: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unknown = run_tacit(capsys, "audit", "verify", audited / AUDIT)
    assert unknown.status == 0 and "intact; signer unknown. Verdict: passed." in unknown.stdout
    signer = json.loads((audited / AUDIT).read_text("utf-8"))["signer"]
    known = run_tacit(capsys, "audit", "verify", audited / AUDIT, "--public-key", signer, "--json")
    assert known.status == 0 and known.json == {
        "intact": True, "signer": signer, "signer_known": True, "countersigner": None, "verdict": "passed",
        "failures": [],
    }  # fmt: skip
    other = run_tacit(capsys, "audit", "verify", audited / AUDIT, "--public-key", "00" * 32)
    assert other.status == 1 and "another signer" in other.stderr


def test_verify_of_a_changed_file_ends_with_1_of_none_with_2_and_of_a_bad_key_with_2(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = (copied / AUDIT).read_bytes()
    (copied / AUDIT).write_bytes(content.replace(b"passed", b"passeD"))
    changed = run_tacit(capsys, "audit", "verify", copied / AUDIT, "--json")
    assert changed.status == 1 and changed.json["exit_status"] == 1
    assert run_tacit(capsys, "audit", "verify", copied / "none.json").status == 2
    (copied / AUDIT).write_bytes(content)
    bad = run_tacit(capsys, "audit", "verify", copied / AUDIT, "--public-key", "not a key")
    assert bad.status == 2 and "64 hexadecimal digits" in bad.stderr


def test_audit_run_of_a_run_whose_ledger_lacks_a_release_ends_with_3_and_says_which(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with sqlite3.connect(copied / "population" / "ledger.sqlite") as ledger:
        ledger.execute("UPDATE events SET state = 'freed' WHERE purpose = 'popularity'")
    outcome = run_tacit(capsys, "audit", "run", copied, "--canaries", 20, "--home", tmp_path / "key", "--quiet")
    assert outcome.status == 3 and "tacit: The audit failed." in outcome.stderr
    assert "popularity of round 0, in the replies: a client's ledger does not hold the release" in " ".join(
        outcome.stdout.split()
    )
    verified = run_tacit(capsys, "audit", "verify", copied / AUDIT)
    assert verified.status == 3 and "Verdict: failed" in verified.stdout


def test_power_a_ledger_that_was_charged_for_more_noise_than_is_claimed_fails_the_audit(copied: Path) -> None:
    config, statement = load_config(copied), read_release(copied)
    assert _of_ledger(copied, config, statement) == {"uncharged": (), "mischarged": ()}
    with sqlite3.connect(copied / "population" / "ledger.sqlite") as ledger:
        ledger.execute("UPDATE events SET noise_multiplier = 2 * noise_multiplier WHERE purpose = 'popularity' AND id = 1")
    found = _of_ledger(copied, config, statement)
    assert found["uncharged"] == () and [name[:31] for name in found["mischarged"]] == ["releases with noise multiplier "]
    held = Evidence(attacks=(), releases=(), independence=(), beside=(), uncharged=(), mischarged=found["mischarged"])
    results = results_of(statement, held)
    assert results.verdict == "failed" and "the claim and the clients' ledger differ" in results.failures[-1]


def test_releases_that_the_runs_plan_does_not_make_are_not_audited(audited: Path) -> None:
    """A report about less noise, or more, whose numbers all follow from one another."""
    statement, config = read_release(audited), load_config(audited)
    size = open_population(audited / "population").size
    for epsilon in (config.privacy.epsilon, 2.0, 20.0):
        plan = plan_of(config.with_values({"privacy.epsilon": epsilon}), num_users=size.users, num_clients=size.clients)
        if epsilon == config.privacy.epsilon:
            _verify_plan(statement, plan)
            continue
        with pytest.raises(PrivacyError, match=r"Expected releases of the run's own plan in release\.json, got others"):
            _verify_plan(statement, plan)


def test_audit_run_makes_a_key_once_and_prints_json_alone(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared.randomness, "secret_bytes", np.random.default_rng(7).bytes)
    home = tmp_path / "key"
    asked = ("audit", "run", copied, "--canaries", 20, "--home", home, "--json", "--shadow-runs", 0)
    outcome = run_tacit(capsys, *asked)
    assert outcome.status == 0 and outcome.json["verdict"] == "passed"
    for record in (MEMBERSHIP, WINDOWS):
        assert not (copied / record).exists()  # the earlier audit's is of no use any more
    (reason,) = [row["reason"] for row in _body(copied)["skipped"] if row["attack"].startswith("membership inference")]
    assert "left out here" in reason
    assert (home / KEY_FILE).stat().st_mode & 0o777 == 0o600
    public = run_tacit(capsys, "audit", "key", "--home", home, "--json").json["public_key"]
    assert json.loads((copied / AUDIT).read_text("utf-8"))["signer"] == public


def test_a_folder_without_a_finished_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = run_tacit(capsys, "audit", "run", tmp_path, "--home", tmp_path / "key")
    assert outcome.status == 2 and "Only a finished run has one" in outcome.stderr


def test_a_release_report_that_was_edited_is_not_audited(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held = json.loads((copied / "release.json").read_text("utf-8"))
    held["epsilon"] = 1.0
    (copied / "release.json").write_text(json.dumps(held), "utf-8")
    outcome = run_tacit(capsys, "audit", "run", copied, "--home", tmp_path / "key")
    assert outcome.status == 1 and "epsilons that follow from the events" in outcome.stderr


def test_a_release_report_of_a_version_without_active_sums_is_audited_as_without_any(copied: Path) -> None:
    held = json.loads((copied / "release.json").read_text("utf-8"))
    del held["mechanism"]["smallest_active_sum"]
    (copied / "release.json").write_text(json.dumps(held), "utf-8")
    release = read_release(copied)
    verify_release(release)
    assert release.mechanism.smallest_active_sum == 0


def test_a_run_whose_log_was_changed_is_not_audited(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = copied / "events.jsonl"
    lines = log.read_text("utf-8").splitlines(keepends=True)
    log.write_text("".join([*lines[:1], *lines[2:]]), "utf-8")
    outcome = run_tacit(capsys, "audit", "run", copied, "--home", tmp_path / "key")
    assert outcome.status == 2 and "Expected each line of events.jsonl to follow" in " ".join(outcome.stderr.split())


def test_an_audit_that_is_interrupted_leaves_its_page_and_nothing_of_an_earlier_audit(copied: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from simulations.audits.audit import audit

    def interrupt(what: str) -> None:
        if what == "twins at other epsilons":
            raise KeyboardInterrupt

    assert (copied / LINKAGE).exists() and (copied / MEMBERSHIP).exists()
    with pytest.raises(KeyboardInterrupt):
        audit(copied, key=Ed25519PrivateKey.generate(), canaries=20, say=interrupt)
    assert _body(copied)["protocol"]["canaries"] == 20
    assert _body(copied)["protocol"]["commitment"][:16] in (copied / "audit.html").read_text("utf-8")
    assert [path.name for path in copied.glob("audit-*")] == [BLACK_BOX]


def test_a_folder_into_which_another_process_writes_is_not_audited(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (copied / CLAIM).open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        outcome = run_tacit(capsys, "audit", "run", copied, "--home", copied / "key")
    assert outcome.status == 2 and "Expected a folder that no other process writes" in outcome.stderr


def test_an_unprotected_run_always_fails(tmp_path: Path, tiny_bert: str, capsys: pytest.CaptureFixture[str]) -> None:
    data = running.write_interactions(tmp_path / "data.csv")
    settings = running.flags(tiny_bert, privacy__epsilon="inf", federation__rounds=0, data__public_catalog=None)
    simulated = run_tacit(
        capsys, "simulate", "--data", data, "--out", tmp_path / "run", "--public-catalog", "--quiet", *settings
    )
    assert simulated.status == 0, simulated.stderr
    outcome = run_tacit(capsys, "audit", "run", tmp_path / "run", "--canaries", 20, "--home", tmp_path / "key")
    assert outcome.status == 3 and "Nothing is claimed: privacy is off" in " ".join(outcome.stdout.split())


def test_a_third_party_countersigns_the_document_that_it_saw_and_no_other(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    third = tmp_path / "third"
    outcome = run_tacit(capsys, "audit", "countersign", copied / AUDIT, "--home", third, "--json")
    assert outcome.status == 0 and outcome.json["countersignature"].endswith("audit.countersigned.json")
    under = copied / "audit.countersigned.json"
    verified = run_tacit(capsys, "audit", "verify", copied / AUDIT, "--countersignature", under, "--json")
    assert verified.status == 0 and verified.json["countersigner"] == outcome.json["signer"]
    other = json.loads(under.read_text("utf-8"))
    other["body"]["verdict"] = "failed"
    under.write_text(json.dumps(other), "utf-8")
    assert run_tacit(capsys, "audit", "verify", copied / AUDIT, "--countersignature", under).status == 1
    missing = run_tacit(capsys, "audit", "verify", copied / AUDIT, "--countersignature", tmp_path / "none.json")
    assert missing.status == 2 and "Ask the third party for it" in missing.stderr


def test_two_audits_stand_side_by_side(audited: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = run_tacit(capsys, "audit", "compare", audited / AUDIT, audited / AUDIT, "--json")
    assert outcome.status == 0 and outcome.json["verdict"] == {"first": "passed", "second": "passed"}
    bounds = _body(audited)["results"]["bounds"]
    assert outcome.json["lower bound, f-dp, replies"]["first"] in [row["epsilon"] for row in bounds]
    shown = run_tacit(capsys, "audit", "compare", audited / AUDIT, audited / AUDIT)
    assert shown.status == 0 and "lower bound, f-dp, replies" in " ".join(shown.stdout.split())


def test_audit_report_renders_the_page_of_a_verified_audit_alone(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = run_tacit(capsys, "audit", "report", copied, "--json")
    assert outcome.status == 0 and (copied / "audit.html").read_text("utf-8").startswith("<!doctype html>")
    (copied / "audit.html").unlink()
    (copied / AUDIT).write_bytes((copied / AUDIT).read_bytes() + b" ")
    assert run_tacit(capsys, "audit", "report", copied).status == 1
    assert not (copied / "audit.html").exists()


def test_simulate_audits_its_run_if_it_is_asked_to(
    tmp_path: Path, tiny_bert: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared.randomness, "secret_bytes", np.random.default_rng(12).bytes)
    monkeypatch.setenv("HOME", str(tmp_path))
    data = running.write_interactions(tmp_path / "data.csv")
    settings = running.flags(tiny_bert, federation__rounds=0, data__public_catalog=None)
    asked = ("simulate", "--data", data, "--out", tmp_path / "run", "--public-catalog", "--audit", "--json", *settings)
    outcome = run_tacit(capsys, *asked)
    assert outcome.status == 0 and outcome.json["audit"]["verdict"] == "passed", outcome.stderr
    body = _body(tmp_path / "run")
    first = body["records"][0]["body"]
    assert first["event"] == "audit_planned" and first["audit"] == plan_digest(body["protocol"]["plan"])
    assert (tmp_path / "run" / PLAN).stat().st_mode & 0o777 == 0o600
    assert run_tacit(capsys, "audit", "verify", tmp_path / "run" / AUDIT).status == 0
    assert (tmp_path / "run" / AUDIT).exists() and (tmp_path / "run" / "audit.html").exists()
    assert "NOT PRIVATE" in (tmp_path / "run" / "audit-research.html").read_text("utf-8")
    assert '<a href="audit.html">' in (tmp_path / "run" / "release.html").read_text("utf-8")
    assert (tmp_path / ".tacit" / "audit" / KEY_FILE).exists()
