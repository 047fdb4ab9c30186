"""What to show of a found passage: the part with most of the query's words, and where these stand in it.

Words are compared without case and accents. A word of a script with spaces must stand alone; in Chinese, Japanese,
Thai and others without spaces it may stand inside a run of letters. Cost: linear in the passage.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from f2llm.apps.chunking import sentences

WIDTH = 240


def snippet(text: str, words: Sequence[str], width: int = WIDTH) -> tuple[str, list[tuple[int, int]]]:
    """A part of `text` of at most `width` characters on one line, and the (start, end) of each of `words` in it."""
    line = " ".join(text.split())
    marks = matches(line, words)
    starts = [0, *(offset for offset, _ in sentences(line))] if len(line) > width else [0]
    found = {place: _different(line, marks, place, place + width) for place in starts}
    most = max(found.values())
    start = max(place for place in starts if found[place] == most) if most else 0
    end = _word_end(line, start + width)
    before, after = "…" if start else "", "…" if end < len(line) else ""
    inside = [(a - start + len(before), b - start + len(before)) for a, b in marks if start <= a and b <= end]
    return f"{before}{line[start:end]}{after}", inside


def matches(text: str, words: Sequence[str]) -> list[tuple[int, int]]:
    """Where the words stand in a text: (start, end) of each, in order."""
    wanted = sorted({folded(word) for word in words if word}, key=len, reverse=True)
    if not wanted:
        return []
    pattern = "|".join(rf"(?<!\w){re.escape(word)}(?!\w)" if _spaced(word) else re.escape(word) for word in wanted)
    return [match.span() for match in re.finditer(pattern, folded(text))]


def folded(text: str) -> str:
    """Lower case without accents, character by character, so that places stay the same."""
    return "".join(map(_folded, text))


def _folded(char: str) -> str:
    lower = unicodedata.normalize("NFKD", char)[:1].lower()
    return lower if len(lower) == 1 else char


def _spaced(word: str) -> bool:
    """Whether the word's script puts spaces between words."""
    unspaced = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")
    return not any(unicodedata.name(char, "").startswith(unspaced) for char in word)


def _different(line: str, marks: Sequence[tuple[int, int]], start: int, end: int) -> int:
    return len({folded(line[a:b]) for a, b in marks if start <= a and b <= end})


def _word_end(line: str, end: int) -> int:
    """`end`, or the last space shortly before it."""
    if end >= len(line):
        return len(line)
    space = line.rfind(" ", end - 30, end)
    return space if space > 0 else end
