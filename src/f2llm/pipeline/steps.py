"""What each step does: read the artifacts of earlier steps, call one part of the package, write its own artifact."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor

from f2llm.core.config import MixtureConfig, ModelConfig, Recipe, SourceConfig, TrainingConfig
from f2llm.core.errors import ConfigError, StorageError
from f2llm.core.files import read_json, write_json
from f2llm.core.log import log, warn
from f2llm.core.types import Example
from f2llm.data import clean, convert, mine
from f2llm.data.examples import count_languages, read_examples, write_examples
from f2llm.data.ngrams import ngram_encoder
from f2llm.data.store import StageSource, TokenStore, build_store
from f2llm.model import checkpoint
from f2llm.model.decoder import Decoder
from f2llm.model.importance import load_scores, save_scores, score
from f2llm.model.prune import Rule, choose, cut
from f2llm.model.prune_directory import RECORD, record
from f2llm.model.sizes import Shape
from f2llm.model.weights import WEIGHTS, StoredWeights
from f2llm.pipeline.checks import matches_hidden, model_shape, trained_dims
from f2llm.pipeline.runner import Workplace
from f2llm.text.prompts import query_prompt, with_prompt
from f2llm.text.tokenizer import Tokenizer
from f2llm.train.batch import length_order, pack_texts
from f2llm.train.curves import training_curves
from f2llm.train.objective import LossSettings
from f2llm.train.sampler import Mixture
from f2llm.train.settings import TrainSettings, Upkeep, make_sampler
from f2llm.train.teacher import (
    HiddenMatch,
    OnlineTeacher,
    StoredTeacher,
    Teacher,
    compute_teacher_vectors,
    needed_texts,
)
from f2llm.train.trainer import train

SCORES = "scores.safetensors"
_TEACHER_TOKENS = 16_384


def convert_source(place: Workplace, source: SourceConfig, path: Path | None) -> None:
    """Raw file -> examples.parquet."""
    drops = convert.Drops()
    examples = convert.CONVERTERS[source.converter](path, source.id, source.options, place.seed, drops)
    count = write_examples(place.directory / "examples.parquet", examples)
    if not count:
        raise ConfigError(f"source {source.id!r}: the converter {source.converter!r} found no rows in {path}")
    write_json(place.directory / "drops.json", {"rows": count, "dropped": dict(drops)})
    log(f"  {count:,} rows" + (f", dropped {dict(drops)}" if drops else ""))


def clean_sources(place: Workplace, recipe: Recipe) -> None:
    """All sources -> train/ and eval/, with a reason for every row that is in neither."""
    inputs = {source.id: place.artifact(f"convert/{source.id}") / "examples.parquet" for source in recipe.sources}
    report = clean.clean(
        inputs,
        place.directory,
        evaluated={source.id: source.eval_doc_lang for source in recipe.sources if source.evaluate},
        seed=place.seed,
        **recipe.clean.model_dump(),
    )
    counts = report.sources.values()
    empty = [source for source, count in report.sources.items() if not count.train]
    if empty:
        raise ConfigError(f"source {empty[0]!r} has no row left to train on (see drops.json); lower held_out_fraction")
    if not any(count.evaluation for count in counts):
        raise ConfigError("no row is held out for evaluation: raise clean.held_out_fraction or set evaluate = true")
    train, held_out = sum(c.train for c in counts), sum(c.evaluation for c in counts)
    dropped = sum(c.dropped.total() for c in counts)
    _count_languages(place.directory, list(inputs))
    log(f"  {train:,} rows for training, {held_out:,} for evaluation, {dropped:,} dropped")


def _count_languages(directory: Path, sources: Sequence[str]) -> None:
    """languages.json: rows for training and for evaluation by language of the query and source."""
    found: dict[str, dict[str, list[int]]] = {}
    for side, name in enumerate(("train", "eval")):
        for source in sources:
            for lang, count in count_languages(directory / name / f"{source}.parquet").items():
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
    return read_examples(place.artifact("clean") / "train" / f"{source}.parquet")


def mine_source(place: Workplace, recipe: Recipe, source: SourceConfig) -> None:
    """Training rows -> the same rows with hard negatives."""
    examples = list(train_examples(place, source.id))
    settings = recipe.mine.model_dump()
    mined, report = mine.mine(examples, ngram_encoder(), seed=place.seed, **settings)
    write_examples(place.directory / "examples.parquet", mined)
    write_json(place.directory / "mining.json", report.to_json())
    log(f"  {report.summary()}")


def tokenize_stage(place: Workplace, recipe: Recipe, sources: Sequence[SourceConfig], stage: int) -> None:
    """Mined rows of a stage's sources -> a token store. Stage 1 has no instructions."""
    with_rows = [(_stage_source(source, stage), _capped(place, source, stage)) for source in sources]
    counts = build_store(
        place.directory,
        with_rows,
        recipe_tokenizer(place, recipe),
        negatives=recipe.mine.per_query,
        instruction_share=recipe.training.symmetric_instruction_share,
        seed=place.seed,
    )
    log("  " + ", ".join(f"{count:,} {name}" for name, count in counts.items()))


