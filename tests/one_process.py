"""A federation in this process: the server app of a deployment, and nodes with their own worker, guard, ledger and data.

Every message goes through Flower's bytes, both ways. What is played are the SuperLink and the SuperNodes between them, and
the process that holds the model: its code runs here. What goes wrong on the way is up to a test (`Line`).

What lives here: arranging, and ways to go wrong. What never does: an assertion about a result.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import multiprocessing
import os
import subprocess
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictOnWire  # type: ignore[attr-defined]

from client.home import NodeHome
from client.ledger.ledger import Ledger
from client.node import model_process
from client.node.answers import Answer
from client.node.approval import approve, found_run
from client.node.in_force import PolicyInForce
from client.node.settings import read_settings
from client.node.worker import Worker
from server import deployment
from server.home import HOME_VARIABLE, ServerHome
from server.proposal import catalog_of, proposal_of, run_in
from server.provisioning import members
from server.run_state import RunState, write_state
from shared.bundle import bundle_files
from shared.protocol.refusals import in_words, refusal_in
from shared.run_file import IN_BUNDLE, RunFile
from shared.run_folder import CATALOG, POPULATION
from simulations.engines.cohort import CohortGrid
from tests.deployment import USERS, Members

FIRST_NODE = 2
KILLED = 9


class NodeKilled(BaseException):
    """A node's process is gone."""


class ServerKilled(BaseException):
    """The server's process is gone; the nodes are not."""


@dataclass
class Given:
    """A message as the runtime interface hands it out; keeps the reply."""

    message: Message
    bundle: bytes
    bundle_hash: str = ""
    context: Context | None = None
    replies: list[RecordDict] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.bundle_hash = self.bundle_hash or hashlib.sha256(self.bundle).hexdigest()

    def reply(self, content: RecordDict) -> None:
        self.replies.append(content)

    @property
    def refusal(self) -> dict[str, Any]:
        """The one reply, which is a refusal."""
        (content,) = self.replies
        found = refusal_in(Message(content, reply_to=self.message))
        assert found is not None
        return {**found.body, "signer": found.signer, "words": in_words(found)}


