"""The wire: what server and clients say to each other, as typed messages <-> Flower records.

This module is the allow-list of what a client may send: a reply is built from these fields and from nothing else. What each
field holds under each mechanism stands in `shared/privacy/sent.py`, which reports and pages quote.

No reply has a field for an exact loss or metric. In a simulation the simulator made the data, so it evaluates the server's
states itself (`simulations/evaluation.py`); a deployment has the noised metrics alone.

A contribution's size depends on public constants alone, and so does whether there is one: a client whose update is faulty
sends the contribution of a user without data.

Each message carries its numbers as one flat array, because Flower sends every array as an object of its own. Weights are
public constants and are not sent: nothing a client says decides how much it counts.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import fields as dataclass_fields
from typing import Any, Literal, TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from numpy.typing import NDArray

from shared.errors import ProtocolViolation
from shared.privacy.mechanism import Mechanism
from shared.privacy.plan import PrivacyPlan
from shared.privacy.releases import Purpose, Release, purposes, release_names
from shared.secagg.encoding import RingEncoding

_ARRAY, _FIELDS, _METRICS = "array", "fields", "metrics"

Target = Literal["validation", "test"]

_Kind = TypeVar("_Kind", bool, int, float, str)
# A plan's fields are scalars, as everything in a config record is.
_RELEASES = "releases"
_RELEASE_TYPES: dict[str, type[Any]] = {"name": str, "noise_multiplier": float, "times": int}
_PLAN_TYPES: dict[str, type[Any]] = {"float": float, "int": int, "bool": bool, "str": str, "Mechanism": str}


@dataclass(frozen=True, eq=False)
class TrainInstruction:
    """Server -> client: train once, from this state."""

    run_digest: str
    round_number: int
    plan: PrivacyPlan
    l2_clip_norm: float  # of this round; adaptive clipping moves it
    state: NDArray[np.float32]

    def to_record(self) -> RecordDict:
        """The content of the message."""
        fields = {
            "run_digest": self.run_digest,
            "round_number": self.round_number,
            "l2_clip_norm": self.l2_clip_norm,
            **_of_plan(self.plan),
        }
        return _record(self.state, fields)

    @classmethod
    def from_message(cls, message: Message) -> TrainInstruction:
        """Reads a message.

        Raises:
            ProtocolViolation: If a field is missing or of another type.
        """
        fields = _fields(message, "train instruction")
        return cls(
            run_digest=_value(fields, "train instruction", "run_digest", str),
            round_number=_value(fields, "train instruction", "round_number", int),
            plan=_plan(fields, "train instruction"),
            l2_clip_norm=_value(fields, "train instruction", "l2_clip_norm", float),
            state=_array(message, "train instruction", np.float32),
        )


@dataclass(frozen=True, eq=False)
class ContributionReply:
    """Client -> server: one bounded contribution to a sum.

    Attributes:
        values: float32, noised on the device (or exact without privacy); or (D,) uint32 ring integers, uint8 when packed.
            Sparse values travel as all of them.
        encoding: Where there is one, uint32 integers are packed by it before they travel. (public)
        rank: The largest rank of this client; `values` then hold that prefix of an update alone. None: all of it. Sums in
            the ring know no prefixes. (public)
    """

    values: NDArray[np.float32] | NDArray[np.uint32] | NDArray[np.uint8] | SparseValues
    encoding: RingEncoding | None = None
    rank: int | None = None

    def to_record(self) -> RecordDict:
        """The content of the reply."""
        values: NDArray[Any] = self.values.dense() if isinstance(self.values, SparseValues) else self.values
        if self.encoding is not None:
            values = self.encoding.pack(values)
        return _record(values, {}, self._metrics)

    def to_resident_record(self) -> RecordDict:
        """The same for a server in this process: neither packed nor serialized."""
        arrays = ArrayRecord()
        arrays["flat"] = ResidentArray(self.values)
        content = RecordDict({_ARRAY: arrays})
        if self._metrics:
            content[_METRICS] = MetricRecord(dict(self._metrics))
        return content

    @property
    def _metrics(self) -> dict[str, float]:
        return {} if self.rank is None else {"rank": self.rank}

    @classmethod
    def from_message(cls, message: Message, *, in_ring: bool) -> ContributionReply:
        """Reads a reply.

        Args:
            message: The reply.
            in_ring: Whether ring integers are expected (packed as uint8, or uint32 where they never left the process), or
                floats.

        Raises:
            ProtocolViolation: If it is not of this form.
        """
        flat = _flat(message)
        if isinstance(flat, ResidentArray) and isinstance(flat.values, SparseValues):
            if flat.values.values.dtype != (np.uint32 if in_ring else np.float32):
                raise _violation("contribution", "array", "ring integers" if in_ring else "floats")
            return cls(flat.values)
        if not in_ring:
            metrics = _metrics(message)
            rank = _value(metrics, "contribution", "rank", int) if "rank" in metrics else None
            if rank is not None and rank < 1:
                raise _violation("contribution", "rank", "a whole number >= 1")
            return cls(_values_of(flat, "contribution", np.float32), rank=rank)
        resident = isinstance(flat, ResidentArray)
        return cls(_values_of(flat, "contribution", np.uint32 if resident else np.uint8))


@dataclass(frozen=True, eq=False)
class ReleaseInstruction:
    """Server -> client: contribute once to a release beside training.

    Attributes:
        run_digest: What the ledgers know the run by.
        plan: What is done to every contribution.
        purpose: A release of the plan, or the interactions that metrics are about.
        round_number: Of the state; 0 before training.
        state: What was learned so far; empty where nothing was.
        head: The items whose pairs are counted, ascending; empty for the most popular ones by the state's prior.
    """

    run_digest: str
    plan: PrivacyPlan
    purpose: Purpose
    round_number: int
    state: NDArray[np.float32]
    head: tuple[int, ...] = ()

    def to_record(self) -> RecordDict:
        """The content of the message."""
        fields = {
            "run_digest": self.run_digest,
            "purpose": self.purpose,
            "round_number": self.round_number,
            **({"head": list(self.head)} if self.head else {}),
            **_of_plan(self.plan),
        }
        return _record(self.state, fields)

    @classmethod
    def from_message(cls, message: Message) -> ReleaseInstruction:
        """Reads a message.

        Raises:
            ProtocolViolation: If a field is missing or of another type.
        """
        stage = "release instruction"
        fields = _fields(message, stage)
        return cls(
            run_digest=_value(fields, stage, "run_digest", str),
            plan=_plan(fields, stage),
            purpose=_purpose(fields, stage),
            round_number=_value(fields, stage, "round_number", int),
            state=_array(message, stage, np.float32),
            head=_head(fields, stage),
        )


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


@functools.cache  # numpy makes up the name each time, at the price of a fifth of a small reply
def _name(dtype: np.dtype[Any]) -> str:
    return str(dtype)


def _record(
    values: NDArray[Any],
    fields: Mapping[str, Any],
    metrics: Mapping[str, float] | None = None,
) -> RecordDict:
    arrays = ArrayRecord()
    arrays["flat"] = Array(np.ascontiguousarray(values))  # given to the constructor, it would be copied
    content = RecordDict({_ARRAY: arrays})
    if fields:
        content[_FIELDS] = ConfigRecord(dict(fields))
    if metrics:
        content[_METRICS] = MetricRecord(dict(metrics))
    return content


def _flat(message: Message) -> Array | None:
    record = message.content.get(_ARRAY)
    return record.get("flat") if isinstance(record, ArrayRecord) else None


def _array(message: Message, stage: str, dtype: type[np.number[Any]]) -> NDArray[Any]:
    return _values_of(_flat(message), stage, dtype)


def _values_of(flat: Array | None, stage: str, dtype: type[np.number[Any]]) -> NDArray[Any]:
    if flat is None:
        raise _violation(stage, "array", "one flat array")
    expected = f"a flat {np.dtype(dtype).name} array"
    try:
        array = flat.numpy()
    except Exception:  # numpy raises several unrelated types for damaged bytes
        raise _violation(stage, "array", expected) from None
    if array.ndim != 1 or array.dtype != dtype:
        raise _violation(stage, "array", expected)
    return array


def _fields(message: Message, stage: str) -> dict[str, Any]:
    record = message.content.get(_FIELDS)
    if not isinstance(record, ConfigRecord):
        raise _violation(stage, "fields", "a config record")
    return dict(record)


def _value(fields: Mapping[str, Any], stage: str, name: str, kind: type[_Kind]) -> _Kind:
    value = fields.get(name)
    if type(value) is not kind:  # a bool is an int, and must not pass for a number
        raise _violation(stage, name, f"a value of type {kind.__name__}")
    return value


def _purpose(fields: Mapping[str, Any], stage: str) -> Purpose:
    purpose = fields.get("purpose")
    if purpose not in purposes():
        raise _violation(stage, "purpose", f"one of {', '.join(purposes())}")
    return str(purpose)


def _head(fields: Mapping[str, Any], stage: str) -> tuple[int, ...]:
    head = fields.get("head", [])
    ascending = isinstance(head, list) and all(type(item) is int for item in head) and sorted(set(head)) == head
    if not ascending or (head and not 0 <= head[0] <= head[-1] < 2**31):
        raise _violation(stage, "head", "rows of the catalog, ascending")
    return tuple(head)


def _of_plan(plan: PrivacyPlan) -> dict[str, Any]:
    """A plan as fields of a record, which holds scalars and lists of them; a release is a place in three lists."""
    fields = {f"plan.{field.name}": getattr(plan, field.name) for field in dataclass_fields(plan) if field.name != _RELEASES}
    return {
        **fields,
        "plan.mechanism": str(plan.mechanism),
        **{f"plan.{_RELEASES}.{name}": [getattr(one, name) for one in plan.releases] for name in _RELEASE_TYPES},
    }


def _plan(fields: Mapping[str, Any], stage: str) -> PrivacyPlan:
    kinds = {one.name: _PLAN_TYPES[str(one.type)] for one in dataclass_fields(PrivacyPlan) if one.name != _RELEASES}
    lists = {f"{_RELEASES}.{name}": kind for name, kind in _RELEASE_TYPES.items()}
    sent = {name.removeprefix("plan.") for name in fields if name.startswith("plan.")}
    if sent != {*kinds, *lists}:
        raise _violation(stage, "plan", "the fields of PrivacyPlan")
    values: dict[str, Any] = {name: _value(fields, stage, f"plan.{name}", kind) for name, kind in kinds.items()}
    if values["mechanism"] not in list(Mechanism):
        raise _violation(stage, "plan.mechanism", f"one of {', '.join(Mechanism)}")
    columns = [_list(fields, stage, f"plan.{name}", kind) for name, kind in lists.items()]
    names = columns[0]
    if len({len(column) for column in columns}) > 1 or [name for name in release_names() if name in names] != names:
        raise _violation(stage, f"plan.{_RELEASES}", "different releases in the order of a run")
    return PrivacyPlan(**values, releases=tuple(Release(*row) for row in zip(*columns, strict=True)))


def _list(fields: Mapping[str, Any], stage: str, name: str, kind: type[Any]) -> list[Any]:
    values = fields.get(name)
    if not isinstance(values, list) or any(type(value) is not kind for value in values):
        raise _violation(stage, name, f"a list of type {kind.__name__}")
    return values


def _metrics(message: Message) -> dict[str, Any]:
    record = message.content.get(_METRICS)
    return dict(record) if isinstance(record, MetricRecord) else {}


def _violation(stage: str, field: str, expected: str) -> ProtocolViolation:
    return ProtocolViolation(f"Expected {field} of a {stage} to be {expected}, got something else. Update both ends.")
