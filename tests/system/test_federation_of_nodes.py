"""A federation of nodes with their own guard, ledger and data, and everything that goes wrong between them and the server.

All of it runs in this process (`tests/one_process.py`), so that each fault costs what it needs and no more. Processes that
are killed for good, TLS and Flower's own parts are `test_deployment.py`'s.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from client.ledger.ledger import Ledger
from client.node.overview import overview
from client.node.rules import is_contribution
from server import checkpoints
from server.continuing import EarlierRun
from server.event_log import EventLog
from server.provisioning import members
from server.runs import proposed
from server.terms import Terms
from shared.errors import ConfigError
from shared.protocol.distribution import held_record
from shared.protocol.messages import ContributionReply
from shared.protocol.refusals import refusal_record
from shared.protocol.secure_sums import ADVERTISE, MASK, OPEN, SHARE, STAGES, payload_of, stage_of, stage_record
from shared.run_folder import load_catalog, load_config
from shared.secagg.messages import SealedShares
from simulations.audits.reconciliation import Reconciliation, reconcile
from tests.deployment import ingest, released_tensors, rows_of
from tests.one_process import Line, OneProcess, ServerKilled, one_process, small_disk

NODES = 3
AT_ONCE = {"federation.timeout_seconds": 1}
SHORT: dict[str, Any] = {"statistics.releases": "none", "federation.minimum_clients": 2, "federation.timeout_seconds": 1}
ROUNDS = {**SHORT, "federation.rounds": 2}


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory, tiny_bert: str) -> Iterator[OneProcess]:
    with one_process(tmp_path_factory.mktemp("nodes"), tiny_bert, NODES) as made:
        yield made


# What a hostile node sends.


def _values(content: RecordDict) -> np.ndarray:
    return content["array"]["flat"].numpy()  # type: ignore[index, union-attr]


def _with(values: np.ndarray) -> RecordDict:
    return ContributionReply(values).to_record()


def _beside(content: RecordDict, **more: Any) -> RecordDict:
    return RecordDict({**content, **more})


def _two_arrays(content: RecordDict) -> RecordDict:
    arrays = ArrayRecord()
    arrays["flat"], arrays["more"] = Array(_values(content)), Array(_values(content))
    return RecordDict({"array": arrays})


def _refusal_of_nobody(content: RecordDict) -> RecordDict:
    return refusal_record(
        "budget", "no", node="node-0", run="", message_type="train", group="1", now=1, key=Ed25519PrivateKey.generate()
    )


HOSTILE: dict[str, tuple[Any, int, str]] = {
    "nothing wrong": (lambda content: content, 3, ""),
    "NaN": (lambda content: _with(np.full_like(_values(content), np.nan)), 2, "Expected a finite update"),
    "infinity": (lambda content: _with(np.full_like(_values(content), -np.inf)), 2, "Expected a finite update"),
    "huge": (lambda content: _with(np.full_like(_values(content), 1e30)), 2, "Expected an update of L2 norm"),
    "one value more": (lambda content: _with(np.append(_values(content), np.float32(0))), 2, "float32 values, got shape"),
    "nothing": (lambda content: _with(np.zeros(0, dtype=np.float32)), 2, "float32 values, got shape"),
    "two dimensions": (lambda content: _with(_values(content)[None]), 2, ""),
    "doubles": (lambda content: _with(_values(content).astype(np.float64)), 2, ""),
    "a rank beyond all": (lambda content: _beside(content, metrics=MetricRecord({"rank": 2**60})), 3, ""),
    "a rank of none": (lambda content: _beside(content, metrics=MetricRecord({"rank": -1})), 2, ""),
    "a second array": (_two_arrays, 2, ""),
    "a metric more": (lambda content: _beside(content, metrics=MetricRecord({"loss": 0.5})), 2, ""),
    "a weight of its own": (lambda content: _beside(content, metrics=MetricRecord({"num-examples": 10**12})), 2, ""),
    "a text more": (lambda content: _beside(content, note=ConfigRecord({"user": "alice"})), 2, ""),
    "an empty reply": (lambda content: RecordDict(), 2, ""),
    "the answer to another question": (lambda content: held_record(True), 2, ""),
    "a refusal that somebody else signed": (_refusal_of_nobody, 2, ""),
    "the same twice": (lambda content: [content, content], 3, "had answered before"),
    "no answer": (lambda content: None, 2, "no answer within the deadline"),
}


def test_what_a_hostile_node_sends_is_left_out_and_told_and_each_round_goes_on(federation: OneProcess) -> None:
    """One run, in each round another fault of one of the three nodes."""
    faults = list(HOSTILE.values())

    def change(name: str, message: Message, content: RecordDict) -> Any:
        metadata = message.metadata
        hostile = name == "node-1" and metadata.message_type == "train"
        return faults[int(metadata.group_id) - 1][0](content) if hostile else content

    line = Line(federation, change=change)
    state = federation.run("hostile", line, reproducible=True, **{**SHORT, "federation.rounds": len(HOSTILE)})
    assert (state.state, state.reason) == ("finished", "")
    rounds = federation.events("hostile", "round")
    found = {name: (one["clients_answered"], one["failures"]) for name, one in zip(HOSTILE, rounds, strict=True)}
    for name, (_, answered, says) in HOSTILE.items():
        assert found[name][0] == answered, (name, found[name])
        assert bool(found[name][1]) == (answered < 3 or bool(says)), (name, found[name])
        assert says in " ".join(found[name][1]), (name, found[name])
        assert "alice" not in " ".join(found[name][1])
    for tensor in released_tensors(_folder(federation, "hostile")).values():
        assert np.isfinite(np.frombuffer(tensor, np.float32)).all()


def _folder(federation: OneProcess, run: str) -> Path:
    return federation.server.runs / run / "adapter"


# Nodes that are late, gone, killed, revoked.


def test_a_straggler_is_not_waited_for_beyond_the_deadline(federation: OneProcess) -> None:
    late = lambda name, message: 10**6 if name == "node-2" and message.metadata.group_id == "1" else 0  # noqa: E731
    state = federation.run("straggler", Line(federation, late=late), reproducible=True, **ROUNDS)
    assert state.state == "finished", state.reason
    rounds = federation.events("straggler", "round")
    assert [one["clients_answered"] for one in rounds] == [2, 3]
    assert rounds[0]["failures"] == ["no answer within the deadline"]


@pytest.mark.faults
def test_fewer_nodes_than_the_quorum_end_in_a_line_and_the_run_goes_on_once_they_are_back(federation: OneProcess) -> None:
    run = federation.propose("few", reproducible=True, **{**ROUNDS, "federation.minimum_clients": 3})
    line = Line(federation)

    def change(name: str, message: Message, content: RecordDict) -> RecordDict:
        line.away |= {"node-2"} if message.metadata.group_id == "1" else set()
        return content

    line.change = change
    state = federation.serve(run, line)
    assert state.state == "failed"
    assert "2 nodes were ready within 1 seconds; this run needs 3" in state.reason
    assert [one["round_number"] for one in federation.events("few", "round_dropped")] in ([2], [1, 2])
    assert federation.serve(run).state == "finished"
    assert federation.events("few", "round")[-1]["clients_answered"] == 3


@pytest.mark.faults
def test_an_operator_goes_on_with_fewer_nodes_where_the_noise_does_not_depend_on_them(federation: OneProcess) -> None:
    run = federation.propose("fewer", reproducible=True, **{**ROUNDS, "federation.minimum_clients": 3})
    line, folder = Line(federation, away={"node-2"}), federation.server.runs / "fewer"
    assert "2 nodes were ready within 1 seconds; this run needs 3" in federation.serve(run, line).reason
    Terms(deadline_seconds=2.0, quorum=2).write(folder)
    state = federation.serve(run, line)
    assert state.state == "finished", state.reason
    assert [one["clients_answered"] for one in federation.events("fewer", "round")] == [2, 2]
    assert [(one["deadline_seconds"], one["quorum"]) for one in federation.events("fewer", "terms")] == [(2.0, 2)]


STEPS = {"asked": (False, False), "computed": (True, False), "written": (True, True), "sent": (True, True)}


@pytest.mark.parametrize("step", STEPS)
def test_a_node_that_is_killed_has_counted_what_it_may_have_sent(federation: OneProcess, step: str) -> None:
    """Killed between being asked, computing, writing its decision down, and handing it over; then it comes back."""
    kills = iter([True])

    def dies(name: str, message: Message, now: str) -> bool:
        return name == "node-0" and message.metadata.message_type == "train" and now == step and next(kills, False)

    home, name = federation.home_of("node-0"), f"killed-{step}"
    before, _ = federation.spent(home)
    line = Line(federation, dies=dies)
    state = federation.run(name, line, **ROUNDS)
    assert state.state == "finished", state.reason
    assert [one["clients_answered"] for one in federation.events(name, "round")] == [2, 3]
    run_id = _run_id(federation, name)
    charged, written = STEPS[step]
    with contextlib.closing(Ledger(home.ledger)) as ledger:
        assert ledger.charged(run_id, "train", 1) == charged
        assert ledger.charged(run_id, "train", 2)
    sent = [one for one in federation.decisions(home, "sent") if one["run"] == federation.digest(name)]
    assert any(one["message_type"] == "train" and one["group"] == "1" for one in sent) == written
    states = {(row.node, row.request): row.state for row in _reconciled(federation, name).rows}
    lost = {"missing": 1} if written else {}  # written down, and never with the server
    assert Counter(states.values()) == {"same": len(states) - sum(lost.values()), **lost}
    assert len([state for (_, request), state in states.items() if request == "train of round 2"]) == NODES
    _holds(federation, name, line, {"node-0": before})


def _reconciled(federation: OneProcess, run: str) -> Reconciliation:
    """The logs of all nodes against the server's."""
    found = reconcile(federation.server.runs / run, [home.decisions for home in federation.nodes])
    assert found.of_others == {}
    return found


