"""The digest that everything is bound to."""

from __future__ import annotations

import dataclasses

import pytest

from shared.errors import ConfigError
from shared.secagg.context import digest
from shared.secagg.parameters import Assumptions
from tests.secure_sums import ROUND, context


@pytest.mark.parametrize(
    "change",
    [
        {"run": "other"}, {"round_number": 4}, {"release": "pairs"},
        {"adapter_digest": b"a" * 32}, {"plan_digest": b"p" * 32},
        {"assumptions": Assumptions(0.1, 0.375)}, {"assumptions": Assumptions(0.0, 0.33)},
        {"assumptions": Assumptions(0.0, 0.375, "curious")}, {"min_survivors": 3}, {"length": 6}, {"bits": 21},
        {"smallest_active_sum": 1}, {"attempt": 1},
    ],
)  # fmt: skip
def test_every_field_of_a_round_changes_its_digest(change: dict[str, object]) -> None:
    assert context(**change).digest != ROUND.digest
    assert context().digest == ROUND.digest


def test_every_field_of_a_round_is_in_the_list_above() -> None:
    """A field that is added must be bound, too."""
    assert {field.name for field in dataclasses.fields(ROUND)} == {
        "run", "round_number", "release", "adapter_digest", "plan_digest", "assumptions", "min_survivors", "length", "bits",
        "smallest_active_sum", "attempt",
    }  # fmt: skip


def test_root_and_number_of_clients_change_the_digest_of_a_cohort() -> None:
    digests = {
        ROUND.with_cohort(bytes(32), 5).digest, ROUND.with_cohort(b"r" * 32, 5).digest,
        ROUND.with_cohort(bytes(32), 6).digest, context(round_number=9).with_cohort(bytes(32), 5).digest,
    }  # fmt: skip
    assert len(digests) == 4


def test_fields_that_are_cut_elsewhere_give_another_digest() -> None:
    assert digest("a", b"bc") != digest("ab", b"c")
    assert digest("a", b"b", b"c") != digest("a", b"bc")
    assert context(run="ab", release="c").digest != context(run="a", release="bc").digest


@pytest.mark.parametrize(
    "change",
    [
        {"round_number": -1}, {"min_survivors": 1}, {"min_survivors": 10_001}, {"length": 0}, {"bits": 19}, {"bits": 33},
        {"smallest_active_sum": -1},
        {"adapter_digest": b"short"}, {"plan_digest": bytes(33)},
    ],
)  # fmt: skip
def test_a_round_out_of_range_is_refused(change: dict[str, object]) -> None:
    (name,) = change
    with pytest.raises(ConfigError, match=rf"Expected {name}( bytes)? in \["):
        context(**change)
