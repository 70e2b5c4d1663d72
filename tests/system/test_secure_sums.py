"""Federations whose sums are secure: the real apps and messages; every client runs the protocol."""

from __future__ import annotations

import dataclasses
import json
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from flwr.app import ConfigRecord, Context, Message

from client import session
from client.app import app as client_app
from client.ledger.accounts import account_of_user
from client.ledger.ledger import Ledger, Policy
from server import event_log
from server.app import flower_app, server_app
from server.masked_sum import left_out
from shared.config import RunConfig
from shared.data.catalog import ItemCatalog
from shared.errors import CohortTooSmall, ConfigError, SecureAggregationError
from shared.protocol.secure_sums import ACKNOWLEDGE, MASK, OPEN, SHARE, STAGES, SumTask, payload_of, stage_of
from shared.secagg import secret_sharing
from shared.secagg.identities import ROSTER_FILE, read_roster, write_roster
from shared.secagg.keys import Roster
from shared.secagg.messages import MaskedInput, OpenedShares
from simulations.engines.messages import run_by_messages
from tests import running
from tests.plans import distributed_plan

CLIENTS = 9
_SUMS = ["popularity", "train", "test"]
ROUNDS = 1
MASKED = {
    "federation.clients": 0,
    "federation.rounds": ROUNDS,
    "federation.minimum_clients": 6,
    "privacy.mechanism": "distributed",
    "secure_aggregation.simulate": "full",
    "secure_aggregation.dropout_fraction": 0.25,
    "secure_aggregation.server": "curious",
}
Change = Callable[[int, Message, Message], Message]
Run = Callable[..., Path]


class Nodes:
    """The real client app; some clients fail at a stage, and replies are looked at on their way."""

    def __init__(
        self, fails: dict[str, set[int]] | None = None, look: Callable[[int, Message, Message], None] | None = None
    ):
        self.fails, self.look, self.stages = fails or {}, look, dict.fromkeys(STAGES, 0)

    def __call__(self, message: Message, context: Context) -> Message:
        client, stage = int(context.node_config["partition-id"]), stage_of(message)
        if stage is not None:
            self.stages[stage] += 1
        if client in self.fails.get(stage or "", ()):
            raise TimeoutError
        reply = client_app(message, context)
        if self.look is not None:
            self.look(client, message, reply)
        return reply


@pytest.fixture(autouse=True)
def _no_session_is_left() -> Iterator[None]:
    session._sessions.clear()
    yield
    session._sessions.clear()


@pytest.fixture
def run(tmp_path: Path, tiny_config: RunConfig, tiny_histories: pl.DataFrame, tiny_catalog: ItemCatalog) -> Run:
    """Runs a federation of nine users, each a client, and returns its folder."""
    numbers = iter(range(100))

    def start(nodes: Any = client_app, prepare: Callable[[Path], None] = lambda run_dir: None, **changes: Any) -> Path:
        folder = tmp_path / str(next(numbers))
        folder.mkdir()
        settings = {**MASKED, **{key.replace("__", "."): value for key, value in changes.items()}}
        config = running.population(folder, tiny_config, tiny_histories, tiny_catalog, **settings)
        prepare(Path(config.run.out))
        run_by_messages(server_app(), nodes, num_nodes=CLIENTS, run_config=config.to_flat(), run_dir=Path(config.run.out))
        return Path(config.run.out)

    return start


def _sums(run_dir: Path) -> list[dict[str, Any]]:
    lines = (run_dir / "events.jsonl").read_text(encoding="utf-8").splitlines()
    return [event for line in lines if (event := json.loads(line))["event"] == "secure_sum"]


def _released(run_dir: Path) -> dict[str, bytes]:
    """What a run released, without what names the run."""
    return {path.name: path.read_bytes() for path in sorted((run_dir / "adapter").glob("*.safetensors"))}


def test_a_secure_run_releases_what_one_in_the_open_does(run: Run) -> None:
    masked, open_ = run(), run(secure_aggregation__simulate="sum")
    assert _released(masked) == _released(open_)
    assert _released(masked)
    assert [event["release"] for event in _sums(masked)] == _SUMS
    assert _sums(open_) == []


def test_the_log_says_how_far_each_stage_is(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "_PROGRESS_SECONDS", 0.0)
    lines = (run(statistics__releases="none") / "events.jsonl").read_text(encoding="utf-8").splitlines()
    seen = [event for line in lines if (event := json.loads(line))["event"] == "progress" and event["what"] == "training"]
    assert [(event["stage"], event["clients_answered"]) for event in seen] == [
        (stage, answered) for stage in STAGES for answered in range(1, CLIENTS + 1)
    ]


