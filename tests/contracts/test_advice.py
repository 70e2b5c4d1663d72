"""What an error advises exists: each option that a message names is one of the command that it names, or of some command."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import typer.main

from simulations.cli import app

ROOT = Path(__file__).parent.parent.parent
PACKAGES = ("shared", "client", "server", "simulations")
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
_COMMAND = re.compile(r"tacit((?: [a-z][a-z-]*)+)([^`]*)")
# Commands of others, whose options stand in advice too.
_OTHERS = re.compile(r"(?:flwr|ray|pip|git) [^`]*|--run-config|--federation-config")

# Programs with options of their own, one that calls a browser, and names of style, which begin as options do.
_WITH_OPTIONS_OF_OTHERS = (
    "simulations/benchmarks/",
    "simulations/bench",
    "simulations/audits/printing.py",
    "server/reporting/style.py",
)


def _commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], set[str]]]:
    """Every command with its options."""
    yield path, {option for one in command.params for option in (*one.opts, *one.secondary_opts)} | {"--help"}
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from _commands(inner, (*path, name))


COMMANDS = dict(_commands(typer.main.get_command(app)))
OPTIONS = set().union(*COMMANDS.values())


def _messages(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of every string of more than one word, what is filled in left out; no docstring, no help."""
    tree = ast.parse(source)
    left_out: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            left_out.add(id(node.value))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
            (".Option", ".Argument", ".Typer", "add_argument")
        ):
            left_out.update(id(inner) for inner in ast.walk(node))
        if isinstance(node, ast.JoinedStr):
            left_out.update(id(inner) for inner in ast.walk(node) if inner is not node)
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "VALUE" for part in node.values)
            yield node.lineno, text
        elif (
            isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in left_out and " " in node.value
        ):
            yield node.lineno, node.value


def _wrong(text: str) -> list[str]:
    """The options of a text that its command, or no command, has; and the commands that there are not."""
    found = []
    text = _OTHERS.sub("", text)
    for words, rest in _COMMAND.findall(text):
        path = tuple(words.split())
        while path and path not in COMMANDS:
            path = path[:-1]
        if not path:
            continue  # "tacit" as a word
        found += [f"tacit {' '.join(path)} {option}" for option in _OPTION.findall(rest) if option not in COMMANDS[path]]
    return found + [option for option in _OPTION.findall(text) if option not in OPTIONS]


def test_every_option_that_a_message_names_exists() -> None:
    wrong = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            others = (
                "simulations/benchmarks/",
                "simulations/bench",
                "server/reporting/style.py",
                "simulations/audits/printing.py",
            )
            if name.startswith(others):
                continue
            wrong += [
                f"{name}:{line}: {one}" for line, text in _messages(path.read_text(encoding="utf-8")) for one in _wrong(text)
            ]
    assert not wrong


def test_an_option_that_does_not_exist_is_seen() -> None:
    """The negative control."""
    assert _wrong("Name a limit, e.g. --epsilonn 8.") == ["--epsilonn"]
    assert _wrong("continue it with `tacit data partition --resume FOLDER`") == ["tacit data partition --resume"]
    assert not _wrong("continue it with `tacit simulate --resume FOLDER`, or choose another --out.")
    assert not _wrong("Start it with `ray start --head`.")
    assert [text for _, text in _messages('raise E(f"{a}. Take --away" + " it or --this")')] == [
        "VALUE. Take --away",
        " it or --this",
    ]


def test_a_refusal_to_write_advises_what_its_command_has() -> None:
    """Three commands refuse a folder that is in use with one sentence, and each has other options."""
    advice = {
        ("simulate",): "simulations/simulate.py",
        ("data", "partition"): "simulations/preparing.py",
        ("export",): "server/export.py",
    }
    for command, name in advice.items():
        tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))
        calls = [
            node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("check_unused")
        ]
        said = {option for call in calls for option in _OPTION.findall(ast.unparse(call))}
        assert said <= COMMANDS[command], command
