"""What types cannot say about a recipe: names that must exist, shapes that must fit, files that must be there.

Every check runs before any work; each complaint names the line of the recipe.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from f2llm.core.config import EvaluationSetConfig, ModelConfig, Recipe, RecipeFile, SourceConfig
from f2llm.core.errors import F2LLMError
from f2llm.core.types import TaskType
from f2llm.data.convert import CONVERTERS
from f2llm.data.hub import is_hub, parse
from f2llm.model import checkpoint
from f2llm.model.sizes import FAMILY, Shape, matryoshka_dims
from f2llm.pipeline.encoders import NGRAMS
from f2llm.text.tokenizer import Tokenizer

# Keys that a model cannot have for itself, because they decide of what several models share.
_SHARED_KEYS = (
    ("prune", "calibration_texts", "a parent is scored once for all that are pruned from it"),
    ("training", "symmetric_instruction_share", "the texts are tokenised once for all models"),
)


def check_recipe(recipe: Recipe, file: RecipeFile, data_there: bool = True) -> None:
    """Raise the first ConfigError about the relations between the recipe's fields.

    Without `data_there`, files and directories that the recipe names need not exist.
    """
    paths = _Paths(file, data_there)
    _check_tokenizer(recipe, file, paths)
    _check_sources(recipe, file, paths)
    _check_helpers(recipe, file, paths)
    names = [model.name for model in recipe.models]
    for index, model in enumerate(recipe.models):
        if names.index(model.name) != index:
            raise file.fail(("models", index, "name"), f"{model.name!r} is used twice; give each model its own name")
        _check_model(recipe, file, index, model, paths)
    training_order(recipe, file)
    _check_mixture(recipe, file)
    _check_report(recipe, file)


def model_shape(recipe: Recipe, model: ModelConfig, vocab_size: int) -> Shape:
    """The shape of a model: an entry of [sizes] or a size of the paper's family."""
    if model.size in recipe.sizes:
        size = recipe.sizes[model.size]
        return Shape(
            hidden=size.hidden,
            layers=size.layers,
            mlp=size.mlp,
            heads=size.heads,
            kv_heads=size.kv_heads,
            head_dim=size.head_dim,
            vocab_size=vocab_size,
            rope_theta=size.rope_theta,
        )
    return FAMILY[model.size]


def trained_dims(recipe: Recipe, model: ModelConfig) -> list[int]:
    """The nested dimensions that a model is trained for, ascending, its full size last."""
    hidden, smallest = model_shape(recipe, model, 1).hidden, recipe.training_of(model).matryoshka_min_dim
    return matryoshka_dims(hidden, smallest) if smallest else [hidden]


def holds_out(recipe: Recipe, kind: TaskType | None = None) -> bool:
    """Whether rows (of a kind) are kept out of training to evaluate on; without any, no scores and no report."""
    evaluated = {source.task_type for source in recipe.sources if source.evaluate}
    return recipe.clean.held_out_fraction > 0 and (bool(evaluated) if kind is None else kind in evaluated)


def matches_hidden(recipe: Recipe, model: ModelConfig) -> bool:
    """Whether a model imitates the hidden states of the teacher that it was cut from."""
    return model.teacher is not None and recipe.training_of(model).distill_hidden_weight > 0


def named_teacher(recipe: Recipe, model: ModelConfig) -> ModelConfig | None:
    """The teacher, where it is a model of the recipe; None where there is none, or a directory."""
    return next((other for other in recipe.models if other.name == model.teacher), None)


def training_order(recipe: Recipe, file: RecipeFile) -> list[ModelConfig]:
    """Models so ordered that teachers and pruning parents come first."""
    ordered: list[ModelConfig] = []
    waiting = list(recipe.models)
    while waiting:
        done = {model.name for model in ordered}
        names = {model.name for model in recipe.models}
        ready = [m for m in waiting if {m.teacher, m.pruned_from} & names <= done]
        if not ready:
            index = recipe.models.index(waiting[0])
            circle = ", ".join(model.name for model in waiting)
            raise file.fail(("models", index, "teacher"), f"teachers and parents form a circle: {circle}")
        ordered += ready
        waiting = [model for model in waiting if model not in ready]
    return ordered


def _check_tokenizer(recipe: Recipe, file: RecipeFile, paths: _Paths) -> None:
    tokenizer = recipe.tokenizer
    if (tokenizer.path is None) == (tokenizer.vocab_size is None):
        raise file.fail(("tokenizer",), "give either `path` (a tokenizer.json) or `vocab_size` (train one), not both")
    if tokenizer.path is not None:
        paths.must_exist(("tokenizer", "path"), tokenizer.path)


def _check_sources(recipe: Recipe, file: RecipeFile, paths: _Paths) -> None:
    if not recipe.sources:
        raise file.fail((), "there is no source; add [[sources]], or [registry] for those of the paper")
    _check_converted(recipe.sources, "sources", file, paths)
    _check_converted(recipe.evaluation_sets, "evaluation_sets", file, paths)
    for index, source in enumerate(recipe.sources):
        where = ("sources", index)
        if source.task_type != CONVERTERS[source.converter].task_type:
            expected = CONVERTERS[source.converter].task_type
            raise file.fail((*where, "task_type"), f"the converter {source.converter!r} makes {expected} examples")
        if 2 in source.stages and source.instruction is None:
            raise file.fail((*where, "instruction"), "stage 2 trains with instructions; give this source one")


