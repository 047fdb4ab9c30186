"""Commands that use a model: search, embed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from f2llm.cli.common import Dim, Json, Model, as_dict, out, print_summary_line

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
    files: Annotated[list[Path], typer.Argument(help="Text files (one text a line) or folders.")],
    target: Annotated[Path, typer.Option("--out", help="Where vectors go: .parquet (with the texts) or .npy.")],
    model: Model = None,
    as_query: Annotated[bool, typer.Option("--query", help="Embed as queries, with the model's query prompt.")] = False,
    instruction: Annotated[str | None, typer.Option(help="Embed as queries with this instruction.")] = None,
    task: Annotated[
        str | None, typer.Option(help="Embed as queries of this kind: a prompt of the model, or STS, Retrieval, ...")
    ] = None,
    dim: Dim = None,
    precision: Annotated[
        str, typer.Option(help="Type of the numbers: float32, float16, int8, uint8, binary, ubinary.")
    ] = "float32",
    engine: Annotated[str, typer.Option(help="What runs the model: auto, torch or openvino.")] = "auto",
    processes: Annotated[int, typer.Option(min=1, help="Processes, each with the model in memory.")] = 1,
    as_json: Json = False,
) -> None:
    """Turn texts into vectors."""
    from f2llm.apps.embed import embed_files

    embedder = _load(model, dim, precision=precision, engine=engine)
    count = embed_files(
        embedder,
        files,
        target,
        as_query=as_query or instruction is not None or task is not None,
        instruction=instruction,
        task=task,
        processes=processes,
    )
    stats = embedder.last_stats
    rate = stats.tokens / stats.seconds if stats.seconds else 0.0
    summary = {
        "out": str(target),
        "texts": count,
        "dims": embedder.dims,
        "precision": embedder.precision,
        "tokens": stats.tokens,
        "truncated": stats.truncated,
        "tokens_per_second": round(rate, 1),
    }
    print_summary_line(
        summary, as_json, f"{count:,} vectors of {embedder.dims} dimensions in {target} ({rate:,.0f} tokens/s)"
    )


def _load(model: str | None, dim: int | None, **options: Any) -> Any:
    from f2llm.model.embedder import Embedder
    from f2llm.pipeline.build import default_model

    return Embedder.load(model or default_model(), truncate_dim=dim, **options)
