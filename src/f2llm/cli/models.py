"""Commands on models: prune, trim, merge, export, doctor, sizes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from f2llm.cli.common import Json, as_dict, out, precision_of, print_summary_line
from f2llm.core.errors import ConfigError

app = typer.Typer(no_args_is_help=True)


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
        print(json.dumps({"out": str(target_dir), **as_dict(report)}, ensure_ascii=False))
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
    print_summary_line({"out": str(target_dir), **as_dict(report)}, as_json, f"{target_dir} is the average of {parts}")


@app.command(epilog="Example: f2llm export build/mini/export/mini-small/model --to onnx --out mini-small-onnx")
def export(
    model: Annotated[str, typer.Argument(help="Model directory or hub id.")],
    kind: Annotated[str, typer.Option("--to", help="onnx, openvino or gguf (llama.cpp).")],
    target: Annotated[Path, typer.Option("--out", help="Where it goes: a folder, for gguf a file.")],
    precision: Annotated[
        str | None, typer.Option("--precision", help="float32 (default) or int8; gguf: float16 (default) or float32.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a model for ONNX Runtime or OpenVINO, checked against its own vectors, or for llama.cpp."""
    from f2llm.model.export_graph import export as run

    report = run(model, kind, target, precision)
    if kind == "gguf":
        command = f"llama-server -m {target} --embedding --pooling last"
        text = f"{target}: {report.bytes / 1e6:,.1f} MB in {report.precision}; serve it with: {escape(command)}"
    else:
        text = (
            f"{target}: {report.bytes / 1e6:,.1f} MB in {report.precision}; of {report.checked} texts, padded on "
            f"either side, the worst cosine to the model's own vectors is {report.cosine:.6f}"
        )
    print_summary_line(as_dict(report), as_json, text)


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
            json.dumps({"healthy": healthy, "findings": [as_dict(finding) for finding in findings]}, ensure_ascii=False)
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

    plans = family_plans(micro_batch_tokens, precision_of(precision), processes, "fsdp" if processes > 1 else "single")
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
