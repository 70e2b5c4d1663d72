"""Robust rules: the bound that each states holds whatever the faulty send, and a mean without a rule breaks it."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from server.product_mean import aggregated
from server.robust import Median, MultiKrum, RobustProducts, RobustSum, Rule, TrimmedMean, rule_of
from shared.config import RunConfig, ServerSection
from shared.config.checks import fewest_replies
from shared.errors import ConfigError, SensitivityError
from shared.model.low_rank import Pair
from shared.model.state import RecommenderState
from shared.protocol.wire import SparseValues
from tests import rounding

Rows = NDArray[np.float64]
RULES = {"median": Median, "trimmed-mean": TrimmedMean, "multi-krum": MultiKrum}
PAIRS = (Pair("layer", 2, 5, 4, a=0, b=8), Pair("head", 1, 7, 4, a=18, b=22))
SIZE = 29


def _sum(rows: Rows, rule: Rule) -> RobustSum:
    total = RobustSum(rows.shape[1], rule)
    for row in rows:
        total.add(row.astype(np.float32))
    return total


def _attacked(honest: Rows, faulty: int, kind: str, rng: np.random.Generator) -> Rows:
    """What `faulty` silos send that know what all others sent."""
    size, center, spread = honest.shape[1], honest.mean(axis=0), honest.std(axis=0)
    sent = {
        "huge": lambda: np.full(size, 1e6),
        "opposite": lambda: -10.0 * center,
        "among the honest": lambda: center + 1.5 * spread,  # "a little is enough" (Baruch et al. 2019)
        "a copy": lambda: honest[np.argmax(np.linalg.norm(honest - center, axis=1))],
        "one coordinate": lambda: center + np.eye(1, size, 0)[0] * 50.0,
        "anything": lambda: rng.normal(0, 10.0 ** rng.uniform(-3, 5), size),
    }
    return np.stack([sent[kind]() for _ in range(faulty)])


KINDS = ("huge", "opposite", "among the honest", "a copy", "one coordinate", "anything")


@given(
    name=st.sampled_from(list(RULES)),
    faulty=st.integers(1, 3),
    more=st.integers(0, 4),
    kind=st.sampled_from(KINDS),
    size=st.integers(1, 6),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=300, deadline=None)
def test_what_the_faulty_send_moves_the_result_by_no_more_than_the_stated_bound(
    name: str, faulty: int, more: int, kind: str, size: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    rule = RULES[name](faulty)
    clients = rule.fewest + more
    honest = rng.normal(rng.normal(0, 3, size), 10.0 ** rng.uniform(-2, 1), (clients - faulty, size))
    honest = honest.astype(np.float32).astype(np.float64)
    bad = _attacked(honest, faulty, kind, rng)
    found = _sum(np.vstack([honest, bad]), rule).mean().astype(np.float64)
    ordered, slack = np.sort(honest, axis=0), rounding.rounding(sums=clients) * (np.abs(honest).max() + 1e-30)
    if name == "multi-krum":
        widest = max(float(np.linalg.norm(a - b)) for a, b in itertools.combinations(honest, 2))
        factor = 2 + math.sqrt((clients - faulty - 2) / (clients - 2 * faulty - 1))
        assert np.linalg.norm(found - honest.mean(axis=0)) <= widest * faulty / (clients - faulty) * factor + slack
        return
    inner = clients - 2 * faulty
    lowest, highest = ordered[:1].mean(axis=0), ordered[-1:].mean(axis=0)
    if name == "trimmed-mean":
        lowest, highest = ordered[:inner].mean(axis=0), ordered[-inner:].mean(axis=0)
    assert (found >= lowest - slack).all()
    assert (found <= highest + slack).all()


@pytest.mark.parametrize("name", RULES)
def test_one_more_faulty_silo_than_the_rule_expects_can_break_the_bound(name: str) -> None:
    """The negative control."""
    rule = RULES[name](1)
    honest = np.random.default_rng(0).normal(size=(rule.fewest - 2, 3))
    assert np.abs(_sum(np.vstack([honest, np.full((2, 3), 1e3)]), rule).mean()).max() > 100


def _oracle(rows: list[list[float]], name: str, faulty: int) -> list[float]:
    """The rules in plain arithmetic."""
    count, size = len(rows), len(rows[0])
    if name != "multi-krum":
        columns = [sorted(row[place] for row in rows) for place in range(size)]
        if name == "median":
            return [(column[(count - 1) // 2] + column[count // 2]) / 2 for column in columns]
        return [sum(column[faulty : count - faulty]) / (count - 2 * faulty) for column in columns]
    scores = []
    for one, row in enumerate(rows):
        away = sorted(
            sum((x - y) ** 2 for x, y in zip(row, other, strict=True)) for two, other in enumerate(rows) if two != one
        )
        scores.append(sum(away[: count - faulty - 2]))
    kept = sorted(range(count), key=lambda one: scores[one])[: count - faulty]
    return [sum(rows[one][place] for one in kept) / len(kept) for place in range(size)]


@given(name=st.sampled_from(list(RULES)), faulty=st.integers(1, 3), more=st.integers(0, 4), seed=st.integers(0, 10**6))
@settings(max_examples=100, deadline=None)
def test_a_rule_is_what_its_paper_says(name: str, faulty: int, more: int, seed: int) -> None:
    rule = RULES[name](faulty)
    rows = np.random.default_rng(seed).normal(5, 1, (rule.fewest + more, 4)).astype(np.float32).astype(np.float64)
    total = _sum(rows, rule)
    expected = np.array(_oracle(rows.tolist(), name, faulty))
    rounding.assert_close(total.mean(), expected, within=rounding.rounding(sums=len(rows)))
    rounding.assert_close(total.total, len(rows) * expected, within=rounding.rounding(sums=len(rows)))


def test_a_trimmed_mean_leaves_out_as_many_as_it_says() -> None:
    """f / n * n may be rounded to less than f: these are the numbers for which it is."""
    rounded_down = [(n, f) for n in range(3, 200) for f in range(1, (n - 1) // 2 + 1) if int(f / n * n) < f]
    assert rounded_down
    for count, faulty in rounded_down:
        rows = np.zeros((count, 1))
        rows[:faulty] = 1e9
        assert TrimmedMean(faulty).mean(rows)[0] == 0.0


@pytest.mark.parametrize("name", RULES)
def test_the_order_of_replies_changes_no_bit(name: str) -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(9, 50)) * 10.0 ** rng.uniform(-6, 0, 50)
    first = _sum(rows, RULES[name](2)).total
    for _ in range(10):
        assert (_sum(rng.permutation(rows), RULES[name](2)).total == first).all()


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_multi_krum_sees_small_differences_beside_what_all_have_in_common(offset: float) -> None:
    """Squared lengths of 1e4 leave no difference of 1e-4 in float64 differences of them."""
    rng = np.random.default_rng(2)
    rows = offset + rng.normal(0, 1e-4, (7, 3))
    rows[3] += 1e-2
    assert MultiKrum(2)._chosen(rows) == _nearest(rows)
    assert 3 not in _nearest(rows)


def _nearest(rows: Rows) -> list[int]:
    scores = [sum(sorted(float(np.sum((row - other) ** 2)) for other in rows)[1:4]) for row in rows]
    return sorted(np.argsort(scores)[:5].tolist())


@pytest.mark.parametrize("name", RULES)
def test_the_noise_left_in_the_result_is_at_most_what_is_stated(name: str) -> None:
    """Null: the standard deviation of 300 x 200 results of noise alone is at most factor / sqrt(n); its error is 0.3 %.

    Negative control: of five replies it is more than that of a mean, which a factor of 1 would state.
    """
    rng = np.random.default_rng(3)
    for count in (5, 8, 15):
        rule = RULES[name](1)
        found = np.concatenate([rule.mean(rng.normal(size=(count, 200))) for _ in range(300)])
        of_mean = 1 / math.sqrt(count)
        assert found.std() <= rule.noise_factor(count) * of_mean * 1.012
        assert count > 5 or found.std() > of_mean * 1.012


@pytest.mark.parametrize("name", RULES)
def test_what_a_silo_sends_without_all_its_rank_is_left_out(name: str) -> None:
    total = RobustSum(3, RULES[name](1))
    with pytest.raises(SensitivityError, match=r"Expected an update of the whole rank, which server\.rule compares"):
        total.add(np.zeros(3, dtype=np.float32), np.array([True, False, True]))
    assert total.count == 0


def test_values_without_their_zeros_are_taken_whole() -> None:
    total = RobustSum(4, Median(1))
    for _ in range(3):
        total.add(SparseValues(4, np.array([1, 3]), np.array([2.0, 5.0], dtype=np.float32)))
    assert total.mean().tolist() == [0.0, 2.0, 0.0, 5.0]


# On the products BA.


def _products(vector: Rows) -> Rows:
    """Both products, multiplied entry by entry, as one vector."""
    layer = np.einsum("or,ri->oi", vector[8:18].reshape(5, 2), vector[:8].reshape(2, 4))
    head = np.einsum("or,ri->oi", vector[22:29].reshape(7, 1), vector[18:22].reshape(1, 4))
    return np.concatenate([layer.ravel(), head.ravel()])


def _found(adapter: Rows, updates: Rows, rule: Rule) -> tuple[RobustProducts, Rows]:
    total = RobustProducts(PAIRS, adapter.astype(np.float32), rule)
    for update in updates:
        total.add(update.astype(np.float32))
    return total, np.concatenate([product.dense().ravel() for product in total.means()])


@pytest.mark.parametrize("name", RULES)
def test_a_rule_on_products_is_the_rule_on_what_the_factors_multiply_to(name: str) -> None:
    rng = np.random.default_rng(4)
    start, updates = rng.normal(size=SIZE), rng.normal(size=(7, SIZE))
    products = [_products(start.astype(np.float32) + update.astype(np.float32).astype(float)) for update in updates]
    total, found = _found(start, updates, RULES[name](2))
    expected = np.array(_oracle([product.tolist() for product in products], name, 2))
    np.testing.assert_allclose(found, expected, atol=1e-10)
    assert total.count == 7
    state = RecommenderState(
        np.zeros(3, np.float32), start.astype(np.float32), np.zeros(sum(pair.size for pair in PAIRS), dtype=np.float32)
    )
    new = aggregated(total, state, PAIRS, initial=state.adapter, keeps_residual=True).state
    held = _products(new.adapter.astype(float)) + new.residual.astype(float)
    np.testing.assert_allclose(held, expected, atol=1e-5)


def test_the_same_product_from_other_factors_is_no_outlier() -> None:
    """Silo 0 sends 3 B and A / 3: as a vector it is the farthest, as a model it is one of the honest."""
    rng = np.random.default_rng(5)
    one = rng.normal(size=SIZE)
    adapters = one + rng.normal(0, 0.05, (6, SIZE))
    for pair in PAIRS:
        assert pair.a is not None and pair.b is not None
        adapters[0, pair.a : pair.a + pair.rank * 4] /= 3.0
        adapters[0, pair.b : pair.b + pair.rank * pair.out_features] *= 3.0
    adapters[1] += 0.5  # the faulty one
    kept = MultiKrum(1)._chosen(adapters)
    assert 0 not in kept and 1 in kept
    _, found = _found(np.zeros(SIZE), adapters, MultiKrum(1))
    honest = np.mean([_products(adapters[place].astype(np.float32).astype(float)) for place in (0, 2, 3, 4, 5)], axis=0)
    np.testing.assert_allclose(found, honest, atol=1e-10)


# Settings.


def test_the_settings_name_the_rule_and_how_many_replies_it_needs() -> None:
    assert rule_of(ServerSection()) is None
    for name, kind in RULES.items():
        section = ServerSection(rule=name, faulty_clients=2)  # type: ignore[arg-type]
        rule = rule_of(section)
        assert isinstance(rule, kind)
        assert rule.fewest == fewest_replies(section) == {"multi-krum": 7}.get(name, 5)
        assert rule.faulty == 2


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "users' updates": ({"federation.clients": 0}, "Its noise is made for a sum of users' contributions"),
    "shares": ({"federation.clients": 0, "privacy.mechanism": "distributed"}, "Its noise is made for a sum"),
    "turns": ({"privacy.mechanism": "dp-ftrl-silo"}, "Its noise is taken back step by step"),
    "ranks": ({"privacy.epsilon": "inf", "adapter.client_ranks": "4,2"}, "Clients of a smaller rank send a prefix"),
    "few": ({"federation.clients": 4, "server.faulty_clients": 2}, "its bound holds from 5 clients on, and there are 4"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_rule_is_refused_where_it_cannot_hold(case: str) -> None:
    changes, reason = REFUSED[case]
    settings = {"federation.clients": 9, "server.rule": "median", **changes}
    with pytest.raises(ConfigError, match=r"Expected server\.rule=mean with these settings, got server\.rule=med") as caught:
        RunConfig.from_mapping(settings)
    assert reason in str(caught.value)


def test_a_rule_is_taken_where_silos_add_their_own_noise_or_nobody_does() -> None:
    for changes in ({}, {"privacy.epsilon": "inf"}, {"privacy.epsilon": "inf", "adapter.aggregation": "stack"}):
        config = RunConfig.from_mapping({"federation.clients": 5, "server.rule": "multi-krum", **changes})
    assert rule_of(config.server) == MultiKrum(config.server.faulty_clients)
