"""The data card: facts of a made-up build, the mixture as the sampler draws it, Markdown, pictures, the terminal."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import pytest
from huggingface_hub import DatasetCard
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from f2llm.core.config import Recipe, load_recipe
from f2llm.core.errors import ConfigError, DataError
from f2llm.core.files import write_json
from f2llm.core.languages import known_languages
from f2llm.pipeline import data_mixture
from f2llm.pipeline.data_card import make_card, print_stats, stats
from f2llm.pipeline.data_card_text import cap, card_text, licence_id, markdown_table
from f2llm.pipeline.data_charts import languages_picture, mixture_picture
from f2llm.pipeline.data_mixture import StageMixture, stage_mixture
from f2llm.pipeline.language_table import LanguageRow
from f2llm.pipeline.runner import Workplace
from f2llm.pipeline.stage_data import StageData

TINY = Path(__file__).parents[1] / "tiny.toml"
COUNTS = {
    "deu_Latn": {"translation": [100, 5], "kind": [40, 0], "place": [80, 0]},
    "nor_Latn": {"translation": [50, 5]},
    "swa_Latn": {"translation": [50, 0], "place": [2, 0]},
    "tur_Latn": {"kind": [0, 4]},
}
DROPS = {
    "translation": {"rows": 260, "train": 200, "eval": 10, "dropped": {"duplicate": 44, "empty": 6}},
    "kind": {"rows": 44, "train": 40, "eval": 4, "dropped": {}},
    "place": {"rows": 90, "train": 82, "eval": 0, "dropped": {"no negative": 8}},
}
PICTURES = ("flow.png", "languages.png", "mining.png", "mixture.png")
MINED = {
    "rows": 200, "given": 0, "mined": 500, "topped_up": 100, "rows_topped_up": 50, "rows_short": 20,
    "score_bins": [-1.0, 0.0, 0.5, 1.0], "positive_scores": [0, 50, 150], "negative_scores": [100, 300, 100],
    "max_score": 0.8,
}  # fmt: skip
KINDS = {"translation": "retrieval", "kind": "clustering", "place": "classification"}
LANGUAGES = {
    "translation": {"deu_Latn": 0.5, "nor_Latn": 0.25, "swa_Latn": 0.25},
    "kind": {"deu_Latn": 1.0},
    "place": {"deu_Latn": 0.9756, "swa_Latn": 0.0244},
}


def tiny(*overrides: str) -> Recipe:
    return load_recipe(TINY, list(overrides))[0]


def measured(stage: int, rows: dict[str, int] | None = None) -> StageData:
    """What a token store of the rows above tells; only `translation` is in stage 1."""
    sizes = rows or {"translation": 200, "kind": 40, "place": 82}
    kept = ["translation"] if stage == 1 else list(sizes)
    return StageData(
        rows={name: sizes[name] for name in kept},
        task_types={name: KINDS[name] for name in kept},
        stored_negatives=4,
        tokens_per_text=8.0,
        texts=100,
        measured=True,
        languages={name: LANGUAGES[name] for name in kept},
    )


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The counts of a build whose data steps are finished."""
    for source, found in DROPS.items():
        write_json(tmp_path / "convert" / source / "drops.json", {"rows": found["rows"], "dropped": {"no label": 3}})
        write_json(tmp_path / "mine" / source / "mining.json", MINED)
    write_json(tmp_path / "clean" / "drops.json", DROPS)
    write_json(tmp_path / "clean" / "languages.json", COUNTS)
    for directory in [*tmp_path.glob("*/*"), tmp_path / "clean"]:
        if directory.is_dir():
            write_json(directory / "manifest.json", {})
    monkeypatch.setattr(data_mixture, "stage_data", lambda recipe, stage, out: measured(stage))
    return tmp_path


def read_mixture(stage: int, *overrides: str, rows: dict[str, int] | None = None) -> StageMixture:
    recipe = tiny(*overrides)
    model = recipe.model("tiny-base")
    return stage_mixture(recipe, model, stage, measured(stage, rows), COUNTS)


