"""The process that holds the model: it stays warm between messages, answers them with the device's own code, and ends with
its parent.

It gets a request and the approved run file through a pipe and sends the reply's content back to the node's worker, which
shows it to the guard. It has no connection to a server. What never lives here: whether a request is answered (`rules.py`),
and whether the answer leaves (`guard.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing.connection import Connection
from typing import Any

from client.home import NodeHome
from client.node.answers import Answer
from shared.command_line.environment import prepare_environment
from shared.errors import TacitError
from shared.processes import end_with


@dataclass(frozen=True, eq=False)
class Request:
    """What the worker hands over.

    Attributes:
        message: Of the server; None only to load the model of a run, which nobody waits for.
        context: Flower's, of this run.
        run_file: The approved document.
        server: Whose signature it bears, 32 bytes.
    """

    message: Any
    context: Any
    run_file: bytes
    server: bytes


def serve(connection: Connection, home: NodeHome, parent: int) -> None:
    """Answers requests until the pipe closes or the parent is gone."""
    end_with(parent)
    prepare_environment()
    answer: Callable[[Request], Answer] | None = None
    while True:
        try:
            request = connection.recv()
        except (EOFError, OSError):
            return
        answer = answer or _answering(home)
        found = answer(request)
        if request.message is not None:
            connection.send_bytes(found.to_bytes())


def _answering(home: NodeHome) -> Callable[[Request], Answer]:
    """Loads what answers; slow, and done once."""
    from client.answering import in_our_words
    from client.app import client_app
    from client.node.own_client import OwnClient

    current: list[Request] = []

    @lru_cache(maxsize=4)
    def of_run(run_file: bytes, server: bytes) -> OwnClient:
        return OwnClient.of(home, run_file, server)

    app = client_app(lambda _: of_run(current[0].run_file, current[0].server).batch)

    def answer(request: Request) -> Answer:
        current[:] = [request]
        try:
            if request.message is None:
                of_run(request.run_file, request.server).batch.recommender()
                return Answer()
            content = app(request.message, request.context).content
            of_run(request.run_file, request.server).answered(request.message.metadata.message_type)
            return Answer(content=content)
        except Exception as error:
            said = error if isinstance(error, TacitError) else in_our_words(error)
            return Answer(error=str(said), kind=type(said).__name__)

    return answer
