from __future__ import annotations

import pytest
import torch
from edits import FACTS, LATER, PREFIXES, random_moments, settings
from scarce import ERRORS, failures, scarce
from tiny import tiny_editable

from langedit.editing import Editor, prepare_request
from langedit.editing.methods.fine_tuning import FineTuning
from langedit.editing.training import TrainingRow, train_weights
from langedit.errors import ConfigError, LangEditError, NumericalError
from langedit.linalg import DenseUpdate
from langedit.models import EditableModel

FAMILIES = ["llama", "gpt2", "gptj", "opt"]


def editor(
    method: str, family: str = "llama", dtype: torch.dtype = torch.float32, **changes: object
) -> Editor:
    model = tiny_editable(family, dtype=dtype)
    quick = {"layers": (1,), "ft_lr": 0.01, "ft_steps": 15}
    config = settings(method=method, **{**quick, **changes})
    return Editor(model, None, config, random_moments(model), PREFIXES)


def mean_loss(model: EditableModel, edited: Editor) -> float:
    """Mean over facts of the mean negative log-likelihood, one token and one pass at a time."""
    losses = []
    for fact in FACTS:
        request = prepare_request(model, fact, (), edited.config)
        ids, terms = list(request.prompts[0].ids), []
        for token in request.target_ids:
            logits = model.model(torch.tensor([ids]), use_cache=False).logits[0, -1]
            terms.append(-float(logits.double().log_softmax(dim=0)[token]))
            ids.append(token)
        losses.append(sum(terms) / len(terms))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["ft", "ft-l"])
def test_the_loss_falls_and_is_that_of_every_token_at_its_own_position(
    method: str, family: str
) -> None:
    edited = editor(method, family, ft_change_limit=0.02)
    before = mean_loss(edited.model, edited)
    report = edited.apply(FACTS)
    assert report.losses[0] == pytest.approx(before, rel=1e-4)
    after = mean_loss(edited.model, edited)
    assert after < before - 0.1
    assert after <= min(report.losses) + 0.05
    assert len(report.losses) <= 15
    assert isinstance(report.updates[1], DenseUpdate)
    assert report.targets is None
    assert report.ranks == {1: None}
    assert report.to_dict()["losses"] == list(report.losses)


def test_no_entry_moves_by_more_than_the_limit() -> None:
    free, bound = editor("ft"), editor("ft-l", ft_change_limit=0.004)
    before = bound.model.read_weight(1)
    for facts in (FACTS, LATER):
        free.apply(facts)
        start = bound.model.read_weight(1)
        update = bound.apply(facts).updates[1].dense()
        assert float(update.abs().max()) <= 0.004 * (1 + 1e-4)
        assert float((bound.model.read_weight(1) - start).abs().max()) <= 0.004 * (1 + 1e-4)
    total = float((bound.model.read_weight(1) - before).abs().max())
    assert 0.004 < total <= 0.008 * (1 + 1e-4)  # the bound is of each batch
    assert float(free.reports[0].updates[1].dense().abs().max()) > 0.02  # control


def test_one_step_is_that_of_adam_on_the_gradient() -> None:
    edited = editor("ft", ft_steps=1, ft_lr=0.003)
    model = tiny_editable("llama")
    weight = model.projection(1).weight.requires_grad_()
    losses = []
    for fact in FACTS:
        request = prepare_request(model, fact, (), edited.config)
        prompt = list(request.prompts[0].ids)
        logits = model.model(torch.tensor([[*prompt, *request.target_ids]])).logits[0]
        rows = logits[len(prompt) - 1 : -1]
        losses.append(torch.nn.functional.cross_entropy(rows, torch.tensor(request.target_ids)))
    torch.autograd.backward(torch.stack(losses).mean())
    assert weight.grad is not None
    update = edited.apply(FACTS).updates[1].dense()
    expected = -0.003 * weight.grad / (weight.grad.abs() + 1e-8)
    clear = weight.grad.abs() > 1e-5
    assert torch.allclose(update[clear], expected[clear], rtol=1e-2, atol=1e-6)


def test_training_ends_when_the_loss_is_low() -> None:
    report = editor("ft", ft_stop_loss=1000.0).apply(FACTS)
    assert len(report.losses) == 1
    assert float(report.updates[1].dense().abs().max()) == 0


