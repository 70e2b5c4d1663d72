"""The recommenders to beat: popularity, text similarity, item-kNN and SASRec, all trained in one place.

What lives here: baselines that need no federation and no model of ours, and how they are evaluated. What
never does: centralized, federated or local-only training of our own model, and privacy: these baselines see
all histories at once, and each says what of that it needs.

Why this way: every baseline is fitted to the training histories alone and becomes a `Scorer`, a function from
histories to scores, so that one loop evaluates all of them exactly as our model is evaluated: full
ranking, the same users, the same bootstrap replicates. Constants were tuned on the validation split of
MovieLens-100K, never on its test split, and are not tuned again for other data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shared.data.sequences import PADDING, draw_windows, pad_histories
from shared.data.splitting import scoring_histories
from shared.errors import ConfigError, DataError
from shared.metrics import EvaluationSums, evaluate_scores, user_keys

if TYPE_CHECKING:
    import scipy.sparse as sp
    import torch

# Seconds on MovieLens-100K, all of them together.
CHEAP: Final = ("popularity", "text_similarity", "item_knn")
ALL: Final = (*CHEAP, "sasrec")

# From B histories, each an array of catalog rows in time order, to scores (B, I), float32, higher is better.
Scorer = Callable[[Sequence[NDArray[np.integer]]], NDArray[np.float32]]

# Items of a history that text similarity and item-kNN look at.
RECENT_ITEMS: Final = 5
TEXT_DECAY: Final = 0.85
TEXT_POPULARITY_WEIGHT: Final = 0.25
KNN_DECAY: Final = 0.6
KNN_SHRINKAGE: Final = 20.0
KNN_POPULARITY_EXPONENT: Final = 0.5
# A step of SASRec holds the scores of all items at thousands of positions, several times: 5 GB.
MOST_SASREC_ITEMS: Final = 100_000


def fit_baseline(name: str, histories: pl.DataFrame, *, item_embedding: NDArray[np.float32], seed: int = 0) -> Scorer:
    """Fits a baseline by its name, with its default settings.

    Args:
        name: One of `ALL`. (public)
        histories: The HISTORIES TABLE; only its column `train` is read. (private)
        item_embedding: Frozen text embeddings, shape (I, D), float32, one row a catalog item. (public)
        seed: For the baselines that draw numbers. (public)

    Returns:
        The fitted scorer.

    Raises:
        ConfigError: If there is no baseline of that name.
    """
    num_items = len(item_embedding)
    match name:
        case "popularity":
            return fit_popularity(train_popularity(histories, num_items=num_items))
        case "text_similarity":
            return fit_text_similarity(item_embedding, train_popularity(histories, num_items=num_items))
        case "item_knn":
            return fit_item_knn(histories, num_items=num_items)
        case "sasrec":
            return fit_sasrec(histories, num_items=num_items, seed=seed)
    raise ConfigError(f"Expected a known baseline, got name={name!r}. Use one of {', '.join(ALL)}.")


def train_popularity(histories: pl.DataFrame, *, num_items: int) -> NDArray[np.int64]:
    """Counts the training interactions of every item.

    Args:
        histories: The HISTORIES TABLE; only its column `train` is read. (private)
        num_items: Items in the catalog, I. (public)

    Returns:
        Counts, shape (I,), int64. (private)
    """
    rows = histories["train"].explode(empty_as_null=False).to_numpy()
    return np.bincount(rows, minlength=num_items).astype(np.int64)


def fit_popularity(item_popularity: NDArray[np.number]) -> Scorer:
    """Recommends the same popular items to everybody; it knows nothing of a user but what was seen.

    Args:
        item_popularity: Training interactions of each item, or a private estimate, shape (I,).

    Returns:
        A scorer whose rows are all `item_popularity`.
    """
    scores = np.asarray(item_popularity, dtype=np.float32)
    return lambda histories: np.tile(scores, (len(histories), 1))


def fit_text_similarity(item_embedding: NDArray[np.float32], item_popularity: NDArray[np.number]) -> Scorer:
    """Recommends what reads like the last items of the history and is popular; nothing is trained.

    score = cos(mean of the last 5 embeddings, the later the heavier; embedding of the item)
    + 0.25 ln(1 + popularity). The catalog's mean is taken out of the embeddings first: it is what all
    texts share, and how large it is differs between backbones. Given a private popularity, this is
    the best that can be had without training, and what a private model has to beat.

    Args:
        item_embedding: Frozen text embeddings, shape (I, D), float32. (public)
        item_popularity: Training interactions of each item, or a private estimate (negative values
            count as 0), shape (I,).

    Returns:
        The scorer. A user without history gets popularity alone.
    """
    texts = _normalized(item_embedding - item_embedding.mean(axis=0))
    prior = np.log1p(np.maximum(np.asarray(item_popularity, dtype=np.float64), 0)).astype(np.float32)

    def score(histories: Sequence[NDArray[np.integer]]) -> NDArray[np.float32]:
        profile = _normalized(_recent(histories, len(texts), decay=TEXT_DECAY) @ texts)
        return profile @ texts.T + TEXT_POPULARITY_WEIGHT * prior

    return score


def fit_item_knn(
    histories: pl.DataFrame,
    *,
    num_items: int,
    shrinkage: float = KNN_SHRINKAGE,
    popularity_exponent: float = KNN_POPULARITY_EXPONENT,
) -> Scorer:
    """Recommends what other users have beside the last items of the history.

    sim(i, j) = users with both / ((users with i + shrinkage) (users with j)^exponent), 0 for i = j, and
    score(j) = sum over the last 5 items i of 0.6^(steps back) sim(i, j). All neighbors count: cutting them
    off at a number helps speed only.

    Args:
        histories: The HISTORIES TABLE; only its column `train` is read. (private)
        num_items: Items in the catalog, I. (public)
        shrinkage: Users added to each item's count, so that rare items weigh less, >= 0. (public)
        popularity_exponent: How strongly popular items are held back, in [0, 1]. (public)

    Returns:
        The scorer. A user without history gets popularity.

    Source:
        Deshpande and Karypis 2004, "Item-Based Top-N Recommendation Algorithms", equation 3 (conditional
        probability); the shrinkage as in Bell and Koren 2007, "Improved Neighborhood-based CF".
    """
    import scipy.sparse as sp

    lengths = histories["train"].list.len().to_numpy()
    items = histories["train"].explode(empty_as_null=False).to_numpy()
    users = np.repeat(np.arange(len(lengths)), lengths)
    seen = sp.csr_matrix((np.ones(len(items), np.float32), (users, items)), shape=(len(lengths), num_items))
    seen.data[:] = 1.0  # An item taken twice is one user with it.
    having = np.asarray(seen.sum(axis=0)).reshape(-1)
    together = (seen.T @ seen).tocsr()
    together.setdiag(0)
    # An item that nobody has stands beside no other: its row and column are empty, whatever divides them.
    rows = sp.diags_array(1 / np.maximum(having + shrinkage, 1))
    columns = sp.diags_array(1 / np.maximum(having, 1) ** popularity_exponent)
    similarity = sp.csr_matrix(rows @ together @ columns, dtype=np.float32)
    popularity = train_popularity(histories, num_items=num_items).astype(np.float32)

    def score(histories: Sequence[NDArray[np.integer]]) -> NDArray[np.float32]:
        scores = (_recent(histories, num_items, decay=KNN_DECAY) @ similarity).toarray()
        return _or_popularity(scores, histories, popularity)

    return score


def fit_sasrec(
    histories: pl.DataFrame,
    *,
    num_items: int,
    seed: int = 0,
    width: int = 64,
    layers: int = 2,
    max_length: int = 50,
    dropout: float = 0.2,
    epochs: int = 60,
    batch_size: int = 64,
    learning_rate: float = 3e-3,
) -> Scorer:
    """Trains SASRec on all histories at once: causal self-attention over item ids, full softmax.

    Unlike the paper it compares the next item with the whole catalog, not with one negative, which is
    better (Klenitskiy and Vasilev 2023, "Turning Dross Into Gold Loss"). Every epoch draws one window a user.

    Args:
        histories: The HISTORIES TABLE; only its column `train` is read. (private)
        num_items: Items in the catalog, I. (public)
        seed: Of initialization, windows, order and dropout; torch's global state is left as it was. (public)
        width: Of the hidden vectors, D; two attention heads. (public)
        layers: Transformer layers. (public)
        max_length: Items of a history that are seen, L. (public)
        dropout: On embeddings and in the layers, in [0, 1). (public)
        epochs: Passes over the users. (public)
        batch_size: Users a step. (public)
        learning_rate: Of Adam. (public)

    Returns:
        The scorer. A user without history gets popularity.

    Raises:
        ConfigError: If the catalog is too large for a softmax over all items.
        DataError: If no user has two training interactions, so that there is no next item to learn from.

    Source:
        Kang and McAuley 2018, "Self-Attentive Sequential Recommendation", section III.
    """
    import torch

    if num_items > MOST_SASREC_ITEMS:
        raise ConfigError(
            f"Expected at most {MOST_SASREC_ITEMS} items for the baseline sasrec, got {num_items}. Its softmax is over all "
            "items at every position; leave it out of evaluation.baselines."
        )
    trainable = histories.filter(pl.col("train").list.len() >= 2)["train"]
    if trainable.is_empty():
        raise DataError("Expected a user with two training interactions, found 0. Leave out the baseline sasrec.")
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _sasrec_network(num_items, width, layers, max_length, dropout)
        optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate, betas=(0.9, 0.98))
        for _ in range(epochs):
            order = rng.permutation(len(trainable))
            for start in range(0, len(order), batch_size):
                window = draw_windows(
                    trainable.gather(order[start : start + batch_size]), max_length=max_length + 1, rng=rng
                )
                items = torch.from_numpy(window.items)
                real = items[:, 1:] != PADDING
                logits = _sasrec_hidden(network, items[:, :-1])[real] @ _item_table(network).T
                loss = torch.nn.functional.cross_entropy(logits, items[:, 1:][real])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
    network.eval()
    popularity = train_popularity(histories, num_items=num_items).astype(np.float32)

    def score(histories: Sequence[NDArray[np.integer]]) -> NDArray[np.float32]:
        padded = pad_histories(histories, max_length=max_length)
        last = torch.from_numpy(np.maximum(padded.lengths - 1, 0))
        with torch.no_grad():
            hidden = _sasrec_hidden(network, torch.from_numpy(padded.items))
            scores = hidden[torch.arange(len(last)), last] @ _item_table(network).T
        return _or_popularity(scores.numpy(), histories, popularity)

    return score


def evaluate_baseline(
    scorer: Scorer,
    histories: pl.DataFrame,
    *,
    which: Literal["validation", "test"],
    k: int = 10,
    num_replicates: int = 200,
    bootstrap_seed: int = 0,
    batch_size: int = 512,
) -> EvaluationSums:
    """Evaluates a scorer on the held-out interactions of all users, in batches.

    Args:
        scorer: A fitted baseline, or any function of that shape.
        histories: The HISTORIES TABLE. (private)
        which: Column that holds the targets; for "test" the history is train and validation. (public)
        k: List length, >= 1. (public)
        num_replicates: Bootstrap replicates, >= 0. (public)
        bootstrap_seed: The same for every model that is to be compared. (public)
        batch_size: Users scored at once. (public)

    Returns:
        The sums over all users with a target.

    Raises:
        DataError: If no user has a target.
    """
    with_target = histories.filter(pl.col(which).list.len() > 0)
    if with_target.is_empty():
        raise DataError(f"Expected a user with a {which} target, found 0. Use data with longer histories.")
    parts: list[EvaluationSums] = []
    for batch in with_target.iter_slices(batch_size):
        seen = row_arrays(scoring_histories(batch, which))
        sums = evaluate_scores(
            scorer(seen),
            seen,
            row_arrays(batch[which]),
            user_keys=user_keys(batch["user"]),
            k=k,
            num_replicates=num_replicates,
            bootstrap_seed=bootstrap_seed,
        )
        parts.append(sums)
    return sum(parts[1:], start=parts[0])


def row_arrays(lists: pl.Series) -> list[NDArray[np.integer]]:
    """Opens a List column into one array a user."""
    flat = lists.explode(empty_as_null=False).to_numpy()
    return np.split(flat, np.cumsum(lists.list.len().to_numpy())[:-1])


def _recent(histories: Sequence[NDArray[np.integer]], num_items: int, *, decay: float) -> sp.csr_matrix:
    """Weighs the last items of each history by decay^(steps back), (B, I), sparse float32."""
    import scipy.sparse as sp

    padded = pad_histories(histories, max_length=RECENT_ITEMS)
    users, places = np.nonzero(padded.mask)
    weights = decay ** (padded.lengths[users] - 1 - places)
    return sp.csr_matrix(
        (weights.astype(np.float32), (users, padded.items[users, places])), shape=(len(histories), num_items)
    )


def _normalized(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scales every row to length 1; a row of zeros stays one."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    normalized: NDArray[np.float32] = (vectors / np.where(norms > 0, norms, np.float32(1))).astype(np.float32)
    return normalized


def _or_popularity(
    scores: NDArray[np.float32], histories: Sequence[NDArray[np.integer]], popularity: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Puts popularity in the rows of users who have no history to go by."""
    scores[[row for row, items in enumerate(histories) if len(items) == 0]] = popularity
    return scores


