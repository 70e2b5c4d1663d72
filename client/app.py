"""The Flower `ClientApp`: what a device does with a message. Reads as the path.

    read task -> reserve budget -> load histories -> train privately -> reply built from the allow-list

The budget is reserved in the device's own ledger before any history is read, and given back only when an
error makes it certain that nothing left. The recommender stays resident in the worker; the device keeps no
other state than its store and its ledger. Under plain `flwr run .`, in Flower's simulation and in deployment
this same module runs.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.dp_sgd import TrainingTask, learning_rate, train
from client.evaluation import evaluate
from client.popularity import count_items
from client.store import ClientStore, open_population
from shared.config import RunConfig
from shared.errors import ConfigError, PolicyRefused, TacitError
from shared.privacy.events import Event
from shared.privacy.ledger import Ledger
from shared.privacy.plan import PrivacyPlan, default_delta
from shared.protocol import (
    EvaluateInstruction,
    EvaluateReply,
    PopularityInstruction,
    PopularityReply,
    TrainInstruction,
    TrainReply,
)
from shared.randomness import NoiseSource, replayable_source, secret_source
from shared.recommender import Recommender, resident
from shared.update import RecommenderState


def keep_data_out_of_errors(message: Message, context: Context, call_next: Callable[[Message, Context], Message]) -> Message:
    """Replaces every error that is not Tacit's own by its type and place.

    Flower sends the text of an exception to the server, and the text of a foreign one may quote what it
    failed on.

    Guarantee:
        An error reply holds a message of `shared/errors.py` or the name of a type, a file and a line; never
        data.
    """
    try:
        return call_next(message, context)
    except TacitError:
        raise
    except Exception as error:
        raise TacitError(
            f"The client failed with {type(error).__name__} at {_place(error)}. Nothing was sent; look at "
            "this node's code and data there."
        ) from None


def _place(error: Exception) -> str:
    """File and line where our own code was last; the deepest frames are usually a library's."""
    frames = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    own = [(path, line) for path, line in frames if path.parent.parent == Path(__file__).parent.parent] or frames
    path, line = own[-1]
    return f"{path.parent.name}/{path.name}:{line}"


app = ClientApp(mods=[keep_data_out_of_errors])


@app.train()
def train_round(message: Message, context: Context) -> Message:
    """Trains on this client's users and replies with the update."""
    node = Node.of(context)
    task = TrainInstruction.from_message(message)
    node.check(task.plan)
    events = [task.plan.round_event()] if task.plan.adds_noise else []
    with node.budget(events, run=task.run_digest, purpose="train", round_number=task.round_number):
        recommender = node.recommender()
        training = node.config.local_training()
        work = TrainingTask(
            state=RecommenderState.from_vector(task.state, num_items=recommender.num_items),
            histories=node.store().histories["train"],
            expected_batch_size=task.plan.sampling_rate * task.num_users / task.num_clients,
            learning_rate=learning_rate(training, round_number=task.round_number, rounds=task.plan.rounds),
            source=node.noise_source(task.run_digest, task.round_number),
        )
        (result,) = train([work], recommender, task.plan, training)
        loss = result.training_loss if node.config.evaluation.research else None
        return Message(TrainReply(update=result.update, training_loss=loss).to_record(), reply_to=message)


@app.query()
def count_popularity(message: Message, context: Context) -> Message:
    """Counts training items once, with bounded contributions and this client's own noise."""
    node = Node.of(context)
    task = PopularityInstruction.from_message(message)
    node.check(task.plan)
    with node.budget(task.plan.popularity_events, run=task.run_digest, purpose="popularity", round_number=0):
        store = node.store()
        counts = count_items(
            store.histories["train"],
            num_items=store.catalog.num_items,
            plan=task.plan,
            source=node.noise_source(task.run_digest, 0),
        )
        return Message(PopularityReply(counts=counts).to_record(), reply_to=message)


