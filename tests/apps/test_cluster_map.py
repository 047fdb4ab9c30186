"""The map: labels that keep their distance, groups that stay together, fonts that have the letters."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from f2llm.apps import cluster_pictures
from f2llm.apps.cluster_map import anchors, layout, place_labels, sample
from f2llm.apps.cluster_pictures import Groups, draw_map, style_of
from f2llm.core import fonts
from f2llm.core.fonts import families_for
from tests.apps.cluster_vectors import planted


def test_labels_do_not_overlap_and_stay_inside() -> None:
    spots = [(50.0 + n % 3, 50.0 + n % 2) for n in range(12)]
    sizes = [(30.0, 8.0)] * 12
    found = place_labels(spots, sizes, (0, 0, 200, 100))
    boxes = [(x - 15, y - 4, x + 15, y + 4) for x, y in filter(None, found)]
    assert len(boxes) == 12
    assert found[0] == (50.0, 50.0), "the first stays at its anchor"
    assert all(a[0] >= b[2] or b[0] >= a[2] or a[1] >= b[3] or b[1] >= a[3] for a, b in combinations(boxes, 2))
    assert all(x0 >= 0 and y0 >= 0 and x1 <= 200 and y1 <= 100 for x0, y0, x1, y1 in boxes)


def test_a_label_without_room_is_left_out() -> None:
    assert place_labels([(5, 5), (5, 5)], [(10, 10), (10, 10)], (0, 0, 10, 10)) == [(5, 5), None]
    assert place_labels([(5, 5)], [(11, 3)], (0, 0, 10, 10)) == [None]


def test_the_map_keeps_groups_together_and_is_the_same_at_each_run() -> None:
    V_ND, truth = planted(3, 25, spread=0.1)
    places = layout(V_ND, seed=2)
    np.testing.assert_array_equal(places, layout(V_ND, seed=2))
    assert places.min() == 0
    assert places.max() == 1
    distances = np.linalg.norm(places[:, None] - places[None], axis=2) + np.eye(len(places)) * 9
    assert (truth[distances.argmin(axis=1)] == truth).mean() > 0.95
    assert all(0 <= x <= 1 and 0 <= y <= 1 for x, y in anchors(places, truth, 3).values())


@pytest.mark.parametrize("rows", [1, 2, 12])
def test_maps_of_few_or_equal_rows(rows: int) -> None:
    V_ND = np.tile(np.eye(12, dtype=np.float32)[:1], (rows, 1))
    places = layout(V_ND)
    assert places.shape == (rows, 2)
    assert np.isfinite(places).all()


def test_sample() -> None:
    assert sample(5, 10).tolist() == [0, 1, 2, 3, 4]
    assert len(set(sample(100, 10, seed=1).tolist())) == 10


def test_fortyeight_groups_look_different() -> None:
    assert len({style_of(group) for group in range(48)}) == 48


def test_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    families, missing = families_for(["Habari, доброе ελληνικά ქართული"])
    assert families == ["DejaVu Sans"]
    assert not missing
    only = [entry for entry in fonts._installed() if entry[0] == "DejaVu Sans"]
    assert not any(name.startswith("Last Resort") for name, _ in fonts._installed()), "a box is no letter"
    monkeypatch.setattr(fonts, "_installed", lambda: only)
    assert families_for(["漢 a"]) == (["DejaVu Sans"], {"漢"})


def test_a_label_in_letters_that_no_font_has_is_a_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cluster_pictures, "families_for", lambda texts: (["DejaVu Sans"], set("漢字")))
    drawn: list[list[str]] = []
    real = cluster_pictures._labels
    monkeypatch.setattr(cluster_pictures, "_labels", lambda *given: (drawn.append(list(given[4])), real(*given)))
    places = np.array([[0, 0], [1, 1], [0.5, 0.5]], np.float32)
    draw_map(tmp_path / "map.png", places, Groups(np.array([0, 1, -1]), ["漢字", "words"], True), "title")
    assert drawn == [["", "words"]]
    assert "Install the Noto fonts" in " ".join(capsys.readouterr().err.split())
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
