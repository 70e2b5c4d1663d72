"""What a server hands out, and a node's refusals, through Flower's records."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import ConfigRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import ProtocolViolation
from shared.protocol.distribution import Offer, held_of, held_record
from shared.protocol.refusals import in_words, refusal_in, refusal_record
from shared.protocol.wire import array_of, record_of
from tests.run_files import NODE, NOW, message

FILES = st.dictionaries(st.text(min_size=1, max_size=20), st.binary(max_size=300), max_size=5)


def _through_the_wire(content: RecordDict) -> RecordDict:
    return RecordDict.inflate(content.deflate(), {child.object_id: child for child in content.children.values()})


@given(FILES)
def test_files_come_back_as_they_were(files: dict[str, bytes]) -> None:
    found = Offer.from_message(message(Offer("ab" * 32, files).to_record(), "query.catalog"), "catalog")
    assert found.digest == "ab" * 32
    assert dict(found.files) == files


@pytest.mark.parametrize(
    "fields",
    [
        {"digest": "x", "names": ["a"], "lengths": [3]},
        {"digest": "x", "names": ["a"], "lengths": [1, 1]},
        {"digest": "x", "names": ["a", "a"], "lengths": [1, 1]},
        {"digest": "x", "names": ["a", "b"], "lengths": [3, -1]},
        {"digest": 1, "names": ["a"], "lengths": [2]},
        {"names": ["a"], "lengths": [2]},
    ],
)
def test_files_that_do_not_fit_their_lengths_are_refused(fields: dict[str, object]) -> None:
    content = record_of(array_of(np.zeros(2, dtype=np.uint8)), fields, {})
    with pytest.raises(ProtocolViolation, match="Expected"):
        Offer.from_message(message(content, "query.catalog"), "catalog")


def test_one_bit_comes_back_and_nothing_else_does() -> None:
    for held in (True, False):
        assert held_of(message(held_record(held), "query.catalog")) is held
    for wrong in (RecordDict(), RecordDict({"held": ConfigRecord({"held": 1})}), RecordDict({"held": ConfigRecord()})):
        with pytest.raises(ProtocolViolation, match="true or false"):
            held_of(message(wrong, "query.catalog"))


def _refusal() -> RecordDict:
    return refusal_record("budget", "Expected less.", node="n1", run="r", message_type="train", group="3", now=NOW, key=NODE)


def test_a_refusal_comes_back_signed() -> None:
    found = refusal_in(message(_refusal(), "train"))
    assert found is not None
    assert found.signer == NODE.public_key().public_bytes_raw()
    assert in_words(found) == "a node refused (budget): Expected less."


def test_a_changed_refusal_is_none() -> None:
    for at in range(0, 300, 7):
        content = _refusal()
        record = content["refusal"]
        assert isinstance(record, ConfigRecord)
        document = bytearray(record["refusal"])  # type: ignore[arg-type]
        document[at % len(document)] ^= 1
        record["refusal"] = bytes(document)
        assert refusal_in(message(content, "train")) is None
    assert refusal_in(message(held_record(True), "train")) is None
