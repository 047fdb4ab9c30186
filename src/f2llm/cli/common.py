"""What the commands share: the console, options, and how a result is printed."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from f2llm.core.errors import ConfigError
from f2llm.data.engine import Engine, EngineKind, make_engine

out = Console(highlight=False, soft_wrap=True)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output, and nothing else there.")]
Model = Annotated[
    str | None,
    typer.Option("--model", "-m", help="Model directory or hub id; default: the model built last in this directory."),
]
Dim = Annotated[int | None, typer.Option("--dim", help="Cut vectors to this many dimensions (a matryoshka size).")]
RecipePath = Annotated[Path, typer.Argument(help="The recipe, a TOML file.")]
OutDir = Annotated[Path | None, typer.Option("--out", help="Where artifacts go; default: build/NAME.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Change a key of the recipe: a.b=value (repeatable).")
]
EngineName = Annotated[str, typer.Option("--engine", help="What runs the data steps: local or ray.")]
Address = Annotated[str | None, typer.Option("--address", help="Of a Ray cluster; default: one on this machine.")]
Workers = Annotated[
    int | None, typer.Option("--workers", min=1, help="Processes for the data steps; default: one a core.")
]


def chosen_engine(name: str, address: str | None, workers: int | None) -> Engine:
    kinds: dict[str, EngineKind] = {"local": "local", "ray": "ray"}
    if name not in kinds:
        raise ConfigError(f"--engine {name}: give local or ray")
    return make_engine(kinds[name], workers=workers, address=address)


def precision_of(given: str) -> Literal["fp32", "bf16"]:
    if given not in ("fp32", "bf16"):
        raise ConfigError(f"--precision {given}: give fp32 or bf16")
    return "fp32" if given == "fp32" else "bf16"


def print_facts(facts: dict[str, Any], as_json: bool) -> None:
    """A table of names and values."""
    if as_json:
        print(json.dumps(facts, ensure_ascii=False))
        return
    table = Table(box=None, show_header=False)
    for name, value in facts.items():
        table.add_row(name.replace("_", " "), f"{value:,}" if isinstance(value, int | float) else str(value))
    out.print(table)


def print_summary_line(summary: dict[str, Any], as_json: bool, text: str) -> None:
    """One JSON object, or one sentence."""
    if as_json:
        print(json.dumps(summary, ensure_ascii=False))
    else:
        out.print(text)


def as_dict(record: Any) -> dict[str, Any]:
    """A dataclass as plain JSON values."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(record).items()}