def _run_id(federation: OneProcess, run: str) -> str:
    run_dir = federation.server.runs / run
    return checkpoints.load(run_dir, config_digest=load_config(run_dir).digest()).run_id


def _holds(federation: OneProcess, run: str, line: Line, before: dict[str, int]) -> None:
    """What holds after every run, whatever went wrong: what was sent is counted, what is published covers all ledgers."""
    asked = EventLog(federation.server.runs / run / "events.jsonl").asked()
    requests = asked.rounds + sum(asked.released.values())
    for name, entries in before.items():
        home = federation.home_of(name)
        spent, _ = federation.spent(home)
        mine = [one for one in federation.decisions(home, "sent") if one["run"] == federation.digest(run)]
        arrived = sum(1 for who, kind, _ in line.arrived if who == name and is_contribution(kind))
        contributions = sum(1 for one in mine if is_contribution(one["message_type"]))
        assert arrived <= contributions <= spent - entries <= requests
    path = federation.server.runs / run / "adapter" / "manifest.json"
    if path.exists():
        manifest = json.loads(path.read_text())
        assert manifest["epsilon"] is None or 0 < manifest["epsilon"] <= 8


def test_a_node_that_is_revoked_in_the_middle_of_a_run_is_asked_for_nothing_more(tmp_path: Path, tiny_bert: str) -> None:
    with one_process(tmp_path, tiny_bert, 3) as own:

        def change(name: str, message: Message, content: RecordDict) -> RecordDict:
            if message.metadata.message_type == "train" and message.metadata.group_id == "1" and name == "node-2":
                members.revoke(own.server, "node-0", now=1)
            return content

        line = Line(own, change=change)
        state = own.run("revoked", line, **{**ROUNDS, "federation.rounds": 3})
        assert state.state == "finished", state.reason
        assert [one["clients_answered"] for one in own.events("revoked", "round")] == [3, 2, 2]
        kinds = [(kind, group) for name, kind, group in line.arrived if name == "node-0"]
        assert kinds[-1] == ("train", "1")
        # The others know, and so would the node itself.
        assert sum(kind == "query.roster" for name, kind, _ in line.arrived if name == "node-1") == 2


