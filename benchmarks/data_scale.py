"""Time and memory of the whole way from raw files to token ids, as rows grow, and what sixty million rows would take.

Run it with: python benchmarks/data_scale.py --rows 100000 1000000

For each number of rows it writes raw files as users have them, with a recipe, and runs `f2llm data tokenize` on them:
convert, clean (near duplicates, languages, evaluation sets), mine by character n-grams, tokenize as Qwen3 does.

The rows are those of cleaning.py: quarters of four real lines (NTREX) in two languages, so that millions of rows are
different and yet are text; 3% are exact copies of an earlier row, 5% copies with a letter changed in both texts, 0.5%
show a line of the evaluation set. Each of `--sources` has a file for each of `--pairs` of languages, in turn JSON
lines, TSV and compressed JSON lines; the documents of every second pair are English. As rows grow the files do, not
their number: a language has ten times the documents to search.

Memory is the proportional set size of the command and all its descendants, four times a second; pages of files that are
only cached count too, so `anonymous` is told beside it. Seconds of a step are those of its manifests; `alone_share` of
them passed while no worker computed. The projection goes on along the line through the first size and the last, and
divides by the cores what workers did: it takes for granted that the file system keeps up, and that a machine has
`peak_driver_MB` and for each core `peak_worker_MB` of memory.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import IO, Any

from cleaning import EDITED, EVALUATION_LINES, draw, quarters, read_lines

from f2llm.core.files import read_json, write_text
from f2llm.data.engine import cores

INTERVAL_S = 0.25
STEPS = ("convert", "evaluation-sets", "clean", "tokenizer", "mine", "tokenize", "card")
KINDS = (".jsonl", ".tsv", ".jsonl.gz")
MACHINE_CORES = 16
Json = dict[str, Any]


def main() -> None:
    options = parse()
    lines, sizes = read_lines(options.data), []
    for rows in options.rows:
        with tempfile.TemporaryDirectory(dir=options.work) as folder:
            sizes.append(measure(Path(folder), lines, rows, options))
        print(json.dumps(sizes[-1]), file=sys.stderr)
    print(json.dumps(summary(sizes, options), indent=2))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--sources", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=20, help="pairs of languages, each a file of every source")
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--work", type=Path, help="folder for the files; 4 kB a row")
    parser.add_argument("--workers", type=int, default=cores())
    parser.add_argument("--set", dest="overrides", nargs="*", default=[], help="keys of the recipe: a.b=value")
    parser.add_argument("--project", type=int, default=60_000_000)
    parser.add_argument("--machines", type=int, nargs="+", default=[4, 16], help=f"of {MACHINE_CORES} cores")
    return parser.parse_args()


def measure(folder: Path, lines: dict[str, list[str]], rows: int, options: argparse.Namespace) -> Json:
    """One size: write the files, run the command, and read what it left."""
    started = time.perf_counter()
    made = write_raw(folder, lines, rows, options.sources, options.pairs)
    write_text(folder / "recipe.toml", recipe(options))
    made["seconds"] = round(time.perf_counter() - started, 1)
    out, started = folder / "out", time.perf_counter()
    watch = run(folder, out, options)
    seconds = time.perf_counter() - started
    return {
        "rows": rows,
        "made": made,
        "minutes": round(seconds / 60, 2),
        "rows_per_second": round(rows / seconds),
        "steps": {step: watch.of(step) | {"seconds": round(total, 1)} for step, total in step_seconds(out).items()},
        "peak_MB": megabytes(watch.peak),
        "peak_anonymous_MB": megabytes(watch.peak_anonymous),
        "peak_driver_MB": megabytes(watch.peak_driver),
        "peak_worker_MB": megabytes(watch.peak_worker),
        "result": result(out),
    }


# ---- raw files and their recipe


def write_raw(folder: Path, lines: dict[str, list[str]], rows: int, sources: int, pairs: int) -> Json:
    """Files of all sources and of the evaluation set; returns how many rows of each kind they have."""
    plan, tags = draw(rows, len(lines)), language_pairs(list(lines), pairs)
    with ExitStack() as stack:
        files: dict[tuple[int, int], IO[str]] = {}
        for number in range(rows):
            source, pair = number % sources, int(plan["langs"][number, 0]) % pairs  # a copy has its original's pair
            if (source, pair) not in files:
                path = folder / f"source_{source}" / ("-".join(tags[pair]) + kind(source))
                files[source, pair] = stack.enter_context(open_text(path))
            picked, edited = plan["lines"][number].tolist(), plan["kind"][number] == EDITED
            texts = [quarters([lines[tag][line] for line in picked], edited) for tag in tags[pair]]
            files[source, pair].write(row_text(texts, kind(source)))
    for query, doc in tags:
        with open_text(folder / "evaluation" / f"{query}-{doc}.tsv") as file:
            for line in range(EVALUATION_LINES):
                file.write(row_text([lines[query][line], lines[doc][line]], ".tsv"))
    size = sum(path.stat().st_size for path in folder.glob("source_*/*"))
    names = ("new", "exact copies", "edited copies", "leaks")
    counts = {name: int((plan["kind"] == number).sum()) for number, name in enumerate(names)}
    return counts | {"files": len(files), "MB": round(size / 1e6)}


def language_pairs(tags: list[str], pairs: int) -> list[tuple[str, str]]:
    """(query, document): a language of its own for each query, and English or another one for the documents."""
    english, others = tags[0], tags[1:]
    if not 1 <= pairs < len(others):
        raise SystemExit(f"--pairs {pairs}: give 1 to {len(others) - 1}")
    return [(others[place], others[-1 - place // 2] if place % 2 else english) for place in range(pairs)]


def kind(source: int) -> str:
    return KINDS[source % len(KINDS)]


def open_text(path: Path) -> IO[str]:
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".gz":
        return gzip.open(path, "wt", compresslevel=1, encoding="utf-8")
    file = open(path, "w", encoding="utf-8")  # noqa: SIM115 (the caller closes it)
    if path.suffix == ".tsv":
        file.write("query\tpositive\n")
    return file


def row_text(texts: list[str], kind: str) -> str:
    if kind == ".tsv":
        return "\t".join(texts) + "\n"
    return json.dumps(dict(zip(("query", "positive"), texts, strict=True)), ensure_ascii=False) + "\n"


def recipe(options: argparse.Namespace) -> str:
    tokenizer = (options.data / "qwen3-tokenizer" / "tokenizer.json").resolve()
    head = f"""
