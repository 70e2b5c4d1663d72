"""`tacit simulate`, `frontier`, `compare`, `report`, `recommend`, `doctor`, `bench`, `data`, `config`.

Nothing heavy is imported at the top, so that `tacit --help` answers at once. With `--json` a command prints
JSON alone on stdout, errors included; everything for people goes to stderr then. Exit status: 0 done, 1
failed, 2 bad input, 3 done, but the protection that was asked for is not given, 130 interrupted.
"""

from __future__ import annotations

import json as jsonlib
import os
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any, Literal

import click
import typer

from client.cli import app as node_app
from shared.command_line.environment import prepare_environment
from shared.command_line.interruption import INTERRUPTED, signals_interrupt
from shared.command_line.streams import lasting_output
from shared.errors import ConfigError, TacitError
from shared.files import require_unicode
from shared.folder_claim import new_folder

app = typer.Typer(
    name="tacit",
    help="A federated, privacy-preserving recommender: run one, read its report, ask for items.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    suggest_commands=False,  # click suggests already
)
data_app = typer.Typer(
    help="Look at interactions and spread them over clients.", no_args_is_help=True, suggest_commands=False
)
app.add_typer(data_app, name="data")
privacy_app = typer.Typer(
    help="Ask what a configuration promises, and what it would cost to promise more.",
    no_args_is_help=True,
    suggest_commands=False,
)
app.add_typer(privacy_app, name="privacy")
app.add_typer(node_app, name="node")

# The run, or the plan, is whole; the claim against its own adversary rests on an assumption that does not hold.
_NOT_PROTECTED = 3

Json = Annotated[bool, typer.Option("--json", help="Print JSON alone on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress.")]
Declared = Annotated[
    int | None,
    typer.Option(
        "--population", min=1, help="Number of users to declare in public; default: the number found, rounded down."
    ),
]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file; see `tacit config`.")]
Assignments = Annotated[list[str] | None, typer.Option("--set", help="section.key=value, repeatable; see `tacit config`.")]
Data = Annotated[str | None, typer.Option("--data", help="File, folder, or 'synthetic'.")]
Format = Annotated[
    str | None,
    typer.Option("--format", help="auto, recbole, movielens, amazon, mind, steam, goodreads, huggingface or tabular."),
]
Columns = Annotated[str, typer.Option("--columns", help="Column map of a table, e.g. 'user=uid,item=asin,timestamp=t'.")]
PublicCatalog = Annotated[
    bool | None,
    typer.Option(
        "--public-catalog/--no-public-catalog",
        help="Whether items and texts exist independently of these users; simulate asks at a terminal and records it.",
    ),
]
Vectors = Annotated[
    str, typer.Option("--vectors", help="Files of item vectors, e.g. 'image=images.npy,audio=audio.parquet'.")
]
FileOrder = Annotated[
    Literal["time", "file"],
    typer.Option("--order", help="file: each user's rows stand in the order in which they happened; times are not read."),
]
Rows = Annotated[
    Literal["refuse", "drop"],
    typer.Option("--bad-rows", help="drop: leave rows out whose ids, time or value cannot be read, and count them."),
]


def run() -> None:
    """Runs the command line and turns errors into one clear line and an exit status."""
    as_json = "--json" in sys.argv[1:]
    prepare_environment()
    with lasting_output() as output:
        status = _run(as_json)
        output.flush()
        if output.lost:
            # A finished run is in its folder; what another command prints is all that it does.
            print(f"tacit: The output could not be written: {output.lost}.", file=sys.stderr)  # noqa: T201
            status = status or int(as_json or not _writes_files(sys.argv[1:]))
    if status:
        raise SystemExit(status)


def _run(as_json: bool) -> int:
    with signals_interrupt() as interruption:
        try:
            for argument in sys.argv[1:]:
                require_unicode("an argument", argument)
            # In this mode typer returns the status with which it would have left, 130 after an interruption.
            status = int(app(prog_name="tacit", standalone_mode=False) or 0)
        except _Interrupted as error:
            return _fail(str(error), interruption.status, as_json)
        except TacitError as error:
            return _fail(str(error), error.exit_status, as_json)
        except (KeyboardInterrupt, typer.Abort):
            status = INTERRUPTED
        except SystemExit as error:
            return int(error.code or 0)
        except click.exceptions.NoArgsIsHelpError as error:
            return int(error.exit_code)  # the help is already on the screen
        except click.ClickException as error:
            context = getattr(error, "ctx", None)
            command = context.command_path if context else "tacit"
            return _fail(f"{error.format_message()} See `{command} --help`.", error.exit_code, as_json)
        except OSError as error:
            what = f" ({os.fsdecode(error.filename)})" if isinstance(error.filename, str | bytes) else ""
            return _fail(
                f"{error.strerror or type(error).__name__}{what}. Free or mend it, then repeat the command.", 1, as_json
            )
    if status == INTERRUPTED:
        return _fail("Interrupted.", interruption.status, as_json)
    return status