# The server.


@pytest.fixture(scope="module")
def undisturbed(federation: OneProcess) -> tuple[int, dict[str, bytes]]:
    """Steps and released tensors of a run that nothing disturbs, once the nodes have the catalog."""
    assert federation.run("before", reproducible=True, **ROUNDS).state == "finished"
    steps = federation.steps_of(federation.propose("undisturbed", reproducible=True, **ROUNDS))
    assert federation.state("undisturbed").state == "finished"
    return steps, released_tensors(_folder(federation, "undisturbed"))


# Before sending, while collecting, before and after saving: places of the run, spread evenly; one of them in every test run.
PLACES = [0.06, 0.18, 0.31, 0.44, 0.56, 0.69, 0.82, 0.94]


@pytest.mark.parametrize("place", [pytest.param(one, marks=pytest.mark.faults if one != 0.56 else ()) for one in PLACES])
def test_a_server_that_is_killed_goes_on_and_ends_with_the_same_bits(
    federation: OneProcess, undisturbed: tuple[int, dict[str, bytes]], place: float
) -> None:
    run = federation.propose(f"killed-at-{place}", reproducible=True, **ROUNDS)
    assert federation.killed(run, int(place * undisturbed[0]))
    assert federation.state(run.name).state == "interrupted"
    assert federation.serve(run).state == "finished"
    assert [one["round_number"] for one in federation.events(run.name, "round")] == [1, 2]
    assert released_tensors(_folder(federation, run.name)) == undisturbed[1]


