"""Import direction, who imports which library, no private Flower, no `assert`: from the syntax tree."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PACKAGES = ("shared", "client", "server", "simulations", "tests")

# Who must not import whom. Nobody imports the tests.
FORBIDDEN = {
    "shared": {"client", "server", "simulations", "tests"},
    "client": {"server", "simulations", "tests"},
    "server": {"client", "simulations", "tests"},
    "simulations": {"tests"},
}

# Library -> the files that may import it, as the beginning of a path.
ALLOWED = {
    "peft": ("shared/model/adapter.py",),
    "opacus": ("client/training/optimizer.py", "client/training/gradients.py", "shared/privacy/accounting.py"),
    "dp_accounting": ("shared/privacy/accounting.py", "shared/privacy/loss_distribution.py", "shared/privacy/renyi.py"),
    "flwr": (
        *("client/app.py", "client/answering.py", "client/batch.py", "client/session.py", "server/", "shared/protocol/"),
        *(f"client/node/{name}.py" for name in ("answers", "guard", "received", "runtime", "supernode", "worker")),
        "simulations/engines/",
    ),
    "typer": (
        *("simulations/cli.py", "simulations/commands/", "client/cli.py", "client/commands/", "server/cli.py"),
        *("server/commands/", "shared/command_line/output.py"),
    ),
}

# Packages without import circles among their files.
WITHOUT_CIRCLES = ("simulations", "client", "server", "shared")

# Packages that Flower documents for users; every other one is private.
PUBLIC_FLOWER = {"flwr.app", "flwr.clientapp", "flwr.serverapp", "flwr.simulation"}


def _files(*packages: str) -> list[Path]:
    found = [path for package in packages for path in sorted((ROOT / package).rglob("*.py"))]
    assert found
    return found


def _modules(tree: ast.AST) -> Iterator[str]:
    """Every module that is imported, at any depth of the code and in any form."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in {
            "importlib.import_module",
            "__import__",
        }:
            yield from (argument.value for argument in node.args if isinstance(argument, ast.Constant))


def _tops(source: str) -> set[str]:
    return {module.split(".")[0] for module in _modules(ast.parse(source))}


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("package", FORBIDDEN)
def test_a_package_imports_in_the_allowed_direction_only(package: str) -> None:
    wrong = {_name(path): bad for path in _files(package) if (bad := _tops(path.read_text("utf-8")) & FORBIDDEN[package])}
    assert not wrong


@pytest.mark.parametrize("library", ALLOWED)
def test_a_library_is_imported_in_its_own_place_only(library: str) -> None:
    importers = [_name(path) for path in _files(*FORBIDDEN) if library in _tops(path.read_text("utf-8"))]
    assert importers, f"nobody imports {library}; take it off the list"
    wrong = [
        name
        for name in importers
        if not name.startswith(ALLOWED[library]) and not name.startswith("simulations/benchmarks/")
    ]
    assert not wrong


@pytest.mark.parametrize("package", WITHOUT_CIRCLES)
def test_no_files_of_a_package_import_each_other_in_a_circle(package: str) -> None:
    """At any depth of the code: an import inside a function, or for types alone, hides a circle and does not break it."""
    known = {_module(path) for path in _files(package)}
    assert not _circles({_module(path): _imports(path.read_text("utf-8"), known) for path in _files(package)})


