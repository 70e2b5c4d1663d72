"""`RunConfig`: every setting of a run, and what `auto` and 0 stand for.

A key has two parts, `section.key`, and a scalar value, because Flower's run configuration holds nothing else. An unknown key
is an error that names the right one: a misspelled option that is silently ignored is how experiments go wrong.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from shared.config.checks import verify
from shared.config.loading import flatten, read_toml
from shared.config.sections import (
    AdapterSection,
    DataSection,
    EvaluationSection,
    FederationSection,
    ModelSection,
    PrivacySection,
    RunSection,
    Scalar,
    Section,
    SecureAggregationSection,
    ServerSection,
    StatisticsSection,
    TrainingSection,
)
from shared.errors import ConfigError
from shared.files import require_unicode
from shared.privacy.mechanism import Mechanism

# Where a run is written, what it is called and which engine runs it do not change what it computes.
_WITHOUT_EFFECT = frozenset(
    {
        "run.name",
        "run.out",
        "run.resume",
        "run.continues",
        "data.path",
        "data.name",
        "data.population",
        "privacy.ledger",
        "privacy.reply_bucket_seconds",
        "secure_aggregation.roster",
        "federation.engine",
        "federation.timeout_seconds",
        "run.device",
    }
)


class RunConfig(Section):
    """Everything that defines a run. Immutable; equal configurations have equal digests."""

    run: RunSection = RunSection()
    data: DataSection = DataSection()
    federation: FederationSection = FederationSection()
    model: ModelSection = ModelSection()
    adapter: AdapterSection = AdapterSection()
    training: TrainingSection = TrainingSection()
    server: ServerSection = ServerSection()
    privacy: PrivacySection = PrivacySection()
    secure_aggregation: SecureAggregationSection = SecureAggregationSection()
    statistics: StatisticsSection = StatisticsSection()
    evaluation: EvaluationSection = EvaluationSection()

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], *, source: str = "the configuration") -> RunConfig:
        """Builds a configuration from nested sections or dotted keys.

        Args:
            values: `{"training": {"local_steps": 3}}` or `{"training.local_steps": 3}`. (public)
            source: What to call it in an error, e.g. the file's name.

        Raises:
            ConfigError: For an unknown key (with a suggestion), a wrong type, or a value out of range.
        """
        flat = flatten(values)
        known = keys()
        for key in flat:
            if key not in known:
                raise ConfigError(_unknown_key(key, known, source))
        nested: dict[str, dict[str, Any]] = {}
        for key, value in flat.items():
            if isinstance(flat[key], str):
                require_unicode(key, flat[key])
            section, name = key.split(".", 1)
            nested.setdefault(section, {})[name] = value
        try:
            config = cls.model_validate(nested, strict=False)
        except ValidationError as error:
            raise ConfigError(_explain(error)) from None
        verify(config)
        return config

    @classmethod
    def from_toml(cls, path: Path, *, overrides: Mapping[str, Scalar] | None = None) -> RunConfig:
        """Reads a TOML file; `overrides` (dotted keys) win over it.

        Raises:
            ConfigError: If the file is missing, unreadable, not TOML, or holds a wrong key or value.
        """
        return cls.from_mapping({**flatten(read_toml(path)), **(overrides or {})}, source=path.name)

    def with_values(self, values: Mapping[str, Scalar]) -> RunConfig:
        """The same configuration with some dotted keys changed; checked again."""
        return RunConfig.from_mapping({**self.to_flat(), **values})

    def to_flat(self) -> dict[str, Scalar]:
        """Dotted keys and scalar values, in the order of definition; what Flower's run configuration holds."""
        return flatten(self.model_dump())

    def digest(self) -> str:
        """SHA-256 (hex) over the keys that change a run's result; not over where it is written."""
        flat = {key: value for key, value in self.to_flat().items() if key not in _WITHOUT_EFFECT}
        text = json.dumps({key: str(value) for key, value in flat.items()}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def is_private(self) -> bool:
        """Whether noise is asked for at all."""
        return math.isfinite(self.privacy.epsilon)

    @property
    def one_user_a_client(self) -> bool:
        """Whether every user is a client of its own."""
        return self.federation.clients == 0 and self.federation.sizes != "attribute"

    @property
    def mechanism(self) -> Mechanism:
        """`privacy.mechanism` with `auto` resolved as far as settings tell; `none` without privacy.

        Whether there are enough clients for noise in shares, and not too many, is `defaults.fitted`'s to say.
        """
        if not self.is_private:
            return Mechanism.NONE
        if self.privacy.mechanism != "auto":
            return Mechanism.named(self.privacy.mechanism)
        if not self.one_user_a_client:
            return Mechanism.DP_SGD
        return Mechanism.DISTRIBUTED if self.why_noise_by_the_server is None else Mechanism.CENTRAL

    @property
    def why_noise_by_the_server(self) -> str | None:
        """Which setting excludes noise in shares across devices, as a sentence; None where none does."""
        if not self.secure_aggregation.enabled:
            return "secure_aggregation.enabled=false switches the sums off that would hide single shares."
        if self.privacy.cohort_cap:
            return "What privacy.cohort_cap costs is known for noise by the server alone."
        return None

    def local_training(self) -> TrainingSection:
        """`training` with `auto` and 0 resolved.

        Where noise is added to every local step, a step is a noised mean of gradients of length C, so a rate of 20 / C means
        the same for every C, and a scale of its own for each coordinate (Adam) would only follow the noise. Where a whole
        update is clipped, one step of rate 1 makes the update the gradient itself, and the server scales.
        """
        chosen = self.training.optimizer
        if chosen == "auto":
            chosen = "sgd" if self.is_private else "adam"
        default = 0.01
        if self.is_private and chosen == "sgd":
            default = 1.0 if self.mechanism.clips_whole_updates else 20.0 / self.privacy.l2_clip_norm
        return self.training.model_copy(
            update={"optimizer": chosen, "learning_rate": self.training.learning_rate or default}
        )

    def server_optimization(self) -> ServerSection:
        """`server` with a learning rate of 0 resolved; the counterpart of `local_training`."""
        default = 20.0 / self.privacy.l2_clip_norm if self.mechanism.clips_whole_updates else 1.0
        if self.server.optimizer == "adam":  # which scales by itself
            default = 0.01
        return self.server.model_copy(update={"learning_rate": self.server.learning_rate or default})

    @property
    def freezes_a(self) -> bool:
        """Whether lora_A stays at its public initialization (FFA-LoRA)."""
        return self.adapter.kind == "ffa" or (self.adapter.kind == "auto" and self.is_private)


def keys() -> dict[str, Scalar]:
    """Every dotted key with its default, in the order of definition."""
    return flatten(RunConfig().model_dump())


def _unknown_key(key: str, known: Mapping[str, Scalar], source: str) -> str:
    by_name = [name for name in known if name.split(".", 1)[1] == key.rsplit(".", 1)[-1]]
    # The right name in the wrong section is a likelier slip than a name that merely looks alike.
    close = difflib.get_close_matches(key, by_name or known, n=1, cutoff=0.0 if by_name else 0.5)
    hint = f" Did you mean '{close[0]}'?" if close else " See `tacit config` for every key."
    return f"Unknown key '{key}' in {source}.{hint}"


def _explain(error: ValidationError) -> str:
    found = error.errors(include_url=False)
    # Where a setting is a number or "auto", what is wrong with the number says more.
    first = next(
        (one for one in found if one["loc"][:2] == found[0]["loc"][:2] and one["type"] != "literal_error"), found[0]
    )
    key = ".".join(str(part) for part in first["loc"][:2])
    context = first.get("ctx") or {}
    relations = {
        "greater_than": ">",
        "greater_than_equal": ">=",
        "less_than": "<",
        "less_than_equal": "<=",
    }
    kind = first["type"]
    if kind in relations:
        bound = next(value for name, value in context.items() if name in {"gt", "ge", "lt", "le"})
        relation = f"{relations[kind]} {bound}"
    elif kind == "literal_error":
        relation = f"to be one of {context['expected']}"
    elif kind == "finite_number":
        relation = "to be finite"
    else:
        words = {"int": "a whole number", "float": "a number", "bool": "true or false", "string": "text"}
        relation = "to be " + words.get(kind.split("_")[0], kind.replace("_", " "))
    default = keys().get(key)
    return f"Expected {key} {relation}, got {key}={first['input']}. The default is {default!r}."
