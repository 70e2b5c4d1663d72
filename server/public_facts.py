"""What the server knows of a population: public facts, and for how many nodes to wait."""

from __future__ import annotations

import json
from pathlib import Path

from shared.data.catalog import ItemCatalog
from shared.errors import DataError
from shared.privacy.population import PublicSize
from shared.public_facts import PublicFacts


def public_facts(folder: Path) -> tuple[PublicFacts, int]:
    """The public facts of a population folder, of which nothing else is read, and its number of clients as it is.

    Args:
        folder: As `simulations/population.py` wrote it.

    Returns:
        The facts (public), and the number of nodes (private where every user is a client).

    Raises:
        DataError: If the folder is not a population.
    """
    try:
        facts = json.loads((folder / "population.json").read_text(encoding="utf-8"))
        size, num_nodes = PublicSize(int(facts["population"]), int(facts["clients"])), int(facts["num_clients"])
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"Expected a population in {folder.name}/, could not read population.json "
            f"({type(error).__name__}). Write it again with `tacit data partition`, or on a server with "
            "`tacit server publish`."
        ) from None
    return PublicFacts(size, ItemCatalog.load(folder / "catalog.parquet")), num_nodes
