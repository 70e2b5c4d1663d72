"""The worker: every message that is not the approved run's is refused, signed and written down, and the node goes on."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import ConfigRecord, Message

from client import provisioning
from client.home import NodeHome
from client.ledger.ledger import Binding, Ledger
from client.node.answers import Answer
from client.node.in_force import PolicyInForce
from client.node.settings import Policy, read_settings
from client.node.worker import Worker
from server.home import ServerHome
from server.provisioning import members
from server.provisioning.new_server import make_server, verify_settings
from shared.hash_chain import HashChain
from shared.protocol.distribution import Offer, is_held_record
from shared.protocol.messages import ContributionReply
from shared.protocol.secure_sums import ACKNOWLEDGE, ADVERTISE, MASK, OPEN, stage_record, with_stage
from shared.provisioning.request import read_request
from shared.run_file import RunFile
from shared.secagg.identities import read_key, read_roster, write_roster
from shared.secagg.keys import Roster
from shared.secagg.messages import Acknowledgments, MaskedInput, OpenedShares
from tests.clock import Clock
from tests.one_process import Given, packed, small_disk
from tests.run_files import DEVICES, NOW, SILOS, SIZES, message, request, run_file


class Node:
    """A provisioned node whose model's process is played: it says what it is told to say."""

    def __init__(self, folder: Path) -> None:
        settings = verify_settings(["localhost"], 8443, 9091)
        self.server: ServerHome = make_server(folder / "server", settings, days=900, passphrase="of tests alone", now=NOW)
        self.home = NodeHome(folder / "node")
        provisioning.request(self.home, "node-1", folder / "request", now=NOW)
        members.approve(self.server, read_request(folder / "request"), folder / "kit", days=300, now=NOW)
        provisioning.install(self.home, folder / "kit", members.server_fingerprint(self.server), now=NOW)
        self.key: Ed25519PrivateKey = read_key(self.server.identity)[1]
        self.now = NOW + 10
        self.answers: list[Answer] = []

    def worker(self, policy: Policy | None = None) -> Worker:
        """A worker as `tacit node start` makes it."""
        in_force = PolicyInForce(self.home) if policy is None else lambda: policy
        made = Worker(self.home, read_settings(self.home), in_force, clock=lambda: self.now)
        made._model.answer = lambda _: self.answers.pop(0)  # type: ignore[method-assign]
        return made

    def approve(self, run: RunFile) -> None:
        """As `tacit node approve`; a run without privacy is approved by hand alone."""
        run.document.write(self.home.approved / f"{run.digest}.json")

    def run(self, **changes: Any) -> RunFile:
        """A run file of this node's server."""
        return run_file({**SILOS, "privacy.epsilon": float("inf")}, key=self.key, **changes)

    def decisions(self) -> list[dict[str, Any]]:
        return HashChain(self.home.decisions).read()


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def _contribution(length: float = 1.0) -> Answer:
    values = np.zeros(SIZES["pairs"], dtype=np.float32)
    values[0] = length
    return Answer(content=ContributionReply(values).to_record())


def _asked(node: Node, run: RunFile | None = None, *, approved: bool = True) -> Given:
    run = run or node.run()
    if approved:
        node.approve(run)
    return Given(request(run, "pairs"), packed(run))


def test_an_approved_contribution_leaves_after_it_is_written_down(node: Node) -> None:
    node.answers = [_contribution()]
    task = _asked(node)
    node.worker().answer(task)  # type: ignore[arg-type]
    (content,) = task.replies
    assert set(content) == {"array", "log"}
    (decision,) = node.decisions()
    assert (decision["decision"], decision["run"], decision["bytes"]) == ("sent", node.run().digest, 128 + 420 + 32)


def test_a_contribution_and_the_log_name_each_others_heads(node: Node) -> None:
    node.answers = [_contribution()]
    task, server = _asked(node), "5e" * 32
    task.message.content["log"] = ConfigRecord({"head": bytes.fromhex(server)})
    node.worker().answer(task)  # type: ignore[arg-type]
    assert node.decisions()[0]["server_head"] == server
    assert task.replies[0]["log"]["head"].hex() == HashChain(node.home.decisions).head


def test_guarantee_no_digest_of_an_exact_contribution_is_in_the_log(node: Node) -> None:
    """This run has no noise: a digest would confirm a guess of the values."""
    node.answers = [_contribution()]
    node.worker().answer(_asked(node))  # type: ignore[arg-type]
    (decision,) = node.decisions()
    assert decision["contribution"] is None and decision["instruction"] is None


