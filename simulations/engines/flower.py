"""Runs the two apps on Flower's simulation engine (Ray), on one machine or on a cluster of them.

Flower starts the server app in one thread, plays the clients in others, and joins no thread when one of them fails.
So the engine runs here in a thread of its own and the main thread watches it: every wait of the server app ends when
the engine has died, when the person stops the run, or at its deadline.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from shared.errors import ConfigError, TacitError
from simulations.engines.local_grid import RunValues, Scalar

_START_SECONDS = 180.0
_END_SECONDS = 10.0
_PROBE_SECONDS = 5.0
_POLL_SECONDS = 0.1
# A Unix socket's path has at most 107 bytes on Linux and 103 on macOS. Ray puts into its temporary folder
# "ray/session_2026-01-01_12-00-00_123456_1234567/sockets/plasma_store".
_SOCKET_BYTES = 103
_BYTES_BELOW_TEMPORARY = 70


class EngineFailed(TacitError):  # noqa: N818
    """Flower's engine could not start, or died."""


def check_ray() -> None:
    """Looks for the Ray cluster that RAY_ADDRESS names, before anything is written.

    Raises:
        ConfigError: If nothing listens there within seconds. Ray itself would wait for minutes.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if not separator:
        return  # "auto", "local" or nothing: Ray finds out by itself
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_PROBE_SECONDS):
            return
    except (OSError, ValueError, OverflowError):
        raise ConfigError(
            f"Expected a Ray cluster at RAY_ADDRESS={address}, could not connect to it. Start it with `ray start --head`, "
            "correct the address, or unset RAY_ADDRESS."
        ) from None


def run_on_flower(
    server_app: ServerApp,
    client_app: ClientApp,
    *,
    num_nodes: int,
    run_config: RunValues,
    cpus_per_client: int = 1,
    start_seconds: float = _START_SECONDS,
) -> None:
    """Runs the apps on Flower's simulation engine.

    `run_simulation` gives apps an empty run configuration, so both are wrapped to find theirs.

    Args:
        server_app: The server's app.
        client_app: The app of every node.
        num_nodes: Nodes.
        run_config: What `flwr run --run-config` would give.
        cpus_per_client: Cores that one client takes.
        start_seconds: Deadline of the engine's start.

    Raises:
        EngineFailed: If the engine cannot start, or dies.
        KeyboardInterrupt: After the server app and the engine have ended.
        TacitError: What the server app raised.
    """
    run = _Run(server_app, dict(run_config))
    # Flower and Ray report on themselves at length, quoting what clients raised; a run has its own display.
    logging.getLogger("flwr").setLevel(logging.CRITICAL + 1)
    with _short_temporary_folder() as init_arguments:
        engine = threading.Thread(
            target=run.engine,
            args=(
                ConfiguredClientApp(client_app, run.run_config),
                num_nodes,
                {
                    "client_resources": {"num_cpus": cpus_per_client, "num_gpus": 0.0},
                    "init_args": {"log_to_driver": False, "logging_level": "ERROR", **init_arguments},
                },
            ),
            daemon=True,
        )
        engine.start()
        try:
            _watch(engine, run, start_seconds)
        finally:
            run.stop.set()
            _end(engine, run)
    if run.server_error is not None:
        raise run.server_error
    if run.engine_error is not None or not run.finished:
        raise run.failure()


@dataclass(eq=False)
class _Run:
    """What the threads of one run share."""

    server_app: ServerApp
    run_config: dict[str, Scalar]
    stop: threading.Event = field(default_factory=threading.Event)
    server_began: threading.Event = field(default_factory=threading.Event)
    server_ended: threading.Event = field(default_factory=threading.Event)
    server_error: BaseException | None = None
    engine_error: BaseException | None = None
    finished: bool = False

    def engine(self, client_app: Any, num_nodes: int, backend_config: dict[str, Any]) -> None:
        """Runs Flower's engine until the server app has ended."""
        from flwr.simulation import run_simulation

        wrapped = ServerApp()
        wrapped.main()(self._serve)
        try:
            run_simulation(
                server_app=wrapped, client_app=client_app, num_supernodes=num_nodes, backend_config=backend_config
            )
        except BaseException as error:  # Ray may also call sys.exit
            self.engine_error = error
            self.stop.set()

    def failure(self) -> EngineFailed:
        """What to say of an engine that did not start, or that ended before the server app did."""
        cause = "it ended by itself" if self.engine_error is None else _cause(self.engine_error)
        if not self.server_began.is_set():
            return EngineFailed(f"Flower's engine could not start: {cause}. Try --engine cohort.")
        kept = self.run_config.get("run.out")
        advice = f"What was finished is kept; continue with: tacit simulate --resume {kept}" if kept else "Start it again."
        return EngineFailed(f"Flower's engine died in the middle of the run: {cause}. {advice}")

    def _serve(self, grid: Grid, context: Context) -> None:
        context.run_config = dict(self.run_config)
        self.server_began.set()
        try:
            self.server_app(StoppableGrid(grid, self.stop), context)
            self.finished = True
        except _Stopped:
            pass
        except BaseException as error:  # raised again in the main thread, with its type and message
            self.server_error = error
        finally:
            self.server_ended.set()


