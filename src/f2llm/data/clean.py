"""Clean converted sources and split them into training and evaluation; every row that goes is counted by its reason.

Four phases, each a list of tasks that an engine runs, in this process, in local ones or on a cluster, with one result:

1. `clean_split`, a task for each shard: tidy, faults, the split by groups;
2. `clean_duplicates`, for each source: its equal rows; with `near_duplicates`, `dedup` over all sources;
3. `clean_evaluation`, for each source: the evaluation rows, at most so many of each language;
4. `clean_filter`, for each shard: what may not be trained on goes, the rest is written.

What is the same text in spite of the split is settled by `decontaminate`:

- `drop_train`: a training row that holds an evaluation query anywhere goes (benchmarks that must stay whole);
- `drop_eval`: an evaluation row whose query occurs anywhere in the training texts of any source goes (names, which are
  legitimately the same in many languages: what is left to evaluate on is truly unseen).

`evaluation_sets` are of others (MTEB): a training row that shows one of their texts goes. Sources of `exclude` are
known to hold such texts and go as a whole, held-out rows too; what they show is reported all the same.

Work files (as large as the input, 8 bytes a text and 15 a row) lie in a hidden folder of `out_dir` until the end; after
a kill the same call goes on from there.

Cost: 60 microseconds of one core for a row of two texts of 125 characters, 50 of them in the split (40 where nothing is
held out); 110 more with near duplicates, 90 with evaluation sets, 90 with languages (benchmarks/cleaning.py). Memory:
in this process 8 bytes for each different evaluation query, and at the end the texts of the evaluation sets; in a
worker 10 bytes for each row of one source, 30 for each of its held-out rows, 13 for each row and 8 for each text of one
shard, 250 MB, and what the modules named above state for what is switched on.
"""

from __future__ import annotations

import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from f2llm.core.files import digest_json, explained, write_json
from f2llm.data.clean_duplicates import mark_duplicates
from f2llm.data.clean_evaluation import find_in_training, select_held_out, write_evaluation
from f2llm.data.clean_filter import filter_shard, show_leaks
from f2llm.data.clean_parts import FOUND, KEPT, LEAKS, TRAIN, distinct, load, save_array
from f2llm.data.clean_split import split_shard
from f2llm.data.decontaminate import (
    DEFAULT_EXCLUDED,
    EXCLUDED,
    EvaluationTexts,
    Line,
    read_lines,
    texts_of_examples,
    write_leaks,
)
from f2llm.data.dedup import find_duplicates
from f2llm.data.engine import Engine, LocalEngine, Task
from f2llm.data.examples import count_examples, shards, write_examples
from f2llm.data.langid import LanguageCounts

_OPTIONAL = ("duplicates.parquet", "duplicates.json", "leaks.parquet", "leaks.json", "langid.json")
Decontaminate = Literal["drop_train", "drop_eval"]


@dataclass
class SourceCounts:
    """Where the rows of one source went; `rows == train + evaluation + sum(dropped)`."""

    rows: int = 0
    train: int = 0
    evaluation: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def check(self) -> None:
        assert self.rows == self.train + self.evaluation + self.dropped.total(), self

    def drop(self, reasons: Mapping[str, int]) -> None:
        self.dropped.update({reason: count for reason, count in reasons.items() if count})

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
class CleanRules:
    """What stays and what goes.

    `held_out_fraction` of the groups are for evaluation (0: none), at most `eval_per_language` rows of a source and
    query language. `near_duplicates`: the Jaccard similarity from which on texts are alike (0.8), or None. `exclude`:
    sources that go as a whole. `languages`: "count" says in which language each text is found to be, "drop" also takes
    out rows where that is surely another one than claimed, by a probability of `language_confidence` and more;
    `language_model`: a fastText file instead of py3langid. The last four need the extra `data`.
    """

    held_out_fraction: float
    seed: int
    min_chars: int = 1
    max_chars: int = 20_000
    decontaminate: Decontaminate = "drop_train"
    eval_per_language: int = 200
    near_duplicates: float | None = None
    exclude: tuple[str, ...] = DEFAULT_EXCLUDED
    languages: Literal["off", "count", "drop"] = "off"
    language_model: Path | None = None
    language_confidence: float = 0.9