@pytest.mark.parametrize("stage", STAGES)
def test_clients_may_drop_out_at_every_stage(run: Run, stage: str) -> None:
    run_dir = run(Nodes({stage: {2, 5}}))
    for event in _sums(run_dir):
        # Who masked a contribution is in the sum, whatever becomes of it then.
        assert event["survivors"] == (CLIENTS if stage in (ACKNOWLEDGE, OPEN) else CLIENTS - 2)
        assert event["asked"] == CLIENTS


def test_what_a_client_sends_is_masked_and_of_one_size(run: Run) -> None:
    seen: dict[str, list[bytes]] = {}

    def look(client: int, message: Message, reply: Message) -> None:
        if stage_of(message) == MASK:
            assert set(reply.content) == {"secure_sum"}
            kind = message.metadata.message_type
            seen.setdefault(kind, []).append(MaskedInput.from_bytes(payload_of(reply, MASK)).packed)

    run(Nodes(look=look))
    assert sorted(seen) == ["query.metrics", "query.popularity", "train"]
    for packed in seen.values():
        assert len(packed) == CLIENTS
        assert len({len(one) for one in packed}) == 1
        bits = np.unpackbits(np.frombuffer(b"".join(packed), dtype=np.uint8))
        # Six standard deviations of as many fair coins.
        assert abs(bits.mean() - 0.5) < 3.0 / np.sqrt(len(bits))


def test_too_few_clients_end_the_run_and_nothing_is_opened(run: Run) -> None:
    nodes = Nodes({MASK: {0, 1, 2, 3}})
    with pytest.raises(CohortTooSmall, match=r"Expected clients >= 6, got 5\. The round was dropped and nothing was opened"):
        run(nodes)
    assert nodes.stages[OPEN] == nodes.stages[ACKNOWLEDGE] == 0


