"""Data sets of the Hugging Face Hub: `hf://datasets/OWNER/NAME@COMMIT`, and a folder or a file of it after a slash.

The commit is the full hash, because a branch moves on and the same recipe would then make other data. Files go into
the cache of huggingface_hub, each once; what is there is taken from there, also without a network. Nothing is run that
a data set brings along.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from f2llm.core.errors import ConfigError, DataError

_SCHEME = "hf://"
_FORM = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+)(?:@([^/]*))?(?:/(.*))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PLACEHOLDER = re.compile(r"\{\w+\}")


class Place(NamedTuple):
    """A folder or a file (all of it, where `inside` is empty) of a data set at a commit."""

    data_set: str
    commit: str
    inside: str


def is_hub(path: str) -> bool:
    """Whether a source's path names a place on the hub."""
    return path.startswith(_SCHEME)


def parse(path: str) -> Place:
    """The parts of a path; ConfigError unless the commit is a full hash."""
    match = _FORM.fullmatch(path)
    if match is None or ".." in Path(match[3] or "").parts:
        form = "hf://datasets/OWNER/NAME@COMMIT, with /FOLDER after it where the files lie in one"
        raise ConfigError(f"{path!r} is no data set of the hub; write {form}")
    name, commit, inside = match.groups()
    if not _COMMIT.fullmatch(commit or ""):
        told = f"{commit!r} is none" if commit else "it has no commit"
        pin = "give the full commit hash (40 hexadecimal digits) after @, for a branch moves on"
        raise ConfigError(f"{path!r}: {told}; {pin} and the same recipe would then make other data")
    return Place(name, commit, (inside or "").strip("/"))


def fetch(path: str, patterns: Sequence[str] = ()) -> Path:
    """The local copy of what `path` names, downloaded where it is not there yet.

    `patterns` say which files below it are needed (`*`, `?` and `[...]` as of fnmatch, which `/` does not stop; after
    `!`: not needed), all where there are none. Returns a folder or a file in the cache of huggingface_hub. DataError
    when the hub cannot be reached, or has no such files, and they are not in the cache.
    """
    place = parse(path)
    from huggingface_hub import snapshot_download

    inside = literal(place.inside)
    below = [f"{inside}/" if inside else "", *([inside] if inside else [])]
    allowed = [below[0] + pattern for pattern in patterns or ["*"] if not pattern.startswith("!")] + below[1:]
    ignored = [below[0] + pattern[1:] for pattern in patterns if pattern.startswith("!")]
    try:
        snapshot = snapshot_download(
            place.data_set, repo_type="dataset", revision=place.commit, allow_patterns=allowed,
            ignore_patterns=ignored or None,
        )  # fmt: skip
    except Exception as error:  # its own classes, the HTTP client's and the operating system's
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"the Hugging Face Hub gave no {path}, and it is not in the cache: {reason}") from None
    found = Path(snapshot) / place.inside
    if not found.exists():
        raise DataError(f"{path}: the data set has no {place.inside or 'files'} at this commit; correct the `path`")
    return found


def literal(text: str) -> str:
    """A pattern of fnmatch that fits the text alone."""
    return re.sub(r"([*?\[])", r"[\1]", text)


def glob(pattern: str) -> str:
    """The pattern of fnmatch for one with placeholders, such as `{code}.csv`."""
    return "*".join(map(literal, _PLACEHOLDER.split(pattern)))


def own_name(path: Path) -> str:
    """The name of a file or folder; of a data set in the hub's cache its own and not the commit's."""
    if path.parent.name == "snapshots" and path.parents[1].name.startswith("datasets--"):
        return path.parents[1].name.rpartition("--")[2]
    # Files in the cache are links to names that are digests.
    return path.resolve().name if path.is_dir() else Path(os.path.abspath(path)).name
