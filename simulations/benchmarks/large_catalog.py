"""Catalogs of up to a million items: a local step with sampled softmax, and full ranking, with the memory that they take.

Vectors and histories are made up, because neither cost depends on what they say. Each measurement is a process of its own,
so that its greatest memory is its own. `full` compares a sampled step with a full softmax on a catalog where that fits;
`growth` compares sampled steps of a large and a small catalog; `ranking` evaluates users on the largest one, as it is done
and in the straight way: a whole batch's scores, and whole copies of them.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from simulations.benchmarks.timing import compare, options, show

_LENGTH = 50
_USERS_A_STEP = 16
_STEPS = 4
_RANKED_USERS = 128
_STRAIGHT_BLOCK = 2**62


def main() -> None:
    """Measures and prints."""
    parser = options(__doc__, repeats=5)
    parser.add_argument("--items", type=int, default=1_000_000, help="of the large catalog (default 1,000,000)")
    parser.add_argument("--small", type=int, default=10_000, help="of the small one (default 10,000)")
    parser.add_argument("--full-items", type=int, default=100_000, help="where the full softmax fits (default 100,000)")
    parser.add_argument("--negatives", type=int, default=1000, help="draws a step (default 1000)")
    parser.add_argument("--only", default="full,growth,ranking,straight", help="parts, separated by commas")
    parser.add_argument("--part", default="", help="run this one in this process (for itself)")
    chosen = parser.parse_args()
    if chosen.part:
        torch.set_num_threads(chosen.threads)
        _PARTS[chosen.part](chosen)
        return
    for part in chosen.only.split(","):
        command = [sys.executable, "-m", "simulations.benchmarks.large_catalog", "--part", part, *sys.argv[1:]]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"Expected {part} to end well, got status {done.returncode}: {done.stderr[-500:]}")
        print(done.stdout, end="", flush=True)


def _full(chosen: argparse.Namespace) -> None:
    """A sampled step over a full one, on the same model."""
    step = _steps(_recommender(chosen.full_items))
    result = compare(
        lambda: step(chosen.negatives), lambda: step(0), repeats=chosen.repeats, per=_STEPS / 1000, unit="ms a step"
    )
    _show("full", result, chosen, a="sampled softmax", b="full softmax", items=chosen.full_items, peak_mb=_memory("VmHWM"))


def _growth(chosen: argparse.Namespace) -> None:
    """A sampled step of the large catalog over one of the small catalog."""
    large, small = (_steps(_recommender(items)) for items in (chosen.items, chosen.small))
    result = compare(
        lambda: large(chosen.negatives),
        lambda: small(chosen.negatives),
        repeats=chosen.repeats,
        per=_STEPS / 1000,
        unit="ms a step",
    )
    names = {"a": f"{chosen.items} items", "b": f"{chosen.small} items"}
    _show("growth", result, chosen, **names, items=chosen.items, peak_mb=_memory("VmHWM"))


def _show(part: str, result: Any, chosen: argparse.Namespace, **details: Any) -> None:
    details |= {"negatives": chosen.negatives, "users_a_step": _USERS_A_STEP, "threads": torch.get_num_threads()}
    show("large_catalog", result, target=None, as_json=chosen.json, part=part, **details)


def _ranking(chosen: argparse.Namespace, *, straight: bool = False) -> None:
    """Evaluates users, once to warm up and then timed; in the straight way all users' scores at once, in one block."""
    from client.statistics.metrics import evaluate
    from client.store.data import ClientRows
    from shared.config import RunConfig
    from shared.metrics import ranking
    from shared.model import sequence_recommender as model

    recommender = _recommender(chosen.items)
    if straight:
        model._BLOCK = ranking.BLOCK = ranking._SCORES_BYTES = _STRAIGHT_BLOCK
    built, kept = _memory("VmHWM"), _memory("VmRSS")
    rng = np.random.default_rng(1)
    lists = rng.integers(0, chosen.items, (_RANKED_USERS, _LENGTH + 2), dtype=np.int32)
    histories = pl.DataFrame(
        {
            "user": [f"u{user}" for user in range(_RANKED_USERS)],
            "train": lists[:, :-2].tolist(),
            "validation": lists[:, -2:-1].tolist(),
            "test": lists[:, -1:].tolist(),
        },
        schema_overrides=dict.fromkeys(("train", "validation", "test"), pl.List(pl.Int32)),
    )
    rows = ClientRows(histories=histories, client=np.zeros(_RANKED_USERS, dtype=np.int64))
    config = RunConfig.from_mapping({"evaluation.batch_size": _RANKED_USERS})
    times = []
    for _ in range(1 + chosen.repeats):
        start = time.perf_counter()
        evaluate(rows, recommender, config, target="validation", num_clients=1)
        times.append(time.perf_counter() - start)
    rates = sorted(_RANKED_USERS / taken for taken in times[1:])
    record = {
        "benchmark": "large_catalog",
        "part": "straight" if straight else "ranking",
        "items": chosen.items,
        "users_a_second": rates[len(rates) // 2],
        "users_a_second_low": rates[0],
        "users_a_second_high": rates[-1],
        "repeats": chosen.repeats,
        "peak_mb": _memory("VmHWM"),
        "peak_mb_before": built,
        "model_and_libraries_mb": kept,
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(record) if chosen.json else ", ".join(f"{name} {value}" for name, value in record.items()))


_PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "full": _full,
    "growth": _growth,
    "ranking": _ranking,
    "straight": partial(_ranking, straight=True),
}