def test_a_round_whose_neighborhoods_fall_apart_is_dropped_and_the_next_one_goes_on(run: Run) -> None:
    rounds = []

    class OnceDeaf(Nodes):
        def __call__(self, message: Message, context: Context) -> Message:
            if stage_of(message) == MASK and message.metadata.message_type == "train":
                rounds.append(message)
            # Until the second round's contributions, most give no shares after training.
            self.fails = {OPEN: {0, 1, 2, 3, 4, 5, 6}} if 0 < len(rounds) <= CLIENTS else {}
            return super().__call__(message, context)

    run_dir = run(OnceDeaf(), federation__rounds=2)
    events = [json.loads(line) for line in (run_dir / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    (dropped,) = [event for event in events if event["event"] == "round_dropped"]
    assert dropped["round_number"] == 1
    assert "Expected shares >= " in dropped["reason"]
    assert [event["round_number"] for event in _sums(run_dir) if event["release"] == "train"] == [2]


def test_a_client_that_deals_shares_of_nothing_ends_one_round_and_is_left_out_of_the_next(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client runs other code: what it deals to its holders is random."""
    split, dealt = secret_sharing.split, []

    class Hostile(Nodes):
        def __call__(self, message: Message, context: Context) -> Message:
            hostile = int(context.node_config["partition-id"]) == 4 and stage_of(message) == SHARE
            if hostile and message.metadata.group_id.startswith("1"):
                with monkeypatch.context() as patch:
                    patch.setattr(secret_sharing, "split", lambda secret, **sizes: split(secrets.token_bytes(32), **sizes))
                    dealt.append(message)
                    return super().__call__(message, context)
            return super().__call__(message, context)

    run_dir = run(Hostile(), federation__rounds=2)
    events = [json.loads(line) for line in (run_dir / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    (dropped,) = [event for event in events if event["event"] == "round_dropped"]
    assert len(dealt) == 1
    assert dropped["round_number"] == 1
    assert "their owner dealt none that fit" in dropped["reason"]
    _, train, *after = _sums(run_dir)  # the first is of the popularity, before
    assert (train["round_number"], train["asked"], train["survivors"]) == (2, CLIENTS, CLIENTS - 1)
    assert {event["survivors"] for event in after} == {CLIENTS - 1}


def test_holders_that_lie_drive_no_honest_client_out_of_a_run(run: Run) -> None:
    """Six lie about every share that they hold, in one round, so that no honest client's secret opens: all are named."""
    lied: list[Message] = []

    class Lying(Nodes):
        def __call__(self, message: Message, context: Context) -> Message:
            hostile = stage_of(message) == OPEN and message.metadata.group_id == "1"
            reply = super().__call__(message, context)
            if hostile and int(context.node_config["partition-id"]) < 6:
                shares = OpenedShares.from_bytes(payload_of(reply, OPEN)).shares
                wrong = OpenedShares(tuple(bytes(1) + secrets.token_bytes(32) for _ in shares)).to_bytes()
                reply.content["secure_sum"] = ConfigRecord({"stage": OPEN, "payload": wrong})
                lied.append(reply)
            return reply

    run_dir = run(Lying(), federation__rounds=2)
    events = [json.loads(line) for line in (run_dir / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    (dropped,) = [event for event in events if event["event"] == "round_dropped"]
    assert len(lied) == 6
    assert "Too many holders sent a wrong share" in dropped["reason"]
    _, train, *after = _sums(run_dir)
    assert (train["round_number"], train["survivors"]) == (2, CLIENTS)
    assert {event["survivors"] for event in after} == {CLIENTS}


@pytest.mark.parametrize(
    ("before", "unopened", "asked", "fraction", "expected"),
    [
        ((), (7,), 9, 0.05, {7}),  # one, however few there are
        ((7,), (8,), 9, 0.05, {7}),
        ((7,), (7,), 9, 0.05, {7}),
        ((), (1, 2, 3, 4), 40, 0.1, {1, 2, 3, 4}),
        ((), (1, 2, 3, 4, 5), 40, 0.1, set()),
        ((1, 2, 3), (4, 5), 40, 0.1, {1, 2, 3}),
        ((1, 2, 3), (4, 3), 40, 0.1, {1, 2, 3, 4}),
    ],
)
def test_guarantee_no_more_clients_are_left_out_than_may_be_corrupt(
    before: tuple[int, ...], unopened: tuple[int, ...], asked: int, fraction: float, expected: set[int]
) -> None:
    assert left_out(frozenset(before), unopened, asked=asked, corrupt_fraction=fraction) == expected


def test_a_client_that_is_not_in_the_roster_is_left_out(run: Run) -> None:
    from shared.run_folder import IDENTITIES
    from simulations.engines.messages import write_identities

    def without_two(run_dir: Path) -> None:
        folder = run_dir / IDENTITIES
        write_identities(folder, map(str, range(CLIENTS)), valid_until=2**40)
        kept = dict(list(read_roster(folder / ROSTER_FILE).entries.items())[2:])
        write_roster(folder / ROSTER_FILE, Roster(kept))

    assert {event["survivors"] for event in _sums(run(prepare=without_two))} == {CLIENTS - 2}


def test_who_joins_and_who_is_revoked_during_a_run_counts_from_the_next_sum_on(run: Run) -> None:
    """A server that took a revoked client in would lose every other client that drew it as a holder."""
    from shared.run_folder import IDENTITIES
    from simulations.engines.messages import write_identities

    whole: list[tuple[Path, Roster]] = []

    def without_two(run_dir: Path) -> None:
        folder = run_dir / IDENTITIES
        write_identities(folder, map(str, range(CLIENTS)), valid_until=2**40)
        known = read_roster(folder / ROSTER_FILE)
        whole.append((folder / ROSTER_FILE, known))
        write_roster(folder / ROSTER_FILE, Roster(dict(list(known.entries.items())[2:])))

    def changes(client: int, message: Message, reply: Message) -> None:
        if whole and stage_of(message) == OPEN:  # the popularity is done
            path, known = whole.pop()
            last, entry = list(known.entries.items())[-1]
            write_roster(path, Roster({**known.entries, last: dataclasses.replace(entry, revoked=True)}))

    sums = _sums(run(Nodes(look=changes), without_two))
    assert [event["survivors"] for event in sums] == [CLIENTS - 2, CLIENTS - 1, CLIENTS - 1]


def test_a_client_whose_owner_refuses_says_so_before_it_joins(run: Run, tmp_path: Path) -> None:
    def limited(run_dir: Path) -> None:
        ledger = Ledger(run_dir.parent / "population" / "ledger.sqlite")
        ledger.set_policy(Policy(epsilon=0.1), owner=account_of_user("u3"))

    for event in _sums(run(prepare=limited)):
        assert set(event["answered"].values()) == {CLIENTS - 1}
        assert event["survivors"] == CLIENTS - 1


@pytest.mark.parametrize("limit", [{"corrupt_fraction_at_least": 0.06}, {"dropout_fraction_at_most": 0.2}])
def test_a_node_whose_owner_asks_for_safer_assumptions_refuses_before_it_joins_a_secure_sum(
    run: Run, limit: dict[str, float]
) -> None:
    """The run assumes .05 and .25. What is as safe is answered, as the other owner's limit shows."""

    def limited(run_dir: Path) -> None:
        ledger = Ledger(run_dir.parent / "population" / "ledger.sqlite")
        ledger.set_policy(Policy(**limit), owner=account_of_user("u3"))
        ledger.set_policy(Policy(corrupt_fraction_at_least=0.05, dropout_fraction_at_most=0.25), account_of_user("u4"))

    events = _sums(run(prepare=limited, run__reproducible=False))
    assert [event["release"] for event in events] == _SUMS
    for event in events:
        assert set(event["answered"].values()) == {CLIENTS - 1}


def test_another_instruction_than_the_one_that_was_announced_is_answered_and_charged_by_nobody(
    run: Run, tmp_path: Path
) -> None:
    class Swapped(Nodes):
        """The server announces a sum from one state and asks for contributions from another."""

        def __call__(self, message: Message, context: Context) -> Message:
            if stage_of(message) == MASK:
                from shared.protocol.messages import ReleaseInstruction
                from shared.protocol.secure_sums import with_stage

                task = ReleaseInstruction.from_message(message)
                other = ReleaseInstruction(task.run_digest, task.plan, task.purpose, 1, task.state)
                content = with_stage(other.to_record(), MASK, payload_of(message, MASK))
                message.content.clear()
                message.content.update(content)
            return super().__call__(message, context)

    with pytest.raises(SecureAggregationError, match=r"Expected clients >= 6, got 0.*The first failure: Expected an in"):
        run(Swapped())
    (ledger,) = tmp_path.rglob("ledger.sqlite")
    # Looked at before data were read and anything was charged.
    assert not any(Ledger(ledger).spent(owner) for owner in Ledger(ledger).owners())


def test_a_repeated_request_is_answered_with_the_same_bytes_and_charged_once(run: Run, tmp_path: Path) -> None:
    class Twice(Nodes):
        def __call__(self, message: Message, context: Context) -> Message:
            reply = super().__call__(message, context)
            if stage_of(message) == MASK:
                again = super().__call__(message, context)
                assert payload_of(again, MASK) == payload_of(reply, MASK)
            return reply

    run(Twice())
    (ledger,) = tmp_path.rglob("ledger.sqlite")
    events = Ledger(ledger).spent(Ledger(ledger).owners()[0])
    assert len(events) == len(_SUMS)


def test_the_sum_that_a_client_joined_is_of_one_clip_norm_and_one_head() -> None:
    state, plan = np.zeros(3, dtype=np.float32), distributed_plan(secure_aggregation="masked")

    def task(l2_clip_norm: float = 1.0, head: tuple[int, ...] = (1, 2)) -> SumTask:
        ring = plan.update_encoding(6, l2_clip_norm=l2_clip_norm)
        return SumTask.of("run", 1, "pairs", plan, state, ring, head=head)

    assert task() == task()
    assert (task().length, task().bits) == (task(2.0).length, task(2.0).bits)
    assert len({task().state_digest, task(2.0).state_digest, task(head=(1, 3)).state_digest}) == 3


def test_flowers_own_commands_refuse_secure_sums_before_anything_is_written(tmp_path: Path) -> None:
    config = RunConfig.from_mapping({**MASKED, "run.out": str(tmp_path / "run"), "data.population": str(tmp_path)})
    with pytest.raises(ConfigError, match=r"Expected secure_aggregation\.simulate=sum under Flower's own commands"):
        running.run_in_process(flower_app(), client_app, num_nodes=3, run_config=config.to_flat())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("changes", [{"privacy.mechanism": "central"}, {"privacy.epsilon": float("inf")}])
def test_masks_where_nothing_needs_them_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"Expected privacy\.mechanism=distributed with secure_aggregation\.simulate=full"):
        RunConfig.from_mapping({**MASKED, **changes})


def test_a_secure_run_of_another_engine_is_refused(run: Run) -> None:
    from simulations.engines.cohort import choose_engine

    config = RunConfig.from_mapping({**MASKED, "federation.engine": "cohort"})
    with pytest.raises(ConfigError, match=r"Expected federation\.engine=auto with secure_aggregation\.simulate=full"):
        choose_engine(config)
