"""Which client each user belongs to.

Guarantee:
    A user's client follows from the user's own id, training items and attribute, from the catalog and from settings. No
    other user has a part in it, because one who came or went would otherwise move another's data from silo to silo.

So numbers of users are random where silos are: equal sizes are equal in expectation, and a silo may be empty. Two things are
taken as public: the catalog, and which values an attribute has, since silos (shops, hospitals) are there before their users.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shared.data.catalog import ItemCatalog
from shared.errors import ConfigError
from shared.keyed_hash import keyed_uniform
from shared.randomness import derive

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

POWER_LAW_EXPONENT = 1.0
NUM_TASTES = 10
# Words of item texts that tastes are told by, the commonest first.
_MOST_WORDS = 2_000
_PERSON = b"tacit-silos"


def in_shares(users: pl.Series, *, clients: int, sizes: str, seed: int) -> Ints:
    """Clients of equal or power-law sizes, in expectation.

    Args:
        users: Ids. (private)
        clients: Number of silos, >= 1. (public)
        sizes: `equal` or `power-law` (proportional to 1 / rank, in random order). (public)
        seed: Of the assignment. (public)

    Returns:
        Shape (users,), in [0, clients).
    """
    return _drawn(_shares(clients, sizes, seed)[np.newaxis], np.zeros(len(users), dtype=np.int64), users, seed)


def by_taste(
    users: pl.Series, train: pl.Series, catalog: ItemCatalog, *, clients: int, sizes: str, alpha: float, seed: int
) -> Ints:
    """Label skew: each taste's users are spread over clients by a Dirichlet draw of its own.

    Args:
        users: Ids. (private)
        train: List column of catalog rows, one list a user. (private)
        catalog: Its texts tell tastes apart. (public)
        clients: Number of silos, >= 1. (public)
        sizes: As in `in_shares`; they hold in expectation over the draws. (public)
        alpha: > 0; a taste's shares are drawn from Dirichlet(alpha * clients * share). Small alpha, strong skew. (public)
        seed: Of the draws and the assignment. (public)

    Returns:
        Shape (users,), in [0, clients).

    Source:
        Hsu, Qi and Brown 2019, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual
        Classification", Sec. 3, with clients and labels exchanged, so that all users are used.
    """
    labels = dominant_tastes(train, item_tastes(catalog, seed=seed))
    shares = _shares(clients, sizes, seed)
    draws = derive(seed, "dirichlet").standard_gamma(alpha * clients * shares, size=(NUM_TASTES, clients)) + 1e-300
    return _drawn(draws / draws.sum(axis=1, keepdims=True), labels, users, seed)


def by_attribute(users: pl.Series, attributes: pl.DataFrame | None, attribute: str, *, clients: int, seed: int) -> Ints:
    """Clients hold users of one attribute value; users without a value share one of their own.

    Args:
        users: Ids. (private)
        attributes: Column `user` and attributes. (private; which values there are: public)
        attribute: Name of the column. (public)
        clients: 0 makes one client a value. With fewer clients than values, values are put together; with more, each value
            is divided, in parts of equal size in expectation. (public)
        seed: Of the division. (public)

    Raises:
        ConfigError: If there is no such column.
    """
    values: Ints = _values(users, attributes, attribute).rank("dense").to_numpy().astype(np.int64) - 1
    number = int(values.max()) + 1
    if clients <= number:
        return values % (clients or number)
    pieces = np.full(number, clients // number)
    pieces[: clients % number] += 1
    first = np.cumsum(pieces) - pieces
    own = np.floor(keyed_uniform(users, seed=seed, person=_PERSON) * pieces[values]).astype(np.int64)
    return np.asarray(first[values] + own)


def values_of_silos(users: pl.Series, attributes: pl.DataFrame | None, attribute: str) -> pl.Series:
    """The value of each silo of `by_attribute` with clients=0, in their order; empty for users without one.

    Args:
        users: Ids. (private)
        attributes: Column `user` and attributes. (private; which values there are: public)
        attribute: Name of the column. (public)

    Raises:
        ConfigError: If there is no such column.
    """
    return _values(users, attributes, attribute).unique().sort()


def _values(users: pl.Series, attributes: pl.DataFrame | None, attribute: str) -> pl.Series:
    """Each user's value as text, empty where there is none. (private)"""
    available = [] if attributes is None else [name for name in attributes.columns if name != "user"]
    if attributes is None or attribute not in available:
        raise ConfigError(
            f"Expected federation.attribute to be one of: {', '.join(available) or 'none'}, got "
            f"federation.attribute={attribute!r}. The data set has no other user attributes."
        )
    joined = users.to_frame("user").join(attributes, on="user", how="left", maintain_order="left")
    return joined[attribute].cast(pl.String).fill_null("")


