"""The command line: one thin command per verb. Parse, call one function, print; errors become one sentence and a code.

With `--json` a command prints exactly one JSON object on standard output; progress and warnings go to standard error.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from f2llm.core.allocator import tune_allocator
from f2llm.core.errors import ConfigError, F2LLMError
from f2llm.core.log import console

app = typer.Typer(
    name="f2llm",
    help="Train, shrink, evaluate and run multilingual text embedding models by one open recipe.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
bench = typer.Typer(no_args_is_help=True, help="Measure speed on this machine, beside what it could do at best.")
app.add_typer(bench, name="bench")
out = Console(highlight=False, soft_wrap=True)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output, and nothing else there.")]
Model = Annotated[
    str | None,
    typer.Option("--model", "-m", help="Model directory or hub id; default: the model built last in this directory."),
]
Dim = Annotated[int | None, typer.Option("--dim", help="Cut vectors to this many dimensions (a matryoshka size).")]


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


@app.command(epilog="Example: f2llm build recipes/mini.toml --set training.stage1.max_steps=50")
def build(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a TOML file.")],
    out_dir: Annotated[Path | None, typer.Option("--out", help="Where artifacts go; default: build/NAME.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Change a key of the recipe: a.b=value (repeatable).")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", help="Stop after this step, e.g. clean or train/NAME/stage1.")
    ] = None,
    dry: Annotated[bool, typer.Option("--dry-run", help="Check the recipe and print what it would cost.")] = False,
    device: Annotated[str, typer.Option("--device", help="Of a dry run: h100, h200, a100, l40s, cpu.")] = "h100",
    devices: Annotated[int, typer.Option("--devices", min=1, help="Of a dry run: how many of them.")] = 8,
    share: Annotated[float, typer.Option("--share", help="Of a dry run: the share of its peak that is reached.")] = 0.4,
    as_json: Json = False,
) -> None:
    """Run a recipe: data, training, pruning, distillation, evaluation, export, report. Finished steps are skipped."""
    from f2llm.pipeline.build import build as run

    if dry:
        from f2llm.pipeline.build import dry_run
        from f2llm.pipeline.devices import find_device
        from f2llm.pipeline.plan_table import print_plan

        plan = dry_run(recipe, find_device(device, devices, share), out=out_dir, overrides=overrides)
        if as_json:
            print(json.dumps(plan.to_json(), ensure_ascii=False))
        else:
            print_plan(Console(highlight=False, width=max(out.width, 120)), plan)
        return
    result = run(recipe, out=out_dir, overrides=overrides, until=until)
    report = result.out / "report" / "report.html"
    summary = {
        "out": str(result.out),
        "ran": result.ran,
        "skipped": result.skipped,
        "seconds": round(result.seconds, 1),
        "report": str(report) if report.exists() else None,
    }
    if as_json:
        print(json.dumps(summary, ensure_ascii=False))
        return
    if result.ran:
        out.print(f"{len(result.ran)} steps ran, {len(result.skipped)} were up to date, {result.seconds:.0f} s")
    else:
        out.print(f"nothing to do: all {len(result.skipped)} steps are up to date")
    if report.exists() and until is None:
        from f2llm.pipeline.summary import print_summary

        print_summary(out, result.out)


@app.command(epilog="Example: torchrun --nproc-per-node 8 -m f2llm train recipes/f2llm-v2.toml --model f2llm-0.6B")
def train(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a TOML file.")],
    models: Annotated[
        list[str] | None, typer.Option("--model", help="Train this model of the recipe (repeatable); default: all.")
    ] = None,
    out_dir: Annotated[Path | None, typer.Option("--out", help="Where artifacts go; default: build/NAME.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Change a key of the recipe: a.b=value (repeatable).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train the models of a recipe, with all that it takes; on many processes and machines under torchrun."""
    from f2llm.pipeline.build import train as run

    result = run(recipe, out=out_dir, overrides=overrides, models=models)
    if console.quiet:
        return
    trained = [name for name in result.ran if name.startswith("train/")]
    summary = {
        "out": str(result.out),
        "trained": trained,
        "ran": result.ran,
        "skipped": result.skipped,
        "seconds": round(result.seconds, 1),
    }
    text = f"{len(trained)} stages trained in {result.seconds:.0f} s; weights and metrics are in {result.out}/train"
    _print(summary, as_json, text if trained else "nothing to do: all stages are up to date")


