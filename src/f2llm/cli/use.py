"""Commands that use a model: search, embed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

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
    print_summary_line,
)

app = typer.Typer(no_args_is_help=True)


@app.command(epilog='Example: f2llm search "sea in northern Europe" --in notes.txt --top 5')
def search(
    queries: Annotated[list[str], typer.Argument(help="What to look for, in any language (one or more).")],
    source: Annotated[Path, typer.Option("--in", help="A text file or a folder of text files.")],
    model: Model = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Hits per query.")] = 5,
    instruction: Annotated[
        str | None, typer.Option(help="Instruction put before the queries; default: the model's own.")
    ] = None,
    dim: Dim = None,
    as_json: Json = False,
) -> None:
    """Exact semantic search over a text file or a folder."""
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
        text, tuple(keep or ()), encoding, as_query or instruction is not None, instruction, dim, precision
    )
    workers = chosen_engine(engine, address, processes or (1 if engine == "local" else None))
    try:
        done = embed_files(files, target, model=model or default_model(), options=options, engine=workers)
    finally:
        workers.close()
    rate = done.tokens / done.seconds if done.seconds else 0.0
    summary = {"out": str(target), **as_dict(done), "tokens_per_second": round(rate, 1)}
    line = f"{done.texts:,} vectors of {done.dims} dimensions in {target}"
    print_summary_line(summary, as_json, f"{line} ({rate:,.0f} tokens/s a process)" if done.tokens else line)


def _load(model: str | None, dim: int | None, **options: Any) -> Any:
    from f2llm.model.embedder import Embedder
    from f2llm.pipeline.build import default_model

    return Embedder.load(model or default_model(), truncate_dim=dim, **options)
