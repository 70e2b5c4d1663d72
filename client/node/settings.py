"""`node.toml` and `policy.toml`: what a node's owner set, and what the owner allows. Both are the owner's alone.

The policy's `[budget]` becomes limits of the ledger (`client/ledger/limits.py`), which every plan is held against. No rule
reads the interactions: whether a node answers would tell something about them.

What never lives here: whether a request is answered (`guard.py`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from client.home import NodeHome
from shared.config.loading import read_toml
from shared.errors import ConfigError

_WINDOW = re.compile(r"^([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)$")


class Settings(BaseModel):
    """`node.toml`: how this node runs.

    Attributes:
        name: Of the node, as it was provisioned.
        server: HOST:PORT that the node connects to.
        device: Where the model runs.
        warm_minutes: For how long the model stays in memory after an answer; 0 lets it go at once.
        runtime_port: Port of the node's own runtime interface, on loopback; 0 takes a free one.
        poll_seconds: The longest pause between two looks for a message while a run is going on.
        largest_message_bytes: Of a message of the server, catalog and recommender among them; a larger one is refused.
        data: About the interactions; read where these are (`client/store/settings.py`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    server: str = Field(pattern=r"^[^\s/]+:\d{1,5}$")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    warm_minutes: Annotated[float, Field(ge=0, le=10_000, strict=False)] = 30.0
    runtime_port: int = Field(0, ge=0, le=65535)
    poll_seconds: Annotated[float, Field(ge=0.05, le=60, strict=False)] = 0.5
    largest_message_bytes: int = Field(2**29, ge=2**20)
    data: dict[str, Any] = Field(default_factory=dict)


class Budget(BaseModel):
    """`[budget]` of the policy: limits of the ledger, under the names of `tacit node budget set-limit`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    epsilon: Annotated[float | None, Field(gt=0, strict=False)] = None
    unit: Literal["user", "window"] | None = None
    mechanism: tuple[str, ...] | None = Field(None, strict=False)
    adversary: str | None = None
    max_clip_norm: Annotated[float | None, Field(gt=0, strict=False)] = None
    min_noise_multiplier: Annotated[float | None, Field(gt=0, strict=False)] = None
    max_rounds: int | None = Field(None, ge=0)
    max_delta: Annotated[float | None, Field(gt=0, lt=1, strict=False)] = None
    min_corrupt_fraction: Annotated[float | None, Field(ge=0, lt=1, strict=False)] = None
    max_dropout_fraction: Annotated[float | None, Field(ge=0, lt=1, strict=False)] = None

    def limits(self) -> dict[str, Any]:
        """The limits that are set, under the ledger's names."""
        names = {
            "epsilon": self.epsilon,
            "unit": self.unit,
            "mechanisms": self.mechanism,
            "adversary": self.adversary,
            "l2_clip_norm_at_most": self.max_clip_norm,
            "noise_multiplier_at_least": self.min_noise_multiplier,
            "rounds_at_most": self.max_rounds,
            "delta_at_most": self.max_delta,
            "corrupt_fraction_at_least": self.min_corrupt_fraction,
            "dropout_fraction_at_most": self.max_dropout_fraction,
        }
        return {name: value for name, value in names.items() if value is not None}


class Policy(BaseModel):
    """`policy.toml`: what the owner allows.

    The node checks windows, limits of a day, power and load before it makes a contribution. Once a contribution to a secure
    sum has left, the node completes that sum all the same: the ledger is charged by then.

    Attributes:
        approve: by-hand: a run is answered once `tacit node approve` named it; within-policy: every run of this server that
            keeps the rules below.
        purposes: Words, any of which a run's purpose has to hold; empty allows every purpose that is approved by hand.
        secure_aggregation: Whether only masked sums are answered.
        noise_on_this_node: Whether only mechanisms are answered that add noise here, before anything leaves.
        releases_per_day: Most contributions in 24 hours; 0 for no limit.
        bytes_per_day: Most bytes sent in 24 hours; 0 for no limit.
        bytes_per_second: Upload speed; 0 for no limit.
        windows: Times of day (UTC) at which the node answers, e.g. ["22:00-06:00"]; empty for always.
        on_power: Whether the node answers only while it is on external power.
        idle: Highest load of this machine, for each of its processors, at which the node answers; 0 for any.
        code: Digests of client code that may answer (`tacit node status` shows the installed one); empty for any.
        budget: Limits of the ledger.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    approve: Literal["by-hand", "within-policy"] = "by-hand"
    purposes: tuple[str, ...] = Field((), strict=False)
    secure_aggregation: bool = False
    noise_on_this_node: bool = False
    releases_per_day: int = Field(0, ge=0)
    bytes_per_day: int = Field(0, ge=0)
    bytes_per_second: int = Field(0, ge=0)
    windows: tuple[str, ...] = Field((), strict=False)
    on_power: bool = False
    idle: Annotated[float, Field(ge=0, strict=False)] = 0.0
    code: tuple[str, ...] = Field((), strict=False)
    budget: Budget = Budget()

    @field_validator("windows")
    @classmethod
    def _are_times(cls, windows: tuple[str, ...]) -> tuple[str, ...]:
        if any(not _WINDOW.match(one) for one in windows):
            raise ValueError("HH:MM-HH:MM")
        return windows

    def open_at(self, now: int) -> bool:
        """Whether a time, in seconds since 1970, lies in one of the windows."""
        minute = now // 60 % (24 * 60)
        return not self.windows or any(_lies_in(minute, *_minutes(one)) for one in self.windows)


_Model = TypeVar("_Model", Settings, Policy)


def read_settings(home: NodeHome) -> Settings:
    """The settings of a node.

    Raises:
        ConfigError: If the file is absent, or a value is out of range.
    """
    if not home.settings.exists():
        raise ConfigError(
            "Expected the folder of a node, found no node.toml in it. `tacit node install` makes one; name the folder with "
            "--home or TACIT_NODE_HOME."
        )
    return _read(home.settings, Settings)


def read_policy(home: NodeHome) -> Policy:
    """What the owner allows; without a file each run has to be approved by hand.

    Raises:
        ConfigError: If the file is damaged, or a value is out of range.
    """
    return _read(home.policy, Policy) if home.policy.exists() else Policy()


def _read(path: Path, kind: type[_Model]) -> _Model:
    try:
        return kind.model_validate(read_toml(path))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "the file"
        what = "a known key" if first["type"] == "extra_forbidden" else _relation(first)
        raise ConfigError(f"Expected {key} in {path.name} to be {what}. Mend the file.") from None


def _relation(error: Any) -> str:
    context = error.get("ctx") or {}
    bounds = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    found = [f"{sign} {context[name]}" for name, sign in bounds.items() if name in context]
    if found:
        return found[0]
    if error["type"] == "missing":
        return "there"
    return str(context.get("expected") or context.get("error") or error["msg"].removeprefix("Input should be "))


def _minutes(window: str) -> tuple[int, int]:
    first, first_minute, last, last_minute = (int(part) for time in window.split("-") for part in time.split(":"))
    return 60 * first + first_minute, 60 * last + last_minute


def _lies_in(minute: int, start: int, end: int) -> bool:
    return start <= minute < end if start <= end else minute >= start or minute < end
