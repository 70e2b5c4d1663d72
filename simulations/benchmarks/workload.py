"""What the model benchmarks run on: a data set, its histories, and a recommender with its state."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch

from shared.config import RunConfig, TrainingSection, parse_assignments
from shared.data.splitting import split
from shared.model.recommender import Recommender, build
from shared.model.state import RecommenderState
from simulations.preparing import dataset_of

# Gradients reach the first layer; with the default ranks they may stop behind the transformer.
_FULL_ADAPTER = {"adapter.rank": 8, "adapter.output_rank": 8, "adapter.head_rank": 32}


@dataclass(frozen=True, eq=False)
class Workload:
    """Everything a training step or an evaluation needs.

    Attributes:
        config: FFA-LoRA where the adapter's kind is `auto`: plain and private train the same tensors.
        histories: The HISTORIES TABLE.
        recommender: Its state is `state`.
        state: The initial adapter with a flat prior.
    """

    config: RunConfig
    histories: pl.DataFrame
    recommender: Recommender
    state: RecommenderState

    @property
    def training(self) -> TrainingSection:
        """The local settings of a private run, for both sides."""
        return self.config.local_training()

    def summary(self) -> dict[str, object]:
        """What the benchmark ran on."""
        return {
            "data": self.config.data.path.rstrip("/").rsplit("/", 1)[-1],
            "users": len(self.histories),
            "items": self.recommender.num_items,
            "trained_parameters": self.recommender.attached.size,
            "device": str(self.recommender.device),
            "threads": torch.get_num_threads(),
        }


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options that choose the workload."""
    parser.add_argument("--data", default="synthetic", help="file, folder or 'synthetic'")
    parser.add_argument("--full-adapter", action="store_true", help="LoRA on every linear layer and the head")
    parser.add_argument("--set", action="append", default=[], metavar="section.key=value", help="repeatable")


def prepare(options: argparse.Namespace) -> Workload:
    """Reads the data and builds the recommender."""
    torch.set_num_threads(options.threads)
    ranks: dict[str, int] = _FULL_ADAPTER if options.full_adapter else {}
    config = RunConfig.from_mapping({"data.path": options.data, **ranks, **parse_assignments(options.set)})
    if config.adapter.kind == "auto":
        config = config.with_values({"adapter.kind": "ffa"})
    dataset = dataset_of(config)
    histories = split(dataset.interactions, dataset.catalog, method=config.data.split, seed=0).histories
    recommender = build(config, dataset.catalog)
    state = RecommenderState(
        log_prior=np.zeros(recommender.num_items, dtype=np.float32), adapter=recommender.initial_adapter
    )
    recommender.load_state(state)
    return Workload(config, histories, recommender, state)
