"""The Flower `ClientApp`: a message in, this client's answer out (`client/answering.py`, secure sums: `client/session.py`).

The recommender stays resident in the worker; the device keeps no other state than its store, its ledger and, in memory
alone, the noise that DP-FTRL takes back later. Under plain `flwr run .`, in Flower's simulation and on a node of its own
(`client/node/answers.py`) the same handlers run.
"""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from client import answering, session
from client.batch import ClientBatch
from client.reply_times import ReplyTime
from shared.errors import TacitError
from shared.privacy.releases import release_names


def answer_at_fixed_times(message: Message, context: Context, call_next: Callable[[Message, Context], Message]) -> Message:
    """Holds every reply, an error too, until a multiple of `privacy.reply_bucket_seconds` after the message came.

    Guarantee:
        While an answer takes less than one bucket, the time of the reply does not depend on the data.
    """
    reply_time, bucket = ReplyTime(), float(context.run_config.get("privacy.reply_bucket_seconds", 0.0))
    try:
        return call_next(message, context)
    finally:
        reply_time.hold(bucket)


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
        raise answering.in_our_words(error) from None


def client_app(batch_of: Callable[[Context], ClientBatch]) -> ClientApp:
    """The app of a device.

    Args:
        batch_of: Finds the client that a node's context describes: its configuration, public facts and interactions.
    """
    made = ClientApp(mods=[answer_at_fixed_times, keep_data_out_of_errors])

    def answer(message: Message, context: Context) -> Message:
        """Trains on this client's users, or contributes to a release: one bounded contribution, accounted in its ledger."""
        return Message(_answer(message, batch_of(context), _session_key(context)), reply_to=message)

    def take_part(message: Message, context: Context) -> Message:
        """Answers a stage of a secure sum that reads no data."""
        return Message(session.answer_stage(message, batch_of(context), _session_key(context)), reply_to=message)

    made.train()(answer)
    for name in release_names():
        made.query(name)(answer)
    made.query("secure_sum")(take_part)
    return made


def _answer(message: Message, batch: ClientBatch, key: session.Key) -> RecordDict:
    task = answering.secure_sum_of(message, batch)
    before = None if task is None else session.checked(task, message, key)
    if before is not None:
        return before
    ((_, reply),) = answering.answers(batch, message)
    if isinstance(reply, TacitError):
        raise reply
    return reply.to_record() if task is None else session.masked(reply, message, key)


def _session_key(context: Context) -> session.Key:
    return context.run_id, context.node_id


app = client_app(ClientBatch.of)
