"""What watching the quality costs: evaluating all users against one plain training epoch over them.

Evaluation ranks the whole catalog for every user and computes every metric with its bootstrap replicates.
The epoch is plain training, the cheaper kind, with every user in it exactly once.

With the default adapter nothing before the transformer's output is trained, and encoded histories are
remembered from one evaluation to the next: then `first_evaluation_seconds`, which includes encoding, says
what that saves.
"""

from __future__ import annotations

import math

import numpy as np

from client.statistics.metrics import evaluate
from client.store.data import ClientRows
from client.training.dp_sgd import TrainingTask, train
from shared.config import RunConfig
from shared.privacy.calibration import plan_of
from shared.randomness import replayable_source
from simulations.benchmarks.timing import compare, options, seconds, show
from simulations.benchmarks.workload import add_options, prepare

_TARGET = 0.5

# One step that draws everybody is one epoch.
_EPOCH = plan_of(
    RunConfig.from_mapping(
        {
            "privacy.epsilon": math.inf,
            "federation.rounds": 1,
            "training.local_steps": 1,
            "training.sampling_rate": 1.0,
            "run.reproducible": True,
        }
    ),
    num_users=1,
    num_clients=1,
)


def main() -> None:
    """Measures and prints."""
    parser = options(__doc__, repeats=7)
    add_options(parser)
    chosen = parser.parse_args()
    workload = prepare(chosen)
    task = TrainingTask(
        state=workload.state,
        histories=workload.histories["train"],
        expected_batch_size=float(len(workload.histories)),
        learning_rate=1e-3,
        source=replayable_source(0, "benchmark"),
    )

    rows = ClientRows(histories=workload.histories, client=np.zeros(len(workload.histories), dtype=np.int64))

    def evaluate_all() -> None:
        evaluate(rows, workload.recommender, workload.config, target="validation", num_clients=1)

    first = seconds(evaluate_all)
    comparison = compare(
        evaluate_all,
        lambda: train([task], workload.recommender, _EPOCH, workload.training),
        repeats=chosen.repeats,
    )
    show(
        "evaluation_cost",
        comparison,
        a="evaluation",
        b="epoch",
        target=_TARGET,
        as_json=chosen.json,
        first_evaluation_seconds=round(first, 2),
        bootstrap_replicates=workload.config.evaluation.bootstrap_replicates,
        **workload.summary(),
    )


if __name__ == "__main__":
    main()
