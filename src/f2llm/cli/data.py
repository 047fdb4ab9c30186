"""Commands that make a training set: f2llm data sources, convert, clean, mine, tokenize, stats; f2llm languages."""

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
from f2llm.data.engine import Engine

app = typer.Typer(no_args_is_help=True, help="Make a training set: sources, convert, clean, mine, tokenize, stats.")


@app.command(epilog="Example: f2llm data sources --task clustering --language zho --picture sources.png")
def sources(
    recipe: Annotated[Path | None, typer.Argument(help="A recipe; default: the 157 sources of the paper.")] = None,
    out_dir: OutDir = None,
    overrides: Overrides = None,
    task: Annotated[str | None, typer.Option("--task", help="retrieval, clustering, classification.")] = None,
    category: Annotated[str | None, typer.Option("--category", help="Such as 'Question Answering'.")] = None,
    language: Annotated[str | None, typer.Option("--language", help="Such as deu.")] = None,
    stage: Annotated[int | None, typer.Option("--stage", help="1 or 2.")] = None,
    match: Annotated[str | None, typer.Option("--match", help="Part of an id or a name.")] = None,
    license: Annotated[str | None, typer.Option("--license", help="Such as cc-by-4.0, or unknown.")] = None,
    overlap: Annotated[
        bool | None, typer.Option("--overlap/--no-overlap", help="Made from the same data as an MTEB task, or not.")
    ] = None,
    picture: Annotated[Path | None, typer.Option("--picture", help="Draw rows by task and language (PNG).")] = None,
    as_json: Json = False,
) -> None:
    """The sources of the paper, or of a recipe: what they hold, how they are read, licences, sums."""
    from f2llm.core.files import atomic_path
    from f2llm.data import sources_view
    from f2llm.data.sources import select
    from f2llm.pipeline.build import load, place_of

    build, listed = None, sources_view.list_registry()
    if recipe is not None:
        loaded, _ = load(recipe, overrides)
        build = place_of(loaded, out_dir)
        listed = sources_view.list_recipe(loaded.sources, build)
    chosen = select(
        listed, task_type=task, category=category, language=language, stage=stage, text=match, license=license,
        overlap=overlap,
    )  # fmt: skip
    if picture is not None:
        languages = sources_view.converted_languages(chosen, build) if build is not None else None
        with atomic_path(picture) as temporary:
            temporary.write_bytes(sources_view.sources_png(chosen, languages))
    if as_json:
        print(json.dumps(sources_view.sources_json(chosen), ensure_ascii=False))
    else:
        sources_view.print_sources(Console(highlight=False), chosen)


def _add_command(group: str, does: str, example: str) -> None:
    """A command that brings the data of a recipe up to date as far as a group of steps."""

    @app.command(group, help=does, epilog=f"Example: f2llm data {group} {example}")
    def run(
        recipe: RecipePath,
        out_dir: OutDir = None,
        overrides: Overrides = None,
        engine: EngineName = "local",
        address: Address = None,
        workers: Workers = None,
        as_json: Json = False,
    ) -> None:
        _run(group, recipe, out_dir, overrides, chosen_engine(engine, address, workers), as_json)


_add_command(
    "convert",
    "Read raw files: every source as examples in one form, every row left out counted.",
    "recipes/real-smoke.toml",
)
_add_command(
    "clean",
    "Tidy, hold out, drop duplicates and what would leak; every drop has a counted reason.",
    "recipes/real-smoke.toml --set clean.near_duplicates=0.8",
)


@app.command(epilog="Example: f2llm data mine recipes/real-smoke.toml --encoder Qwen/Qwen3-Embedding-0.6B")
def mine(
    recipe: RecipePath,
    out_dir: OutDir = None,
    overrides: Overrides = None,
    encoder: Annotated[
        str | None, typer.Option("--encoder", help="ngrams, or the directory or hub id of an embedding model.")
    ] = None,
    engine: EngineName = "local",
    address: Address = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Find hard negatives for every query, by an encoder of your choice."""
    chosen = [f"mine.encoder={encoder}"] if encoder else []
    _run("mine", recipe, out_dir, [*(overrides or []), *chosen], chosen_engine(engine, address, workers), as_json)


_add_command(
    "tokenize",
    "The whole training set: all steps before, then token ids, and the card of the data.",
    "recipes/real-smoke.toml --engine ray --address auto",
)


def _run(
    group: str, recipe: Path, out_dir: Path | None, overrides: list[str] | None, engine: Engine, as_json: bool
) -> None:
    from f2llm.pipeline.build import build_data

    result = build_data(recipe, group, out=out_dir, overrides=overrides, engine=engine)
    summary = {
        "out": str(result.out),
        "ran": result.ran,
        "skipped": result.skipped,
        "seconds": round(result.seconds, 1),
    }
    done = f"{len(result.ran)} steps ran, {len(result.skipped)} were up to date, {result.seconds:.0f} s"
    card = result.out / "card" / "README.md"
    where = f"the card of the data is {card}" if group == "tokenize" else f"the rows are in {result.out / group}"
    print_summary_line(summary, as_json, f"{done}; {where}")


@app.command(epilog="Example: f2llm data stats recipes/real-smoke.toml")
def stats(
    recipe: RecipePath,
    out_dir: OutDir = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """What a training set holds, as far as it is finished: rows, languages, drops, mining, mixture."""
    from f2llm.pipeline.build import load, place_of
    from f2llm.pipeline.data_card import print_stats
    from f2llm.pipeline.data_card import stats as run

    loaded, _ = load(recipe, overrides)
    facts = run(loaded, place_of(loaded, out_dir))
    if as_json:
        print(json.dumps(facts, ensure_ascii=False))
    else:
        print_stats(out, facts)
