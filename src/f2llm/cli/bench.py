"""Commands that measure."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from f2llm.cli.common import Json, precision_of, print_facts

app = typer.Typer(no_args_is_help=True, help="Measure speed on this machine, beside what it could do at best.")


@app.command("train", epilog="Example: f2llm bench train --shape 80M --rows 4")
def bench_train(
    shape: Annotated[str, typer.Option("--shape", help="A size of the family.")] = "80M",
    rows: Annotated[int, typer.Option("--rows", min=2, help="Rows a batch: query, positive, seven negatives.")] = 4,
    runs: Annotated[int, typer.Option("--runs", min=1, help="Rounds to take the median of.")] = 5,
    precision: Annotated[str, typer.Option("--precision", help="fp32 or bf16.")] = "fp32",
    micro_batch_tokens: Annotated[
        int | None, typer.Option("--micro-batch-tokens", min=1, help="Embed larger batches in parts; default: whole.")
    ] = None,
    checkpoint_activations: Annotated[
        bool, typer.Option("--checkpoint-activations", help="Recompute layers in the backward pass.")
    ] = False,
    compiled: Annotated[bool, typer.Option("--compile", help="Element-wise parts by torch.compile.")] = False,
    data: Annotated[Path | None, typer.Option("--data", help="Folder of real files; default: as found.")] = None,
    as_json: Json = False,
) -> None:
    """Whole training steps: samples and tokens a second, share of the machine's own matrix rate, peak memory."""
    from f2llm.bench.training import Setup
    from f2llm.bench.training import bench_train as run

    whole = 10**9 if micro_batch_tokens is None else micro_batch_tokens
    setup = Setup(shape, rows, runs, precision_of(precision), whole, checkpoint_activations, compiled)
    print_facts(run(setup, data), as_json)


@app.command("tokenize", epilog="Example: f2llm bench tokenize --texts 8000 --runs 7")
def bench_tokenize(
    texts: Annotated[int, typer.Option("--texts", min=10, help="Texts of the workload.")] = 6000,
    runs: Annotated[int, typer.Option("--runs", min=1, help="Rounds to take the median of.")] = 5,
    data: Annotated[Path | None, typer.Option("--data", help="Folder of real files; default: as found.")] = None,
    as_json: Json = False,
) -> None:
    """Texts to ids, beside the published script's loop and the tokenizer library's own peak; ids are compared."""
    from f2llm.bench.tokenizing import bench_tokenize as run

    print_facts(run(data, texts=texts, runs=runs), as_json)


Size = Annotated[str, typer.Option("--shape", help="A size of the family, with random weights.")]
OwnModel = Annotated[str | None, typer.Option("--model", "-m", help="A model directory or hub id instead.")]
EngineOf = Annotated[str, typer.Option("--engine", help="What runs f2llm's side: torch or openvino.")]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="Threads of every side; default: all cores.")]


@app.command("encode", epilog="Example: f2llm bench encode --shape 80M --texts 96 --runs 5")
def bench_encode(
    shape: Size = "80M",
    model: OwnModel = None,
    engine: EngineOf = "torch",
    texts: Annotated[int, typer.Option("--texts", min=2, help="Documents of mixed length.")] = 96,
    runs: Annotated[int, typer.Option("--runs", min=1, help="Rounds to take the median of.")] = 5,
    threads: Threads = None,
    data: Annotated[Path | None, typer.Option("--data", help="Folder of real files; default: as found.")] = None,
    as_json: Json = False,
) -> None:
    """Documents to vectors, beside sentence-transformers as it comes and tuned alike; vectors are compared."""
    from f2llm.bench.encoding import Setup
    from f2llm.bench.encoding import bench_encode as run

    print_facts(run(Setup(shape, model, engine, texts, runs, threads), data), as_json)


@app.command("query", epilog="Example: f2llm bench query --shape 80M --queries 40 --runs 5")
def bench_query(
    shape: Size = "80M",
    model: OwnModel = None,
    engine: EngineOf = "torch",
    queries: Annotated[int, typer.Option("--queries", min=2, help="Queries, one at a time, in each round.")] = 40,
    runs: Annotated[int, typer.Option("--runs", min=1, help="Rounds.")] = 5,
    threads: Threads = None,
    data: Annotated[Path | None, typer.Option("--data", help="Folder of real files; default: as found.")] = None,
    as_json: Json = False,
) -> None:
    """Single queries with an instruction: p50 and p99, beside sentence-transformers; vectors are compared."""
    from f2llm.bench.encoding import Setup
    from f2llm.bench.encoding import bench_query as run

    print_facts(run(Setup(shape, model, engine, queries, runs, threads), data), as_json)
