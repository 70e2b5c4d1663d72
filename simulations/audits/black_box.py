"""Synthetic users, black box: can canaries be told from what the twin's recommender recommends, and from nothing else?

The twin's recommender was made from real users too, under noise of its own. What is said about it would be one more release,
which no ledger was charged for: this is a research record, stamped NOT PRIVATE, and no part of the signed audit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from shared.audit import membership, one_run
from shared.audit.gate import LEVEL
from shared.audit.judgment import claimed_against, planned, views_of
from shared.files import write_json
from shared.privacy.statement import Statement

BLACK_BOX: Final = "audit-black-box.json"
STAMP: Final = "NOT PRIVATE: measured on a copy of the run whose releases are in nobody's ledger. Do not publish."


def write_black_box(
    run_dir: Path, statement: Statement, scores: NDArray[np.float64], included: NDArray[np.bool_]
) -> dict[str, Any] | None:
    """Writes what the recommender alone gives away, beside the claim against outsiders.

    Args:
        run_dir: The run's folder.
        statement: What is claimed. (public)
        scores: (m,) of the canaries.
        included: (m,), their coins.

    Returns:
        What was written; None where nothing is claimed against outsiders.
    """
    if "outsider" not in views_of(statement).get("sums", ()):
        return None
    guesses = planned(statement, ("outsider",), canaries=len(scores))
    area = membership.area(scores[included], scores[~included]) if included.any() and not included.all() else None
    held = {
        "stamp": STAMP,
        "canaries": len(scores),
        "claimed": claimed_against(statement, ("outsider",)),
        "area": None if area is None else vars(area),
        "lower_bounds": {
            method: one_run.lower_bound(
                method,
                statement.delta,
                canaries=len(scores),
                guessed=one_run.guess(scores, included, guesses=number),
                level=LEVEL,
            )
            for method, number in guesses.items()
        },
    }
    write_json(run_dir / BLACK_BOX, held)
    return held
