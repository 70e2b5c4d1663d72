"""The client app with real messages: refusals before data is read, the ledger, errors that quote nothing."""

from __future__ import annotations

import json
import math
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from flwr.app import Message
from scipy.stats import binom

from client.answering import in_our_words
from client.app import answer_at_fixed_times, app
from client.ledger.ledger import EVERYONE, Binding, Ledger, Policy
from client.store.population import open_population, read_clients
from client.training.dp_sgd import user_groups
from shared.config import RunConfig
from shared.data.catalog import ItemCatalog
from shared.errors import PrivacyError
from shared.metrics.noised import USER_L2_NORM
from shared.model.recommender import resident
from shared.model.state import RecommenderState
from shared.privacy.accounting import epsilon
from shared.privacy.calibration import plan_of
from shared.privacy.events import Event
from shared.privacy.mechanism import Mechanism
from shared.protocol.messages import ContributionReply, ReleaseInstruction, TrainInstruction
from shared.randomness import replayable_source, secret_source
from simulations.engines.local_grid import InProcessGrid
from tests import running
from tests.alone import bounded_metrics, evaluate
from tests.clock import Clock
from tests.plans import changed as changed_plan
from tests.plans import silo_plan

NOTHING = np.zeros(0, dtype=np.float32)


class Federation:
    """Nodes that run the real app, three where each holds several users, and the messages a server would send them."""

    def __init__(self, folder: Path, config: RunConfig, histories: pl.DataFrame, catalog: ItemCatalog) -> None:
        clients = config.federation.clients or len(histories)
        self.config = running.population(folder, config, histories, catalog)
        self.folder = folder / "population"
        self.num_users = len(histories)
        self.catalog = catalog
        self.grid = InProcessGrid(app, num_nodes=clients, run_config=self.config.to_flat())
        self.plan = plan_of(self.config, num_users=self.num_users, num_clients=clients)

    def ask(self, content: Any, kind: str, client: int = 0) -> Message:
        node = list(self.grid.get_node_ids())[client]
        message = Message(content, dst_node_id=node, message_type=kind, group_id="1")
        (reply,) = self.grid.send_and_receive([message])
        return reply

    def state(self) -> np.ndarray:
        recommender = resident(self.config, self.catalog)
        prior = np.full(self.catalog.num_items, -2.0, dtype=np.float32)
        return RecommenderState(prior, recommender.initial_adapter.copy()).to_vector()

    def train(self, client: int = 0, *, round_number: int = 1, **plan: Any) -> Message:
        changed = changed_plan(self.plan, **plan)
        task = TrainInstruction("digest", round_number, changed, changed.l2_clip_norm, self.state())
        return self.ask(task.to_record(), "train", client)

    def count(self, client: int = 0, **plan: Any) -> Message:
        return self.ask(
            ReleaseInstruction("digest", changed_plan(self.plan, **plan), "popularity", 0, NOTHING).to_record(),
            "query.popularity",
            client,
        )

    def evaluate(self, client: int = 0) -> Message:
        task = ReleaseInstruction("digest", self.plan, "test", 1, self.state())
        return self.ask(task.to_record(), "query.metrics", client)

    def spent(self, client: int = 0) -> list[Event]:
        ledger = Ledger(self.folder / "ledger.sqlite")
        try:
            return ledger.spent(open_population(self.folder).accounts.name(client))
        finally:
            ledger.close()

    def delete_data(self) -> None:
        shutil.rmtree(self.folder / "clients")


def _values(reply: Message) -> np.ndarray:
    return ContributionReply.from_message(reply, in_ring=False).values


@pytest.fixture
def federation(
    tmp_path: Path, tiny_config: RunConfig, tiny_histories: pl.DataFrame, tiny_catalog: ItemCatalog
) -> Federation:
    return Federation(tmp_path, tiny_config, tiny_histories, tiny_catalog)


