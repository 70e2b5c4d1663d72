"""Statistical tests of the bootstrap: weights, coverage of intervals, calibration of p-values.

Seeds are fixed: a run repeats exactly, and a failure means that the code changed. Every check is a function
that is also given something wrong, its negative control, which it must reject.
"""

import math

import numpy as np
from scipy.stats import binom, chisquare

from shared.metrics import difference, evaluate_scores, summarize, user_keys
from shared.metrics.bootstrap import bootstrap_weights

NUM_TRIALS = 800
NUM_USERS = 150
NUM_ITEMS = 40


def evaluate_random_model(trial, model):
    """One target a user and random scores: the rank is uniform on 1 .. I, so the mean AUC is exactly 1/2."""
    rng = np.random.default_rng([trial, model])
    return evaluate_scores(
        rng.random((NUM_USERS, NUM_ITEMS), dtype=np.float32),
        [np.array([], dtype=np.int32)] * NUM_USERS,
        list(np.zeros((NUM_USERS, 1), dtype=np.int32)),
        user_keys=user_keys([f"{trial}/{user}" for user in range(NUM_USERS)]),
        bootstrap_seed=trial,
        num_replicates=200,
    )


def is_plausible(successes, probability, *, false_alarm=0.002):
    """Whether a count of NUM_TRIALS is inside the central range of the binomial distribution."""
    low, high = binom.interval(1 - false_alarm, NUM_TRIALS, probability)
    return low <= successes <= high


def is_poisson_of_mean_one(weights, *, false_alarm=0.001):
    """Chi-squared test of the counts 0, 1, 2, 3, 4 and more against Poisson(1), nothing fitted."""
    observed = np.bincount(np.minimum(weights.astype(int).ravel(), 4), minlength=5)
    expected = np.array([math.exp(-1) / math.factorial(count) for count in range(4)])
    expected = np.append(expected, 1 - expected.sum()) * weights.size
    return chisquare(observed, expected).pvalue > false_alarm


def test_bootstrap_weights_are_poisson_of_mean_one():
    """Null: weights of 1,000 users in 200 replicates are Poisson(1).

    n = 200,000, false alarms 0.1 %, power against means 2/3 and 3/2 above 99.9 %.
    """
    keys = user_keys([str(user) for user in range(1000)])
    assert is_poisson_of_mean_one(bootstrap_weights(keys, num_replicates=200, bootstrap_seed=0))
    # Consecutive keys and a single replicate: the mixing must not need keys that are hashes already.
    plain = np.arange(200_000, dtype=np.uint64)
    assert is_poisson_of_mean_one(bootstrap_weights(plain, num_replicates=1, bootstrap_seed=1))
    rng = np.random.default_rng(0)
    assert not is_poisson_of_mean_one(rng.poisson(2 / 3, 200_000))
    assert not is_poisson_of_mean_one(rng.poisson(3 / 2, 200_000))


def test_bootstrap_weights_are_uncorrelated_over_users_replicates_and_seeds():
    """Null: two weights are independent, so a correlation over n pairs has a standard deviation of n^-1/2.

    n = 200,000 pairs for each of 4 shifts, limit 4 standard deviations, false alarms below 0.03 %; the
    control, half of whose weights are shared, has a correlation of 1/2 = 224 standard deviations.
    """
    keys = np.arange(1000, dtype=np.uint64)
    weights = bootstrap_weights(keys, num_replicates=200, bootstrap_seed=7)
    neighbor = bootstrap_weights(keys, num_replicates=200, bootstrap_seed=8)
    limit = 4 / math.sqrt(weights.size)

    def correlation(a, b):
        return abs(float(np.corrcoef(a.ravel(), b.ravel())[0, 1]))

    assert correlation(weights, np.roll(weights, 1, axis=1)) < limit
    assert correlation(weights, np.roll(weights, 1, axis=0)) < limit
    assert correlation(weights, neighbor) < limit
    assert correlation(weights, np.roll(neighbor, -1, axis=0)) < limit
    shared = np.where(np.arange(1000) % 2 == 0, weights, neighbor)
    assert correlation(weights, shared) > limit


def test_intervals_cover_the_true_mean_in_95_percent_of_trials():
    """Null: the 95 % interval of the mean AUC covers 1/2 with probability 0.95.

    n = 800 trials of 150 users, false alarms 0.2 %, power against intervals of 2/3 (coverage .81) and 3/2
    (coverage .997) of the width above 99.9 %.
    """
    covered = dict.fromkeys((2 / 3, 1, 3 / 2), 0)
    for trial in range(NUM_TRIALS):
        auc = summarize(evaluate_random_model(trial, 0), item_popularity=np.ones(NUM_ITEMS))["auc"]
        for factor in covered:
            low = auc["mean"] + factor * (auc["low"] - auc["mean"])
            high = auc["mean"] + factor * (auc["high"] - auc["mean"])
            covered[factor] += low <= 0.5 <= high
    assert is_plausible(covered[1], 0.95), covered
    assert not is_plausible(covered[2 / 3], 0.95), covered
    assert not is_plausible(covered[3 / 2], 0.95), covered


def test_p_values_below_5_percent_occur_in_5_percent_of_trials_when_models_are_equally_good():
    """Null: two models that are equally good get p <= 0.05 with probability 0.05.

    n = 800 trials of 150 users, false alarms 0.2 %. Controls: reporting one tail, p / 2 (probability 0.10,
    power 99 %), and never reporting a significant difference (power 100 %).
    """
    pairs = [(evaluate_random_model(trial, 0), evaluate_random_model(trial, 1)) for trial in range(NUM_TRIALS)]
    p_values = np.array([difference(a, b, "auc")["p_value"] for a, b in pairs])
    assert is_plausible(np.count_nonzero(p_values <= 0.05), 0.05)
    assert not is_plausible(np.count_nonzero(p_values / 2 <= 0.05), 0.05)
    assert not is_plausible(0, 0.05)
    # Which model is better is a coin toss, and both tails are found.
    signs = np.array([difference(a, b, "auc")["mean"] > 0 for a, b in pairs])
    assert is_plausible(np.count_nonzero(signs), 0.5)
    assert 0 < np.count_nonzero(signs & (p_values <= 0.05)) < np.count_nonzero(p_values <= 0.05)


def test_a_paired_interval_is_narrower_than_that_of_independent_models():
    """Two models that differ for one user in ten: pairing cancels what they share."""
    rng = np.random.default_rng(0)
    scores = rng.random((NUM_USERS, NUM_ITEMS), dtype=np.float32)
    changed = scores.copy()
    changed[::10] = rng.random((NUM_USERS // 10, NUM_ITEMS), dtype=np.float32)
    keys = user_keys([str(user) for user in range(NUM_USERS)])
    targets, histories = list(np.zeros((NUM_USERS, 1), dtype=int)), [np.array([], dtype=int)] * NUM_USERS
    a, b = (evaluate_scores(s, histories, targets, user_keys=keys) for s in (scores, changed))
    single = [summarize(sums, item_popularity=np.ones(NUM_ITEMS))["auc"] for sums in (a, b)]
    unpaired = math.hypot(*(interval["high"] - interval["low"] for interval in single))
    paired = difference(a, b, "auc")
    assert paired["high"] - paired["low"] < unpaired / 2
