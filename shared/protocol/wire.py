"""Values <-> Flower's records, strictly: a field that is missing, of another type or out of range is refused.

Each message carries its numbers as one flat array, because Flower sends every array as an object of its own. Which fields a
message has: `messages.py`, `secure_sums.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import fields as dataclass_fields
from typing import Any, TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from numpy.typing import NDArray

from shared.errors import ProtocolViolation
from shared.privacy.mechanism import Mechanism
from shared.privacy.plan import PrivacyPlan
from shared.privacy.releases import Purpose, Release, purposes, release_names

_ARRAY, _FIELDS, _METRICS = "array", "fields", "metrics"
# What is in it: `log_heads.py`.
_LOG = "log"

_Kind = TypeVar("_Kind", bool, int, float, str, bytes)
# A plan's fields are scalars, as everything in a config record is.
_RELEASES = "releases"
_RELEASE_TYPES: dict[str, type[Any]] = {"name": str, "noise_multiplier": float, "times": int}
_PLAN_TYPES: dict[str, type[Any]] = {"float": float, "int": int, "bool": bool, "str": str, "Mechanism": str}


@dataclass(frozen=True, eq=False)
class SparseValues:
    """A contribution by its nonzero values, for a server in the same process; on the wire all are sent. (private)

    Attributes:
        size: Values in all. (public)
        places: (k,) int64, different coordinates.
        values: (k,) float32, or uint32 ring integers.
    """

    size: int
    places: NDArray[np.int64]
    values: NDArray[np.float32] | NDArray[np.uint32]

    def dense(self) -> NDArray[Any]:
        """All values."""
        whole = np.zeros(self.size, dtype=self.values.dtype)
        whole[self.places] = self.values
        return whole


class ResidentArray(Array):
    """Flower's `Array` for a message that never leaves the process: it holds the numbers themselves, not their bytes.

    Serializing a contribution and reading it again costs more than adding it up. No engine with a second process can send
    one: it has no bytes.

    Args:
        values: Any array, or the nonzero values of one; handed on as they are, and not to be changed.
    """

    def __init__(self, values: NDArray[Any] | SparseValues) -> None:
        dtype, shape = (
            (values.values.dtype, (values.size,)) if isinstance(values, SparseValues) else (values.dtype, values.shape)
        )
        self.dtype, self.shape, self.stype = _name(dtype), shape, "tacit.resident"
        self.values = values

    @property
    def data(self) -> bytes:  # type: ignore[override]
        """Refused.

        Raises:
            ProtocolViolation: Always.
        """
        raise ProtocolViolation(
            "Expected a message within one process, got one that is being serialized. Use `to_record` for another process."
        )

    def numpy(self) -> NDArray[Any]:
        """The values, all of them."""
        return self.values.dense() if isinstance(self.values, SparseValues) else self.values


@functools.cache  # numpy builds the name anew each time, which costs a fifth of a small reply
def _name(dtype: np.dtype[Any]) -> str:
    return str(dtype)


def record_of(flat: Array, fields: Mapping[str, Any], metrics: Mapping[str, float]) -> RecordDict:
    """The content of a message; of fields and metrics there may be none."""
    arrays = ArrayRecord()
    arrays["flat"] = flat  # given to the constructor, it would be copied
    content = RecordDict({_ARRAY: arrays})
    if fields:
        content[_FIELDS] = ConfigRecord(dict(fields))
    if metrics:
        content[_METRICS] = MetricRecord(dict(metrics))
    return content


def content_bytes(content: RecordDict) -> int:
    """Bytes of all values of a message that came from another process, lists of them counted whole."""
    total = 0
    for record in content.values():
        for value in record.values():
            many = value if isinstance(value, list) else [value]
            total += sum(len(one.data) if isinstance(one, Array) else _bytes_of(one) for one in many)
    return total


def _bytes_of(value: object) -> int:
    return len(value) if isinstance(value, str | bytes) else 8


def array_of(values: NDArray[Any]) -> Array:
    """Numbers for another process, as bytes."""
    return Array(np.ascontiguousarray(values))


def fields_of_plan(plan: PrivacyPlan) -> dict[str, Any]:
    """A plan as fields of a record, which holds scalars and lists of them; a release is a place in three lists."""
    fields = {f"plan.{field.name}": getattr(plan, field.name) for field in dataclass_fields(plan) if field.name != _RELEASES}
    return {
        **fields,
        "plan.mechanism": str(plan.mechanism),
        **{f"plan.{_RELEASES}.{name}": [getattr(one, name) for one in plan.releases] for name in _RELEASE_TYPES},
    }


class Received:
    """A message as it came, read strictly: what is missing, of another type or out of range is refused.

    Args:
        message: From the other side, which may be of another version, or malicious.
        kind: What it should be, for errors: "contribution".

    Raises:
        ProtocolViolation: In every method, if the part that it reads is missing, or has not the form of this version.
    """

    def __init__(self, message: Message, kind: str) -> None:
        self._message, self._kind = message, kind
        record = message.content.get(_ARRAY)
        self._flat = record.get("flat") if isinstance(record, ArrayRecord) else None

    @property
    def is_resident(self) -> bool:
        """Whether it never left the process."""
        return isinstance(self._flat, ResidentArray)

    @property
    def sparse(self) -> SparseValues | None:
        """The nonzero values of a contribution that was sent sparse, within the process; else None."""
        values = self._flat.values if isinstance(self._flat, ResidentArray) else None
        return values if isinstance(values, SparseValues) else None

    def verify_contribution(self) -> None:
        """Passes a message of one flat array, at most a rank, and a log's head; who sends more is of another version."""
        content = self._message.content
        array, metrics = content.get(_ARRAY), content.get(_METRICS)
        parts = ((set(content), {_ARRAY, _METRICS, _LOG}), (set(array or ()), {"flat"}), (set(metrics or ()), {"rank"}))
        if not all(found <= known for found, known in parts):
            raise self.violation("array", "one flat array and nothing else")

    def array(self, dtype: type[np.number[Any]]) -> NDArray[Any]:
        """The flat array, of that type."""
        if self._flat is None:
            raise self.violation("array", "one flat array")
        expected = f"a flat {np.dtype(dtype).name} array"
        try:
            array = self._flat.numpy()
        except Exception:  # numpy raises several unrelated types for damaged bytes
            raise self.violation("array", expected) from None
        if array.ndim != 1 or array.dtype != dtype:
            raise self.violation("array", expected)
        return array

    def value(self, name: str, kind: type[_Kind]) -> _Kind:
        """A scalar field."""
        return self._of_type(self._fields, name, kind)

    def rank(self) -> int | None:
        """The largest rank of a client that has one, >= 1."""
        record = self._message.content.get(_METRICS)
        metrics = dict(record) if isinstance(record, MetricRecord) else {}
        if "rank" not in metrics:
            return None
        rank = self._of_type(metrics, "rank", int)
        if rank < 1:
            raise self.violation("rank", "a whole number >= 1")
        return rank

    def purpose(self) -> Purpose:
        """A release, or the interactions that metrics are about."""
        purpose = self._fields.get("purpose")
        if purpose not in purposes():
            raise self.violation("purpose", f"one of {', '.join(purposes())}")
        return str(purpose)

    def head(self) -> tuple[int, ...]:
        """Rows of the catalog, ascending; empty where there are none."""
        head = self._fields.get("head", [])
        ascending = isinstance(head, list) and all(type(item) is int for item in head) and sorted(set(head)) == head
        if not ascending or (head and not 0 <= head[0] <= head[-1] < 2**31):
            raise self.violation("head", "rows of the catalog, ascending")
        return tuple(head)

    def step(self) -> int:
        """A whole number; 0 where there is none."""
        step = self._fields.get("step", 0)
        if type(step) is not int or not 0 <= step < 2**31:
            raise self.violation("step", "a whole number >= 0")
        return step

    def plan(self) -> PrivacyPlan:
        """The inverse of `fields_of_plan`."""
        kinds = {one.name: _PLAN_TYPES[str(one.type)] for one in dataclass_fields(PrivacyPlan) if one.name != _RELEASES}
        lists = {f"{_RELEASES}.{name}": kind for name, kind in _RELEASE_TYPES.items()}
        sent = {name.removeprefix("plan.") for name in self._fields if name.startswith("plan.")}
        if sent != {*kinds, *lists}:
            raise self.violation("plan", "the fields of PrivacyPlan")
        values: dict[str, Any] = {name: self.value(f"plan.{name}", kind) for name, kind in kinds.items()}
        if values["mechanism"] not in list(Mechanism):
            raise self.violation("plan.mechanism", f"one of {', '.join(Mechanism)}")
        columns = [self._list(f"plan.{name}", kind) for name, kind in lists.items()]
        names = columns[0]
        if len({len(column) for column in columns}) > 1 or [name for name in release_names() if name in names] != names:
            raise self.violation(f"plan.{_RELEASES}", "different releases in the order of a run")
        return PrivacyPlan(**values, releases=tuple(Release(*row) for row in zip(*columns, strict=True)))

    def strings(self, name: str) -> list[str]:
        """A list of texts; empty where there is none, since Flower drops empty lists' type."""
        return self._list(name, str) if name in self._fields else []

    def whole_numbers(self, name: str) -> list[int]:
        """A list of whole numbers >= 0; empty where there is none."""
        values = self._list(name, int) if name in self._fields else []
        if any(value < 0 for value in values):
            raise self.violation(name, "whole numbers >= 0")
        return values

    def violation(self, field: str, expected: str) -> ProtocolViolation:
        """The error for a field that is not what it should be; what came in its place is not quoted."""
        return ProtocolViolation(
            f"Expected {field} of a {self._kind} to be {expected}, got something else. Update both ends."
        )

    @functools.cached_property
    def _fields(self) -> dict[str, Any]:
        record = self._message.content.get(_FIELDS)
        if not isinstance(record, ConfigRecord):
            raise self.violation("fields", "a config record")
        return dict(record)

    def _of_type(self, fields: Mapping[str, Any], name: str, kind: type[_Kind]) -> _Kind:
        value = fields.get(name)
        if type(value) is not kind:  # a bool is an int, and must not pass for a number
            raise self.violation(name, f"a value of type {kind.__name__}")
        return value

    def _list(self, name: str, kind: type[Any]) -> list[Any]:
        values = self._fields.get(name)
        if not isinstance(values, list) or any(type(value) is not kind for value in values):
            raise self.violation(name, f"a list of type {kind.__name__}")
        return values
