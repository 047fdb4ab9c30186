"""The recipe: one TOML file that describes a whole family of models, checked completely before any work starts.

`load_recipe` parses, applies `--set` overrides, validates types (unknown key = error) and then the relations between
fields. Every complaint is a ConfigError that names the file, the line, the field, the value and the fix.
Paths in a recipe are relative to the recipe file.
"""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from f2llm.core.errors import ConfigError
from f2llm.core.grid import Change, GridConfig
from f2llm.core.overrides import apply_override, set_key
from f2llm.core.section import Alpha, Name, Positive, Section, Seed, Share
from f2llm.core.toml_lines import KeyPath, find_line, key_lines
from f2llm.core.types import HOLDING_TEST_TEXTS, Aggregate, Depth, Distill, Importance, TaskType


class TokenizerConfig(Section):
    """Either `path` (a tokenizer.json or a directory) or `vocab_size` (train byte-level BPE on the training texts)."""

    path: str | None = None
    vocab_size: Annotated[int, Field(ge=300)] | None = None
    max_seq_length: Annotated[int, Field(ge=8)] = 1024


class SourceConfig(Section):
    """One data source: which converter reads it, in which stages it trains, and the instruction of its queries.

    `symmetric`: query and document are of the same kind, so documents may carry the instruction too. `max_rows`: at
    most so many rows in stage 2, of the "source" or of each "file" of released data; `language_alpha` below 1 draws
    them so that a query language gets rows in proportion to size**alpha. `eval_doc_lang`: held-out queries are searched
    among all documents in this language. `temperature`: of this source's losses, where it needs another than
    `training.temperature`. `license` of its data, for the cards of the models.
    """

    id: Name
    converter: str
    task_type: TaskType
    path: str | None = None
    stages: list[Literal[1, 2]] = [2]
    instruction: str | None = None
    symmetric: bool = False
    max_rows: Positive | None = None
    max_rows_per: Literal["source", "file"] = "source"
    language_alpha: Alpha = 1.0
    evaluate: bool = True
    eval_doc_lang: str | None = None
    temperature: Annotated[float, Field(gt=0)] | None = None
    license: str | None = None
    options: dict[str, Any] = {}


class RegistryConfig(Section):
    """The paper's sources, each an own one, from the released data set: parquet files at `path`, or on the hub.

    On the hub: `hf://datasets/codefuse-ai/F2LLM-v2@REVISION`. `exclude` leaves sources out by id; those of the default
    hold test texts of MTEB. `max_rows`: of each file or language at most so many rows in stage 2, `language_alpha` as
    of a source.
    """

    path: str
    exclude: list[str] = list(HOLDING_TEST_TEXTS)
    max_rows: Positive | None = 80_000
    language_alpha: Alpha = 1.0


class EvaluationSetConfig(Section):
    """Texts that no training row may show (`clean`): a converter reads them, as it reads a source."""

    id: Name
    converter: str
    path: str
    options: dict[str, Any] = {}


class CleanConfig(Section):
    """Which rows train and which evaluate: the share of units held out, and on which side a repeated text is dropped.

    `eval_per_language` caps the evaluation rows of a source in a language; `min_chars` and `max_chars` bound a text.
    `near_duplicates`: over all sources, rows whose texts are alike (a Jaccard similarity of 5-grams from this on, such
    as 0.8) are kept once; off where not given. `exclude`: sources that go as a whole, for they hold test texts; what
    they would leak is reported. `languages`: identify the language of each text and "count" the disagreements with its
    tag, or "drop" rows where the other language is at least `language_confidence` sure; by py3langid, or by the
    fastText file `language_model` (GlotLID).
    """

    min_chars: Positive = 1
    max_chars: Positive = 20_000
    held_out_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.01
    decontaminate: Literal["drop_train", "drop_eval"] = "drop_train"
    eval_per_language: Positive = 200
    near_duplicates: Annotated[float, Field(gt=0, le=1)] | None = None
    exclude: list[str] = list(HOLDING_TEST_TEXTS)
    languages: Literal["off", "count", "drop"] = "off"
    language_model: str | None = None
    language_confidence: Share = 0.9


class MineConfig(Section):
    """Hard negatives: rank window, absolute score ceiling, margin to the positive (F2LLM v1, section 3.2).

    `encoder`: "ngrams" (character n-grams, no model needed), or the directory or hub id of an embedding model.
    `anchor`: whose neighbours are taken, those of the "query" or of the "positive". `same_language`: documents of the
    positive's language only. `pool`: a row is compared with at most so many documents of a language.
    """

    encoder: str = "ngrams"
    per_query: Positive = 24
    skip_top: Annotated[int, Field(ge=0)] = 5
    top_k: Positive = 100
    max_score: Annotated[float, Field(gt=0.0, le=1.0)] = 0.8
    relative_margin: Annotated[float, Field(gt=0.0, le=1.0)] = 0.95
    anchor: Literal["query", "positive"] = "query"
    same_language: bool = True
    pool: Annotated[int, Field(ge=100)] = 50_000


