"""Memory of an editing run, stage by stage, from shapes alone.

Passes through the model are run on the meta device (`passes.py`). What the editor keeps and what
linear algebra needs beside it follows from widths (`sizes.py`, `stages/`).
"""

from __future__ import annotations

from langedit.editing.config import EditConfig
from langedit.editing.planning.passes import PassCosts, pass_costs
from langedit.editing.planning.quantisation import is_stand_in, value_count
from langedit.editing.planning.sizes import Sizes
from langedit.editing.planning.stage import MemoryPlan
from langedit.editing.planning.stages import STAGES
from langedit.editing.planning.weights import Weights
from langedit.editing.planning.workload import Workload
from langedit.errors import ConfigError
from langedit.models import EditableModel


def plan_memory(
    model: EditableModel,
    config: EditConfig,
    work: Workload,
    *,
    cpu: bool,
    offloaded: bool = False,
    cards: int = 1,
    costs: PassCosts | None = None,
) -> MemoryPlan:
    """Work out the stages of `langedit stats` and `langedit edit`.

    Args:
        model: of `shaped_model`, in the precision in which it will be loaded.
        config: settings of the run.
        work: number and size of the facts.
        cpu: whether the model computes on the CPU.
        offloaded: weights wait in main memory, and a layer is on the device when it runs
            (`device_map` with parts on the CPU). Gradients of the targets hold the layers that
            they come through on the device until they are there.
        cards: devices that the weights are spread over. The plan is of one of them, on which all
            that editing needs beside the weights is counted, wherever the edited layers are.
        costs: of the passes, if they are known already.

    Raises:
        ConfigError: a layer is out of range, the memory of the method or of its projection is not
            known, or weights are to be offloaded that are also spread, trained, or quantised.
        ModelError: the model decides by values, which are not there.
    """
    build = STAGES.get(config.method)
    if build is None:
        raise ConfigError(
            f"method: expected one of {', '.join(STAGES)}, got {config.method}: what a plug-in "
            "keeps is not known here; plan with one of these for a first estimate"
        )
    if config.method == "langedit" and config.projection != "orthogonal":
        raise ConfigError(
            f"projection: expected orthogonal, got {config.projection}: what the other projections "
            "keep of moments that they refresh is not known here; plan with orthogonal for a first "
            "estimate, and expect a decomposition of every layer after each batch on top"
        )
    if offloaded and not build.offloads:
        raise ConfigError(
            f"method: expected one that can edit offloaded weights, got {config.method}, which "
            "trains them where they compute: plan it without offloading, or over several cards"
        )
    if offloaded and cards > 1:
        raise ConfigError("expected weights offloaded, or spread over cards, got both: plan one")
    quantised = is_stand_in(model.model)
    if offloaded and quantised:
        raise ConfigError(
            "expected weights that can be offloaded, got quantised ones, which stay where they "
            "compute: plan them over several cards, or plan the unquantised model"
        )
    costs = costs or pass_costs(model, config, work)
    sizes = Sizes.of(model, config, work)
    weights = Weights.of(model, config, offloaded=offloaded, cards=cards)
    return MemoryPlan(
        parameters=value_count(model.model),
        stored=weights.stored,
        embeddings=weights.embeddings,
        quantised=quantised,
        stages=build(sizes, costs, config, work, weights, model, cpu).stages(),
        cpu=cpu,
    )
