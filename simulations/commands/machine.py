"""`tacit doctor`, `bench` and `config`: the machine, and every setting."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from shared.command_line.output import Json, print_json
from simulations.commands.options import Assignments, ConfigFile, Data


def doctor(
    backbone: Annotated[
        str | None, typer.Option(help="Inspect a backbone: family, memory estimate, causality and gradient checks.")
    ] = None,
    json: Json = False,
) -> None:
    """Check versions, device, weights and disk, and say how to mend what is missing."""
    from rich.console import Console

    from simulations.display import print_doctor
    from simulations.doctor import examine

    checks = examine(backbone)
    if json:
        print_json({"checks": checks})
    else:
        print_doctor(checks, Console())
    if any(check["ok"] is False for check in checks):
        raise SystemExit(1)


def bench(
    only: Annotated[
        str | None, typer.Option(metavar="NAME[,NAME]", help="Run only these benchmarks. An unknown name prints the list.")
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

    from simulations.benchmarks.runner import run_benchmarks
    from simulations.benchmarks.suite import choose
    from simulations.benchmarks.table import print_table

    chosen = choose(only, everything=everything)
    record = run_benchmarks(chosen, Console(stderr=True), repeats=repeats, threads=threads, data=data)
    if json:
        print_json(record)
    else:
        print_table(record, Console())
    if record["interrupted"]:
        print("tacit: Interrupted. What was measured before it is printed.", file=sys.stderr)  # noqa: T201
        raise SystemExit(130)
    if record["crashed"]:
        raise SystemExit(1)


def show_config(config: ConfigFile = None, set_: Assignments = None, json: Json = False) -> None:
    """Print every setting with its value and meaning."""
    from shared.config import RunConfig, parse_assignments

    overrides = parse_assignments(set_ or [])
    settings = RunConfig.from_toml(config, overrides=overrides) if config else RunConfig.from_mapping(overrides)
    if json:
        print_json({key: str(value) if value == float("inf") else value for key, value in settings.to_flat().items()})
        return
    import tomli_w

    for section, values in settings.model_dump().items():
        print(f"[{section}]")  # noqa: T201
        fields = type(getattr(settings, section)).model_fields
        for key, value in values.items():
            print(f"{tomli_w.dumps({key: value}).strip():<44} # {fields[key].description}")  # noqa: T201
        print()  # noqa: T201