def test_micro_batches_change_nothing_but_rounding() -> None:
    whole, parts = editor("ft", ft_steps=2), editor("ft", ft_steps=2, micro_batch_tokens=1)
    one, other = whole.apply(FACTS), parts.apply(FACTS)
    assert one.losses == pytest.approx(other.losses, rel=1e-5)


def test_several_layers_are_trained_together() -> None:
    edited = editor("ft", layers=(0, 1))
    report = edited.apply(FACTS)
    assert all(float(report.updates[layer].norm()) > 0 for layer in (0, 1))


def test_low_precision_is_trained_in_float32() -> None:
    edited = editor("ft", dtype=torch.bfloat16, ft_lr=1e-5)
    update = edited.apply(FACTS).updates[1]
    assert update.dense().dtype == torch.float32
    assert update.norm() > 0  # far below what a bfloat16 weight could take in one step


def test_the_model_keeps_its_gradients_and_has_no_hooks_left() -> None:
    edited = editor("ft")
    edited.model.model.requires_grad_(True)
    edited.apply(FACTS)
    assert all(parameter.requires_grad for parameter in edited.model.model.parameters())
    assert all(parameter.grad is None for parameter in edited.model.model.parameters())
    for module in edited.model.model.modules():
        assert not module._forward_pre_hooks


def test_targets_cannot_be_given() -> None:
    with pytest.raises(ConfigError, match="ft trains weights"):
        editor("ft").apply(FACTS, target_hidden=torch.zeros(4, 32))


def test_a_loss_that_is_not_finite_is_told() -> None:
    model = tiny_editable("llama")
    with torch.no_grad():
        model.model.lm_head.weight[7] = torch.nan
    row = TrainingRow(name="capital", ids=(3, 4), wanted=(1,), tokens=(7,))
    with pytest.raises(NumericalError, match="step 1 of capital"):
        train_weights(
            model,
            {model.weight_name(1): model.read_weight(1)},
            [row],
            steps=2,
            lr=0.1,
            stop_loss=0.0,
            change_limit=None,
            max_tokens=100,
        )


def test_merged_facts_are_all_trained_on() -> None:
    edited = editor("ft")
    requests = [prepare_request(edited.model, fact, (), edited.config) for fact in FACTS]
    chosen = FineTuning.from_config(edited.config)
    assert len(chosen.rows(requests)) == 4


@pytest.mark.parametrize("error", ERRORS)
def test_where_memory_runs_out_a_step_is_made_again_in_smaller_groups(error) -> None:
    found = {}
    for room in (10**6, 40):
        edited = editor("ft", ft_stop_loss=0.0, ft_lr=0.001)
        with scarce(edited.model.model.model.layers[2].mlp, room, error) as seen:
            report = edited.apply(FACTS)
        assert failures(seen, room) in ((0,) if room > 40 else (1, 2))  # at the first step only
        found[room] = report
    wide, narrow = found.values()
    assert narrow.losses == pytest.approx(wide.losses, rel=1e-4)
    for layer, update in wide.updates.items():
        change = update.dense() - narrow.updates[layer].dense()
        assert change.norm() <= 0.01 * update.dense().norm()


def test_what_an_attempt_that_failed_had_added_is_forgotten() -> None:
    found = []
    for failing in (None, 3, 8):  # calls of the third and the second group of a step
        edited = editor("ft", ft_stop_loss=0.0, ft_lr=0.001, micro_batch_tokens=20)
        calls: list[int] = []

        def fail(*_: object, calls: list[int] = calls, failing: int | None = failing) -> None:
            calls.append(1)
            if len(calls) == failing:
                raise torch.OutOfMemoryError("out of memory")

        edited.model.model.lm_head.register_forward_pre_hook(fail)
        found.append(edited.apply(FACTS).losses)
        assert len(calls) >= 3 * len(found[0])  # several groups in each step
    for losses in found[1:]:
        assert losses == pytest.approx(found[0], rel=1e-4)


def test_memory_that_does_not_hold_one_row_is_an_error() -> None:
    edited = editor("ft")
    weights = edited.weights_hash
    with (
        scarce(edited.model.model.model.layers[2].mlp, 3),
        pytest.raises(LangEditError, match="the longest prompt with its target"),
    ):
        edited.apply(FACTS)
    assert edited.weights_hash == weights
