"""How much of a private federation's time is training: plain centralized training over the same users, and the federation.

Plain is one loop over all users with the same model, trained tensors, tokens and number of steps, through autograd, without
clients, clipping, noise or messages. The federation is every user a client, `tacit simulate`'s own server and cohort engine:
drawing, messages, the ledger with its fsyncs, per-user clipping, encoding, the sum with its noise, the server optimizer and
the checkpoint. Efficiency is the time of the first over the time of the second; what is not training would make it smaller.

Neither side remembers what a frozen transformer makes of a short history, so both do the same arithmetic in every round.
With `--remember` both do, as runs do: where all histories are short, hardly any arithmetic is left, and what a client costs
beside it shows. A run has one round that is not counted, which fills that memory on either side.
"""

from __future__ import annotations

import dataclasses
import json
import math
import tempfile
from pathlib import Path

from client.training.dp_sgd import TrainingTask, train
from shared.config import RunConfig
from shared.data.catalog import ItemCatalog
from shared.model import recommender
from shared.privacy.calibration import plan_of
from shared.randomness import secret_source
from shared.run_folder import EVENTS
from simulations.benchmarks.timing import Comparison, Spread, options, seconds, show
from simulations.benchmarks.workload import Workload, add_options, prepare
from simulations.engines.cohort import run_as_cohorts
from simulations.population import write_population
from simulations.preparing import dataset_of

_ROUNDS = 3
# Nothing but training: no count, no metrics. What the noise is worth does not matter here.
_ONLY_TRAINING = {
    "federation.clients": 0,
    "privacy.mechanism": "central",
    "federation.rounds": _ROUNDS,
    "privacy.popularity_noise_multiplier": 0.0,
    "privacy.evaluation_noise_multiplier": 0.0,
    "server.learning_rate": 1e-3,
}
_TARGETS = {("cpu", 1): 0.9, ("cuda", 1): 0.7, ("cpu", 5): 0.6, ("cuda", 5): 0.6}


def main() -> None:
    """Measures and prints."""
    parser = options(__doc__, repeats=5)
    add_options(parser)
    parser.add_argument("--local-steps", type=int, default=1, help="local steps a client and round (default 1)")
    parser.add_argument("--remember", action="store_true", help="both sides remember what a frozen transformer computed")
    parser.add_argument("--users", type=int, default=0, help="so many of the data's users (default: all)")
    chosen = parser.parse_args()
    if not chosen.remember:
        recommender._REMEMBERED_BYTES = 0
    workload = prepare(chosen)
    workload = dataclasses.replace(workload, histories=workload.histories.head(chosen.users or len(workload.histories)))
    catalog = dataset_of(workload.config).catalog
    settings = {**_ONLY_TRAINING, "training.local_steps": chosen.local_steps}
    config = workload.config.with_values(settings)

    def plain() -> float:
        return plain_round(workload, config)

    def private() -> float:
        return private_round(workload, config, catalog)

    plain(), private()
    times: dict[str, list[float]] = {"plain": [], "private": []}
    for turn in range(chosen.repeats):
        for measure in (plain, private) if turn % 2 else (private, plain):
            times[measure.__name__].append(measure())
    ratios = [a / b for a, b in zip(times["plain"], times["private"], strict=True)]
    device = workload.recommender.device.type
    target = _TARGETS.get((device, chosen.local_steps))
    show(
        "efficiency",
        Comparison(Spread.of(times["plain"]), Spread.of(times["private"]), Spread.of(ratios), chosen.repeats, "s a round"),
        a="plain",
        b="private federation",
        target=None,
        as_json=chosen.json,
        target_at_least=target,
        local_steps=chosen.local_steps,
        remember=chosen.remember,
        user_updates_a_second=round(len(workload.histories) * chosen.local_steps / Spread.of(times["private"]).median),
        **workload.summary(),
    )


def plain_round(workload: Workload, config: RunConfig) -> float:
    """Seconds of `local_steps` steps over all users."""
    plan = plan_of(
        config.with_values({"privacy.epsilon": math.inf, "federation.clients": 1, "training.sampling_rate": 1.0}),
        num_users=len(workload.histories),
    )
    users = len(workload.histories)
    task = TrainingTask(workload.state, workload.histories["train"], float(users), 1e-3, secret_source())
    return seconds(lambda: train([task], workload.recommender, plan, workload.training))


def private_round(workload: Workload, config: RunConfig, catalog: ItemCatalog) -> float:
    """Mean seconds of a round, the first one left out; from the server's own events."""
    from server.app import server_app

    with tempfile.TemporaryDirectory() as folder:
        population, run_dir = Path(folder) / "population", Path(folder) / "run"
        summary = write_population(workload.histories, catalog, None, population)
        config = config.with_values({"data.population": str(population), "run.out": str(run_dir)})
        run_as_cohorts(server_app(), num_nodes=summary.num_clients, run_config=config.to_flat())
        events = [json.loads(line) for line in (run_dir / EVENTS).read_text(encoding="utf-8").splitlines()]
    rounds = [event for event in events if event["event"] == "round"]
    if len(rounds) != _ROUNDS or any(event["clients_answered"] != summary.num_clients for event in rounds):
        raise RuntimeError("Expected every client's answer in every round, got fewer. The time would be of another run.")
    return float(sum(event["seconds"] for event in rounds[1:])) / (_ROUNDS - 1)


if __name__ == "__main__":
    main()
