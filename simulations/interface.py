"""What Python code may call: `tacit.simulate`, `load`, `read`, `plan` and `compare`; `tacit.py` offers them by name.

Lives here: from arguments to the job that the command line does too, and its result as values. Never here: a default of a
setting, a metric or a privacy number. Imports happen inside the functions, so that `import tacit` answers at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from shared.command_line.environment import prepare_environment
from shared.errors import ConfigError, EpsilonOutOfReach
from shared.folder_claim import new_folder
from simulations.arguments import configuration

if TYPE_CHECKING:
    import polars as pl

    from shared.data.readers import Dataset
    from simulations.comparison.own import Baseline, Metric
    from simulations.finished_run import Run
    from simulations.recommendation import Recommender


def simulate(
    data: str | Path = "synthetic",
    *,
    epsilon: float = 8.0,
    rounds: int | Literal["auto"] = "auto",
    clients: int = 4,
    seed: int = 0,
    out: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    baselines: Mapping[str, Baseline] | None = None,
    metrics: Mapping[str, Metric] | None = None,
    progress: Callable[[dict[str, Any]], None] | None = None,
    quiet: bool = True,
    **more: Any,
) -> Run:
    """Runs a whole private federation on this machine, from interactions to a report.

    Args:
        data: File, folder, 'synthetic', or 'synthetic:' and the name of a domain. (private)
        epsilon: Bound of the run, > 0; infinity turns privacy off. (public)
        rounds: Rounds of the federation. (public)
        clients: Number of silos; 0 makes every user a client. (public)
        seed: Fixes data, skew and initialization; noise is secret unless `run__reproducible=True`, which is not private.
        out: Folder to write, new or empty; by default `runs/<time>-<name>`.
        settings: Any other setting by its dotted key, as `tacit config` lists them: `{"model.layers": 2}`. (public)
        baselines: Baselines of your own by name. NOT PRIVATE: they see exact histories of all users. Each is a function from
            a list of histories (int64 arrays of catalog rows in time order) to scores (B, I), higher is better. One with a
            method `fit(histories, num_items)` is fitted to the training histories first.
        metrics: Metrics of your own by name. NOT PRIVATE: they see what was held out of all users. Each is a function from
            lists (B, k) of catalog rows, best first, -1 where fewer items are left, and targets (B arrays of catalog rows)
            to one number a user, (B,).
        progress: Called after each round with `round_number`, `training_loss` and `validation` metrics. NOT PRIVATE: they
            are exact.
        quiet: Show nothing; otherwise a table on stderr.
        **more: The same as `settings`, with two underscores for the dot: `model__layers=2`. Declare a catalog that exists
            without these users with `data__public_catalog=True`; otherwise no claim covers it.

    Returns:
        The finished run.

    Raises:
        ConfigError: For a wrong setting; nothing is written.
        DataError: If the data cannot be used.
        TacitError: If the run could not go on; what was finished is in its folder.
        KeyboardInterrupt: What was finished is in its folder; `tacit simulate --resume` goes on with it, without your
            baselines and metrics.

    Example:
        run = tacit.simulate("ml-100k", epsilon=8, clients=0, data__public_catalog=True)
        run.metrics["ndcg@10"], run.claims, run.recommender().recommend(["50", "181"])
    """
    prepare_environment()
    named = {
        "data.path": data,
        "privacy.epsilon": epsilon,
        "federation.rounds": rounds,
        "federation.clients": clients,
        "run.seed": seed,
    }
    config = configuration(named, settings, more)
    from simulations.comparison.own import Own
    from simulations.finished_run import Run
    from simulations.preparing import default_run_dir
    from simulations.simulate import simulate as run_simulation

    own = Own({} if baselines is None else baselines, {} if metrics is None else metrics, progress)
    with new_folder(default_run_dir(config)) if out is None else nullcontext(Path(out)) as folder:
        run_simulation(config, folder, quiet=quiet, own=own)
    return Run.open(folder)


def load(folder: str | Path, *, new_items: str | Path | None = None) -> Recommender:
    """Opens the recommender that a run released.

    Args:
        folder: Of a finished run.
        new_items: A CSV, TSV or Parquet file of items that came after training, ranked with the others. (public)

    Raises:
        CheckpointError: If there is none, or its files do not belong together.
        DataError: If the new items cannot be used.

    Example:
        tacit.load("runs/first").recommend(["50", "181"], k=5)
    """
    prepare_environment()
    from simulations.recommendation import Recommender

    return Recommender.open(folder, new_items=new_items)


def read(
    path_or_name: str | Path = "synthetic",
    *,
    format: str = "auto",
    columns: str = "",
    vectors: str = "",
    order: Literal["time", "file"] = "time",
    bad_rows: Literal["refuse", "drop"] = "refuse",
    seed: int = 0,
) -> Dataset:
    """Reads a data set as a run would.

    Args:
        path_or_name: File, folder, 'synthetic', or 'synthetic:' and the name of a domain. (private)
        format: As of `tacit data describe --format`.
        columns: Column map of a table: 'user=uid,item=asin,timestamp=t'. (public)
        vectors: Files of item vectors: 'image=images.npy'. (public)
        order: 'file' where each user's rows stand in the order in which they happened.
        bad_rows: 'drop' leaves rows out that cannot be read, and counts them.
        seed: Makes a synthetic set.

    Returns:
        Interactions, catalog and what is known of users. (private)

    Raises:
        ConfigError: If a setting is wrong or does not apply to the format.
        DataError: If there is nothing at the path, or it cannot be used; the message says why.
    """
    from simulations.datasets import load_dataset

    return load_dataset(
        str(path_or_name), format=format, columns=columns, vectors=vectors, order=order, bad_rows=bad_rows, seed=seed
    )


def plan(
    data: str | Path = "synthetic",
    *,
    num_users: int | None = None,
    epsilon: float = 8.0,
    rounds: int | Literal["auto"] = "auto",
    clients: int = 4,
    settings: Mapping[str, Any] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Says what a configuration promises to whom, and what changing each knob would cost; nothing is run.

    Args:
        data: Looked at for the number of users and items; as of `simulate`. (private)
        num_users: A population to speak of instead of looking at data, >= 1. (public)
        epsilon: As of `simulate`. (public)
        rounds: As of `simulate`. (public)
        clients: As of `simulate`. (public)
        settings: As of `simulate`. (public)
        **more: As of `simulate`. (public)

    Returns:
        What `tacit privacy plan --json` prints: `claims`, `epsilon`, `delta`, `noise`, `knobs`, `assumptions`, ... (public)

    Raises:
        ConfigError: For a wrong setting.
        EpsilonOutOfReach: If no noise keeps the epsilon asked for.
        PrivacyError: If the configuration promises what cannot be claimed.
        DataError: If the data cannot be used.
    """
    if num_users is not None and num_users < 1:
        raise ConfigError(f"Expected num_users >= 1, got num_users={num_users}. Leave it out to look at the data.")
    named = {"data.path": data, "privacy.epsilon": epsilon, "federation.rounds": rounds, "federation.clients": clients}
    config = configuration(named, settings, more)
    from simulations.preparing import population_of
    from simulations.privacy_plan import explain

    config, users, found_clients, name, num_items = population_of(config, users=num_users)
    facts = explain(config, num_users=users, num_clients=found_clients, data_name=name, num_items=num_items)
    if refused := facts.get("refused"):
        raise EpsilonOutOfReach(str(refused))
    return facts


