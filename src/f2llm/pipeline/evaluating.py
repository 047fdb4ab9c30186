"""Tasks of mteb on model directories: what `f2llm eval` runs, one model after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.table import Table

from f2llm.core.errors import ConfigError
from f2llm.core.log import log, warn
from f2llm.eval.local_tasks import local_tasks
from f2llm.eval.mteb_model import is_qwen3
from f2llm.eval.mteb_run import ModelRuns
from f2llm.eval.mteb_tasks import choose_tasks, family, go_offline, parse_budget, unknown_to_mteb, within_budget
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
    weights: str = "float32",
    footprint: bool = True,
) -> dict[str, list[TaskResult]]:
    """Results by model; each model's files lie in `out/NAME`, and what is there is not computed again.

    `data`: tasks come from local files, and nothing is asked of the network. `budget`, such as "30m", is for all models
    together: the same tasks for each, the cheapest that fit, and none is started after it is spent. `footprint`
    measures memory and speed of each model once. `weights` other than float32 are part of a result's name. ConfigError
    where no task is named.
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
    options: dict[str, Any] = {"data": data, "dims": dims, "precisions": precisions, "footprint": footprint}
    options |= {"instructions_file": instructions, "weights": weights}
    run = {
        name: partial(ModelRuns, directory, chosen, out / name, name=name, **options)
        for name, directory in zip(_names(models, weights), directories, strict=True)
    }
    plan = None if seconds is None else _within_budget(run, seconds)
    found = {}
    for name, make in run.items():
        log(f"[bold]{name}[/bold]: {len(chosen if plan is None else plan.tasks)} tasks")
        found[name] = make().results() if plan is None else make().results(plan.tasks, plan.deadline(name))
    return found


class _Plan:
    """The tasks that fit in a budget, the same for every model, and how the time is shared out."""

    def __init__(self, tasks: Sequence[str], seconds: Mapping[str, float], ends: float) -> None:
        self.tasks, self.seconds, self.ends = tasks, dict(seconds), ends

    def deadline(self, name: str) -> float:
        """When this model, the next one, has to start no more tasks: what is left is for the others behind it."""
        share = self.seconds[name] / (sum(self.seconds.values()) or 1.0)
        del self.seconds[name]
        now = time.monotonic()
        return now + (self.ends - now) * (share or 1.0)


def _within_budget(run: Mapping[str, Callable[[], ModelRuns]], seconds: float) -> _Plan:
    """Choose by what each task will take on all models together; says which ones are left out."""
    ends = time.monotonic() + seconds
    by_model = {name: make().seconds() for name, make in run.items()}
    names = next(iter(by_model.values()))
    costs = {task: [own[task] for own in by_model.values()] for task in names}
    taken, left = within_budget(costs, seconds)
    total = sum(sum(costs[task]) for task in taken)
    log(f"--budget: {len(taken)} of {len(names)} tasks, about {total:.0f} s, cheapest first: {_listed(taken)}")
    if left:
        log(f"--budget: left out: {_listed(left)}")
    return _Plan(taken, {name: sum(own[task] for task in taken) for name, own in by_model.items()}, ends)


def _listed(tasks: Sequence[str]) -> str:
    return ", ".join(tasks) or "none"


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


def _names(models: Sequence[Path | str], weights: str = "float32") -> list[str]:
    """The last part of each path that tells it from the others; an export's is the folder above `model`."""
    parts = [[part for part in Path(model).resolve().parts if part != "model"] for model in models]
    names = [own[-1] for own in parts]
    names = ["-".join(own[-2:]) if names.count(name) > 1 else name for own, name in zip(parts, names, strict=True)]
    if len(set(names)) < len(names):
        raise ConfigError("two of the models have the same name; evaluate them one at a time, each with its own --out")
    return names if weights == "float32" else [f"{name}-{weights}" for name in names]
