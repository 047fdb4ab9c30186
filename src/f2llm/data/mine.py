"""Hard negatives by the paper's rule: rank window, score ceiling, margin to the positive (F2LLM v1, section 3.2).

The corpus of a source is its distinct positives. A row searches the documents in its positive's language
(`same_language`), all known positives of its query left out; of the ranks `skip_top` to `top_k` it keeps the documents
that score below `max_score` and below `relative_margin` times the positive's score, and takes the first `per_query`.
Negatives that a row brings along come first; a row that is still short is topped up at random, with documents that
are no known positive (in its own language first, then in any) and score below the ceiling where a score is known.
A row that brings `per_query` along keeps the first of them, unseen; rows of classification, and of clustering without a
label, keep what they bring.

`anchor` says whose neighbours are the hard negatives: those of the query (the paper), or of the positive. The second is
for encoders that cannot compare query and document: of a name in Amharic and one in English, character n-grams know
nothing, but they know which English names look alike.

Two ways in: `mine` for rows in memory, `mine_source` for a source of any size, from shard to shard by an engine; what a
row is given is the same, however many shards and workers there are. A language of more than `pool` documents is split
by hash into pools of equal size, of which each shard searches one: cost is linear in the rows.

```
look   shard -> who needs negatives; nobody: shards are copied, nothing is encoded
keys   shard -> hashes of texts           plan (this process): distinct documents, known positives, pools
encode shard -> vectors of the documents that occur first in it
pools  file  -> vectors and texts of pools, gathered
search shard -> queries encoded, pools searched, shard with negatives written
```

Cost on one core at 512 dims, beside the encoder's: 43, 124 and 583 microseconds a row for 2,000, 10,000 and 47,000
documents of NTREX, of which the product of vectors is 47%, 79% and 88%. A worker holds a shard's query vectors (65,536
x dims x 4 bytes), its texts, and 250 MB; this process 45 to 160 bytes a row (`mine_plan`). Work files take twice the
vectors and texts of the documents, and go at the end.
"""

from __future__ import annotations

import pickle
import shutil
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from f2llm.core.errors import DataError
from f2llm.core.files import digest_json, explained, write_json
from f2llm.core.types import Example
from f2llm.data import mine_files as files
from f2llm.data.engine import Engine, Task
from f2llm.data.examples import count_examples, shards
from f2llm.data.mine_plan import KeyReader, Plan, PoolRange, RowKeys, make_plan
from f2llm.data.mine_report import MineReport, drawn, sample
from f2llm.data.mine_rows import exact_scores, given_negatives, search_rows
from f2llm.data.mine_rules import Encode, Encoder, Ints, MineRules, Vectors, unit_vectors

__all__ = ["Encode", "Encoder", "MineReport", "MineRules", "mine", "mine_source"]


def mine_source(
    source: Path, out_dir: Path, make_encoder: Callable[[], Encoder], rules: MineRules, engine: Engine
) -> MineReport:
    """Mine the training rows of one source: `out_dir/NNNNN.parquet` for each of its shards, and `mining.json`.

    `make_encoder` is a module-level function or a partial of one; each worker calls it once. A killed run goes on where
    it was when it is started again with the same source, rules and encoder. DataError for rows of several task types,
    or where `out_dir` holds shards of something else.
    """
    inputs = shards(source)
    targets = [out_dir / f"{number:05}.parquet" for number in range(len(inputs))]
    _check_target(out_dir, targets)
    run = _Run(inputs, targets, _work_folder(inputs, out_dir, make_encoder, rules), make_encoder, rules, engine)
    report = run.report()
    write_json(out_dir / "mining.json", report.to_json())
    shutil.rmtree(run.folder, ignore_errors=True)
    return report


