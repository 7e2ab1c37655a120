from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from edits import FACTS, LATER, PREFIXES, random_moments, same_states, settings
from tiny import FAMILIES, tiny_editable, tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM

from langedit.editing import EditConfig, Editor, Moments, Prefixes, compute_keys, prepare_request
from langedit.editing.measure import measure_batch
from langedit.errors import (
    ConfigError,
    FactError,
    LangEditError,
    MomentsError,
    NumericalError,
    OutputError,
)
from langedit.facts import Fact
from langedit.models import EditableModel, weights_hash

EDITED = ["llama", "gpt2", "gptj"]
LAYERS = (0, 1)


def editor(family: str = "llama", dtype: torch.dtype = torch.float32, **changes: object) -> Editor:
    model = tiny_editable(family, dtype=dtype)
    return Editor(model, None, settings(**changes), random_moments(model), PREFIXES)


def stored(edited: Editor) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in edited.model.model.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_edited_and_nothing_but_the_projections(family: str) -> None:
    edited = editor(family)
    before = stored(edited)
    report = edited.apply(FACTS)
    after = stored(edited)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {edited.model.weight_name(layer) for layer in LAYERS}
    for layer in LAYERS:
        name, dense = edited.model.weight_name(layer), report.updates[layer].dense()
        moved = after[name] - before[name]
        moved = moved if moved.shape == dense.shape and family != "gpt2" else moved.T
        assert torch.allclose(moved, dense, atol=1e-5)


@pytest.mark.parametrize("family", EDITED)
def test_the_edited_model_gives_the_targets_a_higher_probability(family: str) -> None:
    edited = editor(family, method="memit", value_lr=0.5, value_steps=20, moment_weight=0.01)
    report = edited.apply(FACTS)
    assert report.targets is not None
    again = Editor(
        edited.model, None, settings(value_steps=1), random_moments(edited.model), PREFIXES
    )
    now = again.apply(FACTS).targets
    assert now is not None
    assert bool((now.first.nll < report.targets.first.nll - 0.05).all())


@pytest.mark.parametrize("method", ["langedit", "alphaedit", "memit", "memit-seq"])
def test_two_runs_give_identical_weights(method: str) -> None:
    hashes = set()
    for _ in range(2):
        edited = editor(method=method)
        edited.apply(FACTS)
        torch.rand(3)  # the global random state plays no part
        edited.apply(LATER)
        hashes.add(weights_hash(edited.model.model))
    assert len(hashes) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", EDITED)
def test_undo_gives_back_every_bit(family: str, dtype: torch.dtype) -> None:
    edited = editor(family, dtype)
    start = stored(edited)
    edited.apply(FACTS)
    first, states, state = stored(edited), edited.layer_states, edited.state_hash
    report = edited.apply(LATER)
    second = stored(edited)
    assert not same(first, second)
    assert edited.undo() is report
    assert same(first, stored(edited))
    assert edited.state_hash == state
    assert same_states(edited.layer_states, states)
    edited.apply(LATER)
    assert same(second, stored(edited))
    edited.undo()
    with pytest.raises(LangEditError, match="only once"):
        edited.undo()
    assert not same(start, first)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", ["rome", "rect", "prune", "ft", "ft-l"])