def test_sources_languages_and_tasks_share_the_same_batches() -> None:
    mixture = read_mixture(2)
    for parts in (mixture.sources, mixture.languages, mixture.tasks):
        assert math.isclose(sum(part.wanted for part in parts), 1)
        assert math.isclose(sum(part.drawn for part in parts), 1)
        assert sum(part.stored for part in parts) == 322
        assert sum(part.cleaned for part in parts) == 322
    found = {part.name: part for part in mixture.languages}
    assert set(found) == {"deu_Latn", "nor_Latn", "swa_Latn"}, "a language with evaluation rows only is not read"
    assert (found["deu_Latn"].cleaned, found["swa_Latn"].cleaned) == (220, 52)
    assert math.isclose(found["nor_Latn"].wanted, 0.25 * mixture.sources[0].wanted)


def test_without_a_bound_whole_epochs_draw_what_is_wanted() -> None:
    mixture = read_mixture(2, "training.stage2.max_steps=44")  # 13 + 3 + 6 batches of 16 an epoch, twice
    assert mixture.rule == "Sources get batches in proportion to their rows, without bounds."
    assert {part.name: part.wanted for part in mixture.sources} == pytest.approx(
        {"translation": 13 / 22, "place": 6 / 22, "kind": 3 / 22}
    )
    for part in [*mixture.sources, *mixture.languages, *mixture.tasks]:
        assert math.isclose(part.wanted, part.drawn)
        assert math.isclose(part.passes, 2)


def test_epochs_give_the_steps() -> None:
    recipe = tiny("training.stage2.epochs=3.0")
    data = {**recipe.model_dump(), "training": recipe.training.model_dump()}
    data["training"]["stage2"]["max_steps"] = None
    recipe = Recipe.model_validate(data)
    assert stage_mixture(recipe, recipe.model("tiny-base"), 2, measured(2), COUNTS).steps == 66


@given(alpha=st.floats(0.1, 1), floor=st.floats(0, 0.2), steps=st.integers(1, 3000))
@settings(deadline=None, max_examples=40)
def test_bounds_are_wanted_and_nearly_drawn(alpha: float, floor: float, steps: int) -> None:
    bounds = (f"training.mixture.alpha={alpha}", f"training.mixture.language_floors={{nor_Latn={floor}}}")
    mixture = read_mixture(2, *bounds, "training.mixture.caps={place=0.3}", f"training.stage2.max_steps={steps}")
    sources = {part.name: part for part in mixture.sources}
    languages = {part.name: part for part in mixture.languages}
    assert languages["nor_Latn"].wanted >= floor - 1e-4
    assert sources["place"].wanted <= 0.3 + 1e-6
    assert math.isclose(sum(part.drawn for part in mixture.sources), 1)
    batches = {"translation": 13, "kind": 3, "place": 6}
    for part in mixture.sources:
        assert math.isclose(part.passes, part.drawn * steps / batches[part.name])
        if steps % 22 == 0:
            assert abs(part.drawn - part.wanted) <= 1 / 22, "an epoch has whole batches"


def test_caps_show_as_fewer_rows_in_the_store_than_cleaning_left() -> None:
    mixture = read_mixture(2, rows={"translation": 60, "kind": 40, "place": 82})
    part = next(part for part in mixture.sources if part.name == "translation")
    assert (part.cleaned, part.stored) == (200, 60)
    assert next(part.stored for part in mixture.languages if part.name == "nor_Latn") == 15


def test_bounds_that_cannot_be_kept_are_told_before_training(out: Path) -> None:
    with pytest.raises(ConfigError, match=r"language 'swa_Latn' has floor 0.5, but at most 0.25 is reachable"):
        stats(tiny("training.mixture.language_floors={swa_Latn=0.5}"), out)


