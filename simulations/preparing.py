"""What stands ready before a federation begins: the data set, its split, and the folder that its clients open.

Lives here: from a configuration to `Prepared`, and what a plan or a partition needs of the same data. Never here: a check of
what a run would cost (`feasibility.py`), or a round (`simulate.py`).
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from client.store.population import DATA_NAME, open_population
from shared.config import RunConfig
from shared.data.readers import Dataset
from shared.data.readers.modalities import lasting
from shared.data.splitting import SplitResult, split
from shared.errors import CheckpointError, ConfigError
from shared.files import write_json
from shared.folder_claim import claimed, contents
from shared.run_folder import CONFIG, EVENTS, POPULATION, check_unused, half_written, load_catalog
from simulations.datasets import is_synthetic, load_dataset
from simulations.population import PopulationSummary, write_population

if TYPE_CHECKING:
    from simulations.cold_items import ColdItems


@dataclass(frozen=True, eq=False)
class Prepared:
    """Data that is ready for a federation.

    Attributes:
        dataset: What was read.
        split: Histories and what the split left aside. (private)
        num_clients: Clients the users were spread over.
        cold: Items that were held out as new, where any were. (private)
    """

    dataset: Dataset
    split: SplitResult
    num_clients: int
    cold: ColdItems | None = None

    @property
    def histories(self) -> pl.DataFrame:
        """The HISTORIES TABLE of all users. (private)"""
        return self.split.histories


def located(config: RunConfig, run_dir: Path) -> RunConfig:
    """The configuration with absolute paths, so that the run can be continued and asked from anywhere."""
    from shared.model.backbone import DEFAULT_BACKBONE

    paths = {"run.out": run_dir, "data.population": run_dir / POPULATION}
    if config.privacy.ledger:
        paths["privacy.ledger"] = Path(config.privacy.ledger)
    if not is_synthetic(config.data.path):
        paths["data.path"] = Path(config.data.path)
    if Path(config.model.backbone).is_dir() and config.model.backbone != DEFAULT_BACKBONE:
        paths["model.backbone"] = Path(config.model.backbone)
    vectors = config.data.vectors
    if vectors:
        data = Path(config.data.path)
        vectors = lasting(vectors, data if data.is_dir() else data.parent)
    # The embedded catalog is made by the project and nobody's: it is public without being declared so.
    public = config.data.public_catalog or is_synthetic(config.data.path)
    absolute = {key: str(path.resolve()) for key, path in paths.items()}
    return config.with_values({"data.public_catalog": public, "data.vectors": vectors, **absolute})


def default_run_dir(config: RunConfig) -> Path:
    """Where a run is written that names no folder: the time and the name, below `runs/`."""
    name = Path(config.run.name or config.data.path).name or "run"
    return Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{name}"


def dataset_of(config: RunConfig) -> Dataset:
    """The data set that a configuration names.

    Raises:
        DataError: If it cannot be used.
    """
    data = config.data
    return load_dataset(
        data.path,
        format=data.format,
        columns=data.columns,
        vectors=data.vectors,
        order=data.order,
        bad_rows=data.bad_rows,
        seed=config.run.seed,
    )


def split_of(config: RunConfig, dataset: Dataset, *, private: bool) -> SplitResult:
    """The split that a configuration names.

    Args:
        config: The run. (public)
        dataset: What is split. (private)
        private: Whether a privacy claim is made about what is trained on the result.

    Raises:
        ConfigError: If one user's data would decide what another's training history is, and a claim is made.
        DataError: If nothing can be held out.
    """
    data = config.data
    if private and data.cuts_at_quantiles:
        raise ConfigError(
            "Expected data.cut_offs in a private run with data.split=global-temporal, got none. Quantiles of all users' "
            "times would let each user move what the others are trained on. Declare two dates that do not come from these "
            "data, such as the begin of the last two quarters before the data were collected "
            "(--set data.cut_offs=2016-01-01,2017-01-01), or use data.split=leave-last-out."
        )
    return split(
        dataset.interactions, dataset.catalog, method=data.split, seed=config.run.seed, cut_offs=data.cut_off_seconds()
    )


def makes_a_claim(config: RunConfig) -> bool:
    """Whether a run of this configuration carries a privacy claim: it has an epsilon, and its noise is secret."""
    return config.is_private and not config.run.reproducible


def known_and_new(config: RunConfig) -> tuple[Dataset, ColdItems | None]:
    """The data set that a configuration names, without the items that it holds out as new, and these.

    Raises:
        ConfigError, DataError: If it cannot be used, or nothing is left to hold out.
    """
    from simulations.cold_items import hold_out

    dataset, share = dataset_of(config), config.evaluation.cold_items
    if config.run.continues:
        before = load_catalog(Path(config.run.continues))
        return replace(dataset, catalog=before.grown_to(dataset.catalog)), None
    return hold_out(dataset, share=share, seed=config.run.seed) if share else (dataset, None)


def number_of_clients(config: RunConfig, users: int, dataset: Dataset | None) -> int:
    """How many clients the users will be spread over, before anything is written.

    Raises:
        ConfigError: For more clients than users.
    """
    if config.federation.clients > users:
        raise ConfigError(
            "Expected federation.clients <= number of users, got "
            f"federation.clients={config.federation.clients}, users={users}. Use fewer clients, or 0 to make "
            "every user a client."
        )
    attribute = config.federation.attribute
    attributes = dataset.user_attributes if dataset else None
    if not config.federation.clients and not config.one_user_a_client and attributes is not None:
        return int(attributes[attribute].n_unique()) if attribute in attributes.columns else users
    return config.federation.clients or users


def population_of(config: RunConfig, *, users: int | None) -> tuple[RunConfig, int, int, str, int | None]:
    """What a plan needs to know of the data: the configuration with what is known of them, users, clients, a name,
    and the number of items, where there is a catalog.

    Args:
        config: Names the data.
        users: A population to speak of instead of looking at the data.
    """
    if is_synthetic(config.data.path):  # made by the project, nobody's
        config = config.with_values({"data.public_catalog": True})
    if users is not None:
        config = config.with_values({"privacy.population": users})
        return config, users, number_of_clients(config, users, None), "a population of your own", None
    dataset, _ = known_and_new(config)
    histories = split_of(config, dataset, private=makes_a_claim(config))
    found = len(histories.histories)
    return config, found, number_of_clients(config, found, dataset), dataset.name, dataset.catalog.num_items


def write_partitions(config: RunConfig, folder: Path) -> PopulationSummary:
    """Reads, splits and spreads the data over clients: what `flwr run .` opens.

    Raises:
        ConfigError: If the folder holds something else, there are more clients than users, or items are to be held out,
            which nobody but `tacit simulate` evaluates.
        DataError: If the data cannot be used.
    """
    with claimed(folder, lambda place: check_unused(place, "Choose another --out.")):
        return _write_partitions(config, folder)


def _write_partitions(config: RunConfig, folder: Path) -> PopulationSummary:
    if config.evaluation.cold_items:
        raise ConfigError(
            f"Expected evaluation.cold_items=0 for clients' data, got evaluation.cold_items={config.evaluation.cold_items}. "
            "Held-out items would be missing there and ranked nowhere; set it to 0, or use tacit simulate."
        )
    dataset = dataset_of(config)
    # What will run on it is not known yet; a private run refuses a population that quantiles have shaped.
    histories = split_of(config, dataset, private=False)
    return _write(config, dataset, histories, folder)


def _write(config: RunConfig, dataset: Dataset, histories: SplitResult, folder: Path) -> PopulationSummary:
    return write_population(
        histories.histories,
        dataset.catalog,
        dataset.user_attributes,
        folder,
        clients=config.federation.clients,
        sizes=config.federation.sizes,
        attribute=config.federation.attribute,
        dirichlet_alpha=config.federation.dirichlet_alpha,
        seed=config.run.seed,
        declared=config.privacy.population,
        shaped_by_all=config.data.shaped_by_all,
        data_name=data_name(config),
        before=open_population(Path(config.run.continues) / POPULATION) if config.run.continues else None,
    )


def data_name(config: RunConfig) -> str:
    """What the owner of the data calls them, by default as their file or folder is called; data that grew keep the name."""
    from client.ledger.limits import LONGEST_DATA_NAME, verify_data_name

    if config.data.name:
        verify_data_name(config.data.name)
        return config.data.name
    name = "".join(sign if sign.isprintable() else "_" for sign in Path(config.data.path).name)
    return name[:LONGEST_DATA_NAME] or DATA_NAME


def opened(config: RunConfig, dataset: Dataset, histories: SplitResult, run_dir: Path) -> int:
    """Writes the configuration and then the clients' folder, so that a process that is killed between the two leaves a run
    that can be resumed; returns the number of clients.

    Raises:
        CheckpointError: As `_population`; a new run then leaves nothing.
    """
    for path in half_written(run_dir):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    settings = run_dir / CONFIG
    is_new = not settings.exists()
    write_json(settings, {key: str(value) for key, value in config.to_flat().items()})
    try:
        return _population(config, dataset, histories, run_dir)
    except BaseException:
        if is_new:
            settings.unlink(missing_ok=True)
        raise


def _population(config: RunConfig, dataset: Dataset, histories: SplitResult, run_dir: Path) -> int:
    """Writes the clients' folder, or finds that of a resumed run; returns the number of clients.

    Raises:
        CheckpointError: If a run that asked clients already has lost it.
    """
    from server import checkpoints

    folder = run_dir / POPULATION
    began = (run_dir / EVENTS).exists() or checkpoints.exists(run_dir)
    if config.run.resume and (began or contents(folder)):
        try:
            return int(json.loads((folder / "population.json").read_text(encoding="utf-8"))["num_clients"])
        except (OSError, ValueError, KeyError):
            raise CheckpointError(
                f"Expected the population of an interrupted run in {run_dir.name}/, found none. Start the run again."
            ) from None
    return _write(config, dataset, histories, folder).num_clients
