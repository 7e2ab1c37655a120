"""Parts of a model by name, and what a decoder layer holds by the shapes of its modules."""

from __future__ import annotations

import inspect

from torch import nn
from transformers.pytorch_utils import Conv1D

from langedit.errors import StructureError

HOW_TO_NAME = (
    "Name the part yourself in the settings, under [structure], whose keys are layers (a list of "
    'decoder layers, such as "model.layers"), projection (inside a layer, such as '
    '"mlp.down_proj"), final_norm (such as "model.norm") and head (such as "lm_head").'
)


def part_of(root: nn.Module, name: str) -> nn.Module | None:
    """The submodule of that dotted name; None when there is none."""
    try:
        return root.get_submodule(name)
    except AttributeError:
        return None


def describe(module: nn.Module | None) -> str:
    """What an error says was found."""
    return "no such module" if module is None else f"a {type(module).__name__}"


def module_list(model: nn.Module, name: str) -> nn.ModuleList:
    """The list of decoder layers of that name.

    Raises:
        StructureError: it is no list, or an empty one.
    """
    module = part_of(model, name)
    if isinstance(module, nn.ModuleList) and len(module):
        return module
    raise StructureError(
        f"expected [structure] layers = {name!r} to be a ModuleList with at least one "
        f"layer, found {describe(module)}. {HOW_TO_NAME}"
    )


def linear_sizes(module: nn.Module | None) -> tuple[int, int] | None:
    """(width in, width out) of a `Linear` or transformers' `Conv1D`; None for anything else.

    Libraries that quantise have linear modules of their own, with the attributes of a `Linear`.
    """
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if isinstance(module, Conv1D):
        return int(module.nx), int(module.nf)
    if module is None or any(module.children()):
        return None
    match getattr(module, "in_features", None), getattr(module, "out_features", None):
        case (int(d_in), int(d_out)):
            return d_in, d_out
    return None


def expert_modules(block: nn.Module) -> list[str]:
    """Names of modules in a layer that stack several MLPs: 3-D weights, or a list of modules."""
    return [
        name
        for name, module in block.named_modules()
        if isinstance(module, nn.ModuleList)
        or (
            not isinstance(module, nn.Conv1d)
            and any(p.ndim == 3 for p in module.parameters(recurse=False))
        )
    ]


def projection_candidates(block: nn.Module, d_model: int) -> list[str]:
    """Linear modules of a layer whose shapes fit an MLP's output projection.

    One name when shapes decide, all of the MLP's square modules when d_in = d_model, names of
    several MLPs when there are several; none for a mixture of experts.
    """
    if expert_modules(block):
        return []
    attention = [name for name, module in block.named_modules() if name and _mixes_tokens(module)]
    names: list[str] = []
    for parent_name, parent in block.named_modules():
        if any(parent_name == a or parent_name.startswith(f"{a}.") for a in attention):
            continue
        sizes = {k: s for k, m in parent.named_children() if (s := linear_sizes(m)) is not None}
        for name, (d_in, d_out) in sizes.items():
            siblings = [size for other, size in sizes.items() if other != name]
            feeds = any(size in ((d_model, d_in), (d_model, 2 * d_in)) for size in siblings)
            if d_out == d_model and feeds:
                names.append(f"{parent_name}.{name}".lstrip("."))
    return names


def _mixes_tokens(module: nn.Module) -> bool:
    """Whether the module is attention: its forward takes a mask over tokens."""
    parameters = inspect.signature(module.forward).parameters
    return any("mask" in name for name in parameters)
