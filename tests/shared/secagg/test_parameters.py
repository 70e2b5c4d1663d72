"""Sizes of neighborhoods: against exact fractions, against simulated graphs, and what is refused."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from shared.errors import ConfigError
from shared.secagg.parameters import Assumptions, Cohort, Neighborhoods, fewest_in_active_sums


@pytest.mark.parametrize(
    ("corrupt", "dropout", "degree", "with_whole_budgets"),
    [(0.05, 0.05, 33, 31), (0.2, 0.05, 59, 57), (0.2, 0.3, 160, 158), (0.33, 0.33, 315, 309)],
)
def test_degrees_at_a_thousand_clients_are_those_of_the_tails(
    corrupt: float, dropout: float, degree: int, with_whole_budgets: int
) -> None:
    """Spending all of 2**-40 and 2**-30 on the holders gives 31, 57, 158 and 309; half of each goes to other conditions."""
    assert Neighborhoods.derive(1000, Assumptions(corrupt, dropout, "curious")).degree == degree
    assert _smallest_by_scipy(round(1000 * corrupt), round(1000 * dropout), 2.0**-40, 2.0**-30) == with_whole_budgets
    assert _smallest_by_scipy(round(1000 * corrupt), round(1000 * dropout), 2.0**-41, 2.0**-31) == degree


def _smallest_by_scipy(corrupt: int, dropped: int, privacy: float, correctness: float) -> int:
    for degree in range(2, 999):
        thresholds = np.arange(1, degree + 1)
        closed = 1000 * stats.hypergeom.sf(thresholds - 1, 999, corrupt, degree) <= privacy
        open_ = 1000 * stats.hypergeom.sf(degree - thresholds, 999, dropped, degree) <= correctness
        if (closed & open_).any():
            return degree
    raise AssertionError


def _tail(total: int, marked: int, draws: int, at_least: int) -> Fraction:
    """P[X >= at_least] in exact fractions."""
    hits = sum(
        math.comb(marked, count) * math.comb(total - marked, draws - count)
        for count in range(at_least, min(marked, draws) + 1)
    )
    return Fraction(hits, math.comb(total, draws))


@pytest.mark.parametrize("size", [5, 40, 301])
@pytest.mark.parametrize(("corrupt", "dropout"), [(0.05, 0.05), (0.2, 0.3), (0.33, 0.33), (0.0, 0.2)])
def test_tails_of_the_chosen_sizes_keep_their_budgets_and_no_smaller_ones_do(
    size: int, corrupt: float, dropout: float
) -> None:
    chosen = Neighborhoods.derive(size, Assumptions(corrupt, dropout, "curious"))
    bad, gone = math.floor(size * corrupt + 1e-9), math.floor(size * dropout + 1e-9)
    others, degree, threshold = size - 1, chosen.degree, chosen.threshold
    assert size * _tail(others, bad, degree, threshold) <= Fraction(1, 2**41)
    assert size * _tail(others, gone, degree, degree - threshold + 1) <= Fraction(1, 2**31)
    # One more would break the second.
    assert size * _tail(others, gone, degree, degree - threshold) > Fraction(1, 2**31)
    cohort = Cohort(size, bad, gone)
    allowed = cohort.corrupt_holders(degree)
    assert size * _tail(others, bad, degree, allowed + 1) <= Fraction(1, 2**41)
    assert allowed == 0 or size * _tail(others, bad, degree, allowed) > Fraction(1, 2**41)
    assert degree == 1 or not cohort.is_enough(degree - 1, active=False)


def test_two_parts_of_the_honest_graph_are_as_rare_as_the_bound_says() -> None:
    """Simulated where it happens: the bound holds, and is not off by more than the sets that it counts twice."""
    rng = np.random.default_rng(0)
    cohort, degree, trials = Cohort(12, 3, 2), 2, 4000
    apart = sum(not _is_connected(rng, cohort, degree) for _ in range(trials)) / trials
    bound = math.exp(cohort.log_disconnected(degree))
    slack = 5 * math.sqrt(apart / trials)
    assert 0.02 < apart <= bound + slack
    assert bound < 3 * apart + slack


def _is_connected(rng: np.random.Generator, cohort: Cohort, degree: int) -> bool:
    honest = set(range(cohort.honest_survivors))
    edges: dict[int, set[int]] = {client: set() for client in honest}
    for client in honest:
        others = np.delete(np.arange(cohort.size), client)
        for drawn in honest & set(rng.choice(others, degree, replace=False).tolist()):
            edges[client].add(drawn)
            edges[drawn].add(client)
    reached, new = {0}, [0]
    while new:
        for other in edges[new.pop()] - reached:
            reached.add(other)
            new.append(other)
    return reached == honest


def test_corrupt_and_surviving_holders_of_drawn_graphs_are_distributed_as_the_tails_say() -> None:
    """Draws as clients make them, 20,000 of them: every count's share is within five standard errors of its tail."""
    rng, draws = np.random.default_rng(1), 20_000
    drawn = np.array([rng.permutation(99)[:20] for _ in range(draws)])
    corrupt = (drawn < 20).sum(axis=1)
    for at_least in range(21):
        tail = float(_tail(99, 20, 20, at_least))
        assert abs((corrupt >= at_least).mean() - tail) <= 5 * math.sqrt(tail * (1 - tail) / draws) + 5 / draws


