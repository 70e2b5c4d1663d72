"""Sparse contributions: the same sums, bit by bit, whether only their nonzero values travel or all of them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from numpy.typing import NDArray

from client.contribution import as_floats, bounded, encoded, in_the_ring
from client.statistics.sparse import SparseRows
from server.aggregation import FloatSum, RingSum
from shared.errors import ProtocolViolation
from shared.privacy.plan import PrivacyPlan
from shared.protocol.messages import ContributionReply
from shared.protocol.wire import SparseValues
from shared.randomness import replayable_source, secret_source
from simulations.engines.local_grid import InProcessGrid
from tests.plans import central_plan, distributed_plan

SIZE, USERS = 1000, 7
WITH_PAIRS = {"statistics": "popularity,pairs", "pairs_noise_multiplier": 4.0, "num_clients": USERS, "reproducible": True}
GRID = InProcessGrid(ClientApp(), num_nodes=1, run_config={})


def _rows(*, longest: float = 1.0) -> SparseRows:
    """Of many lengths; the last user has nothing."""
    rng = np.random.default_rng(2)
    counts = [1, 30, 5, 200, 2, 60, 0]
    places = np.concatenate([np.sort(rng.choice(SIZE, size=count, replace=False)) for count in counts])
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    rows = SparseRows(SIZE, starts, places, rng.normal(size=len(places))).normalized()
    return SparseRows(SIZE, starts, places, rows.values * longest)


def _dense(rows: SparseRows) -> NDArray[np.float64]:
    return np.array([rows.dense(number) for number in range(len(rows))])


def _sources() -> list[Any]:
    return [replayable_source(0, "user", number) for number in range(USERS)]


def _message(record: RecordDict) -> Message:
    return GRID.create_message(record, "query.pairs", dst_node_id=2, group_id="1")


def _through_bytes(record: RecordDict) -> Message:
    proto = recorddict_to_proto(record)
    return _message(recorddict_from_proto(type(proto).FromString(proto.SerializeToString())))


def _ring_sums(plan: PrivacyPlan, rows: SparseRows) -> dict[str, NDArray[np.uint32]]:
    """The sum of the users' contributions, by the way that they went."""
    encoding = plan.release_encoding(plan.release("pairs"), SIZE, sparse=True)
    sums = {name: RingSum(encoding) for name in ("resident", "wire", "dense")}
    for reply in in_the_ring(rows, encoding, plan=plan, sources=_sources()):
        resident = ContributionReply.from_message(_message(reply.to_resident_record()), in_ring=True)
        wire = ContributionReply.from_message(_through_bytes(reply.to_record()), in_ring=True)
        assert wire.values.shape == (encoding.packed_bytes,)
        sums["resident"].add(resident.values)
        sums["wire"].add(wire.values)
    for row in encoded(bounded(_dense(rows), l2_bound=1.0), encoding, plan=plan, sources=_sources()):
        sums["dense"].add(row)
    assert {total.count for total in sums.values()} == {USERS}
    return {name: total.total for name, total in sums.items()}


@pytest.mark.parametrize("longest", [1.0, 3.0], ids=["within the bound", "clipped"])
@pytest.mark.parametrize("mechanism", ["central", "dp-ftrl-central", "distributed"])
def test_a_sum_in_the_ring_is_the_same_through_the_sparse_and_the_dense_wire(mechanism: str, longest: float) -> None:
    make = distributed_plan if mechanism == "distributed" else central_plan
    plan = make(**{**WITH_PAIRS, "mechanism": mechanism, "minimum_survivors": 5 if mechanism == "distributed" else 0})
    rows = _rows(longest=longest)
    sums = _ring_sums(plan, rows)
    np.testing.assert_array_equal(sums["resident"], sums["wire"])
    np.testing.assert_array_equal(sums["resident"], sums["dense"])
    if mechanism == "distributed":
        return
    # The server's noise comes later, so what is decoded is the sum of the bounded rows up to a step each.
    encoding = plan.release_encoding(plan.release("pairs"), SIZE, sparse=True)
    exact = _dense(_rows()).sum(axis=0)
    np.testing.assert_allclose(encoding.decode(sums["resident"]), exact, atol=USERS * (1 / encoding.scale + 2**-22))


