"""A federation of real processes over loopback with TLS: a server, nodes with data of their own, and what kills them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl
import psutil
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from safetensors.numpy import load_file

from client import provisioning
from client.home import NodeHome
from client.node.approval import approve, found_run
from client.store.interactions import InteractionStore
from server.provisioning import members
from server.provisioning.new_server import make_server, verify_settings
from server.run_state import RunState, read_state
from server.runs import publish_facts
from shared.hash_chain import HashChain
from shared.protocol.distribution import RELEASED_FILES
from shared.provisioning.request import read_request
from shared.run_file import IN_BUNDLE
from shared.signing import sign

ITEMS, USERS, LENGTH = 24, 12, 8
TACIT = Path(sys.executable).parent / "tacit"
Found = TypeVar("Found")


def eventually(what: Callable[[], Found], *, seconds: float = 120.0) -> Found:
    """The first result that is not false or None."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.2)
    raise AssertionError(f"nothing came within {seconds} seconds")


@dataclass
class Members:
    """A server and its nodes, provisioned by the functions that the commands call.

    Attributes:
        folder: Everything is below it.
        backbone: Of all runs.
        count: Of the nodes.
        users: Of each node.
        nodes: Homes of the nodes.
        port: Of the SuperLink.
    """

    folder: Path
    backbone: str
    count: int
    users: int = USERS
    nodes: list[NodeHome] = field(default_factory=list)
    port: int = 0

    def __post_init__(self) -> None:
        now = int(time.time())
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        settings = verify_settings(["localhost"], 8443, self.port)
        self.server = make_server(self.folder / "server", settings, days=60, passphrase="a passphrase of tests", now=now)
        texts = [
            f"{('red', 'blue', 'green')[item % 3]} {('car', 'boat', 'house')[item % 4 % 3]} {item}" for item in range(ITEMS)
        ]
        catalog = self.folder / "items.csv"
        pl.DataFrame({"item": [f"i{item:02d}" for item in range(ITEMS)], "text": texts}).write_csv(catalog)
        publish_facts(self.server, catalog, users=self.users * self.count, nodes=self.count)
        self.nodes = [self.provisioned(f"node-{number}", seed=number) for number in range(self.count)]

    def provisioned(self, name: str, *, seed: int) -> NodeHome:
        """A node with keys, kit and interactions; its policy approves every run of this server."""
        now, home = int(time.time()), NodeHome(self.folder / name)
        request, kit = self.folder / f"{name}.request", self.folder / f"{name}.kit"
        provisioning.request(home, name, request, now=now)
        members.approve(self.server, read_request(request), kit, days=50, now=now)
        provisioning.install(home, kit, members.server_fingerprint(self.server), now=now)
        home.settings.write_text(f'name = "{name}"\nserver = "localhost:{self.port}"\npoll_seconds = 0.4\n')
        home.policy.write_text('approve = "within-policy"\n')
        ingest(home, rows_of(name, seed=seed, users=self.users))
        return home

    def written(self, name: str, *, reproducible: bool = False, **settings: object) -> Path:
        """`federation.toml` of a run."""
        path = self.folder / f"{name}.toml"
        values: dict[str, object] = {
            "model.backbone": self.backbone,
            "model.max_history_length": 8,
            "adapter.output_rank": 4,
            "data.public_catalog": True,
            "federation.timeout_seconds": 120,
            "training.sampling_rate": 1.0,
            "evaluation.bootstrap_replicates": 0,
            **({"privacy.epsilon": "inf", "run.seed": 7} if reproducible else {}),
            **settings,
        }
        lines = ["[proposal]", f'name = "{name}"', 'purpose = "Recommend things in a test"']
        for section in sorted({key.split(".")[0] for key in values}):
            lines.append(f"[{section}]")
            of_section = {key: value for key, value in values.items() if key.startswith(f"{section}.")}
            for key, value in of_section.items():
                bare = isinstance(value, bool | int | float) or value == "inf"
                text = str(value).lower() if isinstance(value, bool) else str(value) if bare else json.dumps(value)
                lines.append(f"{key.partition('.')[2]} = {text}")
        path.write_text("\n".join(lines))
        return path

    def state(self, run: str) -> RunState:
        """Where a run stands."""
        found = read_state(self.server.runs / run)
        assert found is not None
        return found

    def events(self, run: str, kind: str = "") -> list[dict[str, Any]]:
        """What happened in a run."""
        path = self.server.runs / run / "events.jsonl"
        events = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [event for event in events if kind in ("", event["event"])]

    def digest(self, run: str) -> str:
        """Of a run's file, as nodes name the run."""
        signed = json.loads((self.server.runs / run / IN_BUNDLE).read_bytes())
        return sign(signed["kind"], signed["body"], Ed25519PrivateKey.generate()).digest

    def decisions(self, home: NodeHome, kind: str = "") -> list[dict[str, Any]]:
        """What a node's guard let out or refused; verified."""
        return [body for body in HashChain(home.decisions).read() if kind in ("", body["decision"])]


