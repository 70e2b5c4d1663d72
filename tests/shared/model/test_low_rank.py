"""The algebra of factors: products, truncation and its error, prefixes, against dense matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.pytorch_utils import Conv1D

from shared.config import RunConfig
from shared.model import adapter as lora
from shared.model.low_rank import Cut, Pair, Product, prefix_mask, truncated
from shared.model.recommender import Recommender, build
from tests import rounding

# Two modules of ranks 3 and 2 in an order of tensors as peft's names have it: A before B.
PAIRS = (Pair("first", 3, 5, 4, a=0, b=12), Pair("second", 2, 3, 6, a=27, b=39))
SIZE = 45


def _dense(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Sum over the rank, one outer product after the other."""
    return sum(np.outer(left[:, k], right[k]) for k in range(left.shape[1]))  # type: ignore[return-value]


def test_factors_are_read_from_and_written_to_their_own_places() -> None:
    vector = np.arange(SIZE, dtype=np.float32)
    b, a = PAIRS[1].factors(vector)
    np.testing.assert_array_equal(a, np.arange(27, 39).reshape(2, 6))
    np.testing.assert_array_equal(b, np.arange(39, 45).reshape(3, 2))
    copy = np.zeros_like(vector)
    for pair in PAIRS:
        pair.put(copy, *pair.factors(vector))
    np.testing.assert_array_equal(copy, vector)


@pytest.mark.parametrize("frozen", ["a", "b"])
def test_a_frozen_factor_is_not_in_the_vector(frozen: str) -> None:
    pair = Pair("first", 3, 5, 4, **{"a": 0, "b": 0, frozen: None})
    with pytest.raises(ValueError, match="a frozen factor does not lie in the flat vector"):
        pair.factors(np.zeros(27, dtype=np.float32))