@pytest.mark.faults
def test_a_server_that_is_killed_again_and_again_ends_with_the_same_bits(
    federation: OneProcess, undisturbed: tuple[int, dict[str, bytes]]
) -> None:
    """Each life is some steps longer than the one before, until one reaches the end."""
    run = federation.propose("killed-often", reproducible=True, **ROUNDS)
    lives = 1
    while federation.killed(run, 8 * lives):
        lives += 1
    assert lives >= 3
    assert federation.state(run.name).state == "finished"
    assert released_tensors(_folder(federation, run.name)) == undisturbed[1]


PRIVATE = {**ROUNDS, "statistics.releases": "pairs"}


@pytest.fixture(scope="module")
def private_steps(federation: OneProcess, undisturbed: object) -> int:
    """Steps of a private run that nothing disturbs."""
    return federation.steps_of(federation.propose("private", **PRIVATE))


@pytest.mark.faults
@pytest.mark.parametrize("place", [number / 16 for number in range(1, 16)])
def test_a_private_run_whose_server_is_killed_counts_all_that_may_have_been_revealed(
    federation: OneProcess, private_steps: int, place: float
) -> None:
    names, name = [one.path.name for one in federation.nodes], f"private-{place}"
    before = {one: federation.spent(federation.home_of(one))[0] for one in names}
    run, line = federation.propose(name, **PRIVATE), Line(federation)
    assert federation.killed(run, int(place * private_steps))
    state = federation.serve(run, line)
    assert state.state == "finished", state.reason
    _holds(federation, name, line, before)


@pytest.mark.faults
def test_a_damaged_checkpoint_is_passed_over_and_told(
    federation: OneProcess, undisturbed: tuple[int, dict[str, bytes]]
) -> None:
    run = federation.propose("damaged", reproducible=True, **ROUNDS)
    assert federation.killed(run, int(0.7 * undisturbed[0]))
    path = federation.server.runs / run.name / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:-10])
    assert federation.serve(run).state == "finished"
    (event,) = federation.events("damaged", "checkpoint_damaged")
    assert event["reason"].startswith("The newest checkpoint is damaged; the run goes on from the one before it")
    assert released_tensors(_folder(federation, "damaged")) == undisturbed[1]


