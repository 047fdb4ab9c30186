"""The command that groups texts: cluster."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer
from rich.markup import escape
from rich.table import Table

from f2llm.cli.common import Dim, Json, Model, out
from f2llm.core.errors import ConfigError

app = typer.Typer(no_args_is_help=True)

Method = Literal["kmeans", "hdbscan"]
Colour = Literal["cluster", "language"]
_SHOWN = 40


@app.command(epilog="Example: f2llm cluster tickets.csv --text question --lang language --out clusters")
def cluster(
    file: Annotated[Path, typer.Argument(help="Text file (a text a line), or a table: CSV, TSV, JSON lines, parquet.")],
    text: Annotated[str | None, typer.Option("--text", help="Column of the texts; default: text.")] = None,
    label: Annotated[
        str | None, typer.Option("--label", help="Column of known labels: how far clusters agree.")
    ] = None,
    lang: Annotated[
        str | None, typer.Option("--lang", help="Column of languages: keywords and scores of each.")
    ] = None,
    identify: Annotated[bool, typer.Option("--identify", help="Find out the language of each text instead.")] = False,
    model: Model = None,
    method: Annotated[
        str, typer.Option("--method", help="kmeans: every row; hdbscan: dense groups and noise.")
    ] = "kmeans",
    clusters: Annotated[str, typer.Option("--clusters", help="How many (kmeans), or auto.")] = "auto",
    min_size: Annotated[
        int | None, typer.Option("--min-size", min=2, help="Fewest rows of a cluster (hdbscan); default: by the rows.")
    ] = None,
    target: Annotated[Path, typer.Option("--out", help="Folder for clusters.parquet, report.html ...")] = Path(
        "clusters"
    ),
    colour: Annotated[str, typer.Option("--colour", help="Of the map: cluster or language.")] = "cluster",
    map_rows: Annotated[int, typer.Option("--map-rows", min=0, help="Texts on the map; 0 for no map.")] = 3000,
    instruction: Annotated[
        str | None, typer.Option(help="Embed as queries with this instruction; default: as documents, without.")
    ] = None,
    dim: Dim = None,
    encoding: Annotated[str, typer.Option("--encoding", help="Of a file of text.")] = "utf-8",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of everything that is drawn at random.")] = 0,
    as_json: Json = False,
) -> None:
    """Group texts by meaning: how many groups, what each is about, whether they follow topics or languages."""
    from f2llm.core.readers import known_encoding
    from f2llm.pipeline.clustering import cluster_file

    if lang and identify:
        raise ConfigError("both --lang and --identify are given; give one of them")
    try:
        encoding = known_encoding(encoding)
    except ValueError as error:
        raise ConfigError(f"--encoding: {error}") from None
    facts = cluster_file(
        file, target, text=text, label=label, lang=lang, encoding=encoding, identify=identify, model=model, dim=dim,
        instruction=instruction, method=_one_of(method, "--method", get_args(Method)), clusters=_count(clusters),
        min_size=min_size, colour=_one_of(colour, "--colour", get_args(Colour)), map_rows=map_rows, seed=seed,
    )  # fmt: skip
    if as_json:
        print(json.dumps({"out": str(target), **facts}, ensure_ascii=False, allow_nan=False))
        return
    _print(facts, target)


def _one_of(given: str, option: str, known: tuple[str, ...]) -> Any:
    if given not in known:
        raise ConfigError(f"{option} {given}: give {' or '.join(known)}")
    return given


def _count(given: str) -> int | None:
    if given == "auto":
        return None
    if not given.isdecimal() or int(given) < 1:
        raise ConfigError(f"--clusters {given}: give a number of at least 1, or auto")
    return int(given)


def _print(facts: Mapping[str, Any], target: Path) -> None:
    table = Table(box=None)
    table.add_column("", justify="right")
    table.add_column("rows", justify="right")
    table.add_column("keywords")
    if "languages" in facts:
        table.add_column("languages")
    for entry in facts["clusters"][:_SHOWN]:
        cells = [str(entry["cluster"]), f"{entry['rows']:,}", escape(entry["headline"])]
        if "languages" in facts:
            cells.append(escape(", ".join(f"{name} {count:,}" for name, count in list(entry["languages"].items())[:3])))
        table.add_row(*cells)
    out.print(table)
    if len(facts["clusters"]) > _SHOWN:
        out.print(f"[dim]and {len(facts['clusters']) - _SHOWN} smaller ones[/dim]")
    if "choice" in facts:
        out.print(escape(facts["choice"]["reason"]))
    for line in facts["findings"]:
        out.print(escape(line))
    out.print(f"the report: {target / 'report.html'}")