def clean(
    sources: Mapping[str, Path],
    out_dir: Path,
    rules: CleanRules,
    *,
    evaluated: Mapping[str, str | None] | None = None,
    evaluation_sets: Mapping[str, Path] | None = None,
    engine: Engine | None = None,
) -> CleanReport:
    """Write `train/SOURCE/NNNNN.parquet`, `eval/SOURCE.parquet` and `drops.json` below `out_dir`.

    `sources` maps ids to converted rows, a file or shards; a shard without training rows has no file. `evaluated`
    names the sources that are evaluated (default: all), each with the one document language that its retrieval
    evaluation keeps (None: any); the held-out rows of other sources go. `evaluation_sets` maps names to examples whose
    queries, and positives of retrieval, may not be trained on.

    With `near_duplicates` also `duplicates.parquet` and `duplicates.json`, with evaluation sets `leaks.parquet` and
    `leaks.json`: a `row` in them is counted from 0 over the training candidates of its source, as the split left them
    (over all rows of an excluded source). With languages `langid.json` (the texts that were judged) and
    `langid/SOURCE/NNNNN.parquet`, row by row beside the training shard.
    """
    with ExitStack() as stack:
        if engine is None:
            engine = LocalEngine()
            stack.callback(engine.close)
        run = _Run(sources, out_dir, rules, evaluated, evaluation_sets or {}, engine)
        run.start()
        run.split()
        run.mark_duplicates()
        if rules.held_out_fraction:
            run.evaluate()
        run.filter()
        return run.finish()


