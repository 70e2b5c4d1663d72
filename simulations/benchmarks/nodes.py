"""A federation of real processes over loopback with TLS, for benchmarks: its server, and nodes that note times.

Server and nodes are those of a deployment, provisioned by the functions of the operator's commands. A node is `tacit node
start` in a process that notes, beside what it does, when a message was taken, how long training took, and when the reply was
handed to the SuperNode. What never lives here: what is measured with them.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import tomli_w

from client import provisioning
from client.home import NodeHome
from client.store.settings import make_store
from server.home import ServerHome
from server.provisioning import members
from server.provisioning.new_server import make_server, verify_settings
from server.run_state import OPEN, read_state
from server.runs import begin, publish_facts
from shared.provisioning.request import read_request
from shared.run_folder import EVENTS

ITEMS, LENGTH = 500, 20
BIN = Path(sys.executable).parent
_ROOT = Path(__file__).resolve().parents[2]
_TIMES = "times.jsonl"
_READY_SECONDS = 120.0
# Each process of a node computes for itself alone, on cores that all nodes share here.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}",
}


@dataclass
class Processes:
    """Processes that are ended together.

    Attributes:
        folder: Of their output.
    """

    folder: Path
    _running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, name: str, *command: object, **environment: str) -> int:
        """Starts one; its output is appended to a file of this name. Returns its number."""
        with (self.folder / f"{name}.out").open("ab") as output:
            process = subprocess.Popen(
                [str(part) for part in command],
                cwd=_ROOT,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **ENVIRONMENT, **environment},
            )
        self._running.append(process)
        return process.pid

    def close(self) -> None:
        """Ends all, the last one first."""
        for process in reversed(self._running):
            process.terminate()
        for process in self._running:
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
        self._running.clear()


@dataclass
class LocalFederation:
    """A server that runs, and nodes that do not yet.

    Attributes:
        folder: Everything is below it.
        server: Its home.
        nodes: Their homes.
        port: Of the SuperLink.
    """

    folder: Path
    server: ServerHome
    nodes: list[NodeHome]
    port: int

    def run(self, name: str, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Runs a run to its end; its events.

        Raises:
            RuntimeError: If it does not finish.
        """
        sections: dict[str, dict[str, Any]] = {"proposal": {"name": name, "purpose": "Measure"}}
        for key, value in settings.items():
            section, _, rest = key.partition(".")
            sections.setdefault(section, {})[rest] = value
        path = self.folder / f"{name}.toml"
        path.write_text(tomli_w.dumps(sections), encoding="utf-8")
        begin(self.server, path, now=int(time.time()))
        folder = self.server.runs / name
        while (state := read_state(folder)) is None or state.state in (*OPEN, "proposed"):
            time.sleep(0.5)
        if state.state != "finished":
            raise RuntimeError(f"Expected the run to finish, it is {state.state}: {state.reason} See {folder}.")
        return [json.loads(line) for line in (folder / EVENTS).read_text(encoding="utf-8").splitlines()]

    def times(self) -> list[dict[str, Any]]:
        """What all nodes noted."""
        lines = [line for home in self.nodes for line in _lines(home.path / _TIMES)]
        return [json.loads(line) for line in lines]


@contextmanager
def federation(folder: Path, *, nodes: int, users: int) -> Iterator[tuple[LocalFederation, Processes]]:
    """A server, started, and nodes with users of their own; what else is started ends with it.

    Args:
        folder: Everything is below it.
        nodes: How many.
        users: Of each node.
    """
    now, port = int(time.time()), free_port()
    server = make_server(
        folder / "server", verify_settings(["localhost"], 8443, port), days=60, passphrase="of a benchmark", now=now
    )
    catalog = folder / "items.csv"
    texts = [
        f"{('red', 'blue', 'green')[item % 3]} {('car', 'boat', 'house')[item % 4 % 3]} {item}" for item in range(ITEMS)
    ]
    pl.DataFrame({"item": _ids(range(ITEMS)), "text": texts}).write_csv(catalog)
    publish_facts(server, catalog, users=users * nodes, nodes=nodes)
    homes = [_provisioned(server, folder, number, users=users, port=port, now=now) for number in range(nodes)]
    processes = Processes(folder)
    try:
        processes.start("server", BIN / "tacit", "server", "start", "--server", server.path)
        wait_for((server.running / "status.json").exists)
        yield LocalFederation(folder, server, homes, port), processes
    finally:
        processes.close()


