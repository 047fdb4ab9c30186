"""Clean converted sources and split them into training and evaluation; every row that goes is counted by its reason.

The split is over groups (`Example.groups`) and across all sources: a group is held out when the hash of its name and
the seed falls below the fraction, so neither other rows nor other sources move it. A row is for evaluation when its
first group (the query's) is held out, for training when none of its groups is; any other row straddles the split and
goes. What is the same text in spite of the split is then settled by `decontaminate`:

- `drop_train`: a training row that holds an evaluation query anywhere goes (benchmarks that must stay whole);
- `drop_eval`: an evaluation row whose query occurs anywhere in the training texts of any source goes (names, which are
  legitimately the same in many languages: what is left to evaluate on is truly unseen).

Cost: one pass over the rows (30,000 rows of short texts a second), and a second one over training files that hold an
evaluation query. Memory: 8 bytes per training text, 60 bytes per row for duplicates, and the evaluation rows.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from f2llm.core.files import write_json
from f2llm.core.log import track
from f2llm.core.types import Example
from f2llm.data.examples import count_examples, read_examples, write_examples
from f2llm.data.keys import ALWAYS_TRAIN, bare, fold, stable_hash, text_group, tidy

Decontaminate = Literal["drop_train", "drop_eval"]
Side = Literal["train", "eval", "neither"]
Keys = NDArray[np.uint64]


@dataclass
class SourceCounts:
    """Where the rows of one source went; `rows == train + evaluation + sum(dropped)`."""

    rows: int = 0
    train: int = 0
    evaluation: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def check(self) -> None:
        assert self.rows == self.train + self.evaluation + self.dropped.total(), self

    def to_json(self) -> dict[str, Any]:
        dropped = dict(self.dropped.most_common())
        return {"rows": self.rows, "train": self.train, "eval": self.evaluation, "dropped": dropped}


@dataclass(frozen=True)
class CleanReport:
    """Counts by source; `drops.json` holds the same."""

    sources: dict[str, SourceCounts]

    def to_json(self) -> dict[str, Any]:
        return {source: counts.to_json() for source, counts in self.sources.items()}


@dataclass(frozen=True)
class _Rules:
    held_out_fraction: float
    seed: int
    min_chars: int
    max_chars: int


def clean(
    sources: Mapping[str, Path],
    out_dir: Path,
    *,
    held_out_fraction: float,
    seed: int,
    min_chars: int = 1,
    max_chars: int = 20_000,
    decontaminate: Decontaminate = "drop_train",
    eval_per_language: int = 200,
    evaluated: Mapping[str, str | None] | None = None,
) -> CleanReport:
    """Write `train/SOURCE.parquet`, `eval/SOURCE.parquet` and `drops.json` below `out_dir`.

    `sources` maps ids to converted files. At most `eval_per_language` evaluation rows are kept per source and query
    language, chosen by hash. `evaluated` names the sources that are evaluated (default: all), each with the one
    document language that its retrieval evaluation keeps (None: any); the held-out rows of other sources go.
    """
    rules = _Rules(held_out_fraction, seed, min_chars, max_chars)
    report = CleanReport({source: SourceCounts() for source in sources})
    held_out: dict[str, list[Example]] = {}
    train_keys: dict[str, Keys] = {}
    for source, path in sources.items():
        counts, splitter = report.sources[source], _Splitter(rules, report.sources[source])
        counts.train = write_examples(_train_file(out_dir, source), splitter.train_rows(source, path))
        train_keys[source] = np.unique(np.fromiter(splitter.keys, np.uint64, len(splitter.keys)))
        held_out[source] = _select(splitter.held_out, counts, source, evaluated)
    if decontaminate == "drop_eval":
        _drop_eval(held_out, train_keys, report)
    for source, examples in held_out.items():
        held_out[source] = _cap(examples, report.sources[source], eval_per_language, seed)
    if decontaminate == "drop_train":
        _drop_train(held_out, train_keys, report, out_dir)
    for source, examples in held_out.items():
        counts = report.sources[source]
        counts.evaluation = write_examples(out_dir / "eval" / f"{source}.parquet", examples)
        counts.check()
    write_json(out_dir / "drops.json", report.to_json())
    return report


@lru_cache(maxsize=2**18)
def is_held_out(group: str, fraction: float, seed: int) -> bool:
    """Whether a group belongs to the evaluation; depends on nothing but its name, the fraction and the seed."""
    return not group.startswith(ALWAYS_TRAIN) and stable_hash(seed, "held out", group) < fraction * 2**64


class _Splitter:
    """One pass over a source: yields the training rows, keeps the evaluation rows and the keys of training texts."""

    def __init__(self, rules: _Rules, counts: SourceCounts) -> None:
        self.rules, self.counts = rules, counts
        self.held_out: list[Example] = []
        self.keys: list[int] = []
        self._seen: set[int] = set()

    def train_rows(self, source: str, path: Path) -> Iterator[Example]:
        for raw in track(read_examples(path), f"clean {source}", count_examples(path)):
            self.counts.rows += 1
            example = _tidied(raw, self.rules.max_chars)
            side = self._side(example)
            reason = _fault(example, self.rules) or self._reason(example, side)
            if reason:
                self.counts.dropped[reason] += 1
            elif side == "eval":
                self.held_out.append(example)
            else:
                self.keys.extend(map(_text_key, _texts(example)))
                yield example

    def _side(self, example: Example) -> Side:
        groups = example.groups or (text_group(example.query),)
        held = [is_held_out(group, self.rules.held_out_fraction, self.rules.seed) for group in groups]
        if held[0]:
            return "eval"
        return "neither" if any(held) else "train"

    def _reason(self, example: Example, side: Side) -> str | None:
        """Why a sound row goes all the same; two languages may be evaluated on the same pair of texts."""
        query, positive = fold(example.query), fold(example.positive)
        if query == positive:
            return "query equals positive"
        if side == "neither":
            return "straddles the split"
        key = stable_hash(query, positive, example.query_lang if side == "eval" else "")
        if key in self._seen:
            return "duplicate"
        self._seen.add(key)
        return None


def _tidied(example: Example, max_chars: int) -> Example:
    query, positive = tidy(example.query, example.query_lang), tidy(example.positive, example.doc_lang)
    wrong = {"", positive}
    negatives = dict.fromkeys(tidy(text, example.doc_lang) for text in example.negatives)
    kept = tuple(text for text in negatives if text not in wrong and len(text) <= max_chars)
    if (query, positive, kept) == (example.query, example.positive, example.negatives):
        return example
    return replace(example, query=query, positive=positive, negatives=kept)


def _fault(example: Example, rules: _Rules) -> str | None:
    """Why a row is of no use, or None."""
    lengths = (len(example.query), len(example.positive))
    if min(lengths) == 0:
        return "empty"
    if min(lengths) < rules.min_chars:
        return "too short"
    if max(lengths) > rules.max_chars:
        return "too long"
    if example.task_type == "classification" and not example.negatives:
        return "no negative"
    return None


def _texts(example: Example) -> Iterable[str]:
    return (example.query, example.positive, *example.negatives)


@lru_cache(maxsize=2**15)
def _text_key(text: str) -> int:
    return stable_hash(bare(text))


def _select(
    examples: list[Example], counts: SourceCounts, source: str, evaluated: Mapping[str, str | None] | None
) -> list[Example]:
    """The rows that are evaluated: those of the right source, and of retrieval those with documents to search."""
    if evaluated is not None and source not in evaluated:
        _count(counts, "held out, source not evaluated", len(examples))
        return []
    doc_lang = evaluated and evaluated[source]
    kept = [e for e in examples if not doc_lang or e.task_type != "retrieval" or e.doc_lang == doc_lang]
    _count(counts, "held out, documents in another language", len(examples) - len(kept))
    return kept


def _drop_eval(held_out: dict[str, list[Example]], train_keys: Mapping[str, Keys], report: CleanReport) -> None:
    known = np.unique(np.concatenate([*train_keys.values(), np.empty(0, np.uint64)]))
    for source, examples in held_out.items():
        seen = np.isin(_query_keys(examples), known)
        held_out[source] = [example for example, gone in zip(examples, seen, strict=True) if not gone]
        _count(report.sources[source], "evaluation query occurs in training", int(seen.sum()))


def _drop_train(
    held_out: Mapping[str, list[Example]], train_keys: Mapping[str, Keys], report: CleanReport, out_dir: Path
) -> None:
    queries = np.unique(np.concatenate([*map(_query_keys, held_out.values()), np.empty(0, np.uint64)]))
    for source, keys in train_keys.items():
        clash = frozenset(map(int, np.intersect1d(keys, queries, assume_unique=True)))
        if not clash:
            continue
        path, counts = _train_file(out_dir, source), report.sources[source]
        kept = (example for example in read_examples(path) if not _holds(example, clash))
        before, counts.train = counts.train, write_examples(path, kept)
        _count(counts, "training text is an evaluation query", before - counts.train)


def _holds(example: Example, keys: frozenset[int]) -> bool:
    """Whether a row shows a text with one of the keys; the label texts of a classification are no such texts."""
    texts = (example.query,) if example.task_type == "classification" else _texts(example)
    return any(_text_key(text) in keys for text in texts)


def _query_keys(examples: list[Example]) -> Keys:
    return np.fromiter((_text_key(example.query) for example in examples), np.uint64, len(examples))


def _cap(examples: list[Example], counts: SourceCounts, per_language: int, seed: int) -> list[Example]:
    """At most `per_language` rows of each query language, chosen by hash, in their old order."""
    by_language: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        by_language[example.query_lang].append(example)
    chosen: set[str] = set()
    for rows in by_language.values():
        rows.sort(key=lambda example: stable_hash(seed, "evaluate", example.id))
        chosen.update(example.id for example in rows[:per_language])
    kept = [example for example in examples if example.id in chosen]
    _count(counts, "held out, over the cap per language", len(examples) - len(kept))
    return kept


def _count(counts: SourceCounts, reason: str, number: int) -> None:
    if number:
        counts.dropped[reason] += number


def _train_file(out_dir: Path, source: str) -> Path:
    return out_dir / "train" / f"{source}.parquet"
