"""report.html of a clustering: findings, a map to zoom and search in, a table of the clusters, why so many.

One file that needs nothing from outside; texts are shown by the reader's own fonts, so every script is there. Size:
about 250 bytes for each point of the map, of each text 240 letters.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from string import Template
from typing import Any

import numpy as np

from f2llm.apps.cluster_fit import NOISE, Floats, Ints
from f2llm.apps.cluster_labels import told
from f2llm.apps.cluster_map import anchors
from f2llm.apps.cluster_pictures import PALETTE, Groups, style_of
from f2llm.core.pictures import MUTED

TEXT_CHARS = 240
_SHOWN_LANGUAGES = 8


@dataclass(frozen=True)
class Map:
    """The points of a map: places [S, 2] in 0..1, number and text of their rows, and what they may be coloured by."""

    places: Floats
    rows: Sequence[int]
    texts: Sequence[str]
    groups: Mapping[str, Groups]


def render(facts: Mapping[str, Any], drawn: Map | None, choice_png: bytes | None, colour: str) -> str:
    """The whole page; `facts` is what clusters.json holds, `colour` names the groups that colour the map first."""
    here = resources.files("f2llm.apps")
    template = Template(here.joinpath("cluster_page.html.template").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(f"{facts['file']}: {len(facts['clusters']):,} clusters"),
        lead=escape(f"{facts['rows']:,} texts by {facts['model']}, {facts['dims']} dimensions; {facts['date']}"),
        findings="<ul>" + "".join(f'<li dir="auto">{escape(line)}</li>' for line in facts["findings"]) + "</ul>",
        map=_map(drawn, colour) if drawn else "",
        clusters=_clusters(facts),
        choice=_choice(facts, choice_png),
        agreement=_agreement(facts),
        made=escape("\n".join(f"{name}: {value}" for name, value in facts["made"].items())),
        data=_json(_points(drawn)) if drawn else "{}",
        script=here.joinpath("cluster_page.js").read_text(encoding="utf-8"),
    )


def _json(value: Any) -> str:
    """JSON that may stand inside a script element."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def _map(drawn: Map, colour: str) -> str:
    options = "".join(
        f"<option{' selected' if name == colour else ''}>{escape(name)}</option>" for name in drawn.groups
    )
    return f"""<h2>Map</h2>
<p class="muted">{len(drawn.rows):,} texts; near ones mean similar things, how far apart far ones are means nothing.
Point at one to read it, turn the wheel to zoom, drag to move.</p>
<div class="tools"><label>colour by <select id="colour">{options}</select></label>
<label>find <input id="search" type="search" placeholder="letters of a text"></label>
<span id="hits" class="muted"></span>
<button id="closer" aria-label="zoom in">+</button><button id="farther" aria-label="zoom out">&minus;</button>
<button id="reset">reset</button></div>
<div id="stage">
<canvas id="map" tabindex="0" role="img" aria-label="map of the texts; the table below says the same"></canvas>
<div id="tip"></div></div>
<div id="legend"></div>"""


def _points(drawn: Map) -> dict[str, Any]:
    """What the script of the page reads: places in 0..10000, texts, and for each colouring the group of every point."""
    grid = np.round(drawn.places * 10_000).astype(int)
    return {
        "x": grid[:, 0].tolist(),
        "y": grid[:, 1].tolist(),
        "row": list(drawn.rows),
        "text": [text if len(text) <= TEXT_CHARS else text[:TEXT_CHARS] + "…" for text in drawn.texts],
        "palette": PALETTE,
        "about": list(drawn.groups),
        "groups": {name: _group(groups, drawn.places) for name, groups in drawn.groups.items()},
    }


def _group(groups: Groups, places: Floats) -> dict[str, Any]:
    found = anchors(places, groups.of_point, len(groups.names))
    counts = np.bincount(groups.of_point[groups.of_point != NOISE], minlength=len(groups.names))
    by_size = range(len(counts)) if groups.on_the_map else np.argsort(-counts, kind="stable").tolist()
    order = [group for group in by_size if counts[group]]  # clusters are numbered by size
    entry: dict[str, Any] = {"of": groups.of_point.tolist(), "names": list(groups.names), "numbered": groups.on_the_map}
    if groups.on_the_map:
        entry["labels"] = [[group, _point_at(found[group], places, groups.of_point, group)] for group in order]
    return entry | {"order": order + [NOISE] * bool((groups.of_point == NOISE).any())}


def _point_at(place: tuple[float, float], places: Floats, of_point: Ints, group: int) -> int:
    """The number of the group's point at a place, which is that of one of them."""
    own = np.flatnonzero(of_point == group)
    return int(own[np.square(places[own] - np.array(place)).sum(axis=1).argmin()])


