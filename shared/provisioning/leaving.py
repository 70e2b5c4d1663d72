"""The statement with which a node leaves its federation: signed by the node, and true as far as the node is.

What lives here: its fields, which both ends read alike. What never does: who may leave, and what follows from it
(`client/node/leaving.py`, `server/provisioning/departures.py`).
"""

from __future__ import annotations

from typing import Final

from pydantic import Field

from shared.provisioning.fields import Fields, Moment, Name

KIND: Final = "statement of leaving"


class OfRun(Fields):
    """What a node contributed to one run.

    Attributes:
        run: Digest of the run file.
        name: Of the run; empty where its run file is gone.
        purpose: Of the run, likewise.
        state: What the owner had decided about it.
        contributions: How many the node's guard let out.
    """

    run: str = Field(pattern=r"^[0-9a-f]{64}$")
    name: str = Field(max_length=200)
    purpose: str = Field(max_length=2000)
    state: str = Field(max_length=40)
    contributions: int = Field(ge=0)


class Statement(Fields):
    """What a node says when it leaves.

    Attributes:
        node: Its name.
        left_at: When.
        runs: All runs that it knew, and all that it contributed to.
        epsilon: What the account that spent most has spent, without amplification by sampling; None where nothing was.
        log_head: The hash of the last line of its log, which vouches for all before it.
    """

    node: Name
    left_at: Moment
    runs: tuple[OfRun, ...] = Field(strict=False, max_length=10_000)
    epsilon: float | None = Field(ge=0)
    log_head: str = Field(max_length=64)