def compare(*runs: Run | str | Path) -> pl.DataFrame:
    """Compares finished runs on the same data with the first one, paired over users; NOT PRIVATE.

    Args:
        *runs: Runs or their folders, at least two.

    Returns:
        A row a run: its name and epsilon (null where it is not private), and of each metric the mean with its interval, and
        the difference to the first with interval and p-value. (private)

    Raises:
        ConfigError: If there are fewer than two, or they differ in data, split, seed, list length or replicates.
        CheckpointError: If one is not finished, or cannot be read.
    """
    import polars as pl

    from simulations.comparison.runs import compare_runs
    from simulations.finished_run import Run

    compared = compare_runs([one.folder if isinstance(one, Run) else Path(one) for one in runs])
    rows: list[dict[str, Any]] = []
    for row in compared["runs"]:
        columns: dict[str, Any] = {"run": row["name"], "epsilon": row["epsilon"], "delta": row["delta"]}
        for name in compared["metrics"]:
            estimate, difference = row["test"][name], (row["difference"] or {}).get(name, {})
            columns |= {name: estimate["mean"], f"{name}.low": estimate["low"], f"{name}.high": estimate["high"]}
            columns[f"{name}.difference"] = difference.get("mean")
            columns |= {f"{name}.difference.{end}": difference.get(end) for end in ("low", "high", "p_value")}
        rows.append(columns)
    return pl.DataFrame(rows, infer_schema_length=None)
