"""Find, by structure, the parts of a causal language model that editing needs.

Nothing here knows the name of a model. What is looked for:

*Layers*: a list of like modules, not inside another such list, whose members hold an MLP: the one
of the configured length if there is one such, else the longest.
*Projection*: the linear module that ends a layer's MLP. It maps d_in -> d_model, is not inside
attention (a submodule whose `forward` takes an attention mask), and has at least one sibling
d_model -> d_in, or d_model -> 2·d_in where gate and up are fused.
*Final norm*: the normalisation beside the layers that runs after them. Some models have none.
*Head*: the model's output embeddings.

Where shapes leave a choice (d_in = d_model, or a norm defined before the layers), one forward pass
of a single token tells which module runs last. What cannot be told is an error, never a guess.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from langedit.errors import StructureError
from langedit.models.blocks import (
    HOW_TO_NAME,
    describe,
    expert_modules,
    linear_sizes,
    module_list,
    part_of,
    projection_candidates,
)
from langedit.models.ends import find_final_norm, find_head
from langedit.models.hooks import order_of_calls
from langedit.models.quantised import keep_stored_form

OVERRIDE_KEYS = ("layers", "projection", "final_norm", "head")


@dataclass(frozen=True)
class ModelStructure:
    """Names and sizes of the parts of a model.

    Attributes:
        layers: name of the list of decoder layers, from the model's root.
        projection: name of the MLP's output projection, from a layer.
        final_norm: name of the norm after the last layer, from the root; None where there is none.
        head: name of the module that turns hidden states into logits, from the root.
        n_layers: number of decoder layers.
        d_in: width of the projection's input (the MLP's inner width).
        d_model: width of the projection's output (the residual stream).
    """

    layers: str
    projection: str
    final_norm: str | None
    head: str
    n_layers: int
    d_in: int
    d_model: int


def find_structure(
    model: PreTrainedModel, overrides: Mapping[str, str] | None = None
) -> ModelStructure:
    """Find the decoder layers, the MLP's output projection, the final norm and the head.

    Args:
        model: a causal language model; its weights may be on the meta device.
        overrides: names for parts that cannot be found or should be others: any of "layers",
            "projection", "final_norm", "head". Each is checked.

    Raises:
        StructureError: a part is missing or ambiguous, or a name in `overrides` does not fit.
    """
    named = dict(overrides or {})
    unknown = sorted(set(named) - set(OVERRIDE_KEYS))
    if unknown:
        raise StructureError(f"[structure] has unknown keys {unknown}. {HOW_TO_NAME}")
    if getattr(model.config, "is_encoder_decoder", False):
        raise StructureError(
            "looked for one stack of decoder layers in a decoder-only model, found the "
            f"encoder-decoder {type(model).__name__} with the lists "
            f"{', '.join(_outer_lists(model)) or 'none'}. Encoder-decoders cannot be edited; give "
            f"a decoder-only model. (In one of those: {HOW_TO_NAME})"
        )
    keep_stored_form(model)
    d_model = _hidden_size(model)
    layers = _find_layers(model, d_model, named)
    blocks = module_list(model, layers)
    projection = named.get("projection") or _find_projection(model, layers, d_model)
    d_in = _common_d_in(layers, blocks, projection, d_model)
    return ModelStructure(
        layers=layers,
        projection=projection,
        final_norm=find_final_norm(model, layers, d_model, named.get("final_norm")),
        head=find_head(model, named.get("head")),
        n_layers=len(blocks),
        d_in=d_in,
        d_model=d_model,
    )


# --- layers ---------------------------------------------------------------------------------------


def _outer_lists(model: nn.Module) -> dict[str, nn.ModuleList]:
    """Lists of at least one module, all of one class, that are inside no other list."""
    found: dict[str, nn.ModuleList] = {}
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or len({type(child) for child in module}) != 1:
            continue
        if not any(name.startswith(f"{outer}.") for outer in found):
            found[name] = module
    return found


def _find_layers(model: PreTrainedModel, d_model: int, named: Mapping[str, str]) -> str:
    """Name of the list of decoder layers, given or found."""
    if "layers" in named:
        module_list(model, named["layers"])
        return named["layers"]
    lists = _outer_lists(model)
    if "projection" in named:
        fitting = {k: v for k, v in lists.items() if part_of(v[0], named["projection"]) is not None}
    else:
        fitting = {k: v for k, v in lists.items() if projection_candidates(v[0], d_model)}
    configured = _configured(model, "num_hidden_layers")
    longest = max((len(blocks) for blocks in fitting.values()), default=0)
    for length in (configured, longest):
        best = [name for name, blocks in fitting.items() if len(blocks) == length]
        if len(best) == 1:
            return best[0]
    seen = ", ".join(f"{k} ({len(v)} x {type(v[0]).__name__})" for k, v in lists.items()) or "none"
    what = f"{len(best)} such lists, {', '.join(best)}" if best else "no such list"
    raise StructureError(
        f"looked in {type(model).__name__} for one list of decoder layers that each hold "
        f"an MLP with an output projection d_in -> {d_model} (Linear or Conv1D); found {what}. "
        f"Lists of modules: {seen}.{_experts_hint(lists)} {HOW_TO_NAME}"
    )


def _experts_hint(lists: Mapping[str, nn.ModuleList]) -> str:
    """A sentence when layers hold mixtures of experts, which have no one projection to edit."""
    for name, blocks in lists.items():
        experts = expert_modules(blocks[0])
        if experts:
            return (
                f" The layers of {name} hold a mixture of experts ({name}.0.{experts[0]}): each "
                "token takes other projections, so there is no single one to edit."
            )
    return ""


# --- projection -----------------------------------------------------------------------------------


def _find_projection(model: PreTrainedModel, layers: str, d_model: int) -> str:
    """Name, inside a layer, of the one module that ends the MLP."""
    block = module_list(model, layers)[0]
    candidates = projection_candidates(block, d_model)
    if len(candidates) == 1:
        return candidates[0]
    parents = {name.rpartition(".")[0] for name in candidates}
    sizes = {linear_sizes(part_of(block, name)) for name in candidates}
    if len(parents) == 1 and sizes == {(d_model, d_model)}:
        # One MLP of square matrices: gate, up and down look alike. The projection is run last.
        order = order_of_calls(model, {name: block.get_submodule(name) for name in candidates})
        if order:
            return order[-1]
    raise StructureError(
        f"looked in {layers}.0 ({type(block).__name__}) for one MLP output projection "
        f"d_in -> {d_model} outside attention; found {', '.join(candidates) or 'none'}."
        f"{_experts_hint({layers: module_list(model, layers)})} {HOW_TO_NAME}"
    )


def _common_d_in(layers: str, blocks: nn.ModuleList, projection: str, d_model: int) -> int:
    """Width of the projection's input, after checking that every layer has the same one."""
    found = {i: linear_sizes(part_of(block, projection)) for i, block in enumerate(blocks)}
    first = found[0]
    if first is None:
        raise StructureError(
            f"expected {layers}.0.{projection} to be a Linear or Conv1D, found "
            f"{describe(part_of(blocks[0], projection))}. {HOW_TO_NAME}"
        )
    odd = [i for i, sizes in found.items() if sizes != first]
    if first[1] != d_model or odd:
        detail = f"layers {odd} differ from layer 0" if odd else f"its output is {first[1]} wide"
        raise StructureError(
            f"expected {layers}.*.{projection} to map d_in -> {d_model} in the same way in all "
            f"layers, but {detail}. Mixed stacks cannot be edited. {HOW_TO_NAME}"
        )
    return first[0]


def _configured(model: PreTrainedModel, field: str) -> object:
    """A field of the configuration of the text part; None when it has none."""
    config: PretrainedConfig = model.config
    return getattr(config.get_text_config(), field, None)


def _hidden_size(model: PreTrainedModel) -> int:
    width = _configured(model, "hidden_size")
    if not isinstance(width, int):
        raise StructureError(
            f"looked for hidden_size in the configuration of {type(model).__name__}, found "
            f"{width!r}; models whose layers have no single width cannot be edited"
        )
    return width
