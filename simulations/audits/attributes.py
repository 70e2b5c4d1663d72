"""Attribute inference: what the list shown to a user gives away of the user's gender, age or occupation.

The adversary sees the list on a user's screen and has the released recommender. It knows the attributes of other users
whose lists it saw, learns from these, and guesses the rest; each user is guessed by a rule that never saw that user. Beside
it stand the guess of the most frequent value, and a guess from the whole history, which is what the data tell by themselves.

The list follows from the user's own history, so no epsilon bounds what it tells: this measures a line of "What is not
protected". It reads real users and their attributes, so it is a research record, stamped NOT PRIVATE, and no part of the
signed audit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from client.store.population import Population
from shared.artifact import load_recommender
from shared.audit.membership import Rate, area
from shared.config import RunConfig
from shared.data.splitting import HISTORIES_SCHEMA
from shared.errors import TacitError
from shared.files import write_json
from shared.model.recommender import Recommender
from shared.randomness import derive
from shared.ranking import top_k
from simulations.preparing import dataset_of

Floats = NDArray[np.float64]

ATTRIBUTES: Final = "audit-attributes.json"
STAMP: Final = "NOT PRIVATE: measured on real users and their attributes. Do not publish."
LENGTH: Final = 10
_HISTORY_COLUMNS = [name for name in HISTORIES_SCHEMA if name != "user"]
_FOLDS = 5
# A value that fewer users have is left out: a fold of it would hold one or two.
_FEWEST_WITH_A_VALUE = 2 * _FOLDS
_MOST_VALUES, _BANDS = 30, 4
_MOST_USERS, _MOST_NUMBERS = 1000, 40_000_000
# Ridges over the mean eigenvalue; the one with the least leave-one-out error of a fold's training part is taken.
_RIDGES = (0.01, 0.1, 1.0, 10.0, 100.0)


@dataclass(frozen=True)
class Inferred:
    """How often one attribute was guessed right from one thing that is seen.

    Attributes:
        attribute: Its name.
        values: How many values it has.
        users: Who were guessed.
        seen: What the adversary sees.
        prior: Share of users whose value is the most frequent one of the others.
        accuracy: Share that was guessed right.
        gain: Accuracy minus prior, paired over users.
        area: Of the most frequent value against all others; chance is 0.5.
    """

    attribute: str
    values: int
    users: int
    seen: str
    prior: float
    accuracy: Rate
    gain: Rate
    area: Rate


def write_attributes(run_dir: Path, config: RunConfig, population: Population) -> dict[str, Any]:
    """Attacks the lists of a run's users, and writes what came of it.

    Args:
        run_dir: The run's folder. (private)
        config: Of the run.
        population: Its clients. (private)

    Returns:
        What was written: rows, and what was skipped with the reason.
    """
    rows: list[Inferred] = []
    try:
        users = dataset_of(config).user_attributes
        skipped = {} if users is not None else {"all": "The data have no user attributes."}
    except TacitError:
        users, skipped = None, {"all": "The run's data could not be read again."}
    if users is not None:
        known, histories = _chosen(population, users, seed=config.run.seed)
        usable, skipped = _usable(known)
        if usable:
            seen = seen_of(load_recommender(run_dir), histories)
            rows = [row for name, labels in usable.items() for row in inferred(name, labels, seen, seed=config.run.seed)]
    held = {"stamp": STAMP, "length": LENGTH, "rows": [asdict(row) for row in rows], "skipped": skipped}
    write_json(run_dir / ATTRIBUTES, held)
    return held


def seen_of(recommender: Recommender, histories: Sequence[NDArray[np.int32]]) -> dict[str, Floats]:
    """What adversaries see of users: an array (U, I) for each kind of adversary.

    Args:
        recommender: The released one. (public)
        histories: U arrays of catalog rows in time order. (private)
    """
    scores = recommender.score(list(histories))
    lists = [top_k(own, history, k=LENGTH) for own, history in zip(scores, histories, strict=True)]
    weights = 1.0 / np.log2(np.arange(LENGTH) + 2.0)
    shown, held = np.zeros(scores.shape), np.zeros(scores.shape)
    for user, (shown_items, history) in enumerate(zip(lists, histories, strict=True)):
        shown[user, shown_items] = weights[: len(shown_items)]
        held[user, history] = 1.0
    # Asked with the list in the place of the history, least relevant first, the recommender says what lies near it.
    near = recommender.score([items[::-1].astype(np.int32) for items in lists]).astype(np.float64)
    near -= near.mean(axis=1, keepdims=True)
    return {
        "the list on the screen": shown,
        "the list and the released recommender": near,
        "the whole history (no recommender)": held,
    }


def inferred(
    name: str, labels: Sequence[str | None], seen: Mapping[str, NDArray[np.floating]], *, seed: int
) -> Iterator[Inferred]:
    """Guesses one attribute from each thing that is seen.

    Args:
        name: Of the attribute.
        labels: U values; None is left out. (private)
        seen: Arrays (U, I) by name. (private)
        seed: Of the folds.
    """
    users = np.array([user for user, label in enumerate(labels) if label is not None])
    values, own = np.unique([str(labels[user]) for user in users], return_inverse=True)
    # Each fold has as many users of each value: otherwise those that a fold has more of are rarer in what it learns from.
    folds = np.empty(len(users), dtype=np.int64)
    folds[np.lexsort((derive(seed, "attributes").permutation(len(users)), own))] = np.arange(len(users)) % _FOLDS
    truth = np.eye(len(values))[own]
    most = int(np.bincount(own).argmax())
    for what, array in seen.items():
        scores, usual = np.zeros(truth.shape), np.zeros(len(users), dtype=np.int64)
        rows = _unit_rows(np.asarray(array, dtype=np.float64)[users])
        for fold in range(_FOLDS):
            test, train = folds == fold, folds != fold
            scores[test] = _ridge(rows[train], truth[train], rows[test])
            usual[test] = np.bincount(own[train]).argmax()
        right, by_prior = scores.argmax(axis=1) == own, usual == own
        yield Inferred(
            attribute=name,
            values=len(values),
            users=len(users),
            seen=what,
            prior=float(by_prior.mean()),
            accuracy=_mean(right.astype(np.float64)),
            gain=_mean(right.astype(np.float64) - by_prior),
            area=area(scores[own == most, most], scores[own != most, most]),
        )


def _chosen(population: Population, users: pl.DataFrame, *, seed: int) -> tuple[pl.DataFrame, list[NDArray[np.int32]]]:
    """Attributes and whole histories of the users that are attacked, a sample where there are many."""
    histories = population.rows(np.arange(population.num_clients), list(HISTORIES_SCHEMA)).histories
    found = histories.filter(pl.concat_list(_HISTORY_COLUMNS).list.len() > 0).join(
        users.unique("user", keep="first"), on="user", how="inner", maintain_order="left"
    )
    most = min(_MOST_USERS, max(1, _MOST_NUMBERS // population.catalog.num_items))
    if len(found) > most:
        found = found[np.sort(derive(seed, "attributes", "users").permutation(len(found))[:most])]
    whole = found.select(pl.concat_list(_HISTORY_COLUMNS).alias("whole"))["whole"]
    return found.drop(list(HISTORIES_SCHEMA)), [np.array(items, dtype=np.int32) for items in whole.to_list()]


def _usable(known: pl.DataFrame) -> tuple[dict[str, list[str | None]], dict[str, str]]:
    """The attributes that can be guessed, numbers in bands; and why others cannot."""
    usable: dict[str, list[str | None]] = {}
    skipped: dict[str, str] = {}
    for name in known.columns:
        column = known[name].cast(pl.String)
        numbers = column.cast(pl.Float64, strict=False)
        if column.n_unique() > _MOST_VALUES and numbers.null_count() == column.null_count():
            column = _banded(numbers)
        if column.n_unique() > _MOST_VALUES:
            skipped[name] = f"It has more than {_MOST_VALUES} values that are no numbers."
            continue
        often = column.value_counts().drop_nulls().filter(pl.col("count") >= _FEWEST_WITH_A_VALUE)[name]
        if len(often) < 2:
            skipped[name] = f"Fewer than two values have {_FEWEST_WITH_A_VALUE} users."
            continue
        kept = set(often.to_list())
        usable[name] = [value if value in kept else None for value in column.to_list()]
    return usable, skipped


def _banded(numbers: pl.Series) -> pl.Series:
    """Numbers as bands of about as many users each."""
    ends = np.unique(np.quantile(numbers.drop_nulls().to_numpy(), np.arange(1, _BANDS) / _BANDS))
    bands = [None if number is None else str(np.searchsorted(ends, number, side="right")) for number in numbers.to_list()]
    return pl.Series(numbers.name, bands, dtype=pl.String)


def _ridge(rows: Floats, truth: Floats, asked: Floats) -> Floats:
    """Ridge regression of indicators, its strength chosen by leave-one-out error; scores (T, V) of the rows asked for."""
    center, base = rows.mean(axis=0), truth.mean(axis=0)
    centered, left = rows - center, truth - base
    values, vectors = np.linalg.eigh(centered @ centered.T)
    values, inside = np.maximum(values, 0.0), vectors.T @ left
    best, chosen = np.inf, np.zeros_like(left)
    for ridge in _RIDGES:
        strength = max(ridge * float(values.mean()), 1e-12)
        shrunk = values / (values + strength)
        leverage = 1.0 / len(rows) + (vectors**2) @ shrunk
        off = (left - vectors @ (shrunk[:, None] * inside)) / np.maximum(1.0 - leverage, 1e-9)[:, None]
        error = float((off**2).sum())
        if error < best:
            best, chosen = error, vectors @ (inside / (values + strength)[:, None])
    return np.asarray(base + (asked - center) @ centered.T @ chosen)


def _unit_rows(rows: Floats) -> Floats:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))


def _mean(values: Floats) -> Rate:
    """A mean over users with a normal 95 % interval."""
    found, error = float(values.mean()), 1.96 * float(values.std(ddof=1)) / len(values) ** 0.5
    return Rate(found, found - error, found + error)
