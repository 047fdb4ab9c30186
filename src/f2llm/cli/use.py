"""Commands that use a model: index, search, embed."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from f2llm.cli.common import (
    Address,
    Dim,
    EngineName,
    Json,
    Model,
    as_dict,
    chosen_engine,
    out,
    print_facts,
    print_summary_line,
)
from f2llm.core.errors import ConfigError, DataError

if TYPE_CHECKING:
    from f2llm.apps.index_build import Identify

app = typer.Typer(no_args_is_help=True)

Db = Annotated[str, typer.Option("--db", help="The index: a folder, or a URI of object storage such as s3://...")]


@app.command(epilog="Example: f2llm index docs/ --db docs.db")
def index(
    db: Db,
    paths: Annotated[
        list[Path] | None, typer.Argument(help="Files and folders; none prints what the index is.")
    ] = None,
    model: Model = None,
    chunk_tokens: Annotated[
        int | None, typer.Option(help="Tokens of a passage; default: 256, or fewer if the model reads fewer.")
    ] = None,
    overlap: Annotated[
        int | None, typer.Option(help="Tokens that the next passage repeats; default: an eighth.")
    ] = None,
    by_line: Annotated[bool, typer.Option("--by-line", help="Each line of a text file is a passage.")] = False,
    column: Annotated[
        list[str] | None,
        typer.Option(
            help="Of tables: text=NAME, title=NAME, or a column to filter by: year, or year=NAME (repeatable)."
        ),
    ] = None,
    dim: Dim = None,
    short_dim: Annotated[
        int | None, typer.Option(help="Dimensions of the shortlist; default: about a quarter, 64 or more.")
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take these files or folders out of the index.")] = False,
    as_json: Json = False,
) -> None:
    """Index files for search: new, changed and removed ones only (txt, md, html, xml, pdf, csv, jsonl, parquet)."""
    from f2llm.apps.index import Index
    from f2llm.apps.index_build import check_paths
    from f2llm.apps.index_table import exists, is_filled
    from f2llm.apps.reading import Columns
    from f2llm.cli.index_view import print_report

    options: dict[str, Any] = {
        "chunk_tokens": chunk_tokens, "overlap": overlap, "by_line": by_line or None, "dims": dim,
        "short_dims": short_dim, "columns": Columns.parse(column) if column else None,
    }  # fmt: skip
    if not paths:
        print_facts(Index.open(db, model).facts(), as_json)
        return
    if remove:
        print_report(Index.open(db, model).remove(paths), as_json)
        return
    check_paths(paths)
    if is_filled(db):
        found = Index.open(db, model)
        found.check_options(options)
    else:
        remembered = Index.open(db).memory.model if exists(db) else None  # of a run that was killed early
        found = Index.create(db, _named(model or remembered), **options)
    report = found.add(paths, identify=_identifier(), progress=True)
    print_report(report, as_json)
    if not report.passages:
        raise DataError(f"the index {db} has no passage yet: none of the files could be indexed")


@app.command(epilog='Example: f2llm search "sea in northern Europe" --in notes.txt --top 5')
def search(
    queries: Annotated[list[str], typer.Argument(help="What to look for, in any language (one or more).")],
    source: Annotated[
        Path | None, typer.Option("--in", help="A text file or a folder of text files, searched without an index.")
    ] = None,
    db: Annotated[str | None, typer.Option("--db", help="An index that f2llm index made.")] = None,
    model: Model = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Hits per query.")] = 5,
    instruction: Annotated[
        str | None, typer.Option(help="Instruction put before the queries; default: the model's own.")
    ] = None,
    dim: Dim = None,
    mode: Annotated[str, typer.Option(help="Of an index: vector, text or hybrid.")] = "vector",
    lang: Annotated[
        list[str] | None, typer.Option("--lang", help="Of an index: passages in this language, swh_Latn (repeatable).")
    ] = None,
    path: Annotated[str | None, typer.Option(help="Of an index: passages of files like 'docs/*'.")] = None,
    where: Annotated[str | None, typer.Option(help="Of an index: SQL over its columns, such as 'year > 2020'.")] = None,
    factor: Annotated[int, typer.Option(min=1, help="Of an index: exactly ranked candidates per hit.")] = 10,
    explain: Annotated[bool, typer.Option("--explain", help="Of an index: show the stages of each search.")] = False,
    as_json: Json = False,
) -> None:
    """Semantic search: exact in a text file or folder (--in), or in an index (--db) with filters and text search."""
    if (source is None) == (db is None):
        raise ConfigError("give either --in FILE to search files as they are, or --db INDEX to search an index")
    if db is None:
        only_index = {
            "--lang": lang,
            "--path": path,
            "--where": where,
            "--explain": explain,
            "--mode": mode != "vector",
        }
        wrong = [name for name, value in only_index.items() if value]
        if wrong:
            raise ConfigError(f"{wrong[0]} needs an index: f2llm index FOLDER --db DB, then search --db DB")
        _search_files(queries, Path(source or ""), model, dim, top, instruction, as_json)
        return
    if dim is not None:
        raise ConfigError("--dim: an index has its dimensions; give --dim to f2llm index")
    from f2llm.apps.index import Index
    from f2llm.apps.index_search import mode_of
    from f2llm.cli.index_view import print_hits

    found = Index.open(db, model)
    results = []
    for query in queries:
        hits = found.search(
            query, top, where=where, languages=lang or (), path=path, mode=mode_of(mode),
            instruction=instruction, factor=factor,
        )  # fmt: skip
        results.append((query, hits, found.stages))
    print_hits(results, explain, as_json)


def _search_files(
    queries: list[str],
    source: Path,
    model: str | None,
    dim: int | None,
    top: int,
    instruction: str | None,
    as_json: bool,
) -> None:
    from f2llm.apps.search import read_passages
    from f2llm.apps.search import search as run

    passages = read_passages(source)
    found = run(_load(model, dim), passages, queries, top_k=top, instruction=instruction)
    if as_json:
        hits = [{"query": q, "hits": [as_dict(hit) for hit in per]} for q, per in zip(queries, found, strict=True)]
        print(json.dumps({"results": hits, "passages": len(passages)}, ensure_ascii=False))
        return
    for query, per_query in zip(queries, found, strict=True):
        table = Table(title=escape(query), title_justify="left", box=None, show_header=False, padding=(0, 1))
        for hit in per_query:
            table.add_row(f"{hit.score:.3f}", escape(hit.text), f"[dim]{escape(str(hit.path))}:{hit.line}[/dim]")
        out.print(table)


@app.command(epilog="Example: f2llm embed names.txt --out vectors.parquet --dim 64")
def embed(
    files: Annotated[
        list[Path], typer.Argument(help="Text files (a text a line), tables (.csv, .tsv, .jsonl, .parquet) or folders.")
    ],
    target: Annotated[
        Path, typer.Option("--out", help="Where vectors go: .parquet (with the texts), .npy, or a folder of parts.")
    ],
    text: Annotated[str | None, typer.Option("--text", help="Column of the text in tables; default: text.")] = None,
    keep: Annotated[list[str] | None, typer.Option("--keep", help="Column of a table to keep (repeatable).")] = None,
    precision: Annotated[
        str, typer.Option("--precision", help="Stored as float32, float16, int8, uint8, binary or ubinary.")
    ] = "float32",
    weights: Annotated[
        str, typer.Option("--weights", help="Of the model in memory: float32, float16 or int8, the fastest on a CPU.")
    ] = "float32",
    model: Model = None,
    as_query: Annotated[bool, typer.Option("--query", help="Embed as queries, with the model's query prompt.")] = False,
    instruction: Annotated[str | None, typer.Option(help="Embed as queries with this instruction.")] = None,
    task: Annotated[
        str | None, typer.Option(help="Embed as queries of this kind: a prompt of the model, or STS, Retrieval, ...")
    ] = None,
    dim: Dim = None,
    engine: EngineName = "local",
    address: Address = None,
    processes: Annotated[
        int | None, typer.Option("--processes", min=1, help="That encode side by side; default: 1, with all cores.")
    ] = None,
    encoding: Annotated[str, typer.Option("--encoding", help="Of text files.")] = "utf-8",
    as_json: Json = False,
) -> None:
    """Turn texts into vectors, millions if need be: run the command again after a kill, and it goes on."""
    from f2llm.pipeline.build import default_model
    from f2llm.pipeline.embedding import EmbedOptions, embed_files

    options = EmbedOptions(
        text, tuple(keep or ()), encoding, as_query or bool(instruction or task), instruction, task, dim, precision,
        weights,
    )  # fmt: skip
    workers = chosen_engine(engine, address, processes or (1 if engine == "local" else None))
    try:
        done = embed_files(files, target, model=model or default_model(), options=options, engine=workers)
    finally:
        workers.close()
    rate = done.tokens / done.seconds if done.seconds else 0.0
    summary = {"out": str(target), **as_dict(done), "tokens_per_second": round(rate, 1)}
    line = f"{done.texts:,} vectors of {done.dims} dimensions in {target}"
    print_summary_line(summary, as_json, f"{line} ({rate:,.0f} tokens/s a process)" if done.tokens else line)


def _load(model: str | None, dim: int | None) -> Any:
    from f2llm.model.embedder import Embedder

    return Embedder.load(_named(model), truncate_dim=dim)


def _named(model: str | None) -> str:
    from f2llm.pipeline.build import default_model

    return model or str(default_model())


def _identifier() -> Identify:
    """Names languages; what it needs is loaded when there is a text."""
    from f2llm.data.langid import load_identifier

    load = cache(load_identifier)
    return lambda texts: load().identify(texts)