def test_train_replies_with_an_update_of_the_adapter_alone(federation: Federation) -> None:
    reply = federation.train()
    assert not reply.has_error()
    size = resident(federation.config, federation.catalog).attached.size
    assert _values(reply).shape == (size,)
    assert set(reply.content) == {"array"}


def test_clients_and_rounds_draw_noise_of_their_own(federation: Federation) -> None:
    first, again = (_values(federation.train()) for _ in range(2))
    np.testing.assert_array_equal(first, again)  # the tiny configuration is reproducible
    for other in (federation.train(client=1), federation.train(round_number=2)):
        assert np.abs(_values(other) - first).max() > 1e-3


def test_every_release_is_in_the_ledger_of_its_own_client(federation: Federation) -> None:
    federation.count()
    for round_number in (1, 2):
        federation.train(round_number=round_number)
    plan = federation.plan
    assert federation.spent(0) == [
        Event(plan.noise_of("popularity"), 1.0, 1), plan.round_event(), plan.round_event(),
    ]  # fmt: skip
    assert federation.spent(1) == []
    federation.train(client=2)
    assert (federation.spent(1), federation.spent(2)) == ([], [plan.round_event()])


def test_popularity_counts_are_bounded_and_noised(federation: Federation) -> None:
    histories = read_clients(federation.folder, [0]).histories["train"]
    exact = np.zeros(12)
    for history in histories:
        distinct = set(history.to_list())
        for item in distinct:
            exact[item] += len(distinct) ** -0.5
    counts = _values(federation.count())
    noise = counts - exact
    # 12 values of N(0, 3^2): the chance that their spread is outside of these bounds is below 1e-4.
    assert 1.0 < noise.std() < 6.5


def _noise_is(noise: np.ndarray, stddev: float) -> bool:
    """Whether the spread of independent normal values is that of the plan; false alarms below 1e-6 for 900 values."""
    return bool(abs(noise.std() / stddev - 1.0) < 5.0 / np.sqrt(2.0 * noise.size))


def test_a_silos_metrics_carry_the_noise_of_the_plan_and_are_not_scaled(
    tmp_path: Path, tiny_config: RunConfig, tiny_histories: pl.DataFrame, tiny_catalog: ItemCatalog
) -> None:
    """Null: every value is the exact one plus N(0, s^2), s the plan's for metrics. 100 answers of 3 clients, 900 values.

    False alarms below 1e-6 a statistic; notices a noise wrong by 24 % in its standard deviation. Negative controls: 2/3 and
    3/2 of the noise. That the sums are not scaled is exact: where the noise is known, what is left are the sums.
    """
    secret = Federation(
        tmp_path / "secret", tiny_config.with_values({"run.reproducible": False}), tiny_histories, tiny_catalog
    )
    users = np.array([3.0] * 3) / USER_L2_NORM
    replies = np.array([[_values(secret.evaluate(client)) for client in range(3)] for _ in range(100)])
    stddev = secret.plan.release_stddev(secret.plan.release("metrics"))
    assert stddev == 5.0
    noise = replies - replies.mean(axis=0)
    assert _noise_is(noise, stddev)
    assert not _noise_is(noise * 2 / 3, stddev)
    assert not _noise_is(noise * 3 / 2, stddev)
    # The mean of 100 answers is within five of its standard deviations of what is counted exactly.
    assert (np.abs(replies[:, :, 2].mean(axis=0) - users) < 5 * stddev / 10).all()
    # A reproducible run's noise is known, and without it the sums are the exact ones.
    known = Federation(tmp_path / "known", tiny_config, tiny_histories, tiny_catalog)
    recommender = resident(known.config, tiny_catalog)
    for client in range(3):
        found = _values(known.evaluate(client))
        recommender.load_state(recommender.read_state(known.state()))
        histories = read_clients(known.folder, [client]).histories
        expected = bounded_metrics(histories, recommender, known.config, target="test")
        source = replayable_source(known.config.run.seed, "test", 1, client)
        drawn = source.gaussian(len(expected), stddev=stddev)
        # The sum of two float64 values, rounded to float32 once.
        np.testing.assert_allclose(found, expected + drawn, rtol=2**-23, atol=2**-23 * 10 * stddev)