def _stage_source(source: SourceConfig, stage: int) -> StageSource:
    return StageSource(source.id, source.task_type, source.instruction if stage == 2 else None, source.symmetric)


def _capped(place: Workplace, source: SourceConfig, stage: int) -> Iterator[Example]:
    """The rows of a source; in stage 2 at most `max_rows` of them, chosen at random."""
    path = place.artifact(f"mine/{source.id}") / "examples.parquet"
    if stage == 1 or source.max_rows is None:
        yield from read_examples(path)
        return
    count = sum(1 for _ in read_examples(path))
    generator = np.random.default_rng([place.seed, stage])
    kept = set(generator.permutation(count)[: source.max_rows].tolist())
    yield from (example for index, example in enumerate(read_examples(path)) if index in kept)


def recipe_tokenizer(place: Workplace, recipe: Recipe) -> Tokenizer:
    return Tokenizer.load(place.artifact("tokenizer"), recipe.tokenizer.max_seq_length)


def train_stage(
    place: Workplace,
    recipe: Recipe,
    model: ModelConfig,
    stage: int,
    start: str | Path | None,
    teacher: str | Path | None,
) -> None:
    """One stage of one model: from random, given, pruned or stage-1 weights to model/ with its milestones.

    `teacher` is the step that stored its vectors or made its weights, or the directory of its weights.
    """
    store = TokenStore(place.artifact(f"tokenize/stage{stage}"))
    decoder = _initial(place, recipe, model, start)
    shape = decoder.shape
    match = _hidden_match(place, recipe, model, stage)
    settings = _settings(recipe, model, stage, store, place.seed, hidden_states=len(match.layers) if match else 0)
    weights = train(
        decoder,
        store,
        settings,
        place.directory,
        upkeep=_upkeep(recipe.training_of(model)),
        teacher=_teacher(place, settings, teacher, match) if teacher else None,
        world=place.world,
        inputs=place.inputs,
        description=f"{model.name}, stage {stage}",
    )
    if place.world.is_main:
        _write_model(weights, shape, place)
        training_curves(place.directory / "metrics.jsonl", place.directory / "training.png")


def _teacher(place: Workplace, settings: TrainSettings, teacher: str | Path, match: HiddenMatch | None) -> Teacher:
    if isinstance(teacher, str) and teacher.startswith("teach/"):
        return StoredTeacher(place.artifact(teacher), match)
    decoder = checkpoint.load(_weights(place, teacher))
    tokens = settings.micro_batch_tokens or _TEACHER_TOKENS
    return OnlineTeacher(decoder, place.world, settings.strategy, settings.precision, tokens, match)


def _weights(place: Workplace, made: str | Path) -> Path:
    """The directory of the weights that a step made, or one of the user's."""
    return place.artifact(made) / "model" if isinstance(made, str) else made


def _hidden_match(place: Workplace, recipe: Recipe, model: ModelConfig, stage: int = 2) -> HiddenMatch | None:
    """Which layers and channels of its teacher a pruned model imitates, if it does."""
    if stage != 2 or not matches_hidden(recipe, model):
        return None
    kept = read_json(place.artifact(f"prune/{model.name}") / RECORD)
    return HiddenMatch(tuple(kept["layers"][:-1]), tuple(kept["channels"]))


def _write_model(weights: Mapping[str, Tensor], shape: Shape, place: Workplace) -> None:
    """Weights and shape, without the tokenizer and card that an exported directory has."""
    checkpoint.save_tensors(weights, place.directory / "model" / WEIGHTS)
    write_json(place.directory / "model" / "config.json", checkpoint.config_of(shape))


def _initial(place: Workplace, recipe: Recipe, model: ModelConfig, start: str | Path | None) -> Decoder:
    if start is not None:
        return checkpoint.load(_weights(place, start))
    decoder = Decoder(model_shape(recipe, model, recipe_tokenizer(place, recipe).vocab_size))
    decoder.init_weights(place.seed)
    return decoder


