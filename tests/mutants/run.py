"""Runs mutants: each patch on a copy of the repository, with the tests that must turn red.

    python -m tests.mutants.run                       all of them
    python -m tests.mutants.run --share 0.1           a tenth, drawn from the commit
    python -m tests.mutants.run --only noise          those with a word in their name or file
    python -m tests.mutants.run --after-tests         right after all tests have passed, as in `make test`

First the named tests run on unpatched copies and must pass, at least one for each mutant: a test that fails anyway would
notice every mutant, and one that is skipped none. (Where all tests have just passed, only the second is left to go wrong,
and such a mutant survives.) Then each mutant is patched into a copy, its tests run, and the copy is restored. The checkout
itself is only read. A mutant counts as noticed where a test itself failed: not where tests could not be collected or set up,
and not where the patch was mistyped.

Exit status 0: every mutant was noticed; 1: one was not, or could not be tried; 2: a patch no longer applies.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.mutant import TABLES, Mutant, StaleMutantError, patches_of, read_mutants
from tests.mutants.trial import Result, Trial, preload

ROOT = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True)
class Work:
    """What one child does: tests on a copy, patched or not."""

    mutant: Mutant | None
    tests: tuple[str, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the command line, runs, prints; returns the exit status."""
    options = _options(arguments)
    with tempfile.TemporaryDirectory(prefix="tacit-mutants-") as folder:
        try:
            mutants = read_mutants(options.tables)
            copy = _copied(options.root, Path(folder) / "copy-0")
            patches = patches_of(mutants, copy)  # of the copy: the checkout may change while this runs
        except StaleMutantError as error:
            print(error, file=sys.stderr)
            return 2
        chosen = _chosen(mutants, options)
        if not chosen:
            print("Expected at least one mutant, found none. Ask for others.", file=sys.stderr)
            return 2
        others = (Path(folder) / f"copy-{number}" for number in range(1, options.workers))
        copies = [copy, *(Path(shutil.copytree(copy, other)) for other in others)]
        if not options.quick:
            preload()
        if not options.after_tests and (wrong := _control(chosen, copies, options.timeout)) is not None:
            print(f"Expected the tests to pass without a patch, got: {wrong}. Mend that first.", file=sys.stderr)
            return 1
        return _tried(chosen, patches, copies, options.timeout)


def _chosen(mutants: Sequence[Mutant], options: argparse.Namespace) -> list[Mutant]:
    """Those that the command line asks for; says how a share was drawn."""
    chosen = [mutant for mutant in mutants if options.only in mutant.name or options.only in mutant.file]
    if options.share < 1.0 and chosen:
        seed = options.seed or _commit(options.root)
        chosen = drawn(chosen, share=options.share, seed=seed)
        print(f"==> {len(chosen)} of {len(mutants)} mutants, drawn with --share {options.share:g} --seed {seed}")
    return chosen


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants.run", description="Run tests on mutants of the program.")
    parser.add_argument("--share", type=float, default=1.0, help="Part of the mutants to run, drawn by the seed.")
    parser.add_argument("--seed", default="", help="What draws them; the commit by default.")
    parser.add_argument("--only", default="", help="Only mutants with this in their name or file.")
    parser.add_argument("--after-tests", action="store_true", help="All tests have just passed: leave out the control.")
    parser.add_argument("--workers", type=int, default=2, help="Copies that are worked on at once.")
    parser.add_argument("--timeout", type=float, default=300.0, help="Seconds for one mutant.")
    parser.add_argument("--root", type=Path, default=ROOT, help="The repository.")
    parser.add_argument("--tables", type=Path, default=TABLES, help="The folder of mutants.")
    parser.add_argument("--quick", action="store_true", help="Import no library beforehand; for tests of this program.")
    return parser.parse_args(arguments)


def drawn(mutants: Sequence[Mutant], *, share: float, seed: str) -> list[Mutant]:
    """A share of the mutants, at least one, the same for the same seed, in their order."""
    count = max(1, round(share * len(mutants)))
    return sorted(random.Random(seed).sample(mutants, min(count, len(mutants))), key=mutants.index)


def _commit(root: Path) -> str:
    """The commit, or today where there is none: some seed that the table names."""
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False)
    return done.stdout.strip()[:12] if done.returncode == 0 else time.strftime("%Y-%m-%d")


