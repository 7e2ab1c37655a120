"""Target hidden states, one fact at a time: the whole model with full logits at every step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from langedit.editing import EditConfig, EditRequest
from langedit.models import EditableModel, Recorder, pad_batch, replace_output


@dataclass(frozen=True, kw_only=True, eq=False)
class BaselineTarget:
    """Target of one fact: `hidden` (d_model,), and the number of evaluations it took."""

    hidden: Tensor
    steps: int


def baseline_target(
    model: EditableModel, request: EditRequest, config: EditConfig
) -> BaselineTarget:
    """Minimise the loss of one fact with Adam; all contexts and the KL prompt in one batch.

    Every step runs all layers over all tokens of all rows and computes all logits: once for the
    divergence, as the model gives them, and once more for the target, from the last layer's output.
    Only parameters are kept out of the gradient. All of this is as in the published code.
    """
    target = request.target_ids
    rows = [(*prompt.ids, *target) for prompt in request.prompts]
    batch = pad_batch([*rows, request.kl_prompt.ids], model.pad_id)
    lookups = torch.tensor([*(p.lookup for p in request.prompts), request.kl_prompt.lookup])
    everywhere = torch.arange(len(lookups))
    expected = torch.full((len(rows), batch.ids.shape[1]), -100)
    for row, prompt in enumerate(request.prompts):
        start = len(prompt.ids) - 1
        expected[row, start : start + len(target)] = torch.tensor(target)

    initial: Tensor | None = None
    original: Tensor | None = None
    delta = torch.zeros(model.structure.d_model, requires_grad=True)
    adam = torch.optim.Adam([delta], lr=config.value_lr)

    def add(hidden: Tensor) -> Tensor:
        nonlocal initial
        if initial is None:
            initial = hidden[0, lookups[0]].detach().clone()
        return hidden.index_put((everywhere, lookups), hidden[everywhere, lookups] + delta)

    last = model.layer_name(model.structure.n_layers - 1)
    head = model.model.get_submodule(model.structure.head)
    assert model.structure.final_norm is not None
    norm = model.model.get_submodule(model.structure.final_norm)
    for step in range(1, config.value_steps + 1):
        adam.zero_grad()
        recorder = Recorder(model.model, outputs=[last], gradients=True)
        with recorder, replace_output(model.layer(config.layers[-1]), add):
            logits = model.model(**model.inputs(batch)).logits
        at_kl = logits[-1, lookups[-1]].log_softmax(dim=0)
        log_probs = head(norm(recorder.outputs[last][:-1])).log_softmax(dim=2)
        if original is None:
            original = at_kl.detach().clone()
        assert initial is not None
        wanted = expected != -100
        picked = log_probs.gather(2, expected.where(wanted, 0).unsqueeze(2)).squeeze(2)
        nll = -(picked * wanted).sum(dim=1).mean() / len(target)
        kl = config.kl_weight * (at_kl.exp() * (at_kl - original)).sum()
        decay = config.value_weight_decay * delta.norm() / initial.norm() ** 2
        loss = nll + kl + decay
        if loss.item() < config.stop_loss or step == config.value_steps:
            break
        loss.backward()
        adam.step()
        limit = config.norm_clamp * initial.norm()
        if delta.norm() > limit:
            with torch.no_grad():
                delta.mul_(limit / delta.norm())
    assert initial is not None
    return BaselineTarget(hidden=(initial + delta).detach(), steps=step)
