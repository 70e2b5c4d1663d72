"""Runs a federation one client after another, through the client app and Flower's own messages, as on devices.

Secure sums run on this engine: each client has its own identity and keeps the secrets of a sum between messages.
"""

from __future__ import annotations

import time
from pathlib import Path

from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from shared.run_folder import IDENTITIES
from shared.secagg.identities import ROSTER_FILE, write_identities
from simulations.engines.local_grid import InProcessGrid, RunValues, serve

_VALID_SECONDS = 30 * 24 * 3600


def run_by_messages(
    server_app: ServerApp, client_app: ClientApp, *, num_nodes: int, run_config: RunValues, run_dir: Path
) -> InProcessGrid:
    """Runs a federation in this process until the server app returns.

    Args:
        server_app: The server.
        client_app: The app of every node.
        num_nodes: Clients of the population.
        run_config: What `flwr run --run-config` would give.
        run_dir: The run's folder. Identities and the roster are written to it, once.

    Returns:
        The grid of the run.
    """
    folder = run_dir / IDENTITIES
    if not (folder / ROSTER_FILE).exists():
        valid_until = int(time.time()) + _VALID_SECONDS
        write_identities(folder, map(str, range(num_nodes)), valid_until=valid_until)
    grid = InProcessGrid(
        client_app,
        num_nodes=num_nodes,
        run_config=run_config,
        node_config=lambda partition: {
            "identity": str(folder / f"{partition}.key"),
            "roster": str(folder / ROSTER_FILE),
        },
    )
    serve(server_app, grid)
    return grid
