"""The stages of a run, one module for each family of methods."""

from collections.abc import Mapping
from types import MappingProxyType

from langedit.editing.planning.stages.base import RunStages
from langedit.editing.planning.stages.closed_form import ClosedFormStages
from langedit.editing.planning.stages.fine_tuning import FineTuningStages
from langedit.editing.planning.stages.prune import PruneStages
from langedit.editing.planning.stages.rect import RectStages
from langedit.editing.planning.stages.rome import RomeStages

STAGES: Mapping[str, type[RunStages]] = MappingProxyType(
    {
        "langedit": ClosedFormStages,
        "alphaedit": ClosedFormStages,
        "memit": ClosedFormStages,
        "memit-seq": ClosedFormStages,
        "rect": RectStages,
        "prune": PruneStages,
        "rome": RomeStages,
        "ft": FineTuningStages,
        "ft-l": FineTuningStages,
    }
)
"""Method -> its stages. Methods of plug-ins are not among them."""

__all__ = ["STAGES", "RunStages"]
