"""What a run's folder holds: its configuration and its catalog, opened by whoever goes on from a run or reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from shared.config import RunConfig
from shared.data.catalog import ItemCatalog
from shared.errors import CheckpointError, ConfigError, TacitError
from shared.folder_claim import contents

CONFIG: Final = "config.json"
POPULATION: Final = "population"
CATALOG: Final = "catalog.parquet"
EVENTS: Final = "events.jsonl"
IDENTITIES: Final = "identities"
RECORD: Final = "run.json"
RELEASE: Final = "release.json"


def load_config(run_dir: Path) -> RunConfig:
    """The configuration that a run was started with.

    Raises:
        CheckpointError: If the folder holds no run.
    """
    try:
        values = json.loads((run_dir / CONFIG).read_text(encoding="utf-8"))
        return RunConfig.from_mapping(values, source="config.json")
    except (OSError, ValueError):
        raise CheckpointError(
            f"Expected a run in {run_dir}/, could not read its config.json. Give the folder that `tacit simulate` wrote."
        ) from None
    except TacitError as error:
        raise CheckpointError(f"The run in {run_dir}/ was written by another version. {error}") from None


def load_catalog(run_dir: Path) -> ItemCatalog:
    """The catalog of a run: in a simulation's own folder, else in the population that it names.

    Raises:
        DataError: If it is missing or damaged.
    """
    own = run_dir / POPULATION / CATALOG
    if own.exists():
        return ItemCatalog.load(own)
    elsewhere = load_config(run_dir).data.population if (run_dir / CONFIG).exists() else ""
    return ItemCatalog.load(Path(elsewhere) / CATALOG if elsewhere else own)


def check_unused(run_dir: Path, advice: str = "Name a new folder.") -> None:
    """Refuses a folder that holds something.

    Args:
        run_dir: The folder.
        advice: What to do instead, with the options of the command that asks.

    Raises:
        ConfigError: If it is not empty.
    """
    kept = [path for path in contents(run_dir) if path not in half_written(run_dir)]
    if kept or (run_dir.exists() and not run_dir.is_dir()):
        raise ConfigError(f"Expected an empty or new output directory, found other files in {run_dir.name}/. {advice}")


def half_written(run_dir: Path) -> list[Path]:
    """What a killed process left of the configuration or the clients' folder while it wrote them, under temporary names."""
    begins = (f".{CONFIG}.", f".{POPULATION}.")
    return [path for path in contents(run_dir) if path.name.startswith(begins)]
