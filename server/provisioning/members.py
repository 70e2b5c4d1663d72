"""The nodes of a server: approve, renew, revoke, list; and the roster that follows from their records.

Each node has a record in `nodes/NAME.json`, which is never deleted: a key that was revoked stays known. Records are the
source; `roster.json` is made from them after every change, so that whatever a crash left behind is mended by the next one.
One process at a time changes them.

What never lives here: TLS certificates (`authority.py`), what a node does with a kit (`client/provisioning.py`).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import Field

from server.home import ServerHome
from server.provisioning.authority import ends, read_certificate
from server.settings import read_settings
from shared.errors import ConfigError
from shared.files import verify_unused, write_atomically
from shared.folder_claim import claimed
from shared.provisioning import kit as kits
from shared.provisioning import rosters
from shared.provisioning.fields import Fields, Moment, Name, NodeKeys, read_fields, verify_name
from shared.provisioning.fingerprint import fingerprint
from shared.provisioning.kit import Kit
from shared.provisioning.request import Request
from shared.provisioning.validity import CLOCK_SKEW, expiry_warning, verify_days
from shared.secagg.identities import read_key, write_roster
from shared.secagg.keys import Roster, RosterEntry
from shared.signing import Signed, sign

State = Literal["active", "expired", "revoked"]


class Member(Fields):
    """The record of a node.

    Attributes:
        version: Of this format.
        name: Of the node.
        keys: Its public keys.
        approved: When.
        kit_number: Of its newest kit.
        valid_from: First second of that kit.
        valid_until: Last second of it.
        revoked: When; None while it is not.
    """

    version: Literal[1]
    name: Name
    keys: NodeKeys
    approved: Moment
    kit_number: int = Field(ge=1)
    valid_from: Moment
    valid_until: Moment
    revoked: Moment | None

    def state(self, now: int) -> State:
        """What the node may do: all, nothing until it is renewed, nothing ever again."""
        return "revoked" if self.revoked is not None else "expired" if now > self.valid_until else "active"


@dataclass(frozen=True)
class Revocation:
    """What a running SuperLink has to be told.

    Attributes:
        name: Of the node.
        supernode_key: The public key that it authenticates with, in OpenSSH's form.
        already: Whether the node was revoked before.
    """

    name: str
    supernode_key: str
    already: bool


def members(home: ServerHome) -> list[Member]:
    """The newest record of each name, by name.

    Raises:
        ConfigError: If a record is damaged.
    """
    return [member for stem, member in _records(home).items() if stem == member.name]


def approve(home: ServerHome, request: Request, out: Path, *, days: int, now: int) -> Kit:
    """Takes a node in and writes its kit.

    Args:
        home: The server's folder.
        request: Whose signatures were verified.
        out: The kit's file, which must not exist.
        days: How long the kit holds.
        now: Seconds since 1970.

    Raises:
        ConfigError: If the name is taken, a key is another node's, or a key was revoked; nothing is changed then.
    """
    with _changing(home):
        records = _records(home)
        _verify_new(request, records)
        until = verify_days(days, now=now, ends=ends(read_certificate(home.authority)))
        member = Member(
            version=1,
            name=request.name,
            keys=request.keys,
            approved=now,
            kit_number=1,
            valid_from=max(0, now - CLOCK_SKEW),
            valid_until=until,
            revoked=None,
        )
        return _issue(home, member, records, out)


def renew(home: ServerHome, name: str, out: Path, *, days: int, now: int) -> Kit:
    """Writes a newer kit for the same keys.

    Args:
        home: The server's folder.
        name: Of a node that was approved.
        out: The kit's file, which must not exist.
        days: How long the kit holds, from now on.
        now: Seconds since 1970.

    Raises:
        ConfigError: If there is no such node, or it was revoked; nothing is changed then.
    """
    with _changing(home):
        records = _records(home)
        before = _named(records, name)
        if before.revoked is not None:
            raise ConfigError(
                f"Expected a node that was not revoked, got {name}, which was. Let the node make new keys and a new request."
            )
        until = verify_days(days, now=now, ends=ends(read_certificate(home.authority)))
        changes = {"kit_number": before.kit_number + 1, "valid_from": max(0, now - CLOCK_SKEW), "valid_until": until}
        return _issue(home, before.model_copy(update=changes), records, out)


def revoke(home: ServerHome, name: str, *, now: int) -> Revocation:
    """Revokes a node's keys, at once and permanently; the record stays. A second time changes nothing.

    Args:
        home: The server's folder.
        name: Of the node.
        now: Seconds since 1970.

    Raises:
        ConfigError: If there is no such node.
    """
    with _changing(home):
        records = _records(home)
        member = _named(records, name)
        already = member.revoked is not None
        if not already:
            member = member.model_copy(update={"revoked": now})
            records[name] = member
            _write_record(home, name, member)
        write_roster(home.roster, _roster(records))
        return Revocation(name, member.keys.supernode_key, already)


def signed_roster(home: ServerHome) -> Signed:
    """The roster as of now, signed: what a running server sends its nodes.

    Raises:
        ConfigError: If a record is damaged, or the server's key cannot be read.
    """
    _, key = read_key(home.identity)
    document = rosters.RosterDocument(version=1, identities=rosters.to_lines(_roster(_records(home))))
    return sign(rosters.KIND, document.model_dump(mode="json"), key)


def server_fingerprint(home: ServerHome) -> str:
    """What nodes compare.

    Raises:
        ConfigError: If the folder is no server's, or a file is damaged.
    """
    read_settings(home)
    _, key = read_key(home.identity)
    authority = read_certificate(home.authority).public_bytes(Encoding.PEM).decode()
    return fingerprint(authority, key.public_key().public_bytes_raw().hex())


def warnings(home: ServerHome, *, now: int) -> list[str]:
    """What ends within 30 days, or has ended: the authority, the server's certificate, kits of nodes.

    Raises:
        ConfigError: If a certificate or a record is damaged.
    """
    found = [
        expiry_warning(
            "The authority's certificate", ends(read_certificate(home.authority)), now=now,
            remedy="Make a new server with `tacit server init` and provision its nodes again.",
        ),
        expiry_warning(
            "The server's certificate", ends(read_certificate(home.certificate)), now=now,
            remedy="Renew it with `tacit server renew --certificate`.",
        ),
        *(member_warning(member, now=now) for member in members(home)),
    ]  # fmt: skip
    return [warning for warning in found if warning is not None]


def member_warning(member: Member, *, now: int) -> str | None:
    """The warning about one node's kit; None where the kit holds longer than 30 days, or the node was revoked."""
    if member.revoked is not None:
        return None
    remedy = f"Renew it with `tacit server renew {member.name}`."
    return expiry_warning(f"The kit of {member.name}", member.valid_until, now=now, remedy=remedy)


