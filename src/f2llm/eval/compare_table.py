"""A comparison as tables for the terminal; scores are shown times 100, as MTEB does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from f2llm.eval.compare import OWN, Comparison, Group, Row, TaskLine
from f2llm.eval.significance import PairedTest

MANY_TASKS = 40
WITHOUT_TYPES, TYPE_WIDTH = 62, 8  # characters of the other columns, and of one task type's
SHORT = {
    "BitextMining": "bitext", "Classification": "class.", "Clustering": "clust.", "InstructionReranking": "instr.",
    "MultilabelClassification": "multi.", "PairClassification": "pairs", "Reranking": "rerank", "Retrieval": "retr.",
    "STS": "STS", "Summarization": "summ.",
}  # fmt: skip


def tables(comparison: Comparison, *, per_task: bool = False, width: int = 160) -> list[Table | Text]:
    """One table and its notes for each benchmark, then tests and failures.

    Tasks have lines of their own in our own table where they are few, and everywhere with `per_task`. Of the means by
    task type there are as many columns as fit in `width` characters; a note names the others.
    """
    made: list[Table | Text] = []
    for group in comparison.groups:
        kinds = sorted({line.task_type for line in group.lines})
        shown = kinds[: max(0, (width - WITHOUT_TYPES) // TYPE_WIDTH)]
        made += [_summary(group, shown), Text(_notes(group, kinds[len(shown) :]), style="dim")]
        if group.lines and (per_task or (group.benchmark == OWN and len(group.lines) <= MANY_TASKS)):
            made.append(_tasks(group))
    overall = [test for test in comparison.tests if test.task is None]
    tests = comparison.tests if per_task or len(comparison.tests) <= MANY_TASKS else overall
    if tests:
        made.append(_tests(tests))
    if comparison.failures:
        made.append(_failures(comparison.failures))
    return made


def _summary(group: Group, kinds: Sequence[str]) -> Table:
    count = f"{len(group.lines)} of {group.tasks} tasks"
    table = Table(title=f"{escape(group.benchmark)}: {count}", title_justify="left", box=None)
    table.add_column("rank", justify="right")
    table.add_column("model", min_width=24, max_width=40, overflow="ellipsis")  # no other may be cut
    for head in ("tasks", "mean", "types", "unflag.", *(SHORT.get(kind, kind) for kind in kinds)):
        table.add_column(head, justify="right", no_wrap=True)
    for row in group.rows:
        style = "dim" if row.missing else "bold" if row.ours else ""
        table.add_row(*_cells(row, kinds, len(group.lines)), style=style)
    return table


def _cells(row: Row, kinds: Sequence[str], tasks: int) -> list[str]:
    values = [row.mean, row.mean_of_types, row.mean_unflagged, *(row.mean_by_type.get(kind) for kind in kinds)]
    rank = "-" if row.borda_rank is None else str(row.borda_rank)
    return [rank, escape(short_name(row.model)), str(tasks - len(row.missing)), *map(percent, values)]


def short_name(model: str) -> str:
    """A model's name without its owner, a directory's without its parents."""
    return model.rsplit("/", 1)[-1]


def percent(value: float | None) -> str:
    """A score times 100 with one decimal; empty for none."""
    return "" if value is None else f"{100 * value:.1f}"


def _notes(group: Group, unseen: Sequence[str]) -> str:
    parts = ["rank: Borda, complete rows only; types: mean over task types; unflag.: tasks without a flag"]
    if unseen:
        parts.append(f"no room for the means of {', '.join(unseen)}: a wider terminal or --json shows them")
    if any(row.missing for row in group.rows):
        parts.append("rows without a rank lack some of the tasks and cannot be compared")
    marked = differing((line.task, line.marks) for line in group.lines)
    parts += [f"not as published: {marked}"] if marked else []
    parts += [f"left out: {task}, {why}" for task, why in group.left_out.items()]
    return "\n".join(f"  {part}" for part in parts)


def differing(lines: Iterable[tuple[str, Sequence[str]]]) -> str:
    """Which tasks are not scored as the published ones are, out of tasks and their marks; empty where all are."""
    return "; ".join(f"{task} ({', '.join(marks)})" for task, marks in lines if marks)


def _tasks(group: Group) -> Table:
    ours = sorted((row.model for row in group.rows if row.ours), key=list(group.lines[0].scores).index)
    published = any(not row.ours for row in group.rows)
    table = Table(title="  by task", title_justify="left", box=None)
    table.add_column("task", no_wrap=True)
    for head in ("type", "split", "revision"):
        table.add_column(head, overflow="fold")
    for name in ours:
        table.add_column(escape(short_name(name)), justify="right", overflow="fold")
    if published:
        table.add_column("best published", no_wrap=True, max_width=34)
    table.add_column("differs in", overflow="fold")
    table.add_column("flag", overflow="fold")
    for line in group.lines:
        scores = [percent(line.scores.get(name)) for name in ours]
        best = [_best(line, ours)] if published else []
        kind = SHORT.get(line.task_type, line.task_type)
        cells = [line.task, kind, line.split, line.revision[:7], *scores, *best, ", ".join(line.marks), line.flag]
        table.add_row(*map(escape, cells))
    return table


def _best(line: TaskLine, ours: Sequence[str]) -> str:
    others = {name: score for name, score in line.scores.items() if name not in ours}
    if not others:
        return ""
    name = max(others, key=others.__getitem__)
    return f"{percent(others[name])} {short_name(name)}"


def _tests(tests: Sequence[PairedTest]) -> Table:
    table = Table(title="Paired bootstrap", title_justify="left", box=None)
    for head in ("A", "B", "task", "drawn"):
        table.add_column(head, overflow="fold")
    for head in ("A - B", "95% interval", "p", "p, Holm"):
        table.add_column(head, justify="right", no_wrap=True)
    for test in tests:
        names = map(escape, (short_name(test.a), short_name(test.b), test.task or "mean of tasks"))
        interval = f"{100 * test.low:+.1f} to {100 * test.high:+.1f}"
        numbers = (f"{100 * test.difference:+.1f}", interval, f"{test.p:.4f}", f"{test.p_corrected:.4f}")
        style = "bold" if test.task is None else "" if test.clear else "dim"
        table.add_row(*names, f"{test.pairs:,} {test.unit}", *numbers, style=style)
    return table


def _failures(failures: Sequence[tuple[str, str, str]]) -> Table:
    table = Table("model", "task", "why there is no score", title="Failed", title_justify="left", box=None)
    for failure in failures:
        table.add_row(*map(escape, failure))
    return table
