"""Commands of `f2llm classify`: train, predict, eval, zero-shot, transfer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from f2llm.cli.common import Dim, Json, Model, out, print_summary_line
from f2llm.core.errors import ConfigError

app = typer.Typer(no_args_is_help=True, help="Sort texts into classes: trained on labelled rows, or by label names.")
_SHOWN = 10  # labels in the line that sums up a prediction

Files = Annotated[list[Path], typer.Argument(help="Tables: .csv, .tsv, .json, .jsonl, .parquet (one or more).")]
TextFiles = Annotated[list[Path], typer.Argument(help="Tables, or text files with a text a line (one or more).")]
Text = Annotated[str | None, typer.Option("--text", help="Column of the text; default: text.")]
Label = Annotated[str, typer.Option("--label", help="Column of the label.")]
Lang = Annotated[str | None, typer.Option("--lang", help="Column of the language: scores by language.")]
Group = Annotated[
    str | None, typer.Option("--group", help="Column of what stays in one fold, such as a document; default: the text.")
]
Encoding = Annotated[str, typer.Option("--encoding", help="Of text files.")]
Instruction = Annotated[
    str | None, typer.Option("--instruction", help="Encode texts as queries with this instruction.")
]
Balanced = Annotated[bool, typer.Option("--balanced", help="Rare labels weigh as much as frequent ones.")]
Folds = Annotated[int, typer.Option("--folds", min=2, help="Parts of the cross-validation.")]
Seed = Annotated[int, typer.Option("--seed", help="Of what is drawn at random.")]
Keep = Annotated[list[str] | None, typer.Option("--keep", help="Column to copy to the output (repeatable).")]
Confidence = Annotated[
    float, typer.Option("--min-confidence", min=0.0, max=1.0, help="Below it a row is labelled `unknown`.")
]
Probabilities = Annotated[bool, typer.Option("--probabilities", help="A column for the probability of each label.")]
Directory = Annotated[Path, typer.Argument(help="The classifier, made by `f2llm classify train`.")]
Predictions = Annotated[Path, typer.Option("--out", help="Where predictions go: .csv, .jsonl or .parquet.")]
Picture = Annotated[Path | None, typer.Option("--picture", help="Write the confusion matrix here, a PNG.")]


def _columns(text: str | None, label: str, lang: str | None, group: str | None, encoding: str) -> Any:
    from f2llm.apps.classify_rows import Columns
    from f2llm.core.readers import known_encoding

    try:
        return Columns(text, label, lang, group, known_encoding(encoding))
    except ValueError as error:
        raise ConfigError(f"--encoding: {error}") from None


@app.command(epilog="Example: f2llm classify train reviews.csv --text text --label sentiment --out classifier")
def train(
    files: Files,
    target: Annotated[Path, typer.Option("--out", help="Folder for the classifier and its report.")],
    text: Text = None,
    label: Label = "label",
    lang: Lang = None,
    group: Group = None,
    model: Model = None,
    instruction: Instruction = None,
    dim: Dim = None,
    balanced: Balanced = False,
    folds: Folds = 5,
    seed: Seed = 0,
    encoding: Encoding = "utf-8",
    as_json: Json = False,
) -> None:
    """Train a classifier on labelled rows and tell how good it is, by cross-validation."""
    from f2llm.pipeline.classifying import train_classifier

    told = train_classifier(
        files, target, columns=_columns(text, label, lang, group, encoding), model=model, instruction=instruction,
        dim=dim, balanced=balanced, folds=folds, seed=seed,
    )  # fmt: skip
    _print_report(told, as_json, f"classifier in {target}; C {told.get('C')} of {told.get('folds')} folds; ")
    if not as_json:
        out.print(f"the confusion matrix: {target / 'confusion.png'}")


@app.command(epilog="Example: f2llm classify predict classifier new.csv --text text --out labelled.csv")
def predict(
    directory: Directory,
    files: TextFiles,
    target: Predictions,
    text: Text = None,
    keep: Keep = None,
    min_confidence: Confidence = 0.0,
    probabilities: Probabilities = False,
    model: Model = None,
    encoding: Encoding = "utf-8",
    as_json: Json = False,
) -> None:
    """Label texts with a trained classifier."""
    from f2llm.pipeline.classifying import predict as run

    told = run(
        directory, files, target, model=model, columns=_columns(text, "label", None, None, encoding), keep=keep or (),
        min_confidence=min_confidence, all_probabilities=probabilities,
    )  # fmt: skip
    _print_counts(told, target, as_json)


@app.command(
    "eval", epilog="Example: f2llm classify eval classifier test.csv --text text --label sentiment --lang lang"
)
def evaluate(
    directory: Directory,
    files: Files,
    text: Text = None,
    label: Label = "label",
    lang: Lang = None,
    model: Model = None,
    picture: Picture = None,
    encoding: Encoding = "utf-8",
    as_json: Json = False,
) -> None:
    """Score a trained classifier on labelled rows that it has not seen."""
    from f2llm.pipeline.classifying import evaluate_classifier

    columns = _columns(text, label, lang, None, encoding)
    _print_report(evaluate_classifier(directory, files, columns=columns, model=model, picture=picture), as_json)


@app.command(
    "zero-shot", epilog="Example: f2llm classify zero-shot news.txt --labels sports,politics --out labelled.csv"
)
def zero_shot(
    files: TextFiles,
    target: Annotated[
        Path | None, typer.Option("--out", help="Where predictions go: .csv, .jsonl or .parquet.")
    ] = None,
    labels: Annotated[str | None, typer.Option("--labels", help="Names of the labels, with commas between.")] = None,
    descriptions: Annotated[
        Path | None, typer.Option("--descriptions", help="JSON: label -> a description or a list of them.")
    ] = None,
    template: Annotated[str, typer.Option("--template", help="A sentence with {} for the name or description.")] = "{}",
    text: Text = None,
    label: Annotated[str | None, typer.Option("--label", help="Column of the true label: scores are told.")] = None,
    lang: Lang = None,
    keep: Keep = None,
    min_confidence: Confidence = 0.0,
    probabilities: Probabilities = False,
    model: Model = None,
    instruction: Instruction = None,
    dim: Dim = None,
    picture: Picture = None,
    encoding: Encoding = "utf-8",
    as_json: Json = False,
) -> None:
    """Label texts by the names or descriptions of the labels alone, without training."""
    from f2llm.apps.classify import descriptions as read_descriptions
    from f2llm.pipeline.classifying import zero_shot as run

    names = [name.strip() for name in (labels or "").split(",") if name.strip()]
    if not names and descriptions is None:
        raise ConfigError("no label is named; give --labels a,b,c or --descriptions FILE")
    if target is None and label is None:
        raise ConfigError("nothing is asked for; give --out for predictions, --label for scores, or both")
    told = run(
        files, columns=_columns(text, label or "label", lang, None, encoding), model=model, instruction=instruction,
        descriptions=read_descriptions(names, template, descriptions), dim=dim, target=target, judge=label is not None,
        picture=picture, keep=keep or (), min_confidence=min_confidence, all_probabilities=probabilities,
    )  # fmt: skip
    if label is not None:
        _print_report(told, as_json)
    elif target is not None:
        _print_counts({"out": told["out"], **told["predicted"]}, target, as_json)


@app.command(epilog="Example: f2llm classify transfer nusax.csv --text text --label label --lang lang --group id")
def transfer(
    files: Files,
    lang: Annotated[str, typer.Option("--lang", help="Column of the language.")],
    text: Text = None,
    label: Label = "label",
    group: Group = None,
    train_on: Annotated[
        str | None, typer.Option("--train-on", help="Languages to train on, with commas between; default: each.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=20, help="At most so many rows of a language, drawn by the seed.")
    ] = None,
    target: Annotated[Path | None, typer.Option("--out", help="Folder for transfer.json and transfer.png.")] = None,
    model: Model = None,
    instruction: Instruction = None,
    dim: Dim = None,
    balanced: Balanced = False,
    folds: Folds = 5,
    seed: Seed = 0,
    encoding: Encoding = "utf-8",
    as_json: Json = False,
) -> None:
    """Train on one language and ask in the others: macro F1 of every pair, beside chance."""
    from f2llm.pipeline.classifying import transfer_table, transfer_view

    found = transfer_table(
        files, columns=_columns(text, label, lang, group, encoding), model=model, instruction=instruction, dim=dim,
        target=target, limit=limit, seed=seed, balanced=balanced, folds=folds,
        train_on=[name.strip() for name in (train_on or "").split(",") if name.strip()],
    )  # fmt: skip
    if as_json:
        print(json.dumps(found.to_json(), ensure_ascii=False))
    else:
        out.print(transfer_view(found))


def _print_report(told: dict[str, Any], as_json: bool, before: str = "") -> None:
    from f2llm.pipeline.classifying import report_line, report_tables

    print_summary_line(told, as_json, f"{before}{report_line(told)}")
    if not as_json:
        for table in report_tables(told):
            out.print(table)


def _print_counts(told: dict[str, Any], target: Path, as_json: bool) -> None:
    ordered = sorted(told["labels"].items(), key=lambda entry: -entry[1])
    counts = ", ".join(f"{name} {count:,}" for name, count in ordered[:_SHOWN])
    counts += f" and {len(ordered) - _SHOWN:,} more labels" if len(ordered) > _SHOWN else ""
    print_summary_line(told, as_json, f"{told['rows']:,} rows in {target}: {counts}")