def test_facts_add_up(out: Path) -> None:
    facts = stats(tiny(), out)
    assert json.loads(json.dumps(facts)) == facts
    sources = {source["id"]: source for source in facts["sources"]}
    assert [sources["kind"][name] for name in ("converted", "train", "eval")] == [44, 40, 4]
    assert sources["translation"]["stored"] == {"stage1": 200, "stage2": 200}
    assert sources["kind"]["stored"] == {"stage2": 40}
    assert sources["place"]["not_converted"] == {"no label": 3}
    assert facts["totals"]["train_rows"] == sum(found["train"] for found in DROPS.values())
    assert facts["totals"]["evaluation_rows"] == sum(found["eval"] for found in DROPS.values())
    assert sum(entry["train"] for entry in facts["families"]) == facts["totals"]["train_rows"]
    assert facts["families"][0] == {"family": "Indo-European", "languages": 2, "train": 270}
    assert [row["tag"] for row in facts["languages"]] == ["deu_Latn", "swa_Latn", "nor_Latn", "tur_Latn"]
    assert [(mixture["stage"], mixture["model"]) for mixture in facts["mixture"]] == [
        (1, "tiny-base"),
        (2, "tiny-small"),
    ]


def test_facts_end_where_the_build_does(out: Path, tmp_path: Path) -> None:
    (out / "clean" / "manifest.json").unlink()
    facts = stats(tiny(), out)
    assert "drops" not in facts
    assert "languages" not in facts
    assert facts["mixture"] == []
    assert facts["sources"][0]["converted"] == 260
    assert facts["sources"][0]["train"] is None
    assert " - " in terminal(facts)
    with pytest.raises(DataError, match=r"no data step of tiny is finished in .*nothing; run: f2llm build RECIPE"):
        stats(tiny(), tmp_path / "nothing")


def terminal(facts: dict[str, object]) -> str:
    buffer = io.StringIO()
    print_stats(Console(file=buffer, width=120), facts)
    return buffer.getvalue()


def test_the_terminal_shows_the_tables(out: Path) -> None:
    text = terminal(stats(tiny(), out))
    for expected in ("duplicate", "Atlantic-Congo", "20 (10.0%)", "59.09%", "Stage 2 as tiny-small reads it, 20 steps"):
        assert expected in text


def test_findings_are_shown_where_they_were_looked_for(out: Path) -> None:
    assert "Duplicates" not in terminal(stats(tiny(), out))
    own = {"rows": 200, "kept": 190, "not_judged": 0, "dropped": {"near duplicate": 10}, "of": {"place": 7, "kind": 3}}
    write_json(out / "clean" / "duplicates.json", {"translation": own})
    sets = {"benchmark": {"texts": 9, "too_short": 1, "sources": {"kind": {"contains": 1234}}}}
    write_json(out / "clean" / "leaks.json", {"sources": {}, "sets": sets, "examples": []})
    pair = {"claimed": "nor_Latn", "found": "dan_Latn", "verdict": "disagree", "texts": 17}
    write_json(out / "clean" / "langid.json", {"texts": 50, "verdicts": {"agree": 33, "disagree": 17}, "pairs": [pair]})
    facts = stats(tiny(), out)
    lines = ("translation: of place", "kind: benchmark, contains", "nor_Latn found to be dan_Latn (disagree)", "1,234")
    for text in (terminal(facts), card_text(facts | {"command": "f2llm build x"}, [])):
        assert all(line in text for line in lines)


def test_the_card_is_one_that_the_hub_reads(out: Path, tmp_path: Path) -> None:
    recipe = tiny("sources.kind.license=CC BY-SA 4.0", "sources.place.license=ask me", "sources.place.max_rows=50")
    directory = tmp_path / "card"
    make_card(Workplace(out, directory, recipe.seed), recipe, "f2llm build tiny.toml")
    card = DatasetCard((directory / "README.md").read_text(encoding="utf-8"))
    assert card.data.language == ["de", "no", "sw", "tr"], "Norwegian is no `false`"
    assert card.data.license == ["cc-by-sa-4.0", "other", "unknown"]
    assert card.data.size_categories == ["n<1K"]
    assert card.data.task_categories == ["sentence-similarity", "text-classification", "text-retrieval"]
    assert "f2llm build tiny.toml" in card.text
    assert "| `translation` | 260 | 200 | 10 | duplicate 44; empty 6 |" in card.text
    assert "Languages with fewer than 100 rows for training: 3 of 4; without rows for" in card.text
    assert "a model does in them: 1. The fewest: Turkish (0), Norwegian (50), Swahili (52)." in card.text
    assert "| `place` | classification | 2 | 90 | 82 | 0 | 50 | ask me | A place? |" in card.text
    pictures = [
        name for name in ("flow.png", "languages.png", "mining.png", "mixture.png") if f"]({name})" in card.text
    ]
    assert [(directory / name).read_bytes()[:4] for name in pictures] == [b"\x89PNG"] * len(PICTURES)
    facts = json.loads((directory / "card.json").read_text(encoding="utf-8"))
    assert facts == json.loads(json.dumps(stats(recipe, out))) | {"command": "f2llm build tiny.toml"}


