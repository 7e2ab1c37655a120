from __future__ import annotations

import math

import pytest

from langedit.reporting import curve_figure, grid_figure


def test_a_grid_of_panels_is_a_png(tmp_path):
    panels = {"en": [[1.0, math.nan], [0.0, -0.2]], "zh": [[3.0, 2.0], [1.0, 0.5]]}
    path = tmp_path / "grid.png"
    grid_figure(panels, path, rows=["a", "b"], columns=["0", "1"], across="layer", unit="points")
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="at least one panel"):
        grid_figure({}, path, rows=[], columns=["0"], across="layer", unit="points")


def test_curves_are_a_png(tmp_path):
    path = tmp_path / "curves.png"
    curve_figure(
        {"a": [(0, 1.0), (1, 0.1)], "b": [(0, 0.5)]}, path, across="x", up="y", bold="b",
        logarithmic=True, points=True,
    )  # fmt: skip
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="at least one curve"):
        curve_figure({}, path, across="x", up="y")
