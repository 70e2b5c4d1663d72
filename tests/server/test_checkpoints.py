"""Checkpoints: exact round trips, damage, foreign runs; the released adapter and its manifest."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from server import checkpoints
from server.checkpoints import Checkpoint
from server.event_log import Asked, EventLog
from shared.config import RunConfig
from shared.errors import CheckpointError
from shared.model.recommender import build

NEWEST, PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"


def _checkpoint(round_number: int, digest: str = "d") -> Checkpoint:
    state = np.linspace(0, round_number, 7, dtype=np.float32)
    optimizer = {"state": {0: {"step": torch.tensor(float(round_number))}}}
    asked = Asked(round_number + 1, 0, {"popularity": 1})
    totals = {"popularity": (np.arange(3.0), 1.5), "pairs": (np.zeros(3), 0.0)}
    head, released = np.array([0, 2]), ("popularity", "pairs")
    return Checkpoint(
        digest, round_number, state, optimizer, 0.5, "run", totals, head, released, "refine-pairs",
        np.ones((2, 5)), (np.ones(2), 0.5), {}, asked,
    )  # fmt: skip


def test_checkpoint_comes_back_exactly(tmp_path: Path) -> None:
    checkpoints.save(_checkpoint(3), tmp_path)
    found = checkpoints.load(tmp_path, config_digest="d")
    assert found.round_number == 3
    np.testing.assert_array_equal(found.state, _checkpoint(3).state)
    assert found.state.dtype == np.float32
    assert found.optimizer["state"][0]["step"] == 3.0
    assert found.asked == Asked(rounds=4, repeated=0, released={"popularity": 1})
    assert (found.released, found.refines) == (("popularity", "pairs"), "refine-pairs")
    np.testing.assert_array_equal(found.head, [0, 2])
    np.testing.assert_array_equal(found.weights, np.ones((2, 5)))
    assert found.compared is not None
    np.testing.assert_array_equal(found.compared[0], np.ones(2))
    assert found.compared[1] == 0.5
    for name, (values, stddev) in _checkpoint(3).totals.items():
        np.testing.assert_array_equal(found.totals[name][0], values)
        assert (found.totals[name][0].dtype, found.totals[name][1]) == (np.float64, stddev)
    assert (found.config_digest, found.l2_clip_norm, found.run_id, found.best) == ("d", 0.5, "run", {})


def test_checkpoint_loaded_is_the_newest(tmp_path: Path) -> None:
    for round_number in (0, 1, 2):
        checkpoints.save(_checkpoint(round_number), tmp_path)
    assert checkpoints.load(tmp_path, config_digest="d").round_number == 2


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "missing"])
def test_checkpoint_before_is_used_when_the_newest_is_damaged(tmp_path: Path, damage: str) -> None:
    for round_number in (1, 2):
        checkpoints.save(_checkpoint(round_number), tmp_path)
    _damage(tmp_path / NEWEST, damage)
    assert checkpoints.load(tmp_path, config_digest="d").round_number == 1


def _damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "missing":
        path.unlink()
        return
    if how == "flipped":
        content[len(content) // 2] ^= 1
    path.write_bytes({"flipped": content, "cut": content[:-9], "empty": b""}[how])


def test_checkpoints_that_are_all_damaged_are_one_clear_error(tmp_path: Path) -> None:
    for round_number in (1, 2):
        checkpoints.save(_checkpoint(round_number), tmp_path)
    for name in (NEWEST, PREVIOUS):
        _damage(tmp_path / name, "cut")
    with pytest.raises(CheckpointError, match=r"found only damaged checkpoints\. Start the run again"):
        checkpoints.load(tmp_path, config_digest="d")


def test_checkpoint_that_is_absent_is_one_clear_error(tmp_path: Path) -> None:
    assert not checkpoints.exists(tmp_path)
    with pytest.raises(CheckpointError, match=r"found no checkpoint\. Start the run again"):
        checkpoints.load(tmp_path, config_digest="d")


def test_checkpoint_of_another_configuration_is_refused(tmp_path: Path) -> None:
    checkpoints.save(_checkpoint(1), tmp_path)
    assert checkpoints.exists(tmp_path)
    with pytest.raises(CheckpointError, match=r"Expected the configuration of the run in .*, got another one"):
        checkpoints.load(tmp_path, config_digest="other")


def test_release_names_every_file_with_its_checksum(tmp_path: Path, tiny_config: RunConfig, tiny_catalog: Any) -> None:
    recommender = build(tiny_config, tiny_catalog)
    prior = np.log(np.full(12, 1 / 12, dtype=np.float32))
    recommender.attached.model.set_log_prior(prior)
    folder = checkpoints.release(recommender, tmp_path, manifest={"schema": "s", "epsilon": None})
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert (manifest["schema"], manifest["epsilon"]) == ("s", None)
    named = manifest["files"]
    assert set(named) == {"adapter_config.json", "adapter_model.safetensors", "prior.safetensors"}
    assert set(named) == {path.name for path in folder.iterdir()} - {"manifest.json"}
    for name, digest in named.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    from safetensors.numpy import load_file

    np.testing.assert_array_equal(load_file(folder / "prior.safetensors")["log_prior"], prior)


@pytest.mark.parametrize(
    ("counted", "logged", "expected"),
    [
        (
            Asked(3, 1, {"popularity": 1, "metrics": 2}),
            Asked(2, 0, {"popularity": 1}),
            Asked(3, 1, {"popularity": 1, "metrics": 2}),
        ),
        (Asked(3, 1, {"popularity": 1, "metrics": 2}), Asked(), Asked(3, 1, {"popularity": 1, "metrics": 2})),
        (Asked(1, 0, {"pairs": 1}), Asked(2, 1, {"pairs": 2, "metrics": 1}), Asked(2, 1, {"pairs": 2, "metrics": 1})),
        (Asked(3, 0, {"blending": 2}), Asked(2, 1, {"selection": 1}), Asked(3, 1, {"blending": 2, "selection": 1})),
    ],
)
def test_what_was_asked_is_the_larger_count_of_event_file_and_checkpoint(
    tmp_path: Path, counted: Asked, logged: Asked, expected: Asked
) -> None:
    saved = Checkpoint(
        "d",
        1,
        np.zeros(1, dtype=np.float32),
        {},
        0.5,
        "run",
        {},
        np.zeros(0, dtype=np.int64),
        (),
        "",
        np.zeros((0, 5)),
        None,
        {},
        counted,
    )
    checkpoints.save(saved, tmp_path)
    log = EventLog(tmp_path / "events.jsonl")
    for number in [*range(1, logged.rounds - logged.repeated + 1), *[1] * logged.repeated]:
        log.append("asked", purpose="train", round_number=number)
    for name, times in logged.released.items():
        for _ in range(times):
            log.append("asked", purpose="test" if name == "metrics" else name)
    assert log.asked() == logged
    assert checkpoints.asked_in(tmp_path) == expected


def test_a_checkpoint_that_does_not_count_what_was_asked_is_refused(tmp_path: Path) -> None:
    import hashlib
    import io

    buffer = io.BytesIO()
    torch.save({"config_digest": "d", "round_number": 1}, buffer)
    (tmp_path / NEWEST).write_bytes(hashlib.sha256(buffer.getvalue()).digest() + buffer.getvalue())
    with pytest.raises(CheckpointError, match=r"Expected a checkpoint of this version in .*, found one of an earlier"):
        checkpoints.load(tmp_path, config_digest="d")
