"""The server app of a deployment: one run, from its signed run file to the recommender that every node receives.

    run file -> nodes are prepared -> rounds (`rounds.py`) -> release is saved -> nodes receive it -> pages

It reads nothing about users: the catalog, and sizes that the operator declared. What was finished is in the run's folder
before anything optional is tried, and the run ends in a state with its first cause (`run_state.py`).
"""

from __future__ import annotations

import logging
import os
from dataclasses import asdict
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from server import checkpoints
from server.app import finish
from server.event_log import EventLog
from server.home import HOME_VARIABLE, PROCESS_VARIABLE, ServerHome
from server.membership import OnlineMembers, tell
from server.polling import PollingGrid
from server.proposal import folder_of, run_in
from server.provisioning.members import signed_roster
from server.rounds import Federation
from server.run_state import read_state, write_state, write_stopped
from server.terms import UNCHANGED, Terms
from shared.config import RunConfig
from shared.errors import ConfigError, NotProtected, TacitError
from shared.files import write_json
from shared.folder_claim import claimed
from shared.processes import end_after
from shared.protocol.distribution import RELEASED, RELEASED_FILES, Offer
from shared.public_facts import PublicFacts
from shared.run_file import RunFile
from shared.run_folder import CATALOG, EVENTS, POPULATION, load_catalog

_log = logging.getLogger("flwr")

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Runs the run whose folder the operator's command named."""
    _end_with_server()
    home = ServerHome(Path(os.environ[HOME_VARIABLE]))
    run_dir = home.runs / Path(str(context.run_config["folder"])).name
    with claimed(run_dir, lambda _: None):  # first: where another process works on the run, its state stays
        _run_to_its_end(home, run_dir, grid, context.run_id)


def _run_to_its_end(home: ServerHome, run_dir: Path, grid: Grid, flower_run: int) -> None:
    """Runs, and records how the run ended; a run that was stopped before this process started does not begin."""
    before = read_state(run_dir)
    if before is not None and (before.state, before.flower_run) == ("stopped", str(flower_run)):
        return
    write_state(run_dir, "waiting", flower_run=str(flower_run))
    try:
        _run(home, run_dir, PollingGrid(grid))
    except NotProtected as error:
        write_state(run_dir, "finished", reason=str(error))
        raise
    except TacitError as error:
        write_state(run_dir, "failed", reason=str(error))
        raise
    except (KeyboardInterrupt, SystemExit):
        write_stopped(run_dir)
        raise
    except BaseException as error:
        write_state(run_dir, "failed", reason=f"The server failed with {type(error).__name__}; its log says where.")
        raise
    write_state(run_dir, "finished")


def _end_with_server() -> None:
    """Without its SuperLink this process would ask for a connection for ever, and the run could not go on in another.

    Who the server is comes from the environment, which is there before the server is ready and after it has ended.
    """
    if PROCESS_VARIABLE in os.environ:
        end_after(int(os.environ[PROCESS_VARIABLE]))


def _run(home: ServerHome, run_dir: Path, grid: PollingGrid) -> None:
    run = run_in(home, run_dir)
    terms = Terms.in_force(run_dir, run.plan)
    config = _configuration(home, run_dir, run, terms)
    public = _public(run_dir, run)
    catalog = (run.catalog_digest, (run_dir / POPULATION / CATALOG).read_bytes())
    members = OnlineMembers(
        grid,
        most=run.size.clients,
        timeout_seconds=config.federation.timeout_seconds,
        catalog=catalog,
        roster=lambda: signed_roster(home),
        quorum=terms.quorum,
        note=lambda ready, needed, reasons: EventLog(run_dir / EVENTS).append(
            "waiting", nodes_ready=ready, nodes_needed=needed, reasons=list(reasons)
        ),
    )
    write_json(run_dir / "config.json", {name: str(value) for name, value in config.to_flat().items()})
    federation = Federation(
        grid=grid,  # type: ignore[arg-type]
        config=config,
        run_dir=run_dir,
        public=public,
        num_nodes=run.size.clients,
        members=members,
    )
    if terms != UNCHANGED:
        EventLog(run_dir / EVENTS).append("terms", **asdict(terms))
    write_state(run_dir, "running")
    federation.run()
    _hand_out(grid, members, run, run_dir)
    finish(run_dir)


def _configuration(home: ServerHome, run_dir: Path, run: RunFile, terms: Terms) -> RunConfig:
    """The run file's settings, with this machine's own."""
    seconds = terms.deadline_seconds
    return run.config.with_values(
        {
            **({} if seconds is None else {"federation.timeout_seconds": seconds}),
            "run.out": str(run_dir),
            "run.resume": checkpoints.exists(run_dir),
            "run.continues": str(folder_of(home, run.continues)) if run.continues else "",
            "data.population": str(home.federation),
            "secure_aggregation.roster": str(home.roster),
        }
    )


def _public(run_dir: Path, run: RunFile) -> PublicFacts:
    """The public facts of the run, whose catalog was put into its folder when it began.

    Raises:
        ConfigError: If the catalog is another than the one that was proposed.
        DataError: If it is missing or damaged.
    """
    catalog = load_catalog(run_dir)
    if catalog.digest != run.catalog_digest:
        raise ConfigError(
            "Expected the catalog that the run file names, found another in the run's folder. Put the former one back, or "
            "propose the run anew."
        )
    return PublicFacts(run.size, catalog)


def _hand_out(grid: PollingGrid, members: OnlineMembers, run: RunFile, run_dir: Path) -> None:
    """Sends the released recommender to every node that is there; who was away gets it with the next run.

    The run is finished whatever becomes of this.
    """
    folder = run_dir / "adapter"
    files = {name: (folder / name).read_bytes() for name in RELEASED_FILES if (folder / name).is_file()}
    try:
        told = tell(grid, members.ready(1), RELEASED, Offer(run.digest, files).to_record())
        _log.info("The released recommender is on %d nodes.", sum(told.values()))
    except Exception as error:
        _log.warning(
            "The released recommender could not be handed out: %s. It is in the run's folder.", type(error).__name__
        )