def _check_helpers(recipe: Recipe, file: RecipeFile, paths: _Paths) -> None:
    """The models that clean and mine: one that names languages, and one that encodes."""
    if recipe.clean.language_model is not None:
        paths.must_exist(("clean", "language_model"), recipe.clean.language_model)
    encoder = recipe.mine.encoder
    if encoder != NGRAMS and not file.resolve(encoder).is_dir() and encoder.count("/") != 1:
        known = f'"{NGRAMS}", a model directory, nor a hub id such as "Qwen/Qwen3-Embedding-0.6B"'
        raise file.fail(("mine", "encoder"), f"{encoder!r} is neither {known}")


def _check_converted(
    sources: Sequence[SourceConfig | EvaluationSetConfig], section: str, file: RecipeFile, paths: _Paths
) -> None:
    ids = [source.id for source in sources]
    for index, source in enumerate(sources):
        where = (section, index)
        if ids.index(source.id) != index:
            raise file.fail((*where, "id"), f"{source.id!r} is used twice; give each its own id")
        if source.converter not in CONVERTERS:
            known = ", ".join(sorted(CONVERTERS))
            raise file.fail((*where, "converter"), f"unknown converter {source.converter!r}; known: {known}")
        path = source_path(file, source)
        if isinstance(path, Path):
            paths.must_exist((*where, "path"), str(source.path))
        elif path is not None:
            _check_hub(path, file, (*where, "path"))
        try:
            CONVERTERS[source.converter].check(None if path is None else Path(path), source.options)
        except F2LLMError as error:
            raise file.fail((*where, "options"), str(error)) from None


def _check_hub(path: str, file: RecipeFile, where: tuple[str | int, ...]) -> None:
    try:
        parse(path)
    except F2LLMError as error:
        raise file.fail(where, str(error)) from None


def source_path(file: RecipeFile, source: SourceConfig | EvaluationSetConfig) -> Path | str | None:
    """Where the files of a source are: a path, or an address on the hub as it stands."""
    if source.path is None or is_hub(source.path):
        return source.path
    return file.resolve(source.path)


class _Paths:
    """Whether what a recipe names is there; without `needed` nothing has to be."""

    def __init__(self, file: RecipeFile, needed: bool) -> None:
        self.file, self.needed = file, needed

    def must_exist(self, where: tuple[str | int, ...], path: str) -> None:
        resolved = self.file.resolve(path)
        if self.needed and not resolved.exists():
            raise self.file.fail(where, f"{resolved} does not exist (paths are relative to the recipe file)")


def _check_model(recipe: Recipe, file: RecipeFile, index: int, model: ModelConfig, paths: _Paths) -> None:
    where = ("models", index)
    if model.size not in recipe.sizes and model.size not in FAMILY:
        known = ", ".join([*recipe.sizes, *FAMILY])
        raise file.fail((*where, "size"), f"unknown size {model.size!r}; known: {known}")
    shape = model_shape(recipe, model, vocab_size=1000)
    try:
        shape.validate()
    except F2LLMError as error:
        place = ("sizes", model.size) if model.size in recipe.sizes else (*where, "size")
        raise file.fail(place, str(error)) from None
    for own, key, reason in _SHARED_KEYS:
        if key in getattr(model, own):
            raise file.fail((*where, own, key), f"{reason}; set it in [{own}], for all models")
    for stage in model.stages:
        if not any(stage in source.stages for source in recipe.sources):
            raise file.fail(
                (*where, "stages"), f"no source trains in stage {stage}; add {stage} to a source's `stages`"
            )
    smallest = recipe.training_of(model).matryoshka_min_dim
    if smallest > shape.hidden:
        section = (*where, "training") if "matryoshka_min_dim" in model.training else ("training",)
        problem = f"is {smallest}, more than the hidden size {shape.hidden} of {model.name}"
        raise file.fail((*section, "matryoshka_min_dim"), problem)
    _check_teacher(recipe, file, index, model, shape, paths)
    _check_init(recipe, file, index, model, shape, paths)


