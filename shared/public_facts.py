"""`PublicFacts`: all that a server knows of a population, and hands out: constants and the catalog.

A plan, the sizes of all messages and the model follow from these and from the configuration, on both sides alike. What never
lives here: how many users there really are, and which.
"""

from __future__ import annotations

from dataclasses import dataclass

from shared.data.catalog import ItemCatalog
from shared.privacy.population import PublicSize


@dataclass(frozen=True)
class PublicFacts:
    """What is public about a population.

    Attributes:
        size: Users and clients, as public constants.
        catalog: The items.
    """

    size: PublicSize
    catalog: ItemCatalog
