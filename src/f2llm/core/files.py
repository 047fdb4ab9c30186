"""Files that are either whole or absent: atomic writes, digests, manifests.

Every write goes to a neighbour of the target, is flushed to the disk, and is renamed over it, so a killed process
leaves the old content or the new, never a half. Digests are SHA-256 in hex.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from f2llm.core.errors import DataError, StorageError

_REFUSALS = frozenset({errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST})

_SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")  # what NumPy makes of a full disk, without its number


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary neighbour of `path` to write to; rename it over `path` when the block ends without an error."""
    target = Path(path)
    with explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with explained(target):
            yield temporary
            sync(temporary)
            os.replace(temporary, target)
            sync(target.parent)
    finally:
        if temporary.exists():
            temporary.unlink()


@contextmanager
def explained(target: Path) -> Iterator[None]:
    """Turn the operating system's refusals to write into one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT) or _SHORT_WRITE.fullmatch(str(error)):
            raise StorageError(
                f"no space left while writing {target}; free some space and run the command again"
            ) from error
        if error.errno in _REFUSALS:
            raise StorageError(f"cannot write {target}: {error.strerror}; choose another --out") from error
        raise


def sync(path: Path) -> None:
    """Flush a file or a directory entry to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path | str, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any, *, indent: int | None = 2) -> None:
    """Write JSON atomically; keys keep their order, non-ASCII stays readable."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=indent) + "\n")


def read_json(path: Path | str) -> Any:
    """Read a JSON file; a missing or broken one is a DataError that names it."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not valid JSON ({error}); delete it and run the step again") from None


def digest_file(path: Path | str) -> str:
    """SHA-256 of a file's bytes."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def digest_json(value: Any) -> str:
    """SHA-256 of a JSON value in canonical form (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def digest_tree(root: Path, *, skip: Callable[[Path], bool] = lambda _: False) -> str:
    """SHA-256 over the relative names and digests of all files below `root` (or of the single file `root`)."""
    if root.is_file():
        return digest_file(root)
    files = sorted(p for p in root.rglob("*") if p.is_file() and not skip(p.relative_to(root)))
    return digest_json([[p.relative_to(root).as_posix(), digest_file(p)] for p in files])


def replace_directory(temporary: Path, target: Path) -> None:
    """Put a finished directory in the place of `target`, which may exist."""
    with explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        for path in sorted(temporary.rglob("*")):
            if path.is_file() or path.is_dir():
                sync(path)
        sync(temporary)
        if target.exists():
            doomed = target.with_name(f".{target.name}.{os.getpid()}.old")
            shutil.rmtree(doomed, ignore_errors=True)  # of a process that had the same number and was killed here
            os.replace(target, doomed)
            os.replace(temporary, target)
            shutil.rmtree(doomed)
        else:
            os.replace(temporary, target)
        sync(target.parent)


def link_directory(source: Path, target: Path) -> None:
    """Put what `source` holds in the place of `target` too: the same files where the disk can, else copies of them."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.partial")
    with explained(target):
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(source, temporary, copy_function=_link)
    replace_directory(temporary, target)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copy2(source, target)


def sweep(directory: Path) -> None:
    """Remove what killed processes left of unfinished writes here and one level below; nobody may be writing there."""
    for ending in ("tmp", "old", "partial"):
        for path in [*directory.glob(f".*.{ending}"), *directory.glob(f"*/.*.{ending}")]:
            with explained(path):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
