"""Commands that score models: eval, compare."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from f2llm.cli.common import Json, out
from f2llm.core.errors import ConfigError
from f2llm.core.log import print_wide

app = typer.Typer(no_args_is_help=True)
WIDEST = 160  # of a comparison, whose flags are sentences


@app.command("eval", epilog="Example: f2llm eval build/mini/export/mini-small/model --data ../shared/data --budget 10m")
def evaluate(
    models: Annotated[list[Path] | None, typer.Argument(help="Model directories, one or more.")] = None,
    benchmark: Annotated[
        list[str] | None, typer.Option("--benchmark", help="A benchmark, by mteb's name (repeatable).")
    ] = None,
    task: Annotated[list[str] | None, typer.Option("--task", help="A task, by its name (repeatable).")] = None,
    family: Annotated[
        str | None, typer.Option("--family", help="f2llm-v2: the 17 benchmarks and 430 tasks of the paper.")
    ] = None,
    listing: Annotated[bool, typer.Option("--list", help="Print the family's benchmarks and tasks.")] = False,
    data: Annotated[
        Path | None, typer.Option("--data", help="Tasks from local files (docs/reference/real-data.md), offline.")
    ] = None,
    target: Annotated[Path, typer.Option("--out", help="Where results go, a folder for each model.")] = Path("eval"),
    dim: Annotated[
        list[int] | None, typer.Option("--dim", help="Dimensions besides the full ones; default: the model's own.")
    ] = None,
    precision: Annotated[
        list[str] | None, typer.Option("--precision", help="float32, int8, binary (repeatable).")
    ] = None,
    budget: Annotated[str | None, typer.Option("--budget", help="30m, 2h: the cheapest tasks that fit.")] = None,
    instructions: Annotated[
        Path | None, typer.Option("--instructions", help="JSON or TOML: task name or type -> instruction.")
    ] = None,
    weights: Annotated[
        str, typer.Option("--weights", help="float32, float16 or int8: how the model is kept in memory on a CPU.")
    ] = "float32",
    footprint: Annotated[
        bool, typer.Option("--footprint/--no-footprint", help="Measure memory and speed, once a model, about 15 s.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Score models on tasks of mteb, with mteb's own evaluators: resumable, every dimension from one encoding pass."""
    from f2llm.pipeline.evaluating import evaluate_models, results_table

    if listing:
        _print_family(family or "f2llm-v2", as_json)
        return
    if not models:
        raise ConfigError("no model is named; give one or more model directories")
    results = evaluate_models(
        models, target, tasks=task or (), benchmarks=benchmark or (), family_name=family, data=data, dims=dim,
        precisions=precision or ("float32",), budget=budget, instructions=instructions, weights=weights,
        footprint=footprint,
    )  # fmt: skip
    if as_json:
        entries = [asdict(result) | {"scores_by_query": None} for own in results.values() for result in own]
        print(json.dumps({"out": str(target), "results": entries}, ensure_ascii=False, allow_nan=False))
        return
    print_wide(out, results_table(results))
    for name, own in results.items():
        for failed in (result for result in own if result.error):
            out.print(f"[yellow]{name}, {failed.task}[/yellow]: {escape(str(failed.error))}")
    out.print(f"results are in {target}; beside published models: f2llm compare {target}")


def _print_family(name: str, as_json: bool) -> None:
    from f2llm.pipeline.evaluating import family_listing

    found = family_listing(name)
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
    else:
        out.print("\n".join([*found["benchmarks"], "", *found["tasks"]]))


@app.command(epilog="Example: f2llm compare build/demo/eval/mini-base build/demo/eval/mini-small --report out")
def compare(
    results: Annotated[list[Path], typer.Argument(help="What `f2llm eval` wrote: directories or JSON files.")],
    benchmark: Annotated[
        list[str] | None, typer.Option("--benchmark", help="Only this benchmark, by mteb's name (repeatable).")
    ] = None,
    beside: Annotated[
        list[str] | None, typer.Option("--beside", help="Only this published model (repeatable); default: all 29.")
    ] = None,
    ours: Annotated[bool, typer.Option("--ours", help="No published models.")] = False,
    exact: Annotated[
        bool, typer.Option("--exact", help="Leave out tasks whose split, revision or languages are not the published.")
    ] = False,
    variants: Annotated[
        bool, typer.Option("--variants", help="A row for each number of dimensions and precision.")
    ] = False,
    tasks: Annotated[bool, typer.Option("--tasks", help="Each benchmark's tasks too.")] = False,
    report: Annotated[Path | None, typer.Option("--report", help="Write report.html, tables, figures here.")] = None,
    as_json: Json = False,
) -> None:
    """Results beside each other and beside published models, benchmark by benchmark."""
    from f2llm.pipeline.comparing import compare_results, comparison_tables

    models = [] if ours else beside or None
    found = compare_results(
        results, benchmarks=benchmark or (), models=models, exact=exact, variants=variants, report=report
    )
    if as_json:
        print(json.dumps(found.as_json(), ensure_ascii=False, allow_nan=False))
        return
    for part in comparison_tables(found, per_task=tasks, width=out.width):
        print_wide(out, part, WIDEST) if isinstance(part, Table) else out.print(part)
    if report:
        out.print(f"the report: {report / 'report.html'}")