def _writes_files(arguments: list[str]) -> bool:
    """Whether a command's result is files, of which its output only tells."""
    named = " ".join(argument for argument in arguments if not argument.startswith("-"))
    return named.startswith(("simulate", "frontier", "report", "export", "data convert", "data partition"))


class _Interrupted(Exception):  # noqa: N818
    """Ctrl-C, with what there is to say; a KeyboardInterrupt loses its message on its way through typer."""


def _fail(message: str, status: int, as_json: bool) -> int:
    message = " ".join(message.split())
    if as_json:
        print(jsonlib.dumps({"error": message, "exit_status": status}))  # noqa: T201
    print(f"tacit: {message}", file=sys.stderr)  # noqa: T201
    return status


def _print_json(value: Any) -> None:
    """Prints ASCII alone: JSON's own escapes are read everywhere, whatever the encoding of the terminal or file."""
    print(jsonlib.dumps(value, indent=1))  # noqa: T201


def _print_version(asked: bool) -> None:
    if not asked:
        return
    from importlib.metadata import version

    if "--json" in sys.argv[1:]:
        _print_json({"version": version("tacit")})
    else:
        print(f"tacit {version('tacit')}")  # noqa: T201
    raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="With --version: print JSON alone on stdout.")] = False,
) -> None:
    """A federated, privacy-preserving recommender: run one, read its report, ask for items."""


@app.command()
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
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run a whole private federation on this machine, from interactions to a report.

    Without options: the embedded data, in a minute or two. Every other setting is listed by `tacit config`.
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
        settings, note = _with_catalog_declared(settings, said, silent=json or quiet)
        chosen = out or (Path(settings.run.out) if settings.run.out else None)
    with nullcontext(chosen) if chosen else new_folder(_default_run_dir(settings)) as folder:
        asked = from_ is None or "privacy.epsilon" in answers
        record = _simulate(settings, folder, as_json=json, quiet=quiet or json, epsilon_asked=asked)
    if note and not (json or quiet):
        print(f"\n{note}", file=sys.stderr)  # noqa: T201
    _leave_unless_kept(record["privacy"])


def _leave_unless_kept(privacy: dict[str, Any]) -> None:
    """Ends with a status of its own where a private run, or plan, does not protect as it was asked to."""
    from server.reporting.sentences import not_kept

    if reason := not_kept(privacy):
        print(f"tacit: {reason}", file=sys.stderr)  # noqa: T201
        raise SystemExit(_NOT_PROTECTED)


def _with_catalog_declared(settings: Any, said: bool | None, *, silent: bool) -> tuple[Any, str]:
    from rich.console import Console

    from simulations.public_catalog import declared, someone_answers

    console = Console(stderr=True)
    return declared(
        settings,
        said=said,
        may_ask=not silent and someone_answers(),
        confirm=lambda question: typer.confirm(question, default=False, err=True),
        tell=lambda text: console.print(text, highlight=False),
    )


def _only_for_a_new_run(overrides: dict[str, Any], out: Path | None, config: Path | None) -> None:
    if out or config or overrides:
        raise ConfigError(
            "Expected --resume without other settings, because a run goes on with its own. Leave them out, "
            "or start a new run."
        )


def _default_run_dir(settings: Any) -> Path:
    name = Path(settings.run.name or settings.data.path).name or "run"
    return Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{name}"


def _simulate(settings: Any, run_dir: Path, *, as_json: bool, quiet: bool, epsilon_asked: bool) -> dict[str, Any]:
    from rich.console import Console

    from simulations.display import print_summary
    from simulations.simulate import simulate as run_simulation

    try:
        record = run_simulation(settings, run_dir, quiet=quiet, epsilon_asked=epsilon_asked)
    except KeyboardInterrupt:
        if not (run_dir / "config.json").exists():
            raise _Interrupted("Interrupted before the run started; nothing was written.") from None
        raise _Interrupted(
            f"Interrupted. What was finished is kept in {run_dir}/; continue with: tacit simulate --resume {run_dir}"
        ) from None
    if as_json:
        _print_json({"run_dir": str(run_dir), **record})
    else:
        print_summary(record, Console(stderr=quiet), run_dir=run_dir)
    return record


