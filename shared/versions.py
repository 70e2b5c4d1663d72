"""Versions of everything that can change a result."""

from __future__ import annotations

import platform
from importlib import metadata

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


def versions() -> dict[str, str]:
    """Python's version and those of the packages, by name."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed as a package"
    return found