class _Run:
    """The phases of one call; what they hand to each other lies in `work`."""

    def __init__(
        self,
        sources: Mapping[str, Path],
        out_dir: Path,
        rules: CleanRules,
        evaluated: Mapping[str, str | None] | None,
        evaluation_sets: Mapping[str, Path],
        engine: Engine,
    ) -> None:
        self.out_dir, self.rules, self.evaluated, self.engine = out_dir, rules, evaluated, engine
        self.report = CleanReport({source: SourceCounts() for source in sources})
        self.shards = {source: shards(path) for source, path in sources.items()}
        self.excluded = [source for source in sources if source in rules.exclude]
        self.cleaned = [source for source in sources if source not in rules.exclude]
        self.sets = dict(evaluation_sets)
        settings = {**asdict(rules), "language_model": str(rules.language_model), "evaluated": evaluated}
        files = [_states(self.shards), _states({name: shards(path) for name, path in self.sets.items()})]
        self.state = digest_json([settings, files])[:16]
        self.work = out_dir / f".clean-{self.state}"
        self.parts = {
            source: [self.work / "parts" / source / f"{number:05}" for number in range(len(files))]
            for source, files in self.shards.items()
        }
        self.first = {source: [0] for source in sources}  # the running number of each shard's first candidate
        self.queries: Path | None = None

    def start(self) -> None:
        """Make the folder of work files; what an earlier call left goes, unless it was this one."""
        with explained(self.out_dir):
            for folder in self.out_dir.glob(".clean-*"):
                if folder != self.work:
                    shutil.rmtree(folder)
            if not self.work.exists():
                for name in _OPTIONAL:
                    (self.out_dir / name).unlink(missing_ok=True)
                for source in self.shards:
                    for part in ("train", "langid"):
                        shutil.rmtree(self.out_dir / part / source, ignore_errors=True)
            for source in self.shards:
                (self.out_dir / "train" / source).mkdir(parents=True, exist_ok=True)
            self.work.mkdir(parents=True, exist_ok=True)

    def split(self) -> None:
        """Phase 1. Excluded sources go at once."""
        for source in self.excluded:
            counts = self.report.sources[source]
            for shard in self.shards[source]:
                counts.rows += count_examples(shard)
                self.first[source].append(counts.rows)
            counts.drop({EXCLUDED: counts.rows})
        bounds = {name: getattr(self.rules, name) for name in ("held_out_fraction", "seed", "min_chars", "max_chars")}
        for source, found in self._each_shard(
            "split", split_shard, lambda source, number: {"shard": self.shards[source][number], **bounds}
        ):
            counts = self.report.sources[source]
            counts.rows += found["rows"]
            counts.drop(found["dropped"])
            self.first[source].append(self.first[source][-1] + found["train"])

    def mark_duplicates(self) -> None:
        """Phase 2. Rows for training are counted when they are dropped, in the last phase."""
        for source, held_out in self._each_source("duplicates", mark_duplicates, lambda source: {}):
            self.report.sources[source].drop({"duplicate": held_out})
        if self.rules.near_duplicates is not None:
            parts = {source: self.parts[source] for source in self.cleaned}
            find_duplicates(
                {source: [part / TRAIN for part in own] for source, own in parts.items()},
                self.out_dir,
                threshold=self.rules.near_duplicates,
                kept={part / TRAIN: part / KEPT for own in parts.values() for part in own},
                work=self.work / "near",
                engine=self.engine,
            )

    def evaluate(self) -> None:
        """Phase 3."""
        keys = self.work / "queries"
        for source, dropped in self._each_source(
            "selection", select_held_out, lambda source: self._selection(source, keys)
        ):
            self.report.sources[source].drop(dropped)
        known = self._find_in_training(keys) if self.rules.decontaminate == "drop_eval" else None
        for source, found in self._each_source(
            "evaluation",
            write_evaluation,
            lambda source: {
                "target": self._evaluation_file(source),
                "queries": keys / f"{source}.kept.npy",
                "known": known,
                "per_language": self.rules.eval_per_language,
            },
        ):
            self.report.sources[source].evaluation = found["rows"]
            self.report.sources[source].drop(found["dropped"])
        if self.rules.decontaminate == "drop_train":
            self.queries = keys / "all.npy"
            save_array(self.queries, distinct(load(keys / f"{source}.kept.npy") for source in self.cleaned))

    def _selection(self, source: str, keys: Path) -> dict[str, Any]:
        is_evaluated = self.evaluated is None or source in self.evaluated
        doc_lang = self.evaluated[source] if self.evaluated and is_evaluated else None
        return {"queries": keys / f"{source}.npy", "evaluated": is_evaluated, "doc_lang": doc_lang}

    def _find_in_training(self, keys: Path) -> Path:
        """A file of the selected queries' keys that occur in the training texts of any source."""
        queries, known = keys / "all.npy", keys / "known.npy"
        save_array(queries, distinct(load(keys / f"{source}.npy") for source in self.cleaned))
        arguments = {"queries": queries}
        found = self._each_shard(
            "look up", find_in_training, lambda source, number: arguments | {"near": self._near(source, number)}
        )
        deque(found, maxlen=0)
        save_array(known, distinct(load(part / FOUND) for source in self.cleaned for part in self.parts[source]))
        return known

    def filter(self) -> None:
        """Phase 4."""
        leaks = {"sets": [[name, str(path)] for name, path in self.sets.items()], "state": self.state}
        languages, checked = LanguageCounts(), Counter[str]()
        for source, found in self._each_shard(
            "filter",
            filter_shard,
            lambda source, number: {
                "target": self.out_dir / "train" / source / f"{number:05}.parquet",
                "source": source,
                "first": self.first[source][number],
                "near": self._near(source, number),
                "queries": self.queries,
                "leaks": leaks if self.sets else None,
                "languages": self._languages(source, number),
            },
        ):
            counts = self.report.sources[source]
            counts.train += found["train"]
            counts.drop(found["dropped"])
            checked[source] += found["checked"]
            languages.texts.update({(claimed, tag, verdict): n for claimed, tag, verdict, n in found["languages"]})
        if self.rules.languages != "off":
            write_json(self.out_dir / "langid.json", languages.to_json())
        if self.sets:
            self._write_leaks(leaks, checked)

    def _languages(self, source: str, number: int) -> dict[str, Any] | None:
        if self.rules.languages == "off":
            return None
        return {
            "target": self.out_dir / "langid" / source / f"{number:05}.parquet",
            "model": self.rules.language_model,
            "drop": self.rules.languages == "drop",
            "confidence": self.rules.language_confidence,
        }

    def _write_leaks(self, leaks: dict[str, Any], checked: Counter[str]) -> None:
        shown = self._each_shard(
            "leaks",
            show_leaks,
            lambda source, number: {
                "shard": self.shards[source][number],
                "source": source,
                "first": self.first[source][number],
                "leaks": leaks,
            },
            self.excluded,
        )
        deque(shown, maxlen=0)
        rows = {source: checked[source] for source in self.cleaned}
        rows |= {source: self.report.sources[source].rows for source in self.excluded}
        known = EvaluationTexts(texts_of_examples(self.sets))
        write_leaks(self.out_dir, self._leaking_lines(), rows, known, excluded=self.excluded)

    def _leaking_lines(self) -> Iterator[list[Line]]:
        for parts in self.parts.values():
            for part in parts:
                yield from read_lines(part / LEAKS)

    def finish(self) -> CleanReport:
        for source, counts in self.report.sources.items():
            counts.check()
            if source in self.excluded or not self.rules.held_out_fraction:
                write_examples(self._evaluation_file(source), [])
        write_json(self.out_dir / "drops.json", self.report.to_json())
        shutil.rmtree(self.work)
        return self.report

    def _evaluation_file(self, source: str) -> Path:
        return self.out_dir / "eval" / f"{source}.parquet"

    def _near(self, source: str, number: int) -> dict[str, Any] | None:
        if self.rules.near_duplicates is None:
            return None
        path = self.out_dir / "duplicates.parquet"
        return {"duplicates": path, "source": source, "first": self.first[source][number]}

    def _each_shard(
        self,
        phase: str,
        run: Callable[..., Any],
        arguments: Callable[[str, int], dict[str, Any]],
        sources: Sequence[str] | None = None,
    ) -> Iterator[tuple[str, Any]]:
        """(source, result) of a task for each shard of the sources (default: those that are cleaned)."""
        places, tasks = list[str](), list[Task]()
        for source in self.cleaned if sources is None else sources:
            for number, (part, shard) in enumerate(zip(self.parts[source], self.shards[source], strict=True)):
                given = {"part": part, **arguments(source, number)}
                tasks.append(Task(part / f"{phase}.json", run, given, count_examples(shard)))
                places.append(source)
        yield from zip(places, self.engine.map(tasks, f"clean: {phase}"), strict=True)

    def _each_source(
        self, phase: str, run: Callable[..., Any], arguments: Callable[[str], dict[str, Any]]
    ) -> Iterator[tuple[str, Any]]:
        """(source, result) of a task for each source that is cleaned."""
        tasks = []
        for source in self.cleaned:
            given = {"parts": self.parts[source], **arguments(source)}
            tasks.append(Task(self.work / phase / f"{source}.json", run, given, self.report.sources[source].rows))
        yield from zip(self.cleaned, self.engine.map(tasks, f"clean: {phase}"), strict=True)


def _states(files: Mapping[str, Sequence[Path]]) -> list[Any]:
    """What tells files from others of the same names."""
    return [[name, [[str(file), (state := file.stat()).st_size, state.st_mtime_ns] for file in own]]
            for name, own in files.items()]  # fmt: skip
