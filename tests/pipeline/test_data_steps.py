"""The data steps as a whole: the same bytes from every engine, released files, sources that go whole."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from f2llm.core.errors import ConfigError
from f2llm.core.files import read_json
from f2llm.data.engine import Engine, LocalEngine, RayEngine
from f2llm.data.examples import read_examples
from f2llm.data.store import TokenStore
from f2llm.pipeline.build import build, build_data

TINY = Path(__file__).parents[1] / "tiny.toml"
RECIPE = """
name = "own"
[tokenizer]
vocab_size = 300
max_seq_length = 64
{sources}
[clean]
held_out_fraction = 0.0
{clean}
[mine]
per_query = 3
skip_top = 0
top_k = 10
[training]
warmup_steps = 1
validation_fraction = 0.0
[training.stage2]
max_steps = 2
global_batch = 8
[sizes.one]
hidden = 16
layers = 1
mlp = 16
heads = 2
kv_heads = 1
head_dim = 8
[[models]]
name = "one"
size = "one"
stages = [2]
[report]
default_model = "one"
"""
WORDS = (
    "river",
    "stone",
    "cloud",
    "bread",
    "paper",
    "winter",
    "garden",
    "mirror",
    "engine",
    "letter",
    "harbour",
    "violin",
)


def outputs(out: Path) -> dict[str, str]:
    """Digests of all artifacts."""
    return {path.parent.relative_to(out).as_posix(): read_json(path)["output"] for path in out.rglob("manifest.json")}


def test_every_engine_makes_the_same_data(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    engines: dict[str, Engine] = {"here": LocalEngine(1), "two": LocalEngine(2), "ray": RayEngine()}
    options = ["clean.near_duplicates=0.8", "clean.languages=count"]
    for name, engine in engines.items():
        build_data(TINY, "tokenize", out=tmp_path / name, overrides=options, engine=engine)
    found = {name: outputs(tmp_path / name) for name in engines}
    assert {"convert/kind", "clean", "mine/place", "tokenize/stage1", "tokenize/stage2", "card"} <= found["here"].keys()
    assert found["here"] == found["two"] == found["ray"]


def sentence(number: int, length: int = 9) -> str:
    chosen = random.Random(f"{number} {length}")
    return " ".join(f"{chosen.choice(WORDS)}{chosen.randrange(9)}" for _ in range(length))


def released(folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")


def retrieval_rows(count: int, start: int, negatives: int = 24) -> list[dict[str, Any]]:
    return [
        {"query": f"Instruct: Answer.\nQuery: {sentence(start + i)}",
         "passage": f"{sentence(start + i, 14)} {start + i}",
         **{f"negative_{k}": f"{sentence(start + i + k, 12)} no {k}" for k in range(1, negatives + 1)}}
        for i in range(count)
    ]  # fmt: skip


def source(name: str, task_type: str, files: str, more: str = "") -> str:
    return f"""
[[sources]]
id = "{name}"
converter = "released_{task_type}"
task_type = "{task_type}"
path = "data"
instruction = "Answer."
options = {{ files = [{files}], language = "en" }}
{more}
"""


@pytest.fixture
def paper(tmp_path: Path) -> Path:
    """A recipe as the paper's: released files, clustering without labels, nothing held out, caps by file."""
    data = tmp_path / "data"
    released(data, "faq_deu", retrieval_rows(40, 0))
    released(data, "faq_fra", retrieval_rows(6, 100))
    released(data, "topics", retrieval_rows(20, 300))
    labels = [
        {"query": sentence(500 + i), "passage": ("good", "bad")[i % 2], "negative_1": ("bad", "good")[i % 2]}
        for i in range(12)
    ]
    released(data, "mood", labels)
    released(data, "sib200", retrieval_rows(5, 700))
    sources = [
        source("faq", "retrieval", '"faq_*"', "max_rows = 10\nmax_rows_per = \"file\""),
        source("topics", "clustering", '"topics"'), source("mood", "classification", '"mood"'),
        source("sib200", "clustering", '"sib200"'),
    ]  # fmt: skip
    recipe = tmp_path / "paper.toml"
    recipe.write_text(RECIPE.format(sources="".join(sources), clean=""))
    return recipe


