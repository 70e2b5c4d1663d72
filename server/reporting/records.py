"""The two files about a run as types: `run.json`, the research record, and `release.json`, the release report.

Both are written by `as_json` and read by `parse_run` and `parse_release`, which refuse what is damaged or of another version
with one line; `tacit schema` prints what the types say. Each holds the one statement of privacy (`shared/privacy/
statement.py`) under the same names: the release report is a statement, the run record has it as `privacy`.
Never here: how a value is found (`release_report.py`, `simulations/record.py`), and how it looks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import ConfigDict, Field, ValidationError, model_validator

from shared.errors import CheckpointError
from shared.files import finite
from shared.privacy.statement import Facts, Statement

RUN_SCHEMA = "tacit-run-3"
RELEASE_SCHEMA = "tacit-release-3"
_FIRST: tuple[str, ...] = ("schema", "name", "created", "status", "stopped", "stamp")
_LONGEST = 120  # of a text from a damaged file in a message
_REPEAT = "Restore the file, or repeat the run with `tacit simulate`."


class Record(Facts):
    """A file about a run: what it holds beside its schema is said by each kind."""

    model_config = ConfigDict(serialize_by_alias=True, validate_by_name=True, validate_by_alias=True)

    def as_json(self) -> dict[str, Any]:
        """The record as JSON holds it, its schema first."""
        held = self.model_dump(mode="json")
        first: dict[str, Any] = {name: held.pop(name) for name in _FIRST if name in held}
        return {**first, **held}


class Continued(Facts):
    """The run that another one continues, and what it claimed."""

    manifest_digest: str
    config_digest: str
    catalog_digest: str
    round_number: int
    epsilon: float | None
    delta: float | None
    runs: int


class Selection(Facts):
    """What the noised comparison of candidates chose."""

    round_number: int
    chosen: str
    gains: dict[str, float] = Field(description="NDCG on validation, against the untrained recommender.")
    noise_stddev: float | None
    refined: str | None


class SecureSum(Facts):
    """One sum whose summands the server did not see."""

    release: str
    round_number: int
    asked: int
    survivors: int = Field(description="Contributions in the sum.")
    answered: dict[str, int] = Field(description="Stage of the protocol -> clients whose answer was taken.")
    bytes_down: int = Field(description="To all clients together, without the question itself.")
    bytes_up: int = Field(description="From all clients together.")
    seconds: float


class Spending(Facts):
    """What each kind of release of this run would cost alone, and all of them together."""

    alone: dict[str, float | None]
    together: float | None
    rdp_cross_check: float | None


class EpsilonAfter(Facts):
    """Epsilon after the statistics and so many rounds, against the run's own adversary."""

    round_number: int
    epsilon: float | None


class EpsilonAt(Facts):
    """Epsilon of the same events at another delta."""

    delta: float = Field(gt=0, lt=1)
    epsilon: float | None


class ReleasedMetrics(Facts):
    """Metrics under noise; null where they are withheld."""

    target: str
    round_number: int
    hr: float | None
    ndcg: float | None
    users: float | None
    noise_half_width: float | None


class ReleaseRecord(Record, Statement):
    """`release.json`: the statement of privacy, what was released, and what it cost. Accounted or public values only."""

    schema_: Literal["tacit-release-3"] = Field("tacit-release-3", alias="schema")
    name: str
    stamp: str
    identity: dict[str, Any] = Field(description="Digests, versions and manifest of what was released.")
    spending: Spending
    epsilon_over_rounds: tuple[EpsilonAfter, ...]
    delta_curve: tuple[EpsilonAt, ...]
    continues: Continued | None
    metrics: tuple[ReleasedMetrics, ...]
    selection: Selection | None
    k: int = Field(description="Length of the lists behind the metrics.")

    @model_validator(mode="after")
    def _quotes_one_epsilon(self) -> Self:
        """The part that says what this run spent its budget on quotes the statement's own epsilon."""
        if self.spending.together != self.epsilon_of_this_run:
            raise ValueError("spending.together is another epsilon than the one of this run")
        if not self.is_private and (self.epsilon_over_rounds or self.delta_curve or self.metrics or self.spending.alone):
            raise ValueError("a run without privacy has a claim")
        return self


class Estimate(Facts):
    """A mean with its 95 % interval; a difference has a p-value too."""

    mean: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None


Metrics = dict[str, dict[str, Estimate]]


class Histogram(Facts):
    """Users by the rank of their held-out item."""

    edges: tuple[int, ...]
    counts: tuple[int, ...]


class DataFacts(Facts):
    """What the data are."""

    name: str
    users: int
    items: int
    interactions: int
    density: float
    split: str
    digest: str
    catalog_digest: str
    repairs: dict[str, int]
    ceiling: dict[str, float] | None
    public_catalog: bool | None
    modalities: tuple[str, ...]
    clients: int