@contextlib.contextmanager
def _changing(home: ServerHome) -> Iterator[None]:
    """Holds the records against every other process."""
    read_settings(home)
    with claimed(home.nodes, lambda _: None):
        yield


def _verify_new(request: Request, records: dict[str, Member]) -> None:
    """Passes if neither the name nor a key is known."""
    for member in records.values():
        common = member.keys.overlap(request.keys)
        if not common:
            continue
        if member.revoked is not None:
            raise ConfigError(
                "Expected keys that were never revoked, found some in this request. Let the node make new ones: move its "
                "folder of keys away, and make a new request."
            )
        if member.name == request.name and len(common) == len(NodeKeys.model_fields):
            raise ConfigError(
                f"Expected a node that was not approved yet, got {request.name}, which has its kit. For another one use "
                f"`tacit server renew {request.name}`."
            )
        raise ConfigError(
            f"Expected keys of no other node, found some of {member.name} in this request. Let the node make its own."
        )
    known = records.get(request.name)
    if known is not None and known.revoked is None:
        raise ConfigError(
            f"Expected a name that no node has, got {request.name}. Let the node choose another one, or revoke the node "
            "that has it first."
        )


def _issue(home: ServerHome, member: Member, records: dict[str, Member], out: Path) -> Kit:
    """Writes a kit, the record and the roster; none of them where one cannot be written."""
    verify_unused(out)
    written = {member.name: member}
    earlier = records.get(member.name)
    if earlier is not None and earlier.keys != member.keys:  # revoked, and its keys have to stay known
        number = next(number for number in range(1, len(records) + 2) if f"{member.name}.{number}" not in records)
        written = {f"{member.name}.{number}": earlier, **written}
    roster, settings = _roster(records | written), read_settings(home)
    _, key = read_key(home.identity)
    kit = Kit(
        version=1,
        name=member.name,
        number=member.kit_number,
        hosts=settings.hosts,
        port=settings.port,
        authority=read_certificate(home.authority).public_bytes(Encoding.PEM).decode(),
        server_key=key.public_key().public_bytes_raw().hex(),
        keys=member.keys,
        valid_from=member.valid_from,
        valid_until=member.valid_until,
        roster=rosters.to_lines(roster),
    )
    sign(kits.KIND, kit.model_dump(mode="json"), key).write(out)
    try:
        for stem, record in written.items():
            _write_record(home, stem, record)
        write_roster(home.roster, roster)
    except BaseException:
        out.unlink(missing_ok=True)
        raise
    return kit


def _records(home: ServerHome) -> dict[str, Member]:
    """All records by the stem of their file: NAME, and NAME.1, ... of earlier nodes of that name."""
    read_settings(home)
    found = {}
    for path in sorted(home.nodes.glob("*.json")):
        where = f"{home.nodes.name}/{path.name}"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(content, dict):
                raise ValueError
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"Expected the record of a node in {where}, could not read it ({type(error).__name__}). Restore it from a "
                "backup."
            ) from None
        remedy = "Restore it from a backup."
        found[path.stem] = read_fields(Member, content, what="the record of a node", where=where, remedy=remedy)
    return found


def _named(records: dict[str, Member], name: str) -> Member:
    verify_name(name)
    if name not in records:
        raise ConfigError(f"Expected the name of a node of this server, got {name}. `tacit server nodes` lists them.")
    return records[name]


def _write_record(home: ServerHome, stem: str, member: Member) -> None:
    content = (member.model_dump_json(indent=1) + "\n").encode()
    write_atomically(home.nodes / f"{stem}.json", lambda stream: stream.write(content))


def _roster(records: dict[str, Member]) -> Roster:
    return Roster(
        {
            bytes.fromhex(member.keys.identity): RosterEntry(
                bytes.fromhex(member.keys.identity_key), member.valid_until, revoked=member.revoked is not None
            )
            for member in records.values()
        }
    )
