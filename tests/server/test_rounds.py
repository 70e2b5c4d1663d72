"""The round loop with the real client app: who counts, who is dropped, what is kept, what is resumed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from flwr.app import Context, Message, MetricRecord
from safetensors.numpy import load_file

from client.app import app as client_app
from client.ledger.ledger import Ledger
from server import checkpoints
from server.app import server_app
from server.observer import Unobserved
from server.releases import Releases
from server.rounds import Federation
from server.statistics.statistic import Total
from shared.config import RunConfig
from shared.data.catalog import ItemCatalog
from shared.errors import CheckpointError, CohortTooSmall, ConfigError, DataError
from shared.model.state import RecommenderState
from shared.privacy.accounting import epsilon
from shared.privacy.population import PublicSize
from shared.protocol.messages import ContributionReply
from shared.public_facts import PublicFacts
from shared.randomness import NoiseSource, replayable_source
from simulations.engines.local_grid import InProcessGrid
from tests import rounding, running

Change = Callable[[int, Message, Message], Message]


class Observed:
    """The real client app, whose replies are written down and can be changed on their way back."""

    def __init__(self, change: Change = lambda client, message, reply: reply) -> None:
        self.change = change
        self.asked: list[str] = []
        self.clients: set[int] = set()
        self.updates: list[np.ndarray] = []

    def __call__(self, message: Message, context: Context) -> Message:
        kind = message.metadata.message_type
        self.asked.append(kind)
        self.clients.add(int(context.node_config["partition-id"]))
        reply = client_app(message, context)
        if kind == "train":
            self.updates.append(ContributionReply.from_message(reply, in_ring=False).values)
        return self.change(int(context.node_config["partition-id"]), message, reply)


Run = Callable[..., Path]


@pytest.fixture
def run(tmp_path: Path, tiny_config: RunConfig, tiny_histories: pl.DataFrame, tiny_catalog: ItemCatalog) -> Run:
    """Runs a federation of three clients and returns its folder."""
    numbers = iter(range(100))

    def start(
        client: Any = client_app,
        *,
        grid_type: type[InProcessGrid] = InProcessGrid,
        folder: Path | None = None,
        observer: Any = None,
        connected: int = 3,
        waits_for: int = 3,
        **changes: Any,
    ) -> Path:
        settings = {key.replace("__", "."): value for key, value in changes.items()}
        if folder is None:
            folder = tmp_path / str(next(numbers))
            folder.mkdir()
        config = running.population(folder, tiny_config, tiny_histories, tiny_catalog, **settings)
        run_dir = Path(config.run.out)
        run_dir.mkdir(exist_ok=True)
        grid = grid_type(client, num_nodes=connected, run_config=config.to_flat())
        Federation(
            grid=grid,
            config=config,
            run_dir=run_dir,
            public=PublicFacts(PublicSize.of(len(tiny_histories), 3), tiny_catalog),
            num_nodes=waits_for,
            observer=observer or Unobserved(),
        ).run()
        return run_dir

    return start


def _events(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    lines = (run_dir / "events.jsonl").read_text(encoding="utf-8").splitlines()
    return [event for line in lines if (event := json.loads(line))["event"] == kind]


def _adapter(run_dir: Path, num_items: int = 12) -> np.ndarray:
    digest = json.loads((run_dir / "adapter" / "manifest.json").read_text(encoding="utf-8"))["config_digest"]
    return checkpoints.load(run_dir, config_digest=digest).state[num_items:]


def _spoil(client: int, message: Message, reply: Message) -> Message:
    if client == 1 and message.metadata.message_type == "train":
        bad = np.full_like(ContributionReply.from_message(reply, in_ring=False).values, np.nan)
        return Message(ContributionReply(bad).to_record(), reply_to=message)
    return reply


def test_the_adapter_moves_by_the_plain_mean_of_the_updates(
    run: Run, tiny_config: RunConfig, tiny_catalog: ItemCatalog
) -> None:
    from shared.model.recommender import build

    observed = Observed()
    run_dir = run(observed, federation__rounds=1)
    expected = build(tiny_config, tiny_catalog).initial_adapter + np.mean(observed.updates, axis=0, dtype=np.float64)
    assert len(observed.updates) == 3
    rounding.assert_close(_adapter(run_dir), expected, within=rounding.rounding(sums=3))
    assert np.abs(observed.updates[0]).max() > 1e-3


def test_a_bad_client_is_left_out_of_the_mean_and_counted_when_the_plan_allows_it(
    run: Run, tiny_config: RunConfig, tiny_catalog: ItemCatalog
) -> None:
    from shared.model.recommender import build

    observed = Observed(_spoil)
    run_dir = run(observed, federation__rounds=1)
    (event,) = _events(run_dir, "round")
    assert (event["clients_asked"], event["clients_answered"]) == (3, 2)
    assert event["failures"] == ["Expected a finite update, got NaN or infinity. The client's reply was left out."]
    start = build(tiny_config, tiny_catalog).initial_adapter
    expected = start + np.mean([observed.updates[0], observed.updates[2]], axis=0, dtype=np.float64)
    rounding.assert_close(_adapter(run_dir), expected, within=rounding.rounding(sums=3))


def test_more_clients_than_the_plan_is_right_for_are_refused_before_any_is_asked(run: Run) -> None:
    observed = Observed()
    with pytest.raises(ConfigError, match=r"Expected at most 3 clients for a population of 9 .*, got more\."):
        run(observed, connected=4, waits_for=4)
    assert observed.asked == []


def test_nodes_beyond_those_of_the_population_are_asked_for_nothing(run: Run) -> None:
    observed = Observed()
    run_dir = run(observed, connected=5, federation__rounds=1)
    assert observed.clients == {0, 1, 2}
    (event,) = _events(run_dir, "round")
    assert (event["clients_asked"], event["clients_answered"]) == (3, 3)


def test_a_client_that_says_how_much_it_should_count_does_not_count(run: Run) -> None:
    def boast(client: int, message: Message, reply: Message) -> Message:
        if client == 0 and message.metadata.message_type == "train":
            reply.content["metrics"] = MetricRecord({"num-examples": 10**9, "weight": 1e12})
        return reply

    def silent(client: int, message: Message, reply: Message) -> Message:
        if client == 0 and message.metadata.message_type == "train":
            raise TimeoutError
        return reply

    np.testing.assert_array_equal(_adapter(run(Observed(boast))), _adapter(run(Observed(silent))))


def test_the_order_of_replies_does_not_matter(run: Run) -> None:
    class Reversed(InProcessGrid):
        def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
            return reversed(list(super().send_and_receive(messages, timeout=timeout)))

    np.testing.assert_array_equal(_adapter(run(grid_type=Reversed)), _adapter(run()))


def test_a_round_with_too_few_answers_is_dropped_and_after_three_in_a_row_the_run_ends(run: Run, tmp_path: Path) -> None:
    observed = Observed(_spoil)
    with pytest.raises(CohortTooSmall, match=r"2 of 3 clients answered round 3; the plan needs 3\. It was dropped"):
        run(observed, federation__rounds=5, federation__minimum_clients=3)
    run_dir = tmp_path / "0" / "run"
    assert [event["round_number"] for event in _events(run_dir, "round_dropped")] == [1, 2, 3]
    assert _events(run_dir, "round") == []
    assert not (run_dir / "adapter").exists()
    assert observed.asked.count("train") == 9


def test_a_round_that_was_dropped_changes_nothing_and_the_next_one_counts(run: Run) -> None:
    def first_round(client: int, message: Message, reply: Message) -> Message:
        return _spoil(client, message, reply) if message.metadata.group_id == "1" else reply

    observed = Observed(first_round)
    run_dir = run(observed, federation__rounds=2, federation__minimum_clients=3)
    assert [event["round_number"] for event in _events(run_dir, "round_dropped")] == [1]
    assert [event["round_number"] for event in _events(run_dir, "round")] == [2]
    whole = Observed()
    run(whole, federation__rounds=1)
    # Both started from the same adapter, and the second round's mean is all that happened.
    start = _adapter(run(federation__rounds=1)) - np.mean(whole.updates, axis=0, dtype=np.float64)
    expected = start + np.mean(observed.updates[3:], axis=0, dtype=np.float64)
    rounding.assert_close(_adapter(run_dir), expected, within=rounding.rounding(sums=3))


class Seen:
    """An observer that keeps what it is shown."""

    def __init__(self) -> None:
        self.finished: list[tuple[int, np.ndarray]] = []
        self.last: tuple[int, np.ndarray] | None = None
        self.sums: list[tuple[str, int, float]] = []

    def summed(self, purpose: str, round_number: int, total: Total) -> None:
        self.sums.append((purpose, round_number, total.noise_stddev))

    def round_finished(self, state: RecommenderState, round_number: int) -> None:
        self.finished.append((round_number, state.to_vector().copy()))

    def released(self, state: RecommenderState, round_number: int) -> None:
        self.last = (round_number, state.to_vector().copy())


def test_the_observer_is_shown_the_state_of_every_round_and_the_released_one(run: Run) -> None:
    seen = Seen()
    run_dir = run(observer=seen)
    assert [round_number for round_number, _ in seen.finished] == [1, 2]
    assert seen.last is not None
    assert seen.last[0] == 2
    np.testing.assert_array_equal(seen.last[1], seen.finished[-1][1])
    np.testing.assert_array_equal(seen.last[1][12:], _adapter(run_dir))
    # Every noised sum beside training too, in the order of the run, with the noise that is in it.
    assert [purpose for purpose, _, _ in seen.sums] == ["popularity", "test"]
    assert all(stddev > 0.0 for _, _, stddev in seen.sums)
    # What is shown changes nothing about what is learned.
    np.testing.assert_array_equal(_adapter(run_dir), _adapter(run()))


def test_no_metric_leaves_a_client_and_the_server_writes_none(run: Run) -> None:
    replies: list[Message] = []

    def keep(client: int, message: Message, reply: Message) -> Message:
        replies.append(reply)
        return reply

    observed = Observed(keep)
    run_dir = run(observed)
    assert set(observed.asked) == {"query.popularity", "train", "query.metrics"}
    assert all(set(reply.content) == {"array"} for reply in replies)
    written = (run_dir / "events.jsonl").read_text(encoding="utf-8")
    assert not any(word in written for word in ("loss", "validation", '"hr@'))
    assert not (run_dir / "evaluation").exists()


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_resumed_run_equals_the_uninterrupted_one(run: Run, tmp_path: Path, optimizer: str) -> None:
    settings: dict[str, Any] = {
        "federation__rounds": 4,
        "server__optimizer": optimizer,
        "server__momentum": 0.5,
    }
    if optimizer == "adam":
        settings["server__learning_rate"] = 0.1

    def stop(client: int, message: Message, reply: Message) -> Message:
        if message.metadata.group_id == "3" and client == 1:
            raise KeyboardInterrupt
        return reply

    folder = tmp_path / "interrupted"
    folder.mkdir()
    with pytest.raises(KeyboardInterrupt):
        run(Observed(stop), folder=folder, **settings)
    assert [event["round_number"] for event in _events(folder / "run", "round")] == [1, 2]
    run_dir = run(folder=folder, run__resume=True, **settings)
    assert [event["round_number"] for event in _events(run_dir, "round")] == [1, 2, 3, 4]
    np.testing.assert_array_equal(_adapter(run_dir), _adapter(run(**settings)))


def test_a_run_that_is_resumed_before_its_first_checkpoint_starts_at_the_beginning(run: Run) -> None:
    run_dir = run(run__resume=True)
    assert [event["round_number"] for event in _events(run_dir, "round")] == [1, 2]


def test_a_run_is_not_resumed_with_other_settings(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    run(folder=folder)
    with pytest.raises(CheckpointError, match="Expected the configuration of the run in run/, got another one"):
        run(folder=folder, run__resume=True, training__local_steps=3)


def test_the_manifest_says_what_the_adapter_belongs_to(run: Run, tiny_catalog: ItemCatalog) -> None:
    manifest = json.loads((run() / "adapter" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["schema"] == "tacit-adapter-2"
    assert manifest["catalog_digest"] == tiny_catalog.digest
    assert manifest["round_number"] == 2
    # The tiny run is reproducible, so it claims nothing.
    assert manifest["epsilon"] is None


def test_epsilon_spent_grows_to_the_target_in_a_private_run(run: Run) -> None:
    run_dir = run(run__reproducible=False)
    first, last = (event["epsilon_spent"] for event in _events(run_dir, "round"))
    assert 0 < first < last
    assert 7.9 < last <= 8.0
    manifest = json.loads((run_dir / "adapter" / "manifest.json").read_text(encoding="utf-8"))
    assert last < manifest["epsilon"] <= 8.0  # the released metrics came after the last round


@pytest.mark.parametrize(
    ("settings", "is_private"),
    [({"run__reproducible": False}, True), ({}, False), ({"privacy__epsilon": math.inf, "privacy__delta": 0.0}, False)],
)
def test_a_release_is_stamped_as_accounted_where_the_run_is_private_and_nowhere_else(
    run: Run, settings: dict[str, Any], is_private: bool
) -> None:
    """Noise from a seed, and no noise at all, are no privacy."""
    release = json.loads((run(federation__rounds=1, **settings) / "release.json").read_text(encoding="utf-8"))
    assert release["is_private"] is is_private
    assert release["stamp"].startswith("NOT PRIVATE") is not is_private
    assert ("Accounted or public values only" in release["stamp"]) is is_private
    assert bool(release["metrics"]) is is_private


def test_the_server_app_needs_a_population(tiny_config: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError,
        match=r"Expected data.population to name a folder .* Write one with `tacit data partition`",
    ):
        running.run_in_process(server_app(), client_app, num_nodes=1, run_config=tiny_config.to_flat())
    missing = tiny_config.with_values({"data.population": str(tmp_path), "run.out": str(tmp_path / "run")})
    with pytest.raises(DataError, match=r"Expected a population in .*, could not read population.json"):
        running.run_in_process(server_app(), client_app, num_nodes=1, run_config=missing.to_flat())
    assert list(tmp_path.iterdir()) == []


def test_the_server_app_refuses_a_folder_that_holds_another_run(
    tmp_path: Path, tiny_config: RunConfig, tiny_histories: pl.DataFrame, tiny_catalog: ItemCatalog
) -> None:
    config = running.population(tmp_path, tiny_config, tiny_histories, tiny_catalog)
    running.run_in_process(server_app(), client_app, num_nodes=3, run_config=config.to_flat())
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    with pytest.raises(ConfigError, match="Expected a new output directory, found another run in run/"):
        running.run_in_process(server_app(), client_app, num_nodes=3, run_config=config.to_flat())
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before


@pytest.mark.parametrize(
    "value", [1e4, 3e38, -3e38, np.inf, np.nan], ids=["too long", "almost infinite", "negative", "infinite", "NaN"]
)
@pytest.mark.parametrize("kind", ["train", "query.popularity", pytest.param("query.metrics", marks=pytest.mark.soak)])
def test_one_silos_impossible_reply_is_left_out_and_the_run_goes_on_without_it(run: Run, kind: str, value: float) -> None:
    def spoil(client: int, message: Message, reply: Message) -> Message:
        if client == 1 and message.metadata.message_type == kind:
            bad = np.full_like(ContributionReply.from_message(reply, in_ring=False).values, value)
            return Message(ContributionReply(bad).to_record(), reply_to=message)
        return reply

    seen, honest = Seen(), Seen()
    run_dir = run(Observed(spoil), observer=seen)
    run(observer=honest)
    assert len(_events(run_dir, "round")) == 2
    assert seen.last is not None and honest.last is not None
    # Without the third silo the mean is another one of the same size.
    assert np.abs(seen.last[1]).max() < 3 * np.abs(honest.last[1]).max()
    if kind == "train":
        for event in _events(run_dir, "round"):
            assert (event["clients_asked"], event["clients_answered"]) == (3, 2)
            assert event["failures"][0].startswith("Expected a")


class Interrupting(Observed):
    """Interrupts the server when one kind of message was answered so often."""

    def __init__(self, kind: str, after: int) -> None:
        super().__init__()
        self.kind, self.after = kind, after

    def __call__(self, message: Message, context: Context) -> Message:
        if self.asked.count(self.kind) == self.after and message.metadata.message_type == self.kind:
            raise KeyboardInterrupt
        return super().__call__(message, context)


def _interrupted(run: Run, folder: Path, kind: str, after: int, **settings: Any) -> dict[str, Any]:
    """Interrupts a private run and resumes it; its settings."""
    folder.mkdir()
    settings = {"run__reproducible": False, "privacy__ledger": str(folder / "own.sqlite"), **settings}
    with pytest.raises(KeyboardInterrupt):
        run(Interrupting(kind, after), folder=folder, **settings)
    return settings


def _ledgers(folder: Path, delta: float) -> float:
    """The largest epsilon in the clients' ledgers."""
    ledger = Ledger(folder / "own.sqlite")
    try:
        return max(epsilon(events, delta=delta) for events in ledger.largest_spending())
    finally:
        ledger.close()