def test_an_instruction_with_something_else_in_the_place_of_a_head_is_refused(node: Node) -> None:
    node.answers = [_contribution()]
    task = _asked(node)
    task.message.content["log"] = ConfigRecord({"head": b"short"})
    node.worker().answer(task)  # type: ignore[arg-type]
    assert task.refusal["why"] == "protocol"


def test_a_run_that_is_not_approved_is_kept_for_the_owner_and_answered_once_it_is(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    from client.node.approval import approve, explained, found_run, listed

    worker = node.worker()
    task = _asked(node, approved=False)
    worker.answer(task)  # type: ignore[arg-type]
    assert task.refusal["why"] == "not-approved"
    worker.answer(_asked(node, approved=False))  # type: ignore[arg-type]
    (told,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]  # once, not each time
    short = node.run().digest[:16]
    assert told == f"Run {short} (autumn) was proposed; `tacit node approve {short}` shows it."
    assert node.run().digest[:16] in task.refusal["words"]
    assert [(one["name"], one["state"]) for one in listed(node.home)] == [("autumn", "proposed")]
    found = found_run(node.home, node.run().digest[:8])
    text = "\n".join(explained(node.home, found)["text"])
    assert "Recommend films to customers" in text
    assert "Nothing: privacy is off (epsilon = inf)" in text
    approve(node.home, found)
    node.answers = [_contribution()]
    again = _asked(node)
    worker.answer(again)  # type: ignore[arg-type]
    assert set(again.replies[0]) == {"array", "log"}


def test_an_owner_without_a_limit_is_told_that_an_approval_bounds_no_requests(node: Node) -> None:
    from client.node.approval import explained

    run = run_file(SILOS, key=node.key)
    found = explained(node.home, run)
    assert found["epsilon_limit"] is None
    assert "nothing stops a server that asks again" in "\n".join(found["text"])
    node.home.policy.write_text("[budget]\nepsilon = 9.0\n")
    for _ in range(2):
        found = explained(node.home, run)
        assert found["epsilon_limit"] == 9.0
        assert "nothing stops" not in "\n".join(found["text"])
        PolicyInForce(node.home)()
        node.home.policy.unlink(missing_ok=True)


BAD = {
    "another digest": ("protocol", "the digest that was announced"),
    "no run file": ("protocol", "a bundle with a run file"),
    "another server's run": ("protocol", "signed by the key that this machine trusts"),
    "changed settings": ("protocol", "as its author signed it"),
    "a closed run": ("policy", "still open"),
    "no zip": ("protocol", "a bundle with a run file"),
}


@pytest.mark.parametrize("fault", BAD)
def test_what_is_not_a_run_of_this_server_is_refused(node: Node, fault: str) -> None:
    run, why = node.run(), BAD[fault]
    task = _asked(node)
    if fault == "another digest":
        task.bundle_hash = "0" * 64
    elif fault == "no run file":
        task = Given(request(run, "pairs"), _zip({"pyproject.toml": b""}))
    elif fault == "another server's run":
        task = _asked(node, run_file({**SILOS, "privacy.epsilon": float("inf")}))
    elif fault == "changed settings":
        changed = run.document.to_bytes().replace(b'"federation.rounds":2', b'"federation.rounds":9')
        assert changed != run.document.to_bytes()
        task = Given(request(run, "pairs"), packed(run, **{"run-file.json": changed}))
    elif fault == "a closed run":
        task = _asked(node, node.run(valid_until=NOW))
    else:
        task = Given(request(run, "pairs"), b"PK\x03\x04 no zip")
    node.worker().answer(task)  # type: ignore[arg-type]
    assert task.refusal["why"] == why[0]
    assert why[1] in task.refusal["reason"]
    assert [one["decision"] for one in node.decisions()] == ["refused"]


def _zip(files: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


def test_code_in_the_bundle_is_never_run(node: Node, tmp_path: Path) -> None:
    trap = f"open({str(tmp_path / 'ran')!r}, 'w')\n".encode()
    node.answers = [_contribution()]
    node.approve(node.run())
    task = Given(request(node.run(), "pairs"), packed(node.run(), **{"federation.py": trap, "client/app.py": trap}))
    node.worker().answer(task)  # type: ignore[arg-type]
    assert set(task.replies[0]) == {"array", "log"}
    assert not (tmp_path / "ran").exists()


def test_a_reply_that_may_not_leave_is_refused_by_the_guard(node: Node) -> None:
    node.answers = [_contribution(float("nan"))]
    task = _asked(node)
    node.worker().answer(task)  # type: ignore[arg-type]
    assert task.refusal["why"] == "guard"
    assert list(task.replies[0]) == ["refusal"]


def test_a_refusal_is_signed_by_the_node_that_the_roster_knows(node: Node) -> None:
    task = _asked(node)
    task.bundle_hash = "0" * 64
    node.worker().answer(task)  # type: ignore[arg-type]
    (member,) = members.members(node.server)
    assert task.refusal["signer"].hex() == member.keys.identity_key
    assert task.refusal["node"] == "node-1"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (Answer(error="Expected less, got more.", kind="BudgetExceeded"), "budget"),
        (Answer(error="Expected another plan.", kind="PolicyRefused"), "policy"),
        (Answer(error="Expected a stage.", kind="ProtocolViolation"), "protocol"),
        (Answer(error="The model's process ended.", kind="died"), "failed"),
    ],
)
def test_what_the_models_process_refuses_is_passed_on(node: Node, answer: Answer, why: str) -> None:
    node.answers = [answer]
    task = _asked(node)
    node.worker().answer(task)  # type: ignore[arg-type]
    assert (task.refusal["why"], task.refusal["reason"]) == (why, answer.error)