@pytest.mark.faults
@pytest.mark.parametrize("left", [0, 8_000, 16_000, 40_000])
def test_a_server_on_a_full_disk_goes_on_once_there_is_room(
    federation: OneProcess, undisturbed: tuple[int, dict[str, bytes]], left: int
) -> None:
    name = f"full-{left}"
    try:
        with small_disk(federation.server.runs / name) as leave:
            run = federation.propose(name, reproducible=True, **ROUNDS)
            leave(left)
            assert not federation.killed(run, 0)
            assert federation.state(name).state in ("proposed", "failed", "interrupted")
            leave(2**19)
            assert federation.serve(run).state == "finished"
            assert released_tensors(_folder(federation, name)) == undisturbed[1]
    except PermissionError as error:
        pytest.skip(str(error))


# Secure sums: the nodes live on, with the secrets of the sum that the server was in.
MASKED = {
    **AT_ONCE,
    "federation.clients": 0,
    "federation.rounds": 3,
    "federation.minimum_clients": 6,
    "statistics.releases": "none",
    "privacy.delta": 0.01,
    "privacy.mechanism": "distributed",
    "secure_aggregation.simulate": "full",
    "secure_aggregation.dropout_fraction": 0.25,
    "secure_aggregation.server": "curious",
}
DEVICES = 9


@pytest.fixture(scope="module")
def devices(tmp_path_factory: pytest.TempPathFactory, tiny_bert: str) -> Iterator[OneProcess]:
    with one_process(tmp_path_factory.mktemp("devices"), tiny_bert, DEVICES, users=1) as made:
        yield made


@pytest.mark.faults
@pytest.mark.parametrize("stage", STAGES)
def test_a_server_that_is_killed_in_a_secure_sum_begins_another_and_no_share_opens_two(
    devices: OneProcess, stage: str
) -> None:
    names = [one.path.name for one in devices.nodes]
    before = {one: devices.spent(devices.home_of(one))[0] for one in names}
    run, kills = devices.propose(f"masked-{stage}", **MASKED), iter([True])
    masked: dict[str, set[bytes]] = {name: set() for name in names}
    opened: dict[tuple[str, str], set[bytes]] = {}

    def change(name: str, message: Message, content: RecordDict) -> RecordDict:
        now, group = stage_of(message), message.metadata.group_id
        reply = Message(content, reply_to=message)
        if now == MASK:
            masked[name].add(payload_of(reply, MASK))
        if now == OPEN:
            opened.setdefault((name, group), set()).add(payload_of(reply, OPEN))
        if now == stage and group.startswith("2") and name == names[4] and next(kills, False):
            raise ServerKilled
        return content

    line = Line(devices, change=change)
    with pytest.raises(ServerKilled):
        devices.serve(run, line)
    state = devices.serve(run, line)
    assert state.state == "finished", state.reason
    assert {one["survivors"] for one in devices.events(run.name, "secure_sum")} == {DEVICES}
    states = {row.state for row in _reconciled(devices, run.name).rows if row.request != "train of round 2"}
    assert states == {"same"}
    # Asked again, a node gives the same bytes or nothing: what it masked is in its ledger, and it opens one set of shares.
    assert {len(one) for one in opened.values()} == {1}
    for name in names:
        assert len(masked[name]) <= devices.spent(devices.home_of(name))[0] - before[name]


@pytest.mark.faults
@pytest.mark.parametrize("stage", [ADVERTISE, MASK])
def test_a_device_that_never_answers_holds_up_no_sum_of_the_others(devices: OneProcess, stage: str) -> None:
    """It is connected and silent; all others take a look more of the server, so that a stage needs some time of its own."""

    def late(name: str, message: Message) -> int:
        return 10**6 if name == "node-4" and stage_of(message) == stage else 1

    settings = {**MASKED, "federation.rounds": 0, "federation.timeout_seconds": 8}
    state = devices.run(f"silent-{stage}", Line(devices, late=late), **settings)
    assert (state.state, state.reason) == ("finished", "")
    sums = devices.events(f"silent-{stage}", "secure_sum")
    assert {one["survivors"] for one in sums} == {DEVICES - 1}


