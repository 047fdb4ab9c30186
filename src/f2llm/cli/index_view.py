"""How the commands of an index print: what an index run did, hits with snippets, the stages of a search."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from f2llm.cli.common import as_dict, out

if TYPE_CHECKING:
    from f2llm.apps.index_build import Report
    from f2llm.apps.index_search import IndexHit, Stage

_MOST_SKIPPED = 20


def print_report(report: Report, as_json: bool) -> None:
    if as_json:
        skipped = [{"path": path, "reason": reason} for path, reason in report.skipped]
        print(json.dumps(asdict(report) | {"skipped": skipped}, ensure_ascii=False))
        return
    if report.added or report.updated or report.removed:
        out.print(
            f"{_counted(report.added, 'file')} added, {report.updated:,} updated, {report.removed:,} removed, "
            f"{report.unchanged:,} unchanged"
        )
        out.print(f"{_embedded(report)}{_counted(report.passages, 'passage')} in all")
    else:
        same = f"nothing has changed in {_counted(report.unchanged, 'file')}"
        first = same if report.unchanged else "no file was indexed"
        out.print(f"{first}; {_counted(report.passages, 'passage')} in all")
    for name, count in report.left_empty.items():
        out.print(f"[yellow]{count:,} values of the column {name} are of another type and were left empty[/yellow]")
    _print_skipped(report)


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _embedded(report: Report) -> str:
    if not report.embedded:
        return ""
    rate = f", {report.tokens / report.seconds:,.0f} tokens/s" if report.seconds else ""
    return f"{_counted(report.embedded, 'passage')} embedded in {report.seconds:.1f} s{rate}; "


def _print_skipped(report: Report) -> None:
    if not report.skipped:
        return
    out.print(f"[yellow]left out: {_counted(len(report.skipped), 'file')}[/yellow]")
    for path, reason in report.skipped[:_MOST_SKIPPED]:
        out.print(f"  {escape(_short(path))} {escape(reason)}")
    if len(report.skipped) > _MOST_SKIPPED:
        out.print(f"  and {len(report.skipped) - _MOST_SKIPPED:,} more; --json lists all")


def print_hits(results: Sequence[tuple[str, list[IndexHit], list[Stage]]], explain: bool, as_json: bool) -> None:
    """Hits of each query with the place of the passage and the part of it that fits the query best."""
    if as_json:
        found = [_as_json(query, hits, stages if explain else None) for query, hits, stages in results]
        print(json.dumps({"results": found}, ensure_ascii=False))
        return
    for query, hits, stages in results:
        table = Table(title=escape(query), title_justify="left", box=None, show_header=False, padding=(0, 1))
        for hit in hits:
            table.add_row(f"{hit.score:.{3 if hit.score > 0.1 else 4}f}", _shown(hit))
        out.print(table if hits else f"{escape(query)}\n  nothing found", soft_wrap=False)
        if explain:
            out.print(_stages(stages), soft_wrap=False)


def _as_json(query: str, hits: Sequence[IndexHit], stages: Sequence[Stage] | None) -> dict[str, Any]:
    entry: dict[str, Any] = {"query": query, "hits": [as_dict(hit) for hit in hits]}
    return entry if stages is None else entry | {"stages": [asdict(stage) for stage in stages]}


def _shown(hit: IndexHit) -> Text:
    from f2llm.apps.snippets import snippet

    part, places = snippet(hit.text, hit.words)
    shown = Text(part)
    for start, end in places:
        shown.stylize("bold yellow", start, end)
    values = [f"{name} {value}" for name, value in hit.values.items() if value is not None]
    separator = ":" if hit.unit == "line" else f", {hit.unit} "
    about = [hit.language, f"{_short(hit.path)}{separator}{hit.position}", hit.title, *values]
    shown.append("\n" + " · ".join(part for part in about if part), style="dim")
    return shown


def _stages(stages: Sequence[Stage]) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="dim")
    table.add_column("stage")
    table.add_column("passages", justify="right")
    table.add_column("ms", justify="right")
    table.add_column("")
    for stage in stages:
        table.add_row(stage.name, f"{stage.passages:,}", f"{stage.milliseconds:.1f}", escape(stage.note))
    return table


def _short(path: str) -> str:
    """A path from the working directory where it is below it."""
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except ValueError:
        return path
