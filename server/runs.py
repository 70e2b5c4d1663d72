"""The runs of a deployment: published facts, a run's beginning, what an operator sees of it, and its end.

A run's folder is that of a simulation's, so that it is reported, exported and audited alike. What never lives here: what a
run does (`deployment.py`).
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from server.event_log import EventLog
from server.flower_commands import FlowerFailed, connection, flower
from server.home import ServerHome
from server.provisioning.departures import departures
from server.provisioning.members import members
from server.provisioning.members import warnings as expiry_warnings
from server.run_state import FILE as STATE
from server.run_state import OPEN, RunState, read_state, write_state, write_stopped
from server.settings import read_settings
from shared import running
from shared.bundle import bundle_files
from shared.errors import ConfigError
from shared.files import write_atomically, write_json
from shared.folder_claim import new_folder
from shared.privacy.population import PublicSize
from shared.run_file import IN_BUNDLE
from shared.run_folder import CATALOG, EVENTS, POPULATION

if TYPE_CHECKING:
    from server.terms import Terms
    from shared.run_file import RunFile

_LOOK_SECONDS = 1.0


def publish_facts(home: ServerHome, catalog: Path, *, users: int, nodes: int) -> dict[str, Any]:
    """Writes the catalog and the declared sizes.

    Args:
        home: Of the server.
        catalog: A table with columns item and text. (public)
        users: Of all nodes together, declared. (public)
        nodes: At most. (public)

    Raises:
        ConfigError: If the folder is no server's, or there are more nodes than users.
        DataError: If the catalog cannot be used.
    """
    from shared.data.readers.tabular import read_public_items

    read_settings(home)
    if nodes > users:
        raise ConfigError(
            f"Expected --nodes to be at most --users, got nodes={nodes}, users={users}. Every node has a user."
        )
    found = read_public_items(catalog)
    size = PublicSize(users, nodes)
    home.federation.mkdir(parents=True, exist_ok=True)
    found.save(home.federation / CATALOG)
    write_json(
        home.federation / "population.json", {"population": size.users, "clients": size.clients, "num_clients": size.clients}
    )
    return {"items": found.num_items, "catalog": found.digest, "users": users, "nodes": nodes}


def begin(home: ServerHome, config: Path | None, *, now: int, continues: str = "") -> dict[str, Any]:
    """Starts a run.

    Args:
        home: Of the server.
        config: `federation.toml`, or a signed run file of this server.
        now: Seconds since 1970.
        continues: Name of a finished run that a run of `federation.toml` continues.

    Raises:
        ConfigError: If a setting is wrong, the file is not this server's, or the run that is continued is not finished.
        FlowerFailed: If the SuperLink cannot be reached; no folder is left.
    """
    from server.proposal import catalog_of, folder_of, read_run

    if config is None:
        raise ConfigError("Expected a configuration or --resume NAME, got neither. Write federation.toml.")
    _verify_running(home)
    run = read_run(home, config) if config.suffix == ".json" else proposed(home, config, now=now, continues=continues)
    catalog = catalog_of(home, folder_of(home, run.continues) if run.continues else None)
    if (home.runs / run.name).exists():
        raise ConfigError(
            f"Expected a name that no run of this server has, got name={run.name} again. Go on with that run by `tacit "
            f"server run --resume {run.name}`, or choose another name in [proposal]."
        )
    with new_folder(home.runs / run.name) as run_dir:
        try:
            run.document.write(run_dir / IN_BUNDLE)
            catalog.save(run_dir / POPULATION / CATALOG)
            write_state(run_dir, "proposed")
            return _started(home, run_dir, run)
        except BaseException:
            if not (run_dir / EVENTS).exists():  # nothing was asked of anybody
                shutil.rmtree(run_dir, ignore_errors=True)
            raise


def proposed(home: ServerHome, config: Path, *, now: int, continues: str) -> RunFile:
    """Makes and signs a proposal, of a run that continues another one if that is named.

    Raises:
        ConfigError: As `begin`.
    """
    from server.proposal import proposal_of

    if not continues:
        return proposal_of(home, config, now=now)
    run_dir = _run_dir(home, continues)
    state = read_state(run_dir)
    if state is None or state.state != "finished":
        raise ConfigError(
            f"Expected a finished run to continue, got state={'none' if state is None else state.state}. Let it finish, or "
            "go on with it by `tacit server run --resume`."
        )
    return proposal_of(home, config, now=now, continues=run_dir)


def resumed(home: ServerHome, name: str, terms: Terms) -> dict[str, Any]:
    """Goes on with a run that was interrupted.

    Args:
        home: Of the server.
        name: Of the run.
        terms: What is changed from now on.

    Raises:
        ConfigError: If there is none, it is finished, it is going on, or its plan does not allow the change.
    """
    from server.proposal import run_in
    from server.terms import UNCHANGED

    run_dir = _run_dir(home, name)
    _verify_running(home)
    _note_what_flower_says(home, run_dir)
    state = read_state(run_dir)
    never_started = state is not None and state.state == "proposed" and not state.flower_run
    if state is None or not (state.resumable or never_started):
        found = "none" if state is None else state.state
        raise ConfigError(f"Expected a run that was interrupted, got state={found}. `tacit server status` lists all runs.")
    run = run_in(home, run_dir)
    terms.verify(run.plan)
    if terms != UNCHANGED:
        terms.write(run_dir)
    return _started(home, run_dir, run)


def stop(home: ServerHome, name: str) -> dict[str, Any]:
    """Stops a run.

    Raises:
        ConfigError: If there is none, or it has ended.
    """
    run_dir = _run_dir(home, name)
    state = read_state(run_dir)
    if state is None or state.state not in ("proposed", *OPEN):
        raise ConfigError(
            f"Expected a run that is going on, got {name}, which is not. `tacit server status` lists all runs."
        )
    _verify_running(home)
    flower(home, "stop", state.flower_run, connection())
    write_stopped(run_dir)
    return _shown(run_dir)


def waited(home: ServerHome, begun: dict[str, Any]) -> dict[str, Any]:
    """Waits until a run has ended."""
    run_dir = _run_dir(home, begun["run"])
    while True:
        found = _shown(run_dir)
        if found["state"] == "proposed":
            _note_what_flower_says(home, run_dir)
        elif found["state"] not in OPEN:
            return found
        time.sleep(_LOOK_SECONDS)


def overview(home: ServerHome, *, now: int) -> dict[str, Any]:
    """What an operator sees: the server, its nodes, its runs."""
    read_settings(home)
    folders = sorted(home.runs.iterdir(), key=lambda path: path.stat().st_mtime) if home.runs.is_dir() else []
    for folder in folders:
        state = read_state(folder)
        if state is not None and state.state == "proposed" and running.process(home.running):
            _note_what_flower_says(home, folder)
    return {
        "running": running.process(home.running) is not None,
        "nodes": {member.name: member.state(now) for member in members(home)},
        "left": {one.node: sum(run.contributions for run in one.runs) for one in departures(home)},
        "warnings": expiry_warnings(home, now=now),
        "runs": [_shown(folder) for folder in folders if (folder / STATE).exists()],
    }


def events(home: ServerHome, name: str, *, follow: bool) -> Iterator[dict[str, Any]]:
    """What happened in a run; with `follow` until it has ended."""
    run_dir, shown = _run_dir(home, name), 0
    while True:
        state = read_state(run_dir)
        found = EventLog(run_dir / EVENTS).read()
        yield from found[shown:]
        shown = len(found)
        if not follow or state is None or (state.state not in OPEN and state.state != "proposed"):
            return
        time.sleep(_LOOK_SECONDS)


def in_words(event: dict[str, Any]) -> str:
    """An event on one line."""
    fields = " ".join(
        f"{name}={_short(value)}" for name, value in event.items() if name != "event" and value not in (None, [])
    )
    return f"{event['event']} {fields}".strip()


def _verify_running(home: ServerHome) -> None:
    """Passes while the server runs.

    Raises:
        ConfigError: If the folder is no server's.
        FlowerFailed: If it does not run.
    """
    read_settings(home)
    if running.process(home.running) is None:
        raise FlowerFailed("Expected the server to run, found it ended or not ready. Start it with `tacit server start`.")


def _started(home: ServerHome, run_dir: Path, run: RunFile) -> dict[str, Any]:
    bundle = run_dir / "bundle"
    for name, content in bundle_files(run).items():
        _write(bundle / name, content if isinstance(content, bytes) else content.encode())
    found = flower(home, "run", str(bundle), connection(), "--run-config", f'folder="{run_dir.name}"')
    state = read_state(run_dir)
    if state is None or state.state not in OPEN:  # the app may be faster than this command
        write_state(run_dir, "proposed", flower_run=str(found["run-id"]))
    return _shown(run_dir)


def _note_what_flower_says(home: ServerHome, run_dir: Path) -> None:
    """A run whose app never came to work has ended as Flower says."""
    state = read_state(run_dir)
    if state is None or state.state != "proposed" or not state.flower_run:
        return
    try:
        listed = flower(home, "list", connection(), "--run-id", state.flower_run)["runs"]
    except FlowerFailed:
        return
    said = str(listed[0]["status"]) if listed else "unknown"
    now = read_state(run_dir)
    if said.startswith("finished") and now is not None and now.state == "proposed":
        details = " ".join(str(listed[0].get("status-details") or "").split())[:300]
        write_state(run_dir, "failed", reason=f"Flower ended it before it began ({said}). {details}".strip())


def _shown(run_dir: Path) -> dict[str, Any]:
    state = read_state(run_dir) or RunState("failed", "Its state.json is damaged.", 0, 0, "")
    progress, answered, reasons = _progress(run_dir)
    return {
        "run": run_dir.name,
        "state": state.state,
        "reason": state.reason,
        "since": time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(state.at)),
        "progress": progress,
        "answered": answered,
        "waits_because": reasons if state.state in OPEN else [],
        "folder": str(run_dir),
        "flower_run": state.flower_run,
    }


def _progress(run_dir: Path) -> tuple[str, str, list[str]]:
    """The last thing that was asked for, how many have answered it, and why nodes that are waited for are not ready."""
    asked, answered, reasons = "", "", list[str]()
    for event in EventLog(run_dir / EVENTS).read():
        kind = event["event"]
        if kind == "waiting":
            asked = f"waiting for nodes, {event['nodes_ready']} of {event['nodes_needed']} are ready"
            answered, reasons = "", event["reasons"]
        if kind == "asked":
            number = event.get("round_number", 0)
            asked = f"{event['purpose']} {number}" if number else str(event["purpose"])
            answered, reasons = "", []
        if kind == "received":
            answered = str(len(event["replies"]))
        answered = str(event.get("clients_answered", event.get("survivors", answered)))
        if "stage" in event:
            answered = f"{answered} in stage {event['stage']}"
    return asked, answered, reasons


def _run_dir(home: ServerHome, name: str) -> Path:
    path = home.runs / name
    if Path(name).name != name or not path.is_dir():
        raise ConfigError(
            f"Expected the name of a run, got another. `tacit server status` lists the runs in {home.path.name}/."
        )
    return path


def _short(value: Any) -> str:
    if isinstance(value, list) and any(isinstance(one, dict) for one in value):
        return str(len(value))
    text = json.dumps(value) if not isinstance(value, str) else value
    return text if len(text) <= 120 else f"{text[:117]}..."


def _write(path: Path, content: bytes) -> None:
    write_atomically(path, lambda stream: stream.write(content))