def test_the_same_build_gives_the_same_card(out: Path, tmp_path: Path) -> None:
    scores = out / "evaluate" / "tiny-base"
    for name in ("one", "two"):
        make_card(Workplace(out, tmp_path / name, 3), tiny(), "f2llm build tiny.toml")
        write_json(scores / "scores.json", {"by_language": {"deu_Latn": 0.5, "fra_Latn": 0.5}})  # a step after the card
        write_json(scores / "manifest.json", {})
    names = [path.name for path in sorted((tmp_path / "one").iterdir())]
    assert len(names) == 6
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in names)


@pytest.mark.parametrize(
    ("name", "found"),
    [("MIT", "mit"), ("CC BY 4.0", "cc-by-4.0"), ("cc0_1.0", "cc0-1.0"), ("C-UDA", "c-uda"),
     ("mine", "other"), (None, "unknown")],
)  # fmt: skip
def test_licences_as_the_hub_writes_them(name: str | None, found: str) -> None:
    assert licence_id(name) == found


def test_a_cap_in_words() -> None:
    source = {"max_rows": 80_000, "max_rows_per": "file", "language_alpha": 0.5}
    assert cap(source) == "80,000 of each file, languages by size to the power of 0.5"
    assert cap(source | {"max_rows_per": "source", "language_alpha": 1.0}) == "80,000"
    assert cap(source | {"max_rows": None}) == ""


def test_a_text_does_not_break_a_table() -> None:
    assert markdown_table(("a", "b"), [("x|y\nz", 1200), ("…", None)]) == (
        "| a | b |\n|---|---:|\n| x\\|y z | 1,200 |\n| … | - |"
    )


def many_rows(count: int) -> list[LanguageRow]:
    known = known_languages()[:count]
    return [
        LanguageRow(entry, f"family {place % 12}", {"retrieval": place * place}, {"retrieval": place % 3})
        for place, entry in enumerate(known)
    ]


def labels(axes: object) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels()]  # type: ignore[attr-defined]


def test_the_picture_of_many_languages_names_the_smallest_and_draws_all() -> None:
    rows = many_rows(300)
    profile, largest, smallest = languages_picture(rows).axes
    assert len(profile.patches) >= 300
    assert profile.get_yscale() == smallest.get_xscale() == "log"
    assert labels(smallest)[-1] == rows[0].language.name, "without a single row, and named all the same"
    assert labels(largest)[0] == rows[-1].language.name
    assert largest.get_xlim() == smallest.get_xlim(), "bars of both can be compared"


def test_the_picture_of_few_languages_names_all() -> None:
    rows = many_rows(7)
    (axes,) = languages_picture(rows).axes
    assert labels(axes) == [row.language.name for row in reversed(rows)]


def test_the_picture_of_the_mixture_shows_wanted_beside_drawn() -> None:
    mixture = read_mixture(2, "training.mixture.alpha=0.5", "training.stage2.max_steps=9")
    tasks, languages = mixture_picture([mixture]).axes
    clean, wanted, drawn = (
        scatter.get_offsets()[:, 0].tolist() for scatter in tasks.collections if scatter.get_label()[0] != "_"
    )
    assert wanted == pytest.approx([part.wanted for part in mixture.tasks])
    assert drawn == pytest.approx([part.drawn for part in mixture.tasks])
    assert clean == pytest.approx([part.cleaned / 322 for part in mixture.tasks])
    assert [label.split("  ")[0] for label in labels(languages)] == ["German", "Swahili", "Norwegian"]