name = "scale"
tokenizer = {{ path = {json.dumps(str(tokenizer))}, max_seq_length = 512 }}
clean = {{ near_duplicates = 0.8, languages = "count" }}
mine = {{ encoder = "ngrams", pool = 50000 }}
models = [{{ name = "model", size = "80M", stages = [2] }}]
report = {{ default_model = "model" }}
"""
    trained = 'task_type = "retrieval"\ninstruction = "Given a text, find its translation."'
    sources = [
        entry("sources", f"source_{source}", kind(source).removesuffix(".gz"), trained)
        for source in range(options.sources)
    ]
    return head + "".join([*sources, entry("evaluation_sets", "evaluation", ".tsv")])


def entry(table: str, name: str, kind: str, more: str = "") -> str:
    return f"""
[[{table}]]
id = "{name}"
converter = "pairs_table"
path = "{name}"
{more}
options = {{ files = "{{query}}-{{doc}}{kind}", query = ["query"], positive = ["positive"] }}
"""


# ---- the command and its processes


def run(folder: Path, out: Path, options: argparse.Namespace) -> Watch:
    """Run the command to its end, watched."""
    command = [sys.executable, "-m", "f2llm", "data", "tokenize", str(folder / "recipe.toml"), "--out", str(out)]
    command += ["--workers", str(options.workers), "--json", *(f"--set={value}" for value in options.overrides)]
    with open(folder / "stdout", "w") as said, subprocess.Popen(command, stdout=said) as process:
        watch = Watch(process.pid, out)
        while process.poll() is None:
            watch.look()
            time.sleep(INTERVAL_S)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed with exit code {process.returncode}")
    json.loads((folder / "stdout").read_text())
    return watch


@dataclass
class Usage:
    """What was seen of a step: peak of memory in bytes, seconds of CPU, seconds in which no worker computed."""

    peak: int = 0
    driver_cpu: float = 0.0
    workers_cpu: float = 0.0
    looks: int = 0
    alone: int = 0


@dataclass
class Watch:
    """Memory and CPU time of a process and its descendants, by the step that it is at."""

    pid: int
    out: Path
    peak: int = 0
    peak_anonymous: int = 0
    peak_driver: int = 0
    peak_worker: int = 0
    usage: dict[str, Usage] = field(default_factory=lambda: defaultdict(Usage))
    cpu: dict[int, float] = field(default_factory=dict)

    def look(self) -> None:
        tree = family(self.pid)
        memory = {pid: memory_of(pid) for pid in tree}
        total, anonymous = (sum(values) for values in zip(*memory.values(), strict=True))
        self.peak, self.peak_anonymous = max(self.peak, total), max(self.peak_anonymous, anonymous)
        self.peak_driver = max(self.peak_driver, memory.pop(self.pid)[0])
        self.peak_worker = max([self.peak_worker, *(size for size, _ in memory.values())])
        used = {pid: seconds - self.cpu.get(pid, 0.0) for pid, seconds in tree.items()}
        self.cpu = tree
        driver = used.pop(self.pid, 0.0)
        found = self.usage[self.step()]
        found.peak = max(found.peak, total)
        found.driver_cpu, found.workers_cpu = found.driver_cpu + driver, found.workers_cpu + sum(used.values())
        found.looks, found.alone = found.looks + 1, found.alone + (sum(used.values()) < INTERVAL_S / 10)

    def step(self) -> str:
        """The group of the step at work: what is begun and not yet in its place."""
        return next((step for step in STEPS if (self.out / ".partial" / step).exists()), "")

    def of(self, step: str) -> Json:
        found = self.usage[step]
        return {
            "peak_MB": megabytes(found.peak),
            "alone_share": round(found.alone / max(found.looks, 1), 3),
            "driver_cpu_seconds": round(found.driver_cpu, 1),
            "workers_cpu_seconds": round(found.workers_cpu, 1),
        }


def family(root: int) -> dict[int, float]:
    """A process and its descendants, each with the seconds of CPU that it used."""
    parents, seconds = dict[int, int](), dict[int, float]()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            cells = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has just ended
        pid = int(path.parent.name)
        parents[pid], seconds[pid] = int(cells[1]), (int(cells[11]) + int(cells[12])) / os.sysconf("SC_CLK_TCK")
    return {pid: seconds[pid] for pid in parents if root in ancestry(pid, parents)} | {root: seconds.get(root, 0.0)}


def ancestry(pid: int, parents: dict[int, int]) -> Iterator[int]:
    while pid in parents:
        yield pid
        pid = parents[pid]


def memory_of(pid: int) -> tuple[int, int]:
    """Proportional set size of a process in bytes, and the anonymous part of it."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0, 0
    found = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines[1:] if line.endswith("kB")}
    return found.get("Pss", 0), found.get("Pss_Anon", 0)


