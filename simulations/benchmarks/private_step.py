"""What privacy costs in time: a local step through Opacus against a plain step on the same batches.

Both run `client.dp_sgd.train` with the same model, trained tensors, histories, sampled users and windows.
The private one adds per-user gradients, clipping, noise from the system's CSPRNG, and nothing else.
"""

from __future__ import annotations

import math
import os

from client.dp_sgd import TrainingTask, train
from shared.privacy.plan import PrivacyPlan
from shared.randomness import NoiseSource, derive
from simulations.benchmarks.timing import compare, options, show
from simulations.benchmarks.workload import Workload, add_options, prepare

_TARGET = 1.25
# Without effect on the time, and small enough that nothing overflows.
_LEARNING_RATE = 1e-3


def main() -> None:
    """Measures and prints."""
    parser = options(__doc__, repeats=9)
    add_options(parser)
    parser.add_argument("--steps", type=int, default=4, help="local steps in one call (default 4)")
    parser.add_argument("--silo", type=int, default=0, help="users of the silo (default: users / clients)")
    chosen = parser.parse_args()
    workload = prepare(chosen)
    users = chosen.silo or len(workload.histories) // max(workload.config.federation.clients, 1)
    silo = workload.histories["train"].head(users)
    turns = {"private": 0, "plain": 0}

    def run(kind: str, plan: PrivacyPlan) -> None:
        turns[kind] += 1
        task = TrainingTask(
            state=workload.state,
            histories=silo,
            expected_batch_size=plan.sampling_rate * users,
            learning_rate=_LEARNING_RATE,
            source=_same_batches(turns[kind], steps=plan.steps_per_round),
        )
        train([task], workload.recommender, plan, workload.training)

    private, plain = _plan(workload, chosen.steps, noise=1.0), _plan(workload, chosen.steps, noise=0.0)
    comparison = compare(
        lambda: run("private", private),
        lambda: run("plain", plain),
        repeats=chosen.repeats,
        per=chosen.steps / 1000,
        unit="ms a step",
    )
    show(
        "private_step",
        comparison,
        a="private",
        b="plain",
        target=_TARGET,
        as_json=chosen.json,
        expected_users_a_step=round(private.sampling_rate * users, 1),
        **workload.summary(),
    )


def _plan(workload: Workload, steps: int, *, noise: float) -> PrivacyPlan:
    return PrivacyPlan(
        noise_multiplier=noise,
        l2_clip_norm=workload.config.privacy.l2_clip_norm if noise else math.inf,
        sampling_rate=workload.config.training.sampling_rate,
        steps_per_round=steps,
        rounds=1,
        delta=1e-5 if noise else 0.0,
        target_epsilon=8.0 if noise else math.inf,
        popularity_noise_multiplier=0.0,
        reproducible=False,
        public_catalog=True,
    )


def _same_batches(turn: int, *, steps: int) -> NoiseSource:
    """The first draws repeat (the windows' seed, then who is sampled in each step); noise is the real one."""
    generator = derive(0, "benchmark", turn)
    draws = iter(range(1 + steps))

    def random_bytes(size: int) -> bytes:
        return os.urandom(size) if next(draws, None) is None else generator.bytes(size)

    return NoiseSource("replayable", random_bytes)


if __name__ == "__main__":
    main()