@pytest.mark.parametrize(("corrupt", "dropout"), [(0.05, 0.05), (0.2, 0.05), (0.2, 0.3)])
def test_no_honest_holders_can_open_both_secrets_where_something_is_claimed_against_an_active_server(
    corrupt: float, dropout: float
) -> None:
    chosen = Neighborhoods.derive(1000, Assumptions(corrupt, dropout, "active"))
    bad = Cohort(1000, round(1000 * corrupt), round(1000 * dropout)).corrupt_holders(chosen.degree)
    assert 2 * chosen.threshold > chosen.degree + bad
    curious = Neighborhoods.derive(1000, Assumptions(corrupt, dropout, "curious"))
    assert curious.degree < chosen.degree
    assert curious.smallest_active_sum == 0


@pytest.mark.parametrize("size", [30, 120])
def test_the_smallest_sum_of_an_active_server_is_that_of_the_union_bound(size: int) -> None:
    """In exact fractions, in other words."""
    chosen = Neighborhoods.derive(size, Assumptions(0.1, 0.1, "active"))
    bad = size // 10
    needed = chosen.threshold - Cohort(size, bad, size // 10).corrupt_holders(chosen.degree)
    total, members = Fraction(0), 1
    while True:
        members += 1
        inside = _tail(size - 1, members - 1, chosen.degree, needed)
        total += math.comb(size - bad, members) * inside**members
        if total > Fraction(1, 2**41) or members == size - bad:
            break
    assert chosen.smallest_active_sum == members
    assert members > needed


@pytest.mark.parametrize("size", [3, 4, 10, 1000, 10_000])
def test_in_degrees_of_honest_draws_stay_below_the_cap(size: int) -> None:
    chosen = Neighborhoods.derive(size, Assumptions(0.0, 0.0, "curious"))
    tail = size * stats.binom.sf(chosen.largest_in_degree, size - 1, chosen.degree / (size - 1))
    assert tail <= 2.0**-31
    assert chosen.largest_in_degree == size - 1 or size * stats.binom.sf(
        chosen.largest_in_degree - 1, size - 1, chosen.degree / (size - 1)
    ) > 2.0**-31  # fmt: skip


def test_neighborhoods_are_complete_where_nothing_smaller_is_enough() -> None:
    assert Neighborhoods.derive(3, Assumptions(1 / 3, 0.0)) == Neighborhoods(3, 2, 2, 2, 2)
    assert Neighborhoods.derive(10, Assumptions(0.2, 0.3)).degree == 9


@pytest.mark.parametrize("size", [-1, 2, 10_001])
def test_a_cohort_out_of_range_is_refused(size: int) -> None:
    with pytest.raises(ConfigError, match=rf"Expected num_clients in \[3, 10000\], got num_clients={size}\."):
        Neighborhoods.derive(size, Assumptions(0.0, 0.0))


def test_a_cohort_without_any_sufficient_degree_is_refused_with_the_reason() -> None:
    with pytest.raises(ConfigError, match=r"Expected more surviving than corrupt holders, got num_clients=100, corrupt=50"):
        Neighborhoods.derive(100, Assumptions(0.5, 0.5, "curious"))
    with pytest.raises(ConfigError, match=r"Expected 1 - dropout_fraction > \(1 \+ corrupt_fraction\) / 2, got num"):
        Neighborhoods.derive(100, Assumptions(0.33, 0.34, "active"))
    assert Neighborhoods.derive(100, Assumptions(0.33, 0.34, "curious")).smallest_active_sum == 0


@pytest.mark.parametrize("values", [(-0.1, 0.0), (1.0, 0.0), (0.0, 1.0), (math.nan, 0.0)])
def test_an_assumption_out_of_range_is_refused(values: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match=r"Expected (corrupt|dropout)_fraction in \[0, 1\)"):
        Assumptions(*values)


def test_an_unknown_kind_of_server_is_refused() -> None:
    with pytest.raises(ConfigError, match="Expected server curious or active, got server=honest"):
        Assumptions(0.0, 0.0, "honest")  # type: ignore[arg-type]


def test_nobody_corrupt_and_nobody_lost_still_needs_a_graph_in_one_part() -> None:
    """Here nothing but connectivity asks for neighbors."""
    chosen = Neighborhoods.derive(1000, Assumptions(0.0, 0.0, "curious"))
    cohort = Cohort(1000, 0, 0)
    assert cohort.log_disconnected(chosen.degree) <= -41 * math.log(2) < cohort.log_disconnected(chosen.degree - 1)


@pytest.mark.parametrize(("fewest", "most"), [(3, 40), (95, 200), (893, 1300)])
def test_a_runs_cohorts_promise_at_least_what_its_plan_counts_on(fewest: int, most: int) -> None:
    """Every size is tried out here; only few are where the range is long, and what is left out for that is enough."""
    assumed = Assumptions(0.05, 0.05)
    promised = [Neighborhoods.derive(size, assumed).smallest_active_sum for size in range(fewest, most + 1)]
    counted = fewest_in_active_sums(fewest, most, assumed)
    assert 0.9 * min(promised) <= counted <= min(promised)
    assert len(promised) > 128 or counted == min(promised)


def test_a_plan_counts_on_nobody_where_an_active_server_opens_both_secrets_or_no_cohort_is_possible() -> None:
    assert fewest_in_active_sums(1000, 1010, Assumptions(0.2, 0.05, "curious")) == 0
    assert fewest_in_active_sums(100, 110, Assumptions(0.5, 0.5)) == 0
