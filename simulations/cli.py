"""The command line `tacit`: mounts the commands, and turns errors into one line and an exit status.

Lives here: what holds for every command. Never here: a command (`commands/`).

Nothing heavy is imported at the top, so that `tacit --help` answers at once. With `--json` a command prints
JSON alone on stdout, errors included; everything for people goes to stderr then. Exit status: 0 done, 1
failed, 2 bad input, 3 done, but the protection that was asked for is not given, 130 interrupted.
"""

from __future__ import annotations

import json as jsonlib
import os
import sys
from typing import Annotated

import click
import typer

from client.cli import app as node_app
from server.cli import app as server_app
from shared.command_line.environment import prepare_environment
from shared.command_line.interruption import INTERRUPTED, signals_interrupt
from shared.command_line.output import print_json
from shared.command_line.streams import lasting_output
from shared.errors import TacitError
from shared.files import require_unicode
from simulations.commands import audit, data, machine, privacy, results, runs
from simulations.commands.options import Interrupted

app = typer.Typer(
    name="tacit",
    help="A federated, privacy-preserving recommender: run one, read its report, ask for items.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    suggest_commands=False,  # click suggests already
)
for command in (
    *(runs.simulate, runs.frontier, runs.compare),
    *(results.report, results.schema, results.recommend, results.export),
    *(machine.doctor, machine.bench),
):
    app.command()(command)
app.command("config")(machine.show_config)
app.add_typer(data.app, name="data")
app.add_typer(privacy.app, name="privacy")
app.add_typer(audit.app, name="audit")
app.add_typer(node_app, name="node")
app.add_typer(server_app, name="server")


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
        except Interrupted as error:
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
    return named.startswith(
        (
            *(
                "simulate",
                "frontier",
                "report",
                "export",
                "audit run",
                "audit report",
                "data convert",
                "data partition",
                "node request",
                "node install",
            ),
            *("server init", "server approve", "server renew", "server revoke"),
        )
    )


def _fail(message: str, status: int, as_json: bool) -> int:
    message = " ".join(message.split())
    if as_json:
        print(jsonlib.dumps({"error": message, "exit_status": status}))  # noqa: T201
    print(f"tacit: {message}", file=sys.stderr)  # noqa: T201
    return status


def _print_version(asked: bool) -> None:
    if not asked:
        return
    from importlib.metadata import version

    if "--json" in sys.argv[1:]:
        from shared.versions import code_digest

        print_json({"version": version("tacit"), "code_digest": code_digest()})
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