@app.command(epilog="Example: f2llm prune Qwen/Qwen3-0.6B --to 80M --to 160M --calibration texts.txt --out pruned")
def prune(
    model: Annotated[str, typer.Argument(help="Model directory or hub id; a sharded one may exceed memory.")],
    targets: Annotated[
        list[str],
        typer.Option("--to", help="80M, 160M, 330M; hidden=320,layers=8,mlp=2048; params=60M finds a shape."),
    ],
    calibration: Annotated[
        Path, typer.Option("--calibration", help="Text file, a text a line: what matters on it stays.")
    ],
    target_dir: Annotated[Path, typer.Option("--out", help="Where the model goes; several --to: folders in it.")],
    importance: Annotated[
        str, typer.Option("--importance", help="l1, l2, variance, prefix; controls: magnitude, random.")
    ] = "l2",
    aggregate: Annotated[str, typer.Option("--aggregate", help="Over layers: sum, max, last.")] = "sum",
    depth: Annotated[str, typer.Option("--depth", help="Layers that stay: first, influence, norm_change.")] = "first",
    tokens: Annotated[
        int, typer.Option("--calibration-tokens", min=1, help="Tokens of the calibration text to read.")
    ] = 16_384,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the lines that are drawn.")] = 0,
    as_json: Json = False,
) -> None:
    """Cut a model to smaller shapes by what matters on a calibration text; scores are kept for the next target."""
    from f2llm.model.prune import make_rule
    from f2llm.model.prune_directory import prune_directory

    rule = make_rule(importance, aggregate, depth, seed)
    found = prune_directory(model, targets, calibration, target_dir, rule=rule, calibration_tokens=tokens, seed=seed)
    if as_json:
        print(json.dumps({"models": [result.to_json() for result in found]}, ensure_ascii=False))
        return
    table = Table("model", "parameters", "in the token table", "hidden", "layers", "mlp", box=None)
    for result in found:
        shape = result.shape
        counts = (shape.parameters, shape.embedding_parameters, shape.hidden, shape.layers, shape.mlp)
        table.add_row(escape(str(result.out)), *(f"{count:,}" for count in counts))
    out.print(table)
    out.print("not trained since: a start for distillation, not a finished model")


@app.command(epilog="Example: f2llm trim build/mini/export/mini-small/model --languages eng,deu,yor --out trimmed")
def trim(
    model: Annotated[str, typer.Argument(help="Model directory or hub id.")],
    target_dir: Annotated[Path, typer.Option("--out", help="Where the trimmed model goes.")],
    languages: Annotated[
        str | None, typer.Option("--languages", help="eng,deu,yor: all that is written in their scripts stays whole.")
    ] = None,
    corpus: Annotated[
        Path | None, typer.Option("--corpus", help="Text file, or folder of one .txt a language: what it uses stays.")
    ] = None,
    coverage: Annotated[
        float, typer.Option("--coverage", help="Share of the corpus's tokens that must stay whole.")
    ] = 0.9999,
    as_json: Json = False,
) -> None:
    """Drop the tokens that your languages or texts do not use: the same vectors from a smaller token table."""
    from f2llm.data.cldr import names_in
    from f2llm.model.trim import trim as run

    codes = [code.strip() for code in (languages or "").split(",") if code.strip()]
    report = run(
        model, target_dir, languages=codes, corpus=corpus, coverage=coverage, samples=names_in(codes) if codes else None
    )
    if as_json:
        print(json.dumps({"out": str(target_dir), **_as_dict(report)}, ensure_ascii=False))
        return
    table = Table("", "before", "after", box=None)
    for name in ("tokens", "table", "parameters"):
        before, after = getattr(report, f"{name}_before"), getattr(report, f"{name}_after")
        label = "in the token table" if name == "table" else name
        table.add_row(label, f"{before:,}", f"{after:,} ({after / before:.0%})")
    for label, (before, after) in report.tokens_per_character.items():
        table.add_row(f"tokens a character, {label}", f"{before:.3f}", f"{after:.3f}")
    out.print(table)
    out.print(f"{report.checked} texts gave the same vectors; the model is in {target_dir}")
    if corpus is None:
        out.print("[dim]a --corpus of your texts keeps less than whole scripts do, if you can show some[/dim]")


