"""From a catalog to one frozen vector an item: its text, and what else is known of it.

    text (I, H) | categories, knowledge, price, precomputed vectors: each whitened to norm `modality_weight`
    -> side by side (I, W) -> projected to (I, H) -> norm 1

Every step is a function of the public catalog. Means and directions are taken over the items that were there at training,
so a new item gets the vector it would have had, from its modalities alone. An item that lacks a modality has zeros there,
which is the mean of those that have it: it is judged by what is known of it.

Why each is whitened: labels and image features have a few loud directions that say little, and units of their own. Why the
projection is turned toward the text: the transformer was pretrained on text vectors, and of all bases of the leading
subspace this one moves them least. A catalog's text alone is not projected at all.

What never lives here: encoding texts (`shared/model/backbone.py`), anything trained.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import sparse

from shared.config import ModelSection
from shared.data.catalog import LABELS, PRICE
from shared.errors import ConfigError

if TYPE_CHECKING:
    from shared.data.catalog import ItemCatalog

TEXT: Final = "text"
# Directions kept of one modality, labels that are told apart, and bumps over the range of prices.
_DIRECTIONS: Final = 64
_MOST_LABELS: Final = 1024
_PRICE_BUMPS: Final = 8
_BLOCK: Final = 16_384

Floats = NDArray[np.float32]


def chosen_modalities(catalog: ItemCatalog, config: ModelSection) -> tuple[str, ...]:
    """What makes an item's vector; `auto` is the text and every precomputed vector.

    Raises:
        ConfigError: For a name that the catalog does not have, or none at all.
    """
    if config.modalities.strip() == "auto":
        return (TEXT, *catalog.vector_names)
    names = tuple(dict.fromkeys(name.strip() for name in config.modalities.split(",") if name.strip()))
    known = (TEXT, *catalog.modalities.columns)
    for name in names or ("",):
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean '{close[0]}'?" if close else "Leave it out, or bring it with data.vectors."
            raise ConfigError(f"Expected model.modalities from {', '.join(known)}, got '{name}'. {hint}")
    return names


def fuse(catalog: ItemCatalog, texts: Floats | None, config: ModelSection, *, width: int) -> Floats:
    """One vector an item.

    Args:
        catalog: I items, the last `catalog.num_new_items` of them not there at training. (public)
        texts: (I, width) float32, encoded texts, rows of norm 1; None where the text is not among the modalities.
        config: Which modalities, and how much the others weigh.
        width: H, of the backbone.

    Returns:
        (I, H) float32, rows of norm 1, or 0 where nothing is known of an item.

    Raises:
        ConfigError: As `chosen_modalities`.
    """
    known = catalog.num_items - catalog.num_new_items
    names = chosen_modalities(catalog, config)
    others = [config.modality_weight * _modality(catalog, name, known) for name in names if name != TEXT]
    if TEXT not in names:
        return _normalized(_projected(np.hstack(others), width, known, text_width=0))
    if texts is None or texts.shape != (catalog.num_items, width):
        raise ConfigError("Expected an encoded text for every item, got others. Encode them with the same backbone.")
    if not others:
        return texts
    return _normalized(_projected(np.hstack([texts, *others]), width, known, text_width=width))


def _modality(catalog: ItemCatalog, name: str, known: int) -> Floats:
    """One modality as whitened rows of norm 1, or 0 where it is missing; (I, <= 64)."""
    if name in LABELS:
        labels = _labels(catalog.modalities[name], known)
        # Labels that no item of training has say nothing, like no labels.
        return _whitened(labels, labels.getnnz(axis=1) > 0, known)
    prices = catalog.modalities[PRICE].cast(pl.Float64).to_numpy() if name == PRICE else None
    vectors = catalog.vectors(name) if prices is None else _prices(prices, known)
    return _whitened(vectors, np.asarray(np.isfinite(vectors).all(axis=1)), known)


def _labels(column: pl.Series, known: int) -> sparse.csr_matrix:
    """Which of the most frequent labels an item has, rare ones heavier; (I, labels)."""
    pairs = pl.DataFrame({"label": column}).with_row_index("row").explode("label").drop_nulls("label")
    counts = pairs.filter(pl.col("row") < known).group_by("label").len().sort(["len", "label"], descending=[True, False])
    counts = counts.head(_MOST_LABELS).with_row_index("place")
    pairs = pairs.join(counts, on="label")
    # The inverse document frequency: what every item has tells none apart.
    weights = np.log(known / pairs["len"].to_numpy()) + 1.0
    places = (pairs["row"].to_numpy(), pairs["place"].to_numpy())
    return sparse.csr_matrix((weights.astype(np.float32), places), shape=(len(column), max(counts.height, 1)))


def _prices(prices: NDArray[np.float64], known: int) -> Floats:
    """Overlapping bumps at the quantiles of log prices, so that like prices are alike whatever the currency. (I, 8)"""
    logs = np.log1p(prices)
    seen = logs[:known][np.isfinite(logs[:known])]
    centers = np.quantile(seen, np.linspace(0.0, 1.0, _PRICE_BUMPS)) if len(seen) else np.zeros(_PRICE_BUMPS)
    spread = max(float(centers[-1] - centers[0]) / (_PRICE_BUMPS - 1), 1e-6)
    bumps = np.exp(-0.5 * ((logs[:, None] - centers) / spread) ** 2)
    # What is far from every price of the training catalog is nearest to the nearest, and not like nothing.
    nearest = np.exp(-0.5 * ((np.clip(logs, centers[0], centers[-1])[:, None] - centers) / spread) ** 2)
    outside = (logs < centers[0]) | (logs > centers[-1])
    return np.where(outside[:, None], nearest, bumps).astype(np.float32)


def _whitened(vectors: Floats | sparse.csr_matrix, there: NDArray[np.bool_], known: int) -> Floats:
    """Leading principal directions of the known rows that are there, scaled to the same variance; rows of norm 1 or 0."""
    nothing = np.zeros((len(there), 1), dtype=np.float32)
    fitted = np.flatnonzero(there[:known])
    if not len(fitted):
        return nothing
    mean = np.asarray(vectors[fitted].mean(axis=0, dtype=np.float64)).ravel()
    values, directions = _directions(vectors, fitted, mean)
    if values[0] <= 0:  # all alike: it tells no items apart
        return nothing
    kept = min(_DIRECTIONS, int((values > values[0] * 1e-6).sum()))
    result = np.zeros((len(there), kept), dtype=np.float32)
    scale = directions[:, :kept] / np.sqrt(values[:kept])
    for rows in _blocks(np.flatnonzero(there)):
        result[rows] = (_dense(vectors[rows]) - mean) @ scale
    return _normalized(result)


def _projected(side_by_side: Floats, width: int, known: int, *, text_width: int) -> Floats:
    """(I, W) -> (I, width): the leading subspace, in the basis nearest to the text's own; zeros beside a smaller W."""
    size = side_by_side.shape[1]
    if size <= width:
        return np.pad(side_by_side, ((0, 0), (0, width - size)))
    # Not centered: what all texts have in common is part of what the transformer was pretrained on.
    _, directions = _directions(side_by_side, np.arange(known), np.zeros(size))
    basis = directions[:, :width]
    if text_width:
        # The orthogonal Procrustes problem: the turn within the subspace that brings the text's axes nearest to themselves.
        left, _, right = np.linalg.svd(basis[:text_width].T)
        basis = basis @ (left @ right)
    return (side_by_side @ basis.astype(np.float32)).astype(np.float32)


def _directions(
    vectors: Floats | sparse.csr_matrix, rows: NDArray[np.int64], mean: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Principal variances around `mean`, descending, and directions (W, W), each with a fixed sign; a block at a time."""
    covariance = np.zeros((vectors.shape[1], vectors.shape[1]))
    for block in _blocks(rows):
        centered = _dense(vectors[block]) - mean
        covariance += centered.T @ centered
    values, directions = np.linalg.eigh(covariance / len(rows))
    values, directions = values[::-1], directions[:, ::-1]
    largest = np.abs(directions).argmax(axis=0)
    signs = np.sign(directions[largest, np.arange(len(largest))])
    return values, directions * signs


def _blocks(rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(rows), _BLOCK):
        yield rows[start : start + _BLOCK]


def _dense(rows: Floats | sparse.csr_matrix) -> Floats:
    return rows if isinstance(rows, np.ndarray) else np.asarray(rows.toarray(), dtype=np.float32)


def _normalized(vectors: Floats) -> Floats:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    found: Floats = (vectors / np.maximum(norms, 1e-12)).astype(np.float32)
    return found
