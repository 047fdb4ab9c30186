"""The command that lists languages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from f2llm.cli.common import Json, OutDir, Overrides, out

app = typer.Typer(no_args_is_help=True)


@app.command(epilog="Example: f2llm languages recipes/mini.toml --family Afro-Asiatic --sort score")
def languages(
    recipe: Annotated[Path | None, typer.Argument(help="A recipe, for the rows and scores of its build.")] = None,
    out_dir: OutDir = None,
    overrides: Overrides = None,
    sort: Annotated[str, typer.Option("--sort", help="rows, tag or score.")] = "rows",
    family: Annotated[str | None, typer.Option("--family", help="Such as Afro-Asiatic.")] = None,
    script: Annotated[str | None, typer.Option("--script", help="Such as Cyrl.")] = None,
    as_json: Json = False,
) -> None:
    """Every language with its script, its family, rows by task, and scores where it was evaluated."""
    from f2llm.pipeline import language_table
    from f2llm.pipeline.build import load, place_of

    loaded = load(recipe, overrides)[0] if recipe is not None else None
    place = place_of(loaded, out_dir) if loaded is not None else out_dir
    model = loaded.report.default_model if loaded is not None else None
    rows = language_table.language_rows(loaded, place)
    rows = language_table.select_languages(rows, sort=sort, model=model, family=family, script=script)
    if as_json:
        print(json.dumps(language_table.languages_json(rows), ensure_ascii=False))
    else:
        language_table.print_languages(out, rows, [model] if model else None)
