"""Which tasks of mteb are evaluated: the paper's family, benchmarks and tasks by name, local mirrors, a time budget.

benchmarks.tsv beside this module holds the 17 benchmarks of F2LLM-v2 (table 2 of the paper) with their tasks, 608 rows
and 430 distinct tasks, as mteb 2.26 defines them. What a benchmark takes of a task, its splits and subsets, is asked
of the installed mteb; a task of several benchmarks runs once, with all subsets that any of them takes.

Cost: `family` reads one small file; whatever needs mteb takes about four seconds to import it. Limits: mteb is the
extra `eval`; a task's cost is estimated by its characters and its type, so scoring a large corpus is underestimated.
"""

from __future__ import annotations

import csv
import difflib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from f2llm.core.errors import ConfigError, DataError
from f2llm.core.extras import optional

FAMILIES = {"f2llm-v2": "benchmarks.tsv"}
# The longest of the local tasks on two cores; mteb fits ten classifiers a task, and clusters ten samples.
_SCORING_SECONDS = {"Classification": 5.0, "MultilabelClassification": 5.0, "Clustering": 2.5}
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True)
class Family:
    """A set of benchmarks: `members` is benchmark -> its tasks, by mteb's names and in the paper's order."""

    name: str
    members: Mapping[str, tuple[str, ...]]

    @property
    def benchmarks(self) -> list[str]:
        return list(self.members)

    @property
    def tasks(self) -> list[str]:
        """The distinct tasks, in order of first appearance."""
        return list(dict.fromkeys(task for tasks in self.members.values() for task in tasks))

    def as_dict(self) -> dict[str, list[str]]:
        return {"benchmarks": self.benchmarks, "tasks": self.tasks}


def family(name: str = "f2llm-v2") -> Family:
    """The benchmarks and tasks of a family; ConfigError for a name that there is not."""
    if name not in FAMILIES:
        raise ConfigError(f"--family is {name!r}; there is {', '.join(FAMILIES)}")
    text = (resources.files(__package__) / FAMILIES[name]).read_text(encoding="utf-8")
    members: dict[str, list[str]] = {}
    for row in csv.DictReader(text.splitlines(), delimiter="\t"):
        members.setdefault(row["benchmark"], []).append(row["task"])
    return Family(name, {benchmark: tuple(tasks) for benchmark, tasks in members.items()})


def unknown_to_mteb(wanted: Family) -> list[str]:
    """Benchmarks and tasks of a family that the installed mteb does not have; empty where it has all of them."""
    benchmarks, tasks = set(_benchmark_names()), set(task_names())
    return [*(b for b in wanted.benchmarks if b not in benchmarks), *(t for t in wanted.tasks if t not in tasks)]


def benchmark_parts(benchmark: str) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """Task -> (splits, subsets) that a benchmark takes of it; ConfigError for a name that mteb does not have."""
    if benchmark not in _benchmark_names():
        raise ConfigError(
            f"--benchmark is {benchmark!r}, which mteb does not have{_nearest(benchmark, _benchmark_names())}"
        )
    parts: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {}
    for task in optional("mteb", "eval").get_benchmark(benchmark).tasks:
        splits, subsets = parts.get(task.metadata.name, ((), ()))
        parts[task.metadata.name] = (_joined(splits, task.eval_splits), _joined(subsets, task.hf_subsets))
    return parts


def choose_tasks(
    *,
    tasks: Sequence[str] = (),
    benchmarks: Sequence[str] = (),
    family_name: str | None = None,
    local: Sequence[Any] = (),
) -> list[Any]:
    """Task objects of mteb for the names given, each once; all of `local` where nothing is named.

    `local` are task objects whose rows are read from local files; they go before mteb's own of the same name. A named
    task runs whole, one of a benchmark with the splits and subsets that the benchmarks named take. ConfigError for a
    name that there is not, with the nearest one.
    """
    at_hand = {task.metadata.name: task for task in local}
    wanted: dict[str, tuple[tuple[str, ...], tuple[str, ...]] | None] = dict.fromkeys(tasks)
    for benchmark in [*benchmarks, *(family(family_name).benchmarks if family_name else [])]:
        for name, (splits, subsets) in benchmark_parts(benchmark).items():
            before = wanted.get(name, ((), ()))
            wanted[name] = before and (_joined(before[0], splits), _joined(before[1], subsets))
    if not wanted:
        return list(local)
    return [at_hand[name] if name in at_hand else _task(name, parts, at_hand) for name, parts in wanted.items()]


def _task(name: str, parts: tuple[tuple[str, ...], tuple[str, ...]] | None, local: Iterable[str]) -> Any:
    names = task_names()
    if name not in names:
        raise ConfigError(f"there is no task {name!r}{_nearest(name, [*local, *names])}")
    task = optional("mteb", "eval").get_task(name)
    if parts and not task.is_aggregate:
        task.filter_eval_splits(eval_splits=list(parts[0]))
        task.filter_languages(None, hf_subsets=list(parts[1]))
    return task


def _joined(first: Sequence[str], second: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*first, *second]))


