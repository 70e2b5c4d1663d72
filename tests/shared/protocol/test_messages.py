"""The wire: typed messages through Flower's own serialization and back; nothing malformed gets past."""

from __future__ import annotations

import math
from dataclasses import asdict
from dataclasses import fields as dataclass_fields
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto

from shared.errors import ProtocolViolation
from shared.protocol.messages import ContributionReply, ReleaseInstruction, TrainInstruction
from simulations.engines.local_grid import InProcessGrid
from tests.plans import plain_plan, silo_plan

PLAN = silo_plan()
PLAIN = plain_plan()
STATE = np.array([0.5, -1.0, 3e38, 1e-45], dtype=np.float32)
INSTRUCTIONS = [
    TrainInstruction(run_digest="abc", round_number=3, plan=PLAN, l2_clip_norm=0.25, state=STATE),
    TrainInstruction(run_digest="abc", round_number=1, plan=PLAIN, l2_clip_norm=math.inf, state=STATE),
    ReleaseInstruction(run_digest="abc", plan=PLAN, purpose="popularity", round_number=0, state=STATE[:0]),
    ReleaseInstruction(run_digest="abc", plan=PLAN, purpose="validation", round_number=2, state=STATE),
    ReleaseInstruction(run_digest="abc", plan=PLAN, purpose="test", round_number=3, state=STATE),
    ReleaseInstruction(run_digest="abc", plan=PLAN, purpose="blending", round_number=3, state=STATE, step=2),
]
REPLIES = [
    ContributionReply(values=STATE),
    ContributionReply(values=STATE, rank=4),
]
# Flower lets nobody make a message who has not said which node of which run he is; the grid does.
GRID = InProcessGrid(ClientApp(), num_nodes=1, run_config={})
EVERYTHING = [*INSTRUCTIONS, *REPLIES]


def _back(kind: Any, message: Message) -> Any:
    """Reads a message; of contributions the receiver knows whether they are integers."""
    return kind.from_message(message, in_ring=False) if kind is ContributionReply else kind.from_message(message)


def _sent(record: RecordDict) -> Message:
    """A message whose content went through bytes, as between two machines."""
    proto = recorddict_to_proto(record)
    content = recorddict_from_proto(type(proto).FromString(proto.SerializeToString()))
    return GRID.create_message(content, "train", dst_node_id=2, group_id="1")


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    return type(a) is type(b) and a == b


@pytest.mark.parametrize("value", EVERYTHING, ids=lambda value: type(value).__name__)
def test_a_message_comes_back_as_it_was_sent(value: Any) -> None:
    back = _back(type(value), _sent(value.to_record()))
    for name in type(value).__dataclass_fields__:
        assert _equal(getattr(back, name), getattr(value, name)), name


def _leaves(record: RecordDict) -> set[str]:
    return {f"{outer}.{inner}" for outer, content in record.items() for inner in content}


def test_a_reply_holds_nothing_but_the_allow_list() -> None:
    """A reply is one flat array and a limited rank; there is no field for a loss or a metric."""
    assert {field.name for field in dataclass_fields(ContributionReply)} == {"values", "encoding", "rank"}
    for reply in REPLIES:
        allowed = {"array.flat"}
        if reply.rank is not None:
            allowed.add("metrics.rank")
        assert _leaves(reply.to_record()) == allowed
        assert len(reply.to_record().array_records) == 1


def _without(record: RecordDict, name: str) -> RecordDict:
    del record[name]
    return record


ARRAY_FAULTS = {
    "no array": lambda good: {},
    "another record": lambda good: {"array": ConfigRecord({"flat": 1})},
    "another name": lambda good: {"array": ArrayRecord({"weights": Array(good)})},
    "two dimensions": lambda good: {"array": ArrayRecord({"flat": Array(good.reshape(1, -1))})},
    "no dimension": lambda good: {"array": ArrayRecord({"flat": Array(np.asarray(good[0]))})},
    "another type": lambda good: {"array": ArrayRecord({"flat": Array(good.astype(np.int64))})},
    "another precision": lambda good: {"array": ArrayRecord({"flat": Array(good.astype(np.float16))})},
    "objects": lambda good: {
        "array": ArrayRecord({"flat": Array(dtype="object", shape=(3,), stype="numpy.ndarray", data=b"\x80\x04]\x94.")})
    },
    "no bytes": lambda good: {
        "array": ArrayRecord({"flat": Array(dtype="float32", shape=(3,), stype="numpy.ndarray", data=b"")})
    },
    "half the bytes": lambda good: {
        "array": ArrayRecord(
            {"flat": Array(dtype="float32", shape=good.shape, stype="numpy.ndarray", data=Array(good).data[:-3])}
        )
    },
    "another serialization": lambda good: {
        "array": ArrayRecord({"flat": Array(dtype="float32", shape=(3,), stype="pickle", data=b"123")})
    },
}


@pytest.mark.parametrize("fault", ARRAY_FAULTS)
@pytest.mark.parametrize("value", [INSTRUCTIONS[0], INSTRUCTIONS[3], *REPLIES], ids=lambda value: type(value).__name__)
def test_a_malformed_array_is_a_protocol_violation(value: Any, fault: str) -> None:
    record = value.to_record()
    good = record["array"]["flat"].numpy()
    del record["array"]
    record.update(ARRAY_FAULTS[fault](good))
    with pytest.raises(
        ProtocolViolation, match=r"Expected array of an? .* to be .*, got something else\. Update both ends\."
    ):
        _back(type(value), _sent(record))


