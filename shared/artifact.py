"""The released recommender of a run: opened only after every digest.

Who asks it for items, who exports it and who goes on training it open it here. What never lives here: writing it
(`server/checkpoints.py`).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.config import RunConfig
from shared.data.catalog import ItemCatalog
from shared.errors import CheckpointError
from shared.model.recommender import Recommender, build_from_saved
from shared.model.statistics import FILE as STATISTICS
from shared.model.statistics import Statistics
from shared.run_folder import load_catalog, load_config

_DIGESTS = frozenset({"backbone_digest", "catalog_digest"})
_RELEASED = frozenset({"adapter_config.json", "adapter_model.safetensors", "prior.safetensors"})


@dataclass(frozen=True, eq=False)
class Artifact:
    """What a run released. (public)

    Attributes:
        recommender: With the released state loaded.
        manifest: What the run says of it.
    """

    recommender: Recommender
    manifest: dict[str, Any]


def open_artifact(run_dir: Path, config: RunConfig, catalog: ItemCatalog) -> Artifact:
    """Builds the recommender of a finished run from its files alone.

    Args:
        run_dir: The run's folder.
        config: Of the run. (public)
        catalog: Of the run. (public)

    Raises:
        CheckpointError: If a file is missing, damaged, or belongs to another backbone or catalog.
    """
    from safetensors.numpy import load_file

    folder = run_dir / "adapter"
    manifest = read_manifest(run_dir)
    recommender = build_from_saved(config, catalog, folder)
    if manifest["backbone_digest"] != recommender.backbone_digest or manifest["catalog_digest"] != catalog.digest:
        raise CheckpointError(
            "Expected the adapter's own backbone and catalog, got others. Use the run folder as it was written."
        )
    recommender.attached.model.set_log_prior(load_file(folder / "prior.safetensors")["log_prior"])
    if STATISTICS in manifest["files"]:
        recommender.attached.model.set_statistics(Statistics.from_tensors(load_file(folder / STATISTICS)))
    return Artifact(recommender, manifest)


def read_manifest(run_dir: Path) -> dict[str, Any]:
    """The manifest, after every file that it names has been compared with its checksum.

    Raises:
        CheckpointError: If there is none, or a file differs.
    """
    folder = run_dir / "adapter"
    path = folder / "manifest.json"
    if not path.is_file():
        raise CheckpointError(
            f"Expected a released adapter in {folder}/, found none. Finish the run with: tacit simulate --resume {run_dir}"
        )
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        named = dict(manifest["files"])
        complete = _DIGESTS.issubset(manifest) and _RELEASED.issubset(named)
    except (OSError, ValueError, KeyError, TypeError):
        complete = False
    if not complete:
        raise CheckpointError(f"Expected a whole manifest.json in {folder}/, found a damaged one. Restore the folder.")
    for name, digest in named.items():
        file = folder / Path(name).name
        if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != digest:
            raise CheckpointError(
                f"Expected {file.name} as the manifest names it, got another file. Restore the adapter folder."
            )
    return manifest


def load_recommender(run_dir: Path) -> Recommender:
    """Builds the recommender of a finished run from its files alone.

    Raises:
        CheckpointError: If a file is missing, damaged, or belongs to another backbone or catalog.
    """
    return open_artifact(run_dir, load_config(run_dir), load_catalog(run_dir)).recommender
