"""`tacit simulate`, `frontier` and `compare`: runs, alone and beside each other."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from shared.command_line.output import Json, print_json
from shared.errors import ConfigError
from shared.folder_claim import new_folder
from simulations.commands.audit import CANARIES, audit_run, leave_unless_passed
from simulations.commands.options import (
    Assignments,
    ConfigFile,
    Data,
    Declared,
    FileOrder,
    Format,
    Interrupted,
    PublicCatalog,
    Quiet,
    Rows,
    leave_unless_kept,
    progress_lines,
    with_catalog_declared,
)


def simulate(
    data: Data = None,
    format: Format = None,
    order: FileOrder | None = None,
    bad_rows: Rows | None = None,
    config: ConfigFile = None,
    set_: Assignments = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds of the federation.")] = None,
    clients: Annotated[int | None, typer.Option(help="Number of silos; 0 makes every user a client.")] = None,
    epsilon: Annotated[float | None, typer.Option(help="Privacy bound of the run; inf turns privacy off.")] = None,
    population: Declared = None,
    engine: Annotated[
        str | None, typer.Option(help="auto, cohort (all clients at once, one process) or flower (Ray).")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Output directory; default runs/<time>-<name>.")] = None,
    seed: Annotated[int | None, typer.Option(help="Fixes data, skew and initialization.")] = None,
    reproducible: Annotated[
        bool, typer.Option("--reproducible", help="Derive noise and sampling from the seed; not private.")
    ] = False,
    resume: Annotated[Path | None, typer.Option(help="Go on with the interrupted run in this directory.")] = None,
    from_: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="Continue the finished run in this directory on grown data, on top of what its users' ledgers spent.",
        ),
    ] = None,
    ledger: Annotated[
        Path | None, typer.Option(help="SQLite file of the clients' ledgers, to span runs; default: one a run.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
    baselines: Annotated[str | None, typer.Option(help="Comma-separated names, or cheap, all, none.")] = None,
    compare: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of another run on the same data, put into the same table; repeatable."),
    ] = None,
    public_catalog: PublicCatalog = None,
    audit: Annotated[
        bool,
        typer.Option(
            "--audit",
            help="Plan an audit before the first round and make it afterwards, as `tacit audit run` does; status 3 where it "
            "fails.",
        ),
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run a whole private federation on this machine, from interactions to a report.

    Without options: the embedded data, in half a minute. Every other setting is listed by `tacit config`.
    """
    from shared.config import RunConfig, flatten, parse_assignments, read_toml
    from shared.listing import join_list

    given = {
        "data.path": data,
        "data.format": format,
        "data.order": order,
        "data.bad_rows": bad_rows,
        "federation.rounds": rounds,
        "federation.clients": clients,
        "privacy.epsilon": epsilon,
        "privacy.population": population,
        "federation.engine": engine,
        "run.seed": seed,
        "run.reproducible": reproducible or None,
        "run.device": device,
        "privacy.ledger": str(ledger.resolve()) if ledger else None,
        "data.public_catalog": public_catalog,
        "evaluation.baselines": baselines,
        "evaluation.compare": join_list(str(path.resolve()) for path in compare) if compare else None,
    }
    overrides = {**parse_assignments(set_ or []), **{key: value for key, value in given.items() if value is not None}}
    if resume is not None:
        _only_for_a_new_run(overrides, out, config)
        if from_ is not None:
            raise ConfigError("Expected --resume or --from, got both. An interrupted run that continues another is resumed.")
        from shared.run_folder import load_config

        settings = load_config(resume).with_values({"run.resume": True, "run.out": str(resume)})
        chosen: Path | None = resume
        note = ""
    else:
        answers = {**(flatten(read_toml(config)) if config else {}), **overrides}
        if from_ is not None:
            from simulations.simulate import continuing

            RunConfig.from_mapping(answers, source=config.name if config else "the command line")
            settings = continuing(from_, answers)
            answers = {"data.public_catalog": settings.data.public_catalog, **answers}
        else:
            settings = RunConfig.from_mapping(answers, source=config.name if config else "the command line")
        said = settings.data.public_catalog if "data.public_catalog" in answers else None
        settings, note = with_catalog_declared(settings, said, silent=json or quiet)
        chosen = out or (Path(settings.run.out) if settings.run.out else None)
    from simulations.preparing import default_run_dir

    with nullcontext(chosen) if chosen else new_folder(default_run_dir(settings)) as folder:
        asked = from_ is None or "privacy.epsilon" in answers
        record = _simulate(settings, folder, as_json=json, quiet=quiet or json, epsilon_asked=asked, audited=audit)
    if note and not (json or quiet):
        print(f"\n{note}", file=sys.stderr)  # noqa: T201
    leave_unless_kept(record["privacy"])
    if audit:
        leave_unless_passed(record["audit"]["verdict"])


