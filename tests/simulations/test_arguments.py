"""Arguments of a Python function as the configuration of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.config import RunConfig
from shared.errors import ConfigError
from simulations.arguments import configuration


def test_settings_and_keywords_and_named_arguments_are_one_configuration(tmp_path: Path) -> None:
    config = configuration(
        {"data.path": tmp_path}, {"model.layers": 1, "training": {"local_steps": 3}}, {"federation__clients": 0}
    )
    assert (config.data.path, config.model.layers) == (str(tmp_path), 1)
    assert (config.training.local_steps, config.federation.clients) == (3, 0)
    assert configuration({}, None, {}) == RunConfig()


@pytest.mark.parametrize(
    ("named", "settings", "more", "message"),
    [
        ({}, {"model.layer": 1}, {}, r"^Unknown key 'model.layer' in the arguments. Did you mean 'model.layers'\?$"),
        ({}, None, {"epslion": 1}, r"^Unknown key 'epslion' in the arguments\. Did you mean"),
        ({}, {"model.layers": "two"}, {}, r"^Expected model.layers to be a whole number, got model.layers=two"),
        ({}, {"model.layers": [1]}, {}, r"^Expected model.layers to be a whole number, got model.layers=\[1\]"),
        ({}, "model.layers=1", {}, r"^Expected settings to be a mapping of dotted keys, got settings='model.layers=1'\."),
        ({}, {"model.layers": 1}, {"model__layers": 2}, r"^Expected model.layers once, got it as a keyword and in settings"),
        (
            {"privacy.epsilon": 8.0}, {"privacy.epsilon": 1.0}, {},
            r"^Expected privacy.epsilon once, got it as an argument of its own and as a setting\. Leave one of them out\.$",
        ),
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused_with_the_reason(named: dict, settings: dict, more: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        configuration(named, settings, more)