@app.command(epilog="Example: f2llm merge run/a run/b run/b/milestones/step-00001000.safetensors --out merged")
def merge(
    models: Annotated[
        list[Path], typer.Argument(help="Model directories of one shape; after the first also weights files.")
    ],
    target_dir: Annotated[Path, typer.Option("--out", help="Where the merged model goes.")],
    weights: Annotated[
        str | None, typer.Option("--weights", help="2,1,1: what each counts; default: all the same.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Average the weights of models that came from one start; other shapes and tokenizers are refused."""
    from f2llm.model.merge import merge as run

    try:
        shares = None if weights is None else [float(part) for part in weights.split(",")]
    except ValueError:
        raise ConfigError(f"--weights {weights}: give numbers with commas between, for example 2,1,1") from None
    report = run(models, target_dir, weights=shares)
    parts = ", ".join(f"{name} ({share:.3g})" for name, share in zip(report.names, report.weights, strict=True))
    _print({"out": str(target_dir), **_as_dict(report)}, as_json, f"{target_dir} is the average of {parts}")


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
        hits = [{"query": q, "hits": [_as_dict(hit) for hit in per]} for q, per in zip(queries, found, strict=True)]
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
    dim: Dim = None,
    as_json: Json = False,
) -> None:
    """Turn texts into vectors."""
    from f2llm.apps.embed import embed_files

    embedder = _load(model, dim)
    count = embed_files(embedder, files, target, as_query=as_query or instruction is not None, instruction=instruction)
    stats = embedder.last_stats
    rate = stats.tokens / stats.seconds if stats.seconds else 0.0
    summary = {
        "out": str(target),
        "texts": count,
        "dims": embedder.dims,
        "tokens": stats.tokens,
        "truncated": stats.truncated,
        "tokens_per_second": round(rate, 1),
    }
    _print(summary, as_json, f"{count:,} vectors of {embedder.dims} dimensions in {target} ({rate:,.0f} tokens/s)")


@app.command(epilog="Example: f2llm doctor build/mini/export/mini-small/model")
def doctor(
    directory: Annotated[Path, typer.Argument(help="A model directory.")],
    as_json: Json = False,
) -> None:
    """Check a model directory: pooling, EOS, prompts, dimensions, configuration, weights, reference vectors."""
    from f2llm.model.doctor import diagnose

    findings = diagnose(directory)
    healthy = all(finding.ok for finding in findings)
    if as_json:
        print(
            json.dumps(
                {"healthy": healthy, "findings": [_as_dict(finding) for finding in findings]}, ensure_ascii=False
            )
        )
    else:
        for finding in findings:
            mark = "[green]ok[/green]   " if finding.ok else "[red]wrong[/red]"
            out.print(f"{mark} {finding.check}: {escape(finding.message)}")
    if not healthy:
        raise typer.Exit(4)


@app.command(epilog="Example: f2llm sizes --processes 8 --precision bf16")
def sizes(
    processes: Annotated[int, typer.Option("--processes", min=1, help="Train sharded over so many processes.")] = 1,
    micro_batch_tokens: Annotated[
        int, typer.Option("--micro-batch-tokens", min=1, help="Tokens that a process embeds at once in training.")
    ] = 16_384,
    precision: Annotated[str, typer.Option("--precision", help="fp32 or bf16.")] = "bf16",
    as_json: Json = False,
) -> None:
    """The eight sizes of the family: shapes, parameters, how they are trained, and memory to use and to train them."""
    from f2llm.model.embedder import BATCH_TOKENS
    from f2llm.model.sizes import EPOCHS, FAMILY, LEARNING_RATES, TEACHERS, inference_bytes
    from f2llm.train.memory import family_plans, memory_table

    plans = family_plans(micro_batch_tokens, _precision(precision), processes, "fsdp" if processes > 1 else "single")
    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "parameters": shape.parameters,
            "embedding_parameters": shape.embedding_parameters,
            "other_parameters": shape.parameters - shape.embedding_parameters,
            "hidden": shape.hidden,
            "layers": shape.layers,
            "mlp": shape.mlp,
            "heads": shape.heads,
            "kv_heads": shape.kv_heads,
            "head_dim": shape.head_dim,
            "teacher": TEACHERS.get(name),
            "learning_rate": LEARNING_RATES[name],
            "epochs": EPOCHS[name],
            "inference_memory_bytes": inference_bytes(shape, BATCH_TOKENS, 2 if precision == "bf16" else 4),
            "training_memory_bytes": plan.total,
        }
        for (name, shape), plan in zip(FAMILY.items(), plans, strict=True)
    ]
    if as_json:
        print(json.dumps({"sizes": rows}))
        return
    table = Table("size", "parameters", "without table", "hidden", "layers", "mlp", "heads", box=None)
    for name in ("teacher", "rate", "epochs", "GB to use"):
        table.add_column(name)
    for row in rows:
        counts = (f"{row[field]:,}" for field in ("parameters", "other_parameters", "hidden", "layers", "mlp"))
        own_heads, memory = f"{row['heads']}/{row['kv_heads']}", f"{row['inference_memory_bytes'] / 1e9:.2f}"
        facts = (own_heads, row["teacher"] or "-", f"{row['learning_rate']:.0e}", row["epochs"], memory)
        table.add_row(row["name"], *counts, *map(str, facts))
    wide = Console(highlight=False, width=max(out.width, 120))
    wide.print(table)
    wide.print(f"heads have {FAMILY['80M'].head_dim} dimensions; to use: {BATCH_TOKENS:,} tokens at once, {precision}")
    spread = f"one of {processes} processes" if processes > 1 else "one process"
    out.print(f"\nGB that {spread} needs to train, {micro_batch_tokens:,} tokens at once, {precision}:")
    out.print(memory_table(plans))


