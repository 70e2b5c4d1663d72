"""The commands about a node's own interactions: `tacit node ingest`, `data`, `forget`, `prune` and `serve`.

Nothing heavy is imported at the top. What never lives here: anything that a server could call, and the database
(`client/store/`).
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from client.commands.options import Home
from shared.command_line.output import Json, print_json
from shared.errors import ConfigError, DataError, TacitError

if TYPE_CHECKING:
    from client.home import NodeHome
    from client.recommendation import OwnRecommender

_HOME = Path("~/.tacit/node")
# Between two looks for a recommender that was received meanwhile.
_LOOK_SECONDS = 5.0
_LEDGER = (
    "What this user's contributions spent stays in the ledger: forgetting neither takes them out of released models nor "
    "gives budget back."
)


def ingest(
    file: Annotated[str, typer.Argument(help="CSV, JSON lines or Parquet; - reads CSV or JSON lines from standard input.")],
    format: Annotated[
        Literal["auto", "csv", "parquet", "jsonl"], typer.Option("--format", help="auto goes by the name and first byte.")
    ] = "auto",
    columns: Annotated[str, typer.Option("--columns", help="Column map, e.g. 'user=uid,item=asin,timestamp=t'.")] = "",
    bad_rows: Annotated[
        Literal["refuse", "drop"],
        typer.Option("--bad-rows", help="drop: leave rows out whose ids or time cannot be read, and count them."),
    ] = "refuse",
    home: Home = _HOME,
    json: Json = False,
) -> None:
    """Add interactions to this node's own database.

    A file is added whole or not at all. The same interaction twice is one, so a file may be ingested again, whatever ended
    the command. Nothing is sent anywhere.
    """
    from client.store.ingest import ingest as ingested
    from client.store.settings import make_store

    store = make_store(_home(home))
    source = sys.stdin.buffer if file == "-" else Path(file)
    done = ingested(store, source, format=format, columns=columns, bad_rows=bad_rows)
    pruned = store.prune_if_due()
    value = {"rows": done.rows, **vars(done.added), "dropped": done.dropped, "pruned": pruned}
    if json:
        print_json(value)
        return
    told = {
        "added": "added",
        "known": "known already",
        "expired": f"older than retention_days={store.retention_days} (left out)",
        "dropped": "that cannot be used (left out)",
        "pruned": "kept longer than retention_days (deleted)",
    }
    counts = [f"{value[key]} {text}" for key, text in told.items() if value[key] or key == "added"]
    _say(f"Read {done.rows} rows: {', '.join(counts)}.")


def data(home: Home = _HOME, json: Json = False) -> None:
    """Show what this node's own database holds.

    Unknown items are counted for each catalog in the folder `catalogs`; a run leaves them out. All of this stays here.
    """
    from client.store.local import unknown_items
    from client.store.settings import data_settings, open_store
    from shared.data.catalog import ItemCatalog

    node = _home(home)
    settings = data_settings(node)
    value: dict[str, Any] = {
        "name": settings.name,
        "interactions": 0,
        "users": 0,
        "items": 0,
        "oldest": None,
        "newest": None,
        "bytes": 0,
        "encryption": "AES-SIV" if settings.encryption else "none",
        "retention_days": settings.retention_days,
        "unknown_items": {},
    }
    if node.interactions.exists():
        store = open_store(node)
        found = store.contents()
        catalogs = {path.stem: ItemCatalog.load(path) for path in sorted(node.catalogs.glob("*.parquet"))}
        value |= {
            "interactions": found.interactions,
            "users": found.users,
            "items": len(found.items),
            "oldest": _day(found.oldest),
            "newest": _day(found.newest),
            "bytes": store.bytes_on_disk(),
            "encryption": store.encryption,
            "unknown_items": {name: unknown_items(found, catalog) for name, catalog in catalogs.items()},
        }
    if json:
        print_json(value)
        return
    kept = f"{settings.retention_days} days" if settings.retention_days else "for ever"
    span = f", from {value['oldest']} to {value['newest']}" if value["interactions"] else ""
    _say(
        f"{value['name']}: {value['interactions']} interactions of {value['users']} users with {value['items']} items{span}."
    )
    _say(f"Size {value['bytes']} bytes; encryption {value['encryption']}; kept {kept}.")
    for name, count in value["unknown_items"].items():
        _say(f"Catalog {name[:12]} lacks the items of {count} interactions; its runs leave them out.")


def forget(user: Annotated[str, typer.Argument(help="Id of the user.")], home: Home = _HOME, json: Json = False) -> None:
    """Delete one user's interactions from this node, and overwrite them on the disk.

    What the user's contributions spent stays in the ledger. A later run trains without this user; models that were released
    before do not change.
    """
    from client.store.ingest import spelled
    from client.store.settings import open_store

    deleted = open_store(_home(home)).forget(spelled(user))
    if not deleted:
        raise DataError(
            "Expected a user of this node, found no interactions of that id. Nothing was deleted. Look at its spelling; "
            "after an interrupted `tacit node forget` this says that it is done."
        )
    if json:
        print_json({"deleted": deleted, "ledger": "unchanged"})
        return
    _say(
        f"Deleted {deleted} interactions, and overwrote them in the database's files. Copies elsewhere are yours to delete."
    )
    _say(_LEDGER)


def prune(home: Home = _HOME, json: Json = False) -> None:
    """Delete interactions older than `retention_days` of node.toml, and overwrite them on the disk.

    Also done once a day by `tacit node ingest` and `tacit node serve`.
    """
    from client.store.settings import open_store

    store = open_store(_home(home))
    if not store.retention_days:
        raise ConfigError(
            "Expected retention_days >= 1 in [data] of node.toml, got none. Nothing was deleted. Set it, then repeat."
        )
    deleted = store.prune()
    if json:
        print_json({"deleted": deleted, "retention_days": store.retention_days})
    else:
        _say(f"Deleted {deleted} interactions older than {store.retention_days} days.")


def serve(
    port: Annotated[
        int | None,
        typer.Option("--port", min=0, max=65535, help="Listen on loopback instead of a Unix socket; 0: any free port."),
    ] = None,
    host: Annotated[
        str, typer.Option("--host", help="With --port: 127.0.0.1 or ::1; any other address is refused.")
    ] = "127.0.0.1",
    socket: Annotated[
        Path | None,
        typer.Option("--socket", help="Unix socket, for this user alone; default: serve.sock in the node's folder."),
    ] = None,
    home: Home = _HOME,
    json: Json = False,
) -> None:
    """Serve applications of this machine: log interactions, ask for recommendations.

    On a port, requests need the token of keys/serve.token in the header `Authorization: Bearer TOKEN`. Other machines are
    never answered. It ends with Ctrl-C or SIGTERM.
    """
    from client import serving
    from client.store.settings import make_store

    if port is not None and socket is not None:
        raise ConfigError("Expected --port or --socket, got both. Choose one.")
    node = _home(home)
    store = make_store(node)
    if port is None:
        place, token = (socket or node.serving_socket).expanduser().absolute(), None
        listening = serving.on_unix_socket(place)
        said = {"socket": str(place)}
    else:
        token = serving.token_of(node.serving_token)
        listening = serving.on_loopback(host, port)
        address = f"[{host}]" if ":" in host else host
        said = {"url": f"http://{address}:{listening.getsockname()[1]}", "token_file": str(node.serving_token)}
    if json:
        print_json(said)
    else:
        _say(f"Listening on {' with the token of '.join(said.values())}. Ctrl-C ends it.")
    sys.stdout.flush()
    serving.serve(serving.application(store, recommend=_recommending(node), token=token), listening)


def _recommending(node: NodeHome) -> Callable[[str, int], Sequence[Mapping[str, Any]]]:
    """Recommends with what this node received.

    The model is loaded when an application asks first. From then on what is received is compared and opened beside the
    requests, which the former recommender answers meanwhile.
    """
    opened: list[OwnRecommender] = []
    first = threading.Lock()

    def keep_current(own: OwnRecommender) -> None:
        while True:
            time.sleep(_LOOK_SECONDS)
            with suppress(TacitError):  # the next request says it
                own.refresh()

    def recommend(user: str, k: int) -> Sequence[Mapping[str, Any]]:
        with first:
            if not opened:
                import torch

                from client.recommendation import OwnRecommender

                # One history gives a second thread nothing to do, and threads that wait take a core from the application.
                torch.set_num_threads(1)
                own = OwnRecommender(node)
                own.refresh()
                opened.append(own)
                threading.Thread(target=keep_current, args=opened, daemon=True).start()
        return opened[0].recommend(user, k)

    return recommend


def _home(folder: Path) -> NodeHome:
    from client.home import NodeHome

    return NodeHome(folder.expanduser().absolute())


def _day(seconds: int | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).date().isoformat()


def _say(text: str) -> None:
    print(text)  # noqa: T201