def _sasrec_network(num_items: int, width: int, layers: int, max_length: int, dropout: float) -> torch.nn.ModuleDict:
    """Builds the network, freshly initialized from torch's random state, in training mode."""
    from torch import nn

    layer = nn.TransformerEncoderLayer(width, 2, 4 * width, dropout, activation="gelu", batch_first=True, norm_first=True)
    network = nn.ModuleDict(
        {
            "item_embedding": nn.Embedding(num_items, width),
            "position_embedding": nn.Embedding(max_length, width),
            "embedding_dropout": nn.Dropout(dropout),
            "encoder": nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False),
        }
    )
    # Every layer starts as a copy of the first; embeddings of unit variance would drown in the softmax.
    for name, parameter in network.named_parameters():
        if name.endswith("_embedding.weight"):
            nn.init.normal_(parameter, std=0.02)
        elif parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
    return network


def _item_table(network: torch.nn.ModuleDict) -> torch.Tensor:
    """(items, D), what an item is as an input and as an output."""
    return network["item_embedding"].get_parameter("weight")


def _sasrec_hidden(network: torch.nn.ModuleDict, items: torch.Tensor) -> torch.Tensor:
    """Runs padded histories (B, L), int64, through the network, to hidden vectors (B, L, D), float32.

    Padding is on the right, so the causal mask alone keeps it from every real position. Positions are counted
    from the last item, which always has the highest, as under the left padding of the paper: a history
    longer than those of the training then ends in a position that was trained.
    """
    import torch

    length, positions = items.shape[1], len(network["position_embedding"].get_parameter("weight"))
    steps = torch.arange(length) + positions - (items != PADDING).sum(dim=1, keepdim=True)
    embedded = network["item_embedding"](items.clamp(min=0))
    embedded = embedded + network["position_embedding"](steps.clamp(max=positions - 1))
    causal = torch.ones(length, length, dtype=torch.bool).triu(1)
    hidden: torch.Tensor = network["encoder"](network["embedding_dropout"](embedded), mask=causal, is_causal=True)
    return hidden
