"""A federation of the real server and client apps, on the engine that its configuration names.

It stands apart because a run and the baselines beside it are both federations.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from shared.config import RunConfig

if TYPE_CHECKING:
    from server.observer import Observer


def run_federation(config: RunConfig, *, num_clients: int, observer: Observer | None = None) -> None:
    """Runs the real server and client apps on the engine that the configuration names.

    Args:
        config: The run. (public)
        num_clients: Clients to play.
        observer: Is shown every state of the server; by default nothing is measured.
    """
    from server.app import server_app
    from simulations.engines.cohort import choose_engine, node_ids_of, run_as_cohorts

    engine = choose_engine(config)
    if engine == "cohort":
        node_ids = node_ids_of(config.data.population) if config.mechanism.clients_take_turns else None
        run_as_cohorts(server_app(observer), num_nodes=num_clients, run_config=config.to_flat(), node_ids=node_ids)
        return
    from client.app import app as client_app
    from simulations.engines.flower import run_on_flower
    from simulations.engines.messages import run_by_messages

    if engine == "messages":
        run_by_messages(
            server_app(observer),
            client_app,
            num_nodes=num_clients,
            run_config=config.to_flat(),
            run_dir=Path(config.run.out),
        )
        return
    run_on_flower(server_app(observer), client_app, num_nodes=num_clients, run_config=config.to_flat())
