"""A file of interactions and the command line in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests import running


@pytest.fixture
def interactions(tmp_path: Path) -> Path:
    return running.write_interactions(tmp_path / "interactions.csv")


@pytest.fixture
def tacit(capsys: pytest.CaptureFixture[str]) -> Callable[..., running.Outcome]:
    """Runs a command: `tacit("simulate", "--rounds", 2)`."""
    return lambda *arguments: running.run_tacit(capsys, *arguments)
