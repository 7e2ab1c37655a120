from __future__ import annotations

import pytest
from rich.console import Console

from langedit.evaluation import CrossScore, definitions, language_matrix
from langedit.reporting import (
    definition_table,
    heatmap_figure,
    percent,
    retention_figure,
    score_table,
    stream_figure,
)


def test_percent():
    assert percent(0.9876) == "98.8"
    assert percent(None) == "–"


def test_table_shows_every_cell(capsys):
    Console(width=80).print(
        score_table("Scores", "language", ["efficacy", "specificity"], {"zh": ["1.0", "–"]})
    )
    shown = capsys.readouterr().out
    for text in ("Scores", "language", "efficacy", "specificity", "zh", "1.0", "–"):
        assert text in shown


def test_table_refuses_a_short_row():
    with pytest.raises(ValueError, match="expected 2 cells"):
        score_table("Scores", "language", ["a", "b"], {"zh": ["1.0"]})


def test_retention_figure_is_a_png(tmp_path):
    curves = {
        "langedit": [[1.0], [0.9, 1.0], [0.9, 1.0, 0.8]],
        "memit": [[1.0], [0.5, 1.0], [0, 0, 1]],
    }
    path = tmp_path / "new" / "retention.png"
    retention_figure(curves, ["en", "de", "en"], path)
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG")
    assert len(data) > 10_000


def test_retention_on_a_grid_is_checked(tmp_path):
    path = tmp_path / "retention.png"
    curves = {"memit": [[1.0, 0.5], [0.5, 0.5, 0.5, 1.0]]}
    retention_figure(curves, ["en", "de", "en", "de"], path, steps=(1, 3))
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="memit: expected scores"):
        retention_figure(curves, ["en", "de", "en", "de"], path, steps=(0, 3))


@pytest.mark.parametrize("signed", [False, True])
def test_heat_maps_are_pngs_and_differ_with_the_numbers(tmp_path, signed):
    written = []
    for value in (0.25, 0.75):
        scores = [
            CrossScore(row=row, column=column, value=value, fact=str(fact))
            for row in ("en", "zh")
            for column in ("en", "de")
            for fact in range(4)
            if (row, column) != ("zh", "de")
        ]
        matrix = language_matrix("transfer", scores, ["en", "de", "zh"])
        path = tmp_path / "new" / f"{value}.png"
        panels = {"langedit": matrix, "memit": matrix}
        heatmap_figure(panels, path, rows="edited in", columns="asked in", signed=signed)
        written.append(path.read_bytes())
    assert all(data.startswith(b"\x89PNG") and len(data) > 8_000 for data in written)
    assert written[0] != written[1]
    with pytest.raises(ValueError, match="at least one matrix"):
        heatmap_figure({}, path, rows="edited in", columns="asked in")


def test_definitions_are_shown_beside_numbers(capsys):
    Console(width=200).print(definition_table(definitions(["facts", "efficacy"])))
    shown = capsys.readouterr().out
    assert "share of the tokens of the target" in shown
    assert "facts" not in shown


def test_heat_maps_of_many_methods_take_several_rows_in_the_order_wanted(tmp_path):
    scores = [CrossScore(row="zh", column="en", value=0.5, fact="a")]
    matrix = language_matrix("transfer", scores, ["en", "zh"])
    for count in (1, 5):
        panels = {f"method {number}": matrix for number in range(count)}
        path = tmp_path / f"{count}.png"
        heatmap_figure(panels, path, rows="r", columns="c", languages=["zh", "en"])
    small, large = (height_of(tmp_path / f"{count}.png") for count in (1, 5))
    assert large == 2 * small
    with pytest.raises(ValueError, match="not in"):
        heatmap_figure({"a": matrix}, tmp_path / "x.png", rows="r", columns="c", languages=["en"])


def test_stream_figure_is_a_png_and_needs_a_panel(tmp_path):
    curves = {"first batch": {"a": [(1, 1.0), (6, None), (12, 0.25)], "b": [(1, 0.5)]}}
    stream_figure(curves, tmp_path / "new" / "stream.png")
    assert height_of(tmp_path / "new" / "stream.png") > 100
    with pytest.raises(ValueError, match="at least one panel"):
        stream_figure({}, tmp_path / "none.png")


def height_of(path):
    """Height in pixels, from the header of a PNG."""
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG")
    return int.from_bytes(data[20:24], "big")
