"""What a server hands out to nodes beside instructions: the public catalog and the roster, and the released recommender.

Everything in these messages is public or noised. A node keeps what has the digest that its owner approved, and answers with
one bit: whether it holds the content now.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from flwr.app import ConfigRecord, Message, RecordDict

from shared.protocol.wire import Received, array_of, record_of

# Names of the queries.
CATALOG: Final = "catalog"
ROSTER: Final = "roster"
RELEASED: Final = "released"
# What a released recommender consists of; no other file is written on a node.
RELEASED_FILES: Final = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "prior.safetensors",
    "statistics.safetensors",
    "manifest.json",
)
_HELD = "held"


@dataclass(frozen=True, eq=False)
class Offer:
    """Server -> node: files, by name; without content it asks whether the node holds them.

    Attributes:
        digest: What the content has to have: the catalog's digest, or the run file's of what was released.
        files: Content by name; empty to ask.
    """

    digest: str
    files: Mapping[str, bytes]

    def to_record(self) -> RecordDict:
        """The content of the message: all files as one array, because Flower sends every array as an object of its own."""
        content = np.frombuffer(b"".join(self.files.values()), dtype=np.uint8)
        fields: dict[str, Any] = {"digest": self.digest}
        if self.files:
            fields |= {"names": list(self.files), "lengths": [len(one) for one in self.files.values()]}
        return record_of(array_of(content), fields, {})

    @classmethod
    def from_message(cls, message: Message, kind: str) -> Offer:
        """Reads a message.

        Raises:
            ProtocolViolation: If it is not of this form.
        """
        received = Received(message, kind)
        digest, content = received.value("digest", str), received.array(np.uint8).tobytes()
        names, lengths = received.strings("names"), received.whole_numbers("lengths")
        if len(names) != len(lengths) or sum(lengths) != len(content) or len(set(names)) != len(names):
            raise received.violation("lengths", "those of the files")
        ends = np.cumsum([0, *lengths]).tolist()
        return cls(digest, {name: content[ends[place] : ends[place + 1]] for place, name in enumerate(names)})


def held_record(held: bool) -> RecordDict:
    """A node's reply: whether it holds the content."""
    return RecordDict({_HELD: ConfigRecord({_HELD: held})})


def is_held_record(content: RecordDict, held: bool | None = None) -> bool:
    """Whether a reply is one bit and nothing else; with `held` whether it is that bit."""
    record = content.get(_HELD)
    if set(content) != {_HELD} or not isinstance(record, ConfigRecord) or list(record) != [_HELD]:
        return False
    return type(record[_HELD]) is bool and held in (None, record[_HELD])


def held_of(message: Message) -> bool:
    """Reads a node's reply.

    Raises:
        ProtocolViolation: If it is something else.
    """
    if not is_held_record(message.content):
        raise Received(message, "node's answer").violation(_HELD, "true or false")
    return is_held_record(message.content, True)
