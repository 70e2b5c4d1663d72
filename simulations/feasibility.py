"""Checks before a long run starts and before anything is written.

Lives here: whether a configuration fits its data, its folder, this machine and the run that it continues. Never here:
reading data (`preparing.py`), or a privacy number, which is the plan's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from shared.config import RunConfig
from shared.config.defaults import fitted
from shared.data.readers import Dataset
from shared.data.splitting import SplitResult
from shared.errors import ConfigError, PrivacyError
from shared.privacy.calibration import plan_of
from shared.privacy.population import PublicSize
from shared.run_folder import RECORD
from simulations.preparing import number_of_clients

if TYPE_CHECKING:
    from shared.privacy.plan import PrivacyPlan

REPORT = "report.html"


def check_unfinished(run_dir: Path) -> None:
    """Refuses to continue a run that is complete.

    Raises:
        ConfigError: If its record says so.
    """
    try:
        status = json.loads((run_dir / RECORD).read_text(encoding="utf-8"))["status"]
    except (OSError, ValueError, KeyError, TypeError):
        return  # stopped before it could write a whole record
    if status == "complete":
        raise ConfigError(
            f"Expected an interrupted run in {run_dir.name}/, found a complete one. Look at its {REPORT}, or "
            "start another run."
        )


def check_feasible(config: RunConfig, dataset: Dataset, histories: SplitResult) -> tuple[RunConfig, str]:
    """Everything that can be refused before a long run starts and before anything is written.

    Returns:
        The configuration, with a smaller head of the pairs where this machine has no room for the one that is wanted, and
        how much memory the run will need, in words.

    Raises:
        ConfigError: For more clients than users, a delta that is too large, an epsilon that no noise reaches,
            a device or backbone that cannot be used.
    """
    from shared.model.recommender import resident
    from simulations.engines.cohort import choose_engine

    users = len(histories.histories)
    choose_engine(config)
    if config.privacy.ledger and (not config.is_private or config.run.reproducible):
        raise ConfigError(
            "Expected a private run with a ledger that spans runs, got one that is not private. It would release what no "
            "ledger can count; leave --ledger out, or use a finite epsilon without --reproducible."
        )
    clients = number_of_clients(config, users, dataset)
    try:
        plan = plan_of(config, num_users=users, num_clients=clients)
        plan.verify_clients(clients)
    except PrivacyError as error:  # here, before anything ran, it is a wrong setting
        raise ConfigError(str(error)) from None
    head = _head(config, plan, num_items=dataset.catalog.num_items)
    config, memory = require_enough_memory(config, num_items=dataset.catalog.num_items, head=head)
    # Builds the very recommender that the run then uses: device, backbone, tokenizer and ranks are all tried
    # out.
    recommender = resident(config, dataset.catalog)
    if config.run.continues:
        from server.continuing import EarlierRun, Start

        size = PublicSize.of(users, clients, declared=config.privacy.population)
        whole = fitted(config, num_users=size.users, num_clients=size.clients)
        plan = plan_of(whole, num_users=users, num_clients=clients)
        Start.of(EarlierRun.open(Path(config.run.continues)), whole, plan, recommender, dataset.catalog)
    return config, memory


def _head(config: RunConfig, plan: PrivacyPlan, *, num_items: int) -> int:
    """Items whose pairs the run counts; 0 where it counts none."""
    from shared.privacy.shapes import StatisticShapes

    if plan.release("pairs") is None:
        return 0
    return StatisticShapes.expected(config, plan, num_items=num_items, dimensions=config.model.content_dimensions).head


def require_enough_memory(config: RunConfig, *, num_items: int, head: int = 0) -> tuple[RunConfig, str]:
    """Estimates the memory of a run before anything is loaded, and refuses one whose weights cannot fit.

    Args:
        config: The run. (public)
        num_items: I. (public)
        head: Items whose pairs are counted, 0 for none. (public)

    Returns:
        The configuration, its head as large as there is room for, and what to say of it.

    Raises:
        ConfigError: If the backbone cannot be used, or is larger than the machine's memory.
    """
    import torch

    from shared.model.memory import available_memory, head_that_fits, memory_needed, require_memory, require_memory_for_head
    from shared.model.recommender import choose_device

    estimate = memory_needed(config, num_items=num_items)
    available, where = available_memory(choose_device(config.run.device))
    require_memory(estimate, available=available, where=where, weights=config.model.weights)
    in_all, _ = available_memory(torch.device("cpu"))  # denoising is the processor's
    if config.run.resume or config.run.continues:  # the head is what it was
        require_memory_for_head(head)
        fits = head
    else:
        fits = head_that_fits(head, beside=estimate.weights + estimate.items, available=in_all)
    sentence = memory_needed(config, num_items=num_items, head=fits).sentence()
    if fits == head:
        return config, sentence
    said = f"{sentence} Pairs are counted among {fits} items instead of {head}: memory has no room for more."
    return config.with_values({"statistics.head": fits}), said
