"""`tacit frontier`: quality against epsilon, beside the free baseline and the limits without privacy.

For every epsilon and seed there are two runs: one as configured, and its *free baseline*, which spends the same epsilon on
the popularity prior and the weights of the scores, and learns nothing else. The folder holds the runs in `runs/`, and what
is made of them: `frontier.json`, `frontier.html`, `frontier.png`.

Lives here: which runs there are, which of them are done, and their order. Never here: a metric (`frontier_results.py`), or
a picture. An interrupted run is begun again and not resumed: what it had asked of its users would be missing in its budget,
and its quality would be that of a smaller epsilon.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.errors import ConfigError
from shared.folder_claim import claimed, contents
from simulations.arguments import configuration
from simulations.frontier_run import FrontierRun

if TYPE_CHECKING:
    from shared.config import RunConfig

RESULT, PAGE, PICTURE = "frontier.json", "frontier.html", "frontier.png"
SETTINGS, RUNS = "settings.json", "runs"
EPSILONS = (0.5, 1.0, 2.0, 4.0, 8.0, math.inf)

# They differ among the runs of a frontier, or change nothing of their results.
_OF_A_RUN = frozenset(
    {
        *("run.seed", "run.out", "run.resume", "run.device", "data.population"),
        *("federation.engine", "privacy.epsilon", "evaluation.baselines"),
    }
)
_ATTEMPT = "-attempt-"


def frontier(
    data: str | Path = "synthetic",
    epsilons: Sequence[float] = EPSILONS,
    seeds: int = 3,
    out: str | Path = "frontier",
    *,
    settings: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] = lambda line: None,
    **more: Any,
) -> dict[str, Any]:
    """Measures quality against epsilon; called again with the same arguments it goes on with what is not done yet.

    Args:
        data: File, folder, or 'synthetic'.
        epsilons: Bounds of the runs; infinity is a run without privacy.
        seeds: Runs of each epsilon.
        out: Folder to write; `frontier.html` there shows the result.
        settings: Any other setting of a run, by dotted key: `{"federation.clients": 0}`.
        progress: Called with a line for each run.
        **more: The same as keywords, with two underscores for the dot: `federation__clients=0`.

    Returns:
        What was written to `frontier.json`.

    Raises:
        TacitError: As `run_frontier`.

    Example:
        tacit.frontier("ml-100k", [1, 8], out="frontier-ml-100k", federation__clients=0, data__public_catalog=True)
    """
    from shared.command_line.environment import prepare_environment

    prepare_environment()
    return run_frontier(configuration({"data.path": data}, settings, more), epsilons, seeds, Path(out), say=progress)


def run_frontier(
    base: RunConfig,
    epsilons: Sequence[float],
    seeds: int,
    out: Path,
    *,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Makes the runs that are not done yet, and then the results, the page and the picture.

    Args:
        base: What all runs have in common; the first seed is its own. (public)
        epsilons: Bounds of the runs, > 0; repeated ones count once.
        seeds: Runs of each epsilon, >= 1.
        out: A new folder, or that of a frontier with the same settings. More epsilons or seeds may be asked for there.
        say: Called with a line for each run.

    Returns:
        What was written to `frontier.json`.

    Raises:
        ConfigError: For an epsilon that no noise reaches, a setting that a frontier cannot have, or a folder that holds
            something else; nothing is written then.
        TacitError: If the data cannot be used, or a run could not go on.
        KeyboardInterrupt: Finished runs are kept.
    """
    from shared.files import write_json

    runs = _runs(base, epsilons, seeds)
    settings = _settings(base, out)
    with claimed(out, lambda folder: _check_folder(folder, settings)):
        _check_feasible(base, out, runs)
        write_json(out / SETTINGS, settings)
        _run_all(base, out, runs, say)
        result = _write_results(base, out, runs)
        say(f"Wrote {RESULT}, {PAGE} and {PICTURE} to {out}/.")
        return result


