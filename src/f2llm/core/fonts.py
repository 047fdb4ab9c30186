"""Fonts for pictures with texts in any script: which of those installed here have the letters.

matplotlib brings DejaVu Sans alone: Latin, Greek, Cyrillic, Armenian, Georgian, Arabic, Hebrew, Lao, N'Ko, Tifinagh and
more, but no Indic script, Thai, Ethiopic, Chinese, Japanese or Korean. Where fonts for these are installed (Noto
Sans has all), they are found and used letter by letter. Cost: 5 ms for each font that has to be opened, once.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from f2llm.core.extras import optional
from f2llm.core.pictures import STYLE

BASE = str(STYLE["font.family"])
_BOXES = "Last Resort"  # a font with a box for every letter there is, which matplotlib brings
_PLAIN = frozenset({400, "normal", "regular", "book", "roman"})


def families_for(texts: Iterable[str]) -> tuple[list[str], set[str]]:
    """Font families that together show all letters of `texts`, for `font.family`, and the letters that none has."""
    missing = {char for text in texts for char in text if char.isprintable() and not char.isspace()}
    families = []
    for family, path in _installed():
        if not missing:
            break
        shown = missing & _letters(path)
        if shown or family == BASE:
            families.append(family)
            missing -= shown
    return families or [BASE], missing


@cache
def _installed() -> list[tuple[str, str]]:
    """Family and file of each upright font of usual weight: DejaVu Sans, then the sans of Noto, then the others."""
    entries = optional("matplotlib.font_manager", "report").fontManager.ttflist
    upright = (entry for entry in entries if entry.style == "normal" and entry.weight in _PLAIN)
    plain = {entry.name: entry.fname for entry in upright if not entry.name.startswith(_BOXES)}
    order = sorted(plain, key=lambda name: (name != BASE, not name.startswith("Noto Sans"), name))
    return [(name, plain[name]) for name in order]


@cache
def _letters(path: str) -> frozenset[str]:
    font = optional("matplotlib.font_manager", "report").get_font(path)
    return frozenset(map(chr, font.get_charmap()))