@app.command()
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
    settings, note = _with_catalog_declared(settings, said, silent=json or quiet)
    say = _progress_lines(silent=quiet)
    try:
        result = run_frontier(settings, epsilons, seeds, out, say=say)
    except KeyboardInterrupt:
        raise _Interrupted(
            f"Interrupted. Finished runs are kept in {out}/; the same command goes on with the rest."
        ) from None
    if json:
        _print_json(result)
    else:
        from rich.console import Console

        from simulations.comparison.display import print_frontier

        print_frontier(result, Console(stderr=quiet))
    if note:
        say(note)


def _progress_lines(*, silent: bool) -> Any:
    """What shows a line of progress on standard error."""
    from rich.console import Console

    from simulations.terminal import plain

    console = Console(stderr=True, quiet=silent, soft_wrap=True)
    return lambda line: console.print(plain(line), highlight=False, markup=False)


@app.command()
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
        _print_json(compared)
    else:
        print_comparison(compared, Console())


@app.command()
def report(run_dir: Annotated[Path, typer.Argument(help="A folder written by simulate.")], json: Json = False) -> None:
    """Render report.html and release.html of a run again."""
    from server.reporting.page import write_report
    from server.reporting.release_page import write_release_page
    from shared.run_folder import RELEASE

    pages = {"report": write_report(run_dir)}
    if (run_dir / RELEASE).exists():  # an interrupted run has none
        pages["release"] = write_release_page(run_dir)
    if json:
        _print_json({name: str(path) for name, path in pages.items()})
    else:
        for path in pages.values():
            print(f"Wrote {path}")  # noqa: T201


@app.command()
def recommend(
    run_dir: Annotated[Path, typer.Argument(help="A folder written by simulate.")],
    history: Annotated[
        str | None,
        typer.Option(help="Item ids in time order, separated by commas; quotation marks around an id that holds one."),
    ] = None,
    history_file: Annotated[Path | None, typer.Option(help="Text file with one item id a line, in time order.")] = None,
    user: Annotated[str | None, typer.Option(help="A user of --data, or of the run's own data.")] = None,
    data: Data = None,
    format: Format = None,
    columns: Annotated[str | None, typer.Option("--columns", help="Column map of --data; default: that of the run.")] = None,
    new_items: Annotated[
        Path | None, typer.Option(help="CSV, TSV or Parquet file of items that came after training, ranked with the others.")
    ] = None,
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="Length of the list.")] = 10,
    json: Json = False,
) -> None:
    """Recommend items from a saved run, for a user never seen in training too."""
    from rich.console import Console

    from simulations.display import print_recommendations
    from simulations.recommendation import recommend_items

    rows = recommend_items(
        run_dir,
        history=history,
        history_file=history_file,
        user=user,
        data=data,
        format=format,
        columns=columns,
        new_items=new_items,
        k=k,
    )
    if json:
        _print_json({"recommendations": rows})
    else:
        print_recommendations(rows, Console())


@app.command()
def export(
    run_dir: Annotated[Path, typer.Argument(help="A folder written by simulate.")],
    destination: Annotated[Path, typer.Argument(help="A new folder.")],
    rank: Annotated[
        int | None, typer.Option("--rank", min=1, help="Cut every learned change to this rank; the error is stated.")
    ] = None,
    json: Json = False,
) -> None:
    """Write a finished run as a plain transformers model with a model card: for use without Tacit."""
    from server.export import export as export_run

    exported = export_run(run_dir, destination, rank=rank)
    if json:
        _print_json(exported.to_json())
        return
    print(f"Wrote {', '.join(exported.files)} to {destination}/")  # noqa: T201
    if exported.rank is not None:
        for module, cut in exported.cuts.items():
            print(f"{cut.share:8.2%} of {module}")  # noqa: T201
        print(f"{exported.overall:8.2%} of all learned changes was cut off (Frobenius norm, rank {rank}).")  # noqa: T201


@app.command()
def doctor(
    backbone: Annotated[
        str | None, typer.Option(help="Look into a backbone: family, memory it needs, and whether it does what it must.")
    ] = None,
    json: Json = False,
) -> None:
    """Check versions, device, weights and disk, and say how to mend what is missing."""
    from rich.console import Console

    from simulations.display import print_doctor
    from simulations.doctor import examine

    checks = examine(backbone)
    if json:
        _print_json({"checks": checks})
    else:
        print_doctor(checks, Console())
    if any(check["ok"] is False for check in checks):
        raise SystemExit(1)