def _provisioned(server: ServerHome, folder: Path, number: int, *, users: int, port: int, now: int) -> NodeHome:
    name = f"node-{number}"
    home, request, kit = NodeHome(folder / name), folder / f"{name}.request", folder / f"{name}.kit"
    provisioning.request(home, name, request, now=now)
    members.approve(server, read_request(request), kit, days=50, now=now)
    provisioning.install(home, kit, members.server_fingerprint(server), now=now)
    home.settings.write_text(f'name = "{name}"\nserver = "localhost:{port}"\n')
    home.policy.write_text('approve = "within-policy"\n')
    with make_store(home).adding() as add:
        add(interactions(number, users=users))
    return home


def interactions(number: int, *, users: int) -> pl.DataFrame:
    """Of a node's users: `user`, `item`, `timestamp`."""
    rng = np.random.default_rng(number)
    items = np.concatenate([rng.choice(ITEMS, LENGTH, replace=False) for _ in range(users)])
    names = [f"node-{number}-user-{user}" for user in range(users) for _ in range(LENGTH)]
    return pl.DataFrame({"user": names, "item": _ids(items), "timestamp": np.arange(len(items))})


def _ids(items: Any) -> list[str]:
    return [f"i{item:04d}" for item in items]


def free_port() -> int:
    """A port of loopback that nothing listens on now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def wait_for(what: Callable[[], bool], *, seconds: float = _READY_SECONDS) -> None:
    """Waits until something holds.

    Raises:
        RuntimeError: If it does not in time.
    """
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            raise RuntimeError(f"Expected the federation to be ready within {seconds:.0f} seconds, it was not.")
        time.sleep(0.1)


def start_noting(home: NodeHome) -> None:
    """`tacit node start`, in this process, with times noted."""
    from client.node import runtime, worker
    from client.node.start import start
    from shared.command_line.interruption import signals_interrupt

    taken = [0.0]
    next_task, reply = runtime.Runtime.next_task, runtime.Task.reply

    def noted_next_task(self: runtime.Runtime) -> runtime.Task | None:
        began = time.monotonic()
        task = next_task(self)
        taken[0] = began if task is not None else taken[0]
        return task

    def noted_reply(self: runtime.Task, content: Any) -> None:
        reply(self, content)
        metadata = self.message.metadata
        kind = {"kind": metadata.message_type, "group": metadata.group_id}
        _note(home, {**kind, "seconds": time.monotonic() - taken[0], "ended": time.monotonic()})

    runtime.Runtime.next_task, runtime.Task.reply = noted_next_task, noted_reply  # type: ignore[method-assign]
    vars(worker)["serve"] = _serve_noting
    with signals_interrupt(), suppress(KeyboardInterrupt):
        start(home, lambda line: None)


def _serve_noting(connection: Connection, home: NodeHome, parent: int) -> None:
    """The model's process, which notes how long each training took."""
    import client.batch
    from client.node.model_process import serve

    train = vars(client.batch)["train"]

    def noted(*arguments: Any, **named: Any) -> Any:
        began = time.monotonic()
        found = train(*arguments, **named)
        _note(home, {"kind": "training", "seconds": time.monotonic() - began, "ended": time.monotonic()})
        return found

    vars(client.batch)["train"] = noted
    serve(connection, home, parent)


def _note(home: NodeHome, values: Mapping[str, Any]) -> None:
    with (home.path / _TIMES).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(values) + "\n")


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []
