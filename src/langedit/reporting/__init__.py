"""What people see: tables on screen, figures in files."""

from langedit.reporting.figures import retention_figure, stream_figure
from langedit.reporting.grids import curve_figure, grid_figure
from langedit.reporting.heatmaps import heatmap_figure
from langedit.reporting.tables import definition_table, percent, profile_table, score_table

__all__ = [
    "curve_figure",
    "definition_table",
    "grid_figure",
    "heatmap_figure",
    "percent",
    "profile_table",
    "retention_figure",
    "score_table",
    "stream_figure",
]
