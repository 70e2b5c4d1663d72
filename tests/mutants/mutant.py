"""Mutants: small patches to lines on which privacy rests, each with the tests that must turn red.

What lives here: reading the tables beside this file and applying one patch to a text. A mutant is found by its exact old
text, which must occur once: where a line was rewritten, its mutants have to be thought over, so a patch that no longer
applies is an error and no pass. What never lives here: running tests (`trial.py`, `run.py`).
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

TABLES = Path(__file__).parent


class StaleMutantError(Exception):
    """A mutant that says nothing about the code as it is."""


@dataclass(frozen=True)
class Mutant:
    """One patch.

    Attributes:
        name: What is wrong in the patched program.
        file: The patched file, relative to the repository.
        old: Text that occurs exactly once in it.
        new: What replaces it.
        tests: Test files, or single tests of them (`file::test`), of which at least one must fail.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def patched(self, root: Path) -> str:
        """The patched text of the file.

        Raises:
            StaleMutantError: If the patch does not apply, gives no Python, or a test is gone.
        """
        path = root / self.file
        if not path.is_file():
            raise self._stale(f"{self.file} to exist", "none", "Move it to the new file")
        text = path.read_text(encoding="utf-8")
        if (times := text.count(self.old)) != 1:
            raise self._stale(f"its old text once in {self.file}", f"it {times} times", "Adapt it to the code")
        patched = text.replace(self.old, self.new)
        if patched == text:
            raise self._stale(f"a patch that changes {self.file}", "none", "Mend it")
        try:
            compile(patched, self.file, "exec")
        except SyntaxError:
            raise self._stale(f"Python in {self.file} after the patch", "none", "Mend it") from None
        self._check_tests(root)
        return patched

    def _check_tests(self, root: Path) -> None:
        for test in self.tests:
            file, _, name = test.partition("::")
            source = (root / file).read_text(encoding="utf-8") if (root / file).is_file() else ""
            if not source or f"def {name}" not in source:
                raise self._stale(f"{test} to exist", "none", "Name the test that must fail, without parameters")

    def _stale(self, expected: str, found: str, advice: str) -> StaleMutantError:
        return StaleMutantError(f"Mutant '{self.name}': Expected {expected}, found {found}. {advice}.")


def read_mutants(folder: Path = TABLES) -> list[Mutant]:
    """All mutants of the tables in a folder, in the order of files and lines.

    Raises:
        StaleMutantError: If a table lacks a field, or two mutants have one name.
    """
    found: dict[str, Mutant] = {}
    for path in sorted(folder.glob("*.toml")):
        for name, fields in tomllib.loads(path.read_text(encoding="utf-8")).items():
            if name in found:
                raise StaleMutantError(f"Mutant '{name}': Expected a name of its own, found it twice. Rename one.")
            try:
                found[name] = Mutant(name, fields["file"], fields["old"], fields["new"], tuple(fields["tests"]))
            except KeyError as error:
                reason = f"Mutant '{name}': Expected the field {error} in {path.name}, found none. Add it."
                raise StaleMutantError(reason) from None
    return list(found.values())


def patches_of(mutants: Sequence[Mutant], root: Path) -> dict[str, str]:
    """The patched text of each mutant's file, by the mutant's name.

    Raises:
        StaleMutantError: If some do not apply; names all of them.
    """
    patches: dict[str, str] = {}
    stale: list[str] = []
    for mutant in mutants:
        try:
            patches[mutant.name] = mutant.patched(root)
        except StaleMutantError as error:
            stale.append(str(error))
    if stale:
        raise StaleMutantError("\n".join(stale))
    return patches
