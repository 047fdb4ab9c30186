"""The page of a report: sections, tables and pictures out of the content of report.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from string import Template
from typing import Any

import numpy as np

from f2llm.core.pictures import MUTED
from f2llm.eval import charts
from f2llm.eval.findings import verdict
from f2llm.eval.html import Cell, Column, duration, figure, table

Content = Mapping[str, Any]
USE = """from f2llm.model.embedder import Embedder

embedder = Embedder.load({path!r})
queries, documents = embedder.encode_query(["..."]), embedder.encode_document(["...", "..."])
print(embedder.similarity(queries, documents))"""
V_MEASURE_NOTE = (
    "The V-measure (v_measure) of a language with few texts is far above zero for random clusters too: compare it with "
    "the row of guessing. The score above is the adjusted mutual information (ami), the same corrected for chance."
)
STAGES = {0: "pruned only", 1: "after stage 1", 2: "after stage 2"}


def render(content: Content, pictures: Mapping[str, str]) -> str:
    """The whole page; `pictures` are SVG elements by name."""
    sections = [
        ("headline", "In short", _headline(content)),
        ("models", "Models", _models(content, pictures)),
        ("comparisons", "What helped", _comparisons(content, pictures)),
        ("dimensions", "Dimensions", _dimensions(content, pictures)),
        ("languages", "Languages", _languages(content, pictures)),
        ("training", "Training", _training(content, pictures)),
        ("searches", "Searches", _searches(content)),
        ("cost", "Time and memory", _steps(content)),
        ("reproduce", "Reproduce", _reproduce(content)),
    ]
    shown = [section for section in sections if section[2]]
    template = Template(resources.files("f2llm.eval").joinpath("report.html.template").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(f"{content['recipe']}: an F2LLM-v2 family"),
        lead=escape(content["description"]),
        toc="".join(f'<li><a href="#{name}">{title}</a></li>' for name, title, _ in shown),
        sections="\n".join(f'<section id="{name}"><h2>{title}</h2>\n{body}</section>' for name, title, body in shown),
        footer=escape(f"Written by f2llm from the recipe {content['recipe']}, {content['date']}."),
    )


def draw_figures(content: Content) -> dict[str, tuple[bytes, str]]:
    """Name -> (PNG, SVG) of every picture that the content has data for."""
    palette = charts.colours(content["family"][::-1])
    drawn = {
        "dimensions": _draw_dimensions(content, palette),
        "sizes": _draw_sizes(content, palette),
        "scripts": _draw_scripts(content, palette),
        "languages": _draw_languages(content, palette),
    }
    if content["curves"]:
        drawn["curves"] = _draw_curves(content)
    if any(curve["scores"] for curve in content["curves"]):
        drawn["progress"] = _draw_progress(content)
    if content["comparisons"]:
        drawn["comparisons"] = _draw_comparisons(content)
    return {name: (charts.png(figure), charts.svg(figure, name)) for name, figure in drawn.items()}


def _draw_dimensions(content: Content, palette: Mapping[str, str]) -> Any:
    lines = {model["name"]: {int(dim): score for dim, score in model["by_dim"].items()} for model in _family(content)}
    return charts.dimensions(lines, palette, content["baselines"][0]["scores"]["macro"])


def _draw_sizes(content: Content, palette: Mapping[str, str]) -> Any:
    points = [
        charts.Point(m["name"], m["parameters"], m["scores"]["macro"], palette.get(m["name"], MUTED), m["role"])
        for m in content["models"]
    ]
    return charts.sizes(points, content["baselines"][0]["scores"]["macro"])


def _draw_scripts(content: Content, palette: Mapping[str, str]) -> Any:
    best, groups = content["best"], []
    for entry in content["scripts"]:
        scores = [row["scores"].get(best, 0.0) for row in content["languages"] if row["script"] == entry["script"]]
        means = [entry["scores"][name] for name in content["family"]]
        groups.append(charts.Group(entry["script"], scores, entry["baseline"], means))
    groups.sort(key=lambda group: -float(np.median(group.reference)))
    return charts.scripts(groups, content["family"], best, palette[best])


def _draw_languages(content: Content, palette: Mapping[str, str]) -> Any:
    best, small = content["best"], _smallest(content)
    rows = [
        charts.Dumbbell(row["name"], row["baseline"], row["scores"].get(small, 0.0), row["scores"].get(best, 0.0))
        for row in _worst_first(content)
    ]
    return charts.languages(rows, small, best, palette)


def _draw_curves(content: Content) -> Any:
    sources = sorted({source for curve in content["curves"] for source in curve["points"]})
    panels = {f"{curve['model']}, stage {curve['stage']}": curve["points"] for curve in content["curves"]}
    return charts.curves(panels, charts.colours(sources))


def _draw_progress(content: Content) -> Any:
    runs = [curve for curve in content["curves"] if curve["scores"]]
    panels: dict[str, dict[str, Any]] = {}
    for run in sorted(runs, key=lambda run: run["stage"]):
        panels.setdefault(f"stage {run['stage']}", {})[run["model"]] = run["scores"]
    return charts.progress(panels, charts.colours(list(dict.fromkeys(run["model"] for run in runs))))


def _draw_comparisons(content: Content) -> Any:
    return charts.comparisons(
        [
            charts.Difference(c["title"], list(c["differences"].values()), c["difference"], c["low"], c["high"])
            for c in content["comparisons"]
        ]
    )


def _family(content: Content) -> list[Any]:
    return [model for model in content["models"] if model["name"] in content["family"]]


def _smallest(content: Content) -> str:
    return str(min(_family(content), key=lambda model: model["parameters"])["name"])


def _worst_first(content: Content) -> list[Any]:
    return sorted(content["languages"], key=lambda row: row["scores"].get(content["best"], 0.0))


def _headline(content: Content) -> str:
    best = next(model for model in content["models"] if model["name"] == content["best"])
    others = len(content["models"]) - len(content["family"])
    tiles = [
        (str(len(content["family"])), f"models, and {others} more for comparison" if others else "models"),
        (str(len(content["languages"])), f"languages in {len(content['scripts'])} scripts"),
        (f"{best['scores']['macro']:.3f}", f"{best['name']}, mean over languages"),
        (f"{best['baseline']['macro']:.3f}", "TF-IDF on the same texts"),
        (duration(content["wall_time_s"]), "for all steps together"),
    ]
    return (
        '<div class="tiles">'
        + "".join(f'<div class="tile"><b>{escape(big)}</b><span>{escape(small)}</span></div>' for big, small in tiles)
        + '</div>\n<ul class="findings">'
        + "".join(f"<li>{escape(finding)}</li>" for finding in content["findings"])
        + "</ul>\n"
    )


def _models(content: Content, pictures: Mapping[str, str]) -> str:
    palette = charts.colours(content["family"][::-1])
    keys = ["macro", *(task["name"] for task in content["tasks"])]
    columns = [
        Column("model", number=False), Column("macro", "all tasks"),
        *(Column(task["name"], task["metric"]) for task in content["tasks"]),
        Column("parameters"), Column("embedding", "share"), Column("dims"), Column("tokens/s", "encoding"),
        Column("trained", number=False), Column("start", number=False), Column("teacher", number=False),
    ]  # fmt: skip
    top = {key: max(model["scores"][key] for model in content["models"]) for key in keys}
    rows = [_model_row(model, keys, top, palette) for model in content["models"]]
    for baseline in content["baselines"]:
        cells = [Cell(escape(baseline_name(baseline["name"]))), *(_score(baseline["scores"][key]) for key in keys)]
        rows.append(("baseline", [*cells, *[Cell("")] * 7]))
    what = "; ".join(
        f"{task['name']}: {task['kind']}, {task['n']:,} texts in {task['languages']} languages"
        for task in content["tasks"]
    )
    return (
        "<p>Every score is a mean over languages, so that each language counts the same. "
        f"The tasks are made of held-out rows. {escape(what)}.</p>\n"
        + table(columns, rows)
        + _other_measures(content)
        + figure(
            pictures["sizes"],
            "Quality against size. Filled: the family. Squares: intermediate models. Diamonds: ablations.",
        )
    )


def _other_measures(content: Content) -> str:
    """What each task measures besides its score; empty where there is nothing more."""
    others = [
        (task["name"], measure)
        for task in content["tasks"]
        for measure in task["measures"]
        if measure != task["metric"]
    ]
    if not others:
        return ""
    entries = [*content["models"], *content["baselines"]]
    rows = []
    for entry in entries:
        values = [entry["tasks"][task]["metrics"][measure] for task, measure in others]
        cells = [Cell(f"{value:.3f}", value, max(value, 0.0)) for value in values]
        rows.append(("" if "role" in entry else "baseline", [Cell(escape(baseline_name(entry["name"]))), *cells]))
    columns = [Column("model", number=False), *(Column(task, measure) for task, measure in others)]
    note = f"<p>{V_MEASURE_NOTE}</p>\n" if any(measure == "v_measure" for _, measure in others) else ""
    return f"<h3>Other measures</h3>\n{note}" + table(columns, rows)


def _model_row(
    model: Content, keys: Sequence[str], top: Mapping[str, float], palette: Mapping[str, str]
) -> tuple[str, list[Cell]]:
    tag = "" if model["role"] == "family" else f'<span class="tag">{escape(model["role"])}</span>'
    dot = f'<span class="dot" style="--c:{palette.get(model["name"], MUTED)}"></span>'
    return model["role"], [
        Cell(f"{dot}{escape(model['name'])}{tag}"),
        *(_score(model["scores"][key], best=model["scores"][key] == top[key]) for key in keys),
        Cell(f'<span title="{model["parameters"]:,}">{charts.short(model["parameters"])}</span>', model["parameters"]),
        Cell(f"{model['embedding_share']:.0%}", model["embedding_share"]),
        Cell(str(model["dims"]), model["dims"]),
        Cell(f"{model['tokens_per_second']:,.0f}", model["tokens_per_second"]),
        Cell(STAGES.get(model["stage"], f"stage {model['stage']}")),
        Cell(escape(start(model["init"]))),
        Cell(escape(model["teacher"] or "none")),
    ]


def start(init: str) -> str:
    """How a model began, in words."""
    if init == "random":
        return "random"
    return f"pruned from {init.removeprefix('prune:')}" if init.startswith("prune:") else f"from {init}"


def baseline_name(name: str) -> str:
    known = {"tfidf": "TF-IDF", "tfidf-expanded": "TF-IDF with training queries", "chance": "guessing"}
    return known.get(name, name)


def _score(score: float, best: bool = False) -> Cell:
    return Cell(f"{score:.3f}", score, score, best)


def _comparisons(content: Content, pictures: Mapping[str, str]) -> str:
    if not content["comparisons"]:
        return ""
    columns = [
        Column("comparison", number=False), Column("A", "and its score", number=False),
        Column("B", "and its score", number=False), Column("A - B"),
        Column("95% interval", "bootstrap over languages", number=False),
        Column("languages", "A better, B better", number=False), Column("verdict", number=False),
    ]  # fmt: skip
    rows = [("", _comparison_row(entry)) for entry in content["comparisons"]]
    return (
        "<p>Pairs of models that differ in one thing only, compared language by language. "
        "Each model was trained once: the interval tells the spread over languages, not over training seeds.</p>\n"
        + figure(
            pictures["comparisons"],
            "A dot is a language, right of zero where A is better. The circle is the mean, the bar its 95% interval.",
        )
        + table(columns, rows)
    )


def _tone(value: float) -> str:
    """The class that colours a gain, a loss, or neither."""
    return "muted" if value == 0 else "good" if value > 0 else "bad"


def _comparison_row(entry: Content) -> list[Cell]:
    clear = not entry["low"] <= 0 <= entry["high"]
    tone = _tone(entry["difference"] if clear else 0.0)
    words = ("A ahead" if entry["difference"] > 0 else "B ahead") if clear else "no clear difference"
    return [
        Cell(escape(entry["title"])),
        Cell(f"{escape(entry['a'])} <span class=muted>{entry['score_a']:.3f}</span>"),
        Cell(f"{escape(entry['b'])} <span class=muted>{entry['score_b']:.3f}</span>"),
        Cell(f"{entry['difference']:+.3f}", entry["difference"]),
        Cell(f"{entry['low']:+.3f} to {entry['high']:+.3f}"),
        Cell(f"{entry['better']}, {entry['worse']}"),
        Cell(f'<span class="{tone}" title="{escape(verdict(entry))}">{words}</span>'),
    ]


def _dimensions(content: Content, pictures: Mapping[str, str]) -> str:
    dims = sorted({int(dim) for model in _family(content) for dim in model["by_dim"]})
    columns = [Column("model", number=False), *(Column(str(dim)) for dim in dims)]
    rows = []
    for model in _family(content):
        scores = [model["by_dim"].get(str(dim)) for dim in dims]
        rows.append(("", [Cell(escape(model["name"])), *(Cell("", -1) if s is None else _score(s) for s in scores)]))
    return (
        "<p>A vector may be cut to its first dimensions and scaled to length 1 again. "
        "This is what remains of the score, the mean over languages.</p>\n"
        + figure(
            pictures["dimensions"],
            "Quality against the number of dimensions kept; TF-IDF, which has no such choice, is dashed.",
        )
        + table(columns, rows)
    )


def _languages(content: Content, pictures: Mapping[str, str]) -> str:
    best, small = content["best"], _smallest(content)
    family = content["family"]
    columns = [
        Column("language", number=False), *(Column(name) for name in family), Column("TF-IDF"),
        Column("gain", f"{best} - TF-IDF"), Column("rows"), Column("script", number=False),
    ]  # fmt: skip
    rows = [("", _language_row(row, family, best)) for row in _worst_first(content)]
    small_note = f" The hollow circle is {small}." if small != best else ""
    return (
        "<p>The same scores for every language and script, the worst first: this is where work is needed. "
        "A score over few rows is a rough one.</p>\n"
        + figure(
            pictures["languages"],
            f"Every language: {best} as a dot, TF-IDF as a tick; the line between them is the gain.{small_note}",
        )
        + figure(
            pictures["scripts"],
            f"Left: the languages of each script (their number in brackets), {best}; the bar is the median, the grey "
            "tick the mean of TF-IDF. Right: the mean over the script's languages for every model.",
        )
        + '<p><input type="search" data-filter="language-table" placeholder="Filter by language, tag or script" '
        + 'aria-label="Filter languages"></p>\n'
        + table(columns, rows, name="language-table")
    )


def _language_row(row: Content, family: Sequence[str], best: str) -> list[Cell]:
    gain = row["scores"].get(best, 0.0) - row["baseline"]
    return [
        Cell(f"{escape(row['name'])} <code class=muted>{escape(row['tag'])}</code>"),
        *(_score(row["scores"].get(name, 0.0)) for name in family),
        _score(row["baseline"]),
        Cell(f'<span class="{_tone(gain)}">{gain:+.3f}</span>', gain),
        Cell(f"{row['n']:,}", row["n"]),
        Cell(escape(row["script"])),
    ]


def _training(content: Content, pictures: Mapping[str, str]) -> str:
    if not content["curves"]:
        return ""
    scores = (
        figure(
            pictures["progress"],
            "Search for the answers of a fixed sample of held-out queries while models train. It has fewer documents "
            "than the evaluation above, so its scores are higher.",
        )
        if "progress" in pictures
        else ""
    )
    return (
        "<p>The total loss of each run by source: contrastive terms over all dimensions, and the distance to the "
        "teacher where there is one. Losses of different sources and stages cannot be compared with each other.</p>\n"
        + figure(pictures["curves"], "Running mean over a twentieth of a source's steps.")
        + scores
    )


def _searches(content: Content) -> str:
    if not content["searches"]:
        return ""
    parts = []
    for search in content["searches"]:
        hits = "".join(
            f'<li>{escape(text)} <span class="muted">{score:.2f}</span></li>' for score, text in search["hits"]
        )
        answer = f"{search['language']}, held out from training; the answer is {search['answer']}"
        note = f'<span class="muted">{escape(answer)}</span>' if search["answer"] else ""
        title = f'<h3 style="margin:0" dir="auto">{escape(search["query"])}</h3>'
        parts.append(f'<div class="tile">{title}{note}<ol>{hits}</ol></div>')
    return f'<p>What the model finds for a few queries.</p>\n<div class="searches">{"".join(parts)}</div>\n'


def _steps(content: Content) -> str:
    if not content["steps"]:
        return ""
    longest = max(step["wall_time_s"] for step in content["steps"]) or 1.0
    most = max(step["peak_memory_mb"] or 0 for step in content["steps"]) or 1.0
    rows = []
    for number, step in enumerate(content["steps"], start=1):
        seconds, memory = step["wall_time_s"], step["peak_memory_mb"]
        peak = Cell("", -1) if memory is None else Cell(f"{memory:,.0f} MB", memory, memory / most)
        rows.append(
            (
                "",
                [
                    Cell(escape(step["step"])),
                    Cell(str(number), number),
                    Cell(duration(seconds), seconds, seconds / longest),
                    peak,
                ],
            )
        )
    columns = [Column("step", number=False), Column("order"), Column("time"), Column("memory", "peak")]
    return f"<p>{escape(duration(content['wall_time_s']))} in all, on {escape(content['hardware'])}.</p>\n" + table(
        columns, rows
    )


def _reproduce(content: Content) -> str:
    best = next(model for model in content["models"] if model["name"] == content["best"])
    use = USE.format(path=best["path"])
    facts = {
        "Recipe": content["recipe"],
        "Seed": str(content["seed"]),
        "Date": content["date"],
        "Hardware": content["hardware"],
    }
    rows = [("", [Cell(escape(key)), Cell(escape(value))]) for key, value in (facts | content["facts"]).items()]
    return (
        f"<p>Build everything again:</p>\n<pre>{escape(content['command'])}</pre>\n"
        f"<p>Use the best model:</p>\n<pre>{escape(use)}</pre>\n"
        + table([Column("fact", number=False), Column("value", number=False)], rows)
    )