def mine(
    examples: Sequence[Example], encode: Encode, *, encode_query: Encode | None = None, **rules: Any
) -> tuple[list[Example], MineReport]:
    """Mine rows of one source in memory: the rows in their order with their negatives, and a report.

    `encode` maps N texts to vectors [N, D] of any length; `encode_query` is used for queries where it differs. `rules`
    are fields of `MineRules`. DataError for rows of several task types.
    """
    chosen, reader = MineRules(**rules), KeyReader(MineRules(**rules))
    _check_kinds({example.task_type for example in examples})
    columns = {name: [getattr(example, name) for example in examples] for name in _KEY_COLUMNS}
    counts = np.array([len(example.negatives) for example in examples], np.int64)
    keys = reader.read(columns, counts)
    report = MineReport(rows=len(examples), max_score=chosen.max_score)
    mined = [_cut(example, own, chosen.per_query) for example, own in zip(examples, keys["language"] >= 0, strict=True)]
    report.given = sum(len(mined[row].negatives) for row in np.flatnonzero(~keys["needs"]))
    if keys["needs"].any():
        _mine_in_memory(mined, keys, list(reader.languages), Encoder(encode, encode_query or encode), chosen, report)
    return mined, report


_KEY_COLUMNS = ("query", "positive", "task_type", "doc_lang", "label")


def _check_kinds(kinds: set[str]) -> None:
    if len(kinds) > 1:
        raise DataError(f"a source has one task type, but these rows have {', '.join(sorted(kinds))}; split the source")


def _cut(example: Example, part: bool, limit: int) -> Example:
    return replace(example, negatives=example.negatives[:limit]) if part and len(example.negatives) > limit else example


@dataclass(frozen=True)
class _Memory:
    """Vectors of the documents of rows in memory."""

    plan: Plan
    vectors: Vectors

    def pool(self, pool: PoolRange) -> Vectors:
        return self.documents(self.plan.members[pool.start : pool.stop].astype(np.int64))

    def documents(self, documents: Ints) -> Vectors:
        return self.vectors[self.plan.place[documents]]


def _mine_in_memory(
    examples: list[Example], keys: RowKeys, languages: list[str], encoder: Encoder, rules: MineRules, report: MineReport
) -> None:
    """Put negatives into the rows that need some."""
    plan, rows = make_plan([keys], [languages], rules), np.flatnonzero(keys["needs"])
    texts = [examples[row].positive for row in plan.encoded_in(0, keys["positive"])[1]]
    brought = ((row, examples[row].negatives) for row in rows.tolist() if examples[row].negatives)
    given = given_negatives(plan, keys, brought)
    store = _Memory(plan, unit_vectors(encoder.encode, texts))
    queries = _queries(examples, keys, encoder) if rules.anchor == "query" else None
    found = search_rows(plan, 0, keys, languages, given, store, queries, rules)
    found.count(report, rules.per_query - np.bincount(given.row, minlength=len(keys)))
    report.given += len(given.row)
    kept = defaultdict[int, list[str]](list)
    for row, slot in zip(given.row.tolist(), given.slot.tolist(), strict=True):
        kept[row].append(examples[row].negatives[slot])
    counts, places = (found.mined + found.random).tolist(), plan.place[plan.members[found.member]].tolist()
    for row in rows.tolist():
        new = [texts[place] for place in places[row][: counts[row]]]
        examples[row] = replace(examples[row], negatives=(*kept[row], *new))
    for row in rows[drawn(rows, rules.seed)].tolist():
        nearest = [texts[place] for place in places[row][: found.mined[row]]]
        own, members = examples[row], found.member[row, : len(nearest)]
        scores = exact_scores(plan, keys, store, queries, row, members)
        report.samples.append(sample(row, own.query, own.positive, float(found.positive[row]), nearest, scores))


def _queries(examples: Sequence[Example], keys: RowKeys, encoder: Encoder) -> tuple[Vectors, Ints]:
    """Vectors of the distinct queries of the rows that need negatives, and the index of each row's."""
    distinct, index = dict[str, int](), np.zeros(len(examples), np.int64)
    for row in np.flatnonzero(keys["needs"]).tolist():
        index[row] = distinct.setdefault(examples[row].query, len(distinct))
    return unit_vectors(encoder.encode_query, list(distinct)), index