@bench.command("train", epilog="Example: f2llm bench train --shape 80M --rows 4")
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
    setup = Setup(shape, rows, runs, _precision(precision), whole, checkpoint_activations, compiled)
    _print_facts(run(setup, data), as_json)


def _precision(given: str) -> Literal["fp32", "bf16"]:
    if given not in ("fp32", "bf16"):
        raise ConfigError(f"--precision {given}: give fp32 or bf16")
    return "fp32" if given == "fp32" else "bf16"


def _print_facts(facts: dict[str, Any], as_json: bool) -> None:
    """A table of names and values."""
    if as_json:
        print(json.dumps(facts, ensure_ascii=False))
        return
    table = Table(box=None, show_header=False)
    for name, value in facts.items():
        table.add_row(name.replace("_", " "), f"{value:,}" if isinstance(value, int | float) else str(value))
    out.print(table)


def _load(model: str | None, dim: int | None) -> Any:
    from f2llm.model.embedder import Embedder
    from f2llm.pipeline.build import default_model

    return Embedder.load(model or default_model(), truncate_dim=dim)


def _print(summary: dict[str, Any], as_json: bool, text: str) -> None:
    if as_json:
        print(json.dumps(summary, ensure_ascii=False))
    else:
        out.print(text)


def _as_dict(record: Any) -> dict[str, Any]:
    """A dataclass as plain JSON values."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(record).items()}
