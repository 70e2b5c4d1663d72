"""Every knob of a run: `RunConfig`, typed, frozen, with the unit in the name.

What lives here: the keys, their ranges and defaults (`sections.py`), which go together (`checks.py`), reading them from TOML
and from `section.key=value` (`loading.py`), and what fits a population (`defaults.py`). What never lives here: a value
derived from data, or a privacy computation (those are `shared/privacy/plan.py`).

`[tool.flwr.app.config]` in `pyproject.toml` lists every default, since Flower refuses keys that are not listed there; a test
compares the two.
"""

from shared.config.loading import flatten, parse_assignments, read_toml
from shared.config.run import RunConfig, keys
from shared.config.sections import (
    ModelSection,
    Scalar,
    SecureAggregationSection,
    ServerSection,
    TrainingSection,
    schedule_factor,
)

__all__ = [
    "ModelSection",
    "RunConfig",
    "Scalar",
    "SecureAggregationSection",
    "ServerSection",
    "TrainingSection",
    "flatten",
    "keys",
    "parse_assignments",
    "read_toml",
    "schedule_factor",
]
