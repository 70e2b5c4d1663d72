"""`[data]` of `node.toml`: what a node's owner says about the interactions, and the database that follows from it.

What lives here: the settings, and where database and key lie in the node's folder. What never does: a setting of a run,
which a server proposes.

    [data]
    name = "shop-17"         # to which the ledger is bound
    retention_days = 365     # how long interactions are kept, from their own time on; 0: for ever
    encryption = true        # user ids, item ids and times are encrypted; the key is keys/data.key
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from client.home import NodeHome
from client.ledger.limits import verify_data_name
from client.store.encryption import read_key, write_key
from client.store.interactions import InteractionStore
from client.store.population import DATA_NAME
from shared.config.loading import read_toml
from shared.errors import ConfigError

_LONGEST_DAYS = 100_000


class DataSettings(BaseModel):
    """What the owner says about the interactions; no other key is taken."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str = Field(DATA_NAME, description="The owner's name for the data, to which the ledger is bound.")
    retention_days: int = Field(
        0, ge=0, le=_LONGEST_DAYS, description="How long interactions are kept, from their own time on; 0: for ever."
    )
    encryption: bool = Field(False, description="Encrypt user ids, item ids and times in the database.")


def data_settings(home: NodeHome) -> DataSettings:
    """`[data]` of `node.toml`; the defaults where there is none.

    Raises:
        ConfigError: If the file is no TOML, or a key or value is wrong.
    """
    found: Any = read_toml(home.settings).get("data", {}) if home.settings.exists() else {}
    try:
        settings = DataSettings.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(("data", *(str(part) for part in first["loc"])))
        raise ConfigError(
            f"Expected {key} in {home.settings.name} to be name (text), retention_days (whole number from 0 to "
            f"{_LONGEST_DAYS}) or encryption (true or false), got something else: {first['msg']}. Correct it."
        ) from None
    verify_data_name(settings.name)
    return settings


def data_key(home: NodeHome, settings: DataSettings) -> bytes | None:
    """What the database is encrypted with; None where it is in clear. (private)

    Raises:
        ConfigError: If the key's file is missing or cannot be used.
    """
    return read_key(home.data_key) if settings.encryption else None


def open_store(home: NodeHome, *, clock: Callable[[], float] = time.time) -> InteractionStore:
    """The interactions of a node, whose database must exist.

    Args:
        home: The node's folder.
        clock: The time, in seconds since 1970.

    Raises:
        ConfigError: If `node.toml` or the key is wrong.
        StoreUnavailable: If the database cannot be used.
    """
    store = _store(home, clock)
    store.verify()
    return store


def make_store(home: NodeHome, *, clock: Callable[[], float] = time.time) -> InteractionStore:
    """The same, made where it is missing, with a new key if it is to be encrypted.

    Raises:
        ConfigError: If `node.toml` or the key is wrong.
        StoreUnavailable: If the database cannot be made or used.
    """
    if data_settings(home).encryption and not home.interactions.exists():
        write_key(home.data_key)
    store = _store(home, clock)
    store.create()
    return store


def _store(home: NodeHome, clock: Callable[[], float]) -> InteractionStore:
    settings = data_settings(home)
    return InteractionStore(
        home.interactions, secret=data_key(home, settings), retention_days=settings.retention_days, clock=clock
    )
