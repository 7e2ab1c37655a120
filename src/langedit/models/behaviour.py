"""How the decoder layers of a model behave, found out by running a few tokens through them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache
from transformers.pytorch_utils import Conv1D

from langedit.models.attention import Attention, replace_attention
from langedit.models.hooks import Recorder
from langedit.models.memory import ran_out_of_memory
from langedit.models.offload import input_device
from langedit.models.structure import ModelStructure

_TOKENS = 3
# Packed sequences must come nearer to separate ones than this share of the error that sequences
# make which see one another. Rounding is far below it in any precision, a wrong mask is at 1.
_PACKING_ERROR = 0.1
_WINDOWS = ("sliding_window", "attention_chunk_size", "window_size")


@dataclass(frozen=True, kw_only=True)
class LayerBehaviour:
    """What a forward pass of a model's layers looks like.

    Attributes:
        tuple_length: items of the tuple that a layer returns, `None` if it returns a tensor.
        mlp: name, within a layer, of the module around the edited projection, when it maps
            (batch, length, ...) to the same token by token; else `None`.
        linears: names, within a layer, of linear modules outside the MLP that do so too.
        packs: whether several sequences may share a row under a mask of their own. A model on the
            meta device, which has no values that could be compared, is taken for one like all of
            its kind that were tried: they may if they can be told positions.
        attention: name, within a layer, of the module that calls transformers' attention interface
            once in every layer, with what a cache keeps (`replace_attention`); `None` where there
            is none such, or where sequences cannot share a row.
    """

    tuple_length: int | None
    mlp: str | None
    linears: tuple[str, ...]
    packs: bool
    attention: str | None

    @classmethod
    def of(cls, model: PreTrainedModel, structure: ModelStructure) -> LayerBehaviour:
        """Run three tokens through the first layer, and nine through all for the packing."""
        first = f"{structure.layers}.0"
        block = model.get_submodule(first)
        mlp = structure.projection.rpartition(".")[0]
        linears = [
            name
            for name, module in block.named_modules()
            if isinstance(module, nn.Linear | Conv1D) and not f"{name}.".startswith(f"{mlp}.")
        ]
        inside = [f"{first}.{name}" for name in [*([mlp] if mlp else []), *linears]]
        lengths: list[int | None] = []

        def note(_module: nn.Module, _args: Any, output: Any) -> None:
            lengths.append(len(output) if isinstance(output, tuple) else None)

        handle = block.register_forward_hook(note)
        ids = torch.zeros((1, _TOKENS), dtype=torch.int64, device=input_device(model))
        record = Recorder(model, inputs=inside, outputs=inside, stop_after=first)
        try:
            with torch.no_grad(), record:
                model(input_ids=ids, use_cache=False)
        finally:
            handle.remove()

        def by_token(name: str) -> bool:
            seen = [part.get(f"{first}.{name}") for part in (record.inputs, record.outputs)]
            return all(states is not None and states.shape[:2] == ids.shape for states in seen)

        packs = _packs(model, structure)
        return cls(
            tuple_length=lengths[0],
            mlp=mlp if mlp and by_token(mlp) else None,
            linears=tuple(name for name in linears if by_token(name)),
            packs=packs,
            attention=_attention(model, structure) if packs else None,
        )


def _attention(model: PreTrainedModel, structure: ModelStructure) -> str | None:
    """The name, within a layer, of the module that calls attention, if it can be replaced.

    Every layer must have it and call once, with keys and values that are those which a cache keeps:
    models with compressed keys keep what they are made of. Models that scale attention by the
    place in the row, whatever the position, are left out.
    """
    config = model.config.get_text_config()
    parameters = inspect.signature(model.forward).parameters
    if "past_key_values" not in parameters or getattr(config, "attn_temperature_tuning", False):
        return None
    called: list[tuple[nn.Module, Tensor, Tensor]] = []

    def noting(attention: Attention) -> Attention:
        def attend(
            module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *rest: Any, **more: Any
        ) -> tuple[Tensor, Any]:
            called.append((module, key, value))
            return attention(module, query, key, value, *rest, **more)

        return attend

    cache = DynamicCache()
    ids = torch.zeros((1, _TOKENS), dtype=torch.int64, device=input_device(model))
    try:
        with torch.no_grad(), replace_attention(noting):
            model(input_ids=ids, past_key_values=cache, use_cache=True)
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        if ran_out_of_memory(error):
            raise
        return None  # the model takes no cache of this kind
    blocks = [model.get_submodule(f"{structure.layers}.{i}") for i in range(structure.n_layers)]
    names = {
        name
        for block, (caller, *_) in zip(blocks, called, strict=False)
        for name, module in block.named_modules()
        if module is caller
    }
    if len(names) != 1 or not len(called) == len(blocks) == len(cache.layers):
        return None
    name: str = names.pop()
    for block, (caller, key, value), kept in zip(blocks, called, cache.layers, strict=True):
        if dict(block.named_modules()).get(name) is not caller or not _keeps(kept, key, value):
            return None
    return name


def _keeps(layer: object, key: Tensor, value: Tensor) -> bool:
    """Whether a layer of a cache has these keys and values; on the meta device these shapes."""
    kept = getattr(layer, "keys", None), getattr(layer, "values", None)
    for own, seen in zip(kept, (key, value), strict=True):
        if not isinstance(own, Tensor) or own.shape != seen.shape:
            return False
        if not own.is_meta and not torch.equal(own, seen.to(own.device)):
            return False
    return True


def attention_window(model: PreTrainedModel) -> int | None:
    """Fewest tokens that some layer looks back, where the configuration bounds it."""
    config = model.config.get_text_config()
    found = [getattr(config, name, None) for name in _WINDOWS]
    return min((window for window in found if isinstance(window, int)), default=None)


def packed_mask(attends: Tensor, dtype: torch.dtype) -> Tensor:
    """What to add to attention scores, (b, 1, t, t), where `attends` (b, t, t) says who sees whom.

    It is given to the model in place of its mask over tokens; a token must see itself at least.
    """
    zeros = torch.zeros(attends.shape, dtype=dtype, device=attends.device)
    return zeros.masked_fill(~attends, torch.finfo(dtype).min).unsqueeze(1)


def _packs(model: PreTrainedModel, structure: ModelStructure) -> bool:
    """Compare two sequences in one row, under a mask of their own, with each by itself."""
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return False
    device = input_device(model)
    size = int(model.config.get_text_config().vocab_size)
    ids = torch.tensor([[(7 * i * i + 3 * i + 1) % size for i in range(6)]])
    positions = torch.arange(_TOKENS).repeat(2).unsqueeze(0)
    own = torch.arange(2 * _TOKENS) // _TOKENS
    attends = (own[:, None] == own).tril().unsqueeze(0)
    last = f"{structure.layers}.{structure.n_layers - 1}"

    def run(inputs: Mapping[str, Tensor]) -> Tensor:
        here = {name: value.to(device) for name, value in inputs.items()}
        with torch.no_grad(), Recorder(model, outputs=[last], stop_after=last) as record:
            model(**here, use_cache=False)
        return record.outputs[last].float()

    alone = run({"input_ids": ids[0].reshape(2, _TOKENS)}).flatten(0, 1)
    if device.type == "meta":
        return True
    everything = torch.ones_like(ids)  # said, or transformers finds out where sequences begin
    together = run({"input_ids": ids, "position_ids": positions, "attention_mask": everything})[0]
    mask = packed_mask(attends, model.dtype)
    try:
        packed = run({"input_ids": ids, "position_ids": positions, "attention_mask": mask})[0]
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        if ran_out_of_memory(error):
            raise
        return False  # the model takes no mask of this kind
    missed, ignored = (packed - alone).norm(), (together - alone).norm()
    return bool(missed <= _PACKING_ERROR * ignored)
