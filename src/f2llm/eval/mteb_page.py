"""The page of the report on benchmarks: sections, tables and pictures out of the content of its report.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from string import Template
from typing import Any

from f2llm.core.pictures import MUTED
from f2llm.eval import charts, mteb_charts
from f2llm.eval.compare_table import differing, percent, short_name
from f2llm.eval.html import Cell, Column, figure, table
from f2llm.eval.significance import PairedTest

Content = Mapping[str, Any]
BYTES = {"float": 4.0, "int8": 1.0, "uint8": 1.0, "binary": 1 / 8, "ubinary": 1 / 8}  # of one dimension
MANY_TASKS = 40  # more than these are not drawn in pictures with a row for each task
_NOT_BEATEN = "The dashed line joins the models that no other beats in both."
PANELS = 4  # pairs of models side by side in one picture


def render(content: Content, pictures: Mapping[str, str]) -> str:
    """The whole page; `pictures` are SVG elements by name."""
    sections = [
        ("headline", "In short", _headline(content)),
        ("models", "Models", _models(content, pictures)),
        ("published", "Beside published models", _published(content)),
        ("tasks", "Tasks", _tasks(content)),
        ("languages", "Languages", _languages(content, pictures)),
        ("dimensions", "Dimensions", _dimensions(content, pictures)),
        ("students", "Student and teacher", _students(content, pictures)),
        ("significance", "Significance", _significance(content, pictures)),
        ("failed", "Failed", _failed(content)),
        ("reproduce", "Reproduce", _reproduce(content)),
    ]
    shown = [section for section in sections if section[2]]
    template = Template(resources.files("f2llm.eval").joinpath("report.html.template").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(content["title"]),
        lead=escape(_lead(content)),
        toc="".join(f'<li><a href="#{name}">{title}</a></li>' for name, title, _ in shown),
        sections="\n".join(f'<section id="{name}"><h2>{title}</h2>\n{body}</section>' for name, title, body in shown),
        footer=escape(f"Written by f2llm, {content['date']}." if content["date"] else "Written by f2llm."),
    )


def _lead(content: Content) -> str:
    own, count = content["groups"][0], len(content["models"])
    kinds = len({line["task_type"] for line in own["lines"]})
    return (
        f"{count} model{'s' * (count != 1)} on {len(own['lines'])} tasks of {kinds} types; scores are mteb's main "
        "scores times 100"
    )


def _palette(content: Content) -> dict[str, str]:
    return charts.colours([model["model"] for model in content["models"]])


def draw_figures(content: Content) -> dict[str, tuple[bytes, str]]:
    """Name -> (PNG, SVG) of every picture that the content has data for."""
    palette = _palette(content)
    where = f"{len(content['groups'][0]['lines'])} tasks"
    drawn = {
        "sizes": _draw_sizes(content, palette),
        "pareto": _draw_pareto(content, palette, where),
        "scripts": _draw_scripts(content),
        "dimensions": _draw_dimensions(content),
        "students": _draw_students(content),
        "significance": _draw_significance(content),
    }
    return {
        name: (charts.png(figure), charts.svg(figure, name)) for name, figure in drawn.items() if figure is not None
    }


def _draw_sizes(content: Content, palette: Mapping[str, str]) -> Any:
    found = content["sizes"]
    dots = [
        mteb_charts.Dot(
            short_name(p["model"]), p["parameters"], p["mean"], palette.get(p["model"], MUTED), p["ours"]
        )
        for p in found["points"]
    ]  # fmt: skip
    where = f"{found['tasks']} tasks" if found["benchmark"] == content["groups"][0]["benchmark"] else (
        f"{found['tasks']} of {found['of']} tasks of {found['benchmark']}"
    )  # fmt: skip
    return mteb_charts.sizes(dots, where) if any(dot.ours for dot in dots) else None


def _draw_pareto(content: Content, palette: Mapping[str, str], where: str) -> Any:
    panels = [
        [
            mteb_charts.Dot(short_name(m["model"]), m[key], m["mean"], palette[m["model"]])
            for m in content["models"]
            if m[key]
        ]
        for key in ("tokens_per_second", "memory_mb")
    ]
    return mteb_charts.pareto(panels[0], panels[1], where) if any(panels) else None


def _draw_scripts(content: Content) -> Any:
    if not content["grids"] or not content["grids"][0]["scripts"]:
        return None
    grid = content["grids"][0]
    names = [f"{script}  ({count})" for script, count in zip(grid["scripts"], grid["languages"], strict=True)]
    return mteb_charts.heat(names, grid["types"], grid["scores"])


def _draw_dimensions(content: Content) -> Any:
    found = content["dimensions"]
    lines = {
        (short_name(line["model"]), line["precision"]): {int(dim): mean for dim, mean in line["by_dim"].items()}
        for line in found["lines"]
    }
    palette = {
        short_name(model["path"]): colour
        for model, colour in zip(content["models"], _palette(content).values(), strict=True)
    }
    return mteb_charts.dimensions(lines, palette, f"{found['tasks']} tasks") if lines else None


def _draw_students(content: Content) -> Any:
    panels = {}
    for entry in content["students"][:PANELS]:
        title = f"{short_name(entry['student'])}, teacher {short_name(entry['teacher'])}"
        pairs = [mteb_charts.Pair(task, own, taught) for task, (own, taught) in entry["tasks"].items()]
        panels[title] = pairs if len(pairs) <= MANY_TASKS else _pairs_by_type(entry)
    return mteb_charts.students(panels) if panels else None


def _pairs_by_type(entry: Content) -> list[mteb_charts.Pair]:
    kinds: dict[str, list[tuple[float, float]]] = {}
    for task, scores in entry["tasks"].items():
        kinds.setdefault(entry["types"][task], []).append(scores)
    means = {kind: [sum(side) / len(side) for side in zip(*found, strict=True)] for kind, found in kinds.items()}
    return [mteb_charts.Pair(kind, own, taught) for kind, (own, taught) in means.items()]


def _draw_significance(content: Content) -> Any:
    columns: dict[str, list[PairedTest]] = {}
    for entry in content["tests"]:
        test = PairedTest(**{key: value for key, value in entry.items() if key != "clear"})
        columns.setdefault(f"{short_name(test.a)} - {short_name(test.b)}", []).append(test)
    shown = largest(dict(list(columns.items())[:PANELS]))
    return mteb_charts.significance(shown) if shown else None


def largest(columns: Mapping[str, Sequence[PairedTest]]) -> dict[str, list[PairedTest]]:
    """The tests of each pair; of many tasks those with the largest difference in any pair, the same for all pairs."""
    reach: dict[str, float] = {}
    for test in (test for tests in columns.values() for test in tests):
        if test.task is not None:
            reach[test.task] = max(reach.get(test.task, 0.0), abs(test.difference))
    kept = {None, *sorted(reach, key=reach.__getitem__, reverse=True)[:MANY_TASKS]}
    return {title: [test for test in tests if test.task in kept] for title, tests in columns.items()}


def _headline(content: Content) -> str:
    own, best = content["groups"][0], content["models"][0]
    tiles = [
        (str(len(content["models"])), "models" if len(content["models"]) > 1 else "model"),
        (str(len(own["lines"])), f"tasks that all have, of {own['tasks']}"),
        (
            str(len(content["languages"])),
            f"languages in {len({row['script'] for row in content['languages']})} scripts",
        ),
        (percent(best["mean"]), f"{short_name(best['model'])}, mean over tasks"),
    ]
    return (
        '<div class="tiles">'
        + "".join(f'<div class="tile"><b>{escape(big)}</b><span>{escape(small)}</span></div>' for big, small in tiles)
        + '</div>\n<ul class="findings">'
        + "".join(f"<li>{escape(finding)}</li>" for finding in findings(content))
        + "</ul>\n"
    )


def findings(content: Content) -> list[str]:
    """What a reader should know first, one sentence each, and only what the numbers say clearly."""
    best, own, said = content["models"][0], content["groups"][0], []
    said += [overall_verdict(test) for test in content["tests"] if test["task"] is None]
    for entry in content["students"]:
        if entry["kept"] is not None:
            names = f"{short_name(entry['student'])} keeps {entry['kept']:.1%} of the score of its teacher"
            said.append(f"{names} {short_name(entry['teacher'])} over {len(entry['tasks'])} tasks.")
    flagged = sum(bool(line["flag"]) for line in own["lines"])
    if flagged:
        rest = "" if best["mean_unflagged"] is None else (
            f" Without them {short_name(best['model'])} scores {percent(best['mean_unflagged'])}."
        )  # fmt: skip
        said.append(f"{flagged} of {len(own['lines'])} tasks are flagged: their texts may have been trained on.{rest}")
    marked = sorted({line["task"] for group in content["groups"][1:] for line in group["lines"] if line["marks"]})
    if marked:
        said.append(
            f"{len(marked)} task{'s' * (len(marked) > 1)} differ from the published ones in split, revision or "
            "languages; the table of tasks says in what."
        )
    if content["failures"]:
        count = len(content["failures"])
        said.append(f"{count} result{'s' * (count > 1)} failed and count{'s' * (count == 1)} nowhere; see Failed.")
    return said


def overall_verdict(test: Content) -> str:
    """The overall test of two models in words; no winner where it is not clear."""
    detail = f"{100 * test['low']:+.1f} to {100 * test['high']:+.1f}, drawn over {test['pairs']:,} {test['unit']}"
    a, b = short_name(test["a"]), short_name(test["b"])
    if not test["clear"]:
        return f"No clear difference between {a} and {b} ({100 * test['difference']:+.1f}, 95% interval {detail})."
    ahead, behind = (a, b) if test["difference"] > 0 else (b, a)
    return f"{ahead} is ahead of {behind} ({100 * test['difference']:+.1f}, 95% interval {detail})."


def score(value: float | None, best: bool = False) -> Cell:
    return Cell("", -1) if value is None else Cell(percent(value), value, max(value, 0.0), best)


def _models(content: Content, pictures: Mapping[str, str]) -> str:
    kinds = sorted({line["task_type"] for line in content["groups"][0]["lines"]})
    columns = [
        Column("model", number=False), Column("mean", "over tasks"), Column("types", "mean over types"),
        Column("unflagged", "tasks only"), *(Column(kind) for kind in kinds), Column("failed", "tasks"),
    ]  # fmt: skip
    top = {kind: max(model["by_type"][kind] for model in content["models"]) for kind in kinds}
    palette, rows = _palette(content), []
    for m in content["models"]:
        dot = f'<span class="dot" style="--c:{palette[m["model"]]}"></span>'
        cells = [
            Cell(f'{dot}<span title="{escape(m["model"])}">{escape(short_name(m["model"]))}</span>'),
            score(m["mean"]), score(m["mean_of_types"]), score(m["mean_unflagged"]),
            *(score(m["by_type"][kind], m["by_type"][kind] == top[kind]) for kind in kinds),
            Cell(str(m["failed"]), m["failed"]),
        ]  # fmt: skip
        rows.append(("", cells))
    size, front = pictures.get("sizes"), pictures.get("pareto")
    grey = any(not point["ours"] for point in content["sizes"]["points"])
    published = "; grey: published models with all of these tasks" if grey else ""
    return (
        "<p>Means over the tasks that all models have a score for. A flagged task is one whose texts, or texts near "
        "to them, are in training data, or which is scored on a training split.</p>\n"
        + table(columns, rows)
        + _costs(content)
        + (figure(size, f"Quality against size{published}.") if size else "")
        + (figure(front, f"Quality against speed and memory. {_NOT_BEATEN}{_memory(content)}") if front else "")
    )


def _costs(content: Content) -> str:
    """The table of what each model costs; apart from the scores, so that neither is wider than a screen."""
    columns = [
        Column("model", number=False), Column("parameters"), Column("dims"), Column("weights", "MB on disk"),
        Column("memory", "MB, encoding"), Column("before", "MB, nothing loaded"), Column("tokens/s"),
    ]  # fmt: skip
    rows = [
        ("", [
            Cell(escape(short_name(m["model"]))), _count(m["parameters"]), _count(m["dims"], str),
            _count(m["weights_mb"], "{:,.1f}".format), _count(m["memory_mb"]), _count(m["memory_before_mb"]),
            _count(m["tokens_per_second"]),
        ])
        for m in content["models"]
    ]  # fmt: skip
    return table(columns, rows)


def _memory(content: Content) -> str:
    """What the figures of memory are of."""
    before = [m["memory_before_mb"] for m in content["models"] if m["memory_before_mb"]]
    if not before:
        return ""
    low, high = f"{min(before):,.0f}", f"{max(before):,.0f}"
    alone = low if low == high else f"{low} to {high}"
    return f" Memory is that of the whole process while it encodes; Python and libraries alone take {alone} MB."


def _count(value: float | None, words: Any = charts.short) -> Cell:
    return Cell("", -1) if value is None else Cell(f'<span title="{value:,.0f}">{words(value)}</span>', value)


def _published(content: Content) -> str:
    parts = []
    for group in content["groups"][1:]:
        kinds = sorted({line["task_type"] for line in group["lines"]})
        columns = [
            Column("model", number=False), Column("rank", "Borda"), Column("tasks"), Column("mean"),
            Column("types", "mean over types"), Column("unflagged", "tasks only"), *(Column(kind) for kind in kinds),
        ]  # fmt: skip
        rows = [_published_row(row, group, kinds) for row in group["rows"]]
        notes = [f"Left out: {task}, {why}." for task, why in group["left_out"].items()]
        marked = differing((line["task"], line["marks"]) for line in group["lines"])
        notes += [f"Ours are not scored as the published ones are: {marked}."] if marked else []
        parts.append(
            f"<h3>{escape(group['benchmark'])}: {len(group['lines'])} of {group['tasks']} tasks</h3>\n"
            + (f"<p class=muted>{'<br>'.join(map(escape, notes))}</p>\n" if notes else "")
            + table(columns, rows)
        )
    note = (
        "<p>Published scores are those of the public results repository of MTEB, 2026-11-24. Only tasks that our "
        "models have are counted. Grey rows lack some of them: their means are over other tasks and they have no rank. "
        "A part of a benchmark does not rank models as the whole does.</p>\n"
    )
    return note + "".join(parts) if parts else ""


def _published_row(row: Content, group: Content, kinds: Sequence[str]) -> tuple[str, list[Cell]]:
    tag = '<span class="tag">ours</span>' if row["ours"] else ""
    name = escape(short_name(row["model"]))
    have, rank = len(group["lines"]) - len(row["missing"]), row["borda_rank"]
    return "baseline" if row["missing"] else "", [
        Cell((f"<b>{name}</b>" if row["ours"] else name) + tag),
        Cell("-", 1e9) if rank is None else Cell(str(rank), rank),
        Cell(f"{have}/{len(group['lines'])}", have),
        score(row["mean"]), score(row["mean_of_types"]), score(row["mean_unflagged"]),
        *(score(row["mean_by_type"].get(kind)) for kind in kinds),
    ]  # fmt: skip


def _tasks(content: Content) -> str:
    own = content["groups"][0]
    names = [model["model"] for model in content["models"]]
    marks = {line["task"]: line for group in content["groups"][1:] for line in group["lines"]}
    columns = [
        Column("task", number=False), Column("type", number=False), *(Column(short_name(name)) for name in names),
        Column("split", number=False), Column("revision", number=False),
        Column("differs", "from the published", number=False), Column("flag", number=False),
    ]  # fmt: skip
    rows = []
    for line in own["lines"]:
        top = max(line["scores"].values())
        differs = sorted({*line["marks"], *marks.get(line["task"], line)["marks"]})
        cells = [
            Cell(escape(line["task"])), Cell(escape(line["task_type"])),
            *(score(line["scores"][name], line["scores"][name] == top) for name in names),
            Cell(escape(line["split"])), Cell(f"<code>{escape(line['revision'][:7])}</code>"),
            Cell(escape(", ".join(differs))), Cell(f'<span class="bad">{escape(line["flag"])}</span>'),
        ]  # fmt: skip
        rows.append(("", cells))
    return _filter("task-table", "task, type or flag") + table(columns, rows, name="task-table")


def _filter(name: str, by: str) -> str:
    return (
        f'<p><input type="search" data-filter="{name}" placeholder="Filter by {by}" aria-label="Filter by {by}"></p>\n'
    )


def _languages(content: Content, pictures: Mapping[str, str]) -> str:
    if not content["languages"]:
        return ""
    names, reference = [model["model"] for model in content["models"]], content["reference"]
    columns = [
        Column("language", number=False), Column("relative", f"{short_name(reference)}, to the tasks' means"),
        *(Column(short_name(name)) for name in names), Column("tasks"), Column("script", number=False),
    ]  # fmt: skip
    rows = []
    for row in content["languages"]:
        away = row["relative"][reference]
        tone = "muted" if not away else "good" if away > 0 else "bad"
        words = "" if away is None else f'<span class="{tone}">{100 * away:+.1f}</span>'
        cells = [
            Cell(f"{escape(row['name'])} <code class=muted>{escape(row['tag'])}</code>"),
            Cell(words, 9.0 if away is None else away), *(score(row["scores"][name]) for name in names),
            Cell(str(row["tasks"]), row["tasks"]), Cell(escape(row["script"])),
        ]  # fmt: skip
        rows.append(("", cells))
    shown = pictures.get("scripts")
    caption = (
        f"{short_name(reference)}: mean score of each script (number of its languages in brackets) on each type of "
        "task, the worst script first. Red is below the type's mean, blue above."
    )
    return (
        "<p>The worst first: this is where work is needed. Tasks are not equally hard, and languages do not share all "
        "of them, so languages are ordered by how far they are from the mean of each task that has several "
        "(relative).</p>\n"
        + (figure(shown, caption) if shown else "")
        + _filter("language-table", "language, tag or script")
        + table(columns, rows, name="language-table")
    )


def _dimensions(content: Content, pictures: Mapping[str, str]) -> str:
    lines = content["dimensions"]["lines"]
    if not lines:
        return ""
    dims = sorted({int(dim) for line in lines for dim in line["by_dim"]})
    columns = [Column("model", number=False), Column("precision", number=False), *(Column(str(dim)) for dim in dims)]
    columns.append(Column("bytes", "of the widest vector"))
    rows = []
    for line in lines:
        widest = max(map(int, line["by_dim"])) * BYTES.get(line["precision"], 4.0)
        cells = [Cell(escape(short_name(line["model"]))), Cell(escape(line["precision"]))]
        cells += [score(line["by_dim"].get(str(dim))) for dim in dims]
        rows.append(("", [*cells, Cell(f"{widest:,.0f}", widest)]))
    caption = "Quality against dimensions kept. Dashed: int8; dotted: binary, one bit a dimension."
    return (
        "<p>A vector may be cut to its first dimensions, and each dimension to a byte or a bit. This is what remains "
        f"of the mean over {content['dimensions']['tasks']} tasks.</p>\n"
        + figure(pictures["dimensions"], caption)
        + table(columns, rows)
    )


def _students(content: Content, pictures: Mapping[str, str]) -> str:
    if not content["students"]:
        return ""
    columns = [
        Column("student", number=False), Column("teacher", number=False), Column("student's mean"),
        Column("teacher's mean"), Column("kept"), Column("tasks"), Column("student ahead", "tasks"),
    ]  # fmt: skip
    rows = []
    for entry in content["students"]:
        ahead = sum(own > taught for own, taught in entry["tasks"].values())
        kept = Cell("", -1) if entry["kept"] is None else Cell(f"{entry['kept']:.1%}", entry["kept"])
        cells = [
            Cell(escape(short_name(entry["student"]))), Cell(escape(short_name(entry["teacher"]))),
            score(entry["score"]), score(entry["teacher_score"]), kept,
            Cell(str(len(entry["tasks"])), len(entry["tasks"])), Cell(str(ahead), ahead),
        ]  # fmt: skip
        rows.append(("", cells))
    caption = "Student (filled) and teacher (hollow) on each task, the largest loss first."
    return figure(pictures["students"], caption) + table(columns, rows)


def _significance(content: Content, pictures: Mapping[str, str]) -> str:
    if not content["tests"]:
        return ""
    columns = [
        Column("A", number=False), Column("B", number=False), Column("task", number=False), Column("A - B"),
        Column("95% interval", number=False), Column("p"), Column("p, Holm"), Column("drawn", number=False),
    ]  # fmt: skip
    rows = []
    for test in content["tests"]:
        tone = "muted" if not test["clear"] else "good" if test["difference"] > 0 else "bad"
        task = "<b>mean of tasks</b>" if test["task"] is None else escape(test["task"])
        cells = [
            Cell(escape(short_name(test["a"]))), Cell(escape(short_name(test["b"]))), Cell(task),
            Cell(f'<span class="{tone}">{100 * test["difference"]:+.1f}</span>', test["difference"]),
            Cell(f"{100 * test['low']:+.1f} to {100 * test['high']:+.1f}"), Cell(f"{test['p']:.4f}", test["p"]),
            Cell(f"{test['p_corrected']:.4f}", test["p_corrected"]), Cell(f"{test['pairs']:,} {test['unit']}"),
        ]  # fmt: skip
        rows.append(("", cells))
    caption = "Mean difference and its 95% interval, right of zero where A is better; grey where it is not clear. "
    caption += f"Of more than {MANY_TASKS} tasks, those with the largest differences."
    return (
        "<p>Paired bootstrap: the queries of a task (its languages where scores of queries are not there) are drawn "
        "10,000 times with replacement; for the mean, tasks are drawn where one of them has neither. Holm's correction "
        "counts all tasks of a pair. It says how much depends on these texts, not on training seeds.</p>\n"
        + figure(pictures["significance"], caption)
        + _filter("test-table", "model or task")
        + table(columns, rows, name="test-table")
    )


def _failed(content: Content) -> str:
    if not content["failures"]:
        return ""
    rows = [("", [Cell(escape(part)) for part in failure]) for failure in content["failures"]]
    return table([Column(name, number=False) for name in ("model", "task", "why there is no score")], rows)


def _reproduce(content: Content) -> str:
    facts = (
        {"Hardware": content["hardware"], "Date": content["date"]}
        | {f"Weights of {short_name(m['model'])}": m["digest"] for m in content["models"]}
        | {f"Memory and speed of {short_name(m['model'])}": m["measured"] for m in content["models"]}
    )
    rows = [("", [Cell(escape(name)), Cell(escape(value))]) for name, value in facts.items() if value]
    command = f"<pre>{escape(content['command'])}</pre>\n" if content["command"] else ""
    return command + table([Column("fact", number=False), Column("value", number=False)], rows)
