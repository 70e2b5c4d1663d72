"""Values <-> records: numbers that stay in the process, and fields that are read strictly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import recorddict_to_proto

from shared.errors import ProtocolViolation
from shared.protocol.wire import Received, ResidentArray, SparseValues, array_of, record_of
from simulations.engines.local_grid import InProcessGrid

GRID = InProcessGrid(ClientApp(), num_nodes=1, run_config={})
VALUES = np.array([0.5, -1.0, 0.0], dtype=np.float32)
SPARSE = SparseValues(5, np.array([4, 1]), np.array([2.0, 3.0], dtype=np.float32))


def _message(record: RecordDict) -> Message:
    return GRID.create_message(record, "train", dst_node_id=2, group_id="1")


def test_sparse_values_are_the_whole_array_where_all_are_asked_for() -> None:
    assert SPARSE.dense().tolist() == ResidentArray(SPARSE).numpy().tolist() == [0.0, 3.0, 0.0, 0.0, 2.0]
    assert SPARSE.dense().dtype == np.float32
    assert (ResidentArray(SPARSE).shape, ResidentArray(SPARSE).dtype) == ((5,), "float32")


def test_a_resident_array_hands_on_its_numbers_and_refuses_to_be_bytes() -> None:
    record = record_of(ResidentArray(VALUES), {}, {})
    received = Received(_message(record), "contribution")
    assert received.is_resident and received.sparse is None
    assert received.array(np.float32) is VALUES
    with pytest.raises(
        ProtocolViolation, match=r"^Expected a message within one process, got one that is being serialized\."
    ):
        recorddict_to_proto(record)
    assert Received(_message(record_of(ResidentArray(SPARSE), {}, {})), "contribution").sparse is SPARSE


def test_what_went_through_bytes_is_not_resident() -> None:
    received = Received(_message(record_of(array_of(VALUES[::2]), {}, {})), "contribution")
    assert not received.is_resident and received.sparse is None
    assert received.array(np.float32).tolist() == [0.5, 0.0]


def test_an_empty_message_has_no_array_no_fields_and_no_rank() -> None:
    received = Received(_message(RecordDict({})), "reply")
    assert received.rank() is None
    with pytest.raises(ProtocolViolation, match=r"^Expected array of a reply to be one flat array, got something else\."):
        received.array(np.float32)
    for read in (received.plan, received.head, received.purpose, lambda: received.value("round_number", int)):
        with pytest.raises(
            ProtocolViolation, match=r"^Expected fields of a reply to be a config record, got something else\."
        ):
            read()


@pytest.mark.parametrize("head", [[2, 1], [1, 1], [-1, 3], [1, 2**31], [1.0], [True], "12", 7])
def test_a_head_that_is_no_ascending_list_of_rows_is_a_protocol_violation(head: Any) -> None:
    received = Received(_message(record_of(array_of(VALUES), {"head": head}, {})), "release instruction")
    with pytest.raises(
        ProtocolViolation, match=r"^Expected head of a release instruction to be rows of the catalog, ascending"
    ):
        received.head()


@pytest.mark.parametrize("step", [-1, 2**31, 1.0, True, "1", [1]])
def test_a_step_that_is_no_whole_number_is_a_protocol_violation(step: Any) -> None:
    received = Received(_message(record_of(array_of(VALUES), {"step": step}, {})), "release instruction")
    with pytest.raises(ProtocolViolation, match=r"^Expected step of a release instruction to be a whole number >= 0"):
        received.step()


def test_a_head_may_be_absent() -> None:
    assert Received(_message(record_of(array_of(VALUES), {"round_number": 1}, {})), "release instruction").head() == ()
    fields: dict[str, Any] = {"head": [0, 5, 2**31 - 1]}
    assert Received(_message(record_of(array_of(VALUES), fields, {})), "release instruction").head() == (0, 5, 2**31 - 1)