class StageConfig(Section):
    """How long and in which batches a stage trains; a model may override single fields."""

    epochs: Annotated[float, Field(gt=0)] = 1.0
    max_steps: Positive | None = None
    global_batch: Annotated[int, Field(ge=2)] = 512
    learning_rate: Annotated[float, Field(gt=0)] = 1e-5
    hard_negatives: Positive = 7
    clustering_hard_negatives: Positive = 9


class StageOverride(Section):
    """What a single model may have otherwise than the stage; what is absent stays."""

    epochs: Annotated[float, Field(gt=0)] | None = None
    max_steps: Positive | None = None
    learning_rate: Annotated[float, Field(gt=0)] | None = None


class MixtureConfig(Section):
    """Which share of the batches each source gets: in proportion to size**alpha, then within bounds.

    `alpha` 1 (the paper): every row once an epoch; smaller values give small sources more. `floors` and `caps` bound
    the share of a source, `language_floors` and `language_caps` that of the queries in a language (`swa_Latn = 0.02`).
    """

    alpha: Alpha = 1.0
    floors: dict[str, Share] = {}
    caps: dict[str, Share] = {}
    language_floors: dict[str, Share] = {}
    language_caps: dict[str, Share] = {}


class TrainingConfig(Section):
    """Losses, optimizer, checkpoints, validation and evaluation of both stages; the defaults are the paper's.

    `matryoshka_min_dim`: the smallest nested dimension; 0 trains the full size only. `symmetric_instruction_share`: of
    the documents of symmetric sources, how many carry the instruction.

    Options of the loss, off by default. `mask_duplicates`: the same document at another row of the batch is no
    negative; for sources whose documents repeat. `false_negative_margin`: nor is a document that the teacher (without
    one, the model itself) finds closer to the query than the positive minus this margin; 0 or a little below it, for
    sources with many unlabelled answers. `share_hard_negatives`: hard negatives of other rows count too; for small
    batches. `same_tower`: other queries are negatives of a query, other positives of a positive; where texts of one
    kind are compared. `spread_out_weight`: push all texts apart; before quantising vectors. `detach_across_processes`:
    on several processes no gradient reaches positives through the in-batch loss, as in the published code; only to
    reproduce it.

    Distillation, for models with a teacher. `distill`: "mse" of the vectors (the paper), "cosine" (their directions
    only), or "relational" (the cosines among the texts of a batch; the teacher may then be of any width).
    `distill_matryoshka`: at every nested dimension. `distill_hidden_weight`: each kept layer of a model pruned from its
    teacher also imitates, at the last token, the layer it was cut from. `teacher_vectors`: computed once and "stored",
    or "online" at every step, which needs no disk and the teacher's memory and time.

    `micro_batch_tokens`: a larger batch is embedded in parts, with the same gradient; "auto" takes as many as memory
    holds. `precision` "bf16": matrix products in bfloat16, weights and losses in float32. `checkpoint_activations`:
    recompute layers in the backward pass, for less memory. `compile`: element-wise parts by torch.compile.
    `parallel`: on several processes, shard the model ("fsdp") or copy it ("ddp").

    `keep_checkpoints`: intermediate weights kept for study. To continue a killed run, the newest `keep_last`
    checkpoints stay, and those of every `keep_every`-th step. `validation_fraction` of each source's rows, at most
    `validation_rows`, are held out, and their loss is measured every `validate_every` steps (0: never) for at most
    `validation_seconds`. Every `evaluate_every` steps (0: never) the model searches for the answers of
    `evaluation_queries` held-out queries of the retrieval sources, for about `evaluation_seconds`; nothing is searched
    where `clean.held_out_fraction` is 0. `trackers`: "tensorboard", "trackio", "wandb" beside metrics.jsonl.
    """

    temperature: Annotated[float, Field(gt=0)] = 0.05
    matryoshka_min_dim: Annotated[int, Field(ge=0)] = 8
    distill: Distill = "mse"
    distill_weight: Annotated[float, Field(ge=0)] = 1.0
    distill_matryoshka: bool = False
    distill_hidden_weight: Annotated[float, Field(ge=0)] = 0.0
    teacher_vectors: Literal["stored", "online"] = "stored"
    symmetric_instruction_share: Share = 0.3
    mask_duplicates: bool = False
    false_negative_margin: Annotated[float, Field(ge=-2, le=2)] | None = None
    share_hard_negatives: bool = False
    same_tower: bool = False
    spread_out_weight: Annotated[float, Field(ge=0)] = 0.0
    detach_across_processes: bool = False
    warmup_steps: Annotated[int, Field(ge=0)] = 500
    min_learning_rate: Annotated[float, Field(ge=0)] = 1e-7
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    betas: Annotated[list[float], Field(min_length=2, max_length=2)] = [0.9, 0.98]
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    micro_batch_tokens: Positive | Literal["auto"] = 16_384
    precision: Literal["fp32", "bf16"] = "fp32"
    checkpoint_activations: bool = False
    compile: bool = False
    parallel: Literal["fsdp", "ddp"] = "fsdp"
    checkpoint_every: Positive = 500
    keep_checkpoints: Annotated[int, Field(ge=0)] = 3
    keep_last: Positive = 2
    keep_every: Positive | None = None
    validation_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.01
    validation_rows: Positive = 128
    validate_every: Annotated[int, Field(ge=0)] = 500
    validation_seconds: Annotated[float, Field(gt=0)] = 60.0
    evaluate_every: Annotated[int, Field(ge=0)] = 500
    evaluation_queries: Positive = 300
    evaluation_seconds: Annotated[float, Field(gt=0)] = 20.0
    trackers: list[Literal["tensorboard", "trackio", "wandb"]] = []
    mixture: MixtureConfig = MixtureConfig()
    stage1: StageConfig = StageConfig()
    stage2: StageConfig = StageConfig()


