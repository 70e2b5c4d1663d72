"""The policy in force is what the file says now; its budget limits the ledger from then on."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.home import NodeHome
from client.ledger.ledger import EVERYONE, Ledger
from client.node.in_force import PolicyInForce
from shared.errors import ConfigError


def _limit(home: NodeHome) -> float | None:
    return Ledger(home.ledger).policy(EVERYONE).epsilon


def test_a_changed_file_counts_from_the_next_look(tmp_path: Path) -> None:
    home, policy = NodeHome(tmp_path), PolicyInForce(NodeHome(tmp_path))
    assert policy().approve == "by-hand"
    home.policy.write_text('approve = "within-policy"\n')
    assert policy().approve == "within-policy"
    assert policy() is policy()  # nothing changed: not read again
    home.policy.unlink()
    assert policy().approve == "by-hand"


def test_a_changed_budget_limits_the_ledger_and_one_taken_away_leaves_the_limit(tmp_path: Path) -> None:
    home, policy = NodeHome(tmp_path), PolicyInForce(NodeHome(tmp_path))
    limits = []
    for text in ("[budget]\nepsilon = 8\n", "[budget]\nepsilon = 0.5\n", "idle = 0.5\n"):
        home.policy.write_text(text)
        policy()
        limits.append(_limit(home))
    assert limits == [8.0, 0.5, 0.5]


def test_a_slip_is_an_error_at_every_look_until_it_is_mended(tmp_path: Path) -> None:
    home, policy = NodeHome(tmp_path), PolicyInForce(NodeHome(tmp_path))
    home.policy.write_text('approve = "sometimes"\n')
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"Expected approve in policy\.toml"):
            policy()
    home.policy.write_text("")
    assert policy().approve == "by-hand"
