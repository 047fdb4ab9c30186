"""The dry run: the paper's family in figures that can be derived by hand, and the tiny recipe against what it did."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import pytest
from rich.console import Console

from f2llm.core.config import Recipe, load_recipe
from f2llm.core.errors import ConfigError
from f2llm.data.sources import CAP, ROWS_AFTER_CAP, TEXTS_AFTER_CAP, registry, rows_after_cap
from f2llm.model.sizes import FAMILY, TEACHERS
from f2llm.pipeline.build import dry_run
from f2llm.pipeline.devices import DEVICES, Device, find_device
from f2llm.pipeline.estimate import Plan, PlannedStep, estimate, shortened
from f2llm.pipeline.plan_table import print_plan
from f2llm.pipeline.stage_data import likely_rows_after_cap
from f2llm.train.operations import training_operations
from tests.pipeline.conftest import TINY, Built

PAPER = Path(__file__).parents[2] / "recipes" / "f2llm-v2.toml"
BATCH, LENGTH = 512, 180


def plan_of(path: Path, device: Device, *overrides: str, out: Path | None = None) -> Plan:
    recipe, file = load_recipe(path, list(overrides))
    return estimate(recipe, file, device, out)


def step_of(plan: Plan, name: str) -> PlannedStep:
    return next(step for step in plan.steps if step.name == name)


def number(value: float | None) -> float:
    assert value is not None
    return value


@pytest.fixture(scope="module")
def paper() -> Plan:
    return plan_of(PAPER, find_device("h100", 8))


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe(PAPER)[0]


def test_the_recipe_is_the_papers_table(recipe: Recipe) -> None:
    rates = {"80M": 4e-5, "160M": 3e-5, "330M": 2e-5, "0.6B": 1e-5, "1.7B": 9e-6, "4B": 7e-6, "8B": 6e-6, "14B": 5e-6}
    epochs = {"80M": 4, "160M": 3, "330M": 3} | dict.fromkeys(("0.6B", "1.7B", "4B", "8B", "14B"), 2)
    assert {model.size for model in recipe.models} == set(FAMILY)
    for model in recipe.models:
        teacher = TEACHERS.get(model.size)
        assert model.name == f"f2llm-v2-{model.size}"
        assert model.teacher == (teacher and f"f2llm-v2-{teacher}")
        assert model.pruned_from == ("f2llm-v2-0.6B" if model.size.endswith("M") else None)
        assert model.stages == ([2] if model.pruned_from else [1, 2])
        stage = recipe.stage(model, 2)
        assert (stage.learning_rate, stage.epochs) == (rates[model.size], epochs[model.size])
        assert (stage.global_batch, stage.hard_negatives, stage.clustering_hard_negatives) == (512, 7, 9)
        if not model.pruned_from:
            assert recipe.stage(model, 1).learning_rate == rates[model.size]
    assert recipe.registry is not None
    assert recipe.registry.exclude == ["mkqa", "sib200"]


def test_steps_and_samples_of_the_family(paper: Plan) -> None:
    first = sum(math.ceil((source.rows - 512) / BATCH) for source in registry() if source.stage1)
    assert step_of(paper, "train/f2llm-v2-14B/stage1").steps == first == 52_131
    rows = ROWS_AFTER_CAP - 69_287 - 80_000  # mkqa as a whole, sib200 under the cap
    assert step_of(paper, "tokenize/stage2").samples == pytest.approx(rows, abs=100)
    small = step_of(paper, "train/f2llm-v2-80M/stage2")
    held_out = 155 * 512  # at most
    assert 4 * (rows - held_out) / BATCH <= number(small.steps) <= 4 * (rows / BATCH + 155)
    assert number(small.samples) / 4 == pytest.approx(rows - held_out / 2, rel=0.003)
    assert step_of(paper, "train/f2llm-v2-0.6B/stage2").steps == number(small.steps) / 2
    convert = next(step for step in paper.steps if step.name.startswith("convert"))
    assert (convert.name, convert.samples) == ("convert: 155 sources", 60_147_938 - 69_287 - 163_302)


def test_tokens_and_operations_of_a_training(paper: Plan) -> None:
    step = step_of(paper, "train/f2llm-v2-14B/stage1")
    texts = number(step.samples) * 9
    assert step.tokens == pytest.approx(texts * LENGTH, rel=1e-6)
    pairs = LENGTH * (LENGTH + 1) // 2
    counts = round(texts * LENGTH), round(texts), round(texts * pairs)
    once = [training_operations(FAMILY["14B"], *counts, forwards=forwards) for forwards in (2, 3)]
    assert once[0] < number(step.training_flops) < once[1]  # recomputed layers, and most micro-batches twice
    dense = 6 * (FAMILY["14B"].parameters - FAMILY["14B"].embedding_parameters) * number(step.tokens)
    assert 1.3 < number(step.training_flops) / dense < 1.75  # 4/3 for the checkpoints, up to 5/3 with the cache


def test_teachers(paper: Plan) -> None:
    step = step_of(paper, "teach/f2llm-v2-0.6B")
    rows = number(step_of(paper, "tokenize/stage2").samples)
    assert step.samples == pytest.approx(rows * TEXTS_AFTER_CAP / ROWS_AFTER_CAP, rel=1e-6)
    weights = FAMILY["0.6B"].parameters - FAMILY["0.6B"].embedding_parameters
    assert number(step.teacher_flops) == pytest.approx(2 * weights * number(step.tokens), rel=0.1)
    assert step.disk == 2 * 1024 * number(step.samples)
    assert [model.name for model in paper.models if model.teacher_flops] == [
        "f2llm-v2-4B", "f2llm-v2-1.7B", "f2llm-v2-0.6B"
    ]  # fmt: skip
    online = plan_of(PAPER, find_device("h100", 8), 'training.teacher_vectors="online"')
    assert not any(step.kind == "teach" for step in online.steps)
    beside = step_of(online, "train/f2llm-v2-80M/stage2")
    assert number(beside.teacher_flops) == pytest.approx(2 * weights * number(beside.tokens), rel=0.1)
    assert number(beside.memory) > number(step_of(paper, "train/f2llm-v2-80M/stage2").memory)


def test_memory_fits_where_the_budget_is_automatic(paper: Plan) -> None:
    room = paper.device.room
    assert room == 64 * 10**9
    for step in paper.steps:
        if step.kind == "train":
            assert number(step.memory) <= room * 1.01
            assert not step.note
    large = step_of(paper, "train/f2llm-v2-14B/stage1")
    assert number(large.memory) > 16 * FAMILY["14B"].parameters / 8
    alone = plan_of(PAPER, find_device("l40s"))
    assert step_of(alone, "train/f2llm-v2-14B/stage1").note == "needs more than 38 GB"
    assert number(step_of(alone, "train/f2llm-v2-14B/stage1").memory) > 16 * FAMILY["14B"].parameters


def test_totals_and_hours(paper: Plan) -> None:
    totals = paper.totals
    assert totals.flops == pytest.approx(sum(step.flops or 0 for step in paper.steps))
    assert totals.flops == pytest.approx(sum(model.flops for model in paper.models))
    assert paper.device.hours(989e12 * 0.4 * 3600) == 1
    assert paper.device.hours(totals.flops) / 8 < paper.hours < paper.device.hours(totals.flops)
    twice = plan_of(PAPER, find_device("h100", 8, share=0.8))
    assert twice.device.hours(1e20) == paper.device.hours(1e20) / 2


def test_json_is_plain(paper: Plan) -> None:
    found = json.loads(json.dumps(paper.to_json()))
    assert set(found) == {"recipe", "device", "steps", "models", "totals", "assumptions"}
    assert found["device"] == {
        "name": "H100", "count": 8, "peak_flops": 989e12, "share_of_peak": 0.4, "memory": 80 * 10**9
    }  # fmt: skip
    assert len(found["models"]) == 8
    step = next(step for step in found["steps"] if step["name"] == "train/f2llm-v2-80M/stage2")
    assert {"steps", "samples", "tokens", "flops", "memory", "gpu_hours", "micro_batch_tokens"} <= set(step)
    assert found["totals"]["flops"] == pytest.approx(paper.totals.flops)


def test_the_table_fits_into_120_columns(paper: Plan) -> None:
    written = io.StringIO()
    print_plan(Console(file=written, width=70), paper)
    lines = written.getvalue().splitlines()
    assert max(map(len, lines)) <= 120
    assert sum(line.startswith(("train/", "teach/", "prune/", "export/")) for line in lines) == 13 + 3 + 3 + 16
    text = " ".join(" ".join(lines).split())
    for words in ("155 sources", "GPU-hours", "total: ", "days on 8", "Assumptions", "180 tokens a text", "40% are"):
        assert words in text
    assert "an estimate: of the whole registry 17,733,380 are published" in text


def test_rows_of_unequal_units_add_up_to_the_published_number() -> None:
    likely = [likely_rows_after_cap(source, CAP) for source in registry()]
    assert sum(likely) == pytest.approx(ROWS_AFTER_CAP, abs=50)
    for source, rows in zip(registry(), likely, strict=True):
        bound = rows_after_cap(source, CAP)
        assert min(source.rows, CAP) <= rows <= bound
        assert source.units > 1 or rows == bound
        assert likely_rows_after_cap(source, 1000) == rows_after_cap(source, 1000)
        assert likely_rows_after_cap(source, None) == source.rows


def test_another_cap_and_held_out_rows() -> None:
    device = find_device("h100")
    some = plan_of(PAPER, device, "registry.max_rows=1000")
    assert step_of(some, "tokenize/stage2").samples == sum(
        min(source.rows, 1000 * source.units) for source in registry() if source.id not in ("mkqa", "sib200")
    )
    assert any("an upper bound" in line for line in some.assumptions)
    held = plan_of(PAPER, device, "clean.held_out_fraction=0.1")
    assert number(step_of(held, "tokenize/stage1").samples) == pytest.approx(26_693_280 * 0.81, rel=1e-6)


def test_max_steps_and_mixtures(paper: Plan) -> None:
    plan = plan_of(
        PAPER, find_device("h100", 8), "training.stage2.max_steps=1000", "training.mixture.floors.europarl=0.9"
    )
    step = step_of(plan, "train/f2llm-v2-80M/stage2")
    assert step.steps == 1000
    assert number(step.tokens) / number(step.samples) == pytest.approx((0.9 * 11 + 0.1 * 9) * LENGTH, rel=0.02)
    assert number(step_of(plan, "teach/f2llm-v2-4B").samples) == pytest.approx(1000 * BATCH * 10.8, rel=0.02)


def test_a_built_recipe_is_counted(built: Built) -> None:
    plan = plan_of(TINY, find_device("cpu"), out=built.out)
    store = json.loads((built.out / "tokenize" / "stage2" / "meta.json").read_text(encoding="utf-8"))
    step = step_of(plan, "tokenize/stage2")
    assert (step.samples, step.tokens, step.note) == (store["rows"], store["tokens"], "counted")
    for name in ("tiny-base/stage1", "tiny-base/stage2", "tiny-small/stage2"):
        lines = (built.out / "train" / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        done = [entry for entry in map(json.loads, lines) if "tokens" in entry]
        step = step_of(plan, f"train/{name}")
        assert step.steps == len(done)
        assert number(step.samples) == pytest.approx(sum(entry["rows"] for entry in done), rel=0.02)
        tokens = sum(entry["tokens"] for entry in done)
        assert tokens <= number(step.tokens) <= 2 * tokens  # names repeat, and the instruction is computed once
    assert not any("plan.tokens_per_text" in line for line in plan.assumptions)


def test_own_sources_before_the_data_steps_have_run(tmp_path: Path) -> None:
    plan = plan_of(TINY, find_device("cpu"), out=tmp_path)
    assert step_of(plan, "tokenize/stage1").note == "unknown until the data steps have run"
    step = step_of(plan, "train/tiny-base/stage1")
    assert (step.steps, step.samples, step.tokens) == (40, 640, 640 * 4 * 32)  # no text is longer than the limit
    assert any("equally many batches" in line for line in plan.assumptions)
    assert plan.totals.unknown == 0
    text = TINY.read_text(encoding="utf-8").replace("max_steps = 40\n", "")
    (tmp_path / "tiny.toml").write_text(text, encoding="utf-8")
    plan = plan_of(tmp_path / "tiny.toml", find_device("cpu"))
    step = step_of(plan, "train/tiny-base/stage1")
    assert (step.steps, step.flops, step.note) == (None, None, "unknown until the data steps have run")
    assert plan.totals.unknown == 1
    written = io.StringIO()
    print_plan(Console(file=written, width=120), plan)
    assert "without 1 step of which nothing is known" in written.getvalue()


def test_a_teacher_that_is_not_there() -> None:
    plan = plan_of(TINY, find_device("cpu"), 'models.tiny-small.teacher="gone/large"')
    step = step_of(plan, "teach/large")
    assert (step.model, step.flops, step.note) == (None, None, "the teacher is not there, its cost is unknown")


def test_hidden_states_of_a_teacher_take_room() -> None:
    plain, more = (
        step_of(plan_of(PAPER, find_device("h100"), *overrides), "teach/f2llm-v2-0.6B")
        for overrides in ((), ("models.f2llm-v2-80M.training.distill_hidden_weight=1.0",))
    )
    assert number(more.disk) == 8 * number(plain.disk)  # the embedding, and seven layers of eight


@pytest.mark.parametrize(
    ("name", "count", "share", "message"),
    [
        ("h10", 1, 0.4, "--device h10: did you mean h100"),
        ("abacus", 1, 0.4, "devices: h100, h200, a100, l40s, cpu"),
        ("h100", 0, 0.4, "--devices 0"),
        ("h100", 1, 1.5, "cannot reach 1.5"),
    ],
)
def test_wrong_devices(name: str, count: int, share: float, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_device(name, count, share)


def test_devices() -> None:
    assert find_device("A100", 2) == Device("A100", 312e12, 80 * 10**9, 2)
    assert DEVICES["cpu"].room == 12 * 10**9
    assert find_device("cpu", 2).room == 6 * 10**9


def test_a_grid_counts_shared_trainings_once(tmp_path: Path) -> None:
    path, device = tmp_path / "grid.toml", find_device("cpu")
    grid = '[grid]\nseeds = [1, 2, 3]\nmodels = ["tiny-plain"]\n[grid.variants.short]\n'
    grid += '"models.tiny-plain.stage2.max_steps" = 10\n[grid.variants.other]\ntraining.temperature = 0.2\n'
    path.write_text(f"{TINY.read_text(encoding='utf-8')}\n{grid}", encoding="utf-8")
    cost = dry_run(path, device, out=tmp_path / "out").grid
    assert cost is not None
    assert (cost.variants, cost.seeds) == (3, 3)
    assert (cost.trainings, cost.computed) == (3 * 3 * 2, 3 * (2 + 1 + 2))
    assert cost.unknown == 0
    endless = dry_run(path, device, out=tmp_path / "out", overrides=["training.stage1={epochs = 1.0}"]).grid
    assert endless is not None
    assert (endless.unknown, endless.computed) == (3 * 2, cost.computed), "own sources are not known yet"
    plan = dry_run(path, device, out=tmp_path / "out", grid=False)
    assert plan.grid is None
    assert "grid" not in plan.to_json()
    written = io.StringIO()
    print_plan(Console(file=written, width=120), dry_run(path, device, out=tmp_path / "out"))
    text = " ".join(written.getvalue().split())
    assert "grid: 3 variants x 3 seeds, each such a build as far as its scores 15 of 18 trainings differ: " in text


def test_the_hours_of_a_grid_are_those_of_its_distinct_trainings(built: Built, tmp_path: Path) -> None:
    path, device = tmp_path / "grid.toml", find_device("cpu")
    grid = '[grid]\nseeds = [1, 2]\n[grid.variants.other]\n"models.tiny-small.training.distill_weight" = 2.0\n'
    path.write_text(f"{TINY.read_text(encoding='utf-8')}\n{grid}", encoding="utf-8")
    plan = dry_run(path, device, out=built.out)
    base, student = (
        sum(step.flops or 0 for step in plan.steps if step.kind in ("train", "teach") and part in step.name)
        for part in ("tiny-base", "train/tiny-small")
    )
    assert plan.grid is not None
    assert (plan.grid.trainings, plan.grid.computed) == (2 * 2 * 3, 2 * 4)
    assert plan.grid.flops == pytest.approx(2 * (base + 2 * student))
    assert plan.grid.hours == pytest.approx(device.hours(plan.grid.flops))
    assert plan.to_json()["grid"]["flops"] == plan.grid.flops


def test_a_wrong_recipe_is_told_before_anything_is_planned() -> None:
    with pytest.raises(ConfigError, match="unknown size '5B'"):
        plan_of(PAPER, find_device("h100"), 'models.f2llm-v2-4B.size="5B"')


@pytest.mark.parametrize(
    ("count", "text"), [(999_999, "999,999"), (1_000_000, "1M"), (17_584_095, "17.6M"), (43_210_000_000, "43.2B")]
)
def test_shortened(count: int, text: str) -> None:
    assert shortened(count) == text