def dominant_tastes(train: pl.Series, item_taste: Ints) -> Ints:
    """The taste of most of each user's training items, (users,); of ties the smaller one."""
    lengths = train.list.len().to_numpy().astype(np.int64)
    votes = np.zeros((len(lengths), NUM_TASTES), dtype=np.int64)
    items = train.explode(empty_as_null=False).to_numpy()
    np.add.at(votes, (np.repeat(np.arange(len(lengths)), lengths), item_taste[items]), 1)
    return np.asarray(votes.argmax(axis=1), dtype=np.int64)


def item_tastes(catalog: ItemCatalog, *, seed: int) -> Ints:
    """Clusters of items whose texts share words: leading axes of items by words, then k-means on directions.

    Clusters by who interacted with an item would be closer to tastes, but they are a function of everybody's data.

    Args:
        catalog: The texts. (public)
        seed: Of k-means. (public)

    Returns:
        Shape (I,), in [0, NUM_TASTES).
    """
    from scipy.cluster.vq import kmeans2
    from scipy.linalg import eigh

    matrix = _items_by_words(catalog)
    rng = derive(seed, "tastes")
    words = matrix.shape[1]
    # All directions at once: an iterative solver begins anew by chance where singular values are equal.
    _, axes = eigh((matrix.T @ matrix).toarray(), subset_by_index=[max(words - 2 * NUM_TASTES, 0), words - 1])
    places = matrix @ axes
    directions = places / np.maximum(np.linalg.norm(places, axis=1, keepdims=True), 1e-12)
    different = len(np.unique(directions.round(6), axis=0))
    _, taste = kmeans2(directions, min(NUM_TASTES, different), minit="++", rng=rng)
    return np.asarray(taste, dtype=np.int64)


def _items_by_words(catalog: ItemCatalog) -> Any:
    """Which words stand in each item's text, rarer ones heavier, rows of norm 1; (I, words)."""
    from scipy.sparse import csr_matrix

    words = [sorted(set(re.findall(r"\w+", text.lower()))) for text in catalog.texts]
    counts = Counter(word for own in words for word in own)
    # A word of one item alone ties it to no other.
    kept = [word for word, count in counts.most_common(_MOST_WORDS) if count > 1]
    column = {word: place for place, word in enumerate(sorted(kept))}
    rows = [(row, column[word], counts[word]) for row, own in enumerate(words) for word in own if word in column]
    row, place, count = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    weight = np.log(catalog.num_items / count)
    norms = np.sqrt(np.bincount(row, weights=weight**2, minlength=catalog.num_items))
    shape = (catalog.num_items, max(len(column), 1))
    return csr_matrix((weight / np.maximum(norms[row], 1e-12), (row, place)), shape=shape)


def _shares(clients: int, sizes: str, seed: int) -> Floats:
    """Part of all users that each client shall hold, in random order, summing to 1."""
    weights = np.ones(clients)
    if sizes == "power-law":
        weights = derive(seed, "sizes").permutation((1.0 + np.arange(clients)) ** -POWER_LAW_EXPONENT)
    return np.asarray(weights / weights.sum())


def _drawn(shares: Floats, labels: Ints, users: pl.Series, seed: int) -> Ints:
    """The client that a user's own number falls on, among the shares (labels, clients) of the user's label."""
    own = keyed_uniform(users, seed=seed, person=_PERSON)
    assignment = np.empty(len(users), dtype=np.int64)
    for label, ends in enumerate(np.cumsum(shares, axis=1)):
        of_label = np.flatnonzero(labels == label)
        assignment[of_label] = np.searchsorted(ends, own[of_label] * ends[-1], side="right")
    capped: Ints = np.minimum(assignment, shares.shape[1] - 1)
    return capped
