"""What the libraries behind a run find in the environment: nothing is reported, looked up or installed over the network.

Lives here: defaults that a person's own environment wins over. Never here: a setting of a run.
"""

from __future__ import annotations

import os
from typing import Final

_DEFAULTS: Final = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def prepare_environment() -> None:
    """Sets what is not set; to be called before Flower, Ray or a tokenizer is imported."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
