"""A round of five real nodes less its training, ours against stock Flower's; and what a warm node spends on one message.

Server and nodes are processes of this machine, over loopback with TLS and node authentication. Ours are `tacit server start`
and `tacit node start`, whose model stays warm. The stock side keeps our SuperLink and its keys, with Flower's own SuperNodes
in their default isolation: each message starts a process that imports torch and builds the model. Both send the same
adapter of the default model; the stock one is `FedAvg` over an app as Flower's examples write it (`stock_flower`).

    --only round    seconds of rounds 2 and on, less the training of the slowest node; ours over the stock one's
    --only secure   the same of ours, with secure sums
    --only message  one node: from taking a message of a round to handing its reply to the SuperNode, less training
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from client.home import NodeHome
from server.flower_commands import connection, flower
from shared.command_line.interruption import signals_interrupt
from simulations.benchmarks import nodes
from simulations.benchmarks.nodes import BIN, LocalFederation, Processes, federation
from simulations.benchmarks.timing import Spread, options

_NODES = 5
_SETTINGS = {
    "data.public_catalog": True,
    "statistics.releases": "none",
    "evaluation.bootstrap_replicates": 0,
    "federation.timeout_seconds": 120,
    "training.sampling_rate": 1.0,
    "adapter.kind": "ffa",
}
_SECURE = {
    "federation.clients": 0,
    "federation.minimum_clients": 4,
    "privacy.mechanism": "distributed",
    "privacy.delta": 0.01,
    "secure_aggregation.simulate": "full",
    "secure_aggregation.dropout_fraction": 0.25,
}
_STOCK_TRAINING = {"lr": 1.0, "max-grad-norm": 0.1, "noise-multiplier": 1.0}
_STOCK_SECONDS = 900.0
_BUNDLE = """[project]
name = "stock"
version = "1.0.0"
[tool.flwr.app]
publisher = "benchmark"
[tool.flwr.app.components]
serverapp = "app.server:app"
clientapp = "app.client:app"
[tool.flwr.app.config]
{config}
"""


def main() -> None:
    """Measures and prints."""
    parser = options(__doc__, repeats=1)
    parser.add_argument("--only", default="round,secure,message", help="parts, separated by commas")
    parser.add_argument("--rounds", type=int, default=6, help="of our runs, two or more (default 6)")
    parser.add_argument("--stock-rounds", type=int, default=3, help="of the stock runs, two or more (default 3)")
    parser.add_argument("--node", default="", help="run the node of this folder (for itself)")
    chosen = parser.parse_args()
    if chosen.node:
        nodes.start_noting(NodeHome(Path(chosen.node)))
        return
    for part in chosen.only.split(","):
        with signals_interrupt(), tempfile.TemporaryDirectory() as folder:
            record = {
                "benchmark": "round_of_nodes",
                "part": part,
                "rounds": chosen.rounds,
                **_PARTS[part](Path(folder), chosen),
            }
        if chosen.json:
            print(
                json.dumps({key: vars(one) if isinstance(one, Spread) else one for key, one in record.items()}), flush=True
            )
        else:
            print(", ".join(f"{key} {value}" for key, value in record.items()), flush=True)


def _round(folder: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    with federation(folder, nodes=_NODES, users=1) as (made, processes):
        ours = _ours(made, processes, "plain", _SETTINGS, chosen.rounds)
    with federation(folder / "stock", nodes=_NODES, users=1) as (made, processes):
        stock = _stock(made, processes, chosen.stock_rounds)
    ratios = [one / Spread.of(stock).median for one in ours]
    return {"ratio": Spread.of(ratios), "ours": Spread.of(ours), "stock": Spread.of(stock), "nodes": _NODES}


def _secure(folder: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    with federation(folder, nodes=_NODES, users=1) as (made, processes):
        return {
            "ours": Spread.of(_ours(made, processes, "secure", {**_SETTINGS, **_SECURE}, chosen.rounds)),
            "nodes": _NODES,
        }


def _message(folder: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    with federation(folder, nodes=1, users=_NODES) as (made, processes):
        _start(made, processes)
        made.run("message", {**_SETTINGS, "federation.rounds": chosen.rounds})
        (training, messages) = ([one for one in made.times() if one["kind"] == kind] for kind in ("training", "train"))
    pairs = list(zip(messages, training, strict=True))[1:]
    beyond = [message["seconds"] - trained["seconds"] for message, trained in pairs]
    return {"beyond_training": Spread.of(beyond), "training": Spread.of([one["seconds"] for _, one in pairs]), "nodes": 1}


_PARTS: dict[str, Callable[[Path, argparse.Namespace], dict[str, Any]]] = {
    "round": _round,
    "secure": _secure,
    "message": _message,
}


def _start(made: LocalFederation, processes: Processes) -> None:
    for number, home in enumerate(made.nodes):
        processes.start(f"node-{number}", BIN / "python", "-m", "simulations.benchmarks.round_of_nodes", "--node", home.path)


def _ours(made: LocalFederation, processes: Processes, name: str, settings: Mapping[str, Any], rounds: int) -> list[float]:
    """Seconds of rounds 2 and on, each less the slowest node's training in it."""
    _start(made, processes)
    wanted = {
        **settings,
        "federation.rounds": rounds,
        "federation.minimum_clients": settings.get("federation.minimum_clients", 5),
    }
    events = [event for event in made.run(name, wanted) if event["event"] == "round"]
    if [event["clients_answered"] for event in events] != [_NODES] * rounds:
        raise RuntimeError(
            f"Expected {_NODES} answers in every round, got {[event['clients_answered'] for event in events]}."
        )
    times = made.times()
    replied = {number: [one["ended"] for one in times if one["kind"] == "train" and one["group"] == str(number)]
               for number in range(1, rounds + 1)}  # fmt: skip
    trained = [one for one in times if one["kind"] == "training"]
    found = []
    for event in events[1:]:
        earlier, own = max(replied[event["round_number"] - 1]), max(replied[event["round_number"]])
        slowest = max(one["seconds"] for one in trained if earlier < one["ended"] <= own)
        found.append(event["seconds"] - slowest)
    return found


