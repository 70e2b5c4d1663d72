"""The Flower `ClientApp`: what a device does with a message. Reads as the path.

    read task -> check plan -> reserve budget -> load histories -> train privately -> bound and encode -> reply

The budget is reserved in the device's own ledger before any history is read, and given back only when an error makes it
certain that nothing left. From then on what others can see does not depend on the data: a client whose data or update is
faulty replies like any other, with a contribution that says nothing, and counts the fault in its own ledger. The recommender
stays resident in the worker; the device keeps no other state than its store, its ledger and, in memory alone, the noise that
DP-FTRL takes back later. Under plain `flwr run .`, in Flower's simulation and in deployment this same module runs.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from client.budget import Reservation
from client.contribution import clipped_update, noised, pack
from client.dp_sgd import TrainingTask, train
from client.evaluation import bounded_metrics, evaluate
from client.node import Node
from client.popularity import count_items
from shared.config import schedule_factor
from shared.errors import PolicyRefused, TacitError, UnsupportedMechanism
from shared.protocol import (
    ContributionReply,
    EvaluateInstruction,
    EvaluateReply,
    NoisedEvaluationInstruction,
    PopularityInstruction,
    TrainInstruction,
)
from shared.update import RecommenderState


def answer_at_fixed_times(message: Message, context: Context, call_next: Callable[[Message, Context], Message]) -> Message:
    """Holds every reply, an error too, until a multiple of `privacy.reply_bucket_seconds` after the message came.

    Guarantee:
        While an answer takes less than one bucket, the time of the reply does not depend on the data.
    """
    start = time.monotonic()
    bucket = float(context.run_config.get("privacy.reply_bucket_seconds", 0.0))
    try:
        return call_next(message, context)
    finally:
        if bucket > 0:
            time.sleep(bucket - (time.monotonic() - start) % bucket)


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


app = ClientApp(mods=[answer_at_fixed_times, keep_data_out_of_errors])


@app.train()
def train_round(message: Message, context: Context) -> Message:
    """Trains on this client's users and replies with a bounded contribution."""
    node = Node.of(context)
    task = TrainInstruction.from_message(message)
    plan = task.plan
    node.check(plan, round_number=task.round_number, l2_clip_norm=task.l2_clip_norm)
    with node.reserve(
        plan, "train", run=task.run_digest, round_number=task.round_number, l2_clip_norm=task.l2_clip_norm
    ) as budget:
        recommender = node.recommender()
        source = node.noise_source(plan, "train", task.round_number)
        training = node.config.local_training()
        # The server scales a whole update; noised local steps follow the schedule themselves.
        factor = schedule_factor(training.schedule, round_number=task.round_number, rounds=plan.rounds)
        work = TrainingTask(
            state=RecommenderState.from_vector(task.state, num_items=recommender.num_items),
            histories=node.no_histories,
            expected_batch_size=plan.expected_batch_size,
            learning_rate=training.learning_rate * (1.0 if plan.clips_whole_updates else factor),
            source=source,
            **node.correlated_noise(plan, task.run_digest, recommender.attached.size, source, task.round_number),
        )

        def trained(with_data: bool) -> tuple[NDArray[np.float32], float]:
            chosen = node.with_histories(work, plan) if with_data else work
            (result,) = train([chosen], recommender, plan, training)
            return result.update, result.training_loss

        update, loss = _shielded(plan.adds_noise, trained, budget)
        values: NDArray[np.float32] | NDArray[np.uint8] = update
        if plan.clips_whole_updates:
            encoding = plan.update_encoding(len(update), l2_clip_norm=task.l2_clip_norm)
            contribution = clipped_update(update, plan=plan, l2_clip_norm=task.l2_clip_norm)
            values = pack(contribution, encoding, plan=plan, source=source)
        research = node.config.evaluation.research
        return Message(ContributionReply(values, loss if research else None).to_record(), reply_to=message)


@app.query()
def count_popularity(message: Message, context: Context) -> Message:
    """Counts training items once, with bounded contributions."""
    node = Node.of(context)
    task = PopularityInstruction.from_message(message)
    plan = task.plan
    node.check(plan)
    with node.reserve(plan, "popularity", run=task.run_digest, round_number=0) as budget:
        num_items = node.catalog.num_items

        def counted(with_data: bool) -> NDArray[np.float64]:
            histories = node.training_histories(plan) if with_data else node.no_histories
            return count_items(histories, num_items=num_items)

        counts = _shielded(plan.adds_noise, counted, budget)
        source = node.noise_source(plan, "popularity", 0)
        values = (
            pack(counts, plan.popularity_encoding(num_items), plan=plan, source=source)
            if plan.clips_whole_updates
            else noised(counts, stddev=plan.popularity_noise_stddev, source=source)
        )
        return Message(ContributionReply(values).to_record(), reply_to=message)


@app.evaluate("noised")
def contribute_to_metrics(message: Message, context: Context) -> Message:
    """Contributes to metrics that are released: bounded, noised, and accounted in the same ledger as everything else."""
    node = Node.of(context)
    task = NoisedEvaluationInstruction.from_message(message)
    plan = task.plan
    node.check(plan, round_number=task.round_number)
    purpose = f"evaluate-{task.target}"
    with node.reserve(plan, purpose, run=task.run_digest, round_number=task.round_number) as budget:
        recommender = node.recommender()
        recommender.load_state(RecommenderState.from_vector(task.state, num_items=recommender.num_items))

        def measured(with_data: bool) -> NDArray[np.float64]:
            histories = node.store().histories if with_data else node.no_users
            return bounded_metrics(histories, recommender, node.config, target=task.target)

        metrics = _shielded(plan.adds_noise, measured, budget)
        source = node.noise_source(plan, purpose, task.round_number)
        values = (
            pack(metrics, plan.evaluation_encoding(len(metrics)), plan=plan, source=source)
            if plan.clips_whole_updates
            else noised(metrics, stddev=plan.evaluation_noise_stddev, source=source)
        )
        return Message(ContributionReply(values).to_record(), reply_to=message)


@app.evaluate()
def evaluate_round(message: Message, context: Context) -> Message:
    """Replies with exact sums of metrics; refused outside research runs.

    Raises:
        PolicyRefused: If the run is not declared as research, or the owner of this device set limits.
    """
    node = Node.of(context)
    if not node.config.evaluation.research:
        raise PolicyRefused(
            "Expected evaluation.research=true for exact metrics, got false. Nothing was computed; set it "
            "in a simulation on data you may look at."
        )
    node.refuse_under_limits()
    task = EvaluateInstruction.from_message(message)
    recommender = node.recommender()
    recommender.load_state(RecommenderState.from_vector(task.state, num_items=recommender.num_items))
    sums = evaluate(node.store().histories, recommender, node.config, target=task.target)
    return Message(EvaluateReply(sums=sums.to_vector()).to_record(), reply_to=message)


T = TypeVar("T")


def _shielded(private: bool, compute: Callable[[bool], T], budget: Reservation) -> T:
    """Computes with the client's data, and where that fails under privacy, without: others must not see the difference.

    Args:
        private: Without privacy an error is an error.
        compute: Called with whether to use the data.
        budget: Where the fault is counted.
    """
    if not private:
        return compute(True)
    try:
        return compute(True)
    except UnsupportedMechanism:
        raise  # this is about the model, never about the data
    except Exception as error:
        budget.fault(f"{type(error).__name__} at {_place(error)}")
        return compute(False)