def rows_of(name: str, *, seed: int, start: int = 0, users: int = USERS) -> list[tuple[str, str, int]]:
    """Interactions of a node's users, the later ones with a larger `start`."""
    rng = np.random.default_rng(seed)
    return [
        (f"{name}-user-{user}", f"i{item:02d}", 1000 * user + start + place)
        for user in range(users)
        for place, item in enumerate(rng.choice(ITEMS, size=LENGTH, replace=False))
    ]


def ingest(home: NodeHome, rows: list[tuple[str, str, int]]) -> None:
    """Puts interactions into a node's database."""
    store = InteractionStore(home.interactions, secret=None)
    store.create()
    with store.adding() as add:
        add(pl.DataFrame(rows, schema=["user", "item", "timestamp"], orient="row"))


def released_tensors(folder: Path) -> dict[str, bytes]:
    """Every tensor of a released recommender."""
    names = [name for name in RELEASED_FILES if name.endswith(".safetensors") and (folder / name).exists()]
    assert names
    return {f"{name}/{key}": value.tobytes() for name in names for key, value in load_file(folder / name).items()}


@dataclass
class Deployment(Members):
    """The same with processes, of which none runs yet."""

    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start_server(self) -> None:
        """Starts the SuperLink and waits until nodes may connect."""
        ready = self.server.running / "status.json"
        ready.unlink(missing_ok=True)  # a server that was killed leaves it behind
        self._start("server", "server", "start", "--server", self.server.path)
        eventually(ready.exists)

    def start_node(self, home: NodeHome) -> None:
        """Starts a node; it connects by itself."""
        self._start(home.path.name, "node", "start", "--home", home.path)

    def start_node_that_dies(self, home: NodeHome, step: str, flag: Path) -> None:
        """Starts a node that is killed at a step of its next training message, and says so (`tests/killed_node.py`)."""
        self._run(home.path.name, [sys.executable, "-m", "tests.killed_node", step, str(home.path), str(flag)])

    def kill(self, name: str) -> None:
        """Ends a process as a power failure does."""
        self.processes[name].kill()
        self.processes[name].wait()

    def end(self, name: str) -> int:
        """Ends a process as systemd does; its exit status."""
        self.processes[name].send_signal(signal.SIGTERM)
        return self.processes[name].wait(60)

    def tacit(self, *arguments: object) -> Any:
        """What a command prints as JSON."""
        done = subprocess.run(
            [str(TACIT), *map(str, arguments), "--json"], capture_output=True, text=True, timeout=300, env=_environment()
        )
        found = json.loads(done.stdout) if done.stdout.strip() else {}
        return {**found, "status": done.returncode, "stderr": done.stderr}

    def begin(self, name: str, *, reproducible: bool = False, **settings: object) -> str:
        """Starts a run; returns its name."""
        path = self.written(name, reproducible=reproducible, **settings)
        if reproducible:  # it promises nothing, so each owner has to approve it by hand
            path = self.folder / f"{name}.json"
            signed = self.tacit("server", "propose", path.with_suffix(".toml"), "--out", path, "--server", self.server.path)
            assert signed["status"] == 0, signed
            for home in self.nodes:
                approve(home, found_run(home, str(path)))
        found = self.tacit("server", "run", path, "--server", self.server.path)
        assert found["status"] == 0, found
        return str(found["run"])

    def ended(self, run: str, *, seconds: float = 240.0) -> RunState:
        """Where a run stands once it has ended."""
        return eventually(
            lambda: (now := self.state(run)).state not in ("proposed", "waiting", "running") and now, seconds=seconds
        )  # type: ignore[return-value]

    def close(self) -> None:
        """Ends everything."""
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()

    def leftovers(self) -> list[psutil.Process]:
        """Processes that still know this folder."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if str(self.folder) in " ".join(process.cmdline()) or str(self.folder) in process.environ().get(
                    "FLWR_HOME", ""
                ):
                    found.append(process)
        return found

    def left_of_server(self) -> list[psutil.Process]:
        """Processes that the server started: the SuperLink, and what Flower starts by name."""
        found = []
        for process in self.leftovers():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("FLWR_HOME", "") == str(self.server.flower.absolute()):
                    found.append(process)
        return found

    def _start(self, name: str, *arguments: object) -> None:
        self._run(name, [str(TACIT), *map(str, arguments)])

    def _run(self, name: str, command: list[str]) -> None:
        with (self.folder / f"{name}.out").open("ab") as output:
            self.processes[name] = subprocess.Popen(
                command, stdout=output, stderr=output, env=_environment(), cwd=Path(__file__).parent.parent
            )


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


@contextlib.contextmanager
def deployment(folder: Path, backbone: str, count: int, users: int = USERS) -> Iterator[Deployment]:
    """A deployment whose processes are ended at the end."""
    made = Deployment(folder, backbone, count, users)
    try:
        yield made
    finally:
        made.close()
