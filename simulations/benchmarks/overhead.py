"""What a simulated client costs beyond its arithmetic: a round of the cohort engine, less the arithmetic that is in it.

A tiny backbone is adapted with about `--floats` weights, each client has one example of one token, and a cohort trains once.
A round is all of it: the server's messages, the reservation in the ledger, reading histories, training, clipping, encoding,
replies, the exact sum, the server's noise. Its arithmetic alone, over the same examples in the same batches, is the second
time: gradients, clipping, encoding with its random bits, adding up. The two take turns; a pair's difference over the number
of clients is the overhead, and `total` is the round over the number of clients.

`--epsilon inf` measures floats in place of clipped integers: what simulators without exact sums do.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
import polars as pl
import torch

from client.answering import in_flight
from client.batch import ClientBatch, RoundOfTraining
from client.contribution import clipped_updates, encoded
from server.aggregation import FloatSum, RingSum
from server.event_log import EventLog
from server.membership import FixedMembers
from server.releases import Releases
from shared.config import RunConfig
from shared.data.catalog import ItemCatalog
from shared.data.splitting import HISTORIES_SCHEMA
from shared.model.state import RecommenderState
from shared.privacy.calibration import plan_of
from shared.privacy.plan import PrivacyPlan
from shared.run_folder import EVENTS
from simulations.benchmarks.timing import Spread, options, seconds
from simulations.engines.cohort import CohortGrid
from simulations.population import write_population

TARGET_MILLISECONDS = 0.1
_ITEMS = 16
_WIDTH = 64
# A layer of BERT has six linear layers, here of this width in and out.
_WEIGHTS_A_RANK = 6 * _WIDTH
_ROUNDS = 10_000


def main() -> None:
    """Measures and prints."""
    parser = options(__doc__, repeats=15)
    parser.add_argument("--floats", type=int, default=100_000, help="trained weights, about (default 100000)")
    parser.add_argument("--clients", type=int, default=512, help="clients a round (default 512)")
    parser.add_argument("--epsilon", type=float, default=8.0, help="inf: floats, neither clipped nor encoded (default 8)")
    parser.set_defaults(threads=1)  # nothing here is large enough for two
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    with cohort(chosen.clients, chosen.floats, epsilon=chosen.epsilon) as (round_once, arithmetic, floats):
        round_once(), arithmetic()
        times = [_in_turn(round_once, arithmetic, turn) for turn in range(chosen.repeats)]
    a_client = 1000 / chosen.clients
    record = {
        "benchmark": "overhead",
        "overhead_ms": asdict(Spread.of([(whole - part) * a_client for whole, part in times])),
        "total_ms": asdict(Spread.of([whole * a_client for whole, _ in times])),
        "arithmetic_ms": asdict(Spread.of([part * a_client for _, part in times])),
        "target_ms": TARGET_MILLISECONDS,
        "clients": chosen.clients,
        "floats": floats,
        "epsilon": str(chosen.epsilon),
        "threads": chosen.threads,
        "repeats": chosen.repeats,
    }
    if chosen.json:
        print(json.dumps(record))
        return
    print(f"overhead: ms a client, {chosen.clients} clients, {floats} floats, {chosen.repeats} turns, median [min, max]")
    for name in ("overhead_ms", "total_ms", "arithmetic_ms"):
        print(f"  {name.removesuffix('_ms')}: {Spread(**record[name])}")
    print(f"  aim: overhead <= {TARGET_MILLISECONDS:g}")


def _in_turn(round_once: Callable[[], object], arithmetic: Callable[[], object], turn: int) -> tuple[float, float]:
    """Seconds of both; which one goes first alternates."""
    if turn % 2:
        part = seconds(arithmetic)
        return seconds(round_once), part
    return seconds(round_once), seconds(arithmetic)


@contextmanager
def cohort(
    clients: int, floats: int, *, epsilon: float = 8.0
) -> Iterator[tuple[Callable[[], object], Callable[[], object], int]]:
    """A cohort that is ready to train: one round, its arithmetic alone, and the number of trained weights."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent)
        config = _config(folder, floats, epsilon)
        write_population(_histories(clients), _catalog(), None, folder / "population")
        config = config.with_values({"data.population": str(folder / "population")})
        plan = plan_of(config, num_users=clients, num_clients=clients)
        grid = CohortGrid(num_nodes=clients, run_config=config.to_flat())
        batch = ClientBatch.of_population(config, folder / "population", np.arange(clients))
        recommender = batch.recommender()
        size = recommender.attached.size
        state = RecommenderState(np.zeros(_ITEMS, dtype=np.float32), recommender.initial_adapter)
        (folder / "run").mkdir()
        log = EventLog(folder / "run" / EVENTS)
        log.append("started")
        releases = Releases(
            grid, FixedMembers(list(grid.get_node_ids())), plan, config.local_training(), log,
            run_id="run", seed=0, timeout_seconds=60,
            before_asking=lambda purpose, round_number, instruction: None,
        )  # fmt: skip
        numbers = iter(range(1, _ROUNDS + 1))

        def round_once() -> None:
            releases.update(state, round_number=next(numbers), size=size, l2_clip_norm=plan.l2_clip_norm)

        yield round_once, _arithmetic(batch, plan, state), size