def _nearest(name: str, names: Sequence[str]) -> str:
    found = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean {found[0]!r}?" if found else ""
    return f"{hint} (f2llm eval --family f2llm-v2 --list names the paper's)"


@cache
def _benchmark_names() -> tuple[str, ...]:
    return tuple(benchmark.name for benchmark in optional("mteb", "eval").get_benchmarks())


@cache
def task_names() -> tuple[str, ...]:
    """The names of all tasks that the installed mteb has."""
    # Not mteb.get_tasks: it makes an object of each, which seeds torch two thousand times.
    return tuple(kind.metadata.name for kind in optional("mteb.get_tasks", "eval").TASK_LIST)


def go_offline() -> None:
    """Let neither huggingface_hub nor datasets ask the network, in this process and those that it starts."""
    os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
    # Both read the environment when they are first imported, which may be over.
    optional("huggingface_hub.constants", "eval").HF_HUB_OFFLINE = True
    config = optional("datasets.config", "eval")
    config.HF_HUB_OFFLINE = config.HF_DATASETS_OFFLINE = True


def parts_of(task: Any) -> list[Any]:
    """The tasks that hold the rows: the task itself, or those that an aggregate task combines."""
    return list(task.tasks) if task.is_aggregate else [task]


def load(task: Any) -> None:
    """Read a task's rows; DataError in one sentence where its data set is not to be had."""
    for part in parts_of(task):
        if part.data_loaded:
            continue
        try:
            part.load_data()
        except DataError:
            raise
        except Exception as error:  # of datasets, the hub, the HTTP client, the file system and the task's own code
            raise DataError(
                f"the data set {part.metadata.dataset['path']} of {part.metadata.name} cannot be read "
                f"({_first_line(error)}); name a folder that holds it with --data, or fetch it once with a network"
            ) from None


def unload(task: Any) -> None:
    """Give the memory of a task's rows back."""
    for part in parts_of(task):
        if part.data_loaded:
            part.unload_data()


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def parse_budget(text: str) -> float:
    """Seconds of a duration such as "90s", "30m", "2h" or "1.5h"; ConfigError for anything else."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhd])\s*", text)
    if not found or not float(found[1]):
        raise ConfigError(f"--budget is {text!r}; give a number and s, m, h or d, such as 30m")
    return float(found[1]) * _SECONDS[found[2]]


def characters(task: Any) -> int:
    """Characters of the texts that a task has encoded, as far as can be known.

    mteb's own statistics where it has them, of the splits and subsets asked for; otherwise the rows are read and
    counted. The training rows of classification, of which a handful is taken, do not count.
    """
    return sum(_characters(part) for part in parts_of(task))


def _characters(task: Any) -> int:
    statistics = task.metadata.descriptive_stats
    if not statistics or not set(task.eval_splits) <= set(statistics):
        load(task)
        return sum(_text_length(split) for split in _splits(task))
    total = 0
    for split in task.eval_splits:
        by_subset = statistics[split].get("hf_subset_descriptive_stats") or {}
        named = [by_subset[subset] for subset in task.hf_subsets if subset in by_subset]
        whole = {key: value for key, value in statistics[split].items() if key != "hf_subset_descriptive_stats"}
        total += sum(map(_stated_length, named)) if named else _stated_length(whole)
    return total


def _stated_length(statistics: Any) -> int:
    """The sum of `total_text_length` at any depth."""
    if not isinstance(statistics, dict):
        return 0
    own = int(statistics.get("total_text_length") or 0)
    return own + sum(_stated_length(value) for value in statistics.values())


def _splits(task: Any) -> list[Any]:
    """The rows of the splits asked for: in mteb subset -> split -> rows, or split -> rows where there is one subset."""
    subsets = [task.dataset[name] for name in task.hf_subsets if name in task.dataset] or [task.dataset]
    return [subset[split] for subset in subsets for split in task.eval_splits if split in subset]


def _text_length(rows: Any) -> int:
    """Characters of all strings in rows, whatever holds them."""
    if isinstance(rows, str):
        return len(rows)
    if isinstance(rows, dict):
        # Relevance judgements and rankings of a retrieval task hold ids, not texts.
        return sum(
            _text_length(value) for key, value in rows.items() if key not in ("relevant_docs", "top_ranked", "id")
        )
    return sum(map(_text_length, rows)) if hasattr(rows, "__iter__") else 0


def scoring_seconds(task: Any) -> float:
    """What reading a task and mteb's scoring take beside encoding, for one dimension and precision: rough, by type."""
    return sum(_SCORING_SECONDS.get(part.metadata.type, 1.0) for part in parts_of(task))


def within_budget(costs: Mapping[str, Sequence[float]], budget_seconds: float) -> tuple[list[str], list[str]]:
    """The tasks that fit, cheapest first, and those left out; `costs` is task -> its seconds on each model."""
    taken: list[str] = []
    left: list[str] = []
    spent = 0.0
    for name in sorted(costs, key=lambda name: sum(costs[name])):  # stable: equal ones keep their order
        spent += sum(costs[name])
        (taken if spent <= budget_seconds else left).append(name)
    return taken, left
