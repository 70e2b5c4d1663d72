"""The run record: everything a run did, in one JSON file, and the page and event files made from it.

It is the research record: exact metrics, baselines, distributions. It says NOT PRIVATE on its face where that
is so. It computes metrics from the clients' sums and epsilons from the ledger's events; a report only lays
them out.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from client.ledger.ledger import Ledger
from server.checkpoints import asked_in
from server.continuing import EarlierRun
from server.event_log import EventLog
from server.reporting.records import RUN_SCHEMA, LedgerFacts, RunStatement, parse_run, read_run
from server.reporting.released import selection_of
from server.reporting.secure_sums import secure_sums_of
from shared.config import RunConfig
from shared.data.item_vectors import chosen_modalities
from shared.files import finite, write_json
from shared.metrics import RANK_EDGES, EvaluationSums, difference, summarize
from shared.privacy import accounting
from shared.privacy.calibration import plan_of
from shared.privacy.events import Event, with_known_participation
from shared.privacy.plan import PrivacyPlan
from shared.privacy.shapes import StatisticShapes
from shared.privacy.statement import Statement, statement_of
from shared.run_folder import EVENTS, RECORD, RELEASE, load_catalog
from shared.versions import versions
from simulations.comparison.baselines import train_popularity
from simulations.rounds import read_rounds

if TYPE_CHECKING:
    from shared.data.readers import Dataset
    from simulations.preparing import Prepared

STAMP = "NOT PRIVATE: this research record shows exact metrics, training losses and baselines computed from all users."
STAMP_OF_A_PRIVATE_RUN = f"{STAMP} Only what the run released carries the privacy claim."
STAMP_OF_ANY_OTHER_RUN = f"{STAMP} Nothing carries a privacy claim, what the run released included."


@dataclass(frozen=True, eq=False)
class BaselineResult:
    """One row of the comparison.

    Attributes:
        key: Stable name.
        label: What a person reads.
        private: Whether it could be released as it is.
        sums: `validation` and `test` sums; a target nobody has is absent.
        seconds: Time it took.
    """

    key: str
    label: str
    private: bool
    sums: Mapping[str, EvaluationSums]
    seconds: float


def write_record(
    run_dir: Path,
    config: RunConfig,
    prepared: Prepared,
    baselines: Sequence[BaselineResult],
    timings: Mapping[str, float],
    *,
    cold_items: Mapping[str, Any] | None = None,
    complete: bool,
) -> dict[str, Any]:
    """Composes `run.json`, renders `report.html`, writes TensorBoard events.

    Returns:
        The record.
    """
    from server.reporting.events import write_events
    from server.reporting.page import write_report
    from server.reporting.release_page import write_release_page
    from simulations.engines.cohort import choose_engine

    popularity = train_popularity(prepared.histories, num_items=prepared.dataset.catalog.num_items)
    own = {target: sums for target in ("validation", "test") if (sums := _read_sums(run_dir, target, config, popularity))}
    rounds, events = read_rounds(run_dir), EventLog(run_dir / EVENTS).read()
    earlier = EarlierRun.open(Path(config.run.continues)) if config.run.continues else None
    privacy = _privacy(config, prepared, run_dir, [] if earlier is None else earlier.events)
    held = {
        "schema": RUN_SCHEMA,
        "name": config.run.name or prepared.dataset.name,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "status": "complete" if complete else "interrupted",
        "stopped": stopped_because(run_dir),
        "stamp": STAMP_OF_A_PRIVATE_RUN if privacy.is_private else STAMP_OF_ANY_OTHER_RUN,
        "config": finite(config.model_dump()),
        "config_digest": config.digest(),
        "versions": versions(),
        "machine": {
            "cores": os.cpu_count(),
            "device": device_name(config),
            "system": platform.system(),
            "engine": choose_engine(config),
        },
        "data": _data(config, prepared),
        "continues": None if earlier is None else earlier.facts,
        "model": _model(config, run_dir),
        "rounds": rounds,
        "selection": selection_of(events),
        "secure_sums": secure_sums_of(events),
        "metrics": {target: summarize(sums, item_popularity=popularity) for target, sums in own.items()},
        "distribution": {
            target: {"edges": list(RANK_EDGES), "counts": sums.histogram.tolist()} for target, sums in own.items()
        },
        "baselines": [_baseline(result, own, popularity) for result in baselines],
        "cold_items": cold_items,
        "privacy": privacy.model_dump(mode="json"),
        "timings": {
            **timings,
            **_of_rounds(rounds),
        },
        "artifacts": {
            "record": RECORD,
            "report": "report.html",
            "adapter": "adapter/",
            "events": "events.jsonl",
            "tensorboard": "tensorboard/",
            "release": "release.html",
            "ledger": config.privacy.ledger or "population/ledger.sqlite",
        },
    }
    run = parse_run(held)
    record = run.as_json()
    write_json(run_dir / RECORD, record)
    write_report(run_dir)
    if (run_dir / RELEASE).exists():
        write_release_page(run_dir)
    write_events(run, run_dir / "tensorboard")
    return record


def _of_rounds(rounds: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """What training took, and measuring it; nothing of a run without rounds."""
    if not rounds:
        return {}
    training = sum(row["training_seconds"] for row in rounds)
    return {"training_seconds": training, "evaluation_seconds": sum(row["seconds"] for row in rounds) - training}


def stopped_because(run_dir: Path) -> str | None:
    """Why a run ended before its planned releases, in words; None where it did not."""
    reasons = [event["reason"] for event in EventLog(run_dir / EVENTS).read() if event["event"] == "stopped"]
    return reasons[-1] if reasons else None


def _read_sums(run_dir: Path, target: str, config: RunConfig, popularity: NDArray[np.int64]) -> EvaluationSums | None:
    path = run_dir / "evaluation" / f"{target}.npy"
    if not path.exists():
        return None
    settings = config.evaluation
    return EvaluationSums.from_vector(np.load(path), len(popularity), settings.bootstrap_replicates, k=settings.k)


def _baseline(result: BaselineResult, own: Mapping[str, EvaluationSums], popularity: NDArray[np.int64]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "key": result.key,
        "label": result.label,
        "private": result.private,
        "seconds": result.seconds,
        "metrics": {t: summarize(sums, item_popularity=popularity) for t, sums in result.sums.items()},
    }
    if "test" in own and "test" in result.sums:
        row["difference"] = {name: difference(own["test"], result.sums["test"], name) for name in own["test"].names}
    return row


def _data(config: RunConfig, prepared: Prepared) -> dict[str, Any]:
    dataset = prepared.dataset
    users, items = dataset.interactions.num_users, dataset.catalog.num_items
    interactions = dataset.interactions.num_interactions
    return {
        "name": dataset.name,
        "users": users,
        "items": items,
        "interactions": interactions,
        "density": interactions / (users * items),
        "split": config.data.split,
        "digest": data_digest(dataset),
        "catalog_digest": dataset.catalog.digest,
        "repairs": {**dataset.interactions.repairs, **prepared.split.repairs},
        "ceiling": dataset.ceiling,
        "public_catalog": config.data.public_catalog,
        "modalities": list(chosen_modalities(dataset.catalog, config.model)),
        "clients": prepared.num_clients,
    }


def data_digest(dataset: Dataset) -> str:
    """SHA-256 (hex) over who did what when; the same for the same interactions in the same order."""
    table = dataset.interactions.frame.select("user", "item", "timestamp")
    return hashlib.sha256(table.hash_rows(seed=0).to_numpy().tobytes()).hexdigest()


def _model(config: RunConfig, run_dir: Path) -> dict[str, Any]:
    from shared.model.recommender import resident

    recommender = resident(config, load_catalog(run_dir))
    lora = [p.numel() for name, p in recommender.attached.model.named_parameters() if "lora_" in name]
    return {
        "backbone": config.model.backbone,
        "backbone_digest": recommender.backbone_digest,
        "layers": recommender.num_layers,
        "adapter_parameters": sum(lora),
        "trained_parameters": recommender.attached.size,
        # Of a run that trains; how large a statistic is stands beside what a client sends.
        "upload_bytes": 4 * recommender.attached.size if config.federation.rounds else None,
    }


def _shapes(config: RunConfig, plan: PrivacyPlan, run_dir: Path) -> StatisticShapes:
    from shared.model.recommender import resident

    return StatisticShapes.of(config, plan, resident(config, load_catalog(run_dir)))


def _privacy(config: RunConfig, prepared: Prepared, run_dir: Path, earlier: Sequence[Event]) -> RunStatement:
    """The statement, over this run and those that it continues, as what is released was made from all of them."""
    plan = plan_of(config, num_users=len(prepared.histories), num_clients=prepared.num_clients)
    sizes = _shapes(config, plan, run_dir).message_bytes(plan)
    events = plan.events(**vars(asked_in(run_dir)))
    statement = statement_of(plan, events, config=config, earlier=earlier, message_bytes=sizes)
    return RunStatement(**{name: getattr(statement, name) for name in Statement.model_fields}, ledger=_ledger(config, plan))


def _ledger(config: RunConfig, plan: PrivacyPlan) -> LedgerFacts | None:
    """What the clients' own ledgers hold, earlier runs included; None without noise. (the faults: private)

    Unlike the claims this counts when each client really took part, and all runs that the ledger spans.
    """
    path = Path(config.privacy.ledger or Path(config.data.population) / "ledger.sqlite")
    if not plan.adds_noise or not path.exists():
        return None
    ledger = Ledger(path)
    try:
        spendings = [with_known_participation(events) for events in ledger.largest_spending()]
        largest = max(
            (accounting.epsilon(events, delta=plan.delta, relation=plan.relation) for events in spendings), default=0.0
        )
        return LedgerFacts(
            owners=ledger.number_of_owners(), epsilon_known_participation=finite(largest), faults=ledger.faults()
        )
    finally:
        ledger.close()


def device_name(config: RunConfig) -> str:
    """What the model ran on."""
    from shared.model.recommender import choose_device

    device = choose_device(config.run.device)
    if device.type == "cuda":
        import torch

        return str(torch.cuda.get_device_name(device))
    return f"cpu ({platform.machine()})"


def read_record(run_dir: Path) -> dict[str, Any]:
    """Reads `run.json`, as JSON holds it.

    Raises:
        CheckpointError: If it is absent, damaged or of another schema.
    """
    return read_run(run_dir).as_json()
