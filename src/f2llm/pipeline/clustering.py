"""`f2llm cluster`: loads the model, finds out the languages if asked, and hands the rows to `apps.cluster`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from f2llm.apps.cluster import Rows, Settings, check, check_folder, cluster_rows, read_texts
from f2llm.core.log import track
from f2llm.data.langid import load_identifier
from f2llm.pipeline.build import default_model
from f2llm.pipeline.encoders import text_encoder

_AT_ONCE = 8_192  # texts whose language is found out between two steps of the progress bar


def cluster_file(
    file: Path,
    target: Path,
    *,
    text: str | None = None,
    label: str | None = None,
    lang: str | None = None,
    encoding: str = "utf-8",
    identify: bool = False,
    model: str | None = None,
    instruction: str | None = None,
    dim: int | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Cluster the rows of a file, write everything to `target`, return what clusters.json holds.

    Options as of `apps.cluster.Settings`; all that can be wrong with the file is told before the model is read.
    """
    check_folder(target)
    rows, settings = read_texts(file, text, label, lang, encoding), Settings(**options)
    if identify:
        rows = with_languages(rows)
    check(settings, rows, target)
    return cluster_rows(
        rows, text_encoder(model or default_model(), instruction=instruction, dim=dim), target, settings
    )


def with_languages(rows: Rows) -> Rows:
    """The rows with the language of each text as `data.langid` finds it; needs the extra `data`."""
    identifier, found = load_identifier(), list[str]()
    parts = [rows.texts[start : start + _AT_ONCE] for start in range(0, len(rows.texts), _AT_ONCE)]
    for part in track(parts, "languages"):
        found += [tag for tag, _ in identifier.identify(part)]
    return replace(rows, langs=found)
