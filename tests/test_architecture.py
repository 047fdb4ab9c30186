"""The house's rules: import direction, public names, file length."""

import ast
from pathlib import Path

import f2llm

SOURCE = Path(f2llm.__file__).parent
# A package may import from these packages and from itself (design: core <- text <- data ...; no cycles).
ALLOWED = {
    "core": set(),
    "text": {"core"},
    "data": {"core", "text"},
    "model": {"core", "text"},
    "train": {"core", "text", "model", "data.store"},
    "apps": {"core", "text", "model"},
    "eval": {"core", "text", "model", "apps"},
    "pipeline": {"core", "text", "data", "model", "train", "apps", "eval"},
    "bench": {"core", "text", "data", "model", "train"},
    "cli": {"core", "data", "model", "train", "apps", "pipeline", "bench"},
    "__main__": {"cli"},
    "__init__": {"core", "text", "model", "pipeline"},
}


def imports(path: Path) -> set[str]:
    """Modules of this package that a file imports, such as `model.decoder`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.update([node.module, *(f"{node.module}.{alias.name}" for alias in node.names)])
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return {name.removeprefix("f2llm.") for name in found if name.startswith("f2llm.")}


def test_import_direction() -> None:
    wrong = []
    for path in SOURCE.rglob("*.py"):
        home = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        for name in imports(path):
            package = name.split(".")[0]
            allowed = ALLOWED[home]
            if package != home and package not in allowed and not any(name.startswith(entry) for entry in allowed):
                wrong.append(f"{path.relative_to(SOURCE)} imports f2llm.{name}")
    assert not wrong


def test_every_package_has_a_rule() -> None:
    packages = {path.relative_to(SOURCE).parts[0].removesuffix(".py") for path in SOURCE.rglob("*.py")}
    assert packages == set(ALLOWED)


def test_exported_names() -> None:
    assert f2llm.__all__ == ["Embedder", "Example", "F2LLMError", "Tokenizer", "__version__", "build", "diagnose"]
    assert all(getattr(f2llm, name) is not None for name in f2llm.__all__)


def test_files_stay_short() -> None:
    long = [path.name for path in SOURCE.rglob("*.py") if len(path.read_text(encoding="utf-8").splitlines()) > 500]
    assert not long


def test_core_works_without_torch() -> None:
    for path in (SOURCE / "core").rglob("*.py"):
        assert "torch" not in {name.split(".")[0] for name in _all_imports(path)}


def _all_imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {*names, *(alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names)}