def _recommender(items: int) -> Any:
    """The default model and adapter on made-up vectors."""
    from shared.config import RunConfig
    from shared.model import adapter
    from shared.model.backbone import load_backbone
    from shared.model.recommender import Recommender
    from shared.model.sequence_recommender import SequenceRecommender

    config = RunConfig()
    backbone = load_backbone(config.model.backbone, num_layers=config.model.layers)
    rng = np.random.default_rng(0)
    vectors = np.empty((items, backbone.hidden_size), dtype=np.float32)
    for start in range(0, items, 2**16):
        block = vectors[start : start + 2**16]
        rng.standard_normal(out=block, dtype=np.float32)
        block += 0.5  # what all texts have in common
        block /= np.linalg.norm(block, axis=1, keepdims=True)
    model = SequenceRecommender(backbone, vectors, config.model)
    attached = adapter.attach(model, config)
    return Recommender(attached, torch.device("cpu"), False, backbone.digest, backbone.num_layers, attached.to_vector())


def _steps(recommender: Any) -> Callable[[int], None]:
    """Private steps of one silo with so many negatives (0: all items); the frozen transformer is remembered."""
    from client.training.dp_sgd import TrainingTask, train
    from client.training.negatives import PublicNegatives
    from shared.config import RunConfig
    from shared.model.state import RecommenderState
    from shared.privacy.calibration import plan_of
    from shared.randomness import secret_source

    config = RunConfig.from_mapping(
        {
            "training.local_steps": _STEPS,
            "training.sampling_rate": 1.0,
            "training.learning_rate": 1e-3,
            "training.physical_batch_size": 4,
            "federation.rounds": 1,
            "privacy.delta": 1e-5,
            "privacy.epsilon": 100.0,
        }
    )
    plan = plan_of(config, num_users=_USERS_A_STEP, num_clients=1)
    items = recommender.num_items
    prior = -np.log(np.arange(1, items + 1, dtype=np.float32))
    state = RecommenderState(log_prior=prior, adapter=recommender.initial_adapter)
    rows = np.random.default_rng(2).integers(0, items, (_USERS_A_STEP, _LENGTH), dtype=np.int32)
    histories = pl.Series(rows.tolist(), dtype=pl.List(pl.Int32))

    def run(negatives: int) -> None:
        drawn = PublicNegatives(negatives, 0, 1) if negatives else None
        task = TrainingTask(state, histories, float(_USERS_A_STEP), 1e-3, secret_source(), negatives=drawn)
        train([task], recommender, plan, config.local_training())

    return run


def _memory(name: str) -> int:
    """Of this process, MB: `VmRSS` now, `VmHWM` the most ever."""
    found = re.search(rf"{name}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        raise OSError(f"/proc/self/status has no {name}. Measure on Linux.")
    return int(found.group(1)) // 1000


if __name__ == "__main__":
    main()