def test_every_method_is_undone_reported_and_saved(
    method: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    edited = editor("gpt2", dtype, method=method, layers=(1,), moment_weight=0.01, ft_lr=0.01)
    edited.apply(FACTS)
    first, states, state = stored(edited), edited.layer_states, edited.state_hash
    weight = edited.model.read_weight(1).double()
    report = edited.apply(LATER)
    second = stored(edited)
    assert not same(first, second)
    assert edited.undo() is report
    assert same(first, stored(edited))
    assert edited.state_hash == state
    assert same_states(edited.layer_states, states)
    past = states[1].history.double()
    moved = report.updates[1].dense().double()
    ratios = (past @ moved.T).norm(dim=1) / (past @ weight.T).norm(dim=1)
    tolerance = 1e-4 if dtype is torch.float32 else 2e-2  # the report has the unrounded weight
    assert report.independence_max == pytest.approx(float(ratios.max()), rel=tolerance)
    edited.apply(LATER)
    assert same(second, stored(edited))
    edited.save_pretrained(tmp_path / "edited")
    record = json.loads((tmp_path / "edited" / "langedit.json").read_text(encoding="utf-8"))
    assert record["config"]["method"] == method
    assert len(record["batches"]) == 2


def test_undo_of_the_only_batch_gives_the_original_model() -> None:
    edited = editor("gpt2")
    start = stored(edited)
    edited.apply(FACTS)
    edited.undo()
    assert same(start, stored(edited))
    assert edited.reports == ()
    assert edited.layer_states[0].batches == 0


def test_undo_refuses_when_an_update_was_changed_from_outside() -> None:
    edited = editor()
    report = edited.apply(FACTS)
    edited.apply(LATER)
    after = stored(edited)
    report.updates[0].left.mul_(1.01)
    with pytest.raises(NumericalError, match="bit for bit"):
        edited.undo()
    assert same(after, stored(edited))


def test_small_updates_add_up_in_low_precision() -> None:
    edited = editor(dtype=torch.bfloat16, method="memit", value_lr=0.003, moment_weight=5.0)
    start = edited.model.read_weight(0)
    for _ in range(6):
        edited.apply(FACTS)
    exact = sum(report.updates[0].dense() for report in edited.reports) + start
    assert torch.equal(edited.model.read_weight(0), exact.to(torch.bfloat16).float())
    rounded = start
    for report in edited.reports:  # the control: rounding after every batch is another result
        rounded = (rounded + report.updates[0].dense()).to(torch.bfloat16).float()
    assert not torch.equal(edited.model.read_weight(0), rounded)


def assert_nothing_changed(
    edited: Editor, before: dict[str, torch.Tensor], states: object, prefixes: Prefixes
) -> None:
    assert same(before, stored(edited))
    assert edited.layer_states is states
    assert edited.prefixes is prefixes
    assert len(edited.reports) == 1


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_after_the_weights_were_written(
    monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    edited = editor()
    edited.apply(LATER)
    before, states, prefixes = stored(edited), edited.layer_states, edited.prefixes

    def fail(*args: object) -> object:
        assert not same(before, stored(edited))
        measure_batch(*args)  # type: ignore[arg-type]
        raise error("late")

    monkeypatch.setattr("langedit.editing.editor.measure_batch", fail)
    with pytest.raises(error, match="late"):
        edited.apply(FACTS)
    assert_nothing_changed(edited, before, states, prefixes)
    monkeypatch.undo()
    edited.apply(FACTS)
    other = editor()
    other.apply(LATER)
    other.apply(FACTS)
    assert same(stored(edited), stored(other))


def test_a_failure_between_two_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    edited = editor()
    edited.apply(LATER)
    before, states, prefixes = stored(edited), edited.layer_states, edited.prefixes
    write = EditableModel.write_weight

    def fail_at_layer_1(model: EditableModel, layer: int, weight: torch.Tensor) -> None:
        if layer == 1 and not torch.equal(weight, edited._weights[1]):
            raise NumericalError("overflow")
        write(model, layer, weight)

    monkeypatch.setattr(EditableModel, "write_weight", fail_at_layer_1)
    with pytest.raises(NumericalError, match="overflow"):
        edited.apply(FACTS)
    assert_nothing_changed(edited, before, states, prefixes)


def test_bad_batches_change_nothing() -> None:
    edited = editor()
    edited.apply(LATER)
    before, states, prefixes = stored(edited), edited.layer_states, edited.prefixes
    twice = replace(FACTS[0], target="Wien")
    for facts, error, message in (
        ((), FactError, "at least one"),
        ((FACTS[0], FACTS[0]), FactError, "told once"),
        ((FACTS[0], twice), FactError, "clash"),
        ((Fact("fr", "La capitale de {} est", "France", "Rome"),), ConfigError, "'fr'"),
    ):
        with pytest.raises(error, match=message):
            edited.apply(facts)
    for wrong in (torch.zeros(1, 32), torch.full((4, 32), torch.nan)):
        with pytest.raises(NumericalError, match="target_hidden"):
            edited.apply(FACTS, target_hidden=wrong)
    assert_nothing_changed(edited, before, states, prefixes)


@pytest.mark.parametrize("projection", ["orthogonal", "released"])
def test_keys_of_a_batch_are_those_of_the_edited_model(projection: str) -> None:
    edited = editor(projection=projection)
    requests = [
        prepare_request(edited.model, fact, PREFIXES.of(fact.language), edited.config)
        for fact in FACTS
    ]
    contexts = [request.prompts for request in requests]
    original = compute_keys(edited.model, contexts, LAYERS)
    edited.apply(FACTS)
    now = compute_keys(edited.model, contexts, LAYERS)
    for layer in LAYERS:
        assert torch.allclose(edited.layer_states[layer].history, now[layer], atol=1e-6)
    assert not torch.allclose(original[1], now[1], atol=1e-3)  # layer 0 was edited below


def test_given_targets_are_taken_as_they_are() -> None:
    one, other = editor(), editor()
    targets = one.apply(FACTS).targets
    assert targets is not None
    report = other.apply(FACTS, target_hidden=targets.target_hidden)
    assert report.targets is None
    assert same(stored(one), stored(other))


def test_a_batch_of_mixed_languages_is_reported_by_language() -> None:
    edited = editor()
    edited.apply(FACTS)
    report = edited.apply(LATER)
    for layer in LAYERS:
        found = report.independence[layer]
        assert {code: change.keys for code, change in found.items()} == {"en": 3, "zh": 1}


@pytest.mark.parametrize("family", EDITED)
def test_orthogonal_edits_leave_the_past_alone_and_memit_does_not(family: str) -> None:
    found = {}
    for method in ("langedit", "memit"):
        edited = editor(family, method=method)
        assert edited.apply(FACTS).independence_max is None
        weights = {layer: edited.model.read_weight(layer) for layer in LAYERS}
        past = {layer: edited.layer_states[layer].history for layer in LAYERS}
        report = edited.apply(LATER)
        applied = max(
            float(((edited.model.read_weight(n) - weights[n]) @ k).norm() / (weights[n] @ k).norm())
            for n in LAYERS
            for k in past[n]
        )
        assert report.independence_max is not None
        found[method] = report.independence_max, applied
    assert max(found["langedit"]) <= 1e-5
    assert min(found["memit"]) > 1e-3
    assert found["memit"][0] == pytest.approx(found["memit"][1], rel=1e-3)


def test_report_says_what_was_open_and_how_much_was_used() -> None:
    edited = editor()
    first, second = edited.apply(FACTS), edited.apply(LATER)
    for layer in LAYERS:
        one, two, norm = first.ranks[layer], second.ranks[layer], second.norms[layer]
        assert one is not None
        assert two is not None
        assert one.used + one.left == edited.model.structure.d_in
        assert (one.left_after, two.left) == (one.left - 4, one.left - 4)
        assert 0 < one.kept_smallest <= one.kept_median <= 1
        dense = second.updates[layer].dense()
        assert norm.update == pytest.approx(float(dense.norm()), rel=1e-5)
        assert norm.ratio == pytest.approx(norm.update / norm.weight)
    stages = {"hash", "prepare", "targets", "keys", "solve", "advance", "report"}
    assert set(first.seconds) == stages
    figures = json.loads(json.dumps(second.to_dict(), allow_nan=False))
    assert figures["facts"][0]["loss"] <= figures["facts"][0]["first_loss"]
    assert figures["layers"]["1"]["corpus_change"]["keys"] == 20
    assert editor(method="memit").apply(FACTS).ranks == {0: None, 1: None}


def test_prefixes_are_written_when_a_language_comes_first() -> None:
    model = tiny_editable("llama")
    edited = Editor(model, None, settings(prefix_count=2), random_moments(model))
    edited.apply(FACTS[:2])
    english = edited.prefixes["en"]
    edited.apply(LATER)
    assert edited.prefixes["en"] == english
    assert set(edited.prefixes) == {"en", "de", "zh"}
    edited.undo()
    assert set(edited.prefixes) == {"en"}


def test_save_and_load_in_plain_transformers(tmp_path: Path) -> None:
    edited = editor("gpt2")
    edited.apply(FACTS)
    folder = tmp_path / "edited"
    edited.save_pretrained(folder)
    plain = AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.tensor([[5, 9, 30, 7]])
    assert torch.equal(plain(ids).logits, edited.model.model(ids).logits)
    record = json.loads((folder / "langedit.json").read_text(encoding="utf-8"))
    assert EditConfig(**record["config"]) == edited.config
    assert Prefixes(record["prefixes"]) == PREFIXES
    assert [fact["target"] for fact in record["batches"][0]["facts"]] == [f.target for f in FACTS]
    with pytest.raises(OutputError, match="new or empty"):
        edited.save_pretrained(folder)
    with pytest.raises(OutputError, match="got a file"):
        edited.save_pretrained(folder / "config.json")


def test_from_pretrained_edits_the_same(tmp_path: Path) -> None:
    edited = editor("llama")
    edited.model.model.save_pretrained(tmp_path / "model")
    edited.model.tokenizer.save_pretrained(tmp_path / "model")
    random_moments(edited.model).save(tmp_path / "moments")
    edited.apply(FACTS)
    other = Editor.from_pretrained(
        tmp_path / "model", settings(), tmp_path / "moments", prefixes=PREFIXES, dtype="float32"
    )
    other.apply(FACTS)
    assert same(stored(edited), stored(other))


def test_a_plain_model_is_wrapped() -> None:
    tokenizer = tiny_tokenizer()
    model = tiny_model("llama", vocab_size=len(tokenizer))
    wrapped = tiny_editable("llama")
    edited = Editor(model, tokenizer, settings(), random_moments(wrapped), PREFIXES)
    assert edited.apply(FACTS).updates.keys() == {0, 1}
    with pytest.raises(ConfigError, match="tokenizer"):
        Editor(model, None, settings(), random_moments(wrapped))


def test_moments_are_needed() -> None:
    with pytest.raises(MomentsError, match="expected second moments of the edited layers, got no"):
        Editor(tiny_editable("llama"), None, settings(), None)


def test_moments_that_do_not_fit() -> None:
    model = tiny_editable("llama")
    moments = random_moments(model)
    with pytest.raises(MomentsError, match="expected layer 2"):
        Editor(model, None, settings(layers=(1, 2)), moments)
    with pytest.raises(MomentsError, match="collect them for this model"):
        Editor(tiny_editable("llama", seed=1), None, settings(), moments)
    wide = random_moments(tiny_editable("bloom"))
    claimed = Moments(layers=wide.layers, identity=moments.identity, corpus="other")
    with pytest.raises(MomentsError, match="expected width 48, got 128"):
        Editor(model, None, settings(), claimed)


def test_layers_beyond_the_model() -> None:
    model = tiny_editable("llama")
    with pytest.raises(ConfigError, match="from 0 to 2"):
        Editor(model, None, settings(layers=(0, 3)), random_moments(model))
