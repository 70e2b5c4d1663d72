"""Flower's engine as seen from outside: an absent cluster, long paths, waits that end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from shared.errors import ConfigError
from simulations.engines.flower import (
    EngineFailed,
    StoppableGrid,
    _short_temporary_folder,
    _Stopped,
    check_ray,
    run_on_flower,
)
from simulations.engines.local_grid import InProcessGrid, serve


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:none", "127.0.0.1:99999"])
def test_a_cluster_that_is_absent_is_one_clear_line_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ConfigError, match=f"Expected a Ray cluster at RAY_ADDRESS={address}, could not connect to it"):
        check_ray()


@pytest.mark.parametrize("address", ["", "auto", "local"])
def test_ray_finds_its_own_cluster_where_no_address_is_named(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    check_ray()


def test_ray_gets_a_short_temporary_folder_where_the_usual_one_is_too_long_for_its_sockets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/tmp")
    with _short_temporary_folder() as arguments:
        assert arguments == {}
    monkeypatch.setenv("TMPDIR", "/tmp/" + 60 * "d")
    with _short_temporary_folder() as arguments:
        folder = Path(arguments["_temp_dir"])
        assert folder.is_dir() and len(str(folder)) <= 33
    assert not folder.exists()


class _SilentGrid(InProcessGrid):
    """Takes messages and gives no reply, as a grid whose engine is dead."""

    def pull_messages(self, message_ids: Any) -> list[Message]:
        """No reply ever comes."""
        return []


def test_a_wait_for_replies_ends_when_the_engine_has_died_and_at_its_deadline() -> None:
    stop = threading.Event()
    grid = StoppableGrid(_SilentGrid(ClientApp(), num_nodes=1, run_config={}), stop)
    message = Message(RecordDict(), dst_node_id=2, message_type="query.popularity", group_id="1")
    assert list(grid.send_and_receive([message], timeout=0.3)) == []
    ended: list[BaseException] = []

    def wait() -> None:
        try:
            grid.send_and_receive([message], timeout=None)
        except _Stopped as error:
            ended.append(error)

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    stop.set()
    waiting.join(timeout=60)
    assert not waiting.is_alive() and len(ended) == 1
    with pytest.raises(_Stopped):
        grid.get_node_ids()


def _run_with(engine: Callable[[ServerApp], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a server app that asks for nodes until it is stopped, on an engine of the test's own in Ray's place."""
    rounds = ServerApp()

    @rounds.main()
    def main(grid: Grid, context: Context) -> None:
        """Asks until the engine has died."""
        while True:
            grid.get_node_ids()

    monkeypatch.setattr("flwr.simulation.run_simulation", lambda *, server_app, **_: engine(server_app))
    run_on_flower(rounds, ClientApp(), num_nodes=1, run_config={"run.out": "runs/one"}, start_seconds=60.0)


def _serving(server_app: ServerApp) -> None:
    """Starts the server app in a thread of its own, as Flower does."""
    grid = InProcessGrid(ClientApp(), num_nodes=1, run_config={})
    threading.Thread(target=serve, args=(server_app, grid), daemon=True).start()


@pytest.mark.parametrize("error", [RuntimeError("the raylet has died"), SystemExit(1), None])
def test_an_engine_that_dies_in_the_middle_of_a_run_is_one_line_that_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, error: BaseException | None
) -> None:
    began = threading.Event()
    monkeypatch.setattr(InProcessGrid, "get_node_ids", lambda self: began.set() or [2])

    def engine(server_app: ServerApp) -> None:
        _serving(server_app)
        assert began.wait(60)
        if error is not None:
            raise error

    with pytest.raises(EngineFailed) as caught:
        _run_with(engine, monkeypatch)
    cause = {RuntimeError: "RuntimeError (the raylet has died)", SystemExit: "SystemExit (1)"}
    assert str(caught.value) == (
        f"Flower's engine died in the middle of the run: {cause.get(type(error), 'it ended by itself')}. What was finished "
        "is kept; continue with: tacit simulate --resume runs/one"
    )


def test_an_engine_that_cannot_start_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def engine(_: ServerApp) -> None:
        raise OSError("no socket")

    with pytest.raises(EngineFailed, match=r"^Flower's engine could not start: OSError \(no socket\)\. Try --engine cohort"):
        _run_with(engine, monkeypatch)