def _settings(
    recipe: Recipe, model: ModelConfig, stage: int, store: TokenStore, seed: int, hidden_states: int = 0
) -> TrainSettings:
    training, own = recipe.training_of(model), recipe.stage(model, stage)
    loss = LossSettings(
        dims=tuple(trained_dims(recipe, model)),
        temperature=training.temperature,
        distill=training.distill,
        distill_weight=training.distill_weight,
        distill_matryoshka=training.distill_matryoshka,
        distill_hidden_weight=training.distill_hidden_weight,
        hidden_states=hidden_states,
        mask_duplicates=training.mask_duplicates,
        temperatures={source.id: source.temperature for source in recipe.sources if source.temperature},
        false_negative_margin=training.false_negative_margin,
        share_hard_negatives=training.share_hard_negatives,
        same_tower=training.same_tower,
        spread_out_weight=training.spread_out_weight,
        detach_across_processes=training.detach_across_processes,
    )
    settings = TrainSettings(
        stage=stage,
        steps=own.max_steps or 0,
        global_batch=own.global_batch,
        learning_rate=own.learning_rate,
        hard_negatives=own.hard_negatives,
        clustering_hard_negatives=own.clustering_hard_negatives,
        loss=loss,
        warmup_steps=training.warmup_steps,
        min_learning_rate=training.min_learning_rate,
        weight_decay=training.weight_decay,
        betas=(training.betas[0], training.betas[1]),
        clip_norm=training.clip_norm,
        seed=seed + stage,
        mixture=_mixture(training.mixture, store),
        validation_fraction=training.validation_fraction,
        validation_rows=training.validation_rows,
        micro_batch_tokens=None if training.micro_batch_tokens == "auto" else training.micro_batch_tokens,
        precision=training.precision,
        checkpoint_activations=training.checkpoint_activations,
        compile=training.compile,
        strategy=training.parallel,
    )
    if own.max_steps is not None:
        return settings
    steps = round(own.epochs * make_sampler(store, settings).steps_per_epoch)
    return replace(settings, steps=max(steps, 1))


def _mixture(mixture: MixtureConfig, store: TokenStore) -> Mixture:
    """The recipe's mixture, as far as it speaks of the sources and languages of a stage."""
    tags = {tag for source in store.rows for tag in store.language_shares(source)}
    for tag in sorted({*mixture.language_floors, *mixture.language_caps} - tags):
        warn(f"training.mixture bounds the language {tag!r}, in which no query of this stage is")
    return Mixture(**mixture.model_dump()).about(store.rows, tags)


def _upkeep(training: TrainingConfig) -> Upkeep:
    return Upkeep(
        checkpoint_every=training.checkpoint_every,
        keep_last=training.keep_last,
        keep_every=training.keep_every,
        milestones=training.keep_checkpoints,
        validate_every=training.validate_every,
        validation_seconds=training.validation_seconds,
        trackers=tuple(training.trackers),
    )


def score_model(place: Workplace, recipe: Recipe, weights: str) -> None:
    """What matters in stage-1 weights, on a sample of stage-1 texts; once for all that are pruned from them."""
    store = TokenStore(place.artifact("tokenize/stage1"))
    generator = np.random.default_rng(place.seed)
    count = min(recipe.prune.calibration_texts, len(store))
    ids = generator.choice(len(store), size=count, replace=False)
    ids = ids[length_order(store, ids)]
    packs = [pack_texts(store, part)[:2] for part in np.array_split(ids, max(1, count // 256))]
    directory = _weights(place, weights)
    scores = score(StoredWeights(directory, checkpoint.read_shape(directory)), packs)
    save_scores(scores, place.directory / SCORES, weights)
    log(f"  {scores.tokens:,} tokens")


def prune_model(place: Workplace, recipe: Recipe, model: ModelConfig, parent: str, scored: str) -> None:
    """Stage-1 weights -> a smaller shape."""
    directory, config = _weights(place, parent), recipe.prune_of(model)
    weights = StoredWeights(directory, checkpoint.read_shape(directory))
    scores = load_scores(place.artifact(scored) / SCORES, parent)
    if scores is None:
        raise StorageError(f"{place.artifact(scored) / SCORES} is damaged; delete {place.artifact(scored)}, run again")
    rule = Rule(config.importance, config.aggregate, config.depth, place.seed)
    choice = choose(weights.shape, scores, model_shape(recipe, model, weights.shape.vocab_size), rule)
    _write_model(dict(cut(weights, choice)), choice.shape, place)
    write_json(place.directory / RECORD, record(choice, weights.shape, rule, scores.tokens), indent=None)
    log(f"  {weights.shape.parameters:,} -> {choice.shape.parameters:,} parameters")


def teach(place: Workplace, recipe: Recipe, weights: str | Path, students: Sequence[ModelConfig]) -> None:
    """The teacher's vectors of every text that its students' stage 2 will see, once."""
    store = TokenStore(place.artifact("tokenize/stage2"))
    needed = []
    for student in students:
        settings = _settings(recipe, student, 2, store, place.seed)
        negatives = {source: settings.negatives(kind) for source, kind in store.task_types.items()}
        needed.append(needed_texts(store, make_sampler(store, settings), settings.steps, negatives, settings.seed))
    ids = np.unique(np.concatenate(needed))
    decoder = checkpoint.load(_weights(place, weights), device=str(place.world.device))
    matches = [match for student in students if (match := _hidden_match(place, recipe, student))]
    states = max((match.depth for match in matches), default=0)
    budget = recipe.training.micro_batch_tokens
    tokens = _TEACHER_TOKENS if budget == "auto" else budget
    compute_teacher_vectors(place.directory, decoder, store, ids, batch_tokens=tokens, states=states)
    log(f"  {len(ids):,} texts x {decoder.shape.hidden * (1 + states)} numbers")
