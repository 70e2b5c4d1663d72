"""The guard: what may leave leaves, and everything that a hostile or broken model process could say instead does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from numpy.typing import NDArray

from client.node.guard import Guard
from shared.errors import PolicyRefused
from shared.protocol.distribution import Offer, held_record
from shared.protocol.messages import ContributionReply
from shared.protocol.refusals import refusal_record
from shared.protocol.reply_bounds import longest_count, longest_update
from shared.protocol.secure_sums import ADVERTISE, MASK, OPEN, SHARE, with_stage
from shared.run_file import RunFile
from shared.secagg.messages import Acknowledgments, MaskedInput, Message, OpenedShares, SealedShares
from tests.run_files import DEVICES, NODE, NOW, SILOS, SIZES, message, request, run_file

CHARGED = {("run-1", "pairs", 0), ("run-1", "train", 1)}
SECRET = 123456.789
HEADER = 128  # of an array on the wire


def _guard(run: RunFile, charged: set[tuple[str, str, int]] = CHARGED) -> Guard:
    return Guard(run, lambda *asked: asked in charged)


@pytest.fixture(scope="module")
def silos() -> RunFile:
    return run_file(SILOS)


@pytest.fixture(scope="module")
def central() -> RunFile:
    return run_file({**DEVICES, "privacy.mechanism": "central", "secure_aggregation.simulate": "sum"})


@pytest.fixture(scope="module")
def masked() -> RunFile:
    return run_file(DEVICES)


def _values(purpose: str, length: float = 1.0) -> NDArray[np.float32]:
    values = np.zeros(SIZES[purpose], dtype=np.float32)
    values[0] = length
    return values


def _reply(values: NDArray[Any], **more: Any) -> RecordDict:
    arrays = ArrayRecord()
    arrays["flat"] = Array(values)
    return RecordDict({"array": arrays, **more})


def _behind(more: bytes) -> RecordDict:
    good = Array(_values("pairs"))
    arrays = ArrayRecord()
    arrays["flat"] = Array(dtype=good.dtype, shape=good.shape, stype=good.stype, data=good.data + more)
    return RecordDict({"array": arrays})


def _header() -> RecordDict:
    good = Array(_values("pairs"))
    assert b"(105,), }     " in good.data
    arrays = ArrayRecord()
    changed = good.data.replace(b"(105,), }     ", b"(105,), } #ali")
    arrays["flat"] = Array(dtype=good.dtype, shape=good.shape, stype=good.stype, data=changed)
    return RecordDict({"array": arrays})


def test_contributions_of_silos_leave(silos: RunFile) -> None:
    guard = _guard(silos)
    for purpose, round_number in (("pairs", 0), ("train", 1)):
        reply = ContributionReply(_values(purpose)).to_record()
        assert guard.verify(request(silos, purpose, round_number=round_number), reply) == HEADER + 4 * SIZES[purpose]


def test_a_prefix_of_an_update_leaves_with_one_of_the_runs_ranks_alone() -> None:
    """A device of a smaller rank sends a prefix and says its rank; what else stands there could be a history."""
    run = run_file({**SILOS, "adapter.client_ranks": "4,2"})
    asked, prefix = request(run, "train", round_number=1), _values("train")[:10]
    assert _guard(run).verify(asked, ContributionReply(prefix, rank=2).to_record()) == HEADER + 48
    assert _guard(run).verify(asked, ContributionReply(_values("train"), rank=4).to_record()) == HEADER + 4 * 40 + 8
    for wrong in (3, 0, -2, 2.0, [2], [SECRET] * 1000):
        with pytest.raises(PolicyRefused, match="one rank of the run beside an update"):
            _guard(run).verify(asked, _reply(prefix, metrics=MetricRecord({"rank": wrong})))
    with pytest.raises(PolicyRefused, match="one rank of the run beside an update"):
        _guard(run).verify(asked, _reply(prefix, metrics=ConfigRecord({"rank": "alice"})))
    with pytest.raises(PolicyRefused, match="one rank of the run beside an update"):
        _guard(run).verify(request(run, "pairs"), ContributionReply(_values("pairs"), rank=2).to_record())
    with pytest.raises(PolicyRefused, match="a contribution of the approved size"):
        _guard(run).verify(asked, ContributionReply(prefix).to_record())


WRONG: dict[str, Callable[[], RecordDict]] = {
    "NaN": lambda: _reply(np.where(np.arange(105) == 3, np.nan, 0).astype(np.float32)),
    "infinity": lambda: _reply(_values("pairs", np.inf)),
    "one value more": lambda: _reply(np.zeros(106, dtype=np.float32)),
    "one value less": lambda: _reply(np.zeros(104, dtype=np.float32)),
    "nothing": lambda: _reply(np.zeros(0, dtype=np.float32)),
    "two dimensions": lambda: _reply(np.zeros((105, 1), dtype=np.float32)),
    "doubles": lambda: _reply(np.zeros(105)),
    "integers": lambda: _reply(np.zeros(105, dtype=np.int32)),
    "bytes": lambda: _reply(np.zeros(420, dtype=np.uint8)),
    "a second array": lambda: RecordDict(
        {"array": ArrayRecord({"flat": Array(_values("pairs")), "more": Array(_values("pairs"))})}
    ),
    "a loss": lambda: _reply(_values("pairs"), metrics=MetricRecord({"loss": SECRET})),
    "a rank and a loss": lambda: _reply(_values("pairs"), metrics=MetricRecord({"rank": 2, "loss": SECRET})),
    "a rank that no client has": lambda: _reply(_values("pairs"), metrics=MetricRecord({"rank": 2})),
    "many numbers as a rank": lambda: _reply(_values("pairs"), metrics=MetricRecord({"rank": [SECRET] * 1000})),
    "a text as a rank": lambda: _reply(_values("pairs"), metrics=ConfigRecord({"rank": "alice"})),
    "a text": lambda: _reply(_values("pairs"), note=ConfigRecord({"user": "alice"})),
    "a text alone": lambda: RecordDict({"note": ConfigRecord({"user": "alice"})}),
    "bytes behind the values": lambda: _behind(b"alice"),
    "other words in the header": lambda: _header(),
    "an empty reply": RecordDict,
    "the answer to another question": lambda: held_record(True),
}


@pytest.mark.parametrize("fault", WRONG)
def test_anything_else_does_not(silos: RunFile, fault: str) -> None:
    with pytest.raises(PolicyRefused, match="to leave this node, got something else") as caught:
        _guard(silos).verify(request(silos, "pairs"), WRONG[fault]())
    assert "alice" not in str(caught.value)
    assert "123456" not in str(caught.value)


def test_a_reply_longer_than_public_constants_allow_does_not_leave(silos: RunFile) -> None:
    plan, guard = silos.plan, _guard(silos)
    release = plan.release("pairs")
    assert release is not None
    bounds = {
        "pairs": longest_count(plan, size=SIZES["pairs"], noise_stddev=plan.release_stddev(release)),
        "train": longest_update(plan, silos.config.local_training(), size=SIZES["train"], adapter_norm=0.0),
    }
    for purpose, bound in bounds.items():
        asked = request(silos, purpose, round_number=int(purpose == "train"))
        guard.verify(asked, ContributionReply(_values(purpose, 0.999 * bound)).to_record())
        with pytest.raises(PolicyRefused, match="a norm that the plan allows"):
            guard.verify(asked, ContributionReply(_values(purpose, 1.001 * bound)).to_record())


@pytest.mark.parametrize("charged", [set(), {("run-2", "pairs", 0)}, {("run-1", "popularity", 0)}, {("run-1", "pairs", 1)}])
def test_nothing_leaves_that_the_ledger_was_not_charged_for(silos: RunFile, charged: set[tuple[str, str, int]]) -> None:
    with pytest.raises(PolicyRefused, match="the ledger was charged for"):
        _guard(silos, charged).verify(request(silos, "pairs"), ContributionReply(_values("pairs")).to_record())


def test_without_privacy_no_ledger_is_asked() -> None:
    run = run_file({**SILOS, "privacy.epsilon": float("inf")})
    reply = ContributionReply(_values("pairs")).to_record()
    assert _guard(run, set()).verify(request(run, "pairs"), reply) > 4 * len(_values("pairs"))


def test_a_release_that_was_not_approved_does_not_leave(silos: RunFile) -> None:
    run = run_file(SILOS, message_bytes={"popularity": 60})
    with pytest.raises(PolicyRefused, match="a release of the approved run"):
        _guard(run).verify(request(silos, "pairs"), ContributionReply(_values("pairs")).to_record())


def test_integers_of_the_ring_leave_in_the_approved_size_alone(central: RunFile) -> None:
    guard, packed = _guard(central), 4 * SIZES["pairs"]
    assert guard.verify(request(central, "pairs"), _reply(np.zeros(packed, dtype=np.uint8))) == HEADER + packed
    for wrong in (np.zeros(packed + 1, dtype=np.uint8), np.zeros(packed - 1, dtype=np.uint8), _values("pairs")):
        with pytest.raises(PolicyRefused, match="Expected"):
            guard.verify(request(central, "pairs"), _reply(wrong))


def _masked_reply(packed: bytes, *, statements: int = 20, more: bytes = b"") -> RecordDict:
    return with_stage(RecordDict(), MASK, MaskedInput((bytes(16),) * statements, packed).to_bytes() + more)


def test_where_contributions_are_masked_nothing_else_leaves(masked: RunFile) -> None:
    assert masked.plan.masks_contributions
    guard, packed = _guard(masked), 4 * SIZES["pairs"]
    asked = message(with_stage(request(masked, "pairs").content, MASK, b"shares"), "query.pairs")
    size = guard.verify(asked, _masked_reply(bytes(packed)))
    assert packed + 20 * 16 <= size <= packed + 20 * 16 + 50
    for wrong in (
        _reply(np.zeros(packed, dtype=np.uint8)),  # in the open
        with_stage(RecordDict(), OPEN, bytes(packed)),
        with_stage(RecordDict(), MASK, bytes(packed)),
        _masked_reply(bytes(packed - 1)),
        _masked_reply(bytes(packed), more=b"alice"),
        with_stage(_reply(np.zeros(packed, dtype=np.uint8)), MASK, bytes(packed)),
    ):
        with pytest.raises(PolicyRefused, match="Expected"):
            guard.verify(asked, wrong)
    with pytest.raises(PolicyRefused, match="the ledger was charged for"):
        _guard(masked, set()).verify(asked, _masked_reply(bytes(packed)))


def test_a_masked_contribution_to_a_release_that_was_not_approved_does_not_leave() -> None:
    run = run_file(DEVICES, message_bytes={"popularity": 60})
    asked = message(with_stage(request(run, "pairs").content, MASK, b"shares"), "query.pairs")
    for packed in (b"", bytes(4 * SIZES["pairs"])):
        with pytest.raises(PolicyRefused, match="a release of the approved run"):
            _guard(run).verify(asked, _masked_reply(packed))


STAGES: dict[str, Message] = {
    SHARE: SealedShares(bytes(32), (bytes(82),) * 5),
    "acknowledge": Acknowledgments((bytes(16),) * 5),
    OPEN: OpenedShares((bytes(33),) * 5),
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_answered_by_its_message_alone(masked: RunFile, stage: str) -> None:
    guard, said = _guard(masked), STAGES[stage].to_bytes()
    asked = message(with_stage(RecordDict(), stage, b""), "query.secure_sum")
    assert guard.verify(asked, with_stage(RecordDict(), stage, said)) >= len(said)
    for wrong in (b"", b"alice", said + b"alice", said[:-1]):
        with pytest.raises(PolicyRefused, match="the message of a stage in its form"):
            guard.verify(asked, with_stage(RecordDict(), stage, wrong))


def test_a_stage_is_answered_by_bytes_of_the_same_stage(masked: RunFile, silos: RunFile) -> None:
    guard, shares = _guard(masked), STAGES[OPEN].to_bytes()
    asked = message(with_stage(RecordDict(), OPEN, b""), "query.secure_sum")
    many = OpenedShares((bytes(33),) * 10_000)
    guard.verify(asked, with_stage(RecordDict(), OPEN, many.to_bytes()))
    large = SealedShares(bytes(32), (bytes(82),) * 5_000).to_bytes()
    for about, wrong in (
        (asked, with_stage(RecordDict(), "share", shares)),
        (asked, held_record(True)),
        (message(with_stage(RecordDict(), SHARE, b""), "query.secure_sum"), with_stage(RecordDict(), SHARE, large)),
    ):
        with pytest.raises(PolicyRefused, match="stage"):
            guard.verify(about, wrong)
    # The stage that carries a contribution is asked for with the instruction, and only so.
    for stage in (MASK, "unheard-of"):
        asked = message(with_stage(RecordDict(), stage, b""), "query.secure_sum")
        with pytest.raises(PolicyRefused, match="the bytes of one stage"):
            guard.verify(asked, with_stage(RecordDict(), stage, shares))
    # A plan without secure sums has no stages.
    asked = message(with_stage(RecordDict(), ADVERTISE, b""), "query.secure_sum")
    with pytest.raises(PolicyRefused, match="nothing of a secure sum"):
        _guard(silos).verify(asked, with_stage(RecordDict(), ADVERTISE, bytes(146)))


@pytest.mark.parametrize("kind", ["catalog", "roster", "released"])
def test_what_is_handed_out_is_answered_by_one_bit(silos: RunFile, kind: str) -> None:
    guard, asked = _guard(silos), message(Offer("ab" * 32, {}).to_record(), f"query.{kind}")
    assert guard.verify(asked, held_record(False)) == 8
    more = held_record(True)
    more["note"] = ConfigRecord({"user": "alice"})
    for wrong in (
        more,
        RecordDict({"held": ConfigRecord({"held": 1})}),
        RecordDict({"held": ConfigRecord({"held": True, "users": 7})}),
        ContributionReply(_values("pairs")).to_record(),
    ):
        with pytest.raises(PolicyRefused, match="one bit"):
            guard.verify(asked, wrong)


def test_a_refusal_that_the_models_process_words_does_not_leave(silos: RunFile, masked: RunFile) -> None:
    """The worker alone words and signs one; in its place 4,000 bytes of a history could stand."""
    signed = refusal_record(
        "policy", "Expected another.", node="a", run="", message_type="train", group="1", now=NOW, key=NODE
    )
    stage = message(with_stage(RecordDict(), OPEN, b""), "query.secure_sum")
    offer = message(Offer("ab" * 32, {}).to_record(), "query.catalog")
    for refusal in (signed, RecordDict({"refusal": ConfigRecord({"refusal": b"alice" * 700})})):
        for guard, asked in ((_guard(silos), request(silos, "pairs")), (_guard(masked), stage), (_guard(silos), offer)):
            with pytest.raises(PolicyRefused, match="Expected"):
                guard.verify(asked, refusal)
