"""Whether this node answers a request at all: the run that the owner approved, and the owner's policy, before data are read.

No rule looks at the interactions: taking part, and when, must tell nothing about them. A run is answered by its run file
alone. What never lives here: what may leave (`guard.py`), and the budget (`client/ledger/`).
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from client.home import NodeHome
from client.node.settings import Policy
from shared.errors import PolicyRefused
from shared.files import write_atomically
from shared.privacy.claims import claims
from shared.protocol.refusals import Why
from shared.run_file import RunFile
from shared.versions import code_digest

_DAY = 24 * 60 * 60
_MOST_PROPOSALS = 100
_NO_CONTRIBUTIONS = frozenset({"query.secure_sum", "query.catalog", "query.roster", "query.released"})
_POWER = Path("/sys/class/power_supply")


class Refused(PolicyRefused):
    """A refusal with its kind."""

    def __init__(self, why: Why, reason: str) -> None:
        super().__init__(reason)
        self.why: Why = why


@dataclass
class Day:
    """What left this node in the last 24 hours.

    Attributes:
        sent: Time and size of each reply, and whether it was a contribution.
    """

    sent: deque[tuple[int, int, bool]] = field(default_factory=deque)

    def add(self, now: int, size: int, *, contribution: bool = True) -> None:
        """Notes a reply."""
        self.sent.append((now, size, contribution))

    def since(self, now: int) -> tuple[int, int]:
        """Contributions and bytes of the 24 hours before a time."""
        while self.sent and self.sent[0][0] <= now - _DAY:
            self.sent.popleft()
        return sum(counts for _, _, counts in self.sent), sum(size for _, size, _ in self.sent)


def is_contribution(message_type: str) -> bool:
    """Whether the reply to a kind of message is a contribution: not a stage of a secure sum, nor one bit."""
    return message_type not in _NO_CONTRIBUTIONS


def verify_run(home: NodeHome, run_file: RunFile, policy: Policy, *, now: int) -> None:
    """Passes a run that the owner approved, by hand or by a rule; keeps its run file, which the owner can look at.

    Raises:
        Refused: If it is not approved, too old, or does not keep the policy.
    """
    if now > run_file.valid_until:
        raise Refused("policy", "Expected a run that is still open, got one whose time has passed. Propose it anew.")
    _keep(home, run_file)
    reason = against_policy(run_file, policy)
    if reason is not None:
        raise Refused("policy", reason)
    by_hand = (home.approved / f"{run_file.digest}.json").exists()
    if not by_hand and not approved_by_rule(run_file, policy):
        raise Refused(
            "not-approved",
            f"Expected a run that the owner of this node approved, got run={run_file.digest[:16]}. Nothing was read; the "
            "owner finds it with `tacit node approve`.",
        )


def against_policy(run_file: RunFile, policy: Policy) -> str | None:
    """Why a run does not keep a policy; None where it does."""
    plan = run_file.plan
    if policy.purposes and not any(word.lower() in run_file.purpose.lower() for word in policy.purposes):
        return "Expected a purpose that the owner allows, got another. Ask the owner; policy.toml names what is allowed."
    if policy.secure_aggregation and not plan.masks_contributions:
        return "Expected secure sums, as the owner requires, got a run that adds up in the open. Use mechanism distributed."
    if policy.noise_on_this_node and not (plan.adds_noise_locally or plan.noise_share):
        return "Expected noise that is added on the node, as the owner requires, got a run without. Use another mechanism."
    if policy.code and installed_code() not in policy.code:
        return "Expected client code that the owner approved, found another version installed. Ask the owner to approve it."
    return None


def approved_by_rule(run_file: RunFile, policy: Policy) -> bool:
    """Whether a run that keeps the policy is answered without the owner's own look; one that promises nothing never is."""
    promises = any(claim.epsilon is not None for claim in claims(run_file.plan, run_file.plan.events()))
    return policy.approve == "within-policy" and promises


def verify_now(policy: Policy, day: Day, *, now: int, size: int) -> None:
    """Passes a request that may be answered now.

    Args:
        policy: Of the owner.
        day: What left already.
        now: Seconds since 1970.
        size: Bytes of the contribution that is asked for. (public)

    Raises:
        Refused: If the time, the day's limits or the machine do not allow it; later they may.
    """
    if not policy.open_at(now):
        raise Refused("not-now", "Expected a request within the owner's hours, got one outside. Ask again within them.")
    contributions, sent = day.since(now)
    if policy.releases_per_day and contributions >= policy.releases_per_day:
        raise Refused("not-now", "Expected fewer contributions a day, as the owner allows, got one more. Ask tomorrow.")
    if policy.bytes_per_day and sent + size > policy.bytes_per_day:
        raise Refused("not-now", "Expected fewer bytes a day, as the owner allows, got a request for more. Ask tomorrow.")
    if policy.on_power and not on_power():
        raise Refused("not-now", "Expected this node to be on external power, found it on battery. Ask again later.")
    if policy.idle and os.getloadavg()[0] > policy.idle * (os.cpu_count() or 1):
        raise Refused("not-now", "Expected this node to be idle, as the owner requires, found it busy. Ask again later.")


def on_power(folder: Path = _POWER) -> bool:
    """Whether the machine is on external power; a machine without a battery is."""
    kinds = {path.parent: path.read_text().strip() for path in _readable(folder.glob("*/type"))}
    if "Battery" not in kinds.values():
        return True
    online = [path.parent / "online" for path in folder.glob("*/type") if kinds.get(path.parent) in ("Mains", "USB")]
    return any(path.read_text().strip() == "1" for path in _readable(online))


def installed_code() -> str:
    """The digest of the code that answers, `client` and `shared`: what an owner approves as code."""
    return code_digest("client", "shared")


def _keep(home: NodeHome, run_file: RunFile) -> None:
    """Keeps a proposal; of too many the oldest goes, because a server could send any number."""
    path = home.proposals / f"{run_file.digest}.json"
    if path.exists():
        return
    content = run_file.document.to_bytes()
    write_atomically(path, lambda stream: stream.write(content), mode=0o600)
    kept = sorted(home.proposals.glob("*.json"), key=lambda one: one.stat().st_mtime)
    for old in kept[:-_MOST_PROPOSALS]:
        old.unlink(missing_ok=True)


def _readable(paths: Iterable[Path]) -> list[Path]:
    return [path for path in paths if os.access(path, os.R_OK)]
