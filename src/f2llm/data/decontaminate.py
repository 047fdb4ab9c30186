"""Which training rows show texts of the evaluation: found, counted and shown by example; nothing is removed here.

Four ways a training text can hold an evaluation text, from the surest; a row counts once per set, under the surest:

- `exact`: the same by `keys.fold`; `bare`: the same without punctuation;
- `n-gram`: of the evaluation text's runs of 13 words (the check of GPT-3: Brown et al., 2020, appendix C), or of 30
  characters in scripts without spaces, at least the `share` occur in the training text. Shorter texts take runs of 10
  or 8 words, 23 or 18 characters; those below that are judged by the other ways only. Runs that more than 100
  evaluation texts have in common (a template) are no evidence;
- `minhash`: Jaccard similarity of the 5-grams of the two texts at or above `threshold` (see `dedup`).

Evaluation texts of fewer than `min_chars` letters and digits ("yes", "1912") are left out, and counted. The sources of
`excluded` (DEFAULT_EXCLUDED: they hold test texts of MTEB) go as a whole; what they would leak is reported even so.

Cost: about 65 microseconds of one core per text of 120 characters of the evaluation, 35 of the training (once per
distinct text of a batch; 15 of them MinHash). Memory: the evaluation side (its texts, 300 bytes for each, 30 for each
run), 250 MB and one batch of training rows.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from f2llm.core.files import atomic_path, write_json
from f2llm.core.log import Bar
from f2llm.core.types import HOLDING_TEST_TEXTS
from f2llm.data.examples import count_examples, read_batches
from f2llm.data.fingerprints import I64, U64, band_hashes, jaccard, mix, slices
from f2llm.data.keys import fold, stable_hash, without_punctuation

DEFAULT_EXCLUDED = HOLDING_TEST_TEXTS
Field = Literal["query", "positive", "negatives"]
How = Literal["exact", "bare", "n-gram", "minhash"]
Line = dict[str, Any]
FIELDS: tuple[Field, ...] = ("query", "positive", "negatives")
HOWS: tuple[How, ...] = ("exact", "bare", "n-gram", "minhash")
EXCLUDED = "excluded source"
WORDS = (13, 10, 8)
CHARACTERS = (30, 23, 18)
_COMMON = 100  # evaluation texts that may share a run, or a band, before it says nothing about any of them
_CLIP = 200
_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64
# Thai to Tibetan, Myanmar, Khmer, kana, Chinese characters
_UNSPACED = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+"
)


@dataclass(frozen=True)
class Hit:
    """Training text `place` of those asked for holds evaluation text `number`; `score` from 0 to 1."""

    place: int
    number: int
    how: How
    score: float


@dataclass
class SourceLeaks:
    """Rows of one source: `leaking` ones show an evaluation text; `dropped`: rows that should go, by reason."""

    rows: int = 0
    leaking: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def to_json(self) -> dict[str, Any]:
        return vars(self) | {"dropped": dict(self.dropped.most_common())}


@dataclass(frozen=True)
class Leaks:
    """What `find_leaks` found: counts, examples to look at, and a parquet file with one line per row and set.

    Its columns: `source`, `row` (place in the source's file, from 0), `id`, `field`, `set`, `how`, `score`,
    `evaluation` and `training` (the two texts, cut to 200 characters). `found` counts rows by set, source and way;
    `texts` and `too_short` are the distinct evaluation texts of each set, and how many of them were left out.
    """

    path: Path
    sources: dict[str, SourceLeaks]
    texts: Counter[str]
    too_short: Counter[str]
    found: Counter[tuple[str, str, How]]
    examples: list[dict[str, Any]]

    def rows(self, source: str) -> I64:
        """Ascending row numbers of a source that go."""
        counts = self.sources[source]
        if counts.dropped[EXCLUDED]:
            return np.arange(counts.rows)
        table = pq.read_table(self.path, columns=["row"], filters=[("source", "=", source)])
        return np.unique(np.asarray(table["row"].to_numpy(), np.int64))

    def to_json(self) -> dict[str, Any]:
        by_set: dict[str, Any] = {
            name: {"texts": count, "too_short": self.too_short[name], "sources": {}}
            for name, count in self.texts.items()
        }
        for (name, source, how), count in self.found.items():
            by_set[name]["sources"].setdefault(source, {})[how] = count
        sources = {source: counts.to_json() for source, counts in self.sources.items()}
        return {"sources": sources, "sets": by_set, "examples": self.examples}


def find_leaks(
    sources: Mapping[str, Path],
    evaluation: Iterable[tuple[str, str]],
    out_dir: Path,
    *,
    fields: Sequence[Field] = FIELDS,
    share: float = 0.5,
    threshold: float = 0.8,
    min_chars: int = 8,
    excluded: Sequence[str] = DEFAULT_EXCLUDED,
    examples: int = 5,
) -> Leaks:
    """Write `leaks.parquet` and `leaks.json` below `out_dir`; needs the extra `data`.

    `sources` maps ids to files of examples, `evaluation` gives (name of the set, text). Of a classification row only
    the query is a text (its documents are labels). `examples` rows are shown for each set, source and way.
    """
    index = EvaluationIndex(evaluation, share=share, threshold=threshold, min_chars=min_chars)
    rows = {source: count_examples(path) for source, path in sources.items()}

    def lines() -> Iterator[list[Line]]:
        with Bar("leaks", sum(rows.values())) as bar:
            for source, path in sources.items():
                for numbers, batch in _numbered_batches(path, fields):
                    yield leaking_lines(index, source, numbers, batch, fields)
                    bar.advance(len(batch), source)

    return write_leaks(out_dir, lines(), rows, index.known, excluded=excluded, examples=examples)


def write_leaks(
    out_dir: Path,
    lines: Iterable[list[Line]],
    rows: Mapping[str, int],
    known: EvaluationTexts,
    *,
    excluded: Sequence[str] = DEFAULT_EXCLUDED,
    examples: int = 5,
) -> Leaks:
    """Write and count what `leaking_lines` found, batch by batch; `rows`: how many rows of each source were seen."""
    counts = {source: SourceLeaks(number) for source, number in rows.items()}
    leaks = Leaks(out_dir / "leaks.parquet", counts, known.texts_of, known.too_short, Counter(), [])
    with line_writer(leaks.path) as write:
        for some in lines:
            write(some)
            _count(leaks, some, excluded, examples)
    for source in counts.keys() & set(excluded):
        counts[source].dropped[EXCLUDED] = counts[source].rows
    write_json(out_dir / "leaks.json", leaks.to_json())
    return leaks


_SCHEMA = pa.schema(
    [("source", pa.string()), ("row", pa.int64()), ("id", pa.string()), ("field", pa.string()), ("set", pa.string()),
     ("how", pa.string()), ("score", pa.float64()), ("evaluation", pa.string()), ("training", pa.string())]
)  # fmt: skip


@contextmanager
def line_writer(path: Path) -> Iterator[Callable[[list[Line]], None]]:
    """Yield a function that writes lines; the file is there when the block has ended without an error."""
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, _SCHEMA, compression="zstd") as file:
        yield lambda lines: file.write_table(pa.Table.from_pylist(lines, _SCHEMA)) if lines else None


def read_lines(path: Path) -> Iterator[list[Line]]:
    """The lines of a file, some thousands at a time, those of a row together."""
    held: list[Line] = []
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(8192):
            lines = held + batch.to_pylist()
            cut = next(place for place, line in enumerate(lines) if line["row"] == lines[-1]["row"])
            yield lines[:cut]
            held = lines[cut:]
    yield held


def _numbered_batches(path: Path, fields: Sequence[Field]) -> Iterator[tuple[I64, pa.RecordBatch]]:
    first = 0
    for batch in read_batches(path, ["id", "task_type", *fields]):
        yield np.arange(first, first + len(batch)), batch
        first += len(batch)


def leaking_lines(
    index: EvaluationIndex,
    source: str,
    numbers: I64,
    batch: pa.RecordBatch | pa.Table,
    fields: Sequence[Field] = FIELDS,
) -> list[Line]:
    """One line per row and set, under the surest way, in the order of the rows; `numbers`: what the rows are called."""
    places: dict[str, list[tuple[int, Field]]] = defaultdict(list)
    for row, name, text in _texts(batch, fields):
        places[text].append((row, name))
    texts, ids = list(places), batch.column("id").to_pylist()
    best: dict[tuple[int, str], Line] = {}
    for hit in sorted(index.find(texts), key=lambda hit: (HOWS.index(hit.how), -hit.score, hit.place, hit.number)):
        shown = {"how": hit.how, "score": hit.score, "training": texts[hit.place][:_CLIP]}
        shown |= {"evaluation": index.texts[hit.number][:_CLIP]}
        for row, name in places[texts[hit.place]]:
            for of in index.sets[hit.number]:
                line = {"source": source, "row": int(numbers[row]), "id": ids[row], "field": name, "set": of}
                best.setdefault((row, of), line | shown)
    return [best[key] for key in sorted(best)]


def _texts(batch: pa.RecordBatch | pa.Table, fields: Sequence[Field]) -> Iterator[tuple[int, Field, str]]:
    kinds = batch.column("task_type").to_pylist()
    for name in fields:
        for row, value in enumerate(batch.column(name).to_pylist()):
            if name == "query" or kinds[row] != "classification":
                for text in value if isinstance(value, list) else [value]:
                    if text:
                        yield row, name, text


def reasons(lines: Iterable[Line]) -> dict[int, str]:
    """For each row with lines, why it goes: the set that it shows the most surely."""
    surest: dict[int, tuple[int, str]] = {}
    for line in lines:
        rank = (HOWS.index(line["how"]), line["set"])
        surest[line["row"]] = min(rank, surest.get(line["row"], rank))
    return {row: f"leaks {name}" for row, (_, name) in surest.items()}


def _count(leaks: Leaks, lines: list[Line], excluded: Sequence[str], examples: int) -> None:
    """Lines of whole rows of one source."""
    for line in lines:
        key = (line["set"], line["source"], line["how"])
        leaks.found[key] += 1
        if leaks.found[key] <= examples:
            leaks.examples.append(line)
    if lines:
        source, found = lines[0]["source"], reasons(lines)
        leaks.sources[source].leaking += len(found)
        if source not in excluded:
            leaks.sources[source].dropped.update(found.values())


class EvaluationTexts:
    """The distinct evaluation texts that are long enough to be looked for, and the sets that each belongs to.

    `texts_of` counts the distinct texts of each set, `too_short` those of them that are left out.
    """

    def __init__(self, evaluation: Iterable[tuple[str, str]], min_chars: int = 8) -> None:
        self.texts: list[str] = []
        self.sets: list[list[str]] = []
        self.folded: list[str] = []
        self.texts_of: Counter[str] = Counter()
        self.too_short: Counter[str] = Counter()
        self._collect(evaluation, min_chars)

    def _collect(self, evaluation: Iterable[tuple[str, str]], min_chars: int) -> None:
        numbers: dict[str, int] = {}
        short: set[tuple[str, str]] = set()
        for name, text in evaluation:
            folded = fold(text or "")
            if len(_plain(without_punctuation(folded))) < min_chars:
                short.add((name, folded))
                continue
            if folded not in numbers:
                numbers[folded] = len(self.texts)
                self.texts.append(text)
                self.folded.append(folded)
                self.sets.append([])
            if name not in self.sets[numbers[folded]]:
                self.sets[numbers[folded]].append(name)
        self.too_short.update(name for name, _ in short)
        self.texts_of.update(name for names in self.sets for name in names)
        self.texts_of.update(self.too_short)


def texts_of_examples(sets: Mapping[str, Path]) -> Iterator[tuple[str, str]]:
    """(name, text) of sets that are files or shards of examples: queries, and positives that are no labels."""
    for name, path in sets.items():
        for batch in read_batches(path, ["query", "positive", "task_type"]):
            for query, positive, kind in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                yield name, query
                if kind == "retrieval":
                    yield name, positive


class EvaluationIndex:
    """The evaluation texts, ready to be looked up from training texts; built once, then read only.

    `known`, `texts` and `sets`: see `EvaluationTexts`.
    """

    def __init__(
        self, evaluation: Iterable[tuple[str, str]], *, share: float = 0.5, threshold: float = 0.8, min_chars: int = 8
    ) -> None:
        self.share, self.threshold = share, threshold
        self.known = EvaluationTexts(evaluation, min_chars)
        self.texts, self.sets, self._folded = self.known.texts, self.known.sets, self.known.folded
        self._bare: dict[int, list[int]] = defaultdict(list)
        for number, folded in enumerate(self._folded):
            self._bare[stable_hash(without_punctuation(folded))].append(number)
        self._runs, self._runs_of = self._index_runs()
        bands = band_hashes(self._folded)
        self._bands = _Postings(bands.ravel(), np.repeat(np.arange(len(bands)), bands.shape[1]))

    def _index_runs(self) -> tuple[_Postings, I64]:
        """Hashes of runs with the texts that they occur in, and how many different ones each text has."""
        parts = [(np.zeros(0, np.uint64), np.zeros(0, np.int64))]
        for run in slices([len(text) + 1 for text in self._folded]):
            texts = [without_punctuation(text) for text in self._folded[run]]
            unspaced = [2 * _count_unspaced(text) > len(_plain(text)) for text in texts]
            for sizes, spaced in ((WORDS, True), (CHARACTERS, False)):
                chosen = [text if written != spaced else "" for text, written in zip(texts, unspaced, strict=True)]
                parts.extend((hashes, owners + run.start) for hashes, owners in _longest_runs(chosen, sizes, spaced))
        hashes, owners, _ = _distinct(*map(np.concatenate, zip(*parts, strict=True)))
        _, places, counts = np.unique(hashes, return_inverse=True, return_counts=True)
        telling = counts[places] <= _COMMON
        hashes, owners = hashes[telling], owners[telling]
        return _Postings(hashes, owners), np.bincount(owners, minlength=len(self.texts))

    def find(self, texts: Sequence[str]) -> list[Hit]:
        """Every way in which a text holds an evaluation text, but no weaker one beside `exact` and `bare`."""
        found: list[Hit] = []
        for run in slices([len(text) + 1 for text in texts]):
            folded = [fold(text) for text in texts[run]]
            plain = [without_punctuation(text) for text in folded]
            hits = [*self._same(folded, plain), *self._containing(plain), *self._alike(folded)]
            found.extend(Hit(hit.place + run.start, hit.number, hit.how, hit.score) for hit in _surest(hits))
        return found

    def _same(self, folded: list[str], plain: list[str]) -> Iterator[Hit]:
        for place, text in enumerate(plain):
            for number in self._bare.get(stable_hash(text), ()):
                yield Hit(place, number, "exact" if folded[place] == self._folded[number] else "bare", 1.0)

    def _containing(self, plain: list[str]) -> Iterator[Hit]:
        written = [text if _count_unspaced(text) >= CHARACTERS[-1] else "" for text in plain]
        for sizes, spaced, chosen in ((WORDS, True, plain), (CHARACTERS, False, written)):
            for hashes, owners in runs(chosen, sizes, spaced):
                places, numbers, counts = self._runs.shared(hashes, owners)
                shares = counts / self._runs_of[numbers]
                for hit in np.flatnonzero(shares >= self.share).tolist():
                    yield Hit(int(places[hit]), int(numbers[hit]), "n-gram", float(shares[hit]))

    def _alike(self, folded: list[str]) -> Iterator[Hit]:
        bands = band_hashes(folded)
        places, numbers, _ = self._bands.shared(bands.ravel(), np.repeat(np.arange(len(bands)), bands.shape[1]))
        left, right = [folded[place] for place in places], [self._folded[number] for number in numbers]
        similar = jaccard(left, right)
        for hit in np.flatnonzero(similar >= self.threshold).tolist():
            yield Hit(int(places[hit]), int(numbers[hit]), "minhash", float(similar[hit]))


def _surest(hits: list[Hit]) -> Iterable[Hit]:
    best: dict[tuple[int, int], Hit] = {}
    for hit in hits:  # they come in the order of HOWS
        best.setdefault((hit.place, hit.number), hit)
    return best.values()


class _Postings:
    """Sorted hashes, each with the evaluation text that it belongs to; a table of bits turns most others away."""

    def __init__(self, hashes: U64, numbers: I64) -> None:
        order = np.argsort(hashes, kind="stable")
        self.hashes, self.numbers = hashes[order], numbers[order].astype(np.int32)
        self.shift = np.uint64(64 - max(10, len(hashes).bit_length() + 4))
        self.flags = np.zeros(2 ** int(64 - self.shift), np.bool_)
        self.flags[hashes >> self.shift] = True

    def shared(self, hashes: U64, owners: I64) -> tuple[I64, I64, I64]:
        """Pairs (owner, evaluation text) that share hashes, and how many different ones they share."""
        likely = self.flags[hashes >> self.shift]
        asked, asking, _ = _distinct(hashes[likely], owners[likely])
        first = np.searchsorted(self.hashes, asked, "left")
        found = np.minimum(np.searchsorted(self.hashes, asked, "right") - first, _COMMON)
        places = np.repeat(first - np.cumsum(found) + found, found) + np.arange(found.sum())
        return _distinct(np.repeat(asking, found), self.numbers[places])


def _distinct(a: NDArray[Any], b: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], I64]:
    """The different pairs of two columns, in order, and how often each occurs."""
    order = np.lexsort((b, a))
    a, b = a[order], b[order]
    first = np.flatnonzero(np.concatenate([[True], (a[1:] != a[:-1]) | (b[1:] != b[:-1])])[: len(a)])
    return a[first], b[first], np.diff(first, append=len(a))


# ---- runs of words and characters


def runs(texts: Sequence[str], sizes: Sequence[int], spaced: bool) -> list[tuple[U64, I64]]:
    """For each size: hashes of all runs of so many words (or characters, spaces left out), and whose text each is from.

    `texts` are `bare`. Prefix sums of a polynomial modulo 2^64 give the hash of any run at once (Karp and Rabin, 1987);
    its coefficients are the mixed code points.
    """
    joined = "".join(text + " " for text in texts) if spaced else "".join(map(_plain, texts))
    codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.uint64)
    powers, inverses = _powers(len(codes).bit_length())
    sums = np.concatenate([[np.uint64(0)], np.cumsum(mix(codes + np.uint64(1)) * powers[: len(codes)])])
    if spaced:
        ends = np.flatnonzero(codes == 32)
        lengths = np.diff(ends, prepend=-1) - 1
        starts, ends = (ends - lengths)[lengths > 0], ends[lengths > 0]  # the space behind an empty text ends no word
        counts = [text.count(" ") + 1 if text else 0 for text in texts]
    else:
        starts = np.arange(len(codes))
        ends, counts = starts + 1, [len(_plain(text)) for text in texts]
    owners, found = np.repeat(np.arange(len(texts)), counts), []
    for size in sizes:
        last = np.arange(size - 1, len(starts))
        whole = last[owners[last] == owners[last - size + 1]]
        begin = starts[whole - size + 1]
        found.append((mix((sums[ends[whole]] - sums[begin]) * inverses[begin]), owners[whole]))
    return found


def _longest_runs(texts: Sequence[str], sizes: Sequence[int], spaced: bool) -> Iterator[tuple[U64, I64]]:
    """The runs of each text in the first of the sizes that it is long enough for."""
    taken = np.zeros(len(texts), np.bool_)
    for hashes, owners in runs(texts, sizes, spaced):
        new = ~taken[owners]
        taken[owners] = True
        yield hashes[new], owners[new]


@lru_cache(maxsize=2)
def _powers(bits: int) -> tuple[U64, U64]:
    """Powers of the base and of its inverse, 2^bits of them."""
    ones = np.ones(1, np.uint64)
    bases = (_BASE, pow(_BASE, -1, 2**64))
    powers, inverses = (np.concatenate([ones, np.cumprod(np.full(2**bits - 1, base, np.uint64))]) for base in bases)
    return powers, inverses


def _plain(text: str) -> str:
    return text.replace(" ", "")


def _count_unspaced(text: str) -> int:
    return 0 if text.isascii() else sum(map(len, _UNSPACED.findall(text)))
