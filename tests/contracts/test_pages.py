"""The pages for people: their commands run, their links lead somewhere, and README.md stays short.

Every `tacit` command of every page runs on small data, in this process and in a folder beside the repository that has its
files and the files that the pages name (`path/to/ml-100k`, `runs/NAME`, `run.toml`). Other commands run in a shell. `make`
targets are left out, and so are the blocks below a line `<!-- not tested: REASON -->`. Blocks below `<!-- slow -->` run
with the soak tests.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

import simulations.datasets
from simulations.worlds.domains import DOMAINS
from tests import running

ROOT = running.ROOT
PAGES = (
    *("README.md", "SECURITY.md", "CONTRIBUTING.md", "client/README.md", "server/README.md", "shared/README.md"),
    *("simulations/README.md", "simulations/benchmarks/README.md"),
)
LONGEST_README = 120
NOT_TESTED, SLOW = re.compile(r"<!-- not tested: .+ -->"), "<!-- slow -->"
INTERRUPTED = "runs/20260101-120000-ml-100k"


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str
    tested: bool = True
    slow: bool = False

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    def commands(self) -> list[str]:
        """Its commands, without comments, continued lines joined; of a `console` block the lines behind the prompt."""
        text = self.text.replace("\\\n", " ")
        lines = [line.strip() for line in text.splitlines()]
        if self.language == "console":
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        return [line for line in lines if line and not line.startswith(("#", "make "))]


def blocks(page: str) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    start = None
    for number, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if start is None:
            start = number
            continue
        before = next((above for above in reversed(lines[:start]) if above.strip()), "")
        text = "\n".join(lines[start + 1 : number])
        yield Block(page, start + 1, lines[start][3:].strip(), text, not NOT_TESTED.match(before), before == SLOW)
        start = None
    assert start is None, f"{page}: the block of line {start} has no end"


ALL_BLOCKS = [block for page in PAGES for block in blocks(page)]
SHELL = [
    pytest.param(block, marks=[pytest.mark.soak] if block.slow else [], id=str(block))
    for block in ALL_BLOCKS
    if block.language in {"bash", "console"} and block.tested and block.commands()
]
PYTHON = [block for block in ALL_BLOCKS if block.language == "python" and block.tested]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_bert: str) -> Path:
    """A folder with the repository's files and what the pages name."""
    place = tmp_path_factory.mktemp("pages")
    for name in ("client", "server", "shared", "simulations", "tests", "tacit.py", "pyproject.toml"):
        (place / name).symlink_to(ROOT / name)
    _movielens(place / "path" / "to" / "ml-100k", users=60)
    _movielens(place / "path" / "to" / "ml-100k-grown", users=66)
    (place / "FOLDER").symlink_to(place / "path" / "to" / "ml-100k")
    text = running.write_interactions(place / "interactions.csv", users=60).read_text("utf-8")
    (place / "log.csv").write_text(text.replace("user,item,", "uid,asin,", 1), encoding="utf-8")
    (place / "history.txt").write_text("i001\ni014\n", encoding="utf-8")
    (place / "new-items.csv").write_text("item,text\nnew-1,silk scarf for winter walks\n", encoding="utf-8")
    (run_toml,) = [block for block in blocks("shared/README.md") if block.language == "toml"]
    (place / "run.toml").write_text(run_toml.text, encoding="utf-8")
    _interrupted_run(place, tiny_bert)
    return place