class ModelFacts(Facts):
    """What was trained."""

    backbone: str
    backbone_digest: str
    layers: int
    adapter_parameters: int
    trained_parameters: int
    upload_bytes: int | None


class Baseline(Facts):
    """Another model on the same data."""

    key: str
    label: str
    private: bool
    seconds: float | None
    metrics: Metrics
    difference: dict[str, Estimate] = Field({}, description="This run minus the baseline, on the test split.")


class LedgerFacts(Facts):
    """What the clients' own ledgers hold; unlike a claim it counts when each client really took part."""

    owners: int
    epsilon_known_participation: float | None
    faults: int


class RunStatement(Statement):
    """The statement of privacy, and what the clients' ledgers hold."""

    ledger: LedgerFacts | None


class RunRecord(Record):
    """`run.json`: everything that a run did. NOT PRIVATE: exact metrics, baselines and distributions."""

    schema_: Literal["tacit-run-3"] = Field("tacit-run-3", alias="schema")
    name: str
    created: str
    status: Literal["complete", "interrupted"]
    stopped: str | None
    stamp: str
    config: dict[str, Any]
    config_digest: str
    versions: dict[str, str]
    machine: dict[str, Any]
    data: DataFacts
    continues: Continued | None
    model: ModelFacts
    rounds: tuple[dict[str, Any], ...]
    selection: Selection | None
    secure_sums: tuple[SecureSum, ...]
    metrics: Metrics
    distribution: dict[str, Histogram]
    baselines: tuple[Baseline, ...]
    cold_items: dict[str, Any] | None
    privacy: RunStatement
    timings: dict[str, float]
    artifacts: dict[str, str]


_Kind = TypeVar("_Kind", RunRecord, ReleaseRecord)


def parse_run(record: Mapping[str, Any]) -> RunRecord:
    """The run record of a JSON object.

    Raises:
        CheckpointError: If it is damaged or of another schema.
    """
    return _parse(RunRecord, record, schema=RUN_SCHEMA, name="run.json")


def parse_release(report: Mapping[str, Any]) -> ReleaseRecord:
    """The release report of a JSON object.

    Raises:
        CheckpointError: If it is damaged or of another schema.
    """
    return _parse(ReleaseRecord, report, schema=RELEASE_SCHEMA, name="release.json")


def read_run(run_dir: Path) -> RunRecord:
    """Reads `run.json`.

    Raises:
        CheckpointError: If it is absent, damaged or of another schema.
    """
    return parse_run(read_object(run_dir / "run.json", advice="Name a directory that `tacit simulate` wrote."))


def read_release(run_dir: Path) -> ReleaseRecord:
    """Reads `release.json`.

    Raises:
        CheckpointError: If it is absent, damaged or of another schema.
    """
    advice = "Only a finished run has one: continue it with `tacit simulate --resume RUN_DIR`."
    return parse_release(read_object(run_dir / "release.json", advice=advice))


def read_object(path: Path, *, advice: str) -> dict[str, Any]:
    """Reads a JSON file that holds one object.

    Args:
        path: The file.
        advice: What to do where there is no such file.

    Returns:
        The object.

    Raises:
        CheckpointError: If the file is absent, not JSON, or no object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(
            f"Expected a readable {path.name} in the run directory, got {type(error).__name__}. {advice}"
        ) from error
    except ValueError as error:
        raise CheckpointError(f"Expected {path.name} to hold JSON, but it does not parse. {_REPEAT}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"Expected {path.name} to hold one object, got {type(content).__name__}. {_REPEAT}")
    return content


def check_schema(held: Mapping[str, Any], *, schema: str, name: str) -> None:
    """Refuses a file that this version cannot read.

    Args:
        held: Its content. (private: it may hold exact metrics)
        schema: What it has to be.
        name: Its file name, for the message.

    Raises:
        CheckpointError: If it is of another schema.
    """
    if held.get("schema") != schema:
        raise CheckpointError(
            f"Expected schema == '{schema}' in {name}, got schema={_line(repr(held.get('schema')))}. "
            "Use the version of Tacit that wrote the file."
        )


def _parse(kind: type[_Kind], held: Mapping[str, Any], *, schema: str, name: str) -> _Kind:
    check_schema(held, schema=schema, name=name)
    try:
        return kind.model_validate_json(json.dumps(finite(held)))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise CheckpointError(
            f"Expected a whole {name}, got one that is damaged at {_line(where)}: {_line(first['msg'])}. {_REPEAT}"
        ) from None


def _line(text: str) -> str:
    """Text of a damaged file in one short line that a terminal cannot obey."""
    return "".join(letter if letter.isprintable() else " " for letter in text[:_LONGEST])