def test_noise_of_a_private_run_never_comes_from_the_seed(
    tmp_path: Path, tiny_config: RunConfig, tiny_histories: pl.DataFrame, tiny_catalog: ItemCatalog
) -> None:
    """Whoever knows the seed of a private run can subtract nothing: asked the same again, no value repeats.

    The negative control: in a reproducible run every value does.
    """
    for reproducible in (False, True):
        config = tiny_config.with_values({"run.reproducible": reproducible})
        federation = Federation(tmp_path / str(reproducible), config, tiny_histories, tiny_catalog)
        for ask in (federation.train, federation.count, federation.evaluate):
            first, again = _values(ask()), _values(ask())
            assert ((first == again) == reproducible).all()


def test_a_plan_with_slightly_less_noise_than_the_nodes_own_is_refused(federation: Federation) -> None:
    """By a tenth, by a thousandth, and by more than another machine's calibration could differ in its last digits."""
    mine = federation.plan.noise_multiplier
    for share in (0.9, 0.999, 1 - 1e-5):
        reason = federation.train(noise_multiplier=mine * share).error.reason
        assert reason.startswith("Expected a plan with this node's own settings, got another noise_multiplier.")
    assert not federation.train(noise_multiplier=mine * (1 - 1e-9)).has_error()


REFUSALS = {
    "little noise": ("noise_multiplier", 0.1),
    "no noise": ("noise_multiplier", 0.0),
    "a wider bound": ("l2_clip_norm", 1e6),
    "more sampling": ("sampling_rate", 1.0),
    "more steps": ("steps_per_round", 50),
    "more rounds": ("rounds", 500),
    "a weaker prior": ("popularity_noise_multiplier", 0.1),
    "weaker metrics": ("evaluation_noise_multiplier", 0.1),
    "another release": ("pairs_noise_multiplier", 3.0),
    "secret noise": ("reproducible", False),
    "a delta that hides epsilon": ("delta", 0.9),
    "noise added elsewhere": ("mechanism", "central"),
    "another unit": ("unit", "window"),
    "a larger population": ("population", 10**6),
}


SAID = {
    "popularity_noise_multiplier": "noise of popularity",
    "evaluation_noise_multiplier": "noise of metrics",
    "pairs_noise_multiplier": "releases",
}


@pytest.mark.parametrize("kind", REFUSALS)
def test_a_plan_that_differs_from_the_nodes_own_is_refused_before_data_is_read(federation: Federation, kind: str) -> None:
    federation.delete_data()
    field, value = REFUSALS[kind]
    for reply in (federation.train(**{field: value}), federation.count(**{field: value})):
        assert reply.has_error()
        named = SAID.get(field, field)
        assert reply.error.reason.startswith(f"Expected a plan with this node's own settings, got another {named}.")
        assert "No data was read" in reply.error.reason
    assert not (federation.folder / "ledger.sqlite").exists()


def test_a_clip_norm_of_the_round_that_differs_from_the_plans_is_refused(federation: Federation) -> None:
    for bound in (federation.plan.l2_clip_norm * 2, float("nan"), float("inf")):
        task = TrainInstruction("digest", 1, federation.plan, bound, federation.state())
        reason = federation.ask(task.to_record(), "train").error.reason
        assert reason.startswith("Expected a plan with this node's own settings, got another l2_clip_norm.")


def test_a_plan_with_more_noise_than_the_nodes_own_is_served(federation: Federation) -> None:
    """The negative control of the refusals."""
    assert not federation.train(noise_multiplier=federation.plan.noise_multiplier * 2).has_error()