@pytest.fixture
def small_worlds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded data and those of the scenarios with 240 users, so that a run takes seconds."""
    small = {name: replace(domain, num_users=240) for name, domain in DOMAINS.items()}
    monkeypatch.setattr(simulations.datasets, "DOMAINS", small)


@pytest.fixture
def finished(place: Path, small_worlds: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """The same folder with a finished run on the embedded data, `runs/NAME`; the working directory."""
    monkeypatch.chdir(place)
    if not Path("runs/NAME").exists():
        outcome = running.run_tacit(capsys, "simulate", "--out", "runs/NAME", "--quiet")
        assert outcome.status == 0, outcome.stderr
    return place


@pytest.mark.parametrize("block", SHELL)
def test_every_command_of_a_page_ends_with_status_zero(
    block: Block, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in block.commands():
        words = shlex.split(command, comments=True)
        if words[0] == "tacit" and not {"|", "&&", ";", ">"} & set(words):
            outcome = running.run_tacit(capsys, *words[1:])
            assert outcome.status == 0, f"{block}: {command}\n{outcome.stdout[-2000:]}{outcome.stderr[-2000:]}"
        else:
            path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", command],
                cwd=finished, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=300,
            )  # fmt: skip
            assert done.returncode == 0, f"{block}: {command}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_code_of_a_page_runs(block: Block, finished: Path) -> None:
    import tacit

    names = set(re.findall(r"\btacit\.(\w+)", block.text))
    if missing := sorted(name for name in names if not hasattr(tacit, name)):
        pytest.skip(f"the Python interface has no {', '.join(missing)} yet")
    exec(compile(block.text, str(block), "exec"), {})


def test_the_first_page_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= LONGEST_README


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_leads_to_a_file_and_a_heading(page: str) -> None:
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    links = re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", text)
    assert links
    wrong = []
    for link in links:
        if link.startswith(("https://", "http://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            wrong.append(link)
    assert not wrong


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_names_in_code_is_there(page: str) -> None:
    """`folder/file.py` from the root of the repository, or from the page's own folder."""
    text = (ROOT / page).read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w./-]+/[\w.-]+\.(?:py|toml|md))`", text)) | set(re.findall(r"`([\w]+\.py)`", text))
    own = (ROOT / page).parent
    wrong = {name for name in named if not any((folder / name).exists() for folder in (ROOT, own))}
    if page == "CONTRIBUTING.md":  # its tables name files beside the folder of their row
        wrong -= {name for name in wrong if any(ROOT.glob(f"[!.]*/**/{name}"))}
    assert not wrong


def test_a_command_that_fails_and_a_link_to_nowhere_are_noticed(tmp_path: Path, finished: Path) -> None:
    """The negative control: what the tests above look for is found."""
    broken = Block("page", 1, "console", "$ tacit simulate --no-such-option\nan output")
    assert broken.commands() == ["tacit simulate --no-such-option"]
    page = tmp_path / "page.md"
    page.write_text("# One Thing, `and` another\n## `tacit simulate`\n", encoding="utf-8")
    assert _anchors(page) == {"one-thing-and-another", "tacit-simulate"}
    assert Block("page", 1, "bash", "make demo\n# a comment\ntacit a \\\n  b").commands() == ["tacit a    b"]


def _anchors(page: Path) -> set[str]:
    """The headings of a page as links name them: lower case, blanks as hyphens, no other marks."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def _movielens(folder: Path, *, users: int) -> None:
    """A folder with the layout of MovieLens-100K: 40 films, the first users the same whatever their number."""
    folder.mkdir(parents=True)
    rows = []
    for user in range(users):
        rng = np.random.default_rng(user)
        moment = 874_724_710 + int(rng.integers(0, 10**6))
        for film in rng.choice(40, size=int(rng.integers(6, 12)), replace=False):
            moment += int(rng.integers(60, 90_000))
            rows.append(f"{user + 1}\t{film + 1}\t{rng.integers(1, 6)}\t{moment}")
    (folder / "u.data").write_text("\n".join(rows) + "\n", encoding="utf-8")
    flags = "|".join("1" if genre == 5 else "0" for genre in range(19))
    films = [f"{film}|Film {film} ({1950 + film})|01-Jan-{1950 + film}||http://x|{flags}" for film in range(1, 41)]
    (folder / "u.item").write_text("\n".join(films) + "\n", encoding="latin-1")


def _interrupted_run(place: Path, backbone: str) -> None:
    """A run that got SIGINT after its first round, for `--resume`."""
    out = place / INTERRUPTED
    settings = running.flags(backbone, federation__rounds=16)
    arguments = ("simulate", "--data", place / "interactions.csv", "--out", out, "--quiet", *settings)
    process = subprocess.Popen(running.command(*arguments), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    events = out / "events.jsonl"
    while process.poll() is None and time.monotonic() < deadline:
        if events.exists() and '"event": "round"' in events.read_text(encoding="utf-8"):
            process.send_signal(signal.SIGINT)
            break
        time.sleep(0.05)
    try:
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, stderr
