"""The data card as Markdown, with the header that Hugging Face's data cards have, from the facts of `data_card`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from f2llm.core.languages import is_programming, language
from f2llm.core.types import TASK_TYPES

Facts = Mapping[str, Any]
_LISTED = 10  # languages of each end in the mixture's table
_PAIRS = 30  # pairs of sources, or of a source and an evaluation set
_FEW = 100  # rows for training below which a language is told to have few
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"),
          (10**8, "10M<n<100M"), (10**9, "100M<n<1B"), (10**10, "1B<n<10B"))  # fmt: skip
_CATEGORIES = {
    "retrieval": "text-retrieval", "clustering": "text-classification", "classification": "text-classification",
}  # fmt: skip
# What the hub knows by these names; any other licence is "other".
_LICENCES = frozenset({
    "apache-2.0", "mit", "unlicense", "bsd", "bsd-2-clause", "bsd-3-clause", "gpl", "gpl-2.0", "gpl-3.0", "lgpl",
    "lgpl-2.1", "lgpl-3.0", "agpl-3.0", "mpl-2.0", "isc", "gfdl", "pddl", "odbl", "odc-by", "cdla-permissive-1.0",
    "cdla-permissive-2.0", "cdla-sharing-1.0", "c-uda", "cc", "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0",
    "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0",
    "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "other", "unknown",
})  # fmt: skip


def card_text(facts: Facts, pictures: Sequence[str]) -> str:
    """README.md of finished data; `pictures` are the files beside it."""
    totals, sources = facts["totals"], facts["sources"]
    stages = "\n\n".join(_stage(mixture) for mixture in facts["mixture"])
    return f"""{_header(facts)}
# Data of {facts["name"]}

{facts["description"]}

{totals["train_rows"]:,} rows for training and {totals["evaluation_rows"]:,} for evaluation in {totals["languages"]:,}
languages ({totals["families"]} families, {totals["scripts"]} scripts) from {len(sources)} sources. A row is a query, a
document that answers it, and up to {facts["mine"]["per_query"]} hard negatives; its language is that of the query.

## Make it again

```
{facts["command"]}
```

Seed {facts["seed"]}. The same recipe, files and versions give the same rows.

## Sources

{_sources(sources)}

## Languages

{_picture("languages.png", "rows by language, coloured by family", pictures)}
{_languages(facts)}

## What was dropped

{_picture("flow.png", "where the rows of each source went", pictures)}
{_drops(facts)}

## Hard negatives

{_picture("mining.png", "scores of positives and negatives", pictures)}
{_mining(facts["mining"])}

## Mixture

What a training reads: shares of the batches that the mixture asks for (wanted) and that the planned steps draw.

{_picture("mixture.png", "shares of tasks and languages, wanted and drawn", pictures)}
{stages}

The same facts, complete, are in `card.json`.
"""


def _header(facts: Facts) -> str:
    codes = {"code" if is_programming(row["tag"]) else language(row["tag"]).shortest_code for row in facts["languages"]}
    kinds = {source["task_type"] for source in facts["sources"]}
    rows = facts["totals"]["train_rows"] + facts["totals"]["evaluation_rows"]
    lists = {
        "language": sorted(codes),
        "license": sorted({licence_id(source["license"]) for source in facts["sources"]}),
        "multilinguality": ["multilingual" if len(codes) > 1 else "monolingual"],
        "size_categories": [next((name for size, name in _SIZES if rows < size), "10B<n<100B")],
        "task_categories": sorted({"sentence-similarity", *(_CATEGORIES[kind] for kind in kinds)}),
        "tags": ["text-embedding", "contrastive", "hard-negatives", "f2llm"],
    }
    lines = [f"{name}:\n" + "\n".join(f"- {value!r}" for value in values) for name, values in lists.items()]
    return "\n".join(["---", f"pretty_name: {facts['name']!r}", *lines, "---", ""])


def licence_id(name: str | None) -> str:
    """A licence as the hub writes it: `CC BY-SA 4.0` is `cc-by-sa-4.0`; "unknown" where none is stated."""
    if name is None:
        return "unknown"
    known = re.sub(r"[\s_]+", "-", name.strip().lower())
    return known if known in _LICENCES else "other"


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Numbers stand on the right, with separators; a pipe or a line break in a text does no harm."""
    cells = [[_cell(value) for value in row] for row in rows]
    right = [bool(cells) and all(_is_number(row[place]) for row in cells) for place in range(len(columns))]
    rule = "|".join("---:" if number else "---" for number in right)
    return "\n".join([f"| {' | '.join(columns)} |", f"|{rule}|", *(f"| {' | '.join(row)} |" for row in cells)])


def _cell(value: Any) -> str:
    text = "-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
    return " ".join(text.replace("|", "\\|").split())


def _is_number(text: str) -> bool:
    return bool(re.fullmatch(r"[-…]?|[\d,.]+(%| \([\d.]+%\))?", text))


def _picture(name: str, alt: str, pictures: Sequence[str]) -> str:
    return f"![{alt}]({name})\n" if name in pictures else ""


def _sources(sources: Sequence[Facts]) -> str:
    columns = ("source", "task", "stages", "converted", "train", "eval", "at most", "licence", "instruction")
    rows = [
        (
            f"`{source['id']}`",
            source["task_type"],
            " and ".join(map(str, source["stages"])),
            *(source[name] for name in ("converted", "train", "eval")),
            cap(source),
            source["license"] or "not stated",
            source["instruction"] or "",
        )
        for source in sources
    ]
    without = sum(source["license"] is None for source in sources)
    note = f"\n\nOf {without} sources the recipe states no licence." if without else ""
    return f"""{markdown_table(columns, rows)}

"Train" and "eval" are the rows that cleaning left; "at most" caps them in stage 2.{note}"""


