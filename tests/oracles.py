"""Slow reference implementations: loops over users and items that share no code with what they check.

What lives here: metrics by sorting lists, sums in a ring. What never does: anything that imports the modules under test.
"""

import math

import numpy as np
from scipy import linalg


def ring_sum(vectors, bits):
    """The sum of vectors of integers modulo 2**bits, which 64 bits hold exactly; at least one vector."""
    return (np.sum(np.array(list(vectors), dtype=np.uint64), axis=0) % 2**bits).astype(np.uint32)


def hadamard_matrix(order):
    """The Kronecker product of Paley's symmetric matrices, by Euler's criterion, and scipy's for the power of two."""
    made = {1: [], 3: [12], 5: [20], 9: [12, 12], 11: [44], 15: [20, 12], 25: [20, 20], 33: [44, 12], 55: [44, 20]}
    made |= {121: [44, 44]}
    odd = order
    while odd % 2 == 0:
        odd //= 2
    matrix = np.ones((1, 1), dtype=np.int64)
    for size in made[odd]:
        q = size - 1
        paley = [
            [1 if 0 in (i, j) or pow(i + j - 2, (q - 1) // 2, q) == 1 else -1 for j in range(size)] for i in range(size)
        ]
        matrix = np.kron(matrix, paley)
    return np.kron(matrix, linalg.hadamard(order // len(matrix)))


def metrics_of_user(scores, history, targets, k):
    """Per-user metrics by sorting the candidates, ties against the target, AUC by counting pairs."""
    targets = set(targets)
    candidates = [item for item in range(len(scores)) if item not in history or item in targets]
    ranking = sorted(candidates, key=lambda item: (-scores[item], item in targets))
    listed = ranking[:k]
    hits = [item in targets for item in listed]
    num_hits = sum(hits)
    gains = sum(1 / math.log2(place + 2) for place, hit in enumerate(hits) if hit)
    ideal = sum(1 / math.log2(place + 2) for place in range(min(len(targets), k)))
    precisions = [sum(hits[: place + 1]) / (place + 1) for place, hit in enumerate(hits) if hit]
    precision, recall = num_hits / k, num_hits / len(targets)
    negatives = [item for item in candidates if item not in targets]
    won = sum(
        1.0 if scores[target] > scores[other] else 0.5 if scores[target] == scores[other] else 0.0
        for target in targets
        for other in negatives
    )
    return {
        f"hr@{k}": float(num_hits > 0),
        f"ndcg@{k}": gains / ideal,
        f"mrr@{k}": 1 / (hits.index(True) + 1) if num_hits else 0.0,
        f"map@{k}": sum(precisions) / min(len(targets), k),
        f"precision@{k}": precision,
        f"recall@{k}": recall,
        f"f1@{k}": 2 * precision * recall / (precision + recall) if num_hits else 0.0,
        "auc": won / (len(targets) * len(negatives)) if negatives else 0.5,
    }


def best_rank_of_user(scores, history, targets):
    """The place of the best ranked target, from 1, by sorting."""
    candidates = [item for item in range(len(scores)) if item not in history or item in targets]
    ranking = sorted(candidates, key=lambda item: (-scores[item], item in targets))
    return 1 + min(ranking.index(target) for target in targets)


def list_of_user(scores, history, targets, k):
    """The top-k list, ties to the lower item."""
    candidates = [item for item in range(len(scores)) if item not in history or item in targets]
    return sorted(candidates, key=lambda item: (-scores[item], item))[:k]


def item_knn_scores(train, history, num_items, *, recent, decay, shrinkage, exponent):
    """Item-kNN scores of one history from user sets, pair by pair."""
    holders = [{user for user, items in enumerate(train) if item in items} for item in range(num_items)]
    scores = [0.0] * num_items
    for steps_back, item in enumerate(list(reversed(history))[:recent]):
        for other in range(num_items):
            if other != item and holders[other] and holders[item]:
                both = len(holders[item] & holders[other])
                norm = (len(holders[item]) + shrinkage) * len(holders[other]) ** exponent
                scores[other] += decay**steps_back * both / norm
    return scores
