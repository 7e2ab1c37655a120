"""Straightforward target optimisation: one fact at a time, the whole model at every step.

Written from the method's description (objective, Adam, projection, order of test and step), with
torch's own Adam and none of the editor's code. The model runs each prompt on its own, unpadded.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from langedit.editing import EditConfig, EditRequest
from langedit.models import EditableModel, Recorder, replace_output


@dataclass
class Trajectory:
    target: Tensor
    initial: Tensor
    losses: list[tuple[float, float, float, float]]
    """(total, nll, kl, decay) of every evaluation."""


def naive_target(
    model: EditableModel, request: EditRequest, config: EditConfig, *, site: str = "layer"
) -> Trajectory:
    bare = request.prompts[0]
    name = {"layer": model.layer_name, "projection": model.projection_name}[site](config.layers[-1])
    initial = hidden_at(model, bare.ids, bare.lookup, name).float()
    module = model.model.get_submodule(name)
    original = logits_with(model, request.kl_prompt.ids, request.kl_prompt.lookup, None, module)
    original = original[request.kl_prompt.lookup].log_softmax(dim=0).detach()
    delta = torch.zeros_like(initial, requires_grad=True)
    adam = torch.optim.Adam([delta], lr=config.value_lr)
    losses = []
    for step in range(config.value_steps):
        nll = torch.zeros(())
        for prompt in request.prompts:
            ids = (*prompt.ids, *request.target_ids)
            scores = logits_with(model, ids, prompt.lookup, delta, module).log_softmax(dim=1)
            for place, token in enumerate(request.target_ids):
                before = len(prompt.ids) - 1 + place
                nll = nll - scores[before, token] / len(request.target_ids) / len(request.prompts)
        edited = logits_with(model, request.kl_prompt.ids, request.kl_prompt.lookup, delta, module)
        edited = edited[request.kl_prompt.lookup].log_softmax(dim=0)
        kl = config.kl_weight * (edited.exp() * (edited - original)).sum()
        decay = config.value_weight_decay * delta.norm() / initial.norm() ** 2
        loss = nll + kl + decay
        losses.append((loss.item(), nll.item(), kl.item(), decay.item()))
        if loss.item() < config.stop_loss or step == config.value_steps - 1:
            break
        adam.zero_grad()
        loss.backward()
        adam.step()
        with torch.no_grad():
            limit = config.norm_clamp * initial.norm()
            if delta.norm() > limit:
                delta.mul_(limit / delta.norm())
    return Trajectory(target=(initial + delta).detach(), initial=initial, losses=losses)


def hidden_at(model: EditableModel, ids: tuple[int, ...], at: int, name: str) -> Tensor:
    with torch.no_grad(), Recorder(model.model, outputs=[name]) as recorder:
        model.model(input_ids=torch.tensor([ids]), use_cache=False)
    return recorder.outputs[name].reshape(len(ids), -1)[at]


def logits_with(
    model: EditableModel, ids: tuple[int, ...], at: int, delta: Tensor | None, module: nn.Module
) -> Tensor:
    """Logits (tokens, vocabulary) with `delta` added at one token of what a module gives."""

    def add(hidden: Tensor) -> Tensor:
        place = torch.zeros(hidden.shape[-2], 1)
        place[at] = 1.0
        return hidden if delta is None else hidden + (place * delta).to(hidden.dtype)

    with replace_output(module, add):
        logits: Tensor = model.model(input_ids=torch.tensor([ids]), use_cache=False).logits
    return logits[0].float()