def test_a_private_run_refuses_training_data_that_other_users_have_shaped(
    tmp_path: Path, tiny_config: RunConfig, tiny_histories: pl.DataFrame, tiny_catalog: ItemCatalog
) -> None:
    private = tiny_config.with_values({"run.reproducible": False})
    federation = Federation(tmp_path, private, tiny_histories, tiny_catalog)
    path = federation.folder / "population.json"
    description = json.loads(path.read_text())
    path.write_text(json.dumps({**description, "shaped_by_all": ["data.split=global-temporal without data.cut_offs"]}))
    for reply in (federation.train(), federation.count()):
        assert reply.error.reason.startswith("Expected training data that depend on no other user, got data.split=")
        assert "No data was read" in reply.error.reason
    assert not (federation.folder / "ledger.sqlite").exists()


def test_a_silo_without_users_replies_like_any_other(
    tmp_path: Path, tiny_config: RunConfig, tiny_histories: pl.DataFrame, tiny_catalog: ItemCatalog
) -> None:
    """Nothing, one item, or items that are not in the catalog: each reply has its size, and noise in every coordinate."""
    odd = tiny_histories.head(3).with_columns(
        pl.Series("train", [[3], [987_654, 5], [0, 1]], dtype=pl.List(pl.Int32)), pl.Series("user", ["a", "b", "c"])
    )
    federation = Federation(tmp_path, tiny_config, odd, tiny_catalog)
    held = [read_clients(federation.folder, [client]).histories.height for client in range(3)]
    assert min(held) == 0
    for replies in ([federation.count(client) for client in range(3)], [federation.train(client) for client in range(3)]):
        assert not any(reply.has_error() for reply in replies)
        sent = [ContributionReply.from_message(reply, in_ring=False).values for reply in replies]
        assert len({values.shape for values in sent}) == 1 and all(np.count_nonzero(values) > 0 for values in sent)


def test_a_client_whose_data_is_missing_replies_like_any_other_and_counts_the_fault(federation: Federation) -> None:
    """What others can see does not depend on the data: the reply has its size and its noise, and the event is spent."""
    from client.store.population import _read_part

    good = [federation.count(1), federation.train(1)]
    federation.delete_data()
    _read_part.cache_clear()
    bad = [federation.count(), federation.train()]
    for whole, hollow in zip(good, bad, strict=True):
        assert not hollow.has_error()
        assert set(hollow.content) == set(whole.content)
        assert _values(hollow).shape == _values(whole).shape
        assert np.abs(_values(hollow)).max() > 1e-3  # noise alone
    assert len(federation.spent()) == 2
    ledger = Ledger(federation.folder / "ledger.sqlite")
    assert (ledger.faults("client-0"), ledger.faults("client-1")) == (2, 0)
    ledger.close()


def test_an_error_before_any_data_is_read_gives_the_reservation_back(federation: Federation) -> None:
    federation.count()
    task = TrainInstruction("digest", 1, federation.plan, federation.plan.l2_clip_norm, np.zeros(20, dtype=np.float32))
    assert federation.ask(task.to_record(), "train").error.reason.startswith("Expected a float32 state of at least")
    assert federation.spent() == [Event(federation.plan.noise_of("popularity"), 1.0, 1)]


def test_a_ledger_that_cannot_be_written_keeps_the_data_unread(federation: Federation) -> None:
    (federation.folder / "ledger.sqlite").write_bytes(b"no database" * 100)
    federation.delete_data()
    reply = federation.train()
    assert "No data was read" in reply.error.reason
    assert "ledger.sqlite" in reply.error.reason


def test_an_instruction_that_is_malformed_is_refused(federation: Federation) -> None:
    task = ReleaseInstruction("digest", federation.plan, "popularity", 0, NOTHING).to_record()
    reply = federation.ask(task, "train")
    assert reply.error.reason.startswith("Expected run_digest of a train instruction") or (
        "of a train instruction to be" in reply.error.reason
    )
    assert not (federation.folder / "ledger.sqlite").exists()