def _published(run_dir: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run_dir / "adapter" / "manifest.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize(
    ("kind", "after"), [("query.popularity", 2), ("train", 2), ("train", 5), ("train", 8), ("query.metrics", 2)]
)
def test_what_is_published_covers_the_ledgers_and_stays_within_the_budget_after_an_interruption(
    run: Run, tmp_path: Path, kind: str, after: int
) -> None:
    """The last client is interrupted when the others have answered; the request is sent again, or left out."""
    folder = tmp_path / "private"
    settings = _interrupted(run, folder, kind, after, federation__rounds=3)
    run_dir = run(folder=folder, run__resume=True, **settings)
    manifest = _published(run_dir)
    assert _ledgers(folder, manifest["delta"]) - 1e-9 <= manifest["epsilon"] <= 8.0
    # What was asked for is not what was planned, and the release report says what was asked for.
    release = json.loads((run_dir / "release.json").read_text(encoding="utf-8"))
    assert release["spending"]["together"] == pytest.approx(manifest["epsilon"], abs=1e-12)
    stopped = _events(run_dir, "stopped")
    assert len(stopped) == 1
    assert "used part of epsilon=8, and this one does not fit into the rest" in stopped[0]["reason"]
    finished = [event["round_number"] for event in _events(run_dir, "round")]
    assert finished == ([1, 2, 3] if kind == "query.metrics" else [1, 2])
    assert manifest["round_number"] == finished[-1]


