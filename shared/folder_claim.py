"""A folder has one writer at a time: each process claims its output folder before any long work.

Here lives the claim: a lock on a hidden file in the folder, which the system releases when the process ends,
however it ends. So a folder that is being written can be told from one that a dead process left behind.
Never here: what belongs into a folder, or which contents are refused; callers hand in that check.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from shared.errors import ConfigError
from shared.files import require_unicode

CLAIM = ".claim"

# Folders of this process, so that the server app may write where the simulation that started it does.
_claimed: set[Path] = set()

# File systems without locks. There a claim still keeps new runs apart, but not a resumed run from a live one.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


@contextlib.contextmanager
def claimed(folder: Path, check: Callable[[Path], object]) -> Iterator[None]:
    """Holds a folder against every other process; the folder is made where it is missing.

    Args:
        folder: Where this process is going to write. A folder that this process holds already may be claimed again.
        check: Raises if the folder must not be written. Called before the claim, so that a refusal touches
            nothing, and again under it, so that no other process can come between.

    Raises:
        ConfigError: If another process holds the folder, or a file is in its place.
        OSError: If the folder cannot be made or written.
    """
    place = folder.resolve()
    require_unicode("a folder to write", str(place))
    check(folder)
    if place in _claimed:
        yield
        return
    made = _make(place)
    try:
        lock = _lock(place)
        _claimed.add(place)
        try:
            check(folder)
            yield
        finally:
            _claimed.discard(place)
            _release(place, lock)
    finally:
        for path in made:  # only while they are empty
            with contextlib.suppress(OSError):
                path.rmdir()


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Makes a folder that no other process has: `folder`, or the first of `folder-2`, `folder-3`, ... that is free.

    Yields:
        The folder; it is removed again if nothing was written into it.
    """
    made = _make(folder.absolute().parent)
    for number in itertools.count(1):
        candidate = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        try:
            candidate.mkdir()
            break
        except FileExistsError:
            continue
    try:
        yield candidate
    finally:
        for path in (candidate, *made):
            with contextlib.suppress(OSError):
                path.rmdir()


def is_claimed(folder: Path) -> bool:
    """Whether a process holds a folder, this one included.

    On a file system without locks a claim that a dead process left counts as held.
    """
    try:
        descriptor = os.open(folder / CLAIM, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)  # which releases the lock
    return False


def contents(folder: Path) -> list[Path]:
    """What a folder holds beside the claim on it; nothing where there is no such folder."""
    return [path for path in folder.iterdir() if path.name != CLAIM] if folder.is_dir() else []


def publish(prepared: Path, folder: Path) -> None:
    """Puts a finished folder in the place of an empty one, at once.

    Args:
        prepared: A folder on the same file system, written completely.
        folder: An empty or missing folder, claimed by this process or by none.

    Raises:
        ConfigError: If something was written there meanwhile; it is left as it is.
    """
    (folder / CLAIM).unlink(missing_ok=True)
    try:
        prepared.replace(folder.resolve())
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        raise ConfigError(
            f"Expected a new or empty folder at {folder}, found files that were written meanwhile. Name another folder."
        ) from None


def _make(folder: Path) -> list[Path]:
    """Makes a folder with its parents; returns those that were missing, the innermost first."""
    missing = list(itertools.takewhile(lambda path: not path.exists(), (folder, *folder.parents)))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ConfigError(f"Expected a folder at {folder}, found a file in its way. Name another folder.") from None
    return missing


def _lock(folder: Path) -> int:
    """Opens and locks the claim's file; the descriptor holds the lock."""
    path = folder / CLAIM
    while True:
        created = not path.exists()
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:  # another process made the folder, found nothing to do and removed it
            folder.mkdir(parents=True, exist_ok=True)
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _NO_LOCKS or not created:
                os.close(descriptor)
                raise _in_use(folder) from None
        if _is_open_as(path, descriptor):
            return descriptor
        os.close(descriptor)  # its owner removed it between our opening and our lock


def _release(folder: Path, descriptor: int) -> None:
    path = folder / CLAIM
    if _is_open_as(path, descriptor):
        path.unlink(missing_ok=True)
    os.close(descriptor)


def _is_open_as(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _in_use(folder: Path) -> ConfigError:
    return ConfigError(
        f"Expected a folder that no other process writes, found one at work in {folder.name}/. Wait until it has ended, "
        "or name another folder."
    )
