"""What a simulated client costs beyond its arithmetic: ours against pfl-research 0.6, the fastest simulator among the peers.

Every row is a function `(clients, floats) -> seconds a client` that sets itself up outside the time it reports. The rows
take turns within one process, so that a machine whose speed changes does not decide the result, and each ratio is of times
from the same turn. The arithmetic is as small as it can be where so many weights are trained: one example through one square
linear layer; ours is that of a tiny transformer (`overhead.py`). A row of its own says how long the layer's step takes
alone; pfl's row has it in it, the grid's row is messages alone.

pfl is no dependency of the project. Where it is not installed its row is not measured and the benchmark says how to get it.

Source:
    Granqvist et al. 2024, "pfl-research: simulation framework for accelerating research in Private Federated Learning".
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from flwr.app import Context, Message, MessageType
from flwr.clientapp import ClientApp
from torch import Tensor, nn

from shared.config import RunConfig
from shared.privacy.calibration import plan_of
from shared.privacy.plan import PrivacyPlan
from shared.protocol.messages import ContributionReply, TrainInstruction
from simulations.benchmarks.overhead import cohort
from simulations.benchmarks.timing import Spread, options, seconds
from simulations.engines.local_grid import InProcessGrid

# In seconds a client; of ours alone, arithmetic taken off.
TARGET_SECONDS = 1e-4
PFL_VERSION = "0.6.0"
# With its dependencies pip would replace the project's dp-accounting by an older one.
INSTALL = f"pip install --no-deps pfl=={PFL_VERSION} prv-accountant==0.2.0 multiprocess==0.70.19 dill==0.4.1"

# Rounds in one measurement; pfl evaluates in the first one, which is not counted.
_ROUNDS = 4
_LEARNING_RATE = 0.1
_CLIP = 1.0
_NOISE_MULTIPLIER = 1.0


def plain_step(clients: int, floats: int) -> float:
    """The arithmetic alone: forward, backward and an SGD step of one example, without any federation around it."""
    model, example = Square(floats), _example(floats)
    optimizer = torch.optim.SGD(model.parameters(), lr=_LEARNING_RATE)

    def steps() -> None:
        for _ in range(clients):
            optimizer.zero_grad()
            model.loss(example).backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    return seconds(steps) / clients


def pfl_client(clients: int, floats: int) -> float:
    """A client of pfl's simulation: one local step, the update clipped and added up; noise on the sum once a round.

    Raises:
        ImportError: If pfl is not installed.
    """
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.callback.base import TrainingProcessCallback
    from pfl.data.dataset import Dataset
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.data.sampling import get_user_sampler
    from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams
    from pfl.metrics import Metrics, Weighted
    from pfl.model.pytorch import PyTorchModel
    from pfl.privacy.gaussian_mechanism import GaussianMechanism
    from pfl.privacy.privacy_mechanism import CentrallyAppliedPrivacyMechanism

    class Model(Square):
        def metrics(self, inputs: Tensor) -> dict[str, Any]:
            return {"loss": Weighted(self.loss(inputs).item(), len(inputs))}

    class Clock(TrainingProcessCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.round_ends: list[float] = []

        def after_central_iteration(self, aggregate_metrics: Any, model: Any, *, central_iteration: int) -> tuple[bool, Any]:
            self.round_ends.append(time.perf_counter())
            return False, Metrics()

    # pfl copies the sum of a cohort in a way that torch advises against.
    warnings.filterwarnings("ignore", message="To copy construct from a tensor", module="pfl")
    module = Model(floats)
    model = PyTorchModel(
        model=module,
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(module.parameters(), lr=1.0),
    )
    # As many users as the cohort: pfl makes a user's data set when the user is drawn, however many there are.
    example = _example(floats)
    users = FederatedDataset(
        make_dataset_fn=lambda user: Dataset(raw_data=[example], user_id=user),
        user_sampler=get_user_sampler("minimize_reuse", [str(user) for user in range(clients)]),
    )
    mechanism = GaussianMechanism(clipping_bound=_CLIP, relative_noise_stddev=_NOISE_MULTIPLIER)
    clock = Clock()
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=_ROUNDS, evaluation_frequency=_ROUNDS + 1, train_cohort_size=clients, val_cohort_size=None
        ),
        SimulatedBackend(users, users, postprocessors=[CentrallyAppliedPrivacyMechanism(mechanism)]),
        model,
        NNTrainHyperParams(
            local_batch_size=None, local_num_epochs=1, local_learning_rate=_LEARNING_RATE, local_max_grad_norm=None
        ),
        NNEvalHyperParams(local_batch_size=None),
        callbacks=[clock],
        send_metrics_to_platform=False,
    )
    return (clock.round_ends[-1] - clock.round_ends[0]) / (_ROUNDS - 1) / clients


def grid_message(clients: int, floats: int) -> float:
    """A message and its reply through the in-process grid; the client computes nothing."""
    update = np.random.default_rng(0).normal(size=floats).astype(np.float32)
    grid = InProcessGrid(_idle_client(update), num_nodes=clients, run_config={})
    content = TrainInstruction("benchmark", 1, _plan(), math.inf, update).to_record()

    def round_of_messages() -> None:
        messages = [
            Message(content=content, dst_node_id=node, message_type=MessageType.TRAIN, group_id="1")
            for node in grid.get_node_ids()
        ]
        for reply in grid.send_and_receive(messages):
            ContributionReply.from_message(reply, in_ring=False)

    round_of_messages()  # the first one makes what later ones find
    return seconds(round_of_messages) / clients


def cohort_floats(clients: int, floats: int) -> float:
    """A client of ours, all of it, whose update travels as floats."""
    return _cohort(clients, floats, math.inf)[0]


def cohort_integers(clients: int, floats: int) -> float:
    """A client of ours, all of it, whose update is clipped, rotated and rounded for an exact sum, under central noise."""
    return _cohort(clients, floats, 8.0)[0]


def cohort_overhead(clients: int, floats: int) -> float:
    """A client of ours under central noise without its arithmetic; see `overhead.py`."""
    whole, arithmetic = _cohort(clients, floats, 8.0)
    return whole - arithmetic


def _cohort(clients: int, floats: int, epsilon: float) -> tuple[float, float]:
    """Seconds a client of a round and of its arithmetic, each the second time it is done."""
    with cohort(clients, floats, epsilon=epsilon) as (round_once, arithmetic, _):
        round_once(), arithmetic()
        return seconds(round_once) / clients, seconds(arithmetic) / clients


# What takes turns. The first row is the arithmetic that the others are held against.
ROWS: list[tuple[str, Callable[[int, int], float]]] = [
    ("plain step", plain_step),
    ("pfl", pfl_client),
    ("in-process grid", grid_message),
    ("cohort engine, floats", cohort_floats),
    ("cohort engine, exact sums", cohort_integers),
    ("cohort engine, beyond arithmetic", cohort_overhead),
]


def main() -> None:
    """Measures and prints."""
    parser = options(__doc__, repeats=9)
    parser.add_argument("--floats", type=int, default=102_400, help="trained weights, a square (default 102400)")
    parser.add_argument("--clients", type=int, default=300, help="clients a round (default 300)")
    parser.set_defaults(threads=1)  # nothing here is large enough for two
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    rows = [row for row in ROWS if row[1] is not pfl_client or pfl_version()]
    times = in_turns(rows, clients=chosen.clients, floats=chosen.floats, repeats=chosen.repeats)
    spreads = {name: Spread.of([1e3 * value for value in values]) for name, values in times.items()}
    ratios = ratios_to(times, "pfl")
    missing = "" if pfl_version() else f"pfl: not measured, it is not installed. To measure it: {INSTALL}"
    if chosen.json:
        record = {
            "benchmark": "against_pfl",
            "milliseconds_a_client": {name: asdict(spread) for name, spread in spreads.items()},
            "ratio_to_pfl": {name: asdict(spread) for name, spread in ratios.items()},
            "target_milliseconds": 1e3 * TARGET_SECONDS,
            "pfl_version": pfl_version(),
            "not_measured": missing or None,
            "repeats": chosen.repeats,
            "clients": chosen.clients,
            "floats": chosen.floats,
            "threads": chosen.threads,
        }
        print(json.dumps(record))
        return
    print(
        f"against_pfl: ms a client, {chosen.clients} clients, {chosen.floats} floats, {chosen.threads} threads, "
        f"{chosen.repeats} turns, median [min, max] (target {1e3 * TARGET_SECONDS:g} beyond the plain step)"
    )
    for name, spread in spreads.items():
        print(f"  {name}: {spread}" + (f"   over pfl: {ratios[name]}" if name in ratios else ""))
    if missing:
        print(missing)


def in_turns(
    rows: list[tuple[str, Callable[[int, int], float]]], *, clients: int, floats: int, repeats: int
) -> dict[str, list[float]]:
    """Seconds a client of each row, turn by turn; who goes first rotates, and the first turn is not counted."""
    times: dict[str, list[float]] = {name: [] for name, _ in rows}
    for turn in range(repeats + 1):
        first = turn % len(rows)
        for name, measure in rows[first:] + rows[:first]:
            taken = measure(clients, floats)
            if turn:
                times[name].append(taken)
    return times


def ratios_to(times: dict[str, list[float]], reference: str) -> dict[str, Spread]:
    """Each other row over the reference, turn by turn; empty where the reference was not measured."""
    if reference not in times:
        return {}
    return {
        name: Spread.of([value / base for value, base in zip(values, times[reference], strict=True)])
        for name, values in times.items()
        if name != reference
    }


def pfl_version() -> str | None:
    """The installed pfl, None where there is none."""
    try:
        return importlib.metadata.version("pfl")
    except importlib.metadata.PackageNotFoundError:
        return None


class Square(nn.Module):
    """A linear layer of about so many weights, and a loss that costs nothing."""

    def __init__(self, floats: int) -> None:
        super().__init__()
        width = math.isqrt(floats)
        self.layer = nn.Linear(width, width, bias=False)

    def loss(self, inputs: Tensor) -> Tensor:
        """Mean square of the outputs for (B, width)."""
        mean: Tensor = self.layer(inputs).square().mean()
        return mean


def _example(floats: int) -> Tensor:
    return torch.ones(1, math.isqrt(floats))


def _plan() -> PrivacyPlan:
    values = {
        "privacy.epsilon": math.inf,
        "federation.rounds": 1,
        "training.local_steps": 1,
        "training.sampling_rate": 1.0,
        "run.reproducible": True,
    }
    return plan_of(RunConfig.from_mapping(values), num_users=1, num_clients=1)


def _idle_client(update: np.ndarray) -> ClientApp:
    app = ClientApp()

    @app.train()
    def answer(message: Message, context: Context) -> Message:
        TrainInstruction.from_message(message)
        return Message(ContributionReply(update).to_record(), reply_to=message)

    return app


if __name__ == "__main__":
    main()
