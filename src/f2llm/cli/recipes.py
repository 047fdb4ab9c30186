"""Commands that run a recipe: build, train."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from f2llm.cli.common import (
    Address,
    EngineName,
    Json,
    OutDir,
    Overrides,
    RecipePath,
    Workers,
    chosen_engine,
    out,
    print_summary_line,
)
from f2llm.core.errors import ConfigError, TrainingError
from f2llm.core.log import console
from f2llm.data.engine import Engine

app = typer.Typer(no_args_is_help=True)


@app.command(epilog="Example: f2llm build recipes/mini.toml --set training.stage1.max_steps=50")
def build(
    recipe: RecipePath,
    out_dir: OutDir = None,
    overrides: Overrides = None,
    until: Annotated[
        str | None, typer.Option("--until", help="Stop after this step, e.g. clean or train/NAME/stage1.")
    ] = None,
    dry: Annotated[bool, typer.Option("--dry-run", help="Check the recipe and print what it would cost.")] = False,
    device: Annotated[str, typer.Option("--device", help="Of a dry run: h100, h200, a100, l40s, cpu.")] = "h100",
    devices: Annotated[int, typer.Option("--devices", min=1, help="Of a dry run: how many of them.")] = 8,
    share: Annotated[float, typer.Option("--share", help="Of a dry run: the share of its peak that is reached.")] = 0.4,
    no_grid: Annotated[bool, typer.Option("--no-grid", help="Build the recipe itself, without its [grid].")] = False,
    engine: EngineName = "local",
    address: Address = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Run a recipe: data, training, pruning, distillation, evaluation, export, report. Finished steps are skipped.

    Where the recipe has a [grid], its variants are run with all seeds instead, as far as their scores, and compared.
    """
    from f2llm.pipeline.build import build as run
    from f2llm.pipeline.build import load

    if dry:
        from f2llm.pipeline.build import dry_run
        from f2llm.pipeline.devices import find_device
        from f2llm.pipeline.plan_table import print_plan

        plan = dry_run(recipe, find_device(device, devices, share), out=out_dir, overrides=overrides, grid=not no_grid)
        if as_json:
            print(json.dumps(plan.to_json(), ensure_ascii=False))
        else:
            print_plan(Console(highlight=False, width=max(out.width, 120)), plan)
        return
    if load(recipe, overrides)[0].grid is not None and not no_grid:
        if until is not None:
            problem = f"--until {until} stops one build, and {recipe} has a [grid] of many"
            raise ConfigError(f"{problem}; add --no-grid to build the recipe itself as far as that")
        _run_grid(recipe, out_dir, overrides, chosen_engine(engine, address, workers), as_json)
        return
    result = run(recipe, out=out_dir, overrides=overrides, until=until, engine=chosen_engine(engine, address, workers))
    report = result.out / "report" / "report.html"
    summary = {
        "out": str(result.out),
        "ran": result.ran,
        "skipped": result.skipped,
        "seconds": round(result.seconds, 1),
        "report": str(report) if report.exists() else None,
    }
    if as_json:
        print(json.dumps(summary, ensure_ascii=False))
        return
    if result.ran:
        out.print(f"{len(result.ran)} steps ran, {len(result.skipped)} were up to date, {result.seconds:.0f} s")
    else:
        out.print(f"nothing to do: all {len(result.skipped)} steps are up to date")
    if report.exists() and until is None:
        from f2llm.pipeline.summary import print_summary

        print_summary(out, result.out)


def _run_grid(recipe: Path, out_dir: Path | None, overrides: list[str] | None, engine: Engine, as_json: bool) -> None:
    """Run a grid and print its table; TrainingError at the end where runs failed."""
    from f2llm.pipeline.build import build_grid
    from f2llm.pipeline.grid_table import content, print_grid

    grid = build_grid(recipe, out=out_dir, overrides=overrides, engine=engine)
    if not console.quiet:
        if as_json:
            print(json.dumps(content(grid), ensure_ascii=False))
        else:
            print_grid(out, grid)
    if grid.failed:
        raise TrainingError(
            f"{len(grid.failed)} of {len(grid.runs)} runs of the grid failed; see {grid.out / 'grid.md'}"
        )


@app.command(epilog="Example: torchrun --nproc-per-node 8 -m f2llm train recipes/f2llm-v2.toml --model f2llm-0.6B")
def train(
    recipe: RecipePath,
    models: Annotated[
        list[str] | None, typer.Option("--model", help="Train this model of the recipe (repeatable); default: all.")
    ] = None,
    out_dir: OutDir = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Train the models of a recipe, with all that it takes; on many processes and machines under torchrun."""
    from f2llm.pipeline.build import train as run

    result = run(recipe, out=out_dir, overrides=overrides, models=models)
    if console.quiet:
        return
    trained = [name for name in result.ran if name.startswith("train/")]
    summary = {
        "out": str(result.out),
        "trained": trained,
        "ran": result.ran,
        "skipped": result.skipped,
        "seconds": round(result.seconds, 1),
    }
    text = f"{len(trained)} stages trained in {result.seconds:.0f} s; weights and metrics are in {result.out}/train"
    print_summary_line(summary, as_json, text if trained else "nothing to do: all stages are up to date")