def _imports(source: str, known: set[str]) -> set[str]:
    """What a file imports of a package: of `from a import b` the file a/b.py where there is one, else a."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (parts & known) | ({str(node.module)} if parts - known else set())
    return found & known


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _circles(imports: dict[str, set[str]]) -> list[set[str]]:
    """Sets of modules each of which reaches itself over the others."""
    reached = {module: found & imports.keys() - {module} for module, found in imports.items()}
    for middle in reached:
        for found in reached.values():
            if middle in found:
                found |= reached[middle]
    circles = [frozenset(other for other in reached[one] if one in reached[other]) for one in reached if one in reached[one]]
    return [set(circle) for circle in dict.fromkeys(circles)]


def test_a_circle_over_several_files_is_seen() -> None:
    """The negative control: what the test above looks for is found."""
    assert _circles({"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": {"e"}, "e": {"numpy"}}) == [{"a", "b", "c"}]
    assert not _circles({"a": {"b", "c"}, "b": {"c"}, "c": {"c"}})


def test_private_names_of_flower_are_used_in_these_modules_alone() -> None:
    users = set()
    for path in _files(*FORBIDDEN):
        if _name(path).startswith("simulations/benchmarks/"):  # they measure Flower's own internals
            continue
        tree = ast.parse(path.read_text("utf-8"))
        modules = [module for module in _modules(tree) if module.startswith("flwr")]
        private = [module for module in modules if module != "flwr" and ".".join(module.split(".")[:2]) not in PUBLIC_FLOWER]
        attributes = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
        if private or "_message_id" in attributes:
            users.add(_name(path))
    assert users == {
        *("simulations/engines/local_grid.py", "server/polling.py", "server/superlink_process.py"),
        *("client/node/runtime.py", "client/node/supernode.py"),
    }


def test_the_product_checks_input_with_errors_and_never_with_assert() -> None:
    asserting = [
        f"{_name(path)}:{node.lineno}"
        for path in _files(*FORBIDDEN)
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Assert)
    ]
    assert not asserting


def test_no_test_mocks() -> None:
    wrong = [_name(path) for path in _files("tests") if "unittest" in _tops(path.read_text("utf-8"))]
    assert not wrong


@pytest.mark.parametrize(
    "source",
    [
        "import server",
        "from server import rounds",
        "def f():\n    import server.app as a",
        "__import__('server')",
    ],
)
def test_every_form_of_import_is_seen(source: str) -> None:
    """The negative control: what the tests above look for is found."""
    assert _tops(source) == {"server"}


MOST_LINES = 400


def _code_lines(path: Path) -> int:
    """Lines of code: without blank lines, comments and docstrings."""
    source = path.read_text("utf-8")
    documented = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node):
            documented |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    lines = enumerate(source.splitlines(), start=1)
    return sum(1 for number, line in lines if number not in documented and line.strip() and not line.strip().startswith("#"))


def test_no_file_has_more_than_400_lines_of_code() -> None:
    assert not {_name(path): count for path in _files(*FORBIDDEN) if (count := _code_lines(path)) > MOST_LINES}


def test_only_a_contribution_says_that_a_vector_is_bounded() -> None:
    """By clipping it: who else could say so would have to be believed."""
    makers = {
        _name(path)
        for path in _files(*FORBIDDEN)
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "Bounded"
    }
    assert makers == {"client/contribution.py"}


def _reads_text(source: str) -> bool:
    """Whether a file decodes, unpacks or reads text by itself."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    names = {ast.unparse(call.func).split(".")[-1] for call in calls}
    modes = [[part.value for part in call.args if isinstance(part, ast.Constant)] for call in calls if _opens(call)]
    unpacks = {"gzip.open", "gzip.decompress"} & {ast.unparse(call.func) for call in calls}
    return bool(
        names & {"read_text", "TextIOWrapper", "getincrementaldecoder"} or unpacks or any(mode != ["rb"] for mode in modes)
    )


def _opens(call: ast.Call) -> bool:
    """Whether it opens a file to read it; a name of this project's own (`Catalog.open`) begins with a capital letter."""
    name = ast.unparse(call.func)
    written = any(isinstance(part, ast.Constant) and part.value in ("wb", "r+b", "ab+") for part in call.args)
    return name.split(".")[-1] == "open" and not name[0].isupper() and not written


def test_data_files_of_text_are_opened_in_one_place() -> None:
    """Byte-order marks, packed files, line ends and encodings are then the same for every format."""
    small = "shared/data/readers/tables.py"  # `read_json`, a whole object that a library wrote
    found = {_name(path) for path in _files("shared/data") if _reads_text(path.read_text("utf-8"))}
    assert found == {"shared/data/readers/opening.py", small}


@pytest.mark.parametrize("source", ["p.read_text()", "open(p)", "p.open()", "p.open('r')", "gzip.open(p, 'rb')"])
def test_every_way_to_read_text_is_seen(source: str) -> None:
    """The negative control: what the test above looks for is found."""
    assert _reads_text(source) and not _reads_text("p.open('rb'), p.open('wb')")


def test_a_mechanism_is_asked_and_not_compared_by_name() -> None:
    names = {"dp-sgd", "dp-ftrl-silo", "central", "dp-ftrl-central", "distributed"}
    comparing = [
        f"{_name(path)}:{node.lineno}"
        for path in _files(*FORBIDDEN)
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Compare)
        and any(
            isinstance(part, ast.Constant) and part.value in names for side in node.comparators for part in ast.walk(side)
        )
    ]
    assert not comparing


def test_a_device_loads_no_reader_of_other_formats_no_world_and_no_simulation() -> None:
    """What a client app imports, in a process of its own, down to the answers to every kind of request."""
    code = (
        "import sys, client.app, client.statistics.question, client.training.dp_sgd, client.serving, client.store.local\n"
        "import client.store.settings\nprint('\\n'.join(sorted(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=ROOT, check=True
    )
    loaded = done.stdout.split()
    assert "shared.privacy.plan" in loaded
    assert not [name for name in loaded if name.startswith(("server", "simulations", "shared.data.readers"))]