@pytest.mark.faults
def test_a_release_whose_secure_sum_failed_is_asked_again_without_who_spoiled_it(devices: OneProcess) -> None:
    """One device deals shares of nothing in the first sum; the second is of other keys, and is charged once more."""
    spoiled = []

    def change(name: str, message: Message, content: RecordDict) -> RecordDict:
        if name == "node-4" and stage_of(message) == SHARE and not spoiled:
            dealt = SealedShares.from_bytes(payload_of(Message(content, reply_to=message), SHARE))
            spoiled.append(name)
            return stage_record(SHARE, dataclasses.replace(dealt, sealed=(bytes(82),) * len(dealt.sealed)).to_bytes())
        return content

    before = devices.spent(devices.nodes[0])[0]
    settings = {**MASKED, "federation.timeout_seconds": 8}
    state = devices.run("spoiled", Line(devices, change=change), **settings)
    assert (state.state, state.reason) == ("finished", "")
    (dropped,) = devices.events("spoiled", "release_dropped")
    assert "their owner dealt none that fit" in dropped["reason"]
    sums = devices.events("spoiled", "secure_sum")
    assert sums[0]["release"] == "popularity"
    assert {one["survivors"] for one in sums} == {DEVICES - 1}
    assert devices.spent(devices.nodes[0])[0] - before == len(sums) + 1


# A run that goes on from another.


CONTINUABLE = {**ROUNDS, "federation.rounds": 0, "statistics.releases": "pairs"}


@pytest.mark.faults
def test_a_run_that_continues_another_counts_what_has_come_since_and_nothing_twice(tmp_path: Path, tiny_bert: str) -> None:
    with one_process(tmp_path, tiny_bert, NODES) as own:
        assert own.run("first", reproducible=True, **CONTINUABLE).state == "finished"
        later = {home.path.name: rows_of(home.path.name, seed=50 + place, start=500) for place, home in enumerate(own.nodes)}
        for home in own.nodes:
            ingest(home, later[home.path.name])
        first = own.server.runs / "first"
        run = own.propose("second", reproducible=True, continues=first, **AT_ONCE)
        assert run.continues == own.digest("first")
        state = own.serve(run)
        assert state.state == "finished", state.reason
        found = {name: EarlierRun.open(own.server.runs / name) for name in ("first", "second")}
        expected = _expected_counts(own, later, load_catalog(first).row_of)
        np.testing.assert_allclose(found["first"].totals["popularity"].values, expected[0], atol=1e-5)
        np.testing.assert_allclose(found["second"].totals["popularity"].values, expected[0] + expected[1], atol=1e-5)
        # A third run, of the same data, has nothing to count.
        third = own.propose("third", reproducible=True, continues=own.server.runs / "second", **AT_ONCE)
        assert own.serve(third).state == "finished"
        total = EarlierRun.open(own.server.runs / "third").totals["popularity"].values
        np.testing.assert_allclose(total, expected[0] + expected[1], atol=1e-5)


def _expected_counts(own: OneProcess, later: Any, row_of: Any) -> tuple[np.ndarray, np.ndarray]:
    """By hand: 1/sqrt(m) for each of the m items of a user's training history at first, and of what is new in it."""
    counts = np.zeros((2, len(row_of)))
    for place, home in enumerate(own.nodes):
        name = home.path.name
        histories: dict[str, list[tuple[int, str]]] = {}
        for user, item, time_ in rows_of(name, seed=place):
            histories.setdefault(user, []).append((time_, item))
        trained = {user: [item for _, item in sorted(rows)][:-2] for user, rows in histories.items()}
        for user, item, time_ in later[name]:
            histories[user].append((time_, item))
        for user, rows in histories.items():
            whole = [item for _, item in sorted(rows)][:-2]
            assert whole[: len(trained[user])] == trained[user]
            for number, items in enumerate((trained[user], whole[len(trained[user]) :])):
                for item in set(items):
                    counts[number, row_of[item]] += len(set(items)) ** -0.5
    return counts[0], counts[1]


