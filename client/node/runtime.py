"""A node's end of Flower's runtime interface: takes messages from the SuperNode and hands replies back.

SuperNode runs with `--isolation process`: it keeps the connection to the server, and leaves each message to whoever asks its
runtime interface on loopback. Flower's own helper would install the server's bundle and run the code in it. This file asks
in its place, so that what answers is installed on the node.

It is the one file of a device that uses Flower's private modules (as of 1.41): the runtime client, its interceptors, and the
two functions that read a task and push its reply.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import httpx
from flwr.app import Context, Message, RecordDict
from flwr.common.constant import SubStatus
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.retry import RetryInvoker, constant
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime import run_clientapp
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

from client.node.supernode import look_again_soon

_ACQUIRE = frozenset({"/flwr.proto.Runtime/AcquireTask"})
_COMPONENT = "flwr-clientapp"
_TRIES, _RETRY_SECONDS = 2, 0.2


@dataclass(frozen=True, eq=False)
class Task:
    """One message to answer.

    Attributes:
        message: Of the server.
        context: Flower's, of the run.
        bundle: What the server shipped. (nothing of it runs)
        bundle_hash: Its SHA-256 as the server named it, hex.
    """

    message: Message
    context: Context
    bundle: bytes
    bundle_hash: str
    _client: RuntimeHttpClient

    def reply(self, content: RecordDict) -> None:
        """Hands the reply to SuperNode and ends the task."""
        try:
            push_message(self._client, Message(content, reply_to=self.message), self.context)
            push_task_output(self._client, self.context, SubStatus.COMPLETED, "")
        finally:
            self._client.close()


class Runtime:
    """The runtime interface of a SuperNode.

    Args:
        address: HOST:PORT on loopback.
        secret: File of the secret that SuperNode was started with; whoever else is on this machine cannot take messages.
    """

    def __init__(self, address: str, secret: Path) -> None:
        look_again_soon(run_clientapp, "pull_and_inflate_object_from_tree")
        self._address = address
        secret_bytes = secret.read_bytes()
        self._client = self._connected(SuperExecAuthHttpInterceptor(master_secret=secret_bytes, protected_methods=_ACQUIRE))

    def next_task(self) -> Task | None:
        """The oldest message that waits; None where there is none."""
        found = self._client.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP]))
        if not (found.HasField("task") and found.token):
            return None
        own = self._connected(RuntimeTokenHttpInterceptor(found.token))
        try:
            message, context, _, bundle = pull_task_input(own)
        except BaseException:
            own.close()
            raise
        return Task(message, context, bundle.content, bundle.hash_str, own)

    def close(self) -> None:
        """Closes the connection."""
        self._client.close()

    def _connected(self, interceptor: RuntimeTokenHttpInterceptor | SuperExecAuthHttpInterceptor) -> RuntimeHttpClient:
        # Flower's own way to retry sends this process an interrupt where a task's token no longer counts, as after a run
        # that ended meanwhile. A node outlives that.
        retry = RetryInvoker(lambda: constant(_RETRY_SECONDS), (httpx.TransportError,), _TRIES, None)
        return RuntimeHttpClient.from_server_address(
            server_address=self._address,
            insecure=True,
            root_certificates=None,
            interceptors=[RuntimeVersionHttpInterceptor(component_name=_COMPONENT), interceptor],
            retry_invoker=retry,
        )
