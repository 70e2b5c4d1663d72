"""A proposal from `federation.toml`: every setting decided, every message's size computed, signed by the server.

    [proposal]
    name = "autumn"
    purpose = "Recommend films to the customers of our shops"
    valid_days = 30

    [privacy]                # and the other sections of `tacit config`
    epsilon = 8

What never lives here: what a node checks (`client/node/rules.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from server.home import ServerHome
from server.public_facts import public_facts
from shared.config import RunConfig
from shared.config.defaults import fitted
from shared.config.loading import flatten, read_toml
from shared.errors import ConfigError
from shared.model.recommender import resident
from shared.privacy.calibration import plan_of
from shared.privacy.plan import PrivacyPlan
from shared.privacy.shapes import StatisticShapes
from shared.run_file import OF_A_MACHINE, TRAINING, RunFile, propose
from shared.secagg.identities import read_key
from shared.versions import versions

_DAY = 24 * 60 * 60


class _Proposal(BaseModel):
    """The table `[proposal]`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str
    purpose: str
    valid_days: int = Field(30, ge=1, le=3650)


def proposal_of(home: ServerHome, path: Path, *, now: int) -> RunFile:
    """Makes and signs a proposal.

    Args:
        home: Of the server; its federation folder holds the catalog and the declared sizes.
        path: TOML.
        now: Seconds since 1970.

    Raises:
        ConfigError: If a setting is wrong, is a machine's own, or promises what cannot be claimed.
        DataError: If no catalog was published.
    """
    values = read_toml(path)
    about = _about(values.pop("proposal", None), path)
    flat = flatten(values)
    own = sorted(set(flat) & set(OF_A_MACHINE))
    if own:
        raise ConfigError(
            f"Expected settings of the run in {path.name}, got {own[0]}, which each machine has its own of. Remove it."
        )
    public, _ = public_facts(home.federation)
    size = public.size
    declared = {"privacy.population": size.users}
    config = RunConfig.from_mapping({**flat, **declared}, source=path.name)
    if config.one_user_a_client:
        if size.users != size.clients:
            raise ConfigError(
                f"Expected as many nodes as users where every user is a client, got users={size.users}, nodes={size.clients}"
                ". Publish the catalog with the same number, or set federation.clients."
            )
    else:
        config = config.with_values({"federation.clients": size.clients})
    config = _masked(fitted(config, num_users=size.users, num_clients=size.clients), flat)
    plan = plan_of(config, num_users=size.users, num_clients=size.clients)
    _, key = read_key(home.identity)
    return propose(
        config,
        name=about.name,
        purpose=about.purpose,
        size=size,
        catalog_digest=public.catalog.digest,
        num_items=public.catalog.num_items,
        message_bytes=contribution_bytes(config, plan, public.catalog),
        software=versions()["tacit"],
        now=now,
        valid_until=now + about.valid_days * _DAY,
        key=key,
    )


def _masked(config: RunConfig, given: Mapping[str, Any]) -> RunConfig:
    """The settings with masks on where noise comes in shares: in the open each share would be all that protects a client.

    Raises:
        ConfigError: If the operator asked for sums in the open.
    """
    if not config.mechanism.shares_noise:
        return config
    if given.get("secure_aggregation.simulate", "full") != "full":
        raise ConfigError(
            "Expected secure_aggregation.simulate=full in a deployment, got sum. Sums in the open are for simulations; "
            "leave the setting out."
        )
    return config.with_values({"secure_aggregation.simulate": "full"})


def contribution_bytes(config: RunConfig, plan: PrivacyPlan, catalog: Any) -> dict[str, int]:
    """Bytes of one client's contribution: by purpose, and `train` for an update. (public)"""
    recommender = resident(config, catalog)
    shapes = StatisticShapes.of(config, plan, recommender)
    found: dict[str, int] = dict(shapes.contribution_bytes(plan))
    if plan.rounds:
        size = recommender.attached.size
        found[TRAINING] = 4 * size
        if plan.clips_whole_updates:
            found[TRAINING] = plan.update_encoding(size, l2_clip_norm=plan.l2_clip_norm).packed_bytes
    return found


def _about(found: Any, path: Path) -> _Proposal:
    try:
        return _Proposal.model_validate(found if isinstance(found, dict) else {})
    except ValidationError as error:
        key = str(error.errors(include_url=False)[0]["loc"][0])
        raise ConfigError(
            f"Expected name, purpose and at most valid_days in [proposal] of {path.name}, got another {key}. Write e.g. "
            'name = "autumn" and purpose = "Recommend films to our customers".'
        ) from None