@pytest.mark.faults
def test_a_run_is_continued_within_what_the_nodes_have_left_and_they_see_its_cost_before(
    tmp_path: Path, tiny_bert: str
) -> None:
    with one_process(tmp_path, tiny_bert, NODES) as own:
        limited, more = own.nodes[0], {**AT_ONCE, "privacy.epsilon": 4, "federation.minimum_clients": 2}
        assert own.run("first", **{**CONTINUABLE, **more}).state == "finished"
        for home in own.nodes:
            ingest(home, rows_of(home.path.name, seed=9, start=500))
        limited.policy.write_text('approve = "within-policy"\n[budget]\nepsilon = 5\n')
        path = own.written("second", **more)
        run = proposed(own.server, path, now=int(time.time()), continues="first")
        run.document.write(limited.proposals / f"{run.digest}.json")
        seen = overview(limited, now=int(time.time()))
        (row,) = [one for one in seen["runs"] if one["run"] == run.digest]
        assert float(seen["epsilon_spent"]) <= 4 < float(row["epsilon_after"]) <= 8
        assert [one["epsilon_after"] for one in seen["runs"] if one["name"] == "first"] == [None]
        # The limited node refuses the whole plan; the others go on.
        state = own.serve(own.propose("second", continues=own.server.runs / "first", **more))
        assert state.state == "finished", state.reason
        assert {one["why"] for one in own.decisions(limited, "refused")} == {"budget"}
        assert own.spent(limited)[1] <= 4 < own.spent(own.nodes[1])[1] <= 8
        # What is published is about both runs.
        manifest = json.loads((_folder(own, "second") / "manifest.json").read_text())
        assert manifest["epsilon"] > manifest["epsilon_of_this_run"]


def test_only_a_finished_run_is_continued(federation: OneProcess) -> None:
    federation.propose("unfinished", reproducible=True, **ROUNDS)
    with pytest.raises(ConfigError, match="Expected a finished run to continue, got state=proposed"):
        proposed(federation.server, federation.folder / "unfinished.toml", now=0, continues="unfinished")
    with pytest.raises(ConfigError, match="Expected the name of a run, got another"):
        proposed(federation.server, federation.folder / "unfinished.toml", now=0, continues="nothing")


# Random faults.


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(5))
def test_whatever_goes_wrong_in_whatever_order_what_must_hold_does(federation: OneProcess, seed: int) -> None:
    """A private run with random faults of nodes, messages and the server, resumed until it ends."""
    rng = random.Random(seed)
    names = [home.path.name for home in federation.nodes]
    before = {one: federation.spent(federation.home_of(one))[0] for one in names}
    run = federation.propose(f"random-{seed}", **{**PRIVATE, "federation.rounds": 4})
    faults = [fault for fault, _, says in HOSTILE.values() if says != "had answered before"]
    line = Line(federation)

    def change(name: str, message: Message, content: RecordDict) -> Any:
        line.away = {one for one in names if rng.random() < 0.05}
        if "array" not in content or rng.random() > 0.1:
            return content
        return rng.choice(faults)(content)

    line.change = change
    line.dies = lambda name, message, step: rng.random() < 0.02
    line.late = lambda name, message: 10**6 if rng.random() < 0.03 else 0
    state = federation.state(run.name)
    for _ in range(20):
        if rng.random() < 0.3:
            federation.killed(run, rng.randint(1, 150))
        state = federation.serve(run, line)
        line.away = set()
        # What was asked again may have used up what the run may spend; then it says so, for good.
        if state.state == "finished" or "does not fit into the rest" in state.reason:
            break
        assert state.reason
    else:
        raise AssertionError(state.reason)
    _holds(federation, run.name, line, before)
