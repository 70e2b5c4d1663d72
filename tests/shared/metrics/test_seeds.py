"""Means and comparisons over users and seeds: by hand, paired, and as wide as both chances are."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from shared.errors import ConfigError
from shared.metrics import EvaluationSums, comparison_over_seeds, difference, mean_over_seeds, metric_names
from shared.metrics.bootstrap import resample

KEYS = np.random.default_rng(3).integers(0, 2**63, size=400, dtype=np.uint64)
NAME = "ndcg@10"


def sums_of(values: NDArray[np.float64], *, keys: NDArray[np.uint64] = KEYS, num_replicates: int = 400) -> EvaluationSums:
    """Sums in which every metric of user u is values[u]."""
    each = np.repeat(values[:, None], len(metric_names(10)), axis=1)
    replicate_sums, replicate_counts = resample(each, keys[: len(values)], num_replicates=num_replicates, bootstrap_seed=0)
    zero = EvaluationSums.zero(num_items=4, num_replicates=num_replicates)
    return EvaluationSums(
        zero.names, len(values), each.sum(axis=0), replicate_sums, replicate_counts, zero.item_counts, zero.histogram
    )


def users(seed: int, *, shift: float = 0.0) -> NDArray[np.float64]:
    return np.clip(np.random.default_rng(seed).random(400) * 0.5 + shift, 0.0, 1.0)


def width(estimate: dict[str, float | None]) -> float:
    assert estimate["low"] is not None and estimate["high"] is not None
    return estimate["high"] - estimate["low"]


def test_mean_and_comparison_over_seeds_are_those_of_the_means() -> None:
    runs, others = [sums_of(users(0)), sums_of(users(1))], [sums_of(users(2)), sums_of(users(3))]
    own = (users(0).mean() + users(1).mean()) / 2
    theirs = (users(2).mean() + users(3).mean()) / 2
    assert mean_over_seeds(runs, NAME)["mean"] == pytest.approx(own)
    compared = comparison_over_seeds(runs, others, NAME)
    assert compared["difference"]["mean"] == pytest.approx(own - theirs)
    assert compared["ratio"]["mean"] == pytest.approx(own / theirs)


def test_one_seed_gives_the_interval_over_users() -> None:
    run, other = sums_of(users(0)), sums_of(users(1))
    assert comparison_over_seeds([run], [other], NAME)["difference"] == pytest.approx(difference(run, other, NAME))


def test_seeds_that_agree_do_not_narrow_the_interval_over_users() -> None:
    """The same users in three runs say no more about other users than one run does."""
    run = sums_of(users(0))
    assert width(mean_over_seeds([run] * 3, NAME)) == pytest.approx(width(mean_over_seeds([run], NAME)))


def test_seeds_that_differ_widen_the_interval() -> None:
    apart = [sums_of(users(0, shift=shift)) for shift in (0.0, 0.2, 0.4)]
    assert width(mean_over_seeds(apart, NAME)) > 3 * width(mean_over_seeds([apart[0]], NAME))


def test_what_seeds_change_for_both_alike_cancels_in_the_comparison() -> None:
    runs = [sums_of(users(0, shift=shift + 0.02)) for shift in (0.0, 0.2, 0.4)]
    others = [sums_of(users(0, shift=shift)) for shift in (0.0, 0.2, 0.4)]
    compared = comparison_over_seeds(runs, others, NAME)
    assert width(compared["difference"]) < 0.02
    assert compared["difference"]["p_value"] == pytest.approx(2 / 401)
    assert compared["ratio"]["low"] is not None and compared["ratio"]["low"] > 1


def test_equal_recommenders_have_a_difference_of_nothing() -> None:
    runs = [sums_of(users(0)), sums_of(users(1))]
    compared = comparison_over_seeds(runs, runs, NAME)
    assert compared["difference"] == {"mean": 0.0, "low": 0.0, "high": 0.0, "p_value": 1.0}
    assert compared["ratio"] == {"mean": 1.0, "low": 1.0, "high": 1.0}


def test_without_replicates_users_or_a_divisor_nothing_is_made_up() -> None:
    alone = sums_of(users(0)[:1])
    assert mean_over_seeds([alone], NAME) == {"mean": pytest.approx(users(0)[0]), "low": None, "high": None}
    plain = sums_of(users(0), num_replicates=0)
    assert mean_over_seeds([plain], NAME)["low"] is None
    assert comparison_over_seeds([plain], [plain], NAME)["difference"]["p_value"] is None
    nothing = sums_of(np.zeros(400))
    assert comparison_over_seeds([sums_of(users(0))], [nothing], NAME)["ratio"] == {"mean": None, "low": None, "high": None}


def test_runs_that_cannot_be_paired_are_refused() -> None:
    run = sums_of(users(0))
    with pytest.raises(ConfigError, match="Expected as many runs of both recommenders, at least one, got runs=1, others=2"):
        comparison_over_seeds([run], [run, run], NAME)
    with pytest.raises(ConfigError, match="Expected a metric that all runs have, got name='ndcg@7'"):
        mean_over_seeds([run], "ndcg@7")
    with pytest.raises(ConfigError, match="Expected runs with equally many bootstrap replicates, got 20 and 400"):
        mean_over_seeds([run, sums_of(users(0), num_replicates=20)], NAME)
    with pytest.raises(
        ConfigError, match="Expected both recommenders to be evaluated on the same users and resampled alike"
    ):
        comparison_over_seeds([run], [sums_of(users(0)[:300])], NAME)