def test_under_shares_of_noise_every_coordinate_is_sent_so_that_none_tells_of_a_pair() -> None:
    plan = distributed_plan(**{**WITH_PAIRS, "minimum_survivors": 5})
    encoding = plan.release_encoding(plan.release("pairs"), SIZE, sparse=True)
    for reply in in_the_ring(_rows(), encoding, plan=plan, sources=_sources()):
        assert not isinstance(reply.values, SparseValues)
        assert (reply.values[:SIZE] != 0).mean() > 0.99


def test_clients_of_one_process_hand_on_few_values_and_the_first_one_carries_the_noise_of_all() -> None:
    """Masked contributions each carry their own share, because one may be missing from the sum without the others."""
    plan = distributed_plan(**{**WITH_PAIRS, "minimum_survivors": 5, "reproducible": False})
    encoding = plan.release_encoding(plan.release("pairs"), SIZE, sparse=True)

    def sparse(plan: PrivacyPlan) -> list[bool]:
        replies = in_the_ring(_rows(), encoding, plan=plan, sources=[secret_source()] * USERS)
        return [isinstance(reply.values, SparseValues) for reply in replies]

    assert sparse(plan) == [False] + [True] * (USERS - 1)
    assert sparse(dataclasses.replace(plan, secure_aggregation="masked")) == [False] * USERS


def test_the_noise_of_all_is_added_to_what_the_first_client_says() -> None:
    """Null: the sum is that of the clients' values up to the noise, whose scale is a thousandth of theirs."""
    plan = distributed_plan(**{**WITH_PAIRS, "minimum_survivors": 5, "pairs_noise_multiplier": 1e-4})
    encoding, shared = plan.release_encoding(plan.release("pairs"), SIZE, sparse=True), replayable_source(0, "all")
    total = RingSum(encoding)
    for reply in in_the_ring(_rows(), encoding, plan=plan, sources=[shared] * USERS):
        total.add(reply.values)
    exact = _dense(_rows()).sum(axis=0)
    np.testing.assert_allclose(encoding.decode(total.total), exact, atol=(USERS + 5) / encoding.scale)


@pytest.mark.parametrize("stddev", [0.0, 2.5])
def test_a_silos_sum_is_the_same_through_the_sparse_and_the_dense_wire(stddev: float) -> None:
    """Without noise the values alone travel; under noise all of them do."""
    rows = _rows()
    resident, wire, dense = FloatSum(SIZE), FloatSum(SIZE), FloatSum(SIZE)
    for reply in as_floats(rows, stddev=stddev, sources=_sources()):
        assert isinstance(reply.values, SparseValues) == (stddev == 0.0)
        found = ContributionReply.from_message(_message(reply.to_resident_record()), in_ring=False).values
        resident.add(found if isinstance(found, SparseValues) else found.astype(np.float64))
        wire.add(ContributionReply.from_message(_through_bytes(reply.to_record()), in_ring=False).values)
    for reply in as_floats(_dense(rows), stddev=stddev, sources=_sources()):
        dense.add(reply.values)
    np.testing.assert_array_equal(resident.total, wire.total)
    np.testing.assert_array_equal(resident.total, dense.total)


@pytest.mark.parametrize("in_ring", [True, False])
def test_sparse_values_of_the_other_kind_are_a_protocol_violation(in_ring: bool) -> None:
    values = SparseValues(SIZE, np.arange(3), np.zeros(3, dtype=np.float32 if in_ring else np.uint32))
    with pytest.raises(ProtocolViolation, match=r"Expected array of a contribution to be (ring integers|floats)"):
        ContributionReply.from_message(_message(ContributionReply(values).to_resident_record()), in_ring=in_ring)
