"""A node that ends at a named step of its next training message, all its processes at once, as in a power failure.

`python -m tests.killed_node STEP HOME FLAG` is `tacit node start`, patched: each of its processes knows the step, and the
one that gets there notes round and step in FLAG and kills all of them. What lives here: where a step is. What never does:
an assertion.

    asked     the message was taken from the SuperNode, the ledger was not touched
    reserved  the ledger counts it, no data was read
    trained   the contribution exists in the model's process alone
    written   the guard has let it out, and the decision is on the disk
    handed    the SuperNode has it
    sending   the server knows of the reply, whose values it does not have
    sent      the server has it, and the SuperNode looks for the next message
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

STEPS = ("asked", "reserved", "trained", "written", "handed", "sending", "sent")
_STEP, _FLAG, _NODE = "TEST_KILLED_STEP", "TEST_KILLED_FLAG", "TEST_KILLED_NODE"


def die(step: str, round_number: object) -> None:
    """Ends the node if this is its step."""
    if os.environ[_STEP] != step:
        return
    flag, node = Path(os.environ[_FLAG]), psutil.Process(int(os.environ[_NODE]))
    prepared = flag.with_suffix(".new")
    prepared.write_text(json.dumps({"step": step, "round": int(str(round_number))}))
    own = [one for one in (node, *node.children(recursive=True)) if one.pid != os.getpid()]
    for one in own:
        one.suspend()  # none goes on while others are killed
    prepared.replace(flag)
    for one in own:
        one.kill()
    psutil.Process().kill()


def _replaced(module: Any, name: str, wrapped: Callable[[Any], Any]) -> None:
    vars(module)[name] = wrapped(vars(module)[name])


def node(home: Path) -> None:
    """The node's process: worker and guard."""
    from client.home import NodeHome
    from client.node import runtime, start, worker
    from client.node.decisions import Decisions

    next_task, append, serve_child = runtime.Runtime.next_task, Decisions.append, start.child

    def taken(self: runtime.Runtime) -> runtime.Task | None:
        task = next_task(self)
        if task is not None and task.message.metadata.message_type == "train":
            die("asked", task.message.metadata.group_id)
        return task

    def decided(self: Decisions, body: Any) -> str:
        head = append(self, body)
        if body["decision"] == "sent" and body["message_type"] == "train":
            die("written", body["group"])
        return head

    def handed(push_message: Any) -> Any:
        def wrapped(client: Any, message: Any, context: Any) -> None:
            push_message(client, message, context)
            if message.metadata.message_type == "train":
                die("handed", message.metadata.group_id)

        return wrapped

    def child(command: Sequence[object], **named: Any) -> Any:
        place = command.index("client.node.supernode")
        return serve_child([*command[:place], "tests.killed_node", "supernode", *command[place + 1 :]], **named)

    runtime.Runtime.next_task = taken  # type: ignore[method-assign]
    Decisions.append = decided  # type: ignore[method-assign]
    _replaced(runtime, "push_message", handed)
    vars(start)["child"] = child
    vars(worker)["serve"] = model
    start.start(NodeHome(home), lambda line: None)


def model(connection: Any, home: Any, parent: int) -> None:
    """The model's process."""
    import client.batch
    from client.ledger.ledger import Ledger
    from client.node.model_process import serve

    reserve_all, rounds = Ledger.reserve_all, [0]

    def reserved(self: Ledger, *arguments: Any, **named: Any) -> Any:
        found = reserve_all(self, *arguments, **named)
        if named["purpose"] == "train":
            rounds[0] = named["round_number"]
            die("reserved", rounds[0])
        return found

    def trained(train: Any) -> Any:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            found = train(*arguments, **named)
            die("trained", rounds[0])
            return found

        return wrapped

    Ledger.reserve_all = reserved  # type: ignore[method-assign]
    _replaced(client.batch, "train", trained)
    serve(connection, home, parent)


def supernode() -> None:
    """The SuperNode's process."""
    from flwr.supernode import start_client_internal

    import client.node.supernode

    def pushed(push: Any) -> Any:
        def wrapped(*, send: Any, **named: Any) -> None:
            last: list[Any] = []

            def sending(message: Any, *arguments: Any) -> Any:
                found = send(message, *arguments)
                last[:] = [message.metadata]
                if message.metadata.message_type == "train":
                    die("sending", message.metadata.group_id)
                return found

            push(send=sending, **named)
            if last and last[0].message_type == "train":
                die("sent", last[0].group_id)

        return wrapped

    _replaced(start_client_internal, "_push_messages", pushed)
    client.node.supernode.main()


if __name__ == "__main__":
    if sys.argv[1] == "supernode":
        del sys.argv[1]
        supernode()
    else:
        os.environ |= {_STEP: sys.argv[1], _FLAG: sys.argv[3], _NODE: str(os.getpid())}
        # By its name and not as `__main__`, so that the model's process finds the function.
        from tests import killed_node

        killed_node.node(Path(sys.argv[2]))