@pytest.mark.parametrize("rank", [0, -3, 2.0, [1, 2]])
def test_a_rank_that_is_no_positive_whole_number_is_a_protocol_violation(rank: Any) -> None:
    record = ContributionReply(STATE).to_record()
    record["metrics"] = MetricRecord({"rank": rank})
    with pytest.raises(
        ProtocolViolation, match=r"Expected rank of a contribution to be a (value of type int|whole number >= 1)"
    ):
        ContributionReply.from_message(_sent(record), in_ring=False)


def test_a_sum_in_the_ring_knows_no_rank() -> None:
    record = ContributionReply(np.zeros(4, dtype=np.uint8), rank=2).to_record()
    assert ContributionReply.from_message(_sent(record), in_ring=True).rank is None


MORE: dict[str, Any] = {
    "a metric": lambda record: record.update(metrics=MetricRecord({"num_examples": 10**12})),
    "a metric beside a rank": lambda record: record.update(metrics=MetricRecord({"rank": 2, "training_loss": 0.5})),
    "a second array": lambda record: record["array"].update(more=record["array"]["flat"]),
    "a text": lambda record: record.update(extra=ConfigRecord({"history": "1,2,3"})),
}


@pytest.mark.parametrize("in_ring", [False, True])
@pytest.mark.parametrize("more", MORE)
def test_more_than_the_allow_list_is_a_protocol_violation(more: str, in_ring: bool) -> None:
    record = ContributionReply(np.zeros(4, dtype=np.uint8) if in_ring else STATE).to_record()
    MORE[more](record)
    with pytest.raises(ProtocolViolation, match="Expected array of a contribution to be one flat array and nothing else"):
        ContributionReply.from_message(_sent(record), in_ring=in_ring)


@pytest.mark.parametrize(
    ("value", "field", "wrong"),
    [
        *((INSTRUCTIONS[0], field, wrong) for field in ("round_number",) for wrong in ("3", 3.0, True)),
        (INSTRUCTIONS[0], "run_digest", 5),
        (INSTRUCTIONS[0], "l2_clip_norm", 1),
        *((INSTRUCTIONS[0], f"plan.{field}", b"x") for field in asdict(PLAN) if field != "releases"),
        *((INSTRUCTIONS[0], f"plan.releases.{field}", b"x") for field in ("name", "noise_multiplier", "times")),
        (INSTRUCTIONS[0], "plan.releases.times", [1.0, 1.0]),
        (INSTRUCTIONS[0], "plan.mechanism", "dp-xyz"),
        (INSTRUCTIONS[4], "purpose", "train"),
        (INSTRUCTIONS[0], "plan.noise_multiplier", 1),
        (INSTRUCTIONS[2], "plan.reproducible", 0),
        (INSTRUCTIONS[2], "run_digest", b"abc"),
        (INSTRUCTIONS[3], "round_number", "two"),
        (INSTRUCTIONS[3], "purpose", "train"),
        (INSTRUCTIONS[3], "purpose", ["test"]),
    ],
)
def test_a_field_of_another_type_is_a_protocol_violation(value: Any, field: str, wrong: Any) -> None:
    record = value.to_record()
    fields = record["fields"]
    assert field in fields
    fields[field] = wrong
    with pytest.raises(ProtocolViolation, match=rf"Expected {field} of an? .* instruction to be "):
        _back(type(value), _sent(record))


@pytest.mark.parametrize(
    ("names", "times"),
    [
        (["metrics", "popularity"], [1, 1]),
        (["popularity", "popularity"], [1, 1]),
        (["votes"], [1]),
        (["popularity"], [1, 1]),
    ],
)
def test_releases_out_of_order_twice_unknown_or_of_other_lengths_are_a_protocol_violation(
    names: list[str], times: list[int]
) -> None:
    record = INSTRUCTIONS[0].to_record()
    record["fields"]["plan.releases.name"] = names
    record["fields"]["plan.releases.noise_multiplier"] = [1.0] * len(names)
    record["fields"]["plan.releases.times"] = times
    with pytest.raises(ProtocolViolation, match=r"^Expected plan\.releases of a train instruction to be different releases"):
        _back(TrainInstruction, _sent(record))


@pytest.mark.parametrize("value", INSTRUCTIONS[1:4], ids=lambda value: type(value).__name__)
def test_a_missing_field_is_a_protocol_violation(value: Any) -> None:
    for field in list(value.to_record()["fields"]):
        record = value.to_record()
        del record["fields"][field]
        with pytest.raises(ProtocolViolation, match=r"Expected (plan|\w+) of an? .* instruction to be "):
            _back(type(value), _sent(record))
    with pytest.raises(ProtocolViolation, match=r"Expected fields of an? .* instruction to be a config record"):
        _back(type(value), _sent(_without(value.to_record(), "fields")))


def test_a_plan_with_a_field_more_is_a_protocol_violation() -> None:
    record = INSTRUCTIONS[2].to_record()
    record["fields"]["plan.secret"] = 1.0
    with pytest.raises(ProtocolViolation, match="Expected plan of a release instruction to be the fields of PrivacyPlan"):
        ReleaseInstruction.from_message(_sent(record))


def test_packed_integers_come_back_as_they_were_sent_and_floats_do_not_pass_for_them() -> None:
    packed = np.arange(256, dtype=np.uint8)
    back = ContributionReply.from_message(_sent(ContributionReply(packed).to_record()), in_ring=True)
    np.testing.assert_array_equal(back.values, packed)
    for values, in_ring in ((packed, False), (STATE, True)):
        with pytest.raises(ProtocolViolation, match=r"Expected array of a contribution to be a flat (float32|uint8) array"):
            ContributionReply.from_message(_sent(ContributionReply(values).to_record()), in_ring=in_ring)
