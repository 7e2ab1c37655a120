"""What a run will need in memory and time, before anything is loaded."""

from langedit.editing.planning.advice import MAP_FILE, Choice, Planner, device_map
from langedit.editing.planning.memory import plan_memory
from langedit.editing.planning.passes import PassCost, PassCosts, pass_costs
from langedit.editing.planning.quantisation import Quantisation, quantisation_of
from langedit.editing.planning.shaped import shaped_model
from langedit.editing.planning.shapes import dtype_of, read_shape, shape_names
from langedit.editing.planning.stage import MemoryPlan, Stage
from langedit.editing.planning.timing import Rates, measure_rates
from langedit.editing.planning.workload import Workload

__all__ = [
    "MAP_FILE",
    "Choice",
    "MemoryPlan",
    "PassCost",
    "PassCosts",
    "Planner",
    "Quantisation",
    "Rates",
    "Stage",
    "Workload",
    "device_map",
    "dtype_of",
    "measure_rates",
    "pass_costs",
    "plan_memory",
    "quantisation_of",
    "read_shape",
    "shape_names",
    "shaped_model",
]
