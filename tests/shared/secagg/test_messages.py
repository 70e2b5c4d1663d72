"""Messages: there and back, and whatever bytes come, nothing but a typed error."""

from __future__ import annotations

import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import ProtocolViolation
from shared.secagg.context import PROTOCOL_VERSION
from shared.secagg.messages import (
    MESSAGES,
    AcknowledgmentDelivery,
    Acknowledgments,
    Advertisement,
    CohortAnnouncement,
    HolderAdvertisements,
    HolderChoice,
    MaskedInput,
    Message,
    OpenedShares,
    SealedShares,
    ShareDelivery,
    SurvivorReport,
)
from tests.secure_sums import FIRST_HANDLE, Federation, context

FROM_CLIENTS = {
    "advertise": Advertisement, "choose": HolderChoice, "share": SealedShares, "mask": MaskedInput,
    "acknowledge": Acknowledgments, "open": OpenedShares,
}  # fmt: skip
FROM_SERVER = {
    "choose": CohortAnnouncement, "share": HolderAdvertisements, "mask": ShareDelivery,
    "acknowledge": SurvivorReport, "open": AcknowledgmentDelivery,
}  # fmt: skip


@functools.cache
def _recorded() -> dict[type[Message], bytes]:
    """One message of each kind, from a round in which a client dropped out."""
    federation = Federation(context(), 6)
    federation.finish({"mask": [FIRST_HANDLE + 3]})
    found: dict[type[Message], bytes] = {}
    for log, kinds in ((federation.log, FROM_CLIENTS), (federation.told, FROM_SERVER)):
        found |= {kind: log[stage][FIRST_HANDLE] for stage, kind in kinds.items()}
    return found


def test_every_kind_is_recorded_and_has_its_own_number() -> None:
    assert set(_recorded()) == set(MESSAGES)
    assert len({kind.kind for kind in MESSAGES}) == len({kind.stage for kind in MESSAGES}) == len(MESSAGES)


@pytest.mark.parametrize("kind", MESSAGES)
def test_a_message_is_the_same_there_and_back(kind: type[Message]) -> None:
    data = _recorded()[kind]
    message = kind.from_bytes(data)
    assert message.to_bytes() == data
    assert kind.from_bytes(message.to_bytes()) == message


@pytest.mark.parametrize("kind", MESSAGES)
def test_a_message_that_is_cut_or_goes_on_is_refused(kind: type[Message]) -> None:
    data = _recorded()[kind]
    for size in range(len(data)):
        if kind is MaskedInput and size >= len(data) - len(MaskedInput.from_bytes(data).packed):
            break  # its length is the context's, which the server knows
        with pytest.raises(ProtocolViolation, match=f"^{kind.stage}: Expected "):
            kind.from_bytes(data[:size])
    if kind is not MaskedInput:
        with pytest.raises(
            ProtocolViolation, match=f"^{kind.stage}: Expected end: nothing after the last field, got bytes=1"
        ):
            kind.from_bytes(data + b"\x00")


@pytest.mark.parametrize("kind", MESSAGES)
def test_a_message_of_another_kind_or_version_is_refused(kind: type[Message]) -> None:
    for other, data in _recorded().items():
        if other is not kind:
            with pytest.raises(ProtocolViolation, match="Expected version and kind"):
                kind.from_bytes(data)
    data = _recorded()[kind]
    with pytest.raises(ProtocolViolation, match="Expected version and kind"):
        kind.from_bytes(bytes([PROTOCOL_VERSION + 1]) + data[1:])


def test_a_count_beyond_every_cohort_is_refused_before_anything_is_read() -> None:
    head = _recorded()[HolderChoice][:2]
    with pytest.raises(
        ProtocolViolation, match="choose holders: Expected count of holders: at most 10000, got a larger number"
    ):
        HolderChoice.from_bytes(head + b"\xff" * 4)


def test_a_flag_that_is_neither_is_refused() -> None:
    data = _recorded()[AcknowledgmentDelivery]
    with pytest.raises(ProtocolViolation, match="Expected holders: 0 or 1, got another byte"):
        AcknowledgmentDelivery.from_bytes(data[:6] + b"\x02" + data[7:])


@settings(max_examples=60)
@given(st.sampled_from(MESSAGES), st.data())
def test_bytes_that_are_no_message_raise_a_violation_and_nothing_else(kind: type[Message], data: st.DataObject) -> None:
    """Random bytes behind a true head, and true messages with random parts overwritten."""
    true = bytearray(_recorded()[kind])
    if data.draw(st.booleans()):
        attempt = bytes(true[:2]) + data.draw(st.binary(max_size=300))
    else:
        for _ in range(data.draw(st.integers(1, 4))):
            true[data.draw(st.integers(0, len(true) - 1))] = data.draw(st.integers(0, 255))
        attempt = bytes(true[: data.draw(st.integers(0, len(true)))])
    try:
        message = kind.from_bytes(attempt)
    except ProtocolViolation as error:
        assert str(error).startswith(f"{kind.stage}: Expected ")
    else:
        assert message.to_bytes() == attempt
