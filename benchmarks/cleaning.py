"""Time and memory of cleaning, phase by phase, and of its parts: language identification, duplicates, leaks.

Run it with: python benchmarks/cleaning.py --rows 20000

The rows are made of real lines (NTREX, 129 languages, from `--data`): the first quarter of one line, the second of
another, and so on, in two languages, so that millions of rows are different and yet are text; 3% are exact copies of an
earlier row, 5% copies with a letter changed in both texts, 0.5% are lines of the evaluation set. They are written as
`--sources` files. Each step runs in a process of its own; its peak memory is the kernel's VmHWM, its `cpu_seconds`
count both cores. `recall` is the share of copies (rows of the same lines and languages, but for the first of each) that
were found; `precision` the share of the rows found whose remaining row is such a copy. `plain` is `clean` with nothing
else switched on, `full` with everything; both give the microseconds of one core for a row in each phase.
"""

from __future__ import annotations

import argparse
import gzip
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from f2llm.core.languages import language
from f2llm.core.types import Example
from f2llm.data.clean import CleanRules, clean
from f2llm.data.decontaminate import find_leaks
from f2llm.data.dedup import find_duplicates
from f2llm.data.engine import LocalEngine, Task
from f2llm.data.examples import ROW_GROUP, write_examples
from f2llm.data.fingerprints import mix
from f2llm.data.langid import LanguageCounts, judge, load_identifier

LINES, EVALUATION_LINES = 1997, 200
COPY, EDITED, LEAK = 1, 2, 3


def main() -> None:
    options = parse()
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        work = Path(folder)
        result: dict[str, Any] = {"rows": options.rows, "make": alone(make, work, options)}
        for step in (plain, full, identify, duplicates, leaks):
            if step.__name__ in options.steps:
                result[step.__name__] = alone(step, work, options)
    print(json.dumps(result | {"date": date.today().isoformat()}, indent=2))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--sources", type=int, default=4)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--work", type=Path, help="folder for the files; several hundred bytes a row")
    parser.add_argument("--steps", nargs="+", default=["plain", "full", "identify", "duplicates", "leaks"])
    parser.add_argument("--memory-limit", default="1GB")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


Step = Callable[[Path, argparse.Namespace], dict[str, Any]]


