"""What the steps of training do: read artifacts of earlier steps, call one part of the package, write their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor

from f2llm.core.config import MixtureConfig, ModelConfig, Recipe, TrainingConfig
from f2llm.core.errors import StorageError
from f2llm.core.files import read_json, write_json
from f2llm.core.log import log, warn
from f2llm.data.store import TokenStore
from f2llm.model import checkpoint
from f2llm.model.decoder import Decoder
from f2llm.model.importance import load_scores, save_scores, score
from f2llm.model.prune import Rule, choose, cut
from f2llm.model.prune_directory import RECORD, record
from f2llm.model.sizes import Shape
from f2llm.model.weights import WEIGHTS, StoredWeights
from f2llm.pipeline.checks import matches_hidden, model_shape, trained_dims
from f2llm.pipeline.data_steps import recipe_tokenizer
from f2llm.pipeline.evaluation import training_scorer
from f2llm.pipeline.runner import Workplace
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
        scorer=training_scorer(place, recipe, model, stage),
        description=f"{model.name}, stage {stage}",
    )
    if place.world.is_main:
        _write_model(weights, shape, place)
        training_curves(place.directory / "metrics.jsonl", place.directory / "training.png")


def _teacher(place: Workplace, settings: TrainSettings, teacher: str | Path, match: HiddenMatch | None) -> Teacher:
    if isinstance(teacher, str) and teacher.startswith("teach/"):
        return StoredTeacher(place.artifact(teacher), match)
    decoder = checkpoint.load(place.weights(teacher))
    tokens = settings.micro_batch_tokens or _TEACHER_TOKENS
    return OnlineTeacher(decoder, place.world, settings.strategy, settings.precision, tokens, match)


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
        return checkpoint.load(place.weights(start))
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
        evaluate_every=training.evaluate_every,
        evaluation_seconds=training.evaluation_seconds,
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
    directory = place.weights(weights)
    scores = score(StoredWeights(directory, checkpoint.read_shape(directory)), packs)
    save_scores(scores, place.directory / SCORES, weights)
    log(f"  {scores.tokens:,} tokens")


def prune_model(place: Workplace, recipe: Recipe, model: ModelConfig, parent: str, scored: str) -> None:
    """Stage-1 weights -> a smaller shape."""
    directory, config = place.weights(parent), recipe.prune_of(model)
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
    decoder = checkpoint.load(place.weights(weights), device=str(place.world.device))
    matches = [match for student in students if (match := _hidden_match(place, recipe, student))]
    states = max((match.depth for match in matches), default=0)
    budget = recipe.training.micro_batch_tokens
    tokens = _TEACHER_TOKENS if budget == "auto" else budget
    compute_teacher_vectors(place.directory, decoder, store, ids, batch_tokens=tokens, states=states)
    log(f"  {len(ids):,} texts x {decoder.shape.hidden * (1 + states)} numbers")