def _clusters(facts: Mapping[str, Any]) -> str:
    if not facts["clusters"]:
        return ""
    with_languages, with_labels = "languages" in facts, "labels" in facts
    heads = ["", "keywords", '<span class="n">rows</span>', "languages", "labels", "central texts"]
    kept = [True, True, True, with_languages, with_labels, True]
    colours = {name: style_of(n)[0] for n, name in enumerate(facts.get("language_names", ()))}
    rows = []
    for entry in facts["clusters"]:
        cells = [
            f'<span style="color:{style_of(entry["cluster"])[0]}">&#9679;</span>&nbsp;{entry["cluster"]}',
            _keywords(entry["keywords"]),
            f"{entry['rows']:,}<br><small>{entry['share']:.1%}</small>",
            _languages(entry["languages"], colours, entry["one_language"]) if with_languages else "",
            "<br>".join(f"{escape(name)} <small>{count:,}</small>" for name, count in entry["labels"].items()),
            "<ul>" + "".join(f'<li dir="auto">{escape(_clip(e["text"]))}</li>' for e in entry["examples"]) + "</ul>",
        ]
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell, on in zip(cells, kept, strict=True) if on) + "</tr>")
    head = "".join(f'<th scope="col">{title}</th>' for title, on in zip(heads, kept, strict=True) if on)
    table = (
        f'<div class="table"><table><thead><tr>{head}</tr></thead><tbody>\n'
        + "\n".join(rows)
        + "</tbody></table></div>"
    )
    return f"<h2>Clusters</h2>\n{table}"


def _keywords(labels: Mapping[str, Sequence[str]]) -> str:
    if len(labels) == 1:
        return f'<span dir="auto">{escape(told(*next(iter(labels.items()))))}</span>'
    parts = (
        f'<li dir="auto">{escape(told(name, words))} <small>{escape(name)}</small></li>'
        for name, words in labels.items()
    )
    return f"<ul>{''.join(parts)}</ul>"


def _languages(mix: Mapping[str, int], colours: Mapping[str, str], alone: str | None) -> str:
    """A bar of the shares, and the counts of the first few."""
    total = sum(mix.values())
    bar = "".join(
        f'<i style="width:{100 * n / total:.1f}%;background:{colours.get(name, MUTED)}" title="{escape(name)}"></i>'
        for name, n in mix.items()
    )
    told = ", ".join(f"{escape(name)}&nbsp;{count:,}" for name, count in list(mix.items())[:_SHOWN_LANGUAGES])
    more = f" and {len(mix) - _SHOWN_LANGUAGES} more" if len(mix) > _SHOWN_LANGUAGES else ""
    warning = '<br><small class="warning">one language alone</small>' if alone else ""
    return f'<div class="bar">{bar}</div><small>{told}{more}</small>{warning}'


def _clip(text: str) -> str:
    return text if len(text) <= TEXT_CHARS else text[:TEXT_CHARS] + "…"


def _choice(facts: Mapping[str, Any], picture: bytes | None) -> str:
    if not facts.get("choice"):
        return ""
    image = ""
    if picture:
        data = base64.b64encode(picture).decode()
        image = f'<figure><img alt="silhouette and stability" src="data:image/png;base64,{data}"></figure>'
    return f"<h2>Why this many</h2>\n<p>{escape(facts['choice']['reason'])}</p>\n{image}"


def _agreement(facts: Mapping[str, Any]) -> str:
    """Scores against labels and languages beside chance, and for each language the agreement with the labels."""
    rows = [
        (f"{name} ({facts[name]['different']:,})", facts[name]) for name in ("labels", "languages") if name in facts
    ]
    if not rows:
        return ""
    by_language = facts.get("labels", {}).get("by_language", {})
    rows += [(f"labels within {name}", scores) for name, scores in by_language.items()]
    body = "".join(
        f'<tr><td>{escape(name)}</td><td class="n">{found["rows"]:,}</td><td class="n">{found["ami"]:.3f}</td>'
        f'<td class="n">{found["v_measure"]:.3f}</td>'
        f'<td class="n">{_number(found.get("v_measure_by_chance"))}</td></tr>'
        for name, found in rows
    )
    head = "".join(
        f'<th scope="col"{kind}>{title}</th>'
        for title, kind in (
            ("agreement of the clusters with", ""),
            *((title, ' class="n"') for title in ("rows", "AMI", "V-measure", "V-measure by chance")),
        )
    )
    note = (
        "AMI is corrected for chance: 0 for clusters dealt at random, 1 for the same groups. V-measure is not: few "
        "texts in many clusters reach high values at random, as its last column shows. Noise is left out."
    )
    return (
        f'<h2>Agreement</h2>\n<p class="muted">{note}</p>\n<div class="table"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
