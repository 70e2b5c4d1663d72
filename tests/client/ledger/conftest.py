"""A ledger of its own for a test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from client.ledger.ledger import Ledger
from tests.ledgers import BINDING


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the ledger of a test is."""
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    """A ledger without events."""
    ledger = Ledger(path, binding=BINDING)
    yield ledger
    ledger.close()
