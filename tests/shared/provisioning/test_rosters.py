"""Rosters on a node: the order of arrival does not matter, and a revocation is never undone."""

from __future__ import annotations

from functools import reduce

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import ConfigError
from shared.provisioning.rosters import KIND, from_lines, merge, read_roster_document, to_lines
from shared.secagg.keys import Roster, RosterEntry
from shared.signing import sign

KEY = Ed25519PrivateKey.generate()
SIGNER = KEY.public_key().public_bytes_raw()


def _key(identity: int) -> bytes:
    return bytes([identity]) * 32


ENTRIES = st.dictionaries(st.integers(0, 3), st.tuples(st.integers(0, 5), st.booleans()))
ROSTERS = ENTRIES.map(
    lambda found: Roster({bytes([one]) * 16: RosterEntry(_key(one), until, gone) for one, (until, gone) in found.items()})
)


@given(st.lists(ROSTERS, min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_rosters_in_any_order_and_again_come_to_the_same(rosters: list[Roster], random: object) -> None:
    again = [*rosters, *rosters]
    random.shuffle(again)  # type: ignore[attr-defined]
    merged = reduce(merge, rosters)
    assert reduce(merge, again).entries == merged.entries
    for roster in rosters:
        for identity, entry in roster.entries.items():
            known = merged.entries[identity]
            assert known.revoked or not entry.revoked
            assert known.valid_until >= entry.valid_until
    # Nothing is known but what a roster said.
    assert set(merged.entries) == {identity for roster in rosters for identity in roster.entries}


def test_an_identity_with_another_key_is_refused() -> None:
    known = Roster({bytes(16): RosterEntry(_key(1), 10)})
    with pytest.raises(ConfigError, match="Expected every identity of the roster to keep its key"):
        merge(known, Roster({bytes(16): RosterEntry(_key(2), 20)}))


def _signed(**changes: object) -> bytes:
    lines = to_lines(Roster({bytes(16): RosterEntry(_key(1), 10, revoked=True)}))
    identities = {identity: line.model_dump() for identity, line in lines.items()}
    return sign(KIND, {"version": 1, "identities": identities, **changes}, KEY).to_bytes()


def test_a_signed_roster_comes_back() -> None:
    roster = read_roster_document(_signed(), signer=SIGNER, where="a message")
    assert roster.entries == {bytes(16): RosterEntry(_key(1), 10, revoked=True)}
    assert from_lines(to_lines(roster)).entries == roster.entries


def test_a_roster_of_another_signer_or_of_another_form_is_refused() -> None:
    with pytest.raises(ConfigError, match="another signer"):
        read_roster_document(_signed(), signer=bytes(32), where="a message")
    with pytest.raises(ConfigError, match="another text"):
        content = _signed().replace(b'"revoked":true', b'"revoked":false')
        read_roster_document(content, signer=SIGNER, where="a message")
    for wrong in ({"version": 2}, {"identities": {"x": {}}}, {"identities": []}, {"more": 1}):
        with pytest.raises(ConfigError, match="Expected a roster in a message with the field"):
            read_roster_document(_signed(**wrong), signer=SIGNER, where="a message")