def _check_target(out_dir: Path, targets: Sequence[Path]) -> None:
    other = sorted(set(out_dir.glob("*.parquet")) - set(targets)) if out_dir.is_dir() else []
    if other:
        raise DataError(
            f"{other[0]} is no shard of this source; delete it, or choose another folder for the mined rows"
        )


def _work_folder(inputs: Sequence[Path], out_dir: Path, make_encoder: Callable[[], Encoder], rules: MineRules) -> Path:
    """A hidden folder of this source, encoder and rules; what killed runs of others left is removed."""
    states = [(path.name, state.st_size, state.st_mtime_ns) for path in inputs for state in [path.stat()]]
    encoder = sha256(pickle.dumps(make_encoder)).hexdigest()
    folder = out_dir / f".mining-{digest_json([states, encoder, asdict(rules)])[:16]}"
    with explained(out_dir):
        folder.mkdir(parents=True, exist_ok=True)
        for other in out_dir.glob(".mining-*"):
            if other != folder:
                shutil.rmtree(other)
    return folder


_Call = tuple[Callable[..., Any], dict[str, Any]]


@dataclass(frozen=True)
class _Run:
    """The phases of `mine_source`."""

    inputs: list[Path]
    targets: list[Path]
    folder: Path
    make_encoder: Callable[[], Encoder]
    rules: MineRules
    engine: Engine

    def report(self) -> MineReport:
        """Run all phases."""
        counts = [count_examples(path) for path in self.inputs]
        looks = self._map(
            "look", [(files.look, {"source": path, "per_query": self.rules.per_query}) for path in self.inputs], counts
        )
        _check_kinds({kind for look in looks for kind in look["kinds"]})
        languages = self._prepare(counts) if any(look["needs"] for look in looks) else [[] for _ in looks]
        last = [self._last(shard, *pair) for shard, pair in enumerate(zip(looks, languages, strict=True))]
        report = MineReport(
            rows=sum(counts), given=sum(look["given"] for look in looks), max_score=self.rules.max_score
        )
        for found in self._map("search", last, counts):
            if found is not None:
                report.add(found, self.rules.seed)
        return report

    def _prepare(self, counts: list[int]) -> list[list[str]]:
        """Keys, plan, vectors and pools; returns the languages that the keys of each shard number."""
        shared = {"folder": self.folder}
        each = [{"source": path, "shard": shard, **shared} for shard, path in enumerate(self.inputs)]
        languages = self._map("keys", [(files.write_keys, own | {"rules": asdict(self.rules)}) for own in each], counts)
        plan = make_plan(files.KeyFiles(self.folder, len(counts)), languages, self.rules)
        plan.save(self.folder)
        encode = [(files.write_documents, own | {"make_encoder": self.make_encoder}) for own in each]
        self._map("encode", encode, counts)
        sizes = [stop - start for start, stop in map(plan.file_range, range(plan.files()))]
        self._map("pools", [(files.write_pools, {"file": file, **shared}) for file in range(plan.files())], sizes)
        return languages

    def _last(self, shard: int, look: dict[str, Any], languages: list[str]) -> _Call:
        ends = {"source": self.inputs[shard], "target": self.targets[shard]}
        if not look["needs"]:
            return files.pass_shard, ends | {"cut": self.rules.per_query if look["cut"] else None}
        more = {"languages": languages, "make_encoder": self.make_encoder, "rules": asdict(self.rules)}
        return files.mine_shard, ends | {"folder": self.folder, "shard": shard} | more

    def _map(self, phase: str, calls: Sequence[_Call], rows: Sequence[int]) -> list[Any]:
        tasks = [
            Task(self.folder / f"{phase}-{number:05}.json", run, arguments, count)
            for number, ((run, arguments), count) in enumerate(zip(calls, rows, strict=True))
        ]
        return self.engine.map(tasks, f"mine: {phase}")
