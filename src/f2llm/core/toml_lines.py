"""Where in a TOML file a key stands, so that an error can name its line (the standard parser does not keep lines).

Limits: keys inside inline tables and arrays are found at the line where the enclosing key starts.
"""

from __future__ import annotations

import re

KeyPath = tuple[str | int, ...]

_HEADER = re.compile(r"^\s*(\[\[?)\s*([^\[\]]+?)\s*\]\]?\s*(?:#.*)?$")
_KEY = re.compile(r"""^\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*=""")
_PART = re.compile(r"""[A-Za-z0-9_-]+|"[^"]*"|'[^']*'""")
_TRIPLE = re.compile(r"""\"\"\".*?\"\"\"|'''.*?'''""")
_STRING = re.compile(r""""(?:\\.|[^"\\])*"|'[^']*'|#.*""")


def key_lines(text: str) -> dict[KeyPath, int]:
    """Map each table header and key of a TOML text to its line number (from 1)."""
    lines: dict[KeyPath, int] = {}
    counts: dict[KeyPath, int] = {}
    prefix: KeyPath = ()
    depth, fence = 0, ""
    for number, line in enumerate(text.splitlines(), start=1):
        if fence:  # inside a multi-line string
            fence = "" if fence in line else fence
            continue
        if depth == 0 and (header := _HEADER.match(line)):
            prefix = _table_path(header.group(1), _parts(header.group(2)), counts)
            lines.setdefault(prefix, number)
            continue
        if depth == 0 and (key := _KEY.match(line)):
            lines.setdefault(prefix + _parts(key.group(1)), number)
        bare = _TRIPLE.sub("", line)
        fence = next((mark for mark in ('"""', "'''") if mark in bare), "")
        bare = _STRING.sub("", bare.partition(fence)[0] if fence else bare)
        depth += sum(bare.count(c) for c in "[{") - sum(bare.count(c) for c in "]}")
    return lines


def find_line(lines: dict[KeyPath, int], path: KeyPath) -> int | None:
    """The line of `path`, or of the nearest enclosing key that is in the file."""
    for end in range(len(path), 0, -1):
        if path[:end] in lines:
            return lines[path[:end]]
    return None


def _parts(dotted: str) -> KeyPath:
    return tuple(part.strip("\"'") for part in _PART.findall(dotted))


def _table_path(bracket: str, parts: KeyPath, counts: dict[KeyPath, int]) -> KeyPath:
    """Resolve a header to a path with indices: `[[models]]` twice gives ("models", 0) and ("models", 1)."""
    path: KeyPath = ()
    for position, part in enumerate(parts):
        path = (*path, part)
        if bracket == "[[" and position == len(parts) - 1:
            counts[path] = counts.get(path, -1) + 1
        if path in counts:
            path = (*path, counts[path])
    return path
