"""A wrong recipe is told in one sentence that names the line, before any work."""

from pathlib import Path

import pytest

from f2llm.core.config import Recipe, RecipeFile, load_recipe
from f2llm.core.errors import ConfigError
from f2llm.pipeline.checks import check_recipe
from f2llm.pipeline.registry import with_registry

GOOD = """name = "small"
seed = 1

[tokenizer]
vocab_size = 512
max_seq_length = 32

[[sources]]
id = "names"
converter = "cldr_translation"
task_type = "retrieval"
stages = [1, 2]
instruction = "Find it."

[sizes.one]
hidden = 32
layers = 2
mlp = 48
heads = 2
kv_heads = 1
head_dim = 16

[sizes.half]
hidden = 16
layers = 1
mlp = 24
heads = 2
kv_heads = 1
head_dim = 16

[[models]]
name = "large"
size = "one"

[[models]]
name = "child"
size = "half"
init = "prune:large"
stages = [2]
teacher = "large"

[report]
default_model = "child"
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    return path


def checked(path: Path, overrides: list[str] | None = None) -> Recipe:
    recipe, file = load_recipe(path, overrides)
    check_recipe(recipe, file)
    return recipe


def line_of(text: str, part: str) -> int:
    return next(number for number, line in enumerate(text.splitlines(), 1) if part in line)


def test_a_good_recipe_loads(tmp_path: Path) -> None:
    recipe = checked(write(tmp_path, GOOD))
    assert recipe.model("child").pruned_from == "large"
    assert recipe.training.temperature == 0.05


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("seed = 1", "sead = 1", "line 2: sead: unknown key 'sead'"),
        ("vocab_size = 512", 'vocab_size = "512"', "valid integer"),
        ("mlp = 48", "mlp = 0", "line 18: sizes.one.mlp: input should be greater than 0"),
        ('task_type = "retrieval"', 'task_type = "retreival"', "'retrieval', 'clustering' or 'classification'"),
        ('task_type = "retrieval"', 'task_type = "clustering"', "makes retrieval examples"),
        ('converter = "cldr_translation"', 'converter = "cldr"', "unknown converter 'cldr'"),
        ('instruction = "Find it."', "symmetric = true", "give this source one"),
        ('teacher = "large"', 'teacher = "larg"', "'larg' is neither a model of this recipe"),
        ('init = "prune:large"', 'init = "prune:lage"', "there is no model 'lage'"),
        ('size = "half"', 'size = "quarter"', "unknown size 'quarter'"),
        ("heads = 2", "heads = 3", "must equal those of large"),
        ("head_dim = 16", "head_dim = 15", "even"),
        ('default_model = "child"', 'default_model = "kid"', "there is no model 'kid'"),
        ('name = "child"', 'name = "large"', "used twice"),
        ("layers = 1", "layers = 3", "pruning only shrinks"),
    ],
)
def test_a_mistake_names_its_line(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        checked(write(tmp_path, GOOD.replace(old, new, 1)))
    message = str(caught.value)
    assert complaint in message
    assert "recipe.toml, line " in message


def test_an_unknown_key_of_a_section_that_may_be_absent_is_told(tmp_path: Path) -> None:
    text = GOOD.replace("[tokenizer]", '[registry]\npath = "x"\nlimit = 3\n\n[tokenizer]')
    with pytest.raises(ConfigError, match=r"line 6: registry.limit: unknown key 'limit'; known keys here: exclude, "):
        checked(write(tmp_path, text))


def test_a_missing_key_names_its_table(tmp_path: Path) -> None:
    text = GOOD.replace("hidden = 32\n", "")
    with pytest.raises(ConfigError, match=rf"line {line_of(text, '[sizes.one]')}: sizes.one.hidden: .*missing"):
        checked(write(tmp_path, text))


def test_a_missing_file_is_told_before_any_work(tmp_path: Path) -> None:
    text = GOOD.replace("vocab_size = 512", 'path = "nowhere/tokenizer.json"')
    with pytest.raises(ConfigError, match=r"line 5: tokenizer.path: .*nowhere/tokenizer.json does not exist"):
        checked(write(tmp_path, text))


def test_a_circle_of_teachers_is_told(tmp_path: Path) -> None:
    text = GOOD.replace('size = "one"', 'size = "one"\nteacher = "twin"', 1)
    text += '[[models]]\nname = "twin"\nsize = "one"\nteacher = "large"\n'
    with pytest.raises(ConfigError, match="circle"):
        checked(write(tmp_path, text))


def test_a_narrow_teacher_is_told(tmp_path: Path) -> None:
    text = GOOD.replace('size = "one"', 'size = "one"\nteacher = "thin"', 1)
    text += '[[models]]\nname = "thin"\nsize = "half"\n'
    with pytest.raises(ConfigError, match="take a larger teacher"):
        checked(write(tmp_path, text))


def test_overrides(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    recipe = checked(
        path,
        [
            "training.stage1.max_steps=7",
            "models.child.stage2.learning_rate=0.5",
            "description=a b",
            "sizes.one.layers=5",
        ],
    )
    assert recipe.training.stage1.max_steps == 7
    assert recipe.model("child").stage2.learning_rate == 0.5
    assert recipe.description == "a b"
    assert recipe.sizes["one"].layers == 5


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("training.stage1.max_step=7", "unknown key 'max_step'"),
        ("models.nobody.size=one", "there is no entry 'nobody'"),
        ("seed", "key=value"),
        ("seed.x=1", "it has no keys inside"),
        ("seed=many", "--set seed: "),
    ],
)
def test_a_wrong_override_is_told(tmp_path: Path, override: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match="--set") as caught:
        checked(write(tmp_path, GOOD), [override])
    assert complaint in str(caught.value)


def test_not_toml_and_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_recipe(write(tmp_path, "name = "))
    with pytest.raises(ConfigError, match="cannot read the recipe"):
        load_recipe(tmp_path / "absent.toml")


def test_the_recipes_of_the_repository_are_valid() -> None:
    for path in sorted((Path(__file__).parents[2] / "recipes").glob("*.toml")):
        recipe, file = load_recipe(path)
        assert isinstance(file, RecipeFile)
        there = all(source.path is None or file.resolve(source.path).exists() for source in recipe.sources)
        check_recipe(with_registry(recipe, file), file, data_there=there and recipe.registry is None)