def packed(run: RunFile, **files: bytes) -> bytes:
    """A bundle as Flower packs it."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in {**bundle_files(run), **files}.items():
            archive.writestr(name, data)
    return content.getvalue()


def through_bytes(content: RecordDict) -> RecordDict:
    """The content as another process reads it."""
    return recorddict_from_proto(RecordDictOnWire.FromString(recorddict_to_proto(content).SerializeToString()))


# A node's reply on its way: another one, several, none.
Change = Callable[[str, Message, RecordDict], RecordDict | list[RecordDict] | None]


@dataclass
class Line:
    """What carries messages between the server app and the nodes.

    Attributes:
        federation: Whose nodes.
        change: What becomes of a node's reply.
        dies: Whether a node's process ends: at a step ("asked", "computed", "written", "sent") of a message.
        away: Names of nodes that are not connected.
        late: How often the server looks for a node's reply before it is there.
        step: Told of every step of the server: "push" and "pull".
        arrived: Node, kind, group and bytes of every reply that reached the server.
    """

    federation: OneProcess
    change: Change = lambda name, message, content: content
    dies: Callable[[str, Message, str], bool] = lambda name, message, step: False
    away: set[str] = field(default_factory=set)
    late: Callable[[str, Message], int] = lambda name, message: 0
    step: Callable[[str], None] = lambda step: None
    arrived: list[tuple[str, str, str]] = field(default_factory=list)
    bundle: bytes = b""
    _waiting: dict[str, tuple[Message, int]] = field(default_factory=dict)
    _number: int = 0

    def __post_init__(self) -> None:
        CohortGrid(num_nodes=1, run_config={})  # says which process sends

    def get_node_ids(self) -> Iterable[int]:
        """Nodes that are connected: the server knows their keys, and they are not away."""
        now = int(time.time())
        known = {one.name for one in members.members(self.federation.server) if one.state(now) == "active"}
        return [number for number, name in self.federation.numbered() if name in known - self.away]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Takes messages of the server app."""
        self.step("push")
        names = []
        for message in messages:
            self._number += 1
            message.metadata.__dict__["_message_id"] = str(self._number)
            name = self.federation.name_of(message.metadata.dst_node_id)
            self._waiting[str(self._number)] = (message, self.late(name, message))
            names.append(str(self._number))
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that are there."""
        self.step("pull")
        found: list[Message] = []
        for number in sorted(set(message_ids) & set(self._waiting), key=int):
            message, late = self._waiting[number]
            if late:
                self._waiting[number] = (message, late - 1)
                continue
            del self._waiting[number]
            found += self._replies(message)
        return found

    def _replies(self, message: Message) -> list[Message]:
        name = self.federation.name_of(message.metadata.dst_node_id)
        if name in self.away:
            return [Message(Error(5, "the node is gone"), reply_to=message)]
        try:
            content = self._answered(name, message)
        except NodeKilled:
            self.federation.workers.pop(name, None)
            return [Message(Error(5, "the node is gone"), reply_to=message)]
        changed = self.change(name, message, content)
        kinds = message.metadata.message_type, message.metadata.group_id
        several = changed if isinstance(changed, list) else [] if changed is None else [changed]
        self.arrived += [(name, *kinds) for _ in several]
        return [Message(through_bytes(one), reply_to=message) for one in several]

    def _answered(self, name: str, message: Message) -> RecordDict:
        home = self.federation.home_of(name)
        worker = self.federation.worker(home, lambda step: self._die(name, message, step))
        metadata = message.metadata
        request = CohortGrid(num_nodes=1, run_config={}).create_message(
            through_bytes(message.content), metadata.message_type, metadata.dst_node_id, metadata.group_id
        )
        request.metadata.__dict__["_message_id"] = metadata.message_id
        context = Context(run_id=1, node_id=metadata.dst_node_id, node_config={}, state=RecordDict(), run_config={})
        task = Given(request, self.bundle, context=context)
        self._die(name, message, "asked")
        worker.answer(task)  # type: ignore[arg-type]
        self._die(name, message, "sent")
        (content,) = task.replies
        return content

    def _die(self, name: str, message: Message, step: str) -> None:
        if self.dies(name, message, step):
            raise NodeKilled


@dataclass
class OneProcess(Members):
    """A provisioned federation whose server app and nodes run here.

    Attributes:
        workers: The worker of each node that was asked; what it keeps in memory is lost with it.
        skew: Seconds by which a node's clock is ahead, by the node's name.
    """

    workers: dict[str, Worker] = field(default_factory=dict)
    skew: dict[str, float] = field(default_factory=dict)
    _answering: dict[str, Callable[[model_process.Request], Answer]] = field(default_factory=dict)
    _told: dict[str, Callable[[str], None]] = field(default_factory=dict)

    @classmethod
    def found(cls, folder: Path, backbone: str, count: int, users: int) -> OneProcess:
        """A federation that was provisioned by another process."""
        made = cls.__new__(cls)
        for one in fields(cls):
            if one.default_factory is not MISSING:
                setattr(made, one.name, one.default_factory())
        made.folder, made.backbone, made.count, made.users, made.port = folder, backbone, count, users, 0
        made.server = ServerHome(folder / "server")
        made.nodes = [NodeHome(folder / f"node-{number}") for number in range(count)]
        return made

    def numbered(self) -> list[tuple[int, str]]:
        """Number and name of each node."""
        return [(number, home.path.name) for number, home in enumerate(self.nodes, start=FIRST_NODE)]

    def name_of(self, number: int) -> str:
        """Of a node."""
        return dict(self.numbered())[number]

    def home_of(self, name: str) -> NodeHome:
        """Of a node."""
        return NodeHome(self.folder / name)

    def worker(self, home: NodeHome, told: Callable[[str], None]) -> Worker:
        """The worker of a node, as `tacit node start` makes it; what its model's process would do is done here."""
        name = home.path.name
        self._told[name] = told
        if name in self.workers:
            return self.workers[name]
        clock = lambda: time.time() + self.skew.get(name, 0.0)  # noqa: E731
        made = Worker(home, read_settings(home), PolicyInForce(home), clock=clock)
        answering = self._answering.setdefault(name, model_process._answering(home))

        def answer(request: model_process.Request) -> Answer:
            found = Answer.from_bytes(answering(request).to_bytes())
            self._told[name]("computed")
            return found

        decided = made._decided

        def written(*arguments: Any, **named: Any) -> str:
            head = decided(*arguments, **named)
            self._told[name]("written")
            return head

        made._model.answer, made._model.load = answer, lambda request: None  # type: ignore[method-assign]
        made._decided = written  # type: ignore[method-assign]
        self.workers[name] = made
        return made

    def propose(
        self, name: str, *, reproducible: bool = False, continues: Path | None = None, **settings: object
    ) -> RunFile:
        """Proposes a run and makes its folder; a reproducible one promises nothing and is approved by hand."""
        path = self.written(name, reproducible=reproducible, **settings)
        run = proposal_of(self.server, path, now=int(time.time()), continues=continues)
        run_dir = self.server.runs / name
        run_dir.mkdir(parents=True, exist_ok=True)
        run.document.write(run_dir / IN_BUNDLE)
        catalog_of(self.server, continues).save(run_dir / POPULATION / CATALOG)
        write_state(run_dir, "proposed")
        if reproducible:
            for home in self.nodes:
                approve(home, found_run(home, str(run_dir / IN_BUNDLE)))
        return run

    def serve(self, run: RunFile, line: Line | None = None) -> RunState:
        """Lets the server app of a deployment work on a run until it ends; where it stands then."""
        line = line or Line(self)
        line.bundle = packed(run)
        os.environ[HOME_VARIABLE] = str(self.server.path)
        context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={"folder": run.name})
        try:
            with contextlib.suppress(Exception):  # state.json says why
                deployment.app(line, context)  # type: ignore[arg-type]
        finally:
            del os.environ[HOME_VARIABLE]
        return self.state(run.name)

    def run(self, name: str, line: Line | None = None, **settings: Any) -> RunState:
        """Proposes a run and works on it."""
        return self.serve(self.propose(name, **settings), line)

    def killed(self, run: RunFile, at: int) -> bool:
        """Works on a run in a process that is gone, as after kill -9, at its step number `at`.

        A step is a write that is on the disk, and a look of the server at the network.

        Returns:
            Whether it got as far.
        """
        # Forked from a process that has the libraries and has used none of them: polars' threads do not outlive a fork.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.one_process"])
        child = context.Process(target=_work, args=(self.folder, self.backbone, self.count, self.users, run.name, at))
        child.start()
        child.join()
        self.workers.clear()
        assert child.exitcode in (0, KILLED), child.exitcode
        return child.exitcode == KILLED

    def steps_of(self, run: RunFile) -> int:
        """Works on a run to its end, in a process of its own; how many steps that took."""
        self.killed(run, 0)
        return int((self.folder / "steps").read_text())

    def spent(self, home: NodeHome) -> tuple[int, float]:
        """Events in a node's ledger, and the epsilon of the account that spent most."""
        if not home.ledger.exists():
            return 0, 0.0
        with contextlib.closing(Ledger(home.ledger)) as ledger:
            accounts = list(ledger.accounts())
            epsilons = [ledger.epsilons(account.spent)["known_participation"] or 0.0 for account in accounts]
            return sum(account.entries for account in accounts), max(epsilons, default=0.0)

    def close(self) -> None:
        """Ends the workers."""
        for worker in self.workers.values():
            worker.stop()
        self.workers.clear()