def test_an_unforeseen_failure_tells_its_type_alone(node: Node) -> None:
    worker = node.worker()

    def fails(_: object) -> Answer:
        raise KeyError("alice")

    worker._model.answer = fails  # type: ignore[method-assign]
    task = _asked(node)
    worker.answer(task)  # type: ignore[arg-type]
    assert task.refusal["why"] == "failed"
    assert "KeyError" in task.refusal["reason"]
    assert "alice" not in task.refusal["words"]


def test_the_owners_day_outlives_a_restart(node: Node) -> None:
    policy = Policy.model_validate({"releases_per_day": 2})
    for expected in ("sent", "sent", "refused"):
        node.answers = [_contribution()]
        task = _asked(node)
        node.worker(policy).answer(task)  # type: ignore[arg-type]
        assert node.decisions()[-1]["decision"] == expected
    assert task.refusal["why"] == "not-now"
    node.now += 24 * 60 * 60
    node.answers = [_contribution()]
    node.worker(policy).answer(_asked(node, node.run(valid_until=NOW + 10**6)))  # type: ignore[arg-type]
    assert node.decisions()[-1]["decision"] == "sent"


def test_a_sum_is_not_left_after_its_contribution_although_the_day_is_used_up(node: Node) -> None:
    """The ledger is charged by then: to refuse what follows would cost all others their sum and take nothing back."""
    run = run_file(DEVICES, key=node.key)
    node.approve(run)
    plan = run.plan
    ledger = Ledger(node.home.ledger, binding=Binding("films", plan.unit, plan.relation, plan.delta))
    ledger.reserve("user-1", plan.release_events("pairs"), run="run-1", purpose="pairs", round_number=0)
    ledger.close()
    masked, statements = 4 * SIZES["pairs"], Acknowledgments((bytes(16),) * 3).to_bytes()
    asked = with_stage(request(run, "pairs").content, MASK, b"shares")
    said: dict[str, tuple[Message, bytes]] = {
        MASK: (message(asked, "query.pairs"), MaskedInput((bytes(16),) * 3, bytes(masked)).to_bytes()),
        ACKNOWLEDGE: (_stage(ACKNOWLEDGE), statements),
        OPEN: (_stage(OPEN), OpenedShares((bytes(33),) * 3).to_bytes()),
        ADVERTISE: (_stage(ADVERTISE), bytes(146)),
    }
    for policy in ({"releases_per_day": 1}, {"bytes_per_day": 800}):
        node.now += 2 * 24 * 60 * 60
        node.answers = [Answer(content=stage_record(stage, payload)) for stage, (_, payload) in said.items()]
        worker, refused = node.worker(Policy.model_validate(policy)), []
        again = run_file(DEVICES, key=node.key, valid_until=node.now + 1000)
        node.approve(again)
        for stage, (told, _) in said.items():
            task = Given(told, packed(again))
            worker.answer(task)  # type: ignore[arg-type]
            refused += [stage] if "refusal" in task.replies[0] else []
        assert refused == [ADVERTISE]
        assert task.refusal["why"] == "not-now"
        worker.stop()