class SizeConfig(Section):
    """A shape of the decoder; the eight sizes of the paper are known by name and need no entry."""

    hidden: Positive
    layers: Positive
    mlp: Positive
    heads: Positive
    kv_heads: Positive
    head_dim: Positive
    rope_theta: Annotated[float, Field(gt=0)] = 1_000_000.0


class PruneConfig(Section):
    """How a parent is cut: on how many stage-1 texts its parts are scored, and by what.

    `importance` of a channel: the "l1" or "l2" norm of its activations, their "variance", for hidden channels its place
    ("prefix": the first ones, which matryoshka training fills first), or as controls the "magnitude" of its weights and
    "random". `aggregate`: over the norms that read a hidden channel, "sum", "max" or
    only the "last". `depth`: keep the "first" layers, or those with the largest "influence" (change of direction) or
    "norm_change".
    """

    calibration_texts: Positive = 2000
    importance: Importance = "l2"
    aggregate: Aggregate = "sum"
    depth: Depth = "first"


class PlanConfig(Section):
    """What a dry run takes for granted where nothing is computed yet: the mean length of a text in tokens."""

    tokens_per_text: Positive = 64


class ModelConfig(Section):
    """A model of the family or an ablation.

    `init`: "random", "prune:NAME" (from the stage-1 weights of NAME), or the path of a Qwen3 directory. `teacher`: a
    model of the recipe, or the path of a model directory with the recipe's tokenizer. `training` and `prune`: keys of
    those sections that this model has otherwise.
    """

    name: Name
    size: str
    init: str = "random"
    stages: Annotated[list[Literal[1, 2]], Field(min_length=1)] = [1, 2]
    teacher: str | None = None
    role: Literal["family", "ablation"] = "family"
    stage1: StageOverride = StageOverride()
    stage2: StageOverride = StageOverride()
    training: dict[str, Any] = {}
    prune: dict[str, Any] = {}

    @property
    def pruned_from(self) -> str | None:
        return self.init.removeprefix("prune:") if self.init.startswith("prune:") else None


class ComparisonConfig(Section):
    """A pair of models that the report sets side by side."""

    title: str
    a: str
    b: str


class ReportConfig(Section):
    """The model that users get, pairs of models to compare, and queries to show (three held-out ones if none)."""

    default_model: str
    comparisons: list[ComparisonConfig] = []
    searches: list[str] = []


class Recipe(Section):
    """The whole file.

    `query_instruction` is what exported models put before a query unless told otherwise; `license` is theirs.
    """

    name: Name
    description: str = ""
    seed: Seed = 0
    license: str | None = None
    query_instruction: str = "Given a question, retrieve passages that can help answer the question."
    tokenizer: TokenizerConfig
    sources: list[SourceConfig] = []
    registry: RegistryConfig | None = None
    evaluation_sets: list[EvaluationSetConfig] = []
    clean: CleanConfig = CleanConfig()
    mine: MineConfig = MineConfig()
    training: TrainingConfig = TrainingConfig()
    sizes: dict[str, SizeConfig] = {}
    prune: PruneConfig = PruneConfig()
    plan: PlanConfig = PlanConfig()
    models: Annotated[list[ModelConfig], Field(min_length=1)]
    report: ReportConfig
    grid: GridConfig | None = None

    def model(self, name: str) -> ModelConfig:
        return next(model for model in self.models if model.name == name)

    def stage(self, model: ModelConfig, stage: int) -> StageConfig:
        """The settings of a stage with the model's own overrides applied."""
        training = self.training_of(model)
        base, override = (training.stage1, model.stage1) if stage == 1 else (training.stage2, model.stage2)
        return base.model_copy(update=override.model_dump(exclude_none=True))

    def training_of(self, model: ModelConfig) -> TrainingConfig:
        """The training section with the model's own keys."""
        return TrainingConfig.model_validate(self.training.model_dump() | model.training)

    def prune_of(self, model: ModelConfig) -> PruneConfig:
        """The pruning section with the model's own keys."""
        return PruneConfig.model_validate(self.prune.model_dump() | model.prune)