@pytest.mark.parametrize(("kind", "after"), [("query.popularity", 2), ("train", 5)])
def test_a_resumed_run_is_the_same_run_to_the_ledgers_and_another_one_is_not(
    run: Run, tmp_path: Path, kind: str, after: int
) -> None:
    """What an owner's limits compare with a plan is what one run was given, whatever process of it asked."""
    folder = tmp_path / "private"
    settings = _interrupted(run, folder, kind, after, federation__rounds=3)
    run(folder=folder, run__resume=True, **settings)
    assert len(_runs(folder)) == 1
    run(**settings)  # in a folder of its own, on the same ledger
    assert len(_runs(folder)) == 2


def _runs(folder: Path) -> set[str]:
    ledger = Ledger(folder / "own.sqlite")
    try:
        return {entry["run"] for entry in ledger.export()["events"]}
    finally:
        ledger.close()


@pytest.mark.parametrize("kind", ["pairs", "transitions", "refinement", "blending", "selection", "metrics"])
def test_a_run_that_was_interrupted_in_a_statistic_goes_on_without_what_does_not_fit_any_more(
    run: Run, tmp_path: Path, kind: str
) -> None:
    """Nothing but statistics, so that they cost all of epsilon and none can be asked for again."""
    folder = tmp_path / "private"
    statistics = {"statistics__releases": "pairs,transitions,refinement,blending,selection", "federation__rounds": 0}
    settings = _interrupted(run, folder, f"query.{kind}", 2, **statistics)
    run_dir = run(folder=folder, run__resume=True, **settings)
    manifest = _published(run_dir)
    assert _ledgers(folder, manifest["delta"]) - 1e-9 <= manifest["epsilon"] <= 8.0
    stopped = [event["reason"] for event in _events(run_dir, "stopped")]
    assert stopped
    assert all("used part of epsilon=8, and this one does not fit into the rest" in reason for reason in stopped)
    # A pilot is repeated in place of the refinement, which has most of the budget.
    left_out = {"metrics": "No metrics are", "blending": "The release of blending", "selection": "The release of selection"}
    assert stopped[-1].startswith(left_out.get(kind, "The release of refine-"))
    if kind in ("selection", "metrics"):  # what was answered before that is not asked for again
        assert len(stopped) == 1