def megabytes(size: int) -> int:
    return round(size / 1e6)


# ---- what came out


def step_seconds(out: Path) -> dict[str, float]:
    """Seconds by group of steps, in the order in which they ended."""
    found: dict[str, float] = {}
    for path in sorted(out.rglob("manifest.json"), key=lambda path: path.stat().st_mtime):
        group = path.relative_to(out).parts[0]
        found[group] = found.get(group, 0.0) + read_json(path)["wall_time_s"]
    return found


def result(out: Path) -> Json:
    """Rows in and out of cleaning, drops by reason."""
    sources = read_json(out / "clean" / "drops.json").values()
    dropped: Counter[str] = Counter()
    for counts in sources:
        dropped.update(counts["dropped"])
    rows, train, evaluation = (sum(counts[name] for counts in sources) for name in ("rows", "train", "eval"))
    return {"rows": rows, "train": train, "eval": evaluation, "dropped": dict(dropped.most_common())}


def summary(sizes: list[Json], options: argparse.Namespace) -> Json:
    found: Json = {"date": date.today().isoformat(), "workers": options.workers, "cores": cores(), "sizes": sizes}
    if len(sizes) > 1:
        found["ratio"] = {name: round(sizes[-1][name] / sizes[0][name], 2) for name in ("rows", "minutes", "peak_MB")}
    return found | {"projection": project(sizes, options)}


def project(sizes: list[Json], options: argparse.Namespace) -> Json:
    """Hours for more rows, by step, on machines of other sizes."""
    alone = {step: extrapolated(sizes, step, options.project, alone=True) / 3600 for step in sizes[-1]["steps"]}
    spread = {step: extrapolated(sizes, step, options.project, alone=False) / 3600 for step in alone}

    def hours(used: int) -> Json:
        by_step = {step: alone[step] + spread[step] * options.workers / used for step in alone}
        return {"cores": used, "hours": round(sum(by_step.values()), 2), **rounded(by_step)}

    counts = (1, *options.machines)
    return {
        "rows": options.project,
        "this machine": hours(options.workers),
        **{f"{count} x {MACHINE_CORES} cores": hours(count * MACHINE_CORES) for count in counts},
        "of these, without workers": rounded(alone),
    }


def extrapolated(sizes: list[Json], step: str, rows: int, alone: bool) -> float:
    """Seconds of a step, with or without its workers, on the line through the first size and the last."""

    def of(size: Json) -> float:
        found = size["steps"][step]
        share: float = found["alone_share"]
        return found["seconds"] * (share if alone else 1 - share)

    last = sizes[-1]
    before, seconds = (sizes[0]["rows"], of(sizes[0])) if len(sizes) > 1 else (0, 0.0)
    return max(of(last), of(last) + (of(last) - seconds) * (rows - last["rows"]) / (last["rows"] - before))


def rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 2) for name, value in values.items()}


if __name__ == "__main__":
    main()