@app.command()
def bench(
    only: Annotated[
        str | None, typer.Option(metavar="NAME[,NAME]", help="Only these; a name that is none lists all there are.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Also those that take long.")] = False,
    repeats: Annotated[int | None, typer.Option(min=1, help="Pairs a benchmark measures; default: its own.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of torch; default: two in most.")] = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Measure speed and memory against the peers, in a table with machine, versions and spread.

    The default set ends in under 15 minutes on two cores. Each benchmark is a process of its own.
    The exit status is 1 only if one of them crashed: a missed target is said, and is no failure.
    Ctrl-C prints what was measured before.
    """
    from rich.console import Console

    from simulations.bench import choose
    from simulations.bench_display import print_results
    from simulations.bench_run import Options, run_benchmarks

    chosen = choose(only, everything=everything)
    results = run_benchmarks(chosen, Options(repeats, threads, data), progress=Console(stderr=True))
    if json:
        _print_json(results.to_json())
    else:
        print_results(results, Console())
    if results.interrupted:
        print("tacit: Interrupted. What was measured before it is printed.", file=sys.stderr)  # noqa: T201
        raise SystemExit(130)
    if results.crashed:
        raise SystemExit(1)


@app.command("config")
def show_config(config: ConfigFile = None, set_: Assignments = None, json: Json = False) -> None:
    """Print every setting with its value and meaning."""
    from shared.config import RunConfig, parse_assignments

    overrides = parse_assignments(set_ or [])
    settings = RunConfig.from_toml(config, overrides=overrides) if config else RunConfig.from_mapping(overrides)
    if json:
        _print_json({key: str(value) if value == float("inf") else value for key, value in settings.to_flat().items()})
        return
    import tomli_w

    for section, values in settings.model_dump().items():
        print(f"[{section}]")  # noqa: T201
        fields = type(getattr(settings, section)).model_fields
        for key, value in values.items():
            print(f"{tomli_w.dumps({key: value}).strip():<44} # {fields[key].description}")  # noqa: T201
        print()  # noqa: T201


@data_app.command("describe")
def describe(
    path: Annotated[str, typer.Argument(help="File, folder, or 'synthetic'.")],
    format: Format = None,
    columns: Columns = "",
    vectors: Vectors = "",
    order: FileOrder = "time",
    bad_rows: Rows = "refuse",
    json: Json = False,
) -> None:
    """Say what a data file holds, with warnings of leakage."""
    from rich.console import Console

    from simulations.datasets import load_dataset
    from simulations.describe import describe as describe_dataset
    from simulations.display import print_description

    description = describe_dataset(
        load_dataset(path, format=format or "auto", columns=columns, vectors=vectors, order=order, bad_rows=bad_rows)
    )
    if json:
        _print_json(description)
    else:
        print_description(description, Console())


@data_app.command("preview")
def preview(
    path: Annotated[str, typer.Argument(help="File, folder, or 'synthetic'.")],
    format: Format = None,
    columns: Columns = "",
    vectors: Vectors = "",
    order: FileOrder = "time",
    bad_rows: Rows = "refuse",
    rows: Annotated[int, typer.Option(min=1, help="Rows of each table to show.")] = 5,
    json: Json = False,
) -> None:
    """Show which column plays which role, and the first rows as understood; NOT PRIVATE.

    A dry run: nothing is written, and of a big file only the head is read.
    """
    from rich.console import Console

    from simulations.data_display import print_preview
    from simulations.datasets import preview as preview_dataset

    shown = preview_dataset(
        path, format=format or "auto", columns=columns, vectors=vectors, rows=rows, order=order, bad_rows=bad_rows
    )
    if json:
        _print_json(shown)
    else:
        print_preview(shown, Console())


@data_app.command("convert")
def convert(
    source: Annotated[str, typer.Argument(help="File, folder, or 'synthetic'.")],
    destination: Annotated[Path, typer.Argument(help="A folder to make.")],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="FORMAT",
            help="parquet, csv, recbole, movielens, amazon-2014, amazon-2018, amazon-2023, mind, steam, goodreads, "
            "huggingface.",
        ),
    ],
    format: Format = None,
    columns: Columns = "",
    vectors: Vectors = "",
    order: FileOrder = "time",
    bad_rows: Rows = "refuse",
    lossy: Annotated[bool, typer.Option("--lossy", help="Leave out values where the format has no field for them.")] = False,
    json: Json = False,
) -> None:
    """Write a data set in another format, so that reading it gives the same.

    What the format has no field for lies in modalities.parquet and users.parquet beside it, and is read with it.
    """
    from rich.console import Console

    from shared.data.readers.convert import check_destination
    from shared.data.readers.convert import convert as convert_dataset
    from simulations.data_display import Steps, conversion_as_json, print_conversion
    from simulations.datasets import load_dataset

    check_destination(destination, to)
    steps = Steps(Console(stderr=True))
    with steps.step(f"Reading {source}"):
        dataset = load_dataset(
            source, format=format or "auto", columns=columns, vectors=vectors, order=order, bad_rows=bad_rows
        )
    with steps.step(f"Writing {dataset.interactions.num_interactions:,} interactions as {to}"):
        conversion = convert_dataset(dataset, destination, to, lossy=lossy)
    if json:
        _print_json(conversion_as_json(dataset, destination, to, conversion))
    else:
        print_conversion(dataset, destination, to, conversion, Console())


@data_app.command("partition")
def partition(
    out: Annotated[Path, typer.Option(help="Folder to write; give it to flwr run as data.population.")],
    data: Data = None,
    format: Format = None,
    order: FileOrder | None = None,
    bad_rows: Rows | None = None,
    config: ConfigFile = None,
    set_: Assignments = None,
    clients: Annotated[int | None, typer.Option(help="Number of silos; 0 makes every user a client.")] = None,
    population: Declared = None,
    json: Json = False,
) -> None:
    """Spread interactions over clients: the folder that `flwr run .` and nodes open."""
    from shared.config import RunConfig, parse_assignments
    from simulations.preparing import write_partitions

    given = {
        "data.path": data,
        "data.format": format,
        "data.order": order,
        "data.bad_rows": bad_rows,
        "federation.clients": clients,
        "privacy.population": population,
    }
    overrides = {**parse_assignments(set_ or []), **{key: v for key, v in given.items() if v is not None}}
    settings = RunConfig.from_toml(config, overrides=overrides) if config else RunConfig.from_mapping(overrides)
    summary = write_partitions(settings, out)
    if json:
        _print_json({"folder": str(out), "clients": summary.num_clients, "users": summary.num_users})
    else:
        print(f"Wrote {summary.num_users} users as {summary.num_clients} clients to {out}/")  # noqa: T201


@privacy_app.command("plan")
def plan(
    data: Data = None,
    format: Format = None,
    order: FileOrder | None = None,
    bad_rows: Rows | None = None,
    config: ConfigFile = None,
    set_: Assignments = None,
    epsilon: Annotated[float | None, typer.Option(help="Privacy bound of the run; inf turns privacy off.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds of the federation.")] = None,
    clients: Annotated[int | None, typer.Option(help="Number of silos; 0 makes every user a client.")] = None,
    users: Annotated[int | None, typer.Option(min=1, help="Population, instead of looking at the data.")] = None,
    public_catalog: PublicCatalog = None,
    json: Json = False,
) -> None:
    """Say what a configuration promises to whom, how much noise that takes, and what changing each knob would cost.

    Nothing is run. Without options it speaks of the embedded data.
    """
    from rich.console import Console

    from shared.config import RunConfig, parse_assignments
    from simulations.plan_display import print_plan
    from simulations.preparing import population_of
    from simulations.privacy_plan import explain

    given = {
        "data.path": data,
        "data.format": format,
        "data.order": order,
        "data.bad_rows": bad_rows,
        "federation.rounds": rounds,
        "federation.clients": clients,
        "privacy.epsilon": epsilon,
        "data.public_catalog": public_catalog,
    }
    overrides = {**parse_assignments(set_ or []), **{key: value for key, value in given.items() if value is not None}}
    settings = RunConfig.from_toml(config, overrides=overrides) if config else RunConfig.from_mapping(overrides)
    settings, num_users, num_clients, name, num_items = population_of(settings, users=users)
    explained = explain(settings, num_users=num_users, num_clients=num_clients, data_name=name, num_items=num_items)
    if json:
        _print_json(explained)
    else:
        print_plan(explained, Console())
    if reason := explained.get("refused"):
        print(f"tacit: {reason}", file=sys.stderr)  # noqa: T201
        raise SystemExit(explained["exit_status"])
    _leave_unless_kept(explained)