@pytest.mark.parametrize("damage", ["removed", "emptied", "first half", "last request"])
def test_a_lost_or_shortened_event_file_lowers_no_epsilon(run: Run, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "private"
    settings = _interrupted(run, folder, "train", 8, federation__rounds=4)
    events = folder / "run" / "events.jsonl"
    lines = events.read_bytes().splitlines(keepends=True)
    if damage == "removed":
        events.unlink()
    else:
        requests = [number for number, line in enumerate(lines) if b'"asked"' in line]
        kept = {"emptied": 0, "first half": len(lines) // 2, "last request": requests[-1]}[damage]
        events.write_bytes(b"".join(lines[:kept]))
    run_dir = run(folder=folder, run__resume=True, **settings)
    manifest = _published(run_dir)
    assert _ledgers(folder, manifest["delta"]) - 1e-9 <= manifest["epsilon"] <= 8.0
    release = json.loads((run_dir / "release.json").read_text(encoding="utf-8"))
    assert release["spending"]["together"] == pytest.approx(manifest["epsilon"], abs=1e-12)


def test_a_damaged_line_in_the_event_file_is_an_error_and_nothing_is_asked(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "private"
    settings = _interrupted(run, folder, "train", 5, federation__rounds=3)
    events = folder / "run" / "events.jsonl"
    lines = events.read_bytes().splitlines(keepends=True)
    events.write_bytes(b"".join([lines[0], b"\x00" * 20 + b"\n", *lines[2:]]))
    observed = Observed()
    with pytest.raises(CheckpointError, match=r"Expected one JSON object a line in events\.jsonl, found .* at line 2\."):
        run(observed, folder=folder, run__resume=True, **settings)
    assert observed.asked == []


def test_a_run_without_secret_noise_has_no_budget_to_exceed(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "open"
    settings = _interrupted(run, folder, "train", 5, run__reproducible=True, federation__rounds=3)
    run_dir = run(folder=folder, run__resume=True, **settings)
    assert [event["round_number"] for event in _events(run_dir, "round")] == [1, 2, 3]
    assert _events(run_dir, "stopped") == []


@pytest.mark.parametrize(
    ("kind", "after"),
    [("query.blending", 2), ("query.blending", 8), ("query.selection", 1), ("query.metrics", 2), ("query.refinement", 2)],
)
def test_a_run_that_was_interrupted_in_a_statistic_releases_what_an_uninterrupted_one_does(
    run: Run, tmp_path: Path, kind: str, after: int
) -> None:
    """Reproducible, so that the noise of what is asked for again is the same."""
    statistics = {"statistics__releases": "pairs,transitions,refinement,blending,selection", "federation__rounds": 0}
    settings = {**statistics, "run__reproducible": True}
    folder = tmp_path / "interrupted"
    resumed = run(folder=folder, run__resume=True, **_interrupted(run, folder, kind, after, **settings))
    whole = run(**settings)
    for name in ("prior.safetensors", "statistics.safetensors"):
        tensors = load_file(whole / "adapter" / name)
        for key, values in load_file(resumed / "adapter" / name).items():
            np.testing.assert_array_equal(values, tensors[key], err_msg=key)
    (chosen,), (expected,) = _events(resumed, "selected")[-1:], _events(whole, "selected")
    assert chosen["gains"] == expected["gains"]


def test_no_noise_of_a_reproducible_run_is_drawn_twice(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in the steps of blending either, which are about the same round."""
    drawn: list[tuple[int | str, ...]] = []
    real = replayable_source

    def recorded(seed: int, *labels: int | str) -> NoiseSource:
        drawn.append(labels)
        return real(seed, *labels)

    monkeypatch.setattr("client.batch.replayable_source", recorded)
    settings = {"statistics__releases": "pairs,transitions,refinement,blending,selection", "federation__rounds": 0}
    run(**settings, run__reproducible=True)
    assert sum("blending" in labels for labels in drawn) == 3 * 3  # of three clients: the pilot and two steps
    assert len(set(drawn)) == len(drawn)


def test_what_is_released_follows_from_the_noised_sums_and_public_facts_alone(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_config: RunConfig,
    tiny_histories: pl.DataFrame,
    tiny_catalog: ItemCatalog,
) -> None:
    """Other users' clients answer a second run, whose sums are replaced by those of the first after the noise."""
    statistics = {"statistics__releases": "pairs,transitions,refinement,blending,selection", "federation__rounds": 0}
    settings = {**statistics, "run__reproducible": False}
    sums: list[Total | None] = []
    real = Releases.statistic

    def recorded(self: Releases, *arguments: Any, **named: Any) -> Total | None:
        sums.append(real(self, *arguments, **named))
        return sums[-1]

    monkeypatch.setattr(Releases, "statistic", recorded)
    first = run(**settings)
    given, answered = iter(tuple(sums)), list[bool]()

    def replaced(self: Releases, *arguments: Any, **named: Any) -> Total | None:
        own, other = real(self, *arguments, **named), next(given)
        if own is not None and other is not None:
            answered.append(not np.array_equal(own.values, other.values))
        return other

    monkeypatch.setattr(Releases, "statistic", replaced)
    (tmp_path / "others").mkdir()
    others = tiny_histories.with_columns(
        *(pl.col(name).list.eval((pl.element() * 5 + 3) % 12).cast(pl.List(pl.Int32)) for name in ("train", "validation"))
    )
    changes = {key.replace("__", "."): value for key, value in settings.items()}
    running.population(tmp_path / "others", tiny_config, others, tiny_catalog, **changes)
    second = run(folder=tmp_path / "others", **settings)
    assert len(answered) >= 7
    assert all(answered)
    for name in ("prior.safetensors", "statistics.safetensors", "adapter_model.safetensors"):
        tensors = load_file(first / "adapter" / name)
        for key, values in load_file(second / "adapter" / name).items():
            np.testing.assert_array_equal(values, tensors[key], err_msg=key)


def test_a_run_that_was_interrupted_after_blending_is_not_trained_any_further(run: Run, tmp_path: Path) -> None:
    """Its last round was dropped; another try would give an adapter that blending has not seen."""
    folder = tmp_path / "interrupted"
    folder.mkdir()
    settings = {"statistics__releases": "pairs,transitions,blending,selection", "federation__rounds": 3}
    settings |= {"run__reproducible": True}
    with pytest.raises(KeyboardInterrupt):
        run(Interrupting("query.selection", 1), folder=folder, **settings)
    (newest, *_) = checkpoints._whole(folder / "run")
    saved = checkpoints.load(folder / "run", config_digest=newest["config_digest"])
    assert len(saved.weights) == 3
    checkpoints.save(replace(saved, round_number=2), folder / "run")
    observed = Observed()
    run(observed, folder=folder, run__resume=True, **settings)
    assert "train" not in observed.asked
    assert "query.selection" in observed.asked
