"""`RunFile`: what a server proposes to nodes, and what a node's owner approves: one signed document a run.

It names the purpose, every setting, the public facts (declared sizes, the catalog by its digest), and how large each message
may be. Everything else that an owner is shown (epsilon for each adversary, what leaves the node) is computed on the node
from these settings, so that a server cannot say one thing and ask for another. A node answers a run by its run file alone;
the code and the configuration that travel beside it count for nothing.

Settings about machines (folders, device, engine) are the machine's own and not in it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from shared.config import RunConfig
from shared.errors import ConfigError
from shared.privacy.calibration import plan_of
from shared.privacy.plan import PrivacyPlan
from shared.privacy.population import PublicSize
from shared.signing import Signed, sign, verified

KIND: Final = "run"
SCHEMA: Final = "tacit-run-file-1"
# The name of the document inside the bundle that Flower sends.
IN_BUNDLE: Final = "run-file.json"
TRAINING: Final = "train"
# Settings of a machine: each has its own.
OF_A_MACHINE: Final = (
    *("run.out", "run.resume", "run.continues", "run.device", "data.path", "data.name", "data.population"),
    *("privacy.ledger", "secure_aggregation.roster", "federation.engine", "evaluation.compare"),
)


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError
    return text


class _Body(BaseModel):
    """The document's content."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True)

    schema_: str = Field(alias="schema")
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    # Printable: it stands in the terminal in which an owner approves, and must not write lines of its own there.
    purpose: Annotated[str, Field(min_length=1, max_length=500), AfterValidator(_printable)]
    settings: dict[str, bool | int | float | str]
    users: int = Field(ge=1)
    clients: int = Field(ge=1)
    catalog: str = Field(pattern="^[0-9a-f]{64}$")
    items: int = Field(ge=1)
    message_bytes: dict[str, int]
    software: str
    proposed_at: int = Field(ge=0)
    valid_until: int = Field(ge=0)
    continues: str = Field("", pattern="^([0-9a-f]{64})?$")


@dataclass(frozen=True, eq=False)
class RunFile:
    """A proposal whose signature was verified.

    Attributes:
        document: The signed document.
        name: Of the run.
        purpose: What the recommender is for, in the operator's words.
        config: Every setting.
        size: Users and clients, public constants.
        catalog_digest: Of the items.
        num_items: I.
        message_bytes: Bytes of one contribution: by purpose, and `train` for an update.
        valid_until: Last second at which a node answers, since 1970.
        continues: Digest of the run file of the run that this one continues: of a history only what has come since is
            counted; empty for a run of its own.
    """

    document: Signed
    name: str
    purpose: str
    config: RunConfig
    size: PublicSize
    catalog_digest: str
    num_items: int
    message_bytes: Mapping[str, int]
    valid_until: int
    continues: str = ""

    @property
    def digest(self) -> str:
        """What an owner approves, hex."""
        return self.document.digest

    @property
    def plan(self) -> PrivacyPlan:
        """What the settings promise, computed from them here."""
        return plan_of(self.config, num_users=self.size.users, num_clients=self.size.clients)

    @classmethod
    def read(cls, content: bytes, *, server: bytes, where: str) -> RunFile:
        """Reads a run file.

        Args:
            content: The signed document.
            server: The key of the server that this machine trusts, 32 bytes.
            where: For errors.

        Raises:
            ConfigError: If it is damaged, signed by another key, of another version, its settings lead to no plan or are a
                machine's own, or clients would send shares of noise in the open.
        """
        document = verified(content, KIND, signer=server, where=where)
        if document.body.get("schema") != SCHEMA:
            raise ConfigError(f"Expected {where} of version {SCHEMA}, got another. Use the same version on both ends.")
        try:
            body = _Body.model_validate(document.body)
        except ValidationError:
            raise ConfigError(f"Expected the fields of a run file in {where}, got others. Ask its author for it.") from None
        if machine := sorted(set(body.settings) & set(OF_A_MACHINE)):
            raise ConfigError(
                f"Expected settings of a run in {where}, found {machine[0]}, which is each machine's own. Leave it out."
            )
        config = RunConfig.from_mapping(body.settings, source=where)
        size = PublicSize(body.users, body.clients)
        found = cls(
            document,
            body.name,
            body.purpose,
            config,
            size,
            body.catalog,
            body.items,
            body.message_bytes,
            body.valid_until,
            body.continues,
        )
        if found.plan.secure_aggregation == "stand-in":
            raise ConfigError(
                f"Expected sums that clients mask in {where}, got noise in shares and sums in the open, which are for "
                "simulations. Set secure_aggregation.simulate=full."
            )
        return found


def propose(
    config: RunConfig,
    *,
    name: str,
    purpose: str,
    size: PublicSize,
    catalog_digest: str,
    num_items: int,
    message_bytes: Mapping[str, int],
    software: str,
    now: int,
    valid_until: int,
    key: Ed25519PrivateKey,
    continues: str = "",
) -> RunFile:
    """Signs a proposal.

    Args:
        config: With rounds and statistics decided; settings of a machine are left out.
        name: Letters, digits, dots, hyphens; at most 64.
        purpose: At most 500 printable characters.
        size: Declared.
        catalog_digest: Of the items.
        num_items: I.
        message_bytes: Bytes of one contribution, by purpose and `train`.
        software: Version of Tacit.
        now: Seconds since 1970.
        valid_until: Last second at which nodes answer.
        key: Of the server. (private)
        continues: Digest of the run that this one continues.

    Raises:
        ConfigError: If a value is out of range, or the settings lead to no plan.
    """
    settings = {key_: _portable(value) for key_, value in config.to_flat().items() if key_ not in OF_A_MACHINE}
    body: dict[str, Any] = {
        "schema": SCHEMA,
        "name": name,
        "purpose": purpose,
        "settings": settings,
        "users": size.users,
        "clients": size.clients,
        "catalog": catalog_digest,
        "items": num_items,
        "message_bytes": dict(message_bytes),
        "software": software,
        "proposed_at": now,
        "valid_until": valid_until,
        **({"continues": continues} if continues else {}),
    }
    try:
        _Body.model_validate(body)
        signed = sign(KIND, body, key)
    except (ValidationError, ValueError) as error:
        raise ConfigError(
            f"Expected a name of letters, digits, dots and hyphens and a purpose of 1 to 500 printable characters, got "
            f"others ({type(error).__name__}). Mend [proposal] in the file."
        ) from None
    return RunFile.read(signed.to_bytes(), server=signed.signer, where="the proposal")


def _portable(value: Any) -> Any:
    """JSON has no infinity."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
