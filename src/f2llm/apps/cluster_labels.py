"""Keywords for clusters in any language, without a list of stop words, and the texts at a cluster's centre.

A term's weight is its share of the cluster's texts times the logarithm of that share over its share of the other
clusters' texts in the same language: class-based TF-IDF (Grootendorst 2022) with rates in the place of counts, so that
words as frequent elsewhere weigh nothing, be they "the", "和" or "и". Languages are kept apart, or else every word of
a language that lies in few clusters would be a keyword there. Where no language is told, scripts are kept apart.

Terms are words; in scripts without spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese, Javanese and others) runs of
two to six characters, each with its marks. A run that is nearly always part of a longer one gives way to it.

Cost: at most 500 texts of a cluster and language and 400 characters of a text are read, about 1 ms a text without
spaces, a tenth with. Limits: no stemming, so "card" stands for "cards" only where one begins the other.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import pairwise

import numpy as np

from f2llm.apps.cluster_fit import Ints
from f2llm.core.log import Bar

TEXTS, CHARS = 500, 400  # of each cluster and language that are read, and of each text
SCRIPT_CHARS = 100  # of a text decide its script
RUN = range(2, 7)
OTHERS = 0.2  # texts of the language in other clusters, to one in this, below which nothing can be compared
LIFT = 1.5  # a keyword is at least so much more frequent in its cluster than in the others
PART = 0.7  # a run that stands in a longer one at least so often gives way to it
TERMS = 6
MIN_GROUP, MIN_SHARE, GROUPS = 3, 0.05, 5  # texts and share of a cluster for a language's own label; so many at most
_SPACELESS = (
    "\u0e00-\u0eff\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaadf\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\u1b00-\u1b7f\ua980-\ua9df"
    "\u3005\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_BEFORE, _AFTER = "\u0e40-\u0e44\u0ec0-\u0ec4", "\u0e30\u0e32\u0e33\u0e45\u0eb0\u0eb2\u0eb3"  # vowels of Thai and Lao
_STACKED = "\u17d2\u1039"  # joins the next consonant to the one before, in Khmer and Burmese
_ASIAN = {"CJK": "Han", "HIRAGANA": "Japanese", "KATAKANA": "Japanese"}

Labels = dict[str, list[str]]
"""Language (or script) -> keywords, the language with most texts of the cluster first."""


def keywords(
    texts: Sequence[str], groups: Sequence[str], cluster_N: Ints, clusters: int, seed: int = 0
) -> list[Labels]:
    """The keywords of each cluster by language; `groups` is the language or the script of each text.

    Noise counts among the others. A language that lies in one cluster nearly whole has none: nothing to compare with.
    """
    members = _members(groups, cluster_N, seed)
    counts = _counted(texts, members)
    read = {place: min(len(rows), TEXTS) for place, rows in members.items()}
    others: dict[str, Counter[str]] = defaultdict(Counter)
    totals: Counter[str] = Counter()
    for (_, group), found in counts.items():
        others[group].update(found)
    for (_, group), number in read.items():
        totals[group] += number
    labels: list[Labels] = [{} for _ in range(clusters)]
    sizes = np.bincount(cluster_N[cluster_N >= 0], minlength=clusters)
    for (number, group), rows in sorted(members.items(), key=lambda entry: (-len(entry[1]), entry[0])):
        if number < 0:
            continue
        enough = len(rows) >= max(min(MIN_GROUP, sizes[number]), MIN_SHARE * sizes[number])
        if enough and len(labels[number]) < GROUPS:
            place = (number, group)
            labels[number][group] = _best(counts[place], others[group], read[place], totals[group])
    return labels


def _members(groups: Sequence[str], cluster_N: Ints, seed: int) -> dict[tuple[int, str], list[int]]:
    """Rows of each cluster and language, in an order drawn by the seed."""
    found: dict[tuple[int, str], list[int]] = defaultdict(list)
    for row in np.random.default_rng(seed).permutation(len(cluster_N)).tolist():
        found[int(cluster_N[row]), groups[row]].append(row)
    return found


def _counted(texts: Sequence[str], members: Mapping[tuple[int, str], list[int]]) -> dict[tuple[int, str], Counter[str]]:
    """In how many texts each term stands; terms of a single text are dropped where there are five texts or more."""
    found = {}
    with Bar("keywords", sum(min(len(rows), TEXTS) for rows in members.values())) as bar:
        for place, rows in members.items():
            counts: Counter[str] = Counter()
            for row in rows[:TEXTS]:
                counts.update(set(terms(texts[row][:CHARS])))
                bar.advance()
            least = 2 if len(rows) >= 5 else 1
            found[place] = Counter({term: count for term, count in counts.items() if count >= least})
    return found


def _best(own: Counter[str], everywhere: Counter[str], texts: int, all_texts: int) -> list[str]:
    """The terms with the highest weight, none of them a part or the beginning of another."""
    if all_texts - texts < max(MIN_GROUP, OTHERS * texts):
        return []
    whole = _without_parts(own)
    weights = {}
    for term, count in whole.items():
        share = count / texts
        rest = (everywhere[term] - count + 1) / (all_texts - texts + 1)
        if share >= LIFT * rest:
            weights[term] = share * np.log(share / rest)
    chosen: list[str] = []
    for term in sorted(weights or whole, key=lambda term: (-weights.get(term, whole[term]), term)):
        if len(chosen) < TERMS and not any(_alike(term, other) for other in chosen):
            chosen.append(term)
    return chosen


def _alike(one: str, other: str) -> bool:
    """Whether one begins the other; of runs of characters, whether they share half of the shorter one."""
    short, long = sorted((one, other), key=len)
    if not _is_spaceless(short):
        return len(short) >= 4 and long.startswith(short)
    units = _unit().findall(short)
    size = max(2, (len(units) + 1) // 2)
    return any("".join(units[start : start + size]) in long for start in range(len(units) - size + 1))


def _without_parts(counts: Counter[str]) -> Counter[str]:
    """Without the runs of characters that stand in a longer run nearly as often as at all."""
    inside: Counter[str] = Counter()
    for term, count in counts.items():
        if _is_spaceless(term):
            units = _unit().findall(term)
            for part in ("".join(units[1:]), "".join(units[:-1])):
                inside[part] = max(inside[part], count)
    return Counter({term: count for term, count in counts.items() if inside[term] < PART * count})


def terms(text: str) -> Iterator[str]:
    """The words of a text in lower case, or the runs of characters where words are written without spaces."""
    for run in _run().findall(unicodedata.normalize("NFC", text).casefold()):
        if not _is_spaceless(run):
            if len(run) > 1:
                yield run
            continue
        units = _unit().findall(run)
        for size in RUN:
            yield from ("".join(units[start : start + size]) for start in range(len(units) - size + 1))


def _is_spaceless(term: str) -> bool:
    return bool(_spaceless().match(term))


@cache
def _spaceless() -> re.Pattern[str]:
    return re.compile(f"[{_SPACELESS}]")


@cache
def _run() -> re.Pattern[str]:
    """A run of letters of scripts without spaces, or a word: letters with their marks, also an apostrophe inside."""
    letter = rf"(?:(?![{_SPACELESS}])[^\W\d_])"
    spaceless = rf"(?:(?=[{_SPACELESS}])[^\W\d_]|(?=[{_SPACELESS}])[{_marks()}])"
    return re.compile(rf"{spaceless}+|{letter}(?:{letter}|[{_marks()}]|['’](?={letter}))*")


@cache
def _unit() -> re.Pattern[str]:
    """A character of a script without spaces with its marks and the vowels written before and after it."""
    tail = rf"[{_marks()}{_AFTER}]"
    return re.compile(rf"[{_BEFORE}]?[^{_BEFORE}](?:[{_STACKED}][^{_BEFORE}]|{tail})*|[{_BEFORE}]")


@cache
def _marks() -> str:
    """Every combining mark and the two joiners, as ranges for a regular expression: `\\w` has no marks."""
    codes = [code for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code))[0] == "M"]
    codes += [0x200C, 0x200D]
    starts = [codes[0], *(after for before, after in pairwise(codes) if after != before + 1)]
    ends = [*(before for before, after in pairwise(codes) if after != before + 1), codes[-1]]
    return "".join(f"{chr(start)}-{chr(end)}" for start, end in zip(starts, ends, strict=True))


def script_names(texts: Sequence[str]) -> list[str]:
    """The script that most letters of each text are of, such as `Latin`; `Japanese` with any kana, else `Han`."""
    return [_script_name(text[:SCRIPT_CHARS]) for text in texts]


def _script_name(text: str) -> str:
    counts = Counter(_script(char) for char in text if char.isalpha())
    if counts["Japanese"]:
        return "Japanese"
    return counts.most_common(1)[0][0] if counts else "none"


@cache
def _script(char: str) -> str:
    first = unicodedata.name(char, "other").split()[0]
    return _ASIAN.get(first, first.title())


def central(distance_N: Sequence[float], rows: Sequence[int], texts: Sequence[str], count: int) -> list[int]:
    """The rows nearest to the centre of their cluster whose texts differ, the nearest first."""
    found: dict[str, int] = {}
    for row in sorted(rows, key=lambda row: (distance_N[row], row)):
        found.setdefault(texts[row], row)
        if len(found) == count:
            break
    return list(found.values())


def headline(labels: Labels, counts: Mapping[str, int]) -> str:
    """One line for a cluster: four keywords of the language with 60% of the texts, else two of each of three."""
    if not labels:
        return ""
    first = next(iter(labels))
    if counts[first] >= 0.6 * sum(counts.values()):
        return told(first, labels[first], 4)
    return " · ".join(told(name, words, 2) for name, words in list(labels.items())[:3])


def told(group: str, words: Sequence[str], count: int = TERMS) -> str:
    """Keywords in a line; the name of a language that has none."""
    return ", ".join(words[:count]) or f"({group})"