class _Stopped(BaseException):
    """Ends the server app; no handler of errors may take it for a client's."""


class StoppableGrid(Grid):
    """A grid whose every wait ends soon after `stop` is set."""

    def __init__(self, grid: Grid, stop: threading.Event) -> None:
        self._grid, self._stop = grid, stop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._grid, name)

    def set_run(self, run: Any) -> None:
        """Sets the run that messages belong to."""
        self._grid.set_run(run)

    @property
    def run(self) -> Any:
        """The run that messages belong to."""
        return self._grid.run

    def create_message(self, *arguments: Any, **named: Any) -> Message:
        """Makes a message."""
        return self._grid.create_message(*arguments, **named)

    def get_node_ids(self) -> Iterable[int]:
        """The nodes that are connected."""
        self._go_on()
        return self._grid.get_node_ids()

    def get_nodes(self) -> Iterable[Any]:
        """The nodes that are connected, with what is known of them."""
        self._go_on()
        return self._grid.get_nodes()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Sends messages."""
        self._go_on()
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that have come."""
        self._go_on()
        return self._grid.pull_messages(message_ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Sends messages and collects the replies that come within `timeout` seconds."""
        waiting = set(self.push_messages(messages))
        deadline = None if timeout is None else time.monotonic() + timeout
        replies: list[Message] = []
        while waiting and (deadline is None or time.monotonic() < deadline):
            fresh = list(self.pull_messages(waiting))
            replies += fresh
            waiting -= {reply.metadata.reply_to_message_id for reply in fresh}
            if waiting:
                self._stop.wait(_POLL_SECONDS)
        return replies

    def _go_on(self) -> None:
        if self._stop.is_set():
            raise _Stopped


@dataclass
class ConfiguredClientApp:
    """A client app with its run configuration filled in; picklable, so that Ray can send it to its actors."""

    client_app: ClientApp
    run_config: dict[str, Scalar]

    def __call__(self, message: Message, context: Context) -> Any:
        """Runs the app with a context of the same state; Flower refuses one whose own was changed."""
        configured = Context(
            run_id=context.run_id,
            node_id=context.node_id,
            node_config=context.node_config,
            state=context.state,
            run_config=dict(self.run_config),
        )
        return self.client_app(message, configured)


def _watch(engine: threading.Thread, run: _Run, start_seconds: float) -> None:
    """Waits for the engine's end.

    Raises:
        EngineFailed: If Ray has not started at its deadline.
    """
    import ray

    deadline = time.monotonic() + start_seconds
    started = False
    while engine.is_alive():
        engine.join(_POLL_SECONDS)
        started = started or ray.is_initialized() or run.server_ended.is_set()
        if not started and time.monotonic() > deadline:
            raise EngineFailed(
                f"Flower's engine did not start within {start_seconds:.0f} seconds. Try --engine cohort, or look for other "
                "clusters with `ray status`."
            )


def _end(engine: threading.Thread, run: _Run) -> None:
    """Ends the server app and the engine; a client at work may finish within the grace."""
    deadline = time.monotonic() + _END_SECONDS
    run.server_ended.wait(_END_SECONDS)
    engine.join(max(0.0, deadline - time.monotonic()))
    if engine.is_alive():
        import ray

        with contextlib.suppress(Exception):  # what is left of the engine is ended with the process
            ray.shutdown()
        engine.join(_END_SECONDS / 2)


@contextlib.contextmanager
def _short_temporary_folder() -> Iterator[dict[str, str]]:
    """Arguments of `ray.init` with a temporary folder short enough for its sockets, where the usual one is not.

    Raises:
        ConfigError: If no folder of the system can be written.
    """
    usual = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    connects = os.environ.get("RAY_ADDRESS", "local") != "local"
    if connects or len(os.fsencode(usual)) + _BYTES_BELOW_TEMPORARY <= _SOCKET_BYTES:
        yield {}
        return
    folder = _made_in(("/tmp", "/var/tmp", "/dev/shm"))
    try:
        yield {"_temp_dir": folder}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _made_in(parents: Sequence[str]) -> str:
    for parent in parents:
        with contextlib.suppress(OSError):
            return tempfile.mkdtemp(prefix="ray-", dir=parent)
    raise ConfigError(
        f"Expected a folder with a short path for Ray's sockets, could write none of {', '.join(parents)}. "
        "Set RAY_TMPDIR to one of at most 33 bytes, or use --engine cohort."
    )


def _cause(error: BaseException) -> str:
    """The first error of a chain, on one line of bounded length."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split())[:200].rstrip(".")
    return f"{type(error).__name__} ({text})" if text else type(error).__name__
