"""Configuration: every wrong setting is one clear error, and nothing is silently ignored."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest

from shared.config import RunConfig, flatten, keys, parse_assignments, read_toml, schedule_factor
from shared.errors import ConfigError


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("training.batch_sise", "Unknown key 'training.batch_sise' in run.toml."),
        ("training.local_stepz", "Did you mean 'training.local_steps'?"),
        ("local_steps", "Did you mean 'training.local_steps'?"),
        ("privacy.rounds", "Did you mean 'federation.rounds'?"),
        ("modl.backbone", "Did you mean 'model.backbone'?"),
        ("zzz.qqq", "See `tacit config` for every key."),
    ],
)
def test_an_unknown_key_is_an_error_that_names_the_right_one(key: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        RunConfig.from_mapping({key: 1}, source="run.toml")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("federation.rounds", -1, "Expected federation.rounds >= 0, got federation.rounds=-1. The default is"),
        (
            "federation.rounds",
            1.5,
            "Expected federation.rounds to be a whole number, got federation.rounds=1.5.",
        ),
        (
            "federation.rounds",
            "many",
            "Expected federation.rounds to be a whole number, got federation.rounds=many.",
        ),
        (
            "federation.rounds",
            [3],
            "Expected federation.rounds to be a whole number, got federation.rounds=[3].",
        ),
        (
            "training.sampling_rate",
            1.01,
            "Expected training.sampling_rate <= 1.0, got training.sampling_rate=1.01.",
        ),
        ("training.sampling_rate", 0, "Expected training.sampling_rate > 0.0, got training.sampling_rate=0."),
        ("training.learning_rate", "fast", "Expected training.learning_rate to be a number, got"),
        ("training.learning_rate", math.inf, "Expected training.learning_rate to be finite, got"),
        ("training.learning_rate", math.nan, "Expected training.learning_rate to be finite, got"),
        ("privacy.l2_clip_norm", math.inf, "Expected privacy.l2_clip_norm to be finite, got"),
        (
            "privacy.popularity_noise_multiplier",
            math.nan,
            "Expected privacy.popularity_noise_multiplier to be finite",
        ),
        (
            "run.reproducible",
            "perhaps",
            "Expected run.reproducible to be true or false, got run.reproducible=perhaps.",
        ),
        ("run.seed", -1, "Expected run.seed >= 0, got run.seed=-1."),
        ("run.seed", 2**63, f"Expected run.seed < {2**63}, got run.seed={2**63}."),
        (
            "run.device",
            "tpu",
            "Expected run.device to be one of 'auto', 'cpu' or 'cuda', got run.device=tpu.",
        ),
        ("model.backbone", 3, "Expected model.backbone to be text, got model.backbone=3."),
    ],
)
def test_a_wrong_value_names_key_relation_value_and_default(key: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        RunConfig.from_mapping({key: value})


@pytest.mark.parametrize("epsilon", [0.0, -1.0, -math.inf, math.nan])
def test_epsilon_is_positive_or_infinite(epsilon: float) -> None:
    with pytest.raises(ConfigError, match=r"Expected privacy\.epsilon > 0, got privacy\.epsilon=.*inf to turn privacy off"):
        RunConfig.from_mapping({"privacy.epsilon": epsilon})
    assert not RunConfig.from_mapping({"privacy.epsilon": math.inf}).is_private
    assert RunConfig.from_mapping({"privacy.epsilon": 0.1}).is_private


@pytest.mark.parametrize("delta", [1.0, math.inf, -1e-9, math.nan])
def test_delta_is_below_one(delta: float) -> None:
    with pytest.raises(ConfigError, match=r"Expected privacy\.delta (< 1|>= 0|to be)"):
        RunConfig.from_mapping({"privacy.delta": delta})


def test_an_adapter_without_any_rank_is_refused() -> None:
    ranks = {key: 0 for key in keys() if re.fullmatch(r"adapter\.(.*_)?rank", key)}
    assert len(ranks) == 5
    with pytest.raises(ConfigError, match=r"> 0, got all 0\. With every rank 0 there is nothing to train\."):
        RunConfig.from_mapping(ranks)


@pytest.mark.parametrize(
    "ranks", [{"adapter.head_rank": 4}, {"adapter.ranks": "item_h=4"}, {"adapter.ranks": "item=4,.*=0"}]
)
def test_negatives_beside_a_row_an_item_are_refused(ranks: dict[str, Any]) -> None:
    message = r"Expected adapter\.head_rank=0 with training\.negatives=100, got a rank of 4 for the item head\."
    with pytest.raises(ConfigError, match=message):
        RunConfig.from_mapping({"training.negatives": 100, **ranks})
    RunConfig.from_mapping({"training.negatives": 0, **ranks})
    RunConfig.from_mapping({"training.negatives": 100, "adapter.ranks": "item_head=0", "adapter.head_rank": 4})


def test_ranks_by_pattern_are_pairs_in_their_order_and_count_as_ranks() -> None:
    config = RunConfig.from_mapping({"adapter.output_rank": 0, "adapter.ranks": r" layer\.0=0, query|a=b = 8 ,"})
    assert config.adapter.rank_patterns() == [(r"layer\.0", 0), ("query|a=b", 8)]
    with pytest.raises(ConfigError, match="With every rank 0 there is nothing to train"):
        RunConfig.from_mapping({"adapter.output_rank": 0, "adapter.ranks": "query=0"})


@pytest.mark.parametrize("text", ["query", "query=", "=3", "query=-1", "query=two", "query=1.5", "(=3", "query=²"])
def test_a_rank_that_is_no_pattern_and_number_is_refused(text: str) -> None:
    message = f"Expected adapter.ranks to be PATTERN=RANK separated by commas, got '{text}'"
    with pytest.raises(ConfigError, match=re.escape(message)):
        RunConfig.from_mapping({"adapter.ranks": f"head=2, {text}"})


def test_the_largest_ranks_of_clients_are_whole_numbers() -> None:
    assert RunConfig.from_mapping({"adapter.client_ranks": "8, 8,4"}).adapter.largest_ranks() == [8, 8, 4]
    assert RunConfig().adapter.largest_ranks() == []
    for text in ("8,0", "8,-1", "8,four", "8,2.0"):
        with pytest.raises(ConfigError, match=re.escape(f"whole numbers >= 1, got adapter.client_ranks={text}. Write")):
            RunConfig.from_mapping({"adapter.client_ranks": text})


@pytest.mark.parametrize("weights", ["bfloat16", "int8", "int4"])
def test_a_residual_needs_weights_that_it_can_be_added_to(weights: str) -> None:
    values = {"privacy.epsilon": math.inf, "model.weights": weights, "adapter.aggregation": "residual"}
    with pytest.raises(ConfigError, match=f"with adapter.aggregation=residual, got model.weights={weights}. What is kept"):
        RunConfig.from_mapping(values)
    RunConfig.from_mapping({**values, "adapter.aggregation": "stack"})


def test_silos_by_attribute_need_the_attribute() -> None:
    with pytest.raises(
        ConfigError,
        match=r"Expected federation\.attribute to name a user attribute, got federation\.attribute=''",
    ):
        RunConfig.from_mapping({"federation.sizes": "attribute"})


def test_a_toml_file_gives_its_values_and_overrides_win(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text("[training]\nlocal_steps = 7\n[privacy]\nepsilon = inf\n")
    config = RunConfig.from_toml(path, overrides={"training.sampling_rate": 0.5})
    assert (config.training.local_steps, config.training.sampling_rate) == (7, 0.5)
    assert not config.is_private
    assert RunConfig.from_toml(path, overrides={"training.local_steps": 2}).training.local_steps == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"local_steps: 3", "Expected TOML in run.toml, got a syntax error"),
        (b"\x89PNG\xff\xfe\x00", "Expected TOML text in UTF-8 in run.toml, got binary data"),
        (
            b"[training]\nlocal_step = 3\n",
            "Unknown key 'training.local_step' in run.toml. Did you mean 'training.local_steps'?",
        ),
    ],
)
def test_a_file_that_is_not_a_configuration_is_one_clear_error(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=re.escape(message)):
        RunConfig.from_toml(path)


def test_a_missing_file_or_a_folder_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Expected a configuration file, found none at"):
        read_toml(tmp_path / "absent.toml")
    with pytest.raises(ConfigError, match=r"Expected a readable file, could not read .*: Is a directory"):
        read_toml(tmp_path)


def test_assignments_are_toml_values_or_bare_text() -> None:
    texts = [
        "a.b=3",
        "a.c = 0.5",
        "a.d=true",
        "a.e=inf",
        "a.f=all-MiniLM-L6-v2",
        'a.g="x=y"',
        "a.h=",
        "a.i=[1]",
    ]
    assert parse_assignments(texts) == {
        "a.b": 3, "a.c": 0.5, "a.d": True, "a.e": math.inf,
        "a.f": "all-MiniLM-L6-v2", "a.g": "x=y", "a.h": "", "a.i": "[1]",
    }  # fmt: skip


@pytest.mark.parametrize("text", ["training.local_steps", "=3"])
def test_an_assignment_without_key_or_equals_sign_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=f"Expected section.key=value after --set, got '{text}'"):
        parse_assignments([text])


def test_flat_and_back_gives_an_equal_configuration() -> None:
    config = RunConfig.from_mapping({"privacy.epsilon": math.inf, "training": {"local_steps": 3}})
    assert RunConfig.from_mapping(config.to_flat()) == config
    assert flatten(config.model_dump()) == config.to_flat()
    # A run's folder stores every value as text.
    assert RunConfig.from_mapping({key: str(value) for key, value in config.to_flat().items()}) == config


def test_every_key_is_a_section_and_a_name_with_a_scalar_and_a_description() -> None:
    for key, value in keys().items():
        assert re.fullmatch(r"[a-z_]+\.[a-z0-9_]+", key)
        assert type(value) in {bool, int, float, str}
        section, name = key.split(".")
        assert type(getattr(RunConfig(), section)).model_fields[name].description


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        RunConfig().training.local_steps = 9  # type: ignore[misc]


@pytest.mark.parametrize("key", ["run.out", "run.name", "data.path", "data.population", "privacy.ledger"])
def test_digest_ignores_where_and_under_what_name(key: str) -> None:
    assert RunConfig.from_mapping({key: "elsewhere"}).digest() == RunConfig().digest()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("run.seed", 1),
        ("training.local_steps", 9),
        ("privacy.epsilon", math.inf),
        ("data.split", "global-temporal"),
    ],
)
def test_digest_changes_with_what_changes_the_result(key: str, value: Any) -> None:
    assert RunConfig.from_mapping({key: value}).digest() != RunConfig().digest()


@pytest.mark.parametrize(
    ("kind", "epsilon", "expected"),
    [("auto", 8.0, True), ("auto", math.inf, False), ("ffa", math.inf, True), ("lora", 8.0, False)],
)
def test_lora_a_is_frozen_under_privacy_or_when_asked_for(kind: str, epsilon: float, expected: bool) -> None:
    config = RunConfig.from_mapping({"adapter.kind": kind, "privacy.epsilon": epsilon})
    assert config.freezes_a is expected


def test_the_learning_rate_falls_to_a_tenth_over_the_rounds_or_stays() -> None:
    factors = [schedule_factor("cosine", round_number=number, rounds=10) for number in range(1, 11)]
    assert factors[0] == 1.0
    assert factors[-1] == pytest.approx(0.1)
    assert factors == sorted(factors, reverse=True)
    assert schedule_factor("constant", round_number=9, rounds=10) == 1.0
    assert schedule_factor("cosine", round_number=1, rounds=1) == 1.0


@pytest.mark.parametrize(
    ("settings", "mechanism", "local_rate", "server_rate"),
    [
        ({}, "dp-sgd", 200.0, 1.0),
        ({"federation.clients": 0}, "distributed", 1.0, 200.0),
        ({"federation.clients": 0, "secure_aggregation.enabled": False}, "central", 1.0, 200.0),
        ({"federation.clients": 0, "federation.sizes": "attribute", "federation.attribute": "age"}, "dp-sgd", 200.0, 1.0),
        ({"privacy.epsilon": float("inf")}, "none", 0.01, 1.0),
    ],
)
def test_auto_and_zero_are_resolved_by_where_noise_is_added(
    settings: dict[str, object], mechanism: str, local_rate: float, server_rate: float
) -> None:
    config = RunConfig.from_mapping(settings)
    assert config.mechanism == mechanism
    assert config.local_training().learning_rate == pytest.approx(local_rate)
    assert config.server_optimization().learning_rate == pytest.approx(server_rate)


def test_checkpointing_with_opacus_hooks_is_refused_before_anything_runs() -> None:
    message = r"^Expected training\.gradient_checkpointing=false with training\.gradients=opacus"
    with pytest.raises(ConfigError, match=message):
        RunConfig.from_mapping({"training.gradient_checkpointing": True, "training.gradients": "opacus"})


def test_a_single_rank_of_clients_may_be_written_as_a_number() -> None:
    assert RunConfig.from_mapping({"adapter.client_ranks": 8}).adapter.largest_ranks() == [8]
