"""The Flower `ServerApp`: reads the configuration, opens the run's folder, starts the rounds.

What the server knows of the population are its public constants, for how many nodes to wait, and the public catalog. The
number of nodes enters no plan and no release: where every user is a client, it counts the users. A simulation runs the same
app with an observer of its states.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from server import checkpoints
from server.event_log import EventLog
from server.masked_sum import MaskedSums, SumsOf
from server.observer import Observer, Unobserved
from server.public_facts import public_facts
from server.rounds import Federation
from shared.config import RunConfig
from shared.config.defaults import fitted
from shared.errors import ConfigError, NotProtected
from shared.files import write_json
from shared.folder_claim import claimed, new_folder
from shared.run_folder import EVENTS

NOT_DECLARED = (
    "The catalog was not declared public, so no claim will hold: ids, texts and vectors of all items go to every client and "
    "into the released model, in the clear. Where they exist independently of these users, stop and declare it: "
    "--run-config 'data.public_catalog=true'."
)


def server_app(observer: Observer | None = None, *, sums_of: SumsOf = MaskedSums.of) -> ServerApp:
    """The app of a run.

    Args:
        observer: Is shown every noised state; none in a deployment.
        sums_of: Gives the secure sums of the run.
    """
    made = ServerApp()

    @made.main()
    def main(grid: Grid, context: Context) -> None:
        """Runs one federation from the first message to the released adapter."""
        _run(grid, context, observer or Unobserved(), sums_of)

    return made


def _configuration(context: Context) -> RunConfig:
    return RunConfig.from_mapping(dict(context.run_config), source="the run's configuration")


def _run(grid: Grid, context: Context, observer: Observer, sums_of: SumsOf = MaskedSums.of) -> Path:
    """Runs the federation that the context configures; returns its folder."""
    config = _configuration(context)
    if not config.data.population:
        raise ConfigError(
            "Expected data.population to name a folder of clients' interactions, got data.population=''. "
            "Write one with `tacit data partition`, then pass --run-config 'data.population=\"FOLDER\"'."
        )
    if config.run.out:
        _run_in(Path(config.run.out), grid, config, observer, sums_of)
        return Path(config.run.out)
    with new_folder(Path(f"runs/{time.strftime('%Y%m%d-%H%M%S')}-{config.run.name or 'federation'}")) as run_dir:
        _run_in(run_dir, grid, config, observer, sums_of)
        return run_dir


def _run_in(run_dir: Path, grid: Grid, config: RunConfig, observer: Observer, sums_of: SumsOf) -> None:
    """Runs the federation, with the run's folder held against other processes."""
    folder = Path(config.data.population)
    public, num_nodes = public_facts(folder)
    config = fitted(config, num_users=public.size.users, num_clients=public.size.clients)
    with claimed(run_dir, lambda place: _check_folder(config, place)):
        write_json(run_dir / "config.json", {key: str(value) for key, value in config.to_flat().items()})
        observer.begins(EventLog(run_dir / EVENTS))
        Federation(
            grid=grid,
            config=config,
            run_dir=run_dir,
            public=public,
            num_nodes=num_nodes,
            observer=observer,
            sums_of=sums_of,
        ).run()


def _check_folder(config: RunConfig, run_dir: Path) -> None:
    """Refuses a folder that holds another run.

    Raises:
        ConfigError: If it does, and the configuration does not ask to continue that run.
    """
    if not config.run.resume and ((run_dir / EVENTS).exists() or checkpoints.exists(run_dir)):
        raise ConfigError(
            f"Expected a new output directory, found another run in {run_dir.name}/. Choose another run.out, "
            "or set run.resume=true to continue that run."
        )


def flower_app() -> ServerApp:
    """The app that Flower's own commands run, which nobody watches.

    It leaves the page of the release report, and ends with an error where the run does not protect as planned, as
    `tacit simulate` ends with a status of its own.
    """
    made = ServerApp()

    @made.main()
    def main(grid: Grid, context: Context) -> None:
        """Runs one federation from the first message to the released adapter and its page."""
        config = _configuration(context)
        if config.mechanism.shares_noise and config.secure_aggregation.simulate == "full":
            raise ConfigError(
                "Expected secure_aggregation.simulate=sum under Flower's own commands, got full. They start a process for "
                "each message, in which a client's secrets of a sum are lost; run secure sums with `tacit simulate`."
            )
        if config.is_private and not config.run.reproducible and not config.data.public_catalog:
            logging.getLogger("flwr").warning(NOT_DECLARED)
        finish(_run(grid, context, Unobserved()))

    return made


def finish(run_dir: Path) -> None:
    """Renders `release.html` of a run, then says where it does not protect as planned.

    Raises:
        NotProtected: If it does not; everything has been written then.
    """
    from server.reporting.records import read_release
    from server.reporting.release_page import write_release_page

    write_release_page(run_dir)
    reason = read_release(run_dir).not_kept
    if reason is not None:
        raise NotProtected(f"{reason} The run is whole, in {run_dir}/.")


app = flower_app()