def _stock(made: LocalFederation, processes: Processes, rounds: int) -> list[float]:
    """The same of the stock app, on the same SuperLink with the same keys."""
    for number, home in enumerate(made.nodes):
        arguments = ["--root-certificates", home.authority, "--auth-supernode-private-key", home.supernode_key]
        arguments += ["--superlink", f"localhost:{made.port}", "--port", nodes.free_port()]
        arguments += ["--node-config", f"partition-id={number}"]
        processes.start(
            f"stock-{number}", BIN / "flower-supernode", *arguments, FLWR_HOME=str(made.folder / f"flwr-{number}")
        )
    report = made.folder / "report.json"
    data = made.folder / "interactions.csv"
    pl.concat([nodes.interactions(number, users=1) for number in range(_NODES)]).write_csv(data)
    task = {"data.path": str(data), "run.device": "cpu", "adapter.kind": "ffa"}
    config = {
        "task": json.dumps(task),
        "cohort": _NODES,
        "num-server-rounds": rounds,
        "report": str(report),
        **_STOCK_TRAINING,
    }
    bundle = made.folder / "app-of-flower"
    (bundle / "app").mkdir(parents=True)
    (bundle / "pyproject.toml").write_text(
        _BUNDLE.format(config="\n".join(f"{key} = {json.dumps(value)}" for key, value in config.items()))
    )
    (bundle / "app" / "__init__.py").write_text("")
    for side in ("client", "server"):
        (bundle / "app" / f"{side}.py").write_text(
            f"from simulations.benchmarks.stock_flower.{side}_app import app as stock\n\napp = stock\n"
        )
    flower(made.server, "run", str(bundle), connection())
    nodes.wait_for(report.exists, seconds=_STOCK_SECONDS)
    time.sleep(1)
    found = json.loads(report.read_text(encoding="utf-8"))
    if set(found["answered"]) != {_NODES}:
        raise RuntimeError(f"Expected {_NODES} answers in every round, got {found['answered']}.")
    spans = [later - earlier for earlier, later in itertools.pairwise(found["round_ends"])]
    return [span - trained for span, trained in zip(spans, found["training"], strict=True)][1:]


if __name__ == "__main__":
    main()
