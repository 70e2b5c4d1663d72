"""Linkage across releases: do popularity, pairs, transitions and adapter together give away two items of one user?

A canary has two items that no other canary has together. The adversary has the recommender that the twin would release,
knows the real users' exact popularity, and asks of each part how much it says about the two items: the popularity of both,
the pair's factors, the transition and the adapter from the first to the second. It then weighs the parts together, as
learned from half of the canaries, whose coins it is told, and guesses the other half. The claim against outsiders is the
composition of all releases, so it bounds the parts together; a part alone, or all of them, above it would refute it.

The twin's recommender is in nobody's ledger: a research record, stamped NOT PRIVATE, and no part of the signed audit.

Source:
    Fisher 1936, "The Use of Multiple Measurements in Taxonomic Problems", for the weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from shared.audit import one_run
from shared.audit.gate import level_of_each
from shared.audit.judgment import claimed_against, views_of
from shared.audit.membership import Rate, area, clopper_pearson
from shared.files import write_json
from shared.privacy.statement import Statement
from simulations.audits.views import unusual

Floats = NDArray[np.float64]
Coins = NDArray[np.bool_]

LINKAGE: Final = "audit-linkage.json"
STAMP: Final = "NOT PRIVATE: measured on a copy of the run whose releases are in nobody's ledger. Do not publish."
TOGETHER: Final = "together"
# A pair is recovered where the second item is among so many that a part ranks first after the first item.
FIRST: Final = 10
# Parts of `Recommender.score_parts` that depend on both items.
_OF_PAIRS = {"pairs": 2, "transitions": 3, "adapter": 4}
# Canaries of either coin in either half, that anything is learned from or said about.
_FEWEST = 5


@dataclass(frozen=True, eq=False)
class Linked:
    """What one part of a recommender says about the canaries.

    Attributes:
        scores: (m,), larger where the canary seems to be in.
        ranks: (m,) of the second item after the first, from 0; None where the part ranks nothing by the first.
    """

    scores: Floats
    ranks: NDArray[np.int64] | None = None


def linked_evidence(
    parts: NDArray[np.float32],
    place: NDArray[np.int64],
    pairs: NDArray[np.int64],
    *,
    counts: Floats,
    log_prior: NDArray[np.float32],
) -> dict[str, Linked]:
    """Reads each part of a recommender at the canaries' two items.

    Args:
        parts: (5, F, I), as of `Recommender.score_parts`, after each of some items alone.
        place: (m,) which of the F is a canary's first item.
        pairs: (m, 2) a canary's items.
        counts: (I,) exact popularity of all other users, which the adversary knows; empty where none is released.
        log_prior: (I,) of the recommender.

    Returns:
        Only parts that say anything.
    """
    found: dict[str, Linked] = {}
    if len(counts):
        more = np.asarray(log_prior, dtype=np.float64) - np.log(np.maximum(counts, 0.0) + 1.0)
        found["popularity"] = Linked(more[pairs].sum(axis=1))
    for name, number in _OF_PAIRS.items():
        if not parts[number].any():
            continue
        scores = unusual(parts[number].astype(np.float64))
        own = scores[place, pairs[:, 1]]
        found[name] = Linked(own, np.array([(scores[row] > value).sum() for row, value in zip(place, own, strict=True)]))
    return found


def write_linkage(
    run_dir: Path,
    statement: Statement,
    parts: Mapping[str, Linked],
    included: Coins,
    *,
    frontier: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Writes what each part gives away, and all together, about the same half of the canaries.

    Args:
        run_dir: The run's folder.
        statement: What is claimed. (public)
        parts: By name.
        included: (m,), the canaries' coins.
        frontier: The same at other epsilons (`linkage_frontier.py`).

    Returns:
        What was written; without lower bounds where nothing is claimed against outsiders.
    """
    held = {"stamp": STAMP, **linkage(statement, parts, included), "frontier": list(frontier)}
    write_json(run_dir / LINKAGE, held)
    return held


def linkage(statement: Statement, parts: Mapping[str, Linked], included: Coins) -> dict[str, Any]:
    """What parts give away, as a record holds it: `rows`, or why there are none; arguments as in `write_linkage`."""
    learn = np.arange(len(included)) % 2 == 0
    held: dict[str, Any] = {"canaries": int((~learn).sum()), "rows": []}
    fewest = min(int((included[half] == coin).sum()) for half in (learn, ~learn) for coin in (True, False))
    if not parts or fewest < _FEWEST:
        held["skipped"] = "The run releases no part." if not parts else f"Fewer than {_FEWEST} canaries are in, or out."
        return held
    scores = {name: part.scores for name, part in parts.items()}
    scores[TOGETHER] = _together(np.stack(list(scores.values()), axis=1), included, learn=learn)
    claims = "outsider" in views_of(statement).get("sums", ())
    claimed = claimed_against(statement, ("outsider",)) if claims else None
    held["claimed"] = claimed
    tests, asked = len(scores) * len(one_run.METHODS), included[~learn]
    for name, values in scores.items():
        own, ranks = values[~learn], parts[name].ranks if name in parts else None
        row: dict[str, Any] = {"part": name, "area": vars(area(own[asked], own[~asked]))}
        if ranks is not None:
            row["recovered"] = vars(_share(ranks[~learn][asked] < FIRST))
            row["recovered_without"] = vars(_share(ranks[~learn][~asked] < FIRST))
        if claimed is not None:
            row["lower_bounds"] = _bounds(own, asked, claimed, statement.delta, level=level_of_each(tests))
        held["rows"].append(row)
    return held


def _together(columns: Floats, included: Coins, *, learn: Coins) -> Floats:
    """Fisher's discriminant, learned from one half; (m,)."""
    inside, outside = columns[learn & included], columns[learn & ~included]
    within = np.cov(inside, rowvar=False) * (len(inside) - 1) + np.cov(outside, rowvar=False) * (len(outside) - 1)
    return np.asarray(columns @ np.linalg.pinv(np.atleast_2d(within)) @ (inside.mean(axis=0) - outside.mean(axis=0)))


def _bounds(scores: Floats, included: Coins, claimed: float, delta: float, *, level: float) -> dict[str, float]:
    found: dict[str, float] = {}
    for method in one_run.METHODS:
        guesses = one_run.planned_guesses(method, claimed, delta, canaries=len(scores), level=level)
        guessed = one_run.guess(scores, included, guesses=guesses)
        found[method] = one_run.lower_bound(method, delta, canaries=len(scores), guessed=guessed, level=level)
    return found


def _share(found: Coins) -> Rate:
    return Rate(float(found.mean()), *clopper_pearson(int(found.sum()), len(found)))
