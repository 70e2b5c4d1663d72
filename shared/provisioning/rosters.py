"""Rosters that a server signs, and what a node does with one: it learns, and never forgets a revocation.

A node merges each roster into its own. The order of arrival does not matter, and an older roster that is sent again changes
nothing: an identity keeps its key, a revoked one stays revoked, and validity is only prolonged.

The server's operator writes the roster and can add invented nodes. Nothing is claimed against a server that invents nodes.

What never lives here: the roster's file (`shared/secagg/identities.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from shared.errors import ConfigError
from shared.provisioning.fields import Ed25519Key, Fields, Identity, Moment, read_fields
from shared.secagg.keys import Roster, RosterEntry
from shared.signing import verified

KIND = "roster"


class RosterLine(Fields):
    """One node of a roster.

    Attributes:
        key: What it signs with.
        valid_until: Last second.
        revoked: Whether it was revoked.
    """

    key: Ed25519Key = Field(repr=False)
    valid_until: Moment
    revoked: bool


RosterLines = dict[Identity, RosterLine]


class RosterDocument(Fields):
    """A roster as a server signs it.

    Attributes:
        version: Of this format.
        identities: One line for each.
    """

    version: Literal[1]
    identities: RosterLines


def to_lines(roster: Roster) -> RosterLines:
    """The lines of a roster."""
    return {
        identity.hex(): RosterLine(key=one.public_key.hex(), valid_until=one.valid_until, revoked=one.revoked)
        for identity, one in roster.entries.items()
    }


def from_lines(lines: Mapping[str, RosterLine]) -> Roster:
    """The roster of such lines."""
    return Roster(
        {
            bytes.fromhex(identity): RosterEntry(bytes.fromhex(line.key), line.valid_until, line.revoked)
            for identity, line in lines.items()
        }
    )


def read_roster_document(content: bytes, *, signer: bytes, where: str) -> Roster:
    """The roster of a signed document.

    Args:
        content: Its canonical form, as it came.
        signer: The server's key, of the installed kit.
        where: For errors.

    Raises:
        ConfigError: If it is not a roster, or not signed with this key.
    """
    document = verified(content, KIND, signer=signer, where=where)
    return from_lines(read_fields(RosterDocument, document.body, what="a roster", where=where).identities)


def merge(known: Roster, found: Roster) -> Roster:
    """What a node knows after it got a roster.

    Raises:
        ConfigError: If an identity comes with another key than before.
    """
    merged = dict(known.entries)
    for identity, new in found.entries.items():
        old = merged.get(identity, new)
        if old.public_key != new.public_key:
            raise ConfigError(
                "Expected every identity of the roster to keep its key, found one with another key. Nothing was changed; "
                "ask the server's operator why."
            )
        merged[identity] = RosterEntry(
            old.public_key, max(old.valid_until, new.valid_until), revoked=old.revoked or new.revoked
        )
    return Roster(merged)
