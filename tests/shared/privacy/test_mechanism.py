"""What each mechanism does, against a table written down apart."""

from __future__ import annotations

import json
import pickle

import pytest

from shared.errors import ConfigError
from shared.privacy.mechanism import Mechanism

# none, the silo, the server or shares add noise; whole updates; users, clients take turns; another client shows
TABLE = {
    "none": (True, False, False, False, False, False, False, False),
    "dp-sgd": (False, True, False, False, False, False, False, False),
    "dp-ftrl-silo": (False, True, False, False, False, True, False, False),
    "central": (False, False, True, False, True, False, False, False),
    "dp-ftrl-central": (False, False, True, False, True, False, True, True),
    "distributed": (False, False, False, True, True, False, False, True),
}


@pytest.mark.parametrize("name", TABLE)
def test_a_mechanism_says_what_it_does(name: str) -> None:
    one = Mechanism.named(name)
    assert TABLE[name] == (
        one.is_none,
        one.adds_noise_locally,
        one.adds_noise_centrally,
        one.shares_noise,
        one.clips_whole_updates,
        one.users_take_turns,
        one.clients_take_turns,
        one.another_client_shows,
    )


def test_the_table_has_all_mechanisms() -> None:
    assert [str(one) for one in Mechanism] == list(TABLE)


def test_a_mechanism_travels_and_is_stored_as_its_name() -> None:
    one = Mechanism.CENTRAL
    assert f"{one}" == str(one) == one == "central"
    assert json.loads(json.dumps({"mechanism": one})) == {"mechanism": "central"}
    assert pickle.loads(pickle.dumps(one)) is one  # noqa: S301


def test_an_unknown_mechanism_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"^Expected a mechanism among none, dp-sgd, .*, got 'dp-xyz'\. Use one of them\.$"
    ):
        Mechanism.named("dp-xyz")
