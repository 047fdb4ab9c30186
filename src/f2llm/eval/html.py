"""Pieces of HTML for the reports: tables with bars that can be sorted, figures, durations; how a report is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from f2llm.core.files import atomic_path, write_json, write_text


@dataclass(frozen=True)
class Cell:
    """A table cell: HTML to show, a number to sort by, a share 0..1 for the bar behind it."""

    html: str
    value: float | None = None
    bar: float | None = None
    best: bool = False


@dataclass(frozen=True)
class Column:
    """A table column: heading, a second line below it, numbers or text."""

    title: str
    note: str = ""
    number: bool = True


def write_page(
    out: Path,
    content: Mapping[str, Any],
    figures: Mapping[str, tuple[bytes, str]],
    render: Callable[[Mapping[str, Any], Mapping[str, str]], str],
) -> Path:
    """Write report.json, figures/*.png and report.html into `out`; returns the path of the page.

    `figures` is name -> (PNG, SVG); `render` makes the page of the content and the SVG elements.
    """
    for name, (picture, _) in figures.items():
        with atomic_path(out / "figures" / f"{name}.png") as temporary:
            temporary.write_bytes(picture)
    write_json(out / "report.json", content)
    write_text(out / "report.html", render(content, {name: drawing for name, (_, drawing) in figures.items()}))
    return out / "report.html"


def figure(picture: str, caption: str) -> str:
    """A picture that scrolls sideways where the screen is narrow."""
    told = escape(caption)
    return f'<figure><div role="img" aria-label="{told}">{picture}</div><figcaption>{told}</figcaption></figure>\n'


def table(columns: Sequence[Column], rows: Sequence[tuple[str, Sequence[Cell]]], *, name: str = "") -> str:
    """A table, sortable from four rows on; each row is its class and its cells, the first of them its heading."""
    sortable = len(rows) >= 4 and any(column.number for column in columns)
    heads = []
    for column in columns:
        title = f"<button>{escape(column.title)}</button>" if sortable else escape(column.title)
        note = f"<small>{escape(column.note)}</small>" if column.note else ""
        heads.append(f'<th scope="col"{_class("n" if column.number else "")}>{title}{note}</th>')
    body = "\n".join(f"<tr{_class(kind)}>{_cells(columns, cells)}</tr>" for kind, cells in rows)
    return (
        f'<div class="table"><table{_class("sortable" if sortable else "")}{f" id={name}" if name else ""}>'
        f"<thead><tr>{''.join(heads)}</tr></thead><tbody>\n{body}\n</tbody></table></div>\n"
    )


def _cells(columns: Sequence[Column], cells: Sequence[Cell]) -> str:
    parts = []
    for number, (column, cell) in enumerate(zip(columns, cells, strict=True)):
        kinds = [kind for kind, on in (("n", column.number), ("bar", cell.bar is not None), ("best", cell.best)) if on]
        style = "" if cell.bar is None else f' style="--v:{100 * cell.bar:.1f}%"'
        value = "" if cell.value is None else f' data-v="{cell.value:.6g}"'
        tag, scope = ("td", "") if number else ("th", ' scope="row"')
        parts.append(f"<{tag}{scope}{_class(' '.join(kinds))}{style}{value}>{cell.html}</{tag}>")
    return "".join(parts)


def _class(names: str) -> str:
    return f' class="{names}"' if names else ""


def duration(seconds: float) -> str:
    """1.3 s, 42 s, 5 min 12 s, 2 h 5 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
