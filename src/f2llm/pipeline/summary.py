"""What `f2llm build` prints at its end: the family in a table, a few searches, and where the report lies."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from f2llm.core.files import read_json
from f2llm.core.log import print_wide
from f2llm.eval.page import baseline_name


def print_summary(out: Console, directory: Path) -> None:
    """Read DIRECTORY/report and print the table, the example searches and the report's path."""
    report = directory / "report"
    content = read_json(report / "report.json")
    tasks = [*(task["name"] for task in content["tasks"]), "macro"]
    measures = [task["metric"] for task in content["tasks"]]
    heads = [f"{task}\n{measure}" for task, measure in zip(tasks, [*measures, "mean"], strict=True)]
    table = Table(box=None, padding=(0, 1))
    table.add_column("model", no_wrap=True)
    for head in ("stage", "parameters", "dims", *heads, "tokens/s"):
        table.add_column(head, justify="right", no_wrap=True)
    for model in content["models"]:
        facts = [model["stage"], f"{model['parameters']:,}", model["dims"]]
        scores = [f"{model['scores'][task]:.3f}" for task in tasks]
        table.add_row(model["name"], *map(str, facts), *scores, f"{model['tokens_per_second']:,.0f}")
    for baseline in content["baselines"]:
        scores = [f"{baseline['scores'][task]:.3f}" for task in tasks]
        table.add_row(f"[dim]{baseline_name(baseline['name'])}", "", "", "", *scores, "")
    print_wide(out, table)
    _print_searches(out, report)
    out.print(f"\nreport: {report / 'report.html'}")


def _print_searches(out: Console, report: Path) -> None:
    path = report / "searches.json"
    if not path.exists():
        return
    searches = read_json(path)
    corpus = report / searches["corpus"]
    out.print(f"\nsearches with {searches['model']} in {corpus}:")
    for found in searches["results"]:
        hits = ", ".join(f"{text} ({score:.2f})" for score, text in found["hits"])
        note = f" ({found['language']}, never seen; the answer is {found['answer']})" if found["answer"] else ""
        out.print(f"  {escape(found['query'] + note)} -> {escape(hits)}")
    right = [found["query"] for found in searches["results"] if found["hits"][0][1] == found["answer"]]
    query = (right or [searches["results"][0]["query"]])[0]
    out.print(f'\ntry:    f2llm search "{escape(query)}" --in {corpus}')
