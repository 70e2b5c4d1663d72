"""Versions of everything that can change a result."""

from __future__ import annotations

import hashlib
import platform
from functools import lru_cache
from importlib import metadata
from pathlib import Path

_PACKAGES = (
    "tacit",
    "torch",
    "flwr",
    "opacus",
    "transformers",
    "peft",
    "dp-accounting",
    "numpy",
    "polars",
    "cryptography",
)


# With simulations, which play the clients of runs and of their twins.
_EVERYTHING = ("client", "server", "shared", "simulations")


@lru_cache
def code_digest(*packages: str) -> str:
    """SHA-256, hex, over the code of some of Tacit's packages, file by file, as it is installed; read once a process.

    Args:
        packages: Their names; all by default.
    """
    root, found = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(path for package in packages or _EVERYTHING for path in (root / package).rglob("*.py")):
        found.update(path.relative_to(root).as_posix().encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


def versions() -> dict[str, str]:
    """Python's version and those of the packages, by name."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed as a package"
    return found
