"""Runs the stock app on Flower's simulation engine: `python -m simulations.benchmarks.stock_flower '{"report": ...}'`.

Its one argument is the server's run configuration as JSON, with the number of Ray actors under `actors`. `run_simulation`
gives an app an empty run configuration, so the server app is wrapped to find its own; the client finds what it needs in its
messages.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

from shared.config import RunConfig
from shared.model.recommender import choose_device
from simulations.benchmarks.stock_flower import client_app, server_app
from simulations.benchmarks.stock_flower.task import num_users


def run(run_config: dict[str, Any]) -> None:
    """Runs the app, one core an actor; actors on a GPU share it evenly."""
    actors = int(run_config["actors"])
    settings = str(run_config["task"])
    on_gpu = choose_device(RunConfig.from_mapping(json.loads(settings)).run.device).type == "cuda"
    configured = ServerApp()

    @configured.main()
    def main(grid: Grid, context: Context) -> None:
        context.run_config = run_config
        server_app.app(grid, context)

    logging.getLogger("flwr").setLevel(logging.ERROR)
    run_simulation(
        server_app=configured,
        client_app=client_app.app,
        num_supernodes=num_users(settings),
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 1 / actors if on_gpu else 0.0},
            "init_args": {"num_cpus": actors, "log_to_driver": False, "logging_level": "ERROR"},
        },
    )


if __name__ == "__main__":
    run(json.loads(sys.argv[1]))
