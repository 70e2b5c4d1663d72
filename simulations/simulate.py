"""The main job: interactions -> clients -> federation -> baselines -> run record and report.

Everything a run leaves behind lies in one folder: the population its clients open, the ledger, events and
checkpoints as the server wrote them, the released adapter, and what is made of them here: `run.json`,
`report.html`, TensorBoard events.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from client.store.population import DATA_NAME, open_population
from shared.config import RunConfig, Scalar
from shared.config.defaults import fitted
from shared.data.readers import Dataset
from shared.data.readers.modalities import lasting
from shared.data.splitting import SplitResult, split
from shared.errors import CheckpointError, ConfigError, PrivacyError, TacitError
from shared.files import write_json
from shared.folder_claim import claimed, contents
from shared.listing import split_list
from shared.privacy.calibration import plan_of
from shared.privacy.population import PublicSize, advice
from shared.run_folder import CONFIG, EVENTS, POPULATION, RECORD, check_unused, half_written
from shared.run_folder import load_catalog as load_catalog
from shared.run_folder import load_config as load_config
from simulations.datasets import is_synthetic, load_dataset
from simulations.display import RunDisplay, follow_events
from simulations.growing import grown_catalog, verify_something_is_new
from simulations.lifetime import verify_holds, within_limit
from simulations.population import PopulationSummary, write_population

if TYPE_CHECKING:
    from server.rounds import Observer
    from shared.privacy.plan import PrivacyPlan
    from simulations.cold_items import ColdItems

REPORT = "report.html"


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


def simulate(config: RunConfig, run_dir: Path, *, quiet: bool = False, epsilon_asked: bool = True) -> dict[str, Any]:
    """Runs a federation with its baselines and writes every artifact.

    Args:
        config: The run. (public)
        run_dir: Where to write; with `run.resume` the folder of an interrupted run.
        quiet: No display.
        epsilon_asked: Whether the epsilon of a run that continues another was asked for; otherwise it is made as small as
            what is left of the ledger's limit.

    Returns:
        The run record as written to `run.json`.

    Raises:
        ConfigError: If another process writes in the folder, or it holds something else.
        TacitError: Bad input (nothing is written then), or a run that could not go on.
        KeyboardInterrupt: After the record of what was finished has been written.
    """
    with claimed(run_dir, check_unfinished if config.run.resume else check_unused):
        return _simulate(config, run_dir, quiet=quiet, epsilon_asked=epsilon_asked)


def continuing(run_dir: Path, given: Mapping[str, Scalar]) -> RunConfig:
    """The configuration of a run that continues another: the settings of that one, where nothing else is said.

    It goes on from the same data, which may have grown where they are, under the name that they had, in the same ledger, and
    with the same epsilon on top.

    Args:
        run_dir: The run to continue; it is only read, but for its ledger, in which the new run's spending is recorded.
        given: What is said for the new run.

    Raises:
        CheckpointError: If there is no finished run, or it is damaged.
        ConfigError: If a setting is given that has to be left.
    """
    from server.continuing import EarlierRun, another

    for name in ("evaluation.cold_items", "run.reproducible"):
        if given.get(name):
            raise ConfigError(
                f"Expected no {name} in a run that continues another, got {name}={given[name]}. Leave it out, or start a "
                "new run."
            )
    earlier = EarlierRun.open(run_dir)
    before = earlier.config
    ledger = Path(before.privacy.ledger) if before.privacy.ledger else run_dir / POPULATION / "ledger.sqlite"
    kept: dict[str, Scalar] = {
        "run.out": "",
        "data.population": "",
        "data.name": open_population(run_dir / POPULATION).data_name,
        "privacy.ledger": str(ledger.resolve()) if _makes_a_claim(before) else "",
        "evaluation.compare": "",
        "evaluation.cold_items": 0,
    }
    stays = earlier.settings()
    for name in stays.keys() & given.keys():
        said, is_so = (before.with_values({name: values[name]}).to_flat()[name] for values in (given, stays))
        if said != is_so:
            raise another(name, is_so, said)
    return before.with_values({**kept, **given, **stays, "run.reproducible": before.run.reproducible})


def _within_what_is_left(config: RunConfig, dataset: Dataset, histories: SplitResult, *, epsilon_asked: bool) -> RunConfig:
    """The configuration within the limit of the ledger in which the run that is continued spent.

    Raises:
        ConfigError: If it is another ledger, or what it leaves is too little.
        DataError: If nothing is new, so that the budget would buy noise alone.
    """
    from server.continuing import EarlierRun

    if not _makes_a_claim(config):
        return config
    earlier, ledger = EarlierRun.open(Path(config.run.continues)), Path(config.privacy.ledger)
    if earlier.config.is_private:
        verify_holds(ledger, earlier.saved.run_id)
        verify_something_is_new(histories.histories, open_population(earlier.folder / POPULATION))
    users = len(histories.histories)
    clients = _number_of_clients(config, users, dataset)
    return within_limit(config, ledger, users=users, clients=clients, asked=epsilon_asked)


def _simulate(config: RunConfig, run_dir: Path, *, quiet: bool, epsilon_asked: bool) -> dict[str, Any]:
    from simulations.comparison.own_model import other_runs, run_baselines
    from simulations.evaluation import Evaluator
    from simulations.record import write_record

    started = time.monotonic()
    names = baseline_names(config.evaluation.baselines)
    dataset, cold = known_and_new(config)
    histories = split_of(config, dataset, private=_makes_a_claim(config))
    config = located(config, run_dir)
    if config.run.continues and not config.run.resume:
        config = _within_what_is_left(config, dataset, histories, epsilon_asked=epsilon_asked)
    config, memory = check_feasible(config, dataset, histories)
    other_runs(config, Prepared(dataset, histories, config.federation.clients))
    num_clients = _opened(config, dataset, histories, run_dir)
    size = PublicSize.of(len(histories.histories), num_clients, declared=config.privacy.population)
    config = fitted(config, num_users=size.users, num_clients=size.clients)
    prepared = Prepared(dataset, histories, num_clients, cold)
    timings = {"setup_seconds": time.monotonic() - started}

    ended_early: KeyboardInterrupt | TacitError | None = None
    baselines: list[Any] = []
    cold_items: dict[str, Any] | None = None
    evaluator = Evaluator(config, dataset.catalog, histories.histories, run_dir)
    with _display(config, prepared, run_dir, quiet, evaluator.rounds) as display:
        display.message(f"Writing to {run_dir}/")
        display.message(memory)
        for warning in dataset.warnings:
            display.message(warning)
        if config.is_private and (note := advice(len(prepared.histories), declared=config.privacy.population)):
            display.message(note)
        try:
            with _following(run_dir, display):
                run_federation(config, num_clients=num_clients, observer=evaluator)
            display.message("Federation finished; measuring the baselines.")
            mark = time.monotonic()
            baselines = run_baselines(names, config, prepared, run_dir, say=display.message)
            baselines += other_runs(config, prepared)
            timings["baselines_seconds"] = time.monotonic() - mark
            cold_items = _cold_items(config, prepared, run_dir, say=display.message)
        except (KeyboardInterrupt, TacitError) as error:
            ended_early = error
    timings["total_seconds"] = time.monotonic() - started
    record = write_record(run_dir, config, prepared, baselines, timings, cold_items=cold_items, complete=ended_early is None)
    if ended_early:
        raise ended_early
    return record


def _cold_items(
    config: RunConfig, prepared: Prepared, run_dir: Path, *, say: Callable[[str], None]
) -> dict[str, Any] | None:
    """How the released recommender ranks what was held out as new; None where nothing was."""
    from shared.artifact import load_recommender
    from simulations.cold_items import evaluate_cold_items

    if prepared.cold is None:
        return None
    say(f"Scoring {prepared.cold.catalog.num_items} new items from their modalities alone.")
    return evaluate_cold_items(load_recommender(run_dir), config, prepared.dataset.catalog, prepared.cold)


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


def run_federation(config: RunConfig, *, num_clients: int, observer: Observer | None = None) -> None:
    """Runs the real server and client apps on the engine that the configuration names.

    Args:
        config: The run. (public)
        num_clients: Clients to play.
        observer: Is shown every state of the server; by default nothing is measured.
    """
    from server.app import server_app
    from simulations.engines.cohort import choose_engine, node_ids_of, run_as_cohorts

    if choose_engine(config) == "cohort":
        node_ids = node_ids_of(config.data.population) if config.mechanism == "dp-ftrl-central" else None
        run_as_cohorts(server_app(observer), num_nodes=num_clients, run_config=config.to_flat(), node_ids=node_ids)
        return
    from client.app import app as client_app
    from simulations.engines.flower import run_on_flower

    run_on_flower(server_app(observer), client_app, num_nodes=num_clients, run_config=config.to_flat())


def check_unfinished(run_dir: Path) -> None:
    """Refuses to continue a run that is complete.

    Raises:
        ConfigError: If its record says so.
    """
    try:
        status = json.loads((run_dir / RECORD).read_text(encoding="utf-8"))["status"]
    except (OSError, ValueError, KeyError, TypeError):
        return  # stopped before it could write a whole record
    if status == "complete":
        raise ConfigError(
            f"Expected an interrupted run in {run_dir.name}/, found a complete one. Look at its {REPORT}, or "
            "start another run."
        )


def check_feasible(config: RunConfig, dataset: Dataset, histories: SplitResult) -> tuple[RunConfig, str]:
    """Everything that can be refused before a long run starts and before anything is written.

    Returns:
        The configuration, with a smaller head of the pairs where this machine has no room for the one that is wanted, and
        how much memory the run will need, in words.

    Raises:
        ConfigError: For more clients than users, a delta that is too large, an epsilon that no noise reaches,
            a device or backbone that cannot be used.
    """
    from shared.model.recommender import resident
    from simulations.engines.cohort import choose_engine

    users = len(histories.histories)
    choose_engine(config)
    if config.privacy.ledger and (not config.is_private or config.run.reproducible):
        raise ConfigError(
            "Expected a private run with a ledger that spans runs, got one that is not private. It would release what no "
            "ledger can count; leave --ledger out, or use a finite epsilon without --reproducible."
        )
    clients = _number_of_clients(config, users, dataset)
    try:
        plan = plan_of(config, num_users=users, num_clients=clients)
        plan.verify_clients(clients)
    except PrivacyError as error:  # here, before anything ran, it is a wrong setting
        raise ConfigError(str(error)) from None
    head = _head(config, plan, num_items=dataset.catalog.num_items)
    config, memory = require_enough_memory(config, num_items=dataset.catalog.num_items, head=head)
    # Builds the very recommender that the run then uses: device, backbone, tokenizer and ranks are all tried
    # out.
    recommender = resident(config, dataset.catalog)
    if config.run.continues:
        from server.continuing import EarlierRun, Start

        size = PublicSize.of(users, clients, declared=config.privacy.population)
        whole = fitted(config, num_users=size.users, num_clients=size.clients)
        plan = plan_of(whole, num_users=users, num_clients=clients)
        Start.of(EarlierRun.open(Path(config.run.continues)), whole, plan, recommender, dataset.catalog)
    return config, memory


def _head(config: RunConfig, plan: PrivacyPlan, *, num_items: int) -> int:
    """Items whose pairs the run counts; 0 where it counts none."""
    from shared.privacy.shapes import StatisticShapes

    if plan.release("pairs") is None:
        return 0
    return StatisticShapes.expected(config, plan, num_items=num_items, dimensions=config.model.content_dimensions).head


def require_enough_memory(config: RunConfig, *, num_items: int, head: int = 0) -> tuple[RunConfig, str]:
    """Estimates the memory of a run before anything is loaded, and refuses one whose weights cannot fit.

    Args:
        config: The run. (public)
        num_items: I. (public)
        head: Items whose pairs are counted, 0 for none. (public)

    Returns:
        The configuration, its head as large as there is room for, and what to say of it.

    Raises:
        ConfigError: If the backbone cannot be used, or is larger than the machine's memory.
    """
    import torch

    from shared.model.memory import available_memory, head_that_fits, memory_needed, require_memory, require_memory_for_head
    from shared.model.recommender import choose_device

    estimate = memory_needed(config, num_items=num_items)
    available, where = available_memory(choose_device(config.run.device))
    require_memory(estimate, available=available, where=where, weights=config.model.weights)
    in_all, _ = available_memory(torch.device("cpu"))  # denoising is the processor's
    if config.run.resume or config.run.continues:  # the head is what it was
        require_memory_for_head(head)
        fits = head
    else:
        fits = head_that_fits(head, beside=estimate.weights + estimate.items, available=in_all)
    sentence = memory_needed(config, num_items=num_items, head=fits).sentence()
    if fits == head:
        return config, sentence
    said = f"{sentence} Pairs are counted among {fits} items instead of {head}: memory has no room for more."
    return config.with_values({"statistics.head": fits}), said


def _number_of_clients(config: RunConfig, users: int, dataset: Dataset | None) -> int:
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
        return config, users, _number_of_clients(config, users, None), "a population of your own", None
    dataset, _ = known_and_new(config)
    histories = split_of(config, dataset, private=_makes_a_claim(config))
    found = len(histories.histories)
    return config, found, _number_of_clients(config, found, dataset), dataset.name, dataset.catalog.num_items


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


def _makes_a_claim(config: RunConfig) -> bool:
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
        return replace(dataset, catalog=grown_catalog(before, dataset.catalog)), None
    return hold_out(dataset, share=share, seed=config.run.seed) if share else (dataset, None)


def baseline_names(text: str) -> tuple[str, ...]:
    """Parses `evaluation.baselines`.

    Raises:
        ConfigError: For a name that is not known.
    """
    from simulations.comparison.own_model import ALL, CHEAP

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


def write_partitions(config: RunConfig, folder: Path) -> PopulationSummary:
    """Reads, splits and spreads the data over clients: what `flwr run .` opens.

    Raises:
        ConfigError: If the folder holds something else, there are more clients than users, or items are to be held out,
            which nobody but `tacit simulate` evaluates.
        DataError: If the data cannot be used.
    """
    with claimed(folder, check_unused):
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
        shaped_by_all=["data.split=global-temporal without data.cut_offs"] if config.data.cuts_at_quantiles else [],
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


def _opened(config: RunConfig, dataset: Dataset, histories: SplitResult, run_dir: Path) -> int:
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


def _display(
    config: RunConfig, prepared: Prepared, run_dir: Path, quiet: bool, measured: Mapping[int, Mapping[str, Any]]
) -> RunDisplay:
    return RunDisplay(
        int(config.federation.rounds),
        title=f"{config.run.name or prepared.dataset.name}: {config.federation.rounds} rounds",
        quiet=quiet,
        is_private=config.is_private and not config.run.reproducible,
        finished=read_rounds(run_dir),
        measured=measured,
    )


@contextlib.contextmanager
def _following(run_dir: Path, display: RunDisplay) -> Iterator[None]:
    """Shows the server's events while it runs, in whichever process; at the end all have been shown."""
    path = run_dir / EVENTS
    offset = path.stat().st_size if path.exists() else 0
    stop = threading.Event()
    follower = threading.Thread(
        target=follow_events, args=(path, display), kwargs={"stop": stop, "offset": offset}, daemon=True
    )
    follower.start()
    try:
        yield
    finally:
        stop.set()
        follower.join(timeout=5)


def read_rounds(run_dir: Path) -> list[dict[str, Any]]:
    """The finished rounds of a run with what the simulator measured of each; a repeated round counts with its last result.

    Raises:
        CheckpointError: If the event file, or the file of what was measured, is damaged.
    """
    from server.event_log import EventLog
    from simulations.evaluation import measured_rounds

    measured = measured_rounds(run_dir)
    rounds: dict[int, dict[str, Any]] = {}
    for event in EventLog(run_dir / EVENTS).read():
        if event["event"] == "round":
            row = {key: value for key, value in event.items() if key != "event"}
            number = row["round_number"]
            rounds[number] = {"training_loss": None, "validation": None, **row, **measured.get(number, {})}
    return [rounds[number] for number in sorted(rounds)]