def test_an_error_reply_never_quotes_data(
    tmp_path: Path, tiny_config: RunConfig, tiny_histories: pl.DataFrame, tiny_catalog: ItemCatalog
) -> None:
    """A library may raise over private rows; what is sent then names a type and a line of ours."""
    beyond = tiny_histories.with_columns(
        ("Alice Secret " + pl.col("user")).alias("user"),
        pl.Series("train", [[987_654, 987_655]] * 9, dtype=pl.List(pl.Int32)),
    )
    private = Federation(tmp_path, tiny_config, beyond, tiny_catalog)
    try:
        evaluate(beyond, resident(private.config, tiny_catalog), private.config, target="test")
    except Exception as error:
        said = str(in_our_words(error))
        assert said.startswith("The client failed with ")
        for secret in ("Alice", "98765", str(tmp_path)):
            assert secret not in said
    else:
        pytest.fail("histories past the catalog were ranked")
    # Under privacy even that there was an error would tell something.
    for reply in (private.train(), private.count(), private.evaluate()):
        assert not reply.has_error()


def test_a_foreign_error_names_its_type_and_our_line(federation: Federation) -> None:
    federation.grid._contexts[2].node_config["partition-id"] = "not a number"
    reason = federation.evaluate().error.reason
    assert reason.startswith("The client failed with ValueError at client/batch.py:")
    assert "not a number" not in reason


@pytest.mark.parametrize("private", [True, False])
def test_no_message_makes_a_client_send_an_exact_metric_or_loss(
    private: bool, tmp_path: Path, tiny_config: RunConfig, tiny_histories: pl.DataFrame, tiny_catalog: ItemCatalog
) -> None:
    """Whatever the run's configuration says: an answer, to training or a release, is one array and a public rank."""
    config = tiny_config if private else tiny_config.with_values({"privacy.epsilon": math.inf, "privacy.delta": 0.0})
    federation = Federation(tmp_path, config, tiny_histories, tiny_catalog)
    replies = [federation.train(), federation.count()]
    if private:
        replies.append(federation.evaluate())
    for reply in replies:
        assert set(reply.content) == {"array"}
        assert list(reply.content["array"]) == ["flat"]
    task = ReleaseInstruction("digest", federation.plan, "test", 1, federation.state())
    assert federation.ask(task.to_record(), "query").has_error()
    if not private:  # a plan without noise has no noised metrics, so nothing is sent
        assert federation.evaluate().has_error()


def test_a_node_without_population_or_partition_says_what_is_missing(tiny_config: RunConfig) -> None:
    grid = InProcessGrid(app, num_nodes=1, run_config=tiny_config.to_flat())
    task = ReleaseInstruction("digest", silo_plan(), "popularity", 0, NOTHING)
    message = Message(task.to_record(), dst_node_id=2, message_type="query.popularity", group_id="1")
    (reply,) = grid.send_and_receive([message])
    assert reply.error.reason.startswith("Expected data.population to name a folder of clients' interactions")
    grid = InProcessGrid(app, num_nodes=1, run_config=tiny_config.with_values({"data.population": "somewhere"}).to_flat())
    del grid._contexts[2].node_config["partition-id"]
    (reply,) = grid.send_and_receive([message])
    assert reply.error.reason.startswith("Expected partition-id in the node's configuration, found none.")


def test_a_run_without_secret_noise_is_refused_where_the_owner_set_limits(federation: Federation) -> None:
    """The tiny configuration is reproducible: its noise is known, so no limit could hold."""
    ledger = Ledger(federation.folder / "ledger.sqlite")
    ledger.set_policy(Policy(epsilon=100.0))
    ledger.close()
    for reply in (federation.train(), federation.count()):
        assert reply.error.reason.startswith("Expected a plan with secret noise, because the owner of this device set")