def _stage(stage: str) -> Message:
    return message(stage_record(stage, b""), "query.secure_sum")


def test_guarantee_every_reply_of_a_node_leaves_at_a_multiple_of_the_runs_bucket(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, asked = Clock(), (0.0, False)

    def answer(_: object) -> Answer:
        works, refused = asked
        clock.sleep(works)
        return Answer(error="Expected less, got more.", kind="BudgetExceeded") if refused else _contribution()

    settings = {**SILOS, "privacy.epsilon": float("inf"), "privacy.reply_bucket_seconds": 1.5}
    worker, run = node.worker(), run_file(settings, key=node.key)
    worker._model.answer = answer  # type: ignore[method-assign]
    monkeypatch.setattr("client.reply_times.time", clock)
    for seconds, expected in ((0.25, 1.5), (1.25, 1.5), (2.0, 3.0)):
        for refused in (False, True):
            asked = (seconds, refused)
            task, start = _asked(node, run), clock.now
            worker.answer(task)  # type: ignore[arg-type]
            assert ("refusal" in task.replies[0]) == refused
            assert clock.now - start == expected


def test_an_expired_kit_answers_nothing(node: Node) -> None:
    node.now = NOW + 301 * 24 * 60 * 60
    task = _asked(node, node.run(valid_until=node.now + 10))
    node.worker().answer(task)  # type: ignore[arg-type]
    assert "expired" in task.refusal["reason"]
    assert [one["decision"] for one in node.decisions()] == ["refused"]


def test_the_policy_of_the_moment_counts_and_one_that_cannot_be_read_refuses(node: Node) -> None:
    worker = node.worker()
    outcomes = []
    for policy in ('purposes = ["music"]', "purposes = ", 'purposes = ["films"]'):
        node.home.policy.write_text(policy)
        node.answers = [_contribution()]
        task = _asked(node)
        worker.answer(task)  # type: ignore[arg-type]
        outcomes.append(task.refusal["reason"] if "refusal" in task.replies[0] else "sent")
    assert [outcome.split(",")[0] for outcome in outcomes] == [
        "Expected a purpose that the owner allows", "Expected a policy that can be read", "sent"
    ]  # fmt: skip
    assert node.decisions()[1]["why"] == "policy"


@pytest.mark.parametrize("where", ["message", "bundle"])
def test_a_message_larger_than_the_owner_takes_is_refused_unread(node: Node, where: str) -> None:
    node.home.settings.write_text(node.home.settings.read_text() + "largest_message_bytes = 1048576\n")
    node.answers = [_contribution()]
    task = _asked(node)
    if where == "message":
        task.message.content["more"] = ConfigRecord({"values": [1.0] * 2**17})
    else:
        task.bundle += bytes(2**20)
    node.worker().answer(task)  # type: ignore[arg-type]
    assert task.refusal["why"] == "policy"
    assert "Expected a message of at most 1048576 bytes" in task.refusal["reason"]
    assert node.answers  # nobody was asked for an answer


def test_a_long_name_of_a_round_fills_neither_the_log_nor_a_refusal(node: Node) -> None:
    task = _asked(node)
    task.message.metadata.__dict__["_group_id"] = "x" * 10**6
    node.answers = [_contribution(), Answer(error="Expected less, got more.", kind="BudgetExceeded")]
    worker = node.worker()
    worker.answer(task)  # type: ignore[arg-type]
    assert "array" in task.replies.pop()
    worker.answer(task)  # type: ignore[arg-type]
    assert task.refusal["why"] == "budget"
    assert [len(one["group"]) for one in node.decisions()] == [200, 200]


def test_a_contribution_that_cannot_be_written_down_does_not_leave(node: Node) -> None:
    worker, task = node.worker(), _asked(node)
    node.home.decisions.mkdir()
    node.answers = [_contribution()]
    worker.answer(task)  # type: ignore[arg-type]
    assert task.refusal["reason"] == "The node failed with IsADirectoryError (Is a directory)."


def test_on_a_full_disk_no_contribution_leaves_and_the_server_is_told(node: Node, tmp_path: Path) -> None:
    try:
        with small_disk(tmp_path / "disk") as leave:
            node.home.decisions.symlink_to(tmp_path / "disk" / "decisions.jsonl")
            worker, tasks = node.worker(), []
            for left in (0, 2**19):
                leave(left)
                node.answers = [_contribution()]
                tasks.append(_asked(node))
                worker.answer(tasks[-1])  # type: ignore[arg-type]
            assert tasks[0].refusal["why"] == "failed"
            assert "(No space left on device)" in tasks[0].refusal["reason"]
            assert set(tasks[1].replies[0]) == {"array", "log"}  # there is room again
            assert [one["decision"] for one in node.decisions()] == ["sent"]
    except PermissionError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(("seconds", "says"), [(-3 * 86400, "holds from"), (0, ""), (301 * 86400, "expired")])
def test_a_clock_that_is_wrong_refuses_with_the_reason_and_a_right_one_answers(node: Node, seconds: int, says: str) -> None:
    node.answers = [_contribution()]
    task = _asked(node, node.run(valid_until=NOW + 10**9))
    node.now = NOW + seconds
    node.worker().answer(task)  # type: ignore[arg-type]
    if says:
        assert says in task.refusal["reason"]
    else:
        assert set(task.replies[0]) == {"array", "log"}


def test_what_left_by_a_clock_that_ran_ahead_still_counts_against_the_day(node: Node) -> None:
    policy = Policy.model_validate({"releases_per_day": 1})
    for now, expected in ((NOW + 5 * 3600, "sent"), (NOW, "refused")):
        node.now = now
        node.answers = [_contribution()]
        node.worker(policy).answer(_asked(node, node.run(valid_until=NOW + 10**6)))  # type: ignore[arg-type]
        assert node.decisions()[-1]["decision"] == expected


def test_a_day_of_the_clock_windows_a_budget_of_bytes_and_the_end_of_a_kit(node: Node) -> None:
    """24 hours of simulated clock, a request every half hour: hours, the day's limit, then the kit's last second."""
    end = node.now + 20 * 3600
    midnight = node.now - node.now % 86400
    kit = node.home.kit
    members.renew(node.server, "node-1", kit.with_name("shorter"), days=1, now=end - 86400)
    provisioning.install(node.home, kit.with_name("shorter"), members.server_fingerprint(node.server), now=node.now)
    policy = Policy.model_validate({"windows": ("22:00-06:00",), "releases_per_day": 5})
    worker, start, outcomes = node.worker(policy), node.now, []
    for half_hours in range(48):
        node.now = start + half_hours * 1800
        node.answers = [_contribution()]
        task = _asked(node, node.run(valid_until=NOW + 10**6))
        worker.answer(task)  # type: ignore[arg-type]
        said = "sent" if "array" in task.replies[0] else task.refusal["reason"]
        outcomes.append((node.now, said))
    sent = [now for now, said in outcomes if said == "sent"]
    assert len(sent) == 5
    assert all((now - midnight) % 86400 >= 22 * 3600 or (now - midnight) % 86400 < 6 * 3600 for now in sent)
    for now, said in outcomes:
        open_now = (now - midnight) % 86400 >= 22 * 3600 or (now - midnight) % 86400 < 6 * 3600
        if now > end:
            assert "expired" in said
        elif not open_now:
            assert "the owner's hours" in said
        elif now > sent[-1]:
            assert "fewer contributions a day" in said
    assert any("expired" in said for _, said in outcomes)
    assert any("fewer contributions a day" in said for _, said in outcomes)


def test_outside_its_hours_a_node_takes_the_roster_and_says_before_anybody_is_asked_that_it_would_refuse(node: Node) -> None:
    midnight = node.now - node.now % 86400
    worker = node.worker(Policy.model_validate({"windows": ("22:00-06:00",)}))
    run = node.run(valid_until=NOW + 10**6)
    node.approve(run)
    signed = members.signed_roster(node.server)

    def told(hour: int) -> Given:
        node.now = midnight + 86400 + hour * 3600
        content = Offer(signed.digest, {"roster.json": signed.to_bytes()}).to_record()
        task = Given(message(content, "query.roster"), packed(run))
        worker.answer(task)  # type: ignore[arg-type]
        return task

    node.home.roster.unlink()
    write_roster(node.home.roster, Roster({}))
    assert told(12).refusal["why"] == "not-now"
    assert read_roster(node.home.roster).entries  # revocations are learned at any hour
    assert is_held_record(told(23).replies[0], True)
