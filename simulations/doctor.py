"""What this machine has and lacks: versions, device, weights and their checksum, disk, and how to mend it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

from shared.errors import TacitError
from simulations.backbone_check import examine_backbone

_NEEDED = (
    "torch", "flwr", "opacus", "transformers", "peft", "dp-accounting", "numpy", "polars", "pydantic",
)  # fmt: skip
_DISK_BYTES = 2 * 1024**3
_MEMORY_BYTES = 4 * 1024**3


def examine(backbone: str | None = None) -> list[dict[str, Any]]:
    """Runs every check.

    Args:
        backbone: A backbone to look into; None checks the default one's weights.

    Returns:
        Rows with name, value, ok (None where it is only said) and advice.
    """
    from shared.model.backbone import DEFAULT_BACKBONE, cache_folder

    checks = [_python(), *(_package(name) for name in _NEEDED), _device(), _cores(), _memory()]
    checks += [_weights(DEFAULT_BACKBONE)] if backbone is None else list(examine_backbone(backbone))
    checks += [_disk("disk here", Path.cwd()), _cache(cache_folder()), _ray()]
    return checks


def _check(name: str, value: str, ok: bool | None, advice: str = "") -> dict[str, Any]:
    return {"name": name, "value": value, "ok": ok, "advice": "" if ok else advice}


def _python() -> dict[str, Any]:
    good = sys.version_info[:2] == (3, 11)
    return _check("python", platform.python_version(), good, "Use Python 3.11.")


def _package(name: str) -> dict[str, Any]:
    try:
        return _check(name, metadata.version(name), True)
    except metadata.PackageNotFoundError:
        return _check(name, "missing", False, "Run `make install`.")


def _ray() -> dict[str, Any]:
    try:
        return _check("ray (only for --engine flower)", metadata.version("ray"), None)
    except metadata.PackageNotFoundError:
        return _check("ray (only for --engine flower)", "missing", None, "Install flwr[simulation].")


def _device() -> dict[str, Any]:
    try:
        import torch
    except ImportError:
        return _check("device", "unknown", False, "Run `make install`.")
    if torch.cuda.is_available():
        return _check("device", f"cuda: {torch.cuda.get_device_name(0)}", True)
    return _check("device", "cpu (no CUDA device found)", None)


def _cores() -> dict[str, Any]:
    return _check("cores", str(os.cpu_count()), None)


def _memory() -> dict[str, Any]:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return _check("memory", f"{total / 1024**3:.1f} GiB", total >= _MEMORY_BYTES, "The demo needs up to 4 GiB.")


def _weights(backbone: str) -> dict[str, Any]:
    from shared.model.backbone import load_backbone

    try:
        loaded = load_backbone(backbone)
    except TacitError as error:
        return _check("backbone", backbone, False, str(error))
    return _check("backbone", f"{backbone}, {loaded.num_layers} layers, sha256 {loaded.digest[:12]}...", True)


def _takes_files(folder: Path) -> bool:
    """Tries: permissions say nothing of a read-only file system, or of one that holds no files, such as /proc."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _cache(folder: Path | None) -> dict[str, Any]:
    """The cache is a convenience: without it every run encodes the item texts anew."""
    advice = "Item texts are encoded anew in every run; set TACIT_CACHE to a writable folder."
    if folder is None:
        return _check("disk of the cache", "no home folder", None, advice)
    found = _disk("disk of the cache", folder)
    return found if found["ok"] else _check(found["name"], found["value"], None, advice)


def _disk(name: str, folder: Path) -> dict[str, Any]:
    existing = next(parent for parent in (folder, *folder.absolute().parents) if os.access(parent, os.F_OK))
    free = shutil.disk_usage(existing).free
    writable = _takes_files(existing)
    value = f"{free / 1024**3:.1f} GiB free" + ("" if writable else ", read-only")
    return _check(name, value, writable and free >= _DISK_BYTES, "Free 2 GiB in a writable folder.")
