"""The main job: interactions -> clients -> federation -> baselines -> run record and report.

Everything a run leaves behind lies in one folder: the population its clients open, the ledger, events and
checkpoints as the server wrote them, the released adapter, and what is made of them here: `run.json`,
`report.html`, TensorBoard events.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from client.store.population import open_population
from shared import wording
from shared.config import RunConfig, Scalar
from shared.config.defaults import fitted
from shared.data.readers import Dataset
from shared.data.splitting import SplitResult
from shared.errors import ConfigError, TacitError
from shared.folder_claim import claimed
from shared.privacy.mechanism import Mechanism
from shared.privacy.population import PublicSize, advice
from shared.privacy.shares import trusted_server
from shared.run_folder import EVENTS, POPULATION, check_unused
from simulations.feasibility import check_feasible, check_unfinished
from simulations.federation import run_federation
from simulations.growing import verify_something_is_new
from simulations.lifetime import verify_holds, within_limit
from simulations.live_display import RunDisplay, follow_events
from simulations.preparing import Prepared, known_and_new, located, makes_a_claim, number_of_clients, opened, split_of
from simulations.rounds import read_rounds

if TYPE_CHECKING:
    from server.observer import Observer
    from simulations.comparison.own import Own, OwnMetrics


def simulate(
    config: RunConfig,
    run_dir: Path,
    *,
    quiet: bool = False,
    epsilon_asked: bool = True,
    own: Own | None = None,
    canaries: int = 0,
) -> dict[str, Any]:
    """Runs a federation with its baselines and writes every artifact.

    Args:
        config: The run. (public)
        run_dir: Where to write; with `run.resume` the folder of an interrupted run.
        quiet: No display.
        epsilon_asked: Whether the epsilon of a run that continues another was asked for; otherwise it is made as small as
            what is left of the ledger's limit.
        own: Baselines and metrics of the caller; they are not kept for a resumption.
        canaries: Made-up users of an audit whose protocol is fixed before the first round; 0 plans none.

    Returns:
        The run record as written to `run.json`.

    Raises:
        ConfigError: If another process writes in the folder, or it holds something else.
        TacitError: Bad input (nothing is written then), or a run that could not go on.
        KeyboardInterrupt: After the record of what was finished has been written.
    """
    with claimed(run_dir, check_unfinished if config.run.resume else _check_new):
        return _simulate(config, run_dir, quiet=quiet, epsilon_asked=epsilon_asked, own=own, canaries=canaries)


def _check_new(run_dir: Path) -> None:
    check_unused(run_dir, "Choose another --out, or continue an interrupted run with --resume.")


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
    from server.continuing import EarlierRun

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
        "privacy.ledger": str(ledger.resolve()) if makes_a_claim(before) else "",
        "evaluation.compare": "",
        "evaluation.cold_items": 0,
    }
    return earlier.continued({**kept, **given})


def _within_what_is_left(config: RunConfig, dataset: Dataset, histories: SplitResult, *, epsilon_asked: bool) -> RunConfig:
    """The configuration within the limit of the ledger in which the run that is continued spent.

    Raises:
        ConfigError: If it is another ledger, or what it leaves is too little.
        DataError: If nothing is new, so that the budget would buy noise alone.
    """
    from server.continuing import EarlierRun

    if not makes_a_claim(config):
        return config
    earlier, ledger = EarlierRun.open(Path(config.run.continues)), Path(config.privacy.ledger)
    if earlier.config.is_private:
        verify_holds(ledger, earlier.saved.run_id)
        verify_something_is_new(histories.histories, open_population(earlier.folder / POPULATION))
    users = len(histories.histories)
    clients = number_of_clients(config, users, dataset)
    return within_limit(config, ledger, users=users, clients=clients, asked=epsilon_asked)


def _simulate(
    config: RunConfig, run_dir: Path, *, quiet: bool, epsilon_asked: bool, own: Own | None, canaries: int
) -> dict[str, Any]:
    # These load torch, which takes seconds; bad settings are refused at once.
    from simulations.comparison.own import Own, OwnMetrics, fitted_scorer
    from simulations.comparison.own_model import baseline_names, other_runs, run_baselines, verify_own_names
    from simulations.evaluation import Evaluator
    from simulations.record import write_record

    started = time.monotonic()
    names = baseline_names(config.evaluation.baselines)
    own = own or Own()
    verify_own_names(own.baselines)
    dataset, cold = known_and_new(config)
    histories = split_of(config, dataset, private=makes_a_claim(config))
    config = located(config, run_dir)
    if config.run.continues and not config.run.resume:
        config = _within_what_is_left(config, dataset, histories, epsilon_asked=epsilon_asked)
    config, memory = check_feasible(config, dataset, histories)
    other_runs(config, Prepared(dataset, histories, config.federation.clients))
    num_items = dataset.catalog.num_items
    scorers = {
        name: fitted_scorer(name, baseline, histories.histories, num_items=num_items)
        for name, baseline in own.baselines.items()
    }
    own_metrics = OwnMetrics(own.metrics, config, histories.histories, num_items=num_items)
    num_clients = opened(config, dataset, histories, run_dir)
    size = PublicSize.of(len(histories.histories), num_clients, declared=config.privacy.population)
    config = fitted(config, num_users=size.users, num_clients=size.clients)
    prepared = Prepared(dataset, histories, num_clients, cold)
    timings = {"setup_seconds": time.monotonic() - started}

    ended_early: KeyboardInterrupt | TacitError | None = None
    baselines: list[Any] = []
    cold_items: dict[str, Any] | None = None
    evaluator = Evaluator(config, dataset.catalog, histories.histories, run_dir, progress=own.progress)
    observer = _announced(evaluator, run_dir, config, canaries) if canaries else evaluator
    with _display(config, prepared, run_dir, quiet, evaluator.rounds) as display:
        display.message(f"Writing to {run_dir}/")
        display.message(memory)
        for warning in dataset.warnings:
            display.message(warning)
        if config.is_private and (note := advice(len(prepared.histories), declared=config.privacy.population)):
            display.message(note)
        if config.mechanism is Mechanism.CENTRAL and (note := trusted_server(config, num_clients=size.clients)):
            display.message(note)
        try:
            mark = time.monotonic()
            with _following(run_dir, display):
                run_federation(config, num_clients=num_clients, observer=observer)
            if not config.federation.rounds:
                timings["statistics_seconds"] = time.monotonic() - mark
            display.message("Federation finished; measuring the baselines.")
            mark = time.monotonic()
            baselines = run_baselines(
                names, config, prepared, run_dir, say=display.message, own=scorers, measure=own_metrics.measure
            )
            baselines += other_runs(config, prepared)
            timings["baselines_seconds"] = time.monotonic() - mark
            if own.metrics:
                _measure_released(own_metrics, run_dir)
            cold_items = _cold_items(config, prepared, run_dir, say=display.message)
        except (KeyboardInterrupt, TacitError) as error:
            ended_early = error
    timings["total_seconds"] = time.monotonic() - started
    record = write_record(run_dir, config, prepared, baselines, timings, cold_items=cold_items, complete=ended_early is None)
    if ended_early:
        raise ended_early
    return record


def _announced(evaluator: Observer, run_dir: Path, config: RunConfig, canaries: int) -> Observer:
    """The same observer, after the audit was planned: the run's log begins with the plan's digest."""
    from simulations.audits.planning import Announced, plan_audit

    return Announced(evaluator, plan_audit(run_dir, config, canaries=canaries).digest)


def _measure_released(metrics: OwnMetrics, run_dir: Path) -> None:
    """A caller's metrics of the recommender that the run released."""
    from shared.artifact import load_recommender
    from simulations.comparison.own import RELEASED

    recommender = load_recommender(run_dir)
    metrics.measure(RELEASED, lambda known: recommender.score([rows.astype(np.int32) for rows in known]))
    metrics.write(run_dir)


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


def _display(
    config: RunConfig, prepared: Prepared, run_dir: Path, quiet: bool, measured: Mapping[int, Mapping[str, Any]]
) -> RunDisplay:
    return RunDisplay(
        int(config.federation.rounds),
        title=f"{config.run.name or prepared.dataset.name}: {wording.rounds_text(int(config.federation.rounds))}",
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