def _arithmetic(batch: ClientBatch, plan: PrivacyPlan, state: RecommenderState) -> Callable[[], object]:
    """The same gradients, clipping, encoding and sum, on examples that are in memory, in the same batches."""
    from client.training.dp_sgd import train

    recommender, training = batch.recommender(), batch.config.local_training()
    size = recommender.attached.size
    encoding = plan.update_encoding(size, l2_clip_norm=plan.l2_clip_norm) if plan.clips_whole_updates else None
    at_once = in_flight(size, encoding)
    work = RoundOfTraining(state, training.learning_rate, "run", 1)
    batches = []
    for start in range(0, len(batch), at_once):
        some = batch.take(slice(start, start + at_once))
        sources = some.noise_sources(plan, "train", 1)
        batches.append((some.tasks(some.rows(("user", "train")), plan, work, sources), sources))

    def run() -> object:
        total = FloatSum(size) if encoding is None else RingSum(encoding)
        for tasks, sources in batches:
            values = train(tasks, recommender, plan, training)
            if encoding is not None:
                bounded = clipped_updates(values, plan=plan, l2_clip_norm=plan.l2_clip_norm)
                values = encoded(bounded, encoding, plan=plan, sources=sources)  # type: ignore[assignment]
            for row in values:
                total.add(row)
        return total

    return run


def _config(folder: Path, floats: int, epsilon: float) -> RunConfig:
    return RunConfig.from_mapping(
        {
            "model.backbone": str(_tiny_backbone(folder / "backbone")),
            "model.layers": 1,
            "model.max_history_length": 2,
            "model.content_dimensions": 1,
            "adapter.rank": max(1, round(floats / _WEIGHTS_A_RANK)),
            "adapter.output_rank": 1,
            "adapter.kind": "ffa",
            "federation.clients": 0,
            "privacy.mechanism": "central",
            "federation.rounds": _ROUNDS,
            "training.local_steps": 1,
            "training.optimizer": "sgd",
            "training.learning_rate": 0.1,
            "training.physical_batch_size": 2048,
            "privacy.epsilon": epsilon if math.isinf(epsilon) else epsilon * 100,  # so many rounds; the noise is no matter
            "privacy.popularity_noise_multiplier": 0.0,
            "privacy.evaluation_noise_multiplier": 0.0,
            "data.public_catalog": True,
        }
    )


def _tiny_backbone(folder: Path) -> Path:
    from tokenizers import Tokenizer, models
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", *[f"w{item}" for item in range(_ITEMS)]]
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": _WIDTH, "intermediate_size": _WIDTH, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = BertConfig(vocab_size=len(words), max_position_embeddings=32, **sizes)
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def _catalog() -> ItemCatalog:
    return ItemCatalog(tuple(f"item {item}" for item in range(_ITEMS)), tuple(f"w{item}" for item in range(_ITEMS)))


def _histories(clients: int) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    return pl.DataFrame(
        {
            "user": [f"user {user:07d}" for user in range(clients)],
            "train": rng.integers(0, _ITEMS, (clients, 2)).tolist(),
            "validation": [[0]] * clients,
            "test": [[0]] * clients,
        },
        schema=dict(HISTORIES_SCHEMA),
    )


if __name__ == "__main__":
    main()
