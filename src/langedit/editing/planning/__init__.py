"""What a run will need in memory and time, before anything is loaded."""

from langedit.editing.planning.memory import MemoryPlan, Stage, plan_memory
from langedit.editing.planning.passes import PassCosts, Workload, pass_costs, shaped_model

__all__ = [
    "MemoryPlan",
    "PassCosts",
    "Stage",
    "Workload",
    "pass_costs",
    "plan_memory",
    "shaped_model",
]