def alone(step: Step, work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What a step returns, with its seconds and its peak of memory, from a new process."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(measured, step, work, options).result()


def measured(step: Step, work: Path, options: argparse.Namespace) -> dict[str, Any]:
    started, busy = time.perf_counter(), time.process_time()
    found = step(work, options)
    seconds, busy = time.perf_counter() - started, time.process_time() - busy
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
    rate = {"seconds": round(seconds, 1), "cpu_seconds": round(busy, 1), "peak_MB": round(peak)}
    return rate | {"rows_per_second": round(options.rows / seconds)} | found


def files(work: Path, options: argparse.Namespace) -> dict[str, Path]:
    return {f"source_{number}": work / f"source_{number}.parquet" for number in range(options.sources)}


# ---- rows


def read_lines(data: Path) -> dict[str, list[str]]:
    """The 1,997 aligned lines of each language; English first."""
    folder = data / "ntrex-128" / "NTREX-128"
    found = {}
    for path in [folder / "newstest2019-src.eng.txt.gz", *sorted(folder.glob("newstest2019-ref.*.gz"))]:
        tag = language(path.name.split(".")[1]).tag
        found.setdefault(tag, gzip.decompress(path.read_bytes()).decode("utf-8").replace("\r", "").split("\n")[:LINES])
    return found


def evaluation(lines: dict[str, list[str]]) -> list[tuple[str, str]]:
    return [(tag, text) for tag, texts in lines.items() for text in texts[:EVALUATION_LINES]]


def make(work: Path, options: argparse.Namespace) -> dict[str, Any]:
    lines = read_lines(options.data)
    plan = draw(options.rows, len(lines))
    np.save(work / "made.npy", made_of(plan))
    for number, path in enumerate(files(work, options).values()):
        write_examples(path, rows(plan, lines, range(number, options.rows, options.sources), f"source_{number}"))
    return {kind: int((plan["kind"] == number).sum()) for number, kind in enumerate(("new", "copy", "edited", "leak"))}


def draw(count: int, languages: int) -> dict[str, Any]:
    """For each row its kind, its two languages and the four lines that it is made of; a copy has an earlier row's."""
    generator = np.random.default_rng(0)
    kind = generator.choice(4, count, p=[0.915, 0.03, 0.05, 0.005]).astype(np.int8)
    kind[0] = 0
    langs = generator.integers(0, languages, (count, 2), dtype=np.int16)
    lines = generator.integers(EVALUATION_LINES, LINES, (count, 4), dtype=np.int16)
    copies, originals = np.flatnonzero((kind == COPY) | (kind == EDITED)), np.flatnonzero(kind == 0)
    before = np.searchsorted(originals, copies)
    origin = originals[(generator.random(len(copies)) * before).astype(np.int64)]
    langs[copies], lines[copies] = langs[origin], lines[origin]
    leaking = np.flatnonzero(kind == LEAK)
    lines[leaking] = (leaking % EVALUATION_LINES)[:, None]
    return {"kind": kind, "langs": langs, "lines": lines}


def made_of(plan: dict[str, Any]) -> NDArray[np.uint64]:
    """A number for each row that rows of the same lines and languages share."""
    parts = np.concatenate([plan["langs"], plan["lines"]], axis=1).astype(np.uint64)
    made = np.zeros(len(parts), np.uint64)
    for column in parts.T:
        made = mix(made * np.uint64(4096) + column + np.uint64(1))
    return made


def rows(plan: dict[str, Any], lines: dict[str, list[str]], numbers: range, source: str) -> Iterator[Example]:
    tags = list(lines)
    for number in numbers:
        edited, picked = plan["kind"][number] == EDITED, plan["lines"][number].tolist()
        langs = [tags[place] for place in plan["langs"][number].tolist()]
        query, positive = (quarters([lines[lang][line] for line in picked], edited) for lang in langs)
        yield Example(str(number), query, positive, (), "retrieval", source, *langs)


def quarters(picked: list[str], edited: bool) -> str:
    parts = [line[len(line) * place // 4 : len(line) * (place + 1) // 4] for place, line in enumerate(picked)]
    text = "".join(parts)
    middle = len(text) // 3
    return text[:middle] + "x" + text[middle + 1 :] if edited else text


# ---- steps


class Watched(LocalEngine):
    """This process, with a note of the seconds of each phase."""

    def __init__(self) -> None:
        super().__init__(1)
        self.seconds: Counter[str] = Counter()

    def map(self, tasks: Sequence[Task], description: str) -> list[Any]:
        started = time.perf_counter()
        results = super().map(tasks, description)
        self.seconds[description.removeprefix("clean: ")] += time.perf_counter() - started
        return results


def plain(work: Path, options: argparse.Namespace) -> dict[str, Any]:
    return cleaned(work, options, CleanRules(0.01, 0), {})


def full(work: Path, options: argparse.Namespace) -> dict[str, Any]:
    lines = evaluation(read_lines(options.data))
    rows = (Example(str(n), text, "", (), "clustering", "set", tag, tag) for n, (tag, text) in enumerate(lines))
    write_examples(work / "set.parquet", rows)
    return cleaned(
        work, options, CleanRules(0.01, 0, near_duplicates=0.8, languages="drop"), {"set": work / "set.parquet"}
    )


def cleaned(work: Path, options: argparse.Namespace, rules: CleanRules, sets: dict[str, Path]) -> dict[str, Any]:
    engine, dropped = Watched(), Counter[str]()
    report = clean(files(work, options), work / "cleaned", rules, evaluation_sets=sets, engine=engine)
    for counts in report.sources.values():
        dropped.update(counts.dropped)
    us_per_row = {phase: round(1e6 * seconds / options.rows, 1) for phase, seconds in engine.seconds.items()}
    return {"us_per_row": us_per_row, "dropped": dict(dropped)}


def identify(work: Path, options: argparse.Namespace) -> dict[str, Any]:
    identifier, counts = load_identifier(), LanguageCounts()
    for path in files(work, options).values():
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(ROW_GROUP, columns=["query", "query_lang"]):
                judge(batch.column(0).to_pylist(), batch.column(1).to_pylist(), identifier, counts)
    return {"verdicts": counts.verdicts()}


def duplicates(work: Path, options: argparse.Namespace) -> dict[str, Any]:
    found = find_duplicates(
        files(work, options), work / "duplicates", memory_limit=options.memory_limit, threads=options.threads
    )
    made = np.load(work / "made.npy")
    right = total = 0
    with pq.ParquetFile(found.path) as file:
        for batch in file.iter_batches(ROW_GROUP, columns=["id", "of_id"]):
            here, there = (np.array(column.to_pylist(), np.int64) for column in batch.columns)
            right, total = right + int((made[here] == made[there]).sum()), total + len(batch)
    dropped: Counter[str] = Counter()
    for counts in found.sources.values():
        dropped.update(counts.dropped)
    recall = right / max(len(made) - len(np.unique(made)), 1)
    return {"dropped": dict(dropped), "recall": round(recall, 4), "precision": round(right / max(total, 1), 4)}


def leaks(work: Path, options: argparse.Namespace) -> dict[str, Any]:
    found = find_leaks(files(work, options), evaluation(read_lines(options.data)), work / "leaks")
    ways: Counter[str] = Counter()
    for (_, _, way), count in found.found.items():
        ways[way] += count
    return {"leaking": sum(counts.leaking for counts in found.sources.values()), "found": dict(ways)}


if __name__ == "__main__":
    main()
