"""Where the rows went: a table and a picture of every reason for which rows were dropped.

Both read the counts that `clean` writes to `drops.json`: {source: {"rows": n, "train": n, "eval": n, "dropped":
{reason: n}}}. The picture is a Sankey diagram: sources on the left, what became of their rows on the right, every band
as wide as its rows are many. The smallest sources and reasons are put together, so that at most 24 and 14 are drawn,
and the leaks of all evaluation sets are one reason. The table has all reasons, each with its largest sources. Cost:
half a second a picture. Names in letters that DejaVu Sans lacks show as boxes.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from f2llm.core.errors import DataError
from f2llm.core.extras import optional
from f2llm.core.pictures import COLOURS, MUTED, STYLE

Counts = Mapping[str, Mapping[str, Any]]
Flows = dict[str, Counter[str]]
TRAINING, EVALUATION = "training", "evaluation"
_LEAKS = "leaks "  # how the reasons of `decontaminate` begin
_NAMED = 3
_NODE = 0.018  # width of a node's bar
_GAP = 0.012  # least air between two nodes of a column, as a share of its height


def check_counts(counts: Counts) -> None:
    """DataError where the rows of a source are not all accounted for."""
    for source, found in counts.items():
        out = found["train"] + found["eval"] + sum(found["dropped"].values())
        if found["rows"] != out:
            raise DataError(f"source {source!r}: {found['rows']:,} rows in, {out:,} accounted for; run clean again")


def flow_table(counts: Counts) -> Table:
    """What became of the rows, with their share and the sources that gave most of them."""
    check_counts(counts)
    flows = _flows(counts)
    total = _totals(flows)
    reasons = [name for name, _ in total.most_common() if name not in (TRAINING, EVALUATION)]
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("what became of the rows")
    for title in ("rows", "share"):
        table.add_column(title, justify="right")
    table.add_column("most of them from", overflow="fold")
    for end in (TRAINING, EVALUATION, *reasons):
        largest = sorted((flow[end], name) for name, flow in flows.items() if flow[end])[::-1][:_NAMED]
        names = ", ".join(f"{name} {rows:,}" for rows, name in largest)
        table.add_row(end, f"{total[end]:,}", f"{total[end] / max(total.total(), 1):.1%}", names)
    table.add_row("all", f"{total.total():,}", "", f"{len(flows)} sources")
    return table


def _flows(counts: Counts) -> Flows:
    """Rows from each source to each end."""
    found = {}
    for source, numbers in counts.items():
        ends = {TRAINING: numbers["train"], EVALUATION: numbers["eval"], **numbers["dropped"]}
        found[source] = Counter({end: rows for end, rows in ends.items() if rows})
    return found


def _totals(flows: Flows) -> Counter[str]:
    total: Counter[str] = Counter()
    for flow in flows.values():
        total.update(flow)
    return total


def flow_picture(counts: Counts, *, most_sources: int = 24, most_reasons: int = 14) -> Any:
    """The Sankey diagram as a matplotlib figure; needs the extra `report`."""
    check_counts(counts)
    flows = _merge_ends(_merge_leaks(_merge_sources(_flows(counts), most_sources)), most_reasons)
    with optional("matplotlib", "report").rc_context(STYLE):
        return _draw(flows)


def flow_png(counts: Counts) -> bytes:
    """The picture on white, 150 dots per inch."""
    buffer = io.BytesIO()
    flow_picture(counts).savefig(buffer, format="png", dpi=150, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def _merge_sources(flows: Flows, most: int) -> Flows:
    """Sources with rows, largest first; the smallest as one, where there are more than `most`."""
    order = sorted((name for name in flows if flows[name]), key=lambda name: (-flows[name].total(), name))
    if len(order) <= most:
        return {name: flows[name] for name in order}
    rest = order[most - 1 :]
    kept = {name: flows[name] for name in order[: most - 1]}
    return kept | {f"{len(rest)} other sources": _totals({name: flows[name] for name in rest})}


def _merge_leaks(flows: Flows) -> Flows:
    """The same with the leaks of several evaluation sets as one reason."""
    leaks = {name for name in _totals(flows) if name.startswith(_LEAKS)}
    return _renamed(flows, leaks, f"leaks {len(leaks)} evaluation sets") if len(leaks) > 1 else flows


def _merge_ends(flows: Flows, most: int) -> Flows:
    """The same with at most `most` reasons, the rarest put together."""
    reasons = [name for name, _ in _totals(flows).most_common() if name not in (TRAINING, EVALUATION)]
    if len(reasons) <= most:
        return flows
    rest = set(reasons[most - 1 :])
    return _renamed(flows, rest, f"{len(rest)} other reasons")


def _renamed(flows: Flows, ends: Set[str], name: str) -> Flows:
    """The same with all of `ends` as one."""
    merged: Flows = {source: Counter() for source in flows}
    for source, flow in flows.items():
        for end, rows in flow.items():
            merged[source][name if end in ends else end] += rows
    return merged


@dataclass
class _Node:
    """A bar of the picture; `top` is where its next band begins."""

    name: str
    rows: int
    colour: str
    middle: float = 0.0
    top: float = 0.0


def _draw(flows: Flows) -> Any:
    total = _totals(flows)
    ends = [name for name in (TRAINING, EVALUATION) if total[name]]
    ends += [name for name, _ in total.most_common() if name not in (TRAINING, EVALUATION)]
    left = [_Node(name, flow.total(), MUTED) for name, flow in flows.items()]
    right = [_Node(name, total[name], _colour(name, place)) for place, name in enumerate(ends)]
    most = max(len(left), len(right), 1)
    height = max(2.6, 0.27 * most + 0.8)
    figure = optional("matplotlib.figure", "report").Figure(figsize=(12.0, height))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set(xlim=(-0.98, 2.02), ylim=(-0.04, 1.04))
    axes.axis("off")
    scale = (1 - _GAP * (most - 1)) / max(total.total(), 1)
    for nodes in (left, right):
        _stack(nodes, scale)
    _bands(axes, flows, left, right, scale)
    for nodes in (left, right):
        _bars(axes, nodes, nodes is right, scale, total.total(), 0.19 / height)
    return figure


def _colour(end: str, place: int) -> str:
    return {TRAINING: MUTED, EVALUATION: COLOURS[0]}.get(end) or COLOURS[1:][place % (len(COLOURS) - 1)]


def _stack(nodes: list[_Node], scale: float) -> None:
    """Places the bars of a column from the top, so that it fills the height."""
    used = sum(node.rows for node in nodes) * scale
    gap = (1 - used) / (len(nodes) - 1) if len(nodes) > 1 else 0.0
    top = 1.0 if len(nodes) > 1 else 0.5 + used / 2
    for node in nodes:
        node.top, node.middle = top, top - node.rows * scale / 2
        top -= node.rows * scale + gap


def _bands(axes: Any, flows: Flows, left: list[_Node], right: list[_Node], scale: float) -> None:
    x = np.linspace(0, 1, 60)
    curve = x * x * (3 - 2 * x)
    for source in left:
        for end in right:
            height = flows[source.name][end.name] * scale
            if height:
                upper = source.top + (end.top - source.top) * curve
                alpha = 0.28 if end.name == TRAINING else 0.6
                axes.fill_between(x, upper - height, upper, color=end.colour, alpha=alpha, linewidth=0)
                source.top, end.top = source.top - height, end.top - height


def _bars(axes: Any, nodes: list[_Node], right: bool, scale: float, total: int, gap: float) -> None:
    """Bars with their names and rows beside them; a thin line ties a label to a bar that it had to leave."""
    edge, away = (1 + _NODE, 0.04) if right else (-_NODE, -0.04)
    tie = {"arrowstyle": "-", "color": MUTED, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 0}
    tie["relpos"] = (0.0 if right else 1.0, 0.5)
    for node, place in zip(nodes, _apart([node.middle for node in nodes], gap), strict=True):
        height = max(node.rows * scale, 0.002)
        axes.bar(1 if right else -_NODE, height, _NODE, node.middle - height / 2, align="edge", color=node.colour)
        share = f"{node.rows / max(total, 1):.1%}" if 1000 * node.rows >= total else "<0.1%"
        text = f"{_clip(node.name)}  {node.rows:,} ({share})"
        side = "left" if right else "right"
        axes.annotate(text, (edge, node.middle), (edge + away, place), ha=side, va="center", fontsize=8, arrowprops=tie)


def _apart(places: Sequence[float], gap: float) -> list[float]:
    """Descending positions near `places` that are at least `gap` apart, none below 0."""
    found: list[float] = []
    for place in places:
        found.append(min(place, found[-1] - gap) if found else place)
    lowest = 0.0
    for index in reversed(range(len(found))):
        found[index] = max(found[index], lowest)
        lowest = found[index] + gap
    return found


def _clip(name: str, length: int = 36) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"
