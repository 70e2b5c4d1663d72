"""All clients at once equals one client after the other: the same updates, the same ledger, the same metrics.

The reference is the real `ClientApp`, message by message, on the in-process grid. Both get the same server app, and in
reproducible runs the same noise, so what differs is rounding alone.
"""

from __future__ import annotations

import dataclasses
import math
import sqlite3
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from flwr.app import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from client import answering
from client.app import app as client_app
from client.batch import ClientBatch
from client.ledger.accounts import account_of_user
from client.ledger.ledger import Ledger
from client.ledger.limits import Policy
from client.training import gradients
from server import checkpoints
from server.aggregation import RingSum
from server.app import server_app
from server.event_log import EventLog
from shared.config import RunConfig
from shared.data.catalog import ItemCatalog
from shared.errors import CohortTooSmall, ConfigError
from shared.model import recommender as recommender_module
from shared.model.recommender import resident
from shared.privacy.calibration import plan_of
from shared.protocol.messages import ContributionReply, ReleaseInstruction, TrainInstruction
from shared.run_folder import EVENTS
from simulations.engines.cohort import CohortGrid, choose_engine
from simulations.engines.local_grid import InProcessGrid, LocalGrid, serve
from tests import rounding, running

NUM_ITEMS = 12
SILOS = {"federation.clients": 3}
# A server rate at which noise of nine users does not throw the model into chaos, where any rounding grows.
USERS = {
    "federation.clients": 0, "privacy.mechanism": "central", "privacy.delta": 0.001, "training.local_steps": 1,
    "server.learning_rate": 2.0,
}  # fmt: skip
SECRET = {"run.reproducible": False}
NONE = {"privacy.epsilon": math.inf, "privacy.delta": 0.0}
NEGATIVES = {"training.negatives": 5, "adapter.head_rank": 0}
FROZEN = {"adapter.rank": 0, "adapter.input_rank": 0}
RUNS: dict[str, dict[str, Any]] = {
    "no privacy, Adam": {**SILOS, **NONE, "training.optimizer": "adam", "training.sampling_rate": 0.5},
    "no privacy, every user a client": {**USERS, **NONE, "training.optimizer": "sgd", "training.local_steps": 3},
    "item factors, which train in turns": {**SILOS, **NONE, "adapter.item_rank": 2, "adapter.kind": "lora"},
    "frozen transformer": {**USERS, **FROZEN, "training.local_steps": 2},
    "frozen transformer, silos": {**SILOS, **FROZEN},
    "both factors": {**SILOS, **NONE, "adapter.kind": "lora", "training.optimizer": "sgd", "training.learning_rate": 0.2},
    "dp-sgd": {**SILOS},
    "dp-sgd, negatives": {**SILOS, **NEGATIVES},
    "dp-sgd by Opacus, negatives": {**SILOS, **NEGATIVES, "training.gradients": "opacus"},
    "central, negatives": {**USERS, **NEGATIVES, "training.local_steps": 2},
    "frozen transformer, negatives": {**SILOS, **FROZEN, **NEGATIVES},
    "dp-sgd, uneven silos": {**SILOS, "federation.sizes": "power-law", "training.history_dropout": 0.3},
    "dp-sgd by Opacus": {**SILOS, "training.gradients": "opacus"},
    "windows": {**SILOS, "privacy.unit": "window", "model.max_history_length": 3},
    "dp-ftrl-silo": {**SILOS, "privacy.mechanism": "dp-ftrl-silo", "privacy.min_separation": 2},
    "central": {**USERS},
    "central, five steps": {**USERS, "training.local_steps": 5, "training.weight_decay": 0.1},
    "central, both factors": {**USERS, "adapter.kind": "lora", "training.local_steps": 2},
    "central, sampled": {**USERS, "privacy.expected_cohort": 5},
    "central, adaptive": {**USERS, "privacy.clipping": "adaptive"},
    "dp-ftrl-central": {**USERS, "privacy.mechanism": "dp-ftrl-central", "privacy.expected_cohort": 4},
    "distributed": {**USERS, "privacy.mechanism": "distributed", "training.local_steps": 2, "federation.minimum_clients": 7},
}  # fmt: skip


