"""The examples run as they stand, each in a process of its own, and say what a person wants to see."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.running import ROOT

EXAMPLES = ROOT / "simulations" / "examples"
SAID = {
    "first_federation.py": ("epsilon 8.00", "NDCG@10 of item-kNN 0.", "Recommended:\n1. ", "report.html"),
    "what_epsilon_costs.py": ("epsilon 0.5: noise multiplier ", "epsilon inf: NDCG@10 0.", "ndcg@10.difference"),
    "own_data.py": ("400 users", "genres in a list: ", "a western"),
}


# The longest examples are soak tests.
_LONG = ("what_epsilon_costs.py", "own_data.py")
_RUN = [pytest.param(name, marks=pytest.mark.soak) if name in _LONG else name for name in SAID]


@pytest.mark.parametrize("name", _RUN)
def test_an_example_runs_as_it_stands(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)],
        capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [words for words in SAID[name] if words not in done.stdout] == []


def test_every_example_is_tested_and_short() -> None:
    scripts = {path.name: path.read_text(encoding="utf-8") for path in EXAMPLES.glob("*.py") if path.name != "__init__.py"}
    assert scripts.keys() == SAID.keys()
    assert all(len(text.splitlines()) < 60 for text in scripts.values())