@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize("worked", [0.0, 0.25, 1.75])
def test_every_reply_leaves_at_a_multiple_of_the_bucket(
    broken: bool, worked: float, federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()

    def answer(message: Message, context: Any) -> Message:
        clock.sleep(worked)
        if broken:
            raise PrivacyError("Expected a ledger, found none. No data was read.")
        return message

    monkeypatch.setattr("client.reply_times.time", clock)
    (context,) = [federation.grid.context_of(0)]
    context.run_config["privacy.reply_bucket_seconds"] = 1.5
    with pytest.raises(PrivacyError, match="Expected a ledger") if broken else nullcontext():
        answer_at_fixed_times(None, context, answer)  # type: ignore[arg-type]
    assert clock.now - 64.0 == (1.5 if worked < 1.5 else 3.0)


def test_a_release_that_the_plan_has_no_noise_for_is_refused_whoever_asks(
    tmp_path: Path, tiny_config: RunConfig, tiny_histories: pl.DataFrame, tiny_catalog: ItemCatalog
) -> None:
    """A server that asks all the same would get exact counts, without an event in the ledger."""
    quiet = {"privacy.popularity_noise_multiplier": 0.0, "privacy.evaluation_noise_multiplier": 0.0}
    federation = Federation(tmp_path, tiny_config.with_values(quiet), tiny_histories, tiny_catalog)
    noised = ReleaseInstruction("digest", federation.plan, "test", 1, federation.state())
    for reply in (federation.count(), federation.ask(noised.to_record(), "query.metrics")):
        assert reply.error.reason.startswith("Expected a release that the plan has noise for")
    assert not federation.train().has_error()


def test_metrics_without_secret_noise_are_refused_where_the_owner_set_limits(federation: Federation) -> None:
    assert not federation.evaluate().has_error()
    ledger = Ledger(federation.folder / "ledger.sqlite")
    ledger.set_policy(Policy(rounds_at_most=100))
    ledger.close()
    assert "the owner of this device set limits" in federation.evaluate().error.reason


@pytest.mark.parametrize("round_number", [-1, 0, 3, 500])
def test_a_round_that_the_plan_does_not_have_is_refused(federation: Federation, round_number: int) -> None:
    reason = federation.train(round_number=round_number).error.reason
    assert reason.startswith(f"Expected round_number in 1..2, got round_number={round_number}. No data was read")


def test_the_ledger_that_a_device_was_started_with_wins_over_what_a_run_asks_for(
    tmp_path: Path, tiny_config: RunConfig, tiny_histories: pl.DataFrame, tiny_catalog: ItemCatalog
) -> None:
    """Whoever submits a run writes its configuration; the device's own is the node's."""
    config = tiny_config.with_values({"run.reproducible": False, "privacy.ledger": str(tmp_path / "fresh.sqlite")})
    federation = Federation(tmp_path, config, tiny_histories, tiny_catalog)
    own = tmp_path / "own.sqlite"
    ledger = Ledger(own)
    ledger.set_policy(Policy(epsilon=0.5))
    ledger.close()
    for context in federation.grid._contexts.values():
        context.node_config["ledger"] = str(own)
    reply = federation.train()
    assert reply.error.reason.startswith("Expected a plan that fits what the owner of this device still allows")
    assert not (tmp_path / "fresh.sqlite").exists()


def test_the_limits_of_a_client_hold_for_the_groups_of_its_users(
    tmp_path: Path, tiny_config: RunConfig, tiny_histories: pl.DataFrame, tiny_catalog: ItemCatalog
) -> None:
    turns = {"run.reproducible": False, "privacy.mechanism": "dp-ftrl-silo", "privacy.min_separation": 2}
    federation = Federation(tmp_path, tiny_config.with_values(turns), tiny_histories, tiny_catalog)
    ledger = Ledger(federation.folder / "ledger.sqlite")
    ledger.set_policy(Policy(epsilon=0.1), "client-0")
    ledger.close()
    assert federation.train().error.reason.startswith("Expected a plan that fits what the owner of this device still")
    assert not federation.train(client=1).has_error()


def test_the_turn_of_a_user_does_not_depend_on_the_others_or_on_the_run(federation: Federation) -> None:
    from client.batch import ClientBatch, RoundOfTraining

    plan = replace(federation.plan, mechanism=Mechanism.named("dp-ftrl-silo"), min_separation=3)
    batch = ClientBatch.of(next(iter(federation.grid._contexts.values())))
    state = RecommenderState(np.zeros(12, dtype=np.float32), np.zeros(3, dtype=np.float32))
    rows = batch.rows(("user", "train"))
    (task,) = batch.tasks(rows, plan, RoundOfTraining(state, 1.0, "run", 1), [secret_source()])
    groups, users = task.groups, rows.histories["user"]
    alone = [int(user_groups(users[place : place + 1], key="turns", groups=3)[0]) for place in range(len(users))]
    assert groups is not None
    assert groups.tolist() == alone


def _limited(federation: Federation, limit: Policy, owner: str = EVERYONE) -> None:
    ledger = Ledger(federation.folder / "ledger.sqlite")
    ledger.set_policy(limit, owner)
    ledger.close()


def _secret(folder: Path, config: RunConfig, histories: pl.DataFrame, catalog: ItemCatalog, **changes: Any) -> Federation:
    """Nodes of a run whose noise is secret, as owners with limits ask for."""
    return Federation(folder, config.with_values({"run.reproducible": False, **changes}), histories, catalog)


@pytest.mark.parametrize("first", ["count", "train"])
def test_a_plan_beyond_the_limit_is_refused_at_its_first_message_and_spends_nothing(
    first: str, tmp_path: Path, tiny_config: RunConfig, tiny_histories: pl.DataFrame, tiny_catalog: ItemCatalog
) -> None:
    federation = _secret(tmp_path, tiny_config, tiny_histories, tiny_catalog)
    whole = epsilon(federation.plan.events(), delta=federation.plan.delta)
    one = epsilon(
        [federation.plan.release_events("popularity")[0], federation.plan.round_event()], delta=federation.plan.delta
    )
    assert one < 0.9 * whole  # the first messages would fit
    _limited(federation, Policy(epsilon=0.98 * whole))
    reason = getattr(federation, first)().error.reason
    assert reason.startswith("Expected a plan that fits what the owner of this device still allows, got one that asks")
    assert federation.spent() == []
    _limited(federation, Policy(epsilon=1.001 * whole))
    assert not getattr(federation, first)().has_error()


def test_a_refusal_that_travels_to_the_server_says_nothing_of_other_runs_or_of_the_data(
    tmp_path: Path, tiny_config: RunConfig, tiny_histories: pl.DataFrame, tiny_catalog: ItemCatalog
) -> None:
    """Byte for byte the same, whatever another run spent and whatever the data are."""
    reasons: set[str] = set()
    for number, rows in enumerate((9, 9, 8)):
        folder = tmp_path / str(number)
        federation = _secret(folder, tiny_config, tiny_histories.head(rows), tiny_catalog, **{"privacy.delta": 1e-3})
        if number:
            ledger = Ledger(federation.folder / "ledger.sqlite", binding=_binding(federation))
            ledger.reserve("client-0", [Event(5.0)] * number, run="another", purpose="train", round_number=1)
            ledger.close()
        _limited(federation, Policy(epsilon=0.5))
        reasons |= {federation.train().error.reason, federation.count().error.reason}
        for context in federation.grid._contexts.values():
            context.node_config["data-name"] = "other data"
        reasons.add(federation.train().error.reason if number else "")
    assert len(reasons - {""}) == 2
    said = " ".join(reasons)
    assert "bound to another name" in said and "still allows" in said
    assert not any(word in said for word in ("other data", "0.5", "0.50", "5.0"))


def _binding(federation: Federation) -> Binding:
    plan = federation.plan
    return Binding("data", plan.unit, plan.relation, plan.delta)


def test_the_name_that_a_device_was_started_with_is_what_its_ledger_is_bound_to(federation: Federation) -> None:
    for context in federation.grid._contexts.values():
        context.node_config["data-name"] = "patients of the north clinic"
    assert not federation.train().has_error()
    ledger = Ledger(federation.folder / "ledger.sqlite")
    assert ledger.binding == replace(_binding(federation), data_name="patients of the north clinic")
    ledger.close()


def test_a_device_is_asked_again_only_after_the_separation_of_its_plan(
    tmp_path: Path, tiny_config: RunConfig, tiny_histories: pl.DataFrame, tiny_catalog: ItemCatalog
) -> None:
    """Under DP-FTRL the noise of the whole run rests on it, and the server decides whom it asks."""
    changes = {"privacy.mechanism": "dp-ftrl-central", "federation.clients": 0, "privacy.min_separation": 3}
    changes |= {"federation.rounds": 6, "training.sampling_rate": 1.0}
    federation = Federation(tmp_path, tiny_config.with_values(changes), tiny_histories, tiny_catalog)
    assert not federation.train(round_number=2).has_error()
    for round_number in (1, 2, 3, 4):
        reason = federation.train(round_number=round_number).error.reason
        assert reason.startswith("Expected at least 3 rounds between two participations in one run")
    assert not federation.train(round_number=5).has_error()
    assert not federation.count().has_error()
    assert len(federation.spent()) == 3


def test_under_turns_the_whole_plan_is_held_against_every_group_before_the_first_release(
    tmp_path: Path, tiny_config: RunConfig, tiny_histories: pl.DataFrame, tiny_catalog: ItemCatalog
) -> None:
    """The group whose turn comes later has no room left; the first round would touch the other one alone."""
    turns = {"privacy.mechanism": "dp-ftrl-silo", "privacy.min_separation": 2, "training.local_steps": 1}
    federation = _secret(tmp_path, tiny_config, tiny_histories, tiny_catalog, **turns)
    _limited(federation, Policy(epsilon=0.1), "client-0/group-1-of-2")
    assert federation.train(round_number=1).error.reason.startswith("Expected a plan that fits")
    ledger = Ledger(federation.folder / "ledger.sqlite")
    assert ledger.owners() == []
    assert not federation.train(client=1, round_number=1).has_error()
    assert ledger.owners() == ["client-1/group-0-of-2"]
    ledger.close()


def test_a_plan_whose_clients_the_server_draws_counts_as_often_as_its_coins_ask_a_device(tiny_config: RunConfig) -> None:
    """Not every round, which no honest server asks of one device, and not the mean, which half of them exceed."""
    from client.admission import _planned

    changes = {"privacy.mechanism": "central", "federation.clients": 0, "federation.rounds": 200, "privacy.delta": 1e-4}
    for cohort, (least, most) in {10: (7, 30), 500: (120, 170), 1000: (200, 200)}.items():
        config = tiny_config.with_values({**changes, "privacy.expected_cohort": cohort, "training.sampling_rate": 1.0})
        plan = plan_of(config, num_users=1000, num_clients=1000)
        asked = sum(event.steps for event in _planned(plan) if event.sampled_by == "server")
        assert least <= asked <= most
        assert binom.sf(asked, 200, cohort / 1000) <= 1e-6


def test_the_ledger_says_sent_before_the_last_answer_is_handed_out(federation: Federation) -> None:
    """Else a process that is killed then would leave a sum complete whose events look as if nothing had left."""
    from client.answering import answers
    from client.batch import ClientBatch

    batch = ClientBatch.of(next(iter(federation.grid._contexts.values())))
    batch = replace(batch, partitions=np.arange(3))
    plan = federation.plan
    messages = {
        "train": TrainInstruction("digest", 1, plan, plan.l2_clip_norm, federation.state()),
        "query.popularity": ReleaseInstruction("digest", plan, "popularity", 0, NOTHING),
        "query.metrics": ReleaseInstruction("digest", plan, "test", 1, federation.state()),
    }
    ledger = Ledger(federation.folder / "ledger.sqlite")
    for kind, task in messages.items():
        replies = answers(batch, Message(task.to_record(), dst_node_id=2, message_type=kind, group_id="1"))
        for _ in range(3):
            next(replies)
        # The generator is not at its end; it waits, as it does while the server adds the last answer to the sum.
        assert {entry["state"] for entry in ledger.export()["events"]} == {"sent"}
        assert not list(replies)
    ledger.close()