def _check_teacher(
    recipe: Recipe, file: RecipeFile, index: int, model: ModelConfig, shape: Shape, paths: _Paths
) -> None:
    if model.teacher is None:
        return
    where, teacher = ("models", index, "teacher"), named_teacher(recipe, model)
    if teacher is None and not paths.needed and not file.resolve(model.teacher).is_dir():
        return
    if 2 not in model.stages or (teacher is not None and 2 not in teacher.stages):
        both = f"{model.name} and {model.teacher} must both train in it"
        raise file.fail(where, f"distillation happens in stage 2; {both}")
    if teacher is None:
        if not file.resolve(model.teacher).is_dir():
            known, place = ", ".join(other.name for other in recipe.models), file.resolve(model.teacher)
            raise file.fail(
                where, f"{model.teacher!r} is neither a model of this recipe ({known}) nor a directory ({place})"
            )
        width = _external_shape(recipe, file, where, model.teacher, "teacher").hidden
    else:
        width = model_shape(recipe, teacher, 1000).hidden
    if width < shape.hidden and recipe.training_of(model).distill != "relational":
        problem = f"{model.teacher} has {width} dims, fewer than the {shape.hidden} of {model.name}"
        raise file.fail(where, f'{problem}; take a larger teacher, or distill = "relational"')
    if matches_hidden(recipe, model) and shape.layers < 2:
        raise file.fail(
            where, "hidden states can be matched only with two layers or more: the last one's is the vector"
        )
    if matches_hidden(recipe, model) and model.pruned_from != model.teacher:
        problem = f"hidden states can be matched only with the model that {model.name} is pruned from"
        raise file.fail(where, f'{problem}; write init = "prune:{model.teacher}", or distill_hidden_weight = 0')


def _external_shape(recipe: Recipe, file: RecipeFile, where: tuple[str | int, ...], path: str, role: str) -> Shape:
    """Shape of a model outside of the recipe, after its tokenizer was found to be the recipe's."""
    directory = file.resolve(path)
    if recipe.tokenizer.path is None:
        problem = f"the {role} {path} has its own tokenizer, and this recipe trains another"
        raise file.fail(where, f'{problem}; write [tokenizer] path = "{path}/tokenizer.json"')
    try:
        own, other = (Tokenizer.load(place, 2) for place in (file.resolve(recipe.tokenizer.path), directory))
        shape = checkpoint.read_shape(directory)
    except F2LLMError as error:
        raise file.fail(where, str(error)) from None
    if own.vocabulary_digest() != other.vocabulary_digest():
        problem = f"{role} and student must share the tokenizer" if role == "teacher" else "the ids must mean the same"
        problem = f"{problem}, and that of {path} differs from {recipe.tokenizer.path}"
        raise file.fail(where, f"{problem}; train with the tokenizer of {path}, or choose another {role}")
    return shape


def _check_init(recipe: Recipe, file: RecipeFile, index: int, model: ModelConfig, shape: Shape, paths: _Paths) -> None:
    where = ("models", index, "init")
    if model.pruned_from is None:
        if model.init != "random":
            paths.must_exist(where, model.init)
            if file.resolve(model.init).is_dir():
                _check_start(recipe, file, where, model, shape)
        return
    parent = _named(recipe, file, where, model.pruned_from)
    if 1 not in parent.stages:
        raise file.fail(where, f"pruning starts from stage-1 weights, but {parent.name} has no stage 1")
    if model.stages != [2]:
        raise file.fail(("models", index, "stages"), "a pruned model starts from stage-1 weights: write stages = [2]")
    large = model_shape(recipe, parent, 1000)
    for field in ("hidden", "layers", "mlp"):
        if getattr(shape, field) > getattr(large, field):
            problem = f"{field} {getattr(shape, field)} is more than the {getattr(large, field)} of {parent.name}"
            raise file.fail(where, f"{problem}; pruning only shrinks")
    if (shape.heads, shape.kv_heads, shape.head_dim) != (large.heads, large.kv_heads, large.head_dim):
        raise file.fail(where, f"heads, kv_heads and head_dim must equal those of {parent.name}: heads are not pruned")


def _check_start(
    recipe: Recipe, file: RecipeFile, where: tuple[str | int, ...], model: ModelConfig, shape: Shape
) -> None:
    """The directory that a model starts from has its shape and the recipe's tokenizer."""
    found = _external_shape(recipe, file, where, model.init, "start")
    for field in ("hidden", "layers", "mlp", "heads", "kv_heads", "head_dim"):
        if getattr(found, field) != getattr(shape, field):
            problem = f"{model.init} has {field} {getattr(found, field)}, but size {model.size!r} has"
            raise file.fail(where, f"{problem} {getattr(shape, field)}; name the size that it has")


def _named(recipe: Recipe, file: RecipeFile, where: tuple[str | int, ...], name: str) -> ModelConfig:
    found = [model for model in recipe.models if model.name == name]
    if not found:
        known = ", ".join(model.name for model in recipe.models)
        raise file.fail(where, f"there is no model {name!r}; models: {known}")
    return found[0]


def _check_mixture(recipe: Recipe, file: RecipeFile) -> None:
    known = [source.id for source in recipe.sources]
    for field in ("floors", "caps"):
        for source in getattr(recipe.training.mixture, field):
            if source not in known:
                where = ("training", "mixture", field, source)
                raise file.fail(where, f"there is no source {source!r}; sources: {', '.join(known)}")


def _check_report(recipe: Recipe, file: RecipeFile) -> None:
    _named(recipe, file, ("report", "default_model"), recipe.report.default_model)
    for index, comparison in enumerate(recipe.report.comparisons):
        for side in ("a", "b"):
            _named(recipe, file, ("report", "comparisons", index, side), getattr(comparison, side))
