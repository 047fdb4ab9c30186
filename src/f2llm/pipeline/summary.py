"""What `f2llm build` prints at its end: the family in a table, a few searches, and where the report lies."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from f2llm.core.files import read_json


def print_summary(out: Console, directory: Path) -> None:
    """Read DIRECTORY/report and print the table, the example searches and the report's path."""
    report = read_json(directory / "report" / "report.json")
    tasks = list(report["baseline"]["tasks"])
    table = Table("model", "parameters", "dims", "stage", "teacher", *tasks, "macro", "tokens/s", box=None, padding=(0, 1))
    for model in report["models"]:
        scores = model["scores"]
        table.add_row(
            model["name"], f"{model['parameters']:,}", str(max(model["dims"])), str(model["stage"]), model["teacher"] or "-",
            *(f"{scores['tasks'][task]['score']:.3f}" for task in tasks), f"[bold]{scores['macro']:.3f}[/bold]",
            f"{model['tokens_per_second']:,.0f}",
        )  # fmt: skip
    baseline = report["baseline"]
    table.add_row(
        "TF-IDF, character n-grams", "-", "-", "-", "-", *(f"{baseline['tasks'][task]['score']:.3f}" for task in tasks),
        f"[bold]{baseline['macro']:.3f}[/bold]", "-",
    )  # fmt: skip
    out.print(table)
    _print_searches(out, directory)
    out.print(f"\nreport: {directory / 'report' / 'report.html'}")


def _print_searches(out: Console, directory: Path) -> None:
    path = directory / "report" / "searches.json"
    if not path.exists():
        return
    searches = read_json(path)
    corpus = directory / "report" / searches["corpus"]
    out.print(f"\nsearches with {searches['model']} in {corpus}:")
    for search in searches["results"]:
        hits = ", ".join(f"{hit['text']} ({hit['score']:.2f})" for hit in search["hits"])
        out.print(f"  {escape(search['query'])} -> {escape(hits)}")
