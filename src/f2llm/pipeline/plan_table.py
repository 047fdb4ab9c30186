"""What `f2llm build --dry-run` prints: the steps, the totals by model, and what they rest on, in 120 columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from f2llm.pipeline.devices import Device
from f2llm.pipeline.estimate import GridCost, Plan, PlannedStep, Totals, shortened

WIDTH = 120


def print_plan(console: Console, plan: Plan) -> None:
    """Print the plan; a terminal that is narrower wraps its lines."""
    out = Console(file=console.file, width=max(console.width, WIDTH), highlight=False)
    out.print(f"\nplan of {escape(plan.recipe)} on {plan.device.count} x {plan.device.name}")
    out.print(_steps_table(plan.steps, plan.device))
    out.print()
    out.print(_models_table([*plan.models, plan.totals], plan.device))
    out.print(f"\n{_total_line(plan)}")
    if plan.grid is not None:
        out.print(_grid_line(plan.grid, plan.device))
    out.print("\nAssumptions")
    for assumption in plan.assumptions:
        out.print(f"- {escape(assumption)}")


def _table(first: str, columns: Sequence[str], last: str) -> Table:
    table = Table(box=None, padding=(0, 1), show_edge=False, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column(last, overflow="fold")
    return table


def _steps_table(steps: Sequence[PlannedStep], device: Device) -> Table:
    table = _table("step", ("steps", "samples", "tokens", "FLOPs", "memory", "disk", _unit(device)), "")
    for step in steps:
        numbers = [_count(step.steps), _count(step.samples), _count(step.tokens), _power(step.flops)]
        sizes = [_size(step.memory), _size(step.disk), _hours(device.hours(step.flops or 0.0))]
        table.add_row(escape(step.name), *numbers, *sizes, escape(step.note))
    return table


def _models_table(models: Sequence[Totals], device: Device) -> Table:
    columns = ("parameters", "tokens", "training FLOPs", "as a teacher", "together", "memory", _unit(device))
    table = _table("model", columns, "")
    for model in models:
        flops = [_power(part) for part in (model.training_flops, model.teacher_flops, model.flops)]
        note = f"without {model.unknown} unknown" if model.unknown else ""
        sizes = [_size(model.memory or None), _hours(device.hours(model.flops))]
        table.add_row(escape(model.name), _count(model.parameters), _count(model.tokens), *flops, *sizes, note)
    return table


def _total_line(plan: Plan) -> str:
    totals, device = plan.totals, plan.device
    hours = f"{_power(totals.flops) or 0} FLOPs, {_hours(device.hours(totals.flops)) or 0} {_unit(device)}"
    days = f", {plan.hours / 24:,.1f} days on {device.count}" if device.count > 1 else ""
    steps = f"{totals.unknown} step{'s' * (totals.unknown > 1)}"
    unknown = f"; without {steps} of which nothing is known" if totals.unknown else ""
    return f"total: {hours}{days}{unknown}"


def _grid_line(grid: GridCost, device: Device) -> str:
    runs = f"grid: {grid.variants} variants x {grid.seeds} seeds, each such a build as far as its scores"
    hours = f"{_power(grid.flops) or 0} FLOPs, {_hours(grid.hours) or 0} hours on {device.count}"
    unknown = f"; without {grid.unknown} steps of which nothing is known" if grid.unknown else ""
    return f"{runs}\n      {grid.computed} of {grid.trainings} trainings differ: {hours}{unknown}"


def _unit(device: Device) -> str:
    return "CPU-hours" if device.host else "GPU-hours"


def _count(number: int | None) -> str:
    return "" if number is None else shortened(number)


def _power(flops: float | None) -> str:
    return f"{flops:.2e}".replace("e+", "e") if flops else ""


def _size(size: int | None) -> str:
    if size is None:
        return ""
    return f"{size / 1e9:,.0f} GB" if size >= 99.5e9 else f"{size / 1e9:.1f} GB" if size >= 5e7 else "< 0.1 GB"


def _hours(hours: float | None) -> str:
    if not hours:
        return ""
    return f"{hours:,.0f}" if hours >= 9.95 else f"{hours:.1f}" if hours >= 0.05 else "< 0.1"