def cap(source: Facts) -> str:
    """The cap of a source in words; empty where it has none."""
    if source["max_rows"] is None:
        return ""
    text = f"{source['max_rows']:,}" + (" of each file" if source["max_rows_per"] == "file" else "")
    alpha = source["language_alpha"]
    return text if alpha == 1 else f"{text}, languages by size to the power of {alpha:g}"


def _languages(facts: Facts) -> str:
    rows = facts["languages"]
    counts = {row["tag"]: sum(row["train"].values()) for row in rows}
    unseen = sum(not row["evaluation"] for row in rows)
    few = [row["tag"] for row in reversed(rows) if counts[row["tag"]] < _FEW]
    least = ", ".join(f"{language(tag).name} ({counts[tag]:,})" for tag in few[:8])
    told = f" The fewest: {least}." if few else ""
    columns = ("tag", "language", "family", *(f"{side}, {kind}" for side in ("train", "eval") for kind in TASK_TYPES))
    listed = [
        (
            f"`{row['tag']}`",
            row["name"],
            row["family"],
            *(row[side].get(kind) for side in _SIDES for kind in TASK_TYPES),
        )
        for row in rows
    ]
    families = [(entry["family"], entry["languages"], entry["train"]) for entry in facts["families"]]
    return f"""Languages with fewer than {_FEW} rows for training: {len(few):,} of {len(rows):,}; without rows for
evaluation, so that nothing is known of how well a model does in them: {unseen:,}.{told}

{markdown_table(("family", "languages", "rows for training"), families)}

<details><summary>All {len(rows):,} languages</summary>

{markdown_table(columns, listed)}

</details>"""


_SIDES = ("train", "evaluation")


def _drops(facts: Facts) -> str:
    """Rows in and out of cleaning by source with the reasons, and what else was looked for."""
    unread = [(f"`{s['id']}`", _listed(s["not_converted"])) for s in facts["sources"] if s["not_converted"]]
    rows = [
        (f"`{name}`", found["rows"], found["train"], found["eval"], _listed(found["dropped"]))
        for name, found in facts["drops"].items()
    ]
    parts = [markdown_table(("source", "rows", "train", "eval", "dropped"), rows)]
    if unread:
        parts.append("Before that, what the converters did not take:\n\n" + markdown_table(("source", "rows"), unread))
    for title, found in reasons(facts).items():
        parts.append(f"**{title}**\n\n{markdown_table(('', 'rows'), found.items())}" if found else f"**{title}**: none")
    return "\n\n".join(parts)


def _listed(counts: Mapping[str, int]) -> str:
    return "; ".join(f"{reason} {count:,}" for reason, count in counts.items())


def reasons(facts: Facts) -> dict[str, dict[str, int]]:
    """What was looked for besides: near duplicates, leaks and texts of other languages, as titles and counted lines."""
    found: dict[str, dict[str, int]] = {}
    if "duplicates" in facts:
        found["Duplicates, by the source of the row that stays"] = _most_common({
            f"{source}: of {other}": count
            for source, own in facts["duplicates"].items()
            for other, count in own["of"].items()
        })  # fmt: skip
    if "leaks" in facts:
        found["Rows that show an evaluation text"] = _most_common({
            f"{source}: {name}, {how}": count
            for name, own in facts["leaks"]["sets"].items()
            for source, ways in own["sources"].items()
            for how, count in ways.items()
        })  # fmt: skip
    if "langid" in facts:
        found["Texts, by what language identification says of their tag"] = _verdicts(facts["langid"])
    return found


def _most_common(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(Counter(counts).most_common(_PAIRS))


def _verdicts(found: Facts) -> dict[str, int]:
    """Texts by verdict, and the pairs of tags that disagree most."""
    pairs = {f"{pair['claimed']} found to be {pair['found']} ({pair['verdict']})": pair for pair in found["pairs"]}
    return dict(found["verdicts"]) | {name: pair["texts"] for name, pair in list(pairs.items())[:_PAIRS]}


def _mining(mining: Mapping[str, Facts]) -> str:
    rows = [(f"`{name}`", *mining_cells(found)) for name, found in mining.items()]
    return markdown_table(("source", "rows", "mined", "given", "at random", "rows short"), rows)


def mining_cells(found: Facts) -> tuple[str, ...]:
    """Rows; negatives mined, given and drawn at random; rows that have too few all the same, with their share."""
    counts = [f"{found[name]:,}" for name in ("rows", "mined", "given", "topped_up")]
    return (*counts, f"{found['rows_short']:,} ({found['rows_short'] / max(found['rows'], 1):.1%})")


def _stage(mixture: Facts) -> str:
    columns = ("rows clean", "in the store", "wanted", "drawn", "passes")
    tables = [
        markdown_table((title, *columns), map(_part, _ends(mixture[name])))
        for name, title in (("tasks", "task"), ("sources", "source"), ("languages", "language"))
    ]
    head = f"**Stage {mixture['stage']}** as {mixture['model']} reads it, {mixture['steps']:,} steps. {mixture['rule']}"
    return "\n\n".join([head, *tables])


def _ends(parts: Sequence[Facts]) -> list[Facts | None]:
    if len(parts) <= 2 * _LISTED + 1:
        return list(parts)
    return [*parts[:_LISTED], None, *parts[-_LISTED:]]


def _part(part: Facts | None) -> tuple[Any, ...]:
    if part is None:
        return ("…", *[""] * 5)
    shares = (f"{100 * part[name]:.3g}%" for name in ("wanted", "drawn"))
    return (f"`{part['name']}`", part["cleaned"], part["stored"], *shares, f"{part['passes']:.2f}")
