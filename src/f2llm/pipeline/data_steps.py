"""What the data steps do: raw files -> converted shards -> clean training rows -> hard negatives -> a token store."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from f2llm.core.config import EvaluationSetConfig, Recipe, SourceConfig
from f2llm.core.errors import ConfigError
from f2llm.core.files import write_json
from f2llm.core.log import log
from f2llm.core.types import Example
from f2llm.data import clean, convert, mine
from f2llm.data.caps import choose_rows
from f2llm.data.engine import Task
from f2llm.data.examples import count_languages, read_examples
from f2llm.data.store import StageSource, StoredRows, build_store
from f2llm.pipeline.checks import holds_out
from f2llm.pipeline.encoders import encoder_factory
from f2llm.pipeline.runner import Workplace
from f2llm.text.prompts import query_prompt, with_prompt
from f2llm.text.tokenizer import Tokenizer

_TASKS = ".tasks"
_BYTES_A_ROW = 300


def convert_tasks(place: Workplace, source: SourceConfig | EvaluationSetConfig, path: str | Path | None) -> list[Task]:
    """The files of a source that are converted independently of each other; `path` may be on the hub."""
    root = convert.fetch(source.converter, path, source.options) if isinstance(path, str) else path
    arguments = {
        "converter": source.converter,
        "path": root,
        "source": source.id,
        "options": source.options,
        "seed": place.seed,
        "out_dir": place.directory,
    }
    parts = convert.count_parts(source.converter, root, source.options)
    marker, rows = place.directory / _TASKS, _likely_rows(source, root) // parts
    return [
        Task(marker / f"{part}.json", convert.convert_part, arguments | {"part": part}, rows) for part in range(parts)
    ]


def _likely_rows(source: SourceConfig | EvaluationSetConfig, root: Path | None) -> int:
    """How much work a source is, from the size of its files, for the progress bar."""
    files = convert.needed_files(source.converter, root, source.options) if root else []
    inside = (below for path in files for below in (path.rglob("*") if path.is_dir() else [path]))
    return 1000 + sum(path.stat().st_size for path in inside if path.is_file()) // _BYTES_A_ROW


def convert_source(place: Workplace, source: SourceConfig | EvaluationSetConfig, path: str | Path | None) -> None:
    """Raw files -> shards of examples, and drops.json."""
    drops, count = convert.Drops(), 0
    for found in place.engine.map(convert_tasks(place, source, path), source.id):
        drops.update(found["dropped"])
        count += found["rows"]
    if not count:
        raise ConfigError(f"source {source.id!r}: the converter {source.converter!r} found no rows in {path}")
    shutil.rmtree(place.directory / _TASKS)
    write_json(place.directory / "drops.json", {"rows": count, "dropped": dict(drops)})
    log(f"  {count:,} rows" + (f", dropped {dict(drops)}" if drops else ""))


def clean_sources(place: Workplace, recipe: Recipe, language_model: Path | None) -> None:
    """All sources -> train/ and eval/, with a reason for every row that is in neither."""
    settings = recipe.clean.model_dump() | {"exclude": tuple(recipe.clean.exclude), "language_model": language_model}
    report = clean.clean(
        {source.id: place.artifact(f"convert/{source.id}") for source in recipe.sources},
        place.directory,
        clean.CleanRules(seed=place.seed, **settings),
        evaluated={source.id: source.eval_doc_lang for source in recipe.sources if source.evaluate},
        evaluation_sets={own.id: place.artifact(f"evaluation-sets/{own.id}") for own in recipe.evaluation_sets},
        engine=place.engine,
    )
    empty = [source for source, count in report.sources.items() if not count.train]
    empty = [source for source in empty if source not in recipe.clean.exclude]
    if empty:
        raise ConfigError(f"source {empty[0]!r} has no row left to train on (see drops.json); lower held_out_fraction")
    train, held_out = (sum(getattr(c, side) for c in report.sources.values()) for side in ("train", "evaluation"))
    if holds_out(recipe) and not held_out:
        raise ConfigError("no row is held out for evaluation: raise clean.held_out_fraction")
    dropped = sum(counts.dropped.total() for counts in report.sources.values())
    _count_languages(place.directory, list(report.sources))
    log(f"  {train:,} rows for training, {held_out:,} for evaluation, {dropped:,} dropped")


def _count_languages(directory: Path, sources: Sequence[str]) -> None:
    """languages.json: rows for training and for evaluation by language of the query and source."""
    found: dict[str, dict[str, list[int]]] = {}
    for source in sources:
        for side, path in enumerate((directory / "train" / source, directory / "eval" / f"{source}.parquet")):
            for lang, count in count_languages(path).items():
                found.setdefault(lang, {}).setdefault(source, [0, 0])[side] = count
    write_json(directory / "languages.json", dict(sorted(found.items())))


def make_tokenizer(place: Workplace, recipe: Recipe, path: Path | None) -> None:
    """Train a tokenizer on the training texts, or take the one at `path`."""
    limit = recipe.tokenizer.max_seq_length
    if path is not None:
        tokenizer = Tokenizer.load(path, limit)
    else:
        assert recipe.tokenizer.vocab_size is not None
        texts = sorted({text for source in recipe.sources for text in _training_texts(place, source)})
        tokenizer = Tokenizer.train(texts, recipe.tokenizer.vocab_size, limit)
    tokenizer.save(place.directory)
    log(f"  {tokenizer.vocab_size:,} tokens")


def _training_texts(place: Workplace, source: SourceConfig) -> Iterator[str]:
    """Texts as the model will read them, so that the instructions' words become tokens too."""
    for example in train_examples(place, source.id):
        yield with_prompt(example.query, query_prompt(source.instruction))
        yield example.positive


