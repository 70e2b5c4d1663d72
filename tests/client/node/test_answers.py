"""What the model's process says comes to the guard as it was said, and nothing in it is run."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from client.node.answers import Answer
from shared.errors import PolicyRefused
from shared.protocol.messages import ContributionReply
from shared.protocol.secure_sums import MASK, stage_record

REPLIES = {
    "floats": ContributionReply(np.arange(5, dtype=np.float32)).to_record(),
    "a prefix": ContributionReply(np.arange(3, dtype=np.float32), rank=2).to_record(),
    "bytes": RecordDict({"array": ArrayRecord({"flat": Array(np.arange(7, dtype=np.uint8))})}),
    "a stage": stage_record(MASK, bytes(range(256))),
    "everything": RecordDict(
        {
            "c": ConfigRecord({"a": 1, "b": 2.5, "c": True, "d": "text", "e": b"", "f": [1, 2], "g": ["x"]}),
            "m": MetricRecord({"loss": 0.25, "n": 3}),
            "empty": ConfigRecord(),
        }
    ),
}


@pytest.mark.parametrize("name", REPLIES)
def test_a_reply_comes_back_as_it_was(name: str) -> None:
    found = Answer.from_bytes(Answer(content=REPLIES[name]).to_bytes())
    assert found.content == REPLIES[name]
    assert (found.error, found.kind) == ("", "")


def test_an_error_comes_back_in_its_words() -> None:
    found = Answer.from_bytes(Answer(error="Expected less.", kind="BudgetExceeded").to_bytes())
    assert (found.content, found.error, found.kind) == (None, "Expected less.", "BudgetExceeded")


@given(st.binary(max_size=300))
def test_anything_else_is_refused(content: bytes) -> None:
    with pytest.raises(PolicyRefused, match="Expected an answer"):
        Answer.from_bytes(content)


def test_words_that_no_log_can_hold_are_refused() -> None:
    with pytest.raises(PolicyRefused, match="Expected an answer"):
        Answer.from_bytes(Answer(error="Expected \ud800", kind="PrivacyError").to_bytes())


@given(st.data())
def test_a_cut_or_longer_answer_is_refused(data: st.DataObject) -> None:
    content = Answer(content=REPLIES["floats"]).to_bytes()
    cut = data.draw(st.integers(0, len(content) - 1))
    for wrong in (content[:cut], content + b"x"):
        with pytest.raises(PolicyRefused, match="Expected an answer"):
            Answer.from_bytes(wrong)


def test_nothing_is_run_that_an_answer_holds(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str, str]]:
            return open, (str(tmp_path / "ran"), "w")

    with pytest.raises(PolicyRefused, match="Expected an answer"):
        Answer.from_bytes(pickle.dumps(Trap()))
    assert not (tmp_path / "ran").exists()