def _only_for_a_new_run(overrides: dict[str, Any], out: Path | None, config: Path | None) -> None:
    if out or config or overrides:
        raise ConfigError(
            "Expected --resume without other settings, because a run goes on with its own. Leave them out, "
            "or start a new run."
        )


def _simulate(
    settings: Any, run_dir: Path, *, as_json: bool, quiet: bool, epsilon_asked: bool, audited: bool
) -> dict[str, Any]:
    from rich.console import Console

    from simulations.display import print_summary
    from simulations.simulate import simulate as run_simulation

    try:
        canaries = CANARIES if audited else 0
        record = run_simulation(settings, run_dir, quiet=quiet, epsilon_asked=epsilon_asked, canaries=canaries)
    except KeyboardInterrupt:
        if not (run_dir / "config.json").exists():
            raise Interrupted("Interrupted before the run started; nothing was written.") from None
        raise Interrupted(
            f"Interrupted. What was finished is kept in {run_dir}/; continue with: tacit simulate --resume {run_dir}"
        ) from None
    if not as_json:
        print_summary(record, Console(stderr=quiet), run_dir=run_dir)
    if audited:
        results = audit_run(run_dir, quiet=quiet, shown=not (as_json or quiet)).body["results"]
        record = {**record, "audit": {name: results[name] for name in ("verdict", "failures", "warnings")}}
    if as_json:
        print_json({"run_dir": str(run_dir), **record})
    return record


def frontier(
    out: Annotated[Path, typer.Option(help="Folder to write; the same command again goes on with what is not done.")],
    data: Data = None,
    format: Format = None,
    order: FileOrder | None = None,
    bad_rows: Rows | None = None,
    config: ConfigFile = None,
    set_: Assignments = None,
    epsilon: Annotated[str, typer.Option(help="Bounds of the runs, separated by commas.")] = ".5,1,2,4,8,inf",
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each epsilon.")] = 3,
    rounds: Annotated[int | None, typer.Option(help="Rounds of the federation.")] = None,
    clients: Annotated[int | None, typer.Option(help="Number of silos; 0 makes every user a client.")] = None,
    population: Declared = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
    public_catalog: PublicCatalog = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure quality against epsilon, beside the free baseline and the limits without privacy; NOT PRIVATE.

    Each epsilon and seed is a run of `tacit simulate`, and so is its free baseline: text similarity and popularity, blended,
    with the same epsilon. Writes frontier.json, frontier.html and frontier.png.
    """
    from shared.config import RunConfig, flatten, parse_assignments, read_toml
    from simulations.frontier import parse_epsilons, run_frontier

    given = {
        "data.path": data,
        "data.format": format,
        "data.order": order,
        "data.bad_rows": bad_rows,
        "federation.rounds": rounds,
        "federation.clients": clients,
        "privacy.population": population,
        "run.device": device,
        "data.public_catalog": public_catalog,
    }
    epsilons = parse_epsilons(epsilon)
    overrides = {**parse_assignments(set_ or []), **{key: value for key, value in given.items() if value is not None}}
    settings = RunConfig.from_toml(config, overrides=overrides) if config else RunConfig.from_mapping(overrides)
    answers = {**(flatten(read_toml(config)) if config else {}), **overrides}
    said = settings.data.public_catalog if "data.public_catalog" in answers else None
    settings, note = with_catalog_declared(settings, said, silent=json or quiet)
    say = progress_lines(silent=quiet)
    try:
        result = run_frontier(settings, epsilons, seeds, out, say=say)
    except KeyboardInterrupt:
        raise Interrupted(
            f"Interrupted. Finished runs are kept in {out}/; the same command goes on with the rest."
        ) from None
    if json:
        print_json(result)
    else:
        from rich.console import Console

        from simulations.comparison.display import print_frontier

        print_frontier(result, Console(stderr=quiet))
    if note:
        say(note)


def compare(
    run_dirs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Folders written by simulate, on the same data; the first is the reference."),
    ],
    json: Json = False,
) -> None:
    """Compare finished runs on the same data, paired over users, with the first one; NOT PRIVATE."""
    from rich.console import Console

    from simulations.comparison.display import print_comparison
    from simulations.comparison.runs import compare_runs

    compared = compare_runs(run_dirs)
    if json:
        print_json(compared)
    else:
        print_comparison(compared, Console())
