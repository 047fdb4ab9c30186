"""The command line: one thin command per verb. Parse, call one function, print; errors become one sentence and a code.

With `--json` a command prints exactly one JSON object on standard output; progress and warnings go to standard error.
"""

from __future__ import annotations

import sys

import typer
from rich.markup import escape

from f2llm.cli import bench, classify, cluster, data, evaluation, languages, models, recipes, use
from f2llm.core.allocator import tune_allocator
from f2llm.core.errors import F2LLMError
from f2llm.core.log import console

app = typer.Typer(
    name="f2llm",
    help="Train, shrink, evaluate and run multilingual text embedding models by one open recipe.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(recipes.app)
app.add_typer(data.app, name="data")
app.add_typer(languages.app)
app.add_typer(models.app)
app.add_typer(evaluation.app)
app.add_typer(use.app)
app.add_typer(classify.app, name="classify")
app.add_typer(cluster.app)
app.add_typer(bench.app, name="bench")


def main() -> None:
    """Entry point: maps the package's errors to exit codes (see `f2llm.core.errors`)."""
    tune_allocator()
    try:
        app()
    except F2LLMError as error:
        console.print(f"[red]error:[/red] {escape(str(error))}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        console.print("stopped; run the same command to continue")
        sys.exit(130)