@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    ranks=st.lists(st.integers(1, 3), min_size=1, max_size=7),
    scale=st.floats(1e-3, 1e3),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_a_sum_of_products_is_that_of_dense_matrices_stacked_or_not(
    shape: tuple[int, int], ranks: list[int], scale: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    product, expected = Product(*shape), np.zeros(shape)
    for rank in ranks:
        left, right = scale * rng.normal(size=(shape[0], rank)), rng.normal(size=(rank, shape[1]))
        product.add(left, right)
        expected += _dense(left, right)
    np.testing.assert_allclose(product.dense(), expected, rtol=1e-9, atol=1e-9 * scale)
    np.testing.assert_allclose(product.scaled(0.25).dense(), expected / 4, rtol=1e-9, atol=1e-9 * scale)
    u, values, v = product.decomposed()
    np.testing.assert_allclose((u * values) @ v, expected, rtol=1e-9, atol=1e-9 * scale)
    truth = np.linalg.svd(expected, compute_uv=False)
    np.testing.assert_allclose(values[: len(truth)][: min(shape)], truth[: len(values)], rtol=1e-7, atol=1e-9 * scale)


def test_a_product_never_takes_more_memory_than_the_dense_matrix() -> None:
    product, rng = Product(200, 10), np.random.default_rng(0)
    largest = 0
    for _ in range(30):
        product.add(rng.normal(size=(200, 2)), rng.normal(size=(2, 10)))
        held = [value for value in vars(product).values() if isinstance(value, list | np.ndarray)]
        sizes = [sum(part.size for part in value) if isinstance(value, list) else value.size for value in held]
        largest = max(largest, sum(sizes))
    assert largest <= 200 * 10


@given(
    shape=st.tuples(st.integers(1, 10), st.integers(1, 10)),
    inner=st.integers(1, 12),
    rank=st.integers(1, 6),
    seed=st.integers(0, 99),
)
@settings(max_examples=80, deadline=None)
def test_a_truncation_is_the_best_of_its_rank_and_states_its_error(
    shape: tuple[int, int], inner: int, rank: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    product = Product(*shape)
    product.add(rng.normal(size=(shape[0], inner)), rng.normal(size=(inner, shape[1])))
    dense = product.dense()
    b, a, cut = truncated(product, rank)
    assert (b.shape, a.shape) == ((shape[0], rank), (rank, shape[1]))
    error, whole = np.linalg.norm(dense - b @ a), np.linalg.norm(dense)
    # The oracle of the best error: eigenvalues of the Gram matrix, another algorithm.
    gram = np.sort(np.linalg.eigvalsh(dense @ dense.T))[::-1]
    best = np.sqrt(max(gram[rank:].sum(), 0.0))
    assert error == pytest.approx(best, rel=1e-5, abs=1e-6 * whole)
    assert cut.share == pytest.approx(error / whole, rel=1e-5, abs=1e-6)
    for _ in range(5):  # no other matrix of that rank that we try is closer
        q, _ = np.linalg.qr(rng.normal(size=(shape[0], min(rank, shape[0]))))
        assert np.linalg.norm(dense - q @ q.T @ dense) >= error - 1e-9 * whole


def test_factors_of_a_truncation_are_balanced_largest_first_and_of_fixed_sign() -> None:
    rng = np.random.default_rng(3)
    left, right = rng.normal(size=(7, 4)), rng.normal(size=(4, 6))
    product, turned = Product(7, 6), Product(7, 6)
    product.add(left, right)
    turned.add(-left[:, ::-1], -right[::-1])  # the same product by other factors
    b, a, _ = truncated(product, 4)
    np.testing.assert_allclose(np.linalg.norm(b, axis=0), np.linalg.norm(a, axis=1))
    assert (np.diff(np.linalg.norm(b, axis=0)) < 0).all()
    assert (b[np.abs(b).argmax(axis=0), np.arange(4)] > 0).all()
    for found, expected in zip(truncated(turned, 4)[:2], (b, a), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-12)
    # A prefix is the truncation to that rank.
    smaller_b, smaller_a, _ = truncated(product, 2)
    np.testing.assert_allclose(b[:, :2] @ a[:2], smaller_b @ smaller_a, atol=1e-12)


def test_the_truncation_of_nothing_is_nothing_and_cuts_nothing() -> None:
    for product in (Product(3, 4), Product(3, 4)):
        product.add(np.zeros((3, 2)), np.ones((2, 4)))
        b, a, cut = truncated(product, 2)
        assert not b.any()
        assert not a.any()
        assert cut.share == 0.0


def test_errors_of_modules_add_up_as_squares() -> None:
    together = Cut(cut=9.0, whole=25.0) + Cut(cut=7.0, whole=75.0)
    assert together.share == pytest.approx(0.4)


@pytest.mark.parametrize("largest", [1, 2, 3, None])
def test_a_prefix_holds_the_first_rows_of_a_and_the_first_columns_of_b(largest: int | None) -> None:
    mask = prefix_mask(PAIRS, SIZE, largest)
    for pair in PAIRS:
        vector = mask.astype(np.float32)
        b, a = pair.factors(vector)
        kept = pair.rank if largest is None else min(largest, pair.rank)
        assert b.sum() == kept * pair.out_features
        assert a.sum() == kept * pair.in_features
        assert b[:, :kept].all()
        assert a[:kept].all()
    assert mask.all() == (largest is None or largest >= 3)


@pytest.fixture(scope="module", params=["tiny_bert", "tiny_gpt2"])
def recommender(request: pytest.FixtureRequest, tiny_config: RunConfig, tiny_catalog: Any) -> Recommender:
    """Both factors of everything are trained, item factors at the input too, and all are away from zero."""
    values = {
        "model.backbone": request.getfixturevalue(request.param), "privacy.epsilon": float("inf"), "adapter.item_rank": 2,
        "adapter.scaling": 0.5,
    }  # fmt: skip
    built = build(tiny_config.with_values(values), tiny_catalog)
    rng = np.random.default_rng(0)
    built.attached.load_vector(rng.normal(0, 0.5, built.attached.size).astype(np.float32))
    return built


def test_the_pairs_of_an_adapter_are_the_factors_that_peft_multiplies(recommender: Recommender) -> None:
    attached = recommender.attached
    vector = attached.to_vector()
    assert sum(pair.rank * (pair.out_features + pair.in_features) for pair in attached.pairs) == attached.size
    for pair in attached.pairs:
        layer = attached.model.get_submodule(pair.module)
        expected = layer.get_delta_weight("default").detach().numpy()  # in the layout of the layer's own weight
        b, a = pair.factors(vector)
        turned = isinstance(layer.get_base_layer(), Conv1D | torch.nn.Embedding)
        rounding.assert_close(
            0.5 * _dense(b, a), expected.T if turned else expected, within=rounding.rounding(length=pair.rank)
        )
    assert {"item_embedding", "item_head", "input_projection", "output_projection"} < {p.module for p in attached.pairs}


def test_truncating_an_adapter_to_its_own_rank_changes_no_score_and_to_less_by_what_it_states(
    recommender: Recommender,
) -> None:
    attached, histories = recommender.attached, [np.array([1, 5, 2]), np.array([0])]
    kept = attached.to_vector()
    expected = recommender.score(histories)
    before = {pair.module: _dense(*pair.factors(kept)) for pair in attached.pairs}
    whole = lora.truncate(attached, 3)
    assert max(cut.share for cut in whole.values()) < rounding.rounding(sums=2, length=3)  # factors are float32
    rounding.assert_close(recommender.score(histories), expected, within=rounding.of_model(attached.model))
    cuts = lora.truncate(attached, 1)
    assert np.abs(recommender.score(histories) - expected).max() > 1e-2
    after = attached.to_vector()
    for pair in attached.pairs:
        error = np.linalg.norm(before[pair.module] - _dense(*pair.factors(after)))
        assert cuts[pair.module].share == pytest.approx(error / np.linalg.norm(before[pair.module]), rel=1e-4)
        assert cuts[pair.module].share > 0.01
    attached.load_vector(kept)
