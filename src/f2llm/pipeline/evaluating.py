"""Tasks of mteb on model directories: what `f2llm eval` runs, one model after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from f2llm.core.errors import ConfigError
from f2llm.core.log import log, warn
from f2llm.eval.local_tasks import local_tasks
from f2llm.eval.mteb_model import is_qwen3
from f2llm.eval.mteb_run import evaluate_directory
from f2llm.eval.mteb_tasks import choose_tasks, family, go_offline, parse_budget, unknown_to_mteb
from f2llm.eval.results import TaskResult
from f2llm.model import checkpoint


def family_listing(name: str) -> dict[str, Any]:
    """Benchmarks and tasks of a family, as `--list --json` prints them."""
    return family(name).as_dict()


def evaluate_models(
    models: Sequence[Path | str],
    out: Path,
    *,
    tasks: Sequence[str] = (),
    benchmarks: Sequence[str] = (),
    family_name: str | None = None,
    data: Path | None = None,
    dims: Sequence[int] | None = None,
    precisions: Sequence[Any] = ("float32",),
    budget: str | None = None,
    instructions: Path | None = None,
    footprint: bool = True,
) -> dict[str, list[TaskResult]]:
    """Results by model; each model's files lie in `out/NAME`, and what is there is not computed again.

    `data`: tasks come from local files, and nothing is asked of the network. `footprint` measures memory and speed of
    each model once. ConfigError where no task is named.
    """
    if data is not None:
        go_offline()
    local = local_tasks(data) if data is not None else []
    chosen = choose_tasks(tasks=tasks, benchmarks=benchmarks, family_name=family_name, local=local)
    if not chosen:
        raise ConfigError("no task is named; give --task, --benchmark, --family, or --data for the local ones")
    directories = [checkpoint.resolve(model) for model in models]
    for directory in directories:
        is_qwen3(directory)  # a wrong one is told before the first is evaluated
    if family_name is not None and (unknown := unknown_to_mteb(family(family_name))):
        warn(f"the installed mteb does not know {len(unknown)} of the tasks: {', '.join(unknown[:5])}")
    seconds = parse_budget(budget) if budget else None
    found = {}
    for name, directory in zip(_names(models), directories, strict=True):
        log(f"[bold]{name}[/bold]: {len(chosen)} tasks")
        found[name] = evaluate_directory(
            directory, chosen, out / name, name=name, data=data, dims=dims, precisions=precisions,
            budget_seconds=seconds, instructions_file=instructions, footprint=footprint,
        )  # fmt: skip
    return found


def results_table(results: Mapping[str, Sequence[TaskResult]]) -> Table:
    """Main scores by task, a column a model: of the full width in float32, or what comes nearest to it."""
    table = Table("task", "type", *results, box=None)
    best = {name: {result.task: result for result in sorted(own, key=_nearness)} for name, own in results.items()}
    for task in dict.fromkeys(result.task for own in results.values() for result in own):
        row = [own.get(task) for own in best.values()]
        kind = next(result.task_type for result in row if result is not None)
        scores = (None if result is None else result.main_score for result in row)
        table.add_row(task, kind, *("-" if score is None else f"{score:.3f}" for score in scores))
    return table


def _nearness(result: TaskResult) -> tuple[bool, float]:
    return result.precision == "float32", result.dims or float("inf")


def _names(models: Sequence[Path | str]) -> list[str]:
    """The last part of each path that tells it from the others; an export's is the folder above `model`."""
    parts = [[part for part in Path(model).resolve().parts if part != "model"] for model in models]
    names = [own[-1] for own in parts]
    names = ["-".join(own[-2:]) if names.count(name) > 1 else name for own, name in zip(parts, names, strict=True)]
    if len(set(names)) < len(names):
        raise ConfigError("two of the models have the same name; evaluate them one at a time, each with its own --out")
    return names
