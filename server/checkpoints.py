"""Resumable state and the released adapter with its manifest.

A checkpoint holds noised state only: the recommender's state, the server optimizer and the history of rounds.
It is written before every request to clients, with that request counted, and after every round, before the round is
announced, under a temporary name; a digest in front of the bytes tells a damaged file from a whole one, and the one before
is kept.
"""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from server.event_log import Asked, EventLog
from shared.errors import CheckpointError
from shared.files import write_atomically, write_json
from shared.model import adapter as lora
from shared.model.recommender import Recommender
from shared.model.statistics import FILE as STATISTICS
from shared.run_folder import EVENTS

_NAME, _PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"


_OLDER = "The newest checkpoint is damaged; the run goes on from the one before it and asks again for the rest."


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Where a run stands after a finished round.

    Attributes:
        config_digest: Of the run it belongs to.
        round_number: Rounds finished; 0 after the popularity prior.
        state: (I + d,) float32; empty before the popularity prior is known.
        optimizer: The server optimizer's state.
        l2_clip_norm: Of the next round; adaptive clipping moves it.
        run_id: What the clients' ledgers know this run by.
        totals: What was released beside training: values and standard deviation of the noise, by statistic.
        head: The items whose pairs are counted, ascending.
        released: Purposes before training that were answered.
        refines: Which statistic is released once more; empty before that is known.
        weights: (steps, 5), the weights after each blending step that was answered.
        compared: Noised gains of the candidates and the standard deviation of their noise, once they were asked for.
        best: Round, noised score and state of the best validated round, where one is chosen; empty otherwise.
        asked: What clients were asked for up to here, the request that is about to be sent included.
        earlier: The totals of the runs that this one continues, over its own catalog.
        continues: Digest of what the run that is continued released; empty where there is none.
    """

    config_digest: str
    round_number: int
    state: NDArray[np.float32]
    optimizer: dict[str, Any]
    l2_clip_norm: float
    run_id: str
    totals: dict[str, tuple[NDArray[np.float64], float]]
    head: NDArray[np.int64]
    released: tuple[str, ...]
    refines: str
    weights: NDArray[np.float64]
    compared: tuple[NDArray[np.float64], float] | None
    best: dict[str, Any]
    asked: Asked
    earlier: dict[str, tuple[NDArray[np.float64], float]] = field(default_factory=dict)
    continues: str = ""


def save(checkpoint: Checkpoint, run_dir: Path) -> None:
    """Writes the checkpoint and keeps the previous one."""
    buffer = io.BytesIO()
    content = {
        "config_digest": checkpoint.config_digest,
        "round_number": checkpoint.round_number,
        "state": torch.from_numpy(checkpoint.state),
        "optimizer": checkpoint.optimizer,
        "l2_clip_norm": checkpoint.l2_clip_norm,
        "run_id": checkpoint.run_id,
        "totals": _as_tensors(checkpoint.totals),
        "earlier": _as_tensors(checkpoint.earlier),
        "continues": checkpoint.continues,
        "head": torch.from_numpy(checkpoint.head),
        "refines": checkpoint.refines,
        "weights": torch.from_numpy(checkpoint.weights),
        "compared": checkpoint.compared and (torch.from_numpy(checkpoint.compared[0]), checkpoint.compared[1]),
        "released": list(checkpoint.released),
        "best": checkpoint.best,
        "asked": {**vars(checkpoint.asked), "released": dict(checkpoint.asked.released)},
    }
    torch.save(content, buffer)
    payload = buffer.getvalue()
    path = run_dir / _NAME
    if path.exists():
        path.replace(run_dir / _PREVIOUS)
    write_atomically(path, lambda stream: stream.write(hashlib.sha256(payload).digest() + payload))


def _as_tensors(totals: Mapping[str, tuple[NDArray[np.float64], float]]) -> dict[str, tuple[torch.Tensor, float]]:
    return {name: (torch.from_numpy(values), stddev) for name, (values, stddev) in totals.items()}


def _as_arrays(totals: Mapping[str, tuple[torch.Tensor, float]]) -> dict[str, tuple[NDArray[np.float64], float]]:
    return {name: (values.numpy(), stddev) for name, (values, stddev) in totals.items()}


def exists(run_dir: Path) -> bool:
    """Whether the run got as far as its first checkpoint, damaged or not."""
    return any((run_dir / name).exists() for name in (_NAME, _PREVIOUS))


def resumed(run_dir: Path, *, config_digest: str) -> Checkpoint:
    """As `load`, for a run that goes on: where the newest checkpoint is damaged, its events and Flower's log say so.

    Raises:
        CheckpointError: As `load`.
    """
    found = load(run_dir, config_digest=config_digest)
    path = run_dir / _NAME
    if path.exists() and not _is_whole(path.read_bytes()):
        EventLog(run_dir / EVENTS).append("checkpoint_damaged", reason=_OLDER)
        logging.getLogger("flwr").warning(_OLDER)
    return found


def load(run_dir: Path, *, config_digest: str) -> Checkpoint:
    """Reads the newest whole checkpoint of a run.

    Raises:
        CheckpointError: If there is none, all are damaged, or it belongs to another configuration.
    """
    for values in _whole(run_dir):
        if values["config_digest"] != config_digest:
            raise CheckpointError(
                f"Expected the configuration of the run in {run_dir.name}/, got another one. "
                "Resume with the same settings, or choose another run.out."
            )
        return Checkpoint(
            config_digest=values["config_digest"],
            round_number=values["round_number"],
            state=values["state"].numpy(),
            optimizer=values["optimizer"],
            l2_clip_norm=values["l2_clip_norm"],
            run_id=values["run_id"],
            totals=_as_arrays(values["totals"]),
            earlier=_as_arrays(values["earlier"]),
            continues=values["continues"],
            head=values["head"].numpy(),
            refines=values["refines"],
            weights=values["weights"].numpy(),
            compared=values["compared"] and (values["compared"][0].numpy(), values["compared"][1]),
            released=tuple(values["released"]),
            best=values["best"],
            asked=Asked(**values["asked"]),
        )
    problem = "only damaged checkpoints" if exists(run_dir) else "no checkpoint"
    raise CheckpointError(f"Expected a checkpoint in {run_dir.name}/, found {problem}. Start the run again.")


def asked_in(run_dir: Path) -> Asked:
    """What clients were ever asked for in a run: the larger of what its event file and its checkpoints say.

    Raises:
        CheckpointError: If the event file is damaged, or a checkpoint is another version's.
    """
    counted = EventLog(run_dir / EVENTS).asked()
    for values in _whole(run_dir):
        counted = counted.at_least(Asked(**values["asked"]))
    return counted


def _whole(run_dir: Path) -> Iterator[dict[str, Any]]:
    """The contents of a run's checkpoints that are not damaged, the newest first."""
    for name in (_NAME, _PREVIOUS):
        path = run_dir / name
        if not path.exists():
            continue
        content = path.read_bytes()
        if not _is_whole(content):
            continue
        values = torch.load(io.BytesIO(content[32:]), weights_only=True)
        if "weights" not in values:
            raise CheckpointError(
                f"Expected a checkpoint of this version in {run_dir.name}/, found one of an earlier version. "
                "Go on with the version that wrote it, or start the run again."
            )
        yield values


def _is_whole(content: bytes) -> bool:
    return hashlib.sha256(content[32:]).digest() == content[:32]


def release(recommender: Recommender, run_dir: Path, *, manifest: dict[str, Any], name: str = "adapter") -> Path:
    """Writes the released adapter: peft's files, `prior.safetensors`, `statistics.safetensors`, and a manifest.

    Args:
        recommender: With the state to release loaded.
        run_dir: The run's folder.
        manifest: Backbone digest, catalog digest, round, epsilon and more. (public)
        name: Folder below `run_dir`.
    """
    from safetensors.numpy import save as to_safetensors

    folder = run_dir / name
    folder.mkdir(parents=True, exist_ok=True)
    lora.save(recommender.attached, folder)
    prior = to_safetensors({"log_prior": recommender.state().log_prior})
    write_atomically(folder / "prior.safetensors", lambda stream: stream.write(prior))
    statistics = recommender.attached.model.statistics
    if statistics is not None:
        content = to_safetensors(vars(statistics))
        write_atomically(folder / STATISTICS, lambda stream: stream.write(content))
    files = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.name != "manifest.json" and not path.name.startswith(".")
    }
    write_json(folder / "manifest.json", {**manifest, "files": files})
    return folder