def train_examples(place: Workplace, source: str) -> Iterator[Example]:
    """The training rows of a source after cleaning."""
    return read_examples(place.artifact("clean") / "train" / source)


def mine_source(place: Workplace, recipe: Recipe, source: SourceConfig, encoder: str) -> None:
    """Training rows -> the same rows with hard negatives."""
    rules = mine.MineRules(seed=place.seed, **recipe.mine.model_dump(exclude={"encoder"}))
    rows = place.artifact("clean") / "train" / source.id
    report = mine.mine_source(rows, place.directory, encoder_factory(encoder), rules, place.engine)
    log(f"  {report.summary()}")


def tokenize_stage(place: Workplace, recipe: Recipe, sources: Sequence[SourceConfig], stage: int) -> None:
    """Mined rows of a stage's sources -> a token store. Stage 1 has no instructions."""
    counts = build_store(
        place.directory,
        [(_stage_source(source, stage), _stored_rows(place, source, stage)) for source in sources],
        recipe_tokenizer(place, recipe),
        negatives=recipe.mine.per_query,
        instruction_share=recipe.training.symmetric_instruction_share,
        seed=place.seed,
        engine=place.engine,
    )
    log("  " + ", ".join(f"{count:,} {name}" for name, count in counts.items()))


def _stage_source(source: SourceConfig, stage: int) -> StageSource:
    return StageSource(source.id, source.task_type, source.instruction if stage == 2 else None, source.symmetric)


def _stored_rows(place: Workplace, source: SourceConfig, stage: int) -> StoredRows:
    """The rows of a source; in stage 2 at most `max_rows` of each unit."""
    path = place.artifact(f"mine/{source.id}")
    if stage == 1 or source.max_rows is None:
        return StoredRows(path)
    choose = partial(choose_rows, per=source.max_rows_per, seed=place.seed, stage=stage, alpha=source.language_alpha)
    return StoredRows(path, choose(path, source.max_rows))


def recipe_tokenizer(place: Workplace, recipe: Recipe) -> Tokenizer:
    return Tokenizer.load(place.artifact("tokenizer"), recipe.tokenizer.max_seq_length)
