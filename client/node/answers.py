"""What the model's process says, as bytes: a header of JSON and the values behind it, read strictly by the node's worker.

The worker's guard must not depend on the process that it guards. So nothing is unpickled there: an answer is either a reply,
of arrays, numbers, texts and bytes, or the words of an error.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from shared.errors import PolicyRefused

_HEADER_BYTES = 8
_LONGEST_HEADER = 100_000
_ARRAY, _CONFIG, _METRIC = "array", "config", "metric"


@dataclass(frozen=True, eq=False)
class Answer:
    """What comes back.

    Attributes:
        content: Of the reply; None where there is none. (private until the guard has passed it)
        error: Why there is none.
        kind: Name of the error's type.
    """

    content: RecordDict | None = None
    error: str = ""
    kind: str = ""

    def to_bytes(self) -> bytes:
        """The answer, for the pipe."""
        blobs: list[bytes] = []
        records = {} if self.content is None else {name: _record(one, blobs) for name, one in self.content.items()}
        header = {"reply": self.content is not None, "error": self.error, "kind": self.kind, "records": records}
        text = json.dumps(header).encode()
        return b"".join([len(text).to_bytes(_HEADER_BYTES, "big"), text, *blobs])

    @classmethod
    def from_bytes(cls, content: bytes) -> Answer:
        """Reads an answer.

        Raises:
            PolicyRefused: If it is of another form.
        """
        try:
            length = int.from_bytes(content[:_HEADER_BYTES], "big")
            if length > _LONGEST_HEADER:
                raise ValueError
            header = json.loads(content[_HEADER_BYTES : _HEADER_BYTES + length])
            blobs = _Blobs(content[_HEADER_BYTES + length :])
            records = {str(name): _read(one, blobs) for name, one in header["records"].items()}
            blobs.end()
            reply = RecordDict(records) if header["reply"] is True else None
            answer = cls(reply, str(header["error"]), str(header["kind"]))
            (answer.error + answer.kind).encode()  # a lone surrogate fits into no log and no refusal
            return answer
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise PolicyRefused(
                "Expected an answer of the model's process in its form, got something else. Nothing was sent; start "
                "the node again."
            ) from None


class _Blobs:
    """The values behind a header, taken one after the other."""

    def __init__(self, content: bytes) -> None:
        self._content, self._at = content, 0

    def take(self, length: Any) -> bytes:
        if type(length) is not int or not 0 <= length <= len(self._content) - self._at:
            raise ValueError
        self._at += length
        return self._content[self._at - length : self._at]

    def end(self) -> None:
        if self._at != len(self._content):
            raise ValueError


def _record(record: ArrayRecord | ConfigRecord | MetricRecord, blobs: list[bytes]) -> dict[str, Any]:
    if isinstance(record, ArrayRecord):
        arrays = {}
        for key, array in record.items():
            blobs.append(array.data)
            arrays[key] = [array.dtype, list(array.shape), array.stype, len(array.data)]
        return {"kind": _ARRAY, "values": arrays}
    values: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, bytes):
            blobs.append(value)
            values[key] = {"bytes": len(value)}
        else:
            values[key] = value
    return {"kind": _METRIC if isinstance(record, MetricRecord) else _CONFIG, "values": values}


def _read(found: Any, blobs: _Blobs) -> ArrayRecord | ConfigRecord | MetricRecord:
    kind, values = found["kind"], found["values"]
    if kind == _ARRAY:
        arrays = ArrayRecord()
        for key, (dtype, shape, stype, length) in values.items():
            arrays[str(key)] = Array(dtype=str(dtype), shape=tuple(shape), stype=str(stype), data=blobs.take(length))
        return arrays
    taken: dict[str, Any] = {
        str(key): blobs.take(one["bytes"]) if isinstance(one, dict) else one for key, one in values.items()
    }
    return MetricRecord(taken) if kind == _METRIC else ConfigRecord(taken)