class RecipeFile:
    """A recipe's text with the places of its keys; raises ConfigErrors that name the line."""

    def __init__(self, path: Path, overrides: list[str]) -> None:
        self.path = path
        self.command = " ".join(["f2llm build", str(path), *(f"--set {override}" for override in overrides)])
        try:
            self.text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"cannot read the recipe {path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ConfigError(f"the recipe {path} is not UTF-8 text") from None
        try:
            self.data = tomllib.loads(self.text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{path} is not valid TOML: {error}") from None
        self.lines = key_lines(self.text)
        # Keys that were changed, and the place in the file that says so; None: `--set` does.
        self.changed: dict[KeyPath, KeyPath | None] = {apply_override(self.data, given): None for given in overrides}

    def varied(self, changes: Sequence[Change]) -> RecipeFile:
        """The same recipe with keys changed; what is wrong with them is told with the line of their place."""
        other = copy.copy(self)
        other.data, other.changed = copy.deepcopy(self.data), dict(self.changed)
        for change in changes:
            try:
                path = set_key(other.data, change.key, change.value)
            except ConfigError as error:
                raise self.fail(change.place, str(error)) from None
            before = {old: place for old, place in other.changed.items() if old != path}
            other.changed = {path: change.place, **before}
        return other

    def fail(self, where: KeyPath, problem: str) -> ConfigError:
        """A ConfigError about the key at `where`."""
        changed = next((path for path in self.changed if where[: len(path)] == path), None)
        place = where if changed is None else self.changed[changed]
        field = ".".join(str(part) for part in place or where)
        if place is None:
            return ConfigError(f"--set {field}: {problem}")
        line = find_line(self.lines, place)
        start = f"{self.path}, line {line}" if line else str(self.path)
        return ConfigError(f"{start}: {field}: {problem}" if field else f"{start}: {problem}")

    def resolve(self, path: str) -> Path:
        """A path written in the recipe, relative to the recipe file."""
        return (self.path.parent / path).resolve()


def load_recipe(path: Path | str, overrides: list[str] | None = None) -> tuple[Recipe, RecipeFile]:
    """Read and validate the types of a recipe; relations between fields are checked by `f2llm.pipeline`."""
    file = RecipeFile(Path(path), overrides or [])
    return read_recipe(file), file


def read_recipe(file: RecipeFile) -> Recipe:
    """The recipe in a file, with the types of its fields validated."""
    try:
        recipe = Recipe.model_validate(file.data)
    except ValidationError as error:
        raise _explain(file, error) from None
    for index, model in enumerate(recipe.models):
        for section, merged in (("training", recipe.training_of), ("prune", recipe.prune_of)):
            try:
                merged(model)
            except ValidationError as error:
                raise _explain(file, error, ("models", index, section)) from None
    return recipe


def _explain(file: RecipeFile, error: ValidationError, inside: KeyPath = ()) -> ConfigError:
    """The first of pydantic's complaints as one sentence with its line, and how many more there are."""
    problems = error.errors()
    first = problems[0]
    where: KeyPath = (*inside, *first["loc"])
    if first["type"] == "extra_forbidden":
        known = ", ".join(sorted(_fields_at(first["loc"][:-1] if not inside else (inside[-1], *first["loc"][:-1]))))
        message = f"unknown key {where[-1]!r}; known keys here: {known}"
    elif first["type"] == "missing":
        message = "this key is required and missing"
    else:
        message = f"{first['msg'][0].lower()}{first['msg'][1:]}, but it is {first['input']!r}"
    more = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
    return file.fail(where, message + more)


def _fields_at(path: KeyPath) -> list[str]:
    """Names of the fields of the section at `path`."""
    section: Any = Recipe
    for part in path:
        if isinstance(part, int) or not hasattr(section, "model_fields"):
            continue
        field = section.model_fields.get(part)
        if field is None:  # a free name, as in [sizes.NAME]
            continue
        section = _inner_section(field.annotation)
    return list(section.model_fields)


def _inner_section(annotation: Any) -> Any:
    """The Section class inside an annotation such as list[SourceConfig], dict[str, SizeConfig], None | GridConfig."""
    while not hasattr(annotation, "model_fields"):
        annotation = [part for part in annotation.__args__ if part is not type(None)][-1]
    return annotation