def parse_epsilons(text: str) -> tuple[float, ...]:
    """Reads `--epsilon`: numbers, or inf, separated by commas.

    Raises:
        ConfigError: If a part is no number.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    try:
        return tuple(float(part) for part in parts)
    except ValueError:
        raise ConfigError(
            f"Expected --epsilon to be numbers or inf, got --epsilon={text}. Write e.g. .5,1,2,4,8,inf."
        ) from None


def finished(out: Path, run: FrontierRun) -> Path | None:
    """The folder of a run that is complete."""
    return next((folder for folder in _attempts(out, run) if _is_complete(folder)), None)


def _runs(base: RunConfig, epsilons: Sequence[float], seeds: int) -> list[FrontierRun]:
    """All runs, seed by seed, so that an early stop leaves whole curves."""
    bounds = sorted({float(epsilon) for epsilon in epsilons})
    if not bounds or not all(epsilon > 0 for epsilon in bounds):
        raise ConfigError(
            f"Expected epsilons > 0, at least one, got epsilons={', '.join(f'{epsilon:g}' for epsilon in epsilons)}. Use "
            "e.g. .5,1,2,4,8,inf."
        )
    if seeds < 1:
        raise ConfigError(f"Expected seeds >= 1, got seeds={seeds}. Use 3.")
    if base.privacy.ledger or base.evaluation.compare or base.run.resume:
        raise ConfigError(
            "Expected a frontier without privacy.ledger, evaluation.compare and run.resume, got one of them. Its runs are "
            "measurements of their own; leave the setting out."
        )
    first = base.run.seed
    return [
        FrontierRun(epsilon, seed, free, with_limit=epsilon == bounds[0] and not free)
        for seed in range(first, first + seeds)
        for epsilon in bounds
        for free in (False, True)
    ]


def _settings(base: RunConfig, out: Path) -> dict[str, str]:
    """What all runs of a folder have in common, as text."""
    from simulations.preparing import located

    flat = located(base, out).to_flat()
    return {key: str(value) for key, value in flat.items() if key not in _OF_A_RUN}


def _check_folder(out: Path, settings: dict[str, str]) -> None:
    """Refuses a folder that holds something else than a frontier with these settings."""
    found = [path.name for path in contents(out) if not path.name.startswith(f".{SETTINGS}.")]
    if not found and (out.is_dir() or not out.exists()):
        return
    try:
        held = json.loads((out / SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        held = None
    if not isinstance(held, dict):
        raise ConfigError(
            "Expected an empty or new output directory, or one of `tacit frontier`, found other files in "
            f"{out.name}/. Choose another --out."
        )
    changed = [key for key in sorted(settings.keys() | held.keys()) if settings.get(key) != held.get(key)]
    if changed:
        shown = ", ".join(f"{key}={settings.get(key)} instead of {held.get(key)}" for key in changed[:3])
        raise ConfigError(
            f"Expected the settings that the frontier in {out.name}/ was begun with, got {shown}. Repeat them, or choose "
            "another --out."
        )


def _check_feasible(base: RunConfig, out: Path, runs: Sequence[FrontierRun]) -> None:
    """Refuses before the first of many runs what would stop the last."""
    from simulations.feasibility import check_feasible
    from simulations.preparing import known_and_new, split_of

    todo = [run for run in runs if not finished(out, run)]
    if not todo:
        return
    dataset, _ = known_and_new(base)
    for run in (run for run in todo if run.seed == todo[0].seed):
        config = run.config(base)
        private = config.is_private and not config.run.reproducible
        check_feasible(config, dataset, split_of(config, dataset, private=private))


def _run_all(base: RunConfig, out: Path, runs: Sequence[FrontierRun], say: Callable[[str], None]) -> None:
    """Runs what is not done yet; one line each, with the time that is left by the runs so far."""
    from simulations.simulate import simulate

    todo = [run for run in runs if not finished(out, run)]
    say(f"{len(runs)} runs, {len(runs) - len(todo)} of them done already; writing to {out}/.")
    took: dict[bool, list[float]] = {True: [], False: []}
    for number, run in enumerate(todo):
        began = time.monotonic()
        folder = _next_attempt(out, run)
        record = simulate(run.config(base), folder, quiet=True)
        for other in _attempts(out, run):
            if other != folder:
                shutil.rmtree(other)
        took[run.free].append(time.monotonic() - began)
        done = len(runs) - len(todo) + number + 1
        left = _seconds_left(took, todo[number + 1 :])
        say(f"[{done}/{len(runs)}] {run.label}: {_headline(record)}, {took[run.free][-1]:.0f} s; {_left_text(left)}")


def _write_results(base: RunConfig, out: Path, runs: Sequence[FrontierRun]) -> dict[str, Any]:
    from server.reporting.frontier_page import write_frontier_page
    from shared.files import write_json
    from simulations.frontier_picture import write_picture
    from simulations.frontier_results import compose

    folders = [(run, folder) for run in runs if (folder := finished(out, run))]
    result = compose(base, folders, out)
    write_json(out / RESULT, result)
    write_frontier_page(out / PAGE, result)
    write_picture(out / PICTURE, result)
    return result


def _attempts(out: Path, run: FrontierRun) -> list[Path]:
    """The folders of a run, interrupted ones among them, in the order in which they were begun."""
    found = [path for path in (out / RUNS).glob(f"{run.name}{_ATTEMPT}*") if path.name.rpartition(_ATTEMPT)[2].isdigit()]
    return sorted(found, key=lambda path: int(path.name.rpartition(_ATTEMPT)[2]))


def _next_attempt(out: Path, run: FrontierRun) -> Path:
    """A folder that no attempt had: a process that has a ledger open refuses another one in its place."""
    numbers = [int(path.name.rpartition(_ATTEMPT)[2]) for path in _attempts(out, run)]
    return out / RUNS / f"{run.name}{_ATTEMPT}{max(numbers, default=0) + 1}"


def _is_complete(folder: Path) -> bool:
    try:
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and record.get("status") == "complete"


def _headline(record: dict[str, Any]) -> str:
    from server.reporting.comparison import metric_label, metric_name
    from shared.wording import metric_text

    name = metric_name(record, "ndcg")
    return f"test {metric_label(name)} {metric_text(record['metrics'].get('test', {}).get(name, {}).get('mean'))}"


def _seconds_left(took: dict[bool, list[float]], todo: Sequence[FrontierRun]) -> float:
    known = [*took[True], *took[False]]
    overall = sum(known) / len(known)
    each = {free: sum(times) / len(times) if times else overall for free, times in took.items()}
    return sum(each[run.free] for run in todo)


def _left_text(seconds: float) -> str:
    if not seconds:
        return "the last one"
    return f"about {math.ceil(seconds / 60)} min left" if seconds > 90 else f"about {math.ceil(seconds)} s left"