def test_released_rows_keep_their_negatives_and_are_capped_by_file(paper: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    build_data(paper, "tokenize", out=out)
    rows = list(read_examples(out / "mine" / "faq"))
    assert len(rows) == 46
    assert all(
        row.negatives == tuple(f"{sentence(int(row.positive.split()[-1]) + k, 12)} no {k}" for k in (1, 2, 3))
        for row in rows
    )
    assert not any(row.query.startswith("Instruct") for row in rows), "stage 2 puts its own instruction"
    store = TokenStore(out / "tokenize" / "stage2")
    assert {name: len(table) for name, table in store.rows.items()} == {
        "faq": 16,
        "topics": 20,
        "mood": 12,
        "sib200": 0,
    }
    assert [row.negatives[0][:3] for row in read_examples(out / "mine" / "mood")][:2] == ["bad", "goo"]
    store.verify()


def test_excluded_sources_go_whole_and_are_told(paper: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    build_data(paper, "clean", out=out)
    drops = read_json(out / "clean" / "drops.json")
    assert drops["sib200"] == {"rows": 5, "train": 0, "eval": 0, "dropped": {"excluded source": 5}}
    build_data(paper, "clean", out=tmp_path / "all", overrides=["clean.exclude=[]"])
    assert read_json(tmp_path / "all" / "clean" / "drops.json")["sib200"]["train"] == 5


def test_a_recipe_that_holds_nothing_out_is_built_without_scores(paper: Path, tmp_path: Path) -> None:
    result = build(paper, out=tmp_path / "out")
    assert result.ran[-1] == "export/one"
    assert not [name for name in result.ran if name.startswith(("evaluate", "baseline", "report"))]
    card = (tmp_path / "out" / "export" / "one" / "model" / "README.md").read_text()
    assert "Not measured: its recipe held no texts out of training" in card


def test_evaluation_sets_are_kept_out_of_training(paper: Path, tmp_path: Path) -> None:
    (tmp_path / "test.txt").write_text(f"{sentence(3, 14)} 3\n{sentence(301)}\n")
    own = """
[[evaluation_sets]]
id = "own-test"
converter = "text_lines"
path = "test.txt"
options = { language = "en" }
"""
    paper.write_text(paper.read_text() + own)
    build_data(paper, "clean", out=tmp_path / "out")
    drops = read_json(tmp_path / "out" / "clean" / "drops.json")
    assert drops["faq"]["dropped"].get("leaks own-test", 0) >= 1
    assert drops["topics"]["dropped"].get("leaks own-test", 0) >= 1
    kept = {row.query for row in read_examples(tmp_path / "out" / "clean" / "train" / "topics")}
    assert sentence(301) not in kept
    found = read_json(tmp_path / "out" / "clean" / "leaks.json")["sets"]["own-test"]
    assert Counter({name: sum(ways.values()) for name, ways in found["sources"].items()})["faq"] >= 1


def test_a_changed_file_converts_its_own_source_only(paper: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    build_data(paper, "convert", out=out)
    assert build_data(paper, "convert", out=out).ran == []
    released(tmp_path / "data", "mood", [{"query": sentence(9), "passage": "good", "negative_1": "bad"}])
    assert build_data(paper, "convert", out=out).ran == ["convert/mood"]


def test_a_hub_path_needs_its_commit(paper: Path, tmp_path: Path) -> None:
    paper.write_text(paper.read_text().replace('path = "data"', 'path = "hf://datasets/codefuse-ai/F2LLM-v2@main"', 1))
    with pytest.raises(ConfigError, match=r"line \d+: sources.0.path: .*full commit hash"):
        build_data(paper, "convert", out=tmp_path / "out")


def test_a_model_mines_where_the_recipe_names_one(paper: Path, tmp_path: Path, model_directory: Path) -> None:
    (tmp_path / "pairs.tsv").write_text("".join(f"{sentence(i)}\t{sentence(i, 14)} {i}\n" for i in range(60)))
    own = """
[[sources]]
id = "pairs"
converter = "pairs_table"
task_type = "retrieval"
path = "pairs.tsv"
instruction = "Answer."
options = { language = "en", header = ["q", "p"], query = ["q"], positive = ["p"] }
"""
    recipe = tmp_path / "pairs.toml"
    recipe.write_text(
        RECIPE.format(sources=own, clean="").replace(
            "[mine]", f'[mine]\nencoder = "{model_directory}"\nmax_score = 1.0\nrelative_margin = 1.0'
        )
    )
    build_data(recipe, "mine", out=tmp_path / "out")
    report = read_json(tmp_path / "out" / "mine" / "pairs" / "mining.json")
    assert report["mined"] + report["topped_up"] == 3 * report["rows"]
    assert report["mined"] > 0


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("mine.encoder=nonsense", r"mine.encoder: 'nonsense' is neither .ngrams., a model directory, nor a hub id"),
        ("clean.language_model=no.bin", r"clean.language_model: .*no.bin does not exist"),
        ("clean.near_duplicates=1.5", r"clean.near_duplicates: .*but it is 1.5"),
        ("clean.languages=maybe", r"clean.languages: .*but it is 'maybe'"),
    ],
)
def test_wrong_settings_are_told_before_any_work(paper: Path, tmp_path: Path, override: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_data(paper, "convert", out=tmp_path / "out", overrides=[override])
    assert not (tmp_path / "out").exists()