def _copied(root: Path, copy: Path) -> Path:
    """Every file that belongs to the repository, tracked or not yet."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(listing, cwd=root, capture_output=True, check=False)
    if done.returncode:
        hidden = shutil.ignore_patterns(".venv", ".git", "runs", "__pycache__", "*.egg-info", ".*_cache", ".hypothesis")
        shutil.copytree(root, copy, ignore=hidden)
        return copy
    for name in filter(None, os.fsdecode(done.stdout).split("\0")):
        if (root / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, copy / name)
    return copy


def _control(mutants: Sequence[Mutant], copies: Sequence[Path], timeout: float) -> str | None:
    """What is wrong with the tests as they are; None if they pass."""
    tests = sorted({test for mutant in mutants for test in mutant.tests})
    files = sorted({test.partition("::")[0] for test in tests})
    parts = [tuple(test for test in tests if test.partition("::")[0] in files[n :: len(copies)]) for n in range(len(copies))]
    print(f"==> {len(tests)} tests and test files without a patch")
    passed: set[str] = set()
    for _, result in _results([Work(None, part) for part in parts if part], {}, copies, timeout * 4):
        if result.status != "green":
            return f"{result.status} {result.test}".strip()
        passed.update(_with_names_above(result.passed))
    return next(
        (f"none that ran of {', '.join(mutant.tests)}" for mutant in mutants if passed.isdisjoint(mutant.tests)), None
    )


def _with_names_above(tests: Sequence[str]) -> Iterator[str]:
    """Each test as a table may name it: itself, it with any parameters, or its file."""
    for test in tests:
        yield from (test, test.partition("[")[0], test.partition("::")[0])


def _tried(mutants: Sequence[Mutant], patches: dict[str, str], copies: Sequence[Path], timeout: float) -> int:
    start = time.monotonic()
    print(f"==> {len(mutants)} mutants in {len(copies)} copies")
    found: dict[str, Result] = {}
    for work, result in _results([Work(mutant, mutant.tests) for mutant in mutants], patches, copies, timeout):
        assert work.mutant is not None
        found[work.mutant.name] = result
        if result.status != "red":
            print(f"    {'survived' if result.status == 'green' else result.status}: {work.mutant.name}", flush=True)
    rows = [_row(mutant, found[mutant.name]) for mutant in mutants]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]))
    noticed = sum(result.status == "red" for result in found.values())
    print(f"{noticed} of {len(mutants)} mutants noticed, in {time.monotonic() - start:.0f} seconds.")
    return 0 if noticed == len(mutants) else 1


def _row(mutant: Mutant, result: Result) -> tuple[str, str, str, str]:
    status = "SURVIVED" if result.status == "green" else result.status
    by = result.test.partition("::")[2] or ", ".join(mutant.tests)
    return status, mutant.file, mutant.name, f"{by}  ({result.seconds:.0f} s)"


def _results(
    works: Sequence[Work], patches: dict[str, str], copies: Sequence[Path], timeout: float
) -> Iterator[tuple[Work, Result]]:
    """Each work and what came of it, as they end; never more at once than there are copies."""
    waiting, free, running = list(works), list(copies), dict[Path, tuple[Work, Trial]]()
    number = 0
    try:
        while waiting or running:
            while waiting and free:
                work, copy, number = waiting.pop(0), free.pop(), number + 1
                if work.mutant is not None:
                    _write(copy / work.mutant.file, patches[work.mutant.name], age=number)
                log = copy.parent / f"{copy.name}-{number}.log"
                stops = work.mutant is not None
                running[copy] = work, Trial(copy, work.tests, stops=stops, log=log, timeout_seconds=timeout)
            time.sleep(0.05)
            for copy, (work, trial) in list(running.items()):
                if (result := trial.result()) is not None:
                    del running[copy]
                    free.append(copy)
                    if work.mutant is not None:
                        _restore(copy / work.mutant.file)
                    yield work, result
    finally:
        for _, trial in running.values():
            trial.end()


def _write(path: Path, text: str, *, age: int) -> None:
    """Writes a patched text, the clean one beside it. Bytecode is known by time and size, so no two share a time."""
    path.rename(path.with_name(path.name + ".clean"))
    path.write_text(text, encoding="utf-8")
    os.utime(path, (1e9 + age, 1e9 + age))


def _restore(path: Path) -> None:
    path.with_name(path.name + ".clean").replace(path)


if __name__ == "__main__":
    sys.exit(main())
