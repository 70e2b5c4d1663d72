"""What must be equal is equal: a client and centralized training, many clients and one, device and server."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from client.app import app as client_app
from server import checkpoints
from server.app import server_app
from shared.config import RunConfig
from shared.data.catalog import ItemCatalog
from shared.model.recommender import build, resident
from shared.model.state import RecommenderState
from tests import rounding, running
from tests.alone import evaluate, vector_of

LENGTH, ROUNDS, STEPS = 6, 3, 4


@pytest.fixture
def plain(tiny_config: RunConfig) -> RunConfig:
    """No noise, no clipping, and every user in every step, so that nothing is drawn at random."""
    return tiny_config.with_values(
        {
            "privacy.epsilon": math.inf, "privacy.delta": 0.0, "training.sampling_rate": 1.0,
            "training.random_windows": False, "training.local_steps": STEPS, "training.learning_rate": 0.05,
            "training.schedule": "constant", "federation.rounds": ROUNDS, "adapter.kind": "lora",
            "federation.clients": 1,
        }
    )  # fmt: skip


def _federated(
    folder: Path, config: RunConfig, histories: pl.DataFrame, catalog: ItemCatalog, **changes: Any
) -> RecommenderState:
    folder.mkdir()
    settings = {key.replace("__", "."): value for key, value in changes.items()}
    config = running.population(folder, config, histories, catalog, **settings)
    running.run_in_process(server_app(), client_app, num_nodes=config.federation.clients, run_config=config.to_flat())
    saved = checkpoints.load(folder / "run", config_digest=config.digest())
    return resident(config, catalog).read_state(saved.state)


def _centralized(
    config: RunConfig,
    histories: pl.DataFrame,
    catalog: ItemCatalog,
    optimizer_type: type[torch.optim.Optimizer],
) -> RecommenderState:
    """Ordinary training of the same model in one place: one loop over all users, by autograd alone."""
    recommender = build(config, catalog)
    model, parameters = recommender.attached.model, recommender.attached.parameters
    users = [list(history) for history in histories["train"]]

    weight_of = [0.0] * catalog.num_items
    for items in users:
        for item in set(items):
            weight_of[item] += 1 / math.sqrt(len(set(items)))
    weight_of = [max(weight, 0.05) for weight in weight_of]
    prior = np.array([math.log(weight / sum(weight_of)) for weight in weight_of], dtype=np.float32)
    model.set_log_prior(prior)

    for _ in range(ROUNDS):
        optimizer = optimizer_type(parameters, lr=config.training.learning_rate)  # type: ignore[call-arg]
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss = torch.zeros(())
            for items in users:
                recent = torch.tensor(items[-(LENGTH + 1) :])
                scores = model(recent[None, :-1])[0]
                chosen = torch.log_softmax(scores, dim=-1)[range(len(recent) - 1), recent[1:]]
                loss = loss - chosen.mean() / len(users)
            loss.backward()
            optimizer.step()
    return recommender.state()


@pytest.mark.parametrize(
    ("optimizer", "rate", "moved"),
    # Adam divides by the gradient's own size, so where that is tiny its step is rounding error: small steps
    # keep it small.
    [("sgd", 0.05, 0.05), ("adam", 0.002, 0.01)],
)
def test_one_client_without_noise_and_clipping_equals_centralized_training(
    optimizer: str,
    rate: float,
    moved: float,
    tmp_path: Path,
    plain: RunConfig,
    tiny_histories: pl.DataFrame,
    tiny_catalog: ItemCatalog,
) -> None:
    types = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
    config = plain.with_values({"training.optimizer": optimizer, "training.learning_rate": rate})
    federated = _federated(tmp_path / "run", config, tiny_histories, tiny_catalog)
    central = _centralized(config, tiny_histories, tiny_catalog, types[optimizer])
    rounding.assert_close(federated.log_prior, central.log_prior, within=rounding.rounding(sums=2, length=12))
    rounding.assert_close(federated.adapter, central.adapter, within=rounding.of_gradients(build(config, tiny_catalog)))
    assert np.abs(federated.adapter - build(config, tiny_catalog).initial_adapter).max() > moved


def test_many_clients_with_one_step_a_round_equal_one_client(
    tmp_path: Path, plain: RunConfig, tiny_histories: pl.DataFrame, tiny_catalog: ItemCatalog
) -> None:
    """In one, three and nine silos of equal size the mean of single steps is the step of all users."""
    one, three, nine = (
        _federated(
            tmp_path / str(clients),
            plain,
            tiny_histories,
            tiny_catalog,
            training__local_steps=1,
            federation__clients=clients,
        )
        for clients in (1, 3, 9)
    )
    for other in (three, nine):
        rounding.assert_close(other.log_prior, one.log_prior, within=rounding.rounding(sums=2, length=12))
        rounding.assert_close(other.adapter, one.adapter, within=rounding.of_gradients(build(plain, tiny_catalog)))
    # With several local steps the silos drift apart, so the equality above is no accident of the comparison.
    drifted = _federated(tmp_path / "drifted", plain, tiny_histories, tiny_catalog, federation__clients=3)
    central = _federated(tmp_path / "central", plain, tiny_histories, tiny_catalog)
    assert np.abs(drifted.adapter - central.adapter).max() > 1e-3


def test_seeds_decide_a_reproducible_run_and_nothing_else(
    tmp_path: Path, tiny_config: RunConfig, tiny_histories: pl.DataFrame, tiny_catalog: ItemCatalog
) -> None:
    def run(name: str, **changes: Any) -> np.ndarray:
        return _federated(tmp_path / name, tiny_config, tiny_histories, tiny_catalog, **changes).to_vector()

    first = run("first")
    np.testing.assert_array_equal(run("again"), first)
    assert np.abs(run("seed", run__seed=1) - first).max() > 1e-3
    assert np.abs(run("secret", run__reproducible=False) - run("secret again", run__reproducible=False)).max() > 1e-3


def test_device_and_server_rank_the_same_history_the_same_way(
    tmp_path: Path, tiny_config: RunConfig, tiny_histories: pl.DataFrame, tiny_catalog: ItemCatalog
) -> None:
    """The summed metrics of a device equal those from the server's own scores, user by user."""
    state = _federated(tmp_path / "run", tiny_config, tiny_histories, tiny_catalog)
    recommender = build(tiny_config, tiny_catalog)
    recommender.load_state(state)
    from tests import oracles

    k = tiny_config.evaluation.k
    totals: dict[str, float] = {}
    for user in tiny_histories.iter_rows(named=True):
        history = user["train"] + user["validation"]
        (scores,) = recommender.score([np.array(history, dtype=np.int32)])
        # No rank hangs on rounding: users who share a batch are scored in another order of additions.
        gaps = np.diff(np.sort(scores)) / np.abs(scores).max()
        assert gaps.min() > rounding.of_scores(recommender)
        for name, value in oracles.metrics_of_user(scores.tolist(), history, user["test"], k).items():
            totals[name] = totals.get(name, 0.0) + value
    sums = vector_of(evaluate(tiny_histories, recommender, tiny_config, target="test"))
    names = [
        f"hr@{k}",
        f"ndcg@{k}",
        f"mrr@{k}",
        f"map@{k}",
        f"precision@{k}",
        f"recall@{k}",
        f"f1@{k}",
        "auc",
    ]
    assert sums[0] == 9
    np.testing.assert_allclose(sums[1 : 1 + len(names)], [totals[name] for name in names], atol=1e-6)