class _Watched(LocalGrid):
    """Writes down where each round started; messages to some nodes are lost."""

    def __init__(self, *arguments: Any, lost: float = 0.0, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.lost = lost
        self.states: list[np.ndarray] = []
        self.types: list[str] = []

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        asked = list(messages)
        if asked:
            self.types.append(asked[0].metadata.message_type)
        if asked and asked[0].metadata.message_type == "train":
            self.states.append(TrainInstruction.from_message(asked[0]).state)
            round_number = int(asked[0].metadata.group_id)
            coins = np.random.default_rng(round_number).random(self.num_nodes)
            asked = [
                message for message in asked if coins[self.partitions_of([message.metadata.dst_node_id])[0]] >= self.lost
            ]
        yield from super().send_and_receive(asked, timeout=timeout)


class _OneByOne(_Watched, InProcessGrid):
    pass


class _AtOnce(_Watched, CohortGrid):
    pass


@dataclasses.dataclass
class Outcome:
    """What a run left behind."""

    updates: list[np.ndarray]
    ledger: dict[str, Any]
    metrics: list[dict[str, Any]]


def _run(
    folder: Path, config: RunConfig, histories: pl.DataFrame, catalog: ItemCatalog, *, at_once: bool, lost: float = 0.0
) -> Outcome:
    config = running.population(folder, config, histories, catalog)
    nodes = config.federation.clients or len(histories)
    given = {"num_nodes": nodes, "run_config": config.to_flat(), "lost": lost}
    grid = _AtOnce(**given) if at_once else _OneByOne(client_app, **given)
    serve(server_app(), grid)
    last = checkpoints.load(folder / "run", config_digest=config.digest()).state
    states = [state[NUM_ITEMS:].astype(np.float64) for state in [*grid.states, last]]
    ledger = folder / "population" / "ledger.sqlite"
    return Outcome(
        updates=[after - before for before, after in pairwise(states)],
        ledger=_what_counts(Ledger(ledger).export()) if ledger.exists() else {},
        metrics=[event for event in EventLog(folder / "run" / EVENTS).read() if event["event"] == "noised_metrics"],
    )


def _what_counts(export: dict[str, Any]) -> dict[str, Any]:
    """The ledger without the order and the time of its entries."""
    events = [{key: value for key, value in event.items() if key not in {"id", "recorded_at"}} for event in export["events"]]
    return {**export, "events": sorted(events, key=str)}


def _assert_equal(one_by_one: Outcome, at_once: Outcome, *, within: float) -> None:
    assert len(one_by_one.updates) == len(at_once.updates) > 0
    for expected, found in zip(one_by_one.updates, at_once.updates, strict=True):
        assert np.linalg.norm(found - expected) <= within * np.linalg.norm(expected)
    assert at_once.ledger == one_by_one.ledger
    assert at_once.metrics == one_by_one.metrics


@pytest.mark.parametrize("name", RUNS)
def test_both_engines_give_the_same_updates_the_same_ledger_and_the_same_metrics(
    name: str, tmp_path: Path, tiny_config: RunConfig, tiny_histories: pl.DataFrame, tiny_catalog: ItemCatalog
) -> None:
    config = tiny_config.with_values({**RUNS[name]})
    found = []
    for at_once in (False, True):
        folder = tmp_path / str(at_once)
        folder.mkdir()
        found.append(_run(folder, config, tiny_histories, tiny_catalog, at_once=at_once))
    # Adam divides small gradients by their own size, and with them their rounding.
    within = rounding.of_gradients(resident(config, tiny_catalog))
    _assert_equal(*found, within=10 * within if "Adam" in name else within)
    assert bool(found[1].metrics) == config.is_private
    assert bool(found[1].ledger.get("events")) == config.is_private


@given(
    sizes=st.lists(st.integers(1, 14), min_size=4, max_size=9),
    one_user_a_client=st.booleans(),
    private=st.booleans(),
    local_steps=st.integers(1, 4),
    lost=st.sampled_from([0.0, 0.3]),
    seed=st.integers(0, 99),
)
@settings(max_examples=12, deadline=None)
def test_engines_agree_for_all_sizes_of_clients_numbers_of_steps_and_drop_outs(
    sizes: list[int],
    one_user_a_client: bool,
    private: bool,
    local_steps: int,
    lost: float,
    seed: int,
    tmp_path_factory: pytest.TempPathFactory,
    tiny_config: RunConfig,
    tiny_catalog: ItemCatalog,
) -> None:
    rng = np.random.default_rng(seed)
    kept = pl.List(pl.Int32)
    histories = pl.DataFrame(
        {
            "user": [f"u{user}" for user in range(len(sizes))],
            "train": [rng.integers(0, NUM_ITEMS, size=size).tolist() for size in sizes],
            "validation": [[1]] * len(sizes),
            "test": [[2]] * len(sizes),
        },
        schema={"user": pl.String, "train": kept, "validation": kept, "test": kept},
    )
    config = tiny_config.with_values(
        {
            **(USERS if one_user_a_client else {"federation.clients": 2, "federation.sizes": "power-law"}),
            **({} if private else NONE),
            "training.local_steps": local_steps,
            "training.optimizer": "sgd",
            "federation.minimum_clients": 1,
            "run.seed": seed,
        }
    )
    found = []
    for at_once in (False, True):
        folder = tmp_path_factory.mktemp("run")
        try:
            found.append(_run(folder, config, histories, tiny_catalog, at_once=at_once, lost=lost))
        except CohortTooSmall as error:
            found.append(str(error))
    if isinstance(found[0], str):
        assert found[1] == found[0]
    else:
        _assert_equal(*found, within=rounding.of_gradients(resident(config, tiny_catalog)))


def test_clients_are_worked_on_few_at_a_time_where_memory_asks_for_it_with_the_same_result(
    tmp_path: Path, tiny_config: RunConfig, tiny_histories: pl.DataFrame, tiny_catalog: ItemCatalog, monkeypatch: Any
) -> None:
    config = tiny_config.with_values({**RUNS["central"]})
    found = []
    for most in (2048, 2):
        monkeypatch.setattr(answering, "_MOST_IN_FLIGHT", most)
        folder = tmp_path / str(most)
        folder.mkdir()
        found.append(_run(folder, config, tiny_histories, tiny_catalog, at_once=True))
    _assert_equal(*found, within=rounding.of_gradients(resident(config, tiny_catalog)))


@pytest.mark.parametrize("refused", [False, True])
def test_under_shares_a_cohorts_sum_carries_as_many_as_clients_answered(
    refused: bool, tmp_path: Path, tiny_config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Null: variance answers / 8 of the plan's in each of 16,384 integers of a sum of nothing.

    Four clients are worked on at a time, the rows of one cannot be read, so that those beside it are worked on again, and
    an owner may refuse. False alarms 6e-7; negative controls: a share more or less, and the plan's noise where 9 answer.
    """
    items = 2**14
    catalog = ItemCatalog(ids=tuple(f"i{i}" for i in range(items)), texts=tuple(f"w{i % 60}" for i in range(items)))
    kept = pl.List(pl.Int32)
    histories = pl.DataFrame(
        {"user": [f"u{user}" for user in range(9)], "train": [[]] * 9, "validation": [[]] * 9, "test": [[]] * 9},
        schema={"user": pl.String, "train": kept, "validation": kept, "test": kept},
    )
    changes = {**RUNS["distributed"], **SECRET, "federation.minimum_clients": 8, "data.public_catalog": True}
    changes["secure_aggregation.corrupt_fraction"] = 0.0
    grid, config = _grid(tmp_path, tiny_config, histories, catalog, **changes)
    monkeypatch.setattr(answering, "_MOST_IN_FLIGHT", 4)
    _break_the_rows_of_client_5(monkeypatch)
    if refused:
        ledger = Ledger(tmp_path / "population" / "ledger.sqlite")
        ledger.set_policy(Policy(epsilon=0.1), owner=account_of_user("u3"))
    plan = plan_of(config, num_users=9)
    release = plan.release("popularity")
    assert release is not None
    encoding = plan.release_encoding(release, items)
    asked = ReleaseInstruction("run", plan, "popularity", 0, np.zeros(0, dtype=np.float32)).to_record()
    messages = [grid.create_message(asked, "query.popularity", node, "0-popularity") for node in grid.get_node_ids()]
    total = RingSum(encoding)
    for reply in grid.send_and_receive(messages):
        if not reply.has_error():
            total.add(ContributionReply.from_message(reply, in_ring=True).values)
    assert total.count == 9 - refused
    half = 1 << (encoding.bits - 1)
    sample = ((total.total.astype(np.int64) + half) % (1 << encoding.bits) - half).astype(np.float64)

    def carries(shares: int) -> bool:
        whole = np.square(sample).sum() / (shares / 8 * encoding.noise_variance)
        return bool(abs(whole - sample.size) < 5 * math.sqrt(2 * sample.size))

    assert carries(total.count)
    assert not carries(total.count - 1)
    assert not carries(total.count + 1)


def _grid(
    folder: Path, config: RunConfig, histories: pl.DataFrame, catalog: ItemCatalog, **changes: Any
) -> tuple[CohortGrid, RunConfig]:
    config = running.population(folder, config.with_values(changes), histories, catalog)
    return CohortGrid(num_nodes=config.federation.clients or len(histories), run_config=config.to_flat()), config


def test_one_client_over_its_limit_is_left_out_and_the_others_answer(
    tmp_path: Path, tiny_config: RunConfig, tiny_histories: pl.DataFrame, tiny_catalog: ItemCatalog
) -> None:
    grid, _ = _grid(tmp_path, tiny_config, tiny_histories, tiny_catalog, **USERS, **SECRET)
    ledger = Ledger(tmp_path / "population" / "ledger.sqlite")
    ledger.set_policy(Policy(epsilon=0.01, adversary="outsider"), account_of_user("u4"))
    serve(server_app(), grid)
    spent = {account.owner for account in ledger.accounts()}
    assert spent == {account_of_user(f"u{client}") for client in range(9) if client != 4}
    events = (tmp_path / "run" / "events.jsonl").read_text()
    assert "Expected a plan that fits what the owner of this device still allows" in events
    assert '"clients_answered": 8' in events


def test_in_a_reproducible_run_the_limit_of_one_client_keeps_that_client_out_alone(
    tmp_path: Path, tiny_config: RunConfig, tiny_histories: pl.DataFrame, tiny_catalog: ItemCatalog
) -> None:
    """Its noise is no secret, so no limit could hold for it; the others, who set none, are asked as ever."""
    changes = {**USERS}
    grid, config = _grid(tmp_path, tiny_config, tiny_histories, tiny_catalog, **changes)
    ledger = Ledger(tmp_path / "population" / "ledger.sqlite")
    ledger.set_policy(Policy(epsilon=1e6), account_of_user("u4"))
    serve(server_app(), grid)
    events = (tmp_path / "run" / "events.jsonl").read_text()
    assert events.count('"clients_answered": 8') == config.federation.rounds
    accounts = {account.owner: account.entries for account in ledger.accounts()}
    assert set(accounts) == {account_of_user(f"u{client}") for client in range(9) if client != 4}
    assert len(set(accounts.values())) == 1
    assert {event["state"] for event in ledger.export()["events"]} == {"sent"}


def _break_the_rows_of_client_5(monkeypatch: pytest.MonkeyPatch) -> None:
    read = ClientBatch.rows

    def faulty(batch: ClientBatch, columns: Any) -> Any:
        if 5 in batch.partitions:
            raise ValueError("person-5 bought thing-3")
        return read(batch, columns)

    monkeypatch.setattr(ClientBatch, "rows", faulty)


def test_a_client_with_a_faulty_history_answers_like_any_other_and_counts_the_fault(
    tmp_path: Path, tiny_config: RunConfig, tiny_histories: pl.DataFrame, tiny_catalog: ItemCatalog, monkeypatch: Any
) -> None:
    """The fault is in reading the users of client 5: whoever reads them with others finds nothing either."""
    grid, _ = _grid(tmp_path, tiny_config, tiny_histories, tiny_catalog, **USERS, **SECRET)
    _break_the_rows_of_client_5(monkeypatch)
    serve(server_app(), grid)
    ledger = Ledger(tmp_path / "population" / "ledger.sqlite")
    faults = {account.owner: account.faults for account in ledger.accounts()}
    assert faults.pop(account_of_user("u5")) >= 3
    assert set(faults.values()) == {0}
    assert len({account.entries for account in ledger.accounts()}) == 1
    events = (tmp_path / "run" / "events.jsonl").read_text()
    assert "person-5" not in events
    assert '"clients_answered": 8' not in events


def test_without_privacy_a_fault_is_that_clients_error_and_quotes_nothing(
    tmp_path: Path, tiny_config: RunConfig, tiny_histories: pl.DataFrame, tiny_catalog: ItemCatalog, monkeypatch: Any
) -> None:
    changes = {**USERS, **NONE, "federation.minimum_clients": 8}
    grid, _ = _grid(tmp_path, tiny_config, tiny_histories, tiny_catalog, **changes)
    _break_the_rows_of_client_5(monkeypatch)
    serve(server_app(), grid)
    events = (tmp_path / "run" / "events.jsonl").read_text()
    assert "The client failed with ValueError at " in events
    assert "person-5" not in events
    assert '"clients_answered": 8' in events


@pytest.mark.parametrize("private", [True, False])
def test_a_pass_that_memory_is_too_small_for_is_repeated_in_halves_with_the_same_result(
    private: bool, tmp_path: Path, tiny_config: RunConfig, tiny_histories: pl.DataFrame, tiny_catalog: ItemCatalog
) -> None:
    """Memory is made to run out in the backbone itself, whenever more than two users are in a pass."""
    config = tiny_config.with_values({**USERS, **({} if private else NONE), "training.local_steps": 2})
    found, refused = [], []
    for short in (False, True):
        folder = tmp_path / str(short)
        folder.mkdir()
        own = running.population(folder, config, tiny_histories, tiny_catalog)
        transformer = resident(own, tiny_catalog).attached.model.transformer

        def run_out(module: Any, arguments: Any, keywords: Any) -> None:
            if torch.is_grad_enabled() and len(keywords["inputs_embeds"]) > 2:
                refused.append(len(keywords["inputs_embeds"]))
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

        hook = transformer.register_forward_pre_hook(run_out, with_kwargs=True) if short else None
        try:
            found.append(_run(folder, config, tiny_histories, tiny_catalog, at_once=True))
        finally:
            if hook is not None:
                hook.remove()
    _assert_equal(*found, within=rounding.of_gradients(resident(config, tiny_catalog)))
    assert refused
    # Later passes of the same round are smaller, so each round runs out of memory a few times and not in every pass.
    assert len(refused) <= 4 * config.federation.rounds


def test_a_history_that_is_too_long_for_memory_is_a_fault_that_others_do_not_see(
    tmp_path: Path, tiny_config: RunConfig, tiny_histories: pl.DataFrame, tiny_catalog: ItemCatalog
) -> None:
    """Whether a history fits tells its length; the answer comes as usual, the budget is spent, the fault is counted."""
    grid, config = _grid(tmp_path, tiny_config, tiny_histories, tiny_catalog, **USERS, **SECRET)
    recommender = resident(config, tiny_catalog)
    gradients.require_memory(recommender)  # there was memory for the longest one before others took it
    transformer = recommender.attached.model.transformer

    def run_out(module: Any, arguments: Any, keywords: Any) -> None:
        if torch.is_grad_enabled() and keywords["inputs_embeds"].shape[1] >= 5:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    hook = transformer.register_forward_pre_hook(run_out, with_kwargs=True)
    try:
        serve(server_app(), grid)
    finally:
        hook.remove()
    events = (tmp_path / "run" / "events.jsonl").read_text()
    assert events.count('"clients_answered": 9') == config.federation.rounds
    ledger = Ledger(tmp_path / "population" / "ledger.sqlite")
    assert {event["state"] for event in ledger.export()["events"]} == {"sent"}
    lengths = tiny_histories["train"].list.len().to_list()
    faults = {account.owner: account.faults for account in ledger.accounts()}
    # A window of six interactions or more has five inputs or more.
    assert [faults[account_of_user(f"u{client}")] > 0 for client in range(9)] == [length >= 6 for length in lengths]


def test_a_history_that_does_not_fit_memory_stops_the_run_with_one_line_and_spends_nothing(
    tmp_path: Path, tiny_config: RunConfig, tiny_histories: pl.DataFrame, tiny_catalog: ItemCatalog
) -> None:
    # A recommender of its own, which nobody tried out before.
    grid, config = _grid(tmp_path, tiny_config, tiny_histories, tiny_catalog, **USERS, **SECRET, **{"run.seed": 77})
    transformer = resident(config, tiny_catalog).attached.model.transformer

    def run_out(module: Any, arguments: Any, keywords: Any) -> None:
        if torch.is_grad_enabled():
            raise torch.OutOfMemoryError("CUDA out of memory.")

    hook = transformer.register_forward_pre_hook(run_out, with_kwargs=True)
    try:
        with pytest.raises(CohortTooSmall, match=r"Expected memory for one history of the greatest length.*--resume"):
            serve(server_app(), grid)
    finally:
        hook.remove()
    purposes = {event["purpose"] for event in Ledger(tmp_path / "population" / "ledger.sqlite").export()["events"]}
    assert purposes == {"popularity"}


def test_an_interrupted_round_counts_what_was_handed_out_and_gives_the_rest_back(
    tmp_path: Path, tiny_config: RunConfig, tiny_histories: pl.DataFrame, tiny_catalog: ItemCatalog, monkeypatch: Any
) -> None:
    monkeypatch.setattr(answering, "_MOST_IN_FLIGHT", 3)
    grid, _ = _grid(tmp_path, tiny_config, tiny_histories, tiny_catalog, **USERS, **SECRET)
    _interrupt(grid, "train", after=0)
    with pytest.raises(KeyboardInterrupt):
        serve(server_app(), grid)
    events = Ledger(tmp_path / "population" / "ledger.sqlite").export()["events"]
    states = [event["state"] for event in events if event["purpose"] == "train"]
    # Three clients were in flight when the first reply was handed out; the next three had not been begun.
    assert sorted(states) == ["freed"] * 6 + ["sent"] * 3


@pytest.mark.parametrize("frozen", [True, False])
def test_a_run_that_repeats_is_bit_equal_after_an_interruption(
    frozen: bool, tmp_path: Path, tiny_config: RunConfig, tiny_histories: pl.DataFrame, tiny_catalog: ItemCatalog
) -> None:
    """With a frozen transformer too, of which a process remembers what it made of short histories."""
    changes = {**USERS, **(FROZEN if frozen else {})}
    states = []
    for interrupted in (False, True):
        folder = tmp_path / str(interrupted)
        folder.mkdir()
        grid, config = _grid(folder, tiny_config, tiny_histories, tiny_catalog, **changes)
        if interrupted:
            _interrupt(grid, "train", after=1)
            with pytest.raises(KeyboardInterrupt):
                serve(server_app(), grid)
            recommender_module._resident.cache_clear()  # as in a new process
            grid, _ = _grid(folder, tiny_config, tiny_histories, tiny_catalog, **changes, **{"run.resume": True})
        serve(server_app(), grid)
        states.append(checkpoints.load(folder / "run", config_digest=config.digest()).state)
    np.testing.assert_array_equal(states[0], states[1])


def _interrupt(grid: CohortGrid, message_type: str, *, after: int) -> None:
    """Raises at the first reply of that type in the phase that follows so many."""
    answer, phases = grid.send_and_receive, iter(range(100))

    def send_and_receive(asked: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        seen = None
        for reply in answer(asked, timeout=timeout):
            if reply.metadata.message_type == message_type:
                seen = next(phases) if seen is None else seen
                if seen >= after:
                    raise KeyboardInterrupt
            yield reply

    grid.send_and_receive = send_and_receive  # type: ignore[method-assign]


def test_the_ledger_is_written_twice_a_phase_whatever_the_number_of_clients(
    tmp_path: Path, tiny_config: RunConfig, tiny_histories: pl.DataFrame, tiny_catalog: ItemCatalog
) -> None:
    """SQLite counts its own commits: one reserves, one says what became of it."""
    commits = []
    for users in (3, 9):
        folder = tmp_path / str(users)
        folder.mkdir()
        changes = {**USERS, "privacy.delta": 0.01, **SECRET}
        grid, _ = _grid(folder, tiny_config, tiny_histories.head(users), tiny_catalog, **changes)
        commits.append(_commits(lambda grid=grid: serve(server_app(), grid)))
    assert commits[0] == commits[1]


def _commits(run: Any) -> int:
    """How often SQLite says COMMIT to anything opened meanwhile."""
    seen: list[str] = []
    connect = sqlite3.connect

    def traced(*arguments: Any, **settings: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **settings)
        connection.set_trace_callback(lambda text: seen.append(text) if text.upper().startswith("COMMIT") else None)
        return connection

    sqlite3.connect = traced  # type: ignore[assignment]
    try:
        run()
    finally:
        sqlite3.connect = connect
    return len(seen)


def test_an_engine_that_cannot_do_what_the_run_needs_names_the_setting(tiny_config: RunConfig) -> None:
    bucket = tiny_config.with_values({"privacy.reply_bucket_seconds": 0.5})
    assert choose_engine(tiny_config) == "cohort"
    assert choose_engine(bucket) == "flower"
    with pytest.raises(ConfigError, match=r"privacy\.reply_bucket_seconds=0\.5\. Its clients answer together"):
        choose_engine(bucket.with_values({"federation.engine": "cohort"}))
    turns = tiny_config.with_values({"privacy.mechanism": "dp-ftrl-silo", "federation.engine": "flower"})
    with pytest.raises(ConfigError, match=r"privacy\.mechanism=dp-ftrl-silo\. Its noise over time lives in one process"):
        choose_engine(turns)


def test_a_resident_message_cannot_be_serialized(
    tmp_path: Path, tiny_config: RunConfig, tiny_histories: pl.DataFrame, tiny_catalog: ItemCatalog
) -> None:
    from shared.errors import ProtocolViolation
    from shared.protocol.wire import ResidentArray

    with pytest.raises(ProtocolViolation, match="Expected a message within one process"):
        _ = ResidentArray(np.zeros(3)).data
    assert gradients.is_out_of_memory(MemoryError())
    assert not gradients.is_out_of_memory(RuntimeError("something else"))