@dataclass
class _Steps:
    """Ends this process at a step."""

    at: int
    number: int = 0

    def next(self) -> None:
        self.number += 1
        if self.number == self.at:
            os._exit(KILLED)

    def before(self, function: Callable[[int], None]) -> Callable[[int], None]:
        def counted(descriptor: int) -> None:
            self.next()
            function(descriptor)

        return counted


def _work(folder: Path, backbone: str, count: int, users: int, run: str, at: int) -> None:
    """Works on a run until a step, in a process of its own."""
    steps = _Steps(at)
    os.fsync = steps.before(os.fsync)  # type: ignore[assignment]
    made = OneProcess.found(folder, backbone, count, users)
    made.serve(run_in(made.server, made.server.runs / run), Line(made, step=lambda _: steps.next()))
    (folder / "steps").write_text(str(steps.number))


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Callable[[int], None]]:
    """A disk of 1 MiB at a folder; yields what leaves so many bytes of it.

    Raises:
        PermissionError: If this process may not mount one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False)
    if done.returncode:
        raise PermissionError("no disk can be mounted here")
    filler = folder / "filler"

    def leave(left: int) -> None:
        filler.unlink(missing_ok=True)
        found = os.statvfs(folder)
        filler.write_bytes(bytes(max(0, found.f_bavail * found.f_bsize - left)))

    try:
        yield leave
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


@contextlib.contextmanager
def one_process(folder: Path, backbone: str, count: int, *, users: int = USERS) -> Iterator[OneProcess]:
    """A federation whose workers are ended at the end."""
    made = OneProcess(folder, backbone, count, users)
    try:
        yield made
    finally:
        made.close()
