"""The stock server: Flower's `FedAvg` over a fixed number of clients a round, with the time at the end of each round."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, MetricRecord, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from simulations.benchmarks.stock_flower.task import get_weights, load_model, num_users

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Runs all rounds, then writes what was measured to the file `report`.

    The report holds `round_ends` (seconds, round 0 is before the first), `answered` and `training` (seconds of the slowest
    client) a round, and how far the adapter `moved` (L2 norm; null where it is not finite).
    """
    config = context.run_config
    settings = str(config["task"])
    cohort, nodes = int(config["cohort"]), num_users(settings)
    initial = {name: weight.clone() for name, weight in get_weights(load_model(settings)).items()}
    round_ends: list[float] = []

    def note_time(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        round_ends.append(time.monotonic())
        return None  # nothing is evaluated

    def count_answers(replies: Sequence[RecordDict], weighted_by: str) -> MetricRecord:
        slowest = max(float(str(reply["metrics"]["train_seconds"])) for reply in replies)
        return MetricRecord({"answered": len(replies), "training": slowest})

    strategy = FedAvg(
        fraction_train=cohort / nodes,
        fraction_evaluate=0.0,
        min_train_nodes=cohort,
        min_available_nodes=nodes,
        train_metrics_aggr_fn=count_answers,
    )
    keys = ("task", "lr", "max-grad-norm", "noise-multiplier")
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(initial),
        num_rounds=int(config["num-server-rounds"]),
        train_config=ConfigRecord({key: config[key] for key in keys}),
        evaluate_fn=note_time,
    )
    final = result.arrays.to_torch_state_dict()
    moved = torch.stack([(final[name] - initial[name]).norm() for name in initial]).norm()
    of_rounds = [metrics for _, metrics in sorted(result.train_metrics_clientapp.items())]
    report = {
        "round_ends": round_ends,
        "answered": [int(str(metrics["answered"])) for metrics in of_rounds],
        "training": [float(str(metrics["training"])) for metrics in of_rounds],
        "moved": moved.item() if moved.isfinite() else None,
    }
    Path(str(config["report"])).write_text(json.dumps(report), encoding="utf-8")
