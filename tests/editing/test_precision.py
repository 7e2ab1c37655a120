"""Half precision and quantised models; values that are not finite stop a batch by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from edits import FACTS, LATER, PREFIXES, random_moments, settings
from quantised import QUANTISERS, quantise
from tiny import tiny_editable

from langedit.editing import Editor, Targets, lookup_hidden, optimise_targets, prepare_request
from langedit.editing import batch as batch_module
from langedit.editing.keys import LayerWalk
from langedit.editing.methods import rome as rome_module
from langedit.editing.methods.closed_form import ClosedForm
from langedit.editing.methods.registry import find_method, method_names
from langedit.errors import NumericalError
from langedit.facts import Fact
from langedit.linalg import LowRankUpdate

HALF = (torch.bfloat16, torch.float16)

METHODS = {
    name: {"method": name, **({"layers": (1,)} if name == "rome" else {})}
    for name in method_names()
}
SPREADING = tuple(name for name in METHODS if issubclass(find_method(name), ClosedForm))


def editor_of(model, **changes) -> Editor:
    return Editor(model, None, settings(**changes), random_moments(model), PREFIXES)


def values(model) -> dict[int, torch.Tensor]:
    return {layer: model.read_weight(layer) for layer in (0, 1)}


# --- half precision -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", HALF)
def test_solves_and_sums_are_in_float32_and_rounded_once(dtype):
    model = tiny_editable(dtype=dtype)
    base = values(model)
    editor = editor_of(model)
    reports = [editor.apply(FACTS[:2]), editor.apply(LATER[:1]), editor.apply(LATER[1:])]
    for layer in (0, 1):
        total = base[layer]
        for report in reports:
            update = report.updates[layer]
            assert update.left.dtype == update.right.dtype == torch.float32
            total = total + update.dense()
        assert model.stored_dtype(layer) == dtype
        assert torch.equal(model.read_weight(layer), total.to(dtype).float())
    assert all(report.independence_max < 1e-5 for report in reports[1:])


def test_many_small_updates_are_not_lost_in_bfloat16():
    """Each is below half a unit of the stored weight; their float32 sum is not."""
    model = tiny_editable(dtype=torch.bfloat16)
    base = model.read_weight(1)
    step = LowRankUpdate(left=base[:, :1] * 2e-3, right=torch.ones(1, base.shape[1]))
    summed, naive = base, base.to(torch.bfloat16)
    for _ in range(20):
        summed = batch_module.sum_updates(summed, [step])
        naive = naive + step.dense().bfloat16()
    wanted = 20 * step.dense()
    model.write_weight(1, summed)
    kept = model.read_weight(1) - base
    error = (kept - wanted).norm() / wanted.norm()
    assert error < 0.5 * (naive.float() - base - wanted).norm() / wanted.norm()


@pytest.mark.parametrize("dtype", HALF)
def test_targets_are_near_those_of_float32(dtype):
    config = settings(value_steps=8)
    found = []
    for precision in (torch.float32, dtype):
        model = tiny_editable(dtype=dtype)
        model.model.to(precision)
        requests = [
            prepare_request(model, fact, PREFIXES.of(fact.language), config) for fact in FACTS
        ]
        found.append(optimise_targets(model, requests, config))
    full, half = found
    assert half.target_hidden.dtype == torch.float32
    step = (full.target_hidden - full.initial_hidden).norm(dim=1)
    apart = (half.target_hidden - full.target_hidden).norm(dim=1)
    assert bool((apart < 0.5 * step).all())
    assert bool((half.last.total < half.first.total).all())


# --- values that are not finite -------------------------------------------------------------------


def refused(editor, model, match, facts=FACTS):
    """The batch ends with this message; weights, state and reports are as before."""
    before, states = values(model), dict(editor.layer_states)
    with pytest.raises(NumericalError, match=match):
        editor.apply(facts)
    assert all(torch.equal(model.read_weight(layer), before[layer]) for layer in before)
    assert dict(editor.layer_states) == states
    assert not editor.reports


@pytest.fixture
def in_order(monkeypatch):
    """Facts are optimised in the order of the batch, so that a row tells whose it is."""
    monkeypatch.setattr(
        "langedit.editing.targets.micro_batches", lambda lengths, *_, **__: [[*range(len(lengths))]]
    )


@pytest.mark.usefixtures("in_order")
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_target_that_is_not_finite_names_its_fact(value, monkeypatch):
    model = tiny_editable()
    editor = editor_of(model)
    clamp = "langedit.editing.targets._clamp"

    def spoil(delta, radius):
        delta = delta.clone()
        delta[3:4, 5] = value  # a fact that is looked at alone is well
        return delta

    monkeypatch.setattr(clamp, spoil)
    refused(editor, model, "mother")
    with pytest.raises(NumericalError) as error:
        editor.apply(FACTS)
    assert "Peru" not in str(error.value)


@pytest.mark.usefixtures("in_order")
def test_a_finite_change_that_makes_no_finite_loss_names_its_fact(monkeypatch):
    model = tiny_editable()
    editor = editor_of(model, value_steps=2)

    def overflow(delta, radius):
        return torch.where(torch.arange(len(delta))[:, None] == 1, 3e38, delta)

    monkeypatch.setattr("langedit.editing.targets._clamp", overflow)
    refused(editor, model, "Peru")


MANY = (*FACTS, *LATER, Fact("en", "The {} is", "X東Z", "Rome", id="spoilt"))


@contextmanager
def without_numbers(model, fact) -> Iterator[None]:
    """The model has no numbers for a token that the prompt of this one of `MANY` alone has."""
    prompts = {own: prepare_request(model, own, (), settings()).prompts[0] for own in MANY}
    others = {i for own, prompt in prompts.items() if own != fact for i in prompt.ids}
    (token, *_) = [i for i in prompts[fact].ids[: prompts[fact].lookup + 1] if i not in others]

    def spoil(_module, args, output):
        return output.masked_fill((args[0] == token).unsqueeze(-1), torch.nan)

    handle = model.model.get_input_embeddings().register_forward_hook(spoil)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("family", ["llama", "bloom"])  # facts in one row, and padded
@pytest.mark.parametrize("method", METHODS)
def test_of_facts_that_run_together_the_one_without_numbers_is_named_and_no_other(method, family):
    model = tiny_editable(family)
    editor = editor_of(model, **METHODS[method])
    with without_numbers(model, MANY[-1]):
        refused(editor, model, r"(?s)^(?!.*France)(?!.*more).*(of|for) spoilt: load", MANY)


@pytest.mark.parametrize("method", [*SPREADING, "rome"])
def test_so_it_is_where_targets_are_given(method):
    model = tiny_editable()
    editor = editor_of(model, **METHODS[method])
    targets = torch.randn(len(MANY), 32, generator=torch.Generator().manual_seed(0))
    with without_numbers(model, MANY[-1]):
        before = values(model)
        with pytest.raises(NumericalError, match=r"expected a finite key.* for spoilt: load"):
            editor.apply(MANY, target_hidden=targets)
    assert all(torch.equal(model.read_weight(layer), before[layer]) for layer in before)
    assert editor.apply(MANY, target_hidden=targets).facts == MANY


def test_of_many_facts_without_numbers_three_are_named_and_the_others_counted():
    model = tiny_editable()
    editor = editor_of(model)
    model.model.lm_head.weight.data[5] = torch.nan
    refused(editor, model, r"of en: .*France.*load .*\. So do 6 more: .*Peru.* and 3 more$", MANY)


def spoil_reading(monkeypatch, *, key=None, hidden=None):
    """Keys, or hidden states, of one fact of a batch are spoiled wherever they are read."""
    read, compute, put_together = (
        LayerWalk.read,
        batch_module.compute_keys,
        rome_module.keys_of_edits,
    )

    def spoilt_read(self, layer):
        keys, reached = read(self, layer)
        if key is not None:
            keys[key, 7] = float("nan")
        if hidden is not None:
            reached[hidden] = float("inf")
        return keys, reached

    def spoilt_compute(model, contexts, layers, **options):
        keys = compute(model, contexts, layers, **options)
        for own in keys.values():
            own[key, 7] = float("nan")
        return keys

    def spoilt_together(sizes, rows):
        keys = put_together(sizes, rows)
        keys[key, 7] = float("nan")
        return keys

    monkeypatch.setattr(LayerWalk, "read", spoilt_read)
    if key is not None:
        monkeypatch.setattr(batch_module, "compute_keys", spoilt_compute)
        monkeypatch.setattr(rome_module, "keys_of_edits", spoilt_together)


@pytest.mark.parametrize("method", METHODS)
def test_a_key_that_is_not_finite_names_its_fact(method, monkeypatch):
    model = tiny_editable()
    editor = editor_of(model, **METHODS[method])
    spoil_reading(monkeypatch, key=2)
    refused(editor, model, r"layer [01]: expected a finite key.* 1 of 48 .*法国.*北京")


@pytest.mark.parametrize("method", SPREADING)
def test_a_residual_that_is_not_finite_names_its_fact(method, monkeypatch):
    model = tiny_editable()
    editor = editor_of(model, **METHODS[method])
    spoil_reading(monkeypatch, hidden=1)
    refused(editor, model, "layer 0: expected a finite residual.*Peru")


def test_facts_of_one_row_are_all_named(monkeypatch):
    model = tiny_editable()
    editor = editor_of(model, merge_shared=True)
    spoil_reading(monkeypatch, key=0)
    twin = replace(FACTS[0], prompt="The capital of {} was", target="Rom", id="twin")
    refused(editor, model, "expected a finite key.*France.*; twin", (FACTS[0], twin))


def test_rome_names_the_fact_whose_solve_is_not_finite(monkeypatch):
    model = tiny_editable()
    editor = editor_of(model, **METHODS["rome"])
    projected = rome_module.lookup_projected
    calls = []

    def spoil(model, prompts, layer, **options):
        calls.append(prompts)
        output = projected(model, prompts, layer, **options)
        return output * float("inf") if len(calls) == 4 else output

    monkeypatch.setattr(rome_module, "lookup_projected", spoil)
    refused(editor, model, "layer 1: expected a finite residual.*mother")


def test_rome_names_the_fact_whose_update_overflows_the_stored_weight(monkeypatch):
    model = tiny_editable(dtype=torch.float16)
    editor = editor_of(model, **METHODS["rome"])
    solve, calls = rome_module.rome_update, []

    def spoil(*parts):
        calls.append(parts)
        update = solve(*parts)
        large = 1e9 if len(calls) == 2 else 1.0
        return LowRankUpdate(left=update.left * large, right=update.right)

    monkeypatch.setattr(rome_module, "rome_update", spoil)
    refused(editor, model, "layer 1, most by .*Peru.*: .*not all finite in torch.float16")


@pytest.mark.parametrize("method", ["ft", "ft-l"])
def test_a_training_loss_that_is_not_finite_names_its_fact(method):
    model = tiny_editable()
    editor = editor_of(model, **METHODS[method])
    own = prepare_request(model, FACTS[2], (), editor.config).target_ids[0]
    others = [prepare_request(model, FACTS[i], (), editor.config).target_ids for i in (0, 1, 3)]
    assert all(own not in ids for ids in others)
    ids = prepare_request(model, FACTS[2], (), editor.config).prompts[0].ids
    first = [i for i in ids if i not in {k for fact in (0, 1, 3) for k in rows_of(model, fact)}]
    model.model.get_input_embeddings().weight.data[first[0]] = float("nan")
    refused(editor, model, "finite training loss.*at step 1 of zh: .*法国.*北京")


def rows_of(model, fact):
    request = prepare_request(model, FACTS[fact], (), settings())
    return (*request.prompts[0].ids, *request.target_ids)


@pytest.mark.parametrize("method", SPREADING)
@pytest.mark.parametrize("side", ["left", "right"])
def test_an_update_that_overflows_float32_names_its_fact(side, method, monkeypatch):
    model = tiny_editable()
    editor = editor_of(model, **METHODS[method])
    solve = type(editor._method).solve

    def spoil(self, state, keys, residuals):
        update = solve(self, state, keys, residuals)
        left, right = update.left.double(), update.right.double()
        if side == "left":
            left[:, 1] = 1e300
        else:
            right[1] = 1e300
        return LowRankUpdate(left=left, right=right)

    monkeypatch.setattr(type(editor._method), "solve", spoil)
    refused(editor, model, "layer 0: expected a finite update.*Peru")


STEPS = [
    (method, step)
    for method in SPREADING
    for step in ("solve", "advance")
    if (method, step) != ("prune", "advance")  # remembers keys, which takes no such step
]


@pytest.mark.parametrize(("method", "step"), STEPS)
def test_a_solve_that_fails_names_layer_and_facts(method, step, monkeypatch):
    model = tiny_editable()
    editor = editor_of(model, **METHODS[method])

    def fail(*_):
        raise NumericalError("the matrix is singular")

    monkeypatch.setattr(type(editor._method), step, fail)
    refused(editor, model, "layer 0, .*France.*and 1 more: the matrix is singular")


@pytest.mark.parametrize("method", SPREADING)
def test_a_weight_that_float16_cannot_hold_names_the_fact_that_moves_it_most(method, monkeypatch):
    model = tiny_editable(dtype=torch.float16)
    editor = editor_of(model, **METHODS[method])
    solve = type(editor._method).solve

    def spoil(self, state, keys, residuals):
        update = solve(self, state, keys, residuals)
        left = update.left.clone()
        left[:, 3] *= 1e9  # still a float32
        return LowRankUpdate(left=left, right=update.right)

    monkeypatch.setattr(type(editor._method), "solve", spoil)
    refused(editor, model, "layer 0, most by mother: .*not all finite in torch.float16")


def test_activations_that_overflow_float16_stop_the_batch():
    model = tiny_editable(dtype=torch.float16)
    moments = random_moments(model)
    editor = Editor(model, None, settings(), moments, PREFIXES)
    model.projection(0).weight.data.mul_(5e4)
    with pytest.raises(NumericalError, match="France"):
        editor.apply(FACTS)


# --- quantised models -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", tuple(QUANTISERS))
def test_a_quantised_model_is_edited_as_the_plain_model_of_the_same_values(kind):
    quantised, plain = quantise(tiny_editable(), kind), quantise(tiny_editable(), kind)
    for layer in range(3):
        block = plain.layer(layer)
        for name, module in list(block.named_modules()):
            if hasattr(module, "true_weight"):
                linear = torch.nn.Linear(module.in_features, module.out_features, bias=False)
                linear.weight.data.copy_(module.true_weight())
                block.set_submodule(name, linear.requires_grad_(False))
    editors = [editor_of(model) for model in (quantised, plain)]
    assert list(editors[0].dequantised) == [0, 1]
    assert editors[1].dequantised == {}
    for editor in editors:
        editor.apply(FACTS)
        editor.apply(LATER)
    for layer in (0, 1):
        torch.testing.assert_close(quantised.read_weight(layer), plain.read_weight(layer))
    request = prepare_request(plain, FACTS[0], (), settings())
    torch.testing.assert_close(
        lookup_hidden(quantised, request.prompts, 2), lookup_hidden(plain, request.prompts, 2)
    )
    assert isinstance(editors[0].reports[0].targets, Targets)
    assert editors[0].reports[1].independence_max < 1e-5
