"""What privacy costs in time: a local step in closed form and through Opacus, each against a plain step on the same batches.

All three run `client.training.dp_sgd.train` with the same model, trained tensors, histories, sampled users and windows. The
private ones add per-user gradients, clipping, noise from a cryptographic source, and nothing else. They take turns within
one process; which goes first rotates, and each ratio is of times from the same turn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from client.training.dp_sgd import TrainingTask, train
from shared.privacy.calibration import plan_of
from shared.privacy.mechanism import Mechanism
from shared.privacy.plan import PrivacyPlan
from shared.randomness import NoiseSource, derive, secret_bytes
from simulations.benchmarks.timing import Comparison, Spread, options, seconds, show
from simulations.benchmarks.workload import Workload, add_options, prepare

_TARGETS = {"closed form": 1.05, "Opacus": 1.25}
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
    plain, private = _plans(workload, chosen.steps)
    silo = workload.histories["train"].head(users)

    def run(kind: str, turn: int) -> None:
        task = TrainingTask(
            state=workload.state,
            histories=silo,
            expected_batch_size=plain.sampling_rate * users,
            learning_rate=_LEARNING_RATE,
            source=_same_batches(turn, steps=chosen.steps),
        )
        gradients = {"gradients": "opacus" if kind == "Opacus" else "closed-form"}
        training = workload.training.model_copy(update=gradients)
        train([task], workload.recommender, plain if kind == "plain" else private, training)

    times = _in_turns(["plain", *_TARGETS], run, repeats=chosen.repeats, per=chosen.steps / 1000)
    for kind, target in _TARGETS.items():
        ratios = [a / b for a, b in zip(times[kind], times["plain"], strict=True)]
        show(
            "private_step",
            Comparison(Spread.of(times[kind]), Spread.of(times["plain"]), Spread.of(ratios), chosen.repeats, "ms a step"),
            a=kind,
            b="plain",
            target=target,
            as_json=chosen.json,
            expected_users_a_step=round(plain.sampling_rate * users, 1),
            trained_layers=len(workload.recommender.attached.trained),
            **workload.summary(),
        )


def _in_turns(kinds: list[str], run: Callable[[str, int], None], *, repeats: int, per: float) -> dict[str, list[float]]:
    """Times of each kind, turn by turn; the first turn is not counted."""
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    for turn in range(repeats + 1):
        first = turn % len(kinds)
        for kind in kinds[first:] + kinds[:first]:
            taken = seconds(partial(run, kind, turn))
            if turn:
                times[kind].append(taken / per)
    return times


def _plans(workload: Workload, steps: int) -> tuple[PrivacyPlan, PrivacyPlan]:
    """Without privacy, and with noise in every local step; what the noise is worth does not matter here."""
    config = workload.config.with_values({"privacy.epsilon": float("inf"), "training.local_steps": steps})
    plain = plan_of(config, num_users=len(workload.histories))
    clip = workload.config.privacy.l2_clip_norm
    return plain, replace(plain, mechanism=Mechanism.DP_SGD, noise_multiplier=1.0, l2_clip_norm=clip, delta=1e-5)


def _same_batches(turn: int, *, steps: int) -> NoiseSource:
    """The first draws repeat (the windows' seed, then who is sampled in each step); noise is the real one."""
    generator = derive(0, "benchmark", turn)
    draws = iter(range(1 + steps))

    def random_bytes(size: int) -> bytes:
        return secret_bytes(size) if next(draws, None) is None else generator.bytes(size)

    return NoiseSource("replayable", random_bytes)


if __name__ == "__main__":
    main()
