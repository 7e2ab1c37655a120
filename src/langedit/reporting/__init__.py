"""What people see: tables on screen, figures in files."""

from langedit.reporting.figures import retention_figure
from langedit.reporting.matrices import matrix_figure, stream_figure
from langedit.reporting.tables import percent, score_table

__all__ = ["matrix_figure", "percent", "retention_figure", "score_table", "stream_figure"]