@app.evaluate()
def evaluate_round(message: Message, context: Context) -> Message:
    """Replies with exact sums of metrics; refused outside research runs.

    Raises:
        PolicyRefused: If the run is not declared as research.
    """
    node = Node.of(context)
    if not node.config.evaluation.research:
        raise PolicyRefused(
            "Expected evaluation.research=true for exact metrics, got false. Nothing was computed; set it "
            "in a simulation on data you may look at."
        )
    task = EvaluateInstruction.from_message(message)
    recommender = node.recommender()
    recommender.load_state(RecommenderState.from_vector(task.state, num_items=recommender.num_items))
    sums = evaluate(node.store().histories, recommender, node.config, target=task.target)
    return Message(EvaluateReply(sums=sums.to_vector()).to_record(), reply_to=message)


@dataclass(frozen=True)
class Node:
    """This client: its configuration, and where its interactions and its ledger are."""

    config: RunConfig
    partition: int
    folder: Path

    @classmethod
    def of(cls, context: Context) -> Node:
        """Reads the node's context.

        Raises:
            ConfigError: If the population's folder or the partition is missing, or a setting is wrong.
        """
        config = _config(tuple(sorted(context.run_config.items())))
        if not config.data.population:
            raise ConfigError(
                "Expected data.population to name a folder of clients' interactions, got data.population=''. "
                "Write one with `tacit data partition`, then pass --run-config 'data.population=\"FOLDER\"'."
            )
        if "partition-id" not in context.node_config:
            raise ConfigError("Expected partition-id in the node's configuration, found none. Start the node with it.")
        return cls(config, int(context.node_config["partition-id"]), Path(config.data.population))

    def store(self) -> ClientStore:
        """This node's interactions; call it inside `budget` only."""
        return ClientStore.open(self.folder, self.partition)

    def recommender(self) -> Recommender:
        """The worker's resident model."""
        return resident(self.config, open_population(self.folder).catalog)

    def check(self, plan: PrivacyPlan) -> None:
        """Refuses a plan that promises less than this node's own configuration.

        Raises:
            PolicyRefused: If the server's plan differs from what this node was configured with.
        """
        mine = self.config
        spent = plan.epsilon_after(plan.rounds)
        if (
            plan.reproducible != mine.run.reproducible
            or plan.rounds != mine.federation.rounds
            or plan.steps_per_round != mine.training.local_steps
            or plan.sampling_rate != mine.training.sampling_rate
            or spent > mine.privacy.epsilon
            or (plan.adds_noise and plan.l2_clip_norm != mine.privacy.l2_clip_norm)
            # A large delta makes any epsilon look small.
            or plan.delta > (mine.privacy.delta or default_delta(open_population(self.folder).num_users))
        ):
            raise PolicyRefused(
                f"Expected a plan of epsilon <= {mine.privacy.epsilon} with this node's own settings, got "
                f"epsilon={spent:.2f}, delta={plan.delta:g}. No data was read; use the same configuration "
                "on both ends."
            )

    @contextmanager
    def budget(self, events: Sequence[Event], *, run: str, purpose: str, round_number: int) -> Iterator[None]:
        """Reserves events before data is read; they count as spent unless an error kept everything here."""
        if not events:
            yield
            return
        ledger = _ledger(Path(self.config.privacy.ledger or self.folder / "ledger.sqlite"))
        owner = f"client-{self.partition}"
        reserved = ledger.reserve(owner, events, run=run, purpose=purpose, round_number=round_number)
        try:
            yield
        except BaseException:
            ledger.freed(reserved)
            raise
        ledger.sent(reserved)

    def noise_source(self, run: str, round_number: int) -> NoiseSource:
        """The system's CSPRNG, or in a reproducible run a source derived from the seed."""
        if self.config.run.reproducible:
            return replayable_source(self.config.run.seed, round_number, self.partition)
        return secret_source()


@lru_cache(maxsize=8)
def _config(items: tuple[tuple[str, bool | int | float | str], ...]) -> RunConfig:
    return RunConfig.from_mapping(dict(items), source="the run's configuration")


@lru_cache(maxsize=8)
def _ledger(path: Path) -> Ledger:
    return Ledger(path)
