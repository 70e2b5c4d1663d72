"""What a server hands out, taken in by the node: the public catalog before a run, the released recommender after it.

Nothing is written that the owner's approval does not cover: a catalog has the digest that the run file names, a released
recommender consists of known files whose digests its manifest lists, and is of an approved run. Of what was received the
newest are kept.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from flwr.app import Message, RecordDict

from client.home import NodeHome
from client.provisioning import accept_roster
from shared.errors import ConfigError, DataError
from shared.files import write_atomically, write_json
from shared.folder_claim import publish
from shared.protocol.distribution import RELEASED_FILES, Offer, held_record
from shared.run_file import RunFile

_CATALOG_FILE = "catalog.parquet"
_ROSTER_FILE = "roster.json"
# The server sends a catalog again that is not here any more.
_KEPT_CATALOGS = 10
# Beside the recommender in use and the one before it.
_KEPT_RELEASED = 3


def catalog(home: NodeHome, run: RunFile, message: Message) -> RecordDict:
    """Keeps the catalog of a run; says whether it is here.

    Raises:
        ConfigError: If it is not the one that the run file names.
    """
    offer = Offer.from_message(message, "catalog")
    path = home.catalogs / f"{run.catalog_digest}.parquet"
    if offer.digest != run.catalog_digest:
        raise ConfigError("Expected the catalog that the run file names, got another one offered. Nothing was kept.")
    if not offer.files:
        return held_record(path.exists())
    if list(offer.files) != [_CATALOG_FILE]:
        raise ConfigError(f"Expected {_CATALOG_FILE} alone, got other files. Nothing was kept.")
    _verify_catalog(offer.files[_CATALOG_FILE], run)
    _write(path, offer.files[_CATALOG_FILE])
    for old in _newest_first(home.catalogs.glob("*.parquet"))[_KEPT_CATALOGS:]:
        old.unlink(missing_ok=True)
    return held_record(True)


def _verify_catalog(content: bytes, run: RunFile) -> None:
    from shared.data.catalog import ItemCatalog

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / _CATALOG_FILE
        path.write_bytes(content)
        try:
            found = ItemCatalog.load(path)
        except DataError:
            found = None
    if found is None or found.digest != run.catalog_digest or found.num_items != run.num_items:
        raise ConfigError("Expected the catalog that the run file names, got another. Nothing was kept.")


def roster(home: NodeHome, message: Message) -> RecordDict:
    """Takes over the server's roster: new nodes, prolonged keys, revocations.

    Raises:
        ConfigError: If it is not signed by the server, or gives an identity another key.
    """
    offer = Offer.from_message(message, "roster")
    if list(offer.files) != [_ROSTER_FILE]:
        raise ConfigError(f"Expected {_ROSTER_FILE} alone, got other files. Nothing was kept.")
    accept_roster(home, offer.files[_ROSTER_FILE])
    return held_record(True)


def released(home: NodeHome, run: RunFile, message: Message, *, now: int) -> RecordDict:
    """Keeps the recommender that a run released, in a folder of its own; says whether it is here.

    The folder has the layout of a run's folder, so that what opens a run opens it. Which one is used to recommend is decided
    by `client/recommendation.py`.

    Raises:
        ConfigError: If a file is unknown or differs from its manifest.
    """
    offer = Offer.from_message(message, "released recommender")
    folder = home.released / run.digest
    if offer.digest != run.digest:
        raise ConfigError("Expected what this run released, got another run's. Nothing was kept.")
    if not offer.files:
        return held_record((folder / "adapter" / "manifest.json").exists())
    _verify_files(offer.files, run)
    home.released.mkdir(parents=True, exist_ok=True)
    prepared = Path(tempfile.mkdtemp(dir=home.released, prefix=f".{run.digest}."))
    try:
        for name, content in offer.files.items():
            _write(prepared / "adapter" / name, content)
        write_json(prepared / "config.json", {key: str(value) for key, value in run.config.to_flat().items()})
        _write(prepared / "population" / _CATALOG_FILE, (home.catalogs / f"{run.catalog_digest}.parquet").read_bytes())
        write_json(prepared / "received.json", {"run": run.digest, "name": run.name, "received_at": now})
        if folder.exists():  # the same run again, after it was resumed
            shutil.rmtree(folder)
        publish(prepared, folder)
        _forget_old(home)
    finally:
        shutil.rmtree(prepared, ignore_errors=True)
    return held_record(True)


def _forget_old(home: NodeHome) -> None:
    """Deletes recommenders of old runs; the one in use and the one to go back to stay (`client/recommendation.py`)."""
    try:
        judged = json.loads((home.released / "judged.json").read_text(encoding="utf-8"))
        used = {*judged["used"][-2:], judged["current"]}
    except (OSError, ValueError, KeyError, TypeError):
        used = set()
    received = _newest_first(home.released.glob("*/received.json"))
    for old in received[_KEPT_RELEASED:]:
        if old.parent.name not in used:
            shutil.rmtree(old.parent, ignore_errors=True)


def _newest_first(paths: Iterable[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: -path.stat().st_mtime_ns)


def _verify_files(files: Mapping[str, bytes], run: RunFile) -> None:
    known = set(files) <= set(RELEASED_FILES) and "manifest.json" in files
    try:
        manifest = json.load(io.BytesIO(files.get("manifest.json", b"")))
        named = dict(manifest["files"])
        whole = set(named) == set(files) - {"manifest.json"} and manifest["catalog_digest"] == run.catalog_digest
    except (ValueError, KeyError, TypeError):
        named, whole = {}, False
    digests = all(hashlib.sha256(files[name]).hexdigest() == digest for name, digest in named.items() if name in files)
    if not (known and whole and digests):
        raise ConfigError(
            "Expected the files of a released recommender as its manifest names them, got others. Nothing was kept."
        )


def _write(path: Path, content: bytes) -> None:
    write_atomically(path, lambda stream: stream.write(content))
