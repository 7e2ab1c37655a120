"""The model as the editor sees it: layers by number, weights as (d_out, d_in), one way to run."""

from __future__ import annotations

import inspect
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from langedit.errors import ModelError, NumericalError
from langedit.models.behaviour import LayerBehaviour, attention_window
from langedit.models.chat import ChatSettings
from langedit.models.hooks import hidden_of
from langedit.models.identity import ModelIdentity, weights_hash
from langedit.models.memory import MemoryLimits
from langedit.models.offload import compute_device, find_offloaded, input_device, values_of
from langedit.models.padding import PaddedBatch
from langedit.models.structure import ModelStructure

_STORED = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


class EditableModel:
    """A causal language model, its tokenizer, and where its editable weights are.

    Attributes:
        model: the transformers model, in evaluation mode.
        tokenizer: its fast tokenizer.
        structure: names and sizes of its parts.
        revision: revision asked for when loading, if any.
        chat: how facts and questions are put to the model; None: as plain text.
        limits: what its memory was found not to hold at once.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        structure: ModelStructure,
        revision: str | None = None,
        chat: ChatSettings | None = None,
    ) -> None:
        """Put the parts together; `load_model` does it from a folder or the hub.

        Raises:
            ModelError: the model is in training mode, where dropout makes every pass differ.
        """
        if model.training:
            raise ModelError(f"{type(model).__name__} is in training mode; call model.eval() first")
        self.model = model
        self.tokenizer = tokenizer
        self.structure = structure
        self.revision = revision
        self.chat = chat
        self.limits = MemoryLimits()

    def with_chat(self, chat: ChatSettings | None) -> EditableModel:
        """The same model and weights, with facts and questions put to it in another way."""
        other = EditableModel(self.model, self.tokenizer, self.structure, self.revision, chat)
        other.limits = self.limits
        return other

    # --- parts ------------------------------------------------------------------------------------

    def layer_name(self, layer: int) -> str:
        """Name of decoder layer `layer`, counted from 0."""
        count = self.structure.n_layers
        if not 0 <= layer < count:
            raise ModelError(f"expected a layer from 0 to {count - 1}, got {layer}")
        return f"{self.structure.layers}.{layer}"

    def projection_name(self, layer: int) -> str:
        """Name of the MLP's output projection of a layer."""
        return f"{self.layer_name(layer)}.{self.structure.projection}"

    def weight_name(self, layer: int) -> str:
        """Name of the parameter that edits change, as in the model's state dict."""
        return f"{self.projection_name(layer)}.weight"

    def layer(self, layer: int) -> nn.Module:
        """Decoder layer `layer`, counted from 0."""
        return self.model.get_submodule(self.layer_name(layer))

    def projection(self, layer: int) -> nn.Module:
        """The MLP's output projection of a layer: d_in -> d_model."""
        return self.model.get_submodule(self.projection_name(layer))

    def stores_transposed(self, layer: int) -> bool:
        """Whether the module keeps the edited weight as (d_in, d_out), as GPT-2's Conv1D does."""
        return isinstance(self.projection(layer), Conv1D)

    @cached_property
    def behaviour(self) -> LayerBehaviour:
        """How layers behave, found out once by running a few tokens; edits do not change it."""
        return LayerBehaviour.of(self.model, self.structure)

    def takes(self, name: str) -> bool:
        """Whether the model's `forward` has a parameter of this name."""
        return name in inspect.signature(self.model.forward).parameters

    def can_pack(self, longest: int) -> bool:
        """Whether sequences of up to `longest` tokens may share a row under a mask of their own.

        A mask given to the model takes the place of its sliding windows, so these must be longer.
        """
        window = attention_window(self.model)
        return self.behaviour.packs and (window is None or longest <= window)

    # --- weights ----------------------------------------------------------------------------------

    def read_weight(self, layer: int) -> Tensor:
        """A copy of a layer's edited weight, (d_out, d_in), float32 (float64 if stored so).

        It is on the device of the weight, on the CPU where that is offloaded.

        Raises:
            ModelError: the weight is quantised or never loaded.
        """
        seen = self._oriented(layer)
        return seen.detach().to(torch.promote_types(seen.dtype, torch.float32), copy=True)

    def write_weight(self, layer: int, weight: Tensor) -> None:
        """Set a layer's edited weight, rounding once to the stored precision.

        An offloaded weight is written where its module reads it from: in memory. One that was
        read from files is in memory from then on, and the files stay as they are.

        Args:
            layer: which layer, counted from 0.
            weight: (d_out, d_in), in at least the stored precision.

        Raises:
            ModelError: another shape, or the stored weight cannot be written.
            NumericalError: a value is not finite in the stored precision; nothing is written.
        """
        seen = self._oriented(layer)
        if weight.shape != seen.shape:
            raise ModelError(
                f"expected {self.weight_name(layer)} as (d_out, d_in) = {tuple(seen.shape)}, "
                f"got {tuple(weight.shape)}"
            )
        rounded = weight.detach().to(device=seen.device, dtype=seen.dtype)
        if not bool(torch.isfinite(rounded).all()):
            raise NumericalError(
                f"the new values of {self.weight_name(layer)} are not all finite in {seen.dtype}; "
                "nothing was written. Edit fewer facts a batch or load the model in float32"
            )
        offloaded = find_offloaded(self.model, self.weight_name(layer))
        if offloaded is not None:
            transposed = self.stores_transposed(layer)
            offloaded.write(rounded.t().contiguous() if transposed else rounded)
            if self.model.get_parameter(self.weight_name(layer)).is_meta:
                return  # else a pass that was stopped inside of the layer has left it loaded
        with torch.no_grad():
            seen.copy_(rounded)

    def stores(self, layer: int, weight: Tensor) -> bool:
        """Whether a layer's edited weight is what `write_weight` makes of this one (d_out, d_in).

        Raises:
            ModelError: as for `read_weight`.
        """
        seen = self._oriented(layer)
        return torch.equal(seen, weight.detach().to(device=seen.device, dtype=seen.dtype))

    def stored_dtype(self, layer: int) -> torch.dtype:
        """Precision in which a layer's edited weight is stored."""
        return self._oriented(layer).dtype

    def _oriented(self, layer: int) -> Tensor:
        """The stored weight as a (d_out, d_in) view."""
        module = self.projection(layer)
        weight = getattr(module, "weight", None)
        name = self.weight_name(layer)
        expected = (self.structure.d_model, self.structure.d_in)
        if not isinstance(weight, Tensor):
            raise ModelError(f"{name} is no tensor but a {type(weight).__name__}")
        weight = values_of(self.model, name, weight)
        if weight.is_meta:
            raise ModelError(
                f"{name} has no values: it is on the meta device and was never loaded. Load the "
                "model with load_model, or with accelerate's load_checkpoint_and_dispatch"
            )
        seen = weight.t() if self.stores_transposed(layer) else weight
        if weight.dtype not in _STORED or tuple(seen.shape) != expected:
            raise ModelError(
                f"expected {name} as plain floating-point numbers {expected}, found {weight.dtype} "
                f"{tuple(seen.shape)}: a quantised or sharded weight cannot take an edit. "
                "Load the model unquantised and whole"
            )
        return seen

    # --- running ----------------------------------------------------------------------------------

    def inputs(self, batch: PaddedBatch, *, module: nn.Module | None = None) -> dict[str, Any]:
        """Keyword arguments that run a batch, on the model's device, without a key-value cache.

        Position ids are given only where the forward names them: BLOOM, for one, has none and
        works positions out from the mask.

        Args:
            batch: padded on either side.
            module: what will be called; None is the whole model.
        """
        here = batch.to(self.device)
        inputs: dict[str, Any] = {"input_ids": here.ids, "attention_mask": here.mask}
        accepted = inspect.signature((module or self.model).forward).parameters
        if "position_ids" in accepted:
            inputs["position_ids"] = here.position_ids
        return inputs | {"use_cache": False}

    def run(self, batch: PaddedBatch) -> Tensor:
        """Hidden states (n, t, width) before the head: all layers run, no logits are computed.

        Whether a graph is kept for gradients is up to the caller (`torch.no_grad`).
        What a `Recorder` around this call records is what it would record in a full pass.
        """
        backbone = self.model.base_model
        if backbone is self.model:
            raise ModelError(f"{type(self.model).__name__} has no separate head; use logits()")
        output = backbone(**self.inputs(batch, module=backbone), return_dict=True)
        return hidden_of(output.last_hidden_state)

    def logits(self, batch: PaddedBatch, *, columns: Tensor | None = None) -> Tensor:
        """Logits (n, t, vocabulary), or (n, m, vocabulary) at m columns of the batch.

        Args:
            batch: padded on either side.
            columns: (m,) int64, for which columns logits are computed; None for all. Any scaling or
                soft-capping of the logits is the model's own.
        """
        inputs = self.inputs(batch)
        if columns is None:
            return hidden_of(self.model(**inputs, return_dict=True).logits)
        columns = columns.to(self.device)
        if "logits_to_keep" in inspect.signature(self.model.forward).parameters:
            output = self.model(**inputs, logits_to_keep=columns, return_dict=True)
            return hidden_of(output.logits)
        return hidden_of(self.model(**inputs, return_dict=True).logits[:, columns])

    def logits_at(self, batch: PaddedBatch, rows: Tensor, columns: Tensor) -> Tensor:
        """Logits (m, vocabulary) at m places of a batch; the head sees no other hidden state.

        Any scaling or soft-capping of the logits is the model's own.

        Args:
            batch: padded on either side.
            rows: (m,) int64.
            columns: (m,) int64, of the padded batch.
        """

        def gather(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            hidden = args[0]
            taken = hidden[rows.to(hidden.device), columns.to(hidden.device)]
            return (taken.unsqueeze(0), *args[1:])

        head = self.model.get_submodule(self.structure.head)
        handle = head.register_forward_pre_hook(gather)
        try:
            output = self.model(**self.inputs(batch), return_dict=True)
        finally:
            handle.remove()
        return hidden_of(output.logits)[0]

    # --- facts about the model --------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where token ids go: where the input embeddings compute."""
        return input_device(self.model)

    def projection_device(self, layer: int) -> torch.device:
        """Where the output projection of a layer computes: the device of its keys."""
        return compute_device(self.model, self.projection_name(layer))

    @property
    def dtype(self) -> torch.dtype:
        """Stored precision of the edited weights."""
        return self._oriented(0).dtype

    @property
    def context(self) -> int | None:
        """Tokens that the model was built to read at once; `None` where nothing bounds them."""
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return limit if isinstance(limit, int) else None

    @property
    def pad_id(self) -> int:
        """An id to pad with: the tokenizer's pad token, else its end token, else 0."""
        for token_id in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if isinstance(token_id, int):
                return token_id
        return 0

    def identity(self) -> ModelIdentity:
        """Hash of the present weights (read in full at each call), revision and source."""
        return ModelIdentity(
            weights_hash=weights_hash(self.model),
            revision=self.revision,
            source=str(self.model.config.name_or_path) or "in memory",
        )
