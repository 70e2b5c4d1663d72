"""All baselines of a run: the cheap ones, SASRec, and our own model in settings that give less away or more.

`centralized` (everybody's data in one place), `federated` (this federation without privacy) and `local_only`
(each silo for itself) run the very same client code as the federation, so that a difference is due to the
setting and not to another trainer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, get_args

import numpy as np
import polars as pl

from shared import wording
from shared.config import RunConfig, schedule_factor
from shared.errors import CheckpointError, ConfigError
from shared.listing import split_list
from shared.metrics import EvaluationSums, users_at_once
from shared.protocol.messages import Target
from simulations.comparison import baselines
from simulations.comparison.own import RELEASED
from simulations.federation import run_federation
from simulations.record import BaselineResult, data_digest, read_record

if TYPE_CHECKING:
    from simulations.preparing import Prepared

# What can be had from the run's released popularity prior alone, at no further cost; only where there is one.
FROM_THE_PRIOR: Final = ("private_popularity", "private_text_similarity")
CHEAP: Final = (*baselines.CHEAP, *FROM_THE_PRIOR)
ALL: Final = (*CHEAP, "sasrec", "centralized", "federated", "local_only")

_BATCH_SIZE: Final = 512

_LABELS: Final = {
    "popularity": "popularity",
    "text_similarity": "text similarity + popularity",
    "item_knn": "item-kNN",
    "private_popularity": "private popularity",
    "private_text_similarity": "text similarity + private popularity",
    "sasrec": "SASRec, centralized",
    "centralized": "this model, centralized, no privacy",
    "federated": "this model, federated, no privacy",
    "local_only": "this model, each silo alone, no privacy",
}


def baseline_names(text: str) -> tuple[str, ...]:
    """Parses `evaluation.baselines`.

    Raises:
        ConfigError: For a name that is not known.
    """
    if text in ("", "none"):
        return ()
    if text in ("cheap", "all"):
        return CHEAP if text == "cheap" else ALL
    names: list[str] = []
    for name in split_list(text, name="evaluation.baselines"):
        names += CHEAP if name == "cheap" else [name.replace("-", "_")]
    for name in names:
        if name not in ALL:
            raise ConfigError(
                f"Expected evaluation.baselines from {', '.join(ALL)}, cheap, all or none, got '{name}'. Correct the name."
            )
    return tuple(dict.fromkeys(names))


def run_baselines(
    names: Sequence[str],
    config: RunConfig,
    prepared: Prepared,
    run_dir: Path,
    *,
    say: Callable[[str], None],
    own: Mapping[str, baselines.Scorer] = MappingProxyType({}),
    measure: Callable[[str, baselines.Scorer], None] = lambda key, scorer: None,
) -> list[BaselineResult]:
    """Trains and evaluates the named baselines on the same split, with the same bootstrap replicates.

    Args:
        names: From `ALL`.
        config: The run they stand beside.
        prepared: Its data. (private)
        run_dir: Its folder; trained baselines keep their own below `baselines/`.
        say: Called with one line a baseline.
        own: Baselines of a caller, fitted, by name.
        measure: Is shown each baseline that is a function from histories to scores. (private)
    """
    results = []
    for name in names:
        from_the_prior = name in FROM_THE_PRIOR
        if from_the_prior and not config.is_private:
            continue
        start = time.monotonic()
        sums = _evaluated(name, config, prepared, run_dir, measure)
        seconds = time.monotonic() - start
        results.append(BaselineResult(name, _LABELS[name], from_the_prior and not config.run.reproducible, sums, seconds))
        say(f"baseline {_LABELS[name]}: {seconds:.0f} s")
    for name, scorer in own.items():
        start = time.monotonic()
        sums = _judged(scorer, config, prepared)
        measure(name, scorer)
        results.append(BaselineResult(name, name, False, sums, time.monotonic() - start))
        say(f"baseline {name}: {results[-1].seconds:.0f} s")
    return results


def verify_own_names(names: Iterable[str]) -> None:
    """Refuses names of a caller's baselines that stand for something else in a record.

    Raises:
        ConfigError: If one is taken.
    """
    for name in names:
        if name in ALL or name == RELEASED or name.startswith("run_"):
            raise ConfigError(f"Expected names of baselines that are free, got name={name!r}. It is ours; choose another.")


def _evaluated(
    name: str, config: RunConfig, prepared: Prepared, run_dir: Path, measure: Callable[[str, baselines.Scorer], None]
) -> dict[str, EvaluationSums]:
    if name in (*baselines.ALL, *FROM_THE_PRIOR):
        plain = name in baselines.ALL
        scorer = _plain_baseline(name, config, prepared) if plain else _from_the_prior(name, config, prepared, run_dir)
        measure(name, scorer)
        return _judged(scorer, config, prepared)
    if name == "local_only":
        return _local_only(config, prepared)
    return _federated(name, config, prepared, run_dir / "baselines" / name)


def _plain_baseline(name: str, config: RunConfig, prepared: Prepared) -> baselines.Scorer:
    from shared.model.backbone import encode_texts

    vectors = encode_texts(prepared.dataset.catalog.texts, backbone=config.model.backbone, weights=config.model.weights)
    return baselines.fit_baseline(name, prepared.histories, item_embedding=vectors, seed=config.run.seed)


def _from_the_prior(name: str, config: RunConfig, prepared: Prepared, run_dir: Path) -> baselines.Scorer:
    """Recommenders made of the noised popularity prior that the run released, and public texts: what needs no training."""
    from safetensors.numpy import load_file

    from shared.model.backbone import encode_texts

    log_prior = load_file(run_dir / "adapter" / "prior.safetensors")["log_prior"]
    if name == "private_popularity":
        return baselines.fit_popularity(log_prior)
    vectors = encode_texts(prepared.dataset.catalog.texts, backbone=config.model.backbone, weights=config.model.weights)
    # Of so large counts log(1 + count) is log(count), up to a constant: the shares are all that is known.
    return baselines.fit_text_similarity(vectors, np.exp(log_prior) * 1e9)


def _judged(scorer: baselines.Scorer, config: RunConfig, prepared: Prepared) -> dict[str, EvaluationSums]:
    return {
        target: baselines.evaluate_baseline(
            scorer,
            prepared.histories,
            which=target,
            k=config.evaluation.k,
            num_replicates=config.evaluation.bootstrap_replicates,
            batch_size=users_at_once(prepared.dataset.catalog.num_items, _BATCH_SIZE),
        )
        for target in _targets(prepared.histories)
    }


def _federated(name: str, config: RunConfig, prepared: Prepared, folder: Path) -> dict[str, EvaluationSums]:
    """The same federation without privacy; with a single client that is centralized training."""
    import shutil

    from simulations.evaluation import Evaluator
    from simulations.population import write_population

    shutil.rmtree(folder, ignore_errors=True)  # left by an interrupted try
    clients = 1 if name == "centralized" else config.federation.clients
    plain = without_privacy(config).with_values(
        {
            "run.out": str(folder),
            "run.resume": False,
            "federation.clients": clients,
            # One client that stands for all is no small node.
            "adapter.client_ranks": "" if name == "centralized" else config.adapter.client_ranks,
            "federation.engine": "cohort",
            "data.population": str(folder / "population"),
            "evaluation.every_rounds": config.federation.rounds,
        }
    )
    summary = write_population(
        prepared.histories,
        prepared.dataset.catalog,
        prepared.dataset.user_attributes,
        folder / "population",
        clients=clients,
        sizes="equal" if clients == 1 else config.federation.sizes,
        attribute=config.federation.attribute,
        dirichlet_alpha=0.0 if clients == 1 else config.federation.dirichlet_alpha,
        seed=config.run.seed,
    )
    evaluator = Evaluator(plain, prepared.dataset.catalog, prepared.histories, folder)
    run_federation(plain, num_clients=summary.num_clients, observer=evaluator)
    return {target: _read_sums(folder, target, config, prepared) for target in _targets(prepared.histories)}


def _local_only(config: RunConfig, prepared: Prepared) -> dict[str, EvaluationSums]:
    """Each client trains on its own users from the public initialization and is judged on them."""
    from client.statistics.metrics import evaluate
    from client.statistics.popularity import count_items
    from client.store.population import read_clients
    from client.training.dp_sgd import TrainingTask, train
    from client.training.negatives import PublicNegatives
    from server.aggregation import popularity_prior
    from shared.model.recommender import resident
    from shared.model.state import RecommenderState
    from shared.privacy.calibration import plan_of
    from shared.randomness import replayable_source

    plain = without_privacy(config)
    plan = plan_of(plain, num_users=len(prepared.histories), num_clients=prepared.num_clients)
    training = plain.local_training()
    recommender = resident(plain, prepared.dataset.catalog)
    totals: dict[str, EvaluationSums] = {}
    for client in range(prepared.num_clients):
        rows = read_clients(Path(config.data.population), [client])
        train_histories = rows.histories["train"]
        source = replayable_source(config.run.seed, "local-only", client)
        (counts,) = count_items(train_histories, rows.client, num_clients=1, num_items=recommender.num_items)
        state = RecommenderState(
            log_prior=popularity_prior(counts, noise_stddev=0.0), adapter=recommender.initial_adapter.copy()
        )
        for round_number in range(1, plan.rounds + 1):
            factor = schedule_factor(training.schedule, round_number=round_number, rounds=plan.rounds)
            rate = training.learning_rate * factor
            negatives = PublicNegatives.of(plain, round_number)
            task = TrainingTask(state, train_histories, plan.expected_batch_size, rate, source, negatives=negatives)
            (update,) = train([task], recommender, plan, training)
            state = RecommenderState(log_prior=state.log_prior, adapter=state.adapter + update)
        recommender.load_state(state)
        for target in _targets(prepared.histories):
            (vector,) = evaluate(rows, recommender, plain, target=target, num_clients=1)
            settings = config.evaluation
            sums = EvaluationSums.from_vector(vector, recommender.num_items, settings.bootstrap_replicates, k=settings.k)
            totals[target] = totals[target] + sums if target in totals else sums
    return totals


def other_runs(config: RunConfig, prepared: Prepared) -> list[BaselineResult]:
    """Results of earlier runs on the same data and split, beside this run; differences are paired over users.

    Raises:
        ConfigError: If a folder holds no finished run, or one whose users or lists differ from this run's.
    """
    results = []
    for name in split_list(config.evaluation.compare, name="evaluation.compare"):
        folder = Path(name)
        try:
            record = read_record(folder)
            theirs, other = record["config"], record["privacy"]
            same = (
                record["data"]["digest"] == data_digest(prepared.dataset)
                and record["data"]["split"] == config.data.split
                and theirs["run"]["seed"] == config.run.seed
                and theirs["evaluation"]["k"] == config.evaluation.k
                and theirs["evaluation"]["bootstrap_replicates"] == config.evaluation.bootstrap_replicates
            )
            sums = {target: _read_sums(folder, target, config, prepared) for target in _targets(prepared.histories)}
        except (CheckpointError, OSError, ValueError, KeyError, TypeError):
            raise ConfigError(
                f"Expected a finished run with exact metrics in {folder.name}/ to compare with, could not "
                "read it. Give a folder that `tacit simulate` wrote."
            ) from None
        if not same:
            raise ConfigError(
                f"Expected the run in {folder.name}/ to have this run's data, split, seed, k and replicates, "
                "got others. Only runs on the same users and lists can be compared."
            )
        epsilon = f"epsilon {wording.epsilon_text(other['epsilon'])}" if other["is_private"] else "not private"
        results.append(
            BaselineResult(
                f"run_{folder.name}",
                f"run {record['name']} ({epsilon})",
                bool(other["is_private"]),
                {str(target): found for target, found in sums.items()},
                float(record["timings"].get("training_seconds", record["timings"].get("statistics_seconds", 0.0))),
            )
        )
    return results


def _read_sums(folder: Path, target: str, config: RunConfig, prepared: Prepared) -> EvaluationSums:
    return EvaluationSums.from_vector(
        np.load(folder / "evaluation" / f"{target}.npy"),
        prepared.dataset.catalog.num_items,
        config.evaluation.bootstrap_replicates,
        k=config.evaluation.k,
    )


def without_privacy(config: RunConfig) -> RunConfig:
    """The same run with privacy off."""
    return config.with_values({"privacy.epsilon": float("inf")})


def _targets(histories: pl.DataFrame) -> list[Target]:
    """The targets that at least one user has."""
    targets: tuple[Target, ...] = get_args(Target)
    return [name for name in targets if int(histories[name].list.len().sum()) > 0]
