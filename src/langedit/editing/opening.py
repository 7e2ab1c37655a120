"""What an editor checks and makes before the first batch."""

from __future__ import annotations

from dataclasses import replace

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from langedit.editing.batch import solve_device
from langedit.editing.config import EditConfig
from langedit.editing.methods import LayerState, Method
from langedit.editing.moments import Moments
from langedit.editing.spectra import with_spectrum
from langedit.errors import ConfigError, MomentsError, NumericalError
from langedit.models import EditableModel, ModelIdentity, find_structure, require_runs
from langedit.parallel import Processes


def wrap_model(
    model: PreTrainedModel | EditableModel,
    tokenizer: PreTrainedTokenizerBase | None,
    config: EditConfig,
) -> EditableModel:
    """The model as the editor sees it, asked in a chat where the settings say so.

    Raises:
        ConfigError: a plain model without a tokenizer.
        StructureError: a part of the model is not found.
        ModelError: it is quantised and cannot be run.
    """
    if isinstance(model, EditableModel):
        return (
            model if model.chat == config.chat_settings else model.with_chat(config.chat_settings)
        )
    if tokenizer is None:
        raise ConfigError("tokenizer: expected the model's fast tokenizer, got none: give it")
    require_runs(model)
    structure = find_structure(model, config.structure or None)
    return EditableModel(model, tokenizer, structure, chat=config.chat_settings)


def known_moments(moments: Moments | None, processes: Processes) -> Moments:
    """The moments given; in a process that has none, of which model and corpus the first one's are.

    Raises:
        MomentsError: the first process has none.
    """

    def named() -> Moments:
        if moments is None:
            raise MomentsError(
                "moments: expected second moments of the edited layers, got none: the first "
                "process must have them"
            )
        return replace(moments, layers={}, folder=None)

    told = processes.first(named)
    return told if moments is None else moments


def require_identity(model: EditableModel, moments: Moments) -> ModelIdentity:
    """The identity of the model; moments of other weights are refused.

    Raises:
        MomentsError: the hash of the weights differs.
    """
    identity = model.identity()
    own = identity.weights_hash
    if moments.identity.weights_hash != own:
        raise MomentsError(
            f"moments: expected those of the model to be edited (weights {own[:12]}), got those "
            f"of {moments.identity.source or 'another'} (weights "
            f"{moments.identity.weights_hash[:12]}): collect them for this model"
        )
    return identity


def first_layer_states(
    model: EditableModel, method: Method, moments: Moments, config: EditConfig
) -> dict[int, LayerState]:
    """The method's states before the first batch, made on the devices of the edited weights.

    One layer's matrices at a time are there; the states stay, or go to main memory, as
    `config.states_on` says.

    Raises:
        MomentsError: there are no moments of a layer, or keys of another width.
    """
    states = {}
    for layer in config.edited_layers:
        if layer not in moments.layers:
            raise MomentsError(
                f"moments: expected layer {layer}, got layers {sorted(moments.layers)}: collect "
                "them for every edited layer"
            )
        corpus = moments.layers[layer].moment
        if corpus.width != model.structure.d_in:
            raise MomentsError(
                f"moments of layer {layer}: expected width {model.structure.d_in}, got "
                f"{corpus.width}: they belong to another model"
            )
        near = corpus.to(solve_device(model.read_weight(layer)))
        if method.needs_null_space and moments.folder is not None:
            near = with_spectrum(near, moments.folder, layer)
        try:
            state = method.start(layer, near)
        except NumericalError as error:
            raise NumericalError(f"layer {layer}: {error}") from error
        states[layer] = state.to(torch.device("cpu")) if config.states_on == "cpu" else state
    return states
