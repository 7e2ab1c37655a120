"""The rows of a fact, run in parts: the same loss, gradient and targets as run together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from dispatched import WAYS
from edits import FACTS, PREFIXES, random_moments, settings
from hypothesis import given
from hypothesis import strategies as st
from pretend import SPREAD_LLAMA, pretend_devices
from processes import JOBS, side_by_side
from scarce import ERRORS, failures, scarce
from tiny import tiny_editable, tiny_model
from torch import Tensor
from transformers.models.gptj import modeling_gptj

from langedit.editing import EditConfig, Editor, EditRequest, optimise_targets, prepare_request
from langedit.editing.planning import Workload, pass_costs, shaped_model
from langedit.editing.planning.tracker import MetaTracker
from langedit.editing.planning.workload import facts_of_mean_size
from langedit.editing.requests import merge_shared
from langedit.editing.suffix import RemadeSuffixes
from langedit.editing.suffix_batch import KEPT_TOKENS, SuffixRow
from langedit.editing.target_loss import TargetLoss
from langedit.editing.target_rows import Division, loss_rows
from langedit.editing.targets import Targets
from langedit.errors import LangEditError
from langedit.facts import Fact
from langedit.models import EditableModel

FAMILIES = ["llama", "qwen2", "gptj"]  # two whose suffixes stand in one row, one that pads them
LONG = Fact("en", "It is known that in the year after it the capital of {} was", "Peru", "Wien")
JOINT = (FACTS[1], replace(FACTS[1], prompt="{} is in", target="Berlin and Wien"))


def requests_of(model: EditableModel, config: EditConfig, *facts: Fact) -> list[EditRequest]:
    return [prepare_request(model, fact, PREFIXES.of(fact.language), config) for fact in facts]


def loss_of(
    model: EditableModel, requests: list[EditRequest], config: EditConfig, tokens: int, **how: Any
) -> TargetLoss:
    chosen = {"site": "layer", "use_cache": True} | how
    return TargetLoss.build(requests, model, config, tokens=tokens, **chosen)


def around(loss: TargetLoss, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    drawn = torch.randn(loss.initial_hidden.shape, generator=torch.Generator().manual_seed(seed))
    return (0.3 * drawn).to(dtype)


def values(loss: TargetLoss, delta: Tensor) -> dict[str, Tensor]:
    """Terms and gradient at a delta, with the divergence from what is predicted at 0."""
    start = loss.evaluate(torch.zeros_like(delta), gradient=True)
    start.gradient()
    found = loss.after(start).evaluate(delta, gradient=True)
    return vars(found.terms) | {"gradient": found.gradient(), "hidden": loss.initial_hidden}


class _Doubled:
    """torch, where float32 means float64."""

    def __getattr__(self, name: str) -> Any:
        return torch.float64 if name == "float32" else getattr(torch, name)


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is done in float32, whatever the model's precision, is done in float64."""
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    monkeypatch.setattr(modeling_gptj, "torch", _Doubled())
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.parametrize("how", [{}, {"use_cache": False}, {"site": "projection"}])
@pytest.mark.parametrize("family", FAMILIES)
def test_parts_give_loss_and_gradient_of_the_whole_in_float64(
    family: str, how: dict[str, Any], double: None
) -> None:
    model = tiny_editable(family, dtype=torch.float64)
    model.model.requires_grad_(False)
    config = settings(stop_margin=0.1, layers=(1,))
    merged, _ = merge_shared(requests_of(model, config, *JOINT))
    requests = [*requests_of(model, config, LONG, FACTS[0], FACTS[2]), *merged]
    whole = loss_of(model, requests, config, 10**6, **how)
    delta = around(whole, dtype=torch.float64)
    expected = values(whole, delta)
    assert len(whole.parts) == 1
    assert expected["margin"].isfinite().all()
    for tokens in (60, 20, 1):
        divided = loss_of(model, requests, config, tokens, **how)
        assert len(divided.parts) > 1
        for name, value in values(divided, delta).items():
            assert value.dtype == torch.float64
            assert torch.allclose(value, expected[name], rtol=1e-10, atol=1e-12), name
    without = replace(divided, parts=divided.parts[1:])  # control: every part counts
    assert not torch.allclose(values(without, delta)["total"], expected["total"], rtol=1e-4)


@pytest.mark.parametrize("tokens", [60, 1])
@pytest.mark.parametrize("family", FAMILIES)
def test_facts_leave_the_parts_they_have_rows_in(family: str, tokens: int, double: None) -> None:
    model = tiny_editable(family, dtype=torch.float64)
    model.model.requires_grad_(False)
    config = settings(layers=(1,), stop_margin=0.1)
    requests = requests_of(model, config, *FACTS[:3])
    stay = torch.tensor([False, True, False])
    whole, divided = (loss_of(model, requests, config, own) for own in (10**6, tokens))
    delta = around(whole, dtype=torch.float64)
    found = []
    for loss in (whole, divided):
        start = loss.evaluate(torch.zeros_like(delta), gradient=False)
        left = loss.after(start).select(stay)
        assert len(left.parts) <= len(loss.parts)
        assert (len(left.parts) < len(loss.parts)) == (loss is divided and tokens == 1)
        assert {int(fact) for part in left.parts for fact in part.row_fact} == {1}
        again = left.evaluate(delta, gradient=True)
        found.append(vars(again.terms) | {"gradient": again.gradient()})
    for name, value in found[0].items():
        assert torch.allclose(value[1], found[1][name][1], rtol=1e-10, atol=1e-12), name


def rows_of(request: EditRequest) -> list[SuffixRow]:
    return [own.row for own in loss_rows(request)]


def suffix(row: SuffixRow) -> int:
    return len(row.ids) - row.lookup


def same_targets(found: Targets, expected: Targets, tolerance: float = 1e-4) -> bool:
    close = torch.allclose(found.target_hidden, expected.target_hidden, atol=tolerance, rtol=0)
    return close and torch.equal(found.steps, expected.steps)


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("how", [{}, {"use_cache": False}, {"site": "projection"}])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_fact_that_does_not_fit_is_optimised_in_parts(
    family: str, how: dict[str, Any], error: Any
) -> None:
    model, config = tiny_editable(family), settings(stop_margin=3.0)
    requests = requests_of(model, config, *FACTS)
    expected = optimise_targets(model, requests, config, **how)
    size = (lambda row: len(row.ids)) if how == {"use_cache": False} else suffix
    widest = max(size(row) for request in requests for row in rows_of(request))
    with scarce(model.model.get_submodule(model.structure.head), widest, error) as seen:
        found = optimise_targets(model, requests, config, **how)
        assert failures(seen, widest) > 2  # the facts together, halves, and one fact
        assert same_targets(found, expected)
        for name in ("total", "nll", "kl", "decay", "margin"):
            mine, other = getattr(found.last, name), getattr(expected.last, name)
            assert torch.allclose(mine, other, rtol=1e-4, atol=1e-5)
        seen.clear()
        again = optimise_targets(model, requests, config, **how)
        assert failures(seen, widest) == 0  # what did not fit is not tried again
        assert same_targets(again, expected)


def test_in_float64_the_divided_fact_ends_where_the_undivided_does(double: None) -> None:
    for family in FAMILIES:
        model, config = tiny_editable(family, dtype=torch.float64), settings()
        requests = requests_of(model, config, FACTS[0])
        expected = optimise_targets(model, requests, config)
        with scarce(model.model.lm_head, max(map(suffix, rows_of(requests[0])))) as seen:
            found = optimise_targets(model, requests, config)
        assert len(seen) > config.value_steps
        assert found.target_hidden.dtype == torch.float64
        assert same_targets(found, expected, 1e-10)


def test_the_error_is_left_for_one_row_and_nothing_is_learnt_from_it() -> None:
    model, config = tiny_editable("llama"), settings()
    requests = requests_of(model, config, *FACTS)
    least = max(map(suffix, rows_of(requests[0])))
    with (
        scarce(model.model.lm_head, least - 1) as seen,
        pytest.raises(LangEditError, match=r"one row of the fact .*France.*micro_batch_tokens"),
    ):
        optimise_targets(model, requests[:1], config)
    assert least in seen
    with scarce(model.model.lm_head, 10**6) as seen:
        optimise_targets(model, requests, config)
    assert seen[0] == sum(suffix(row) for request in requests for row in rows_of(request))


def test_memory_for_one_fact_after_the_other_is_not_cut_by_a_batch_that_failed() -> None:
    """The limit that is kept is one that was reached, not one below."""
    model, config = tiny_editable("llama"), settings()
    requests = requests_of(model, config, *FACTS)
    alone = [sum(map(suffix, rows_of(request))) for request in requests]
    with scarce(model.model.lm_head, max(alone)) as seen:
        optimise_targets(model, requests, config)
        for request in requests:
            seen.clear()
            optimise_targets(model, [request], config)
            assert len(seen) <= config.value_steps  # one pass a step: the fact is in one part


def test_micro_batch_tokens_bounds_the_parts_of_a_fact() -> None:
    model, config = tiny_editable("llama"), settings(micro_batch_tokens=12)
    requests = requests_of(model, config, LONG)
    expected = optimise_targets(model, requests, config.replace(micro_batch_tokens=8192))
    with scarce(model.model.lm_head, 10**6) as seen:
        found = optimise_targets(model, requests, config)
    assert max(seen) <= 12
    assert len(seen) > config.value_steps
    assert same_targets(found, expected)


@given(
    lengths=st.lists(st.tuples(st.integers(0, 400), st.integers(1, 60)), min_size=1, max_size=30),
    tokens=st.integers(1, 3000),
)
def test_every_row_is_in_one_part_that_is_no_larger_than_asked(
    lengths: list[tuple[int, int]], tokens: int
) -> None:
    rows = [SuffixRow(ids=(0,) * (a + b), lookup=a, wanted=(a,)) for a, b in lengths]
    division = Division.of(rows, tokens)
    assert sorted(i for part in division.parts for i in part) == list(range(len(rows)))
    for part in division.parts:
        assert list(part) == sorted(part)
        size = len(part) * max(rows[i].width for i in part)
        assert size <= tokens or len(part) == 1
    whole = Division.of(rows, max(row.width for row in rows) * len(rows))
    assert whole.parts == (tuple(range(len(rows))),)
    least = Division.of(rows, Division.least(rows))
    assert all(len(part) == 1 for part in least.parts)
    before = sum(row.lookup for row in rows)
    assert len(rows) == 1 or not least.keeps or before <= KEPT_TOKENS
    if division.keeps and len(division.parts) > 1:
        assert before <= KEPT_TOKENS * tokens


def test_prefixes_of_all_parts_are_kept_while_they_are_few() -> None:
    model, config = tiny_editable("llama"), settings()
    requests = requests_of(model, config, LONG)
    before = sum(row.lookup for row in rows_of(requests[0]))
    kept, remade = (
        loss_of(model, requests, config, tokens)
        for tokens in (-(-before // KEPT_TOKENS), before // KEPT_TOKENS - 1)
    )
    assert len(kept.parts) > 1
    assert len(remade.parts) > 1
    assert not any(isinstance(part.suffixes, RemadeSuffixes) for part in kept.parts)
    assert all(isinstance(part.suffixes, RemadeSuffixes) for part in remade.parts)


def lookup_last(request: EditRequest) -> EditRequest:
    """The same with subjects at the ends of prompts."""
    prompts = [replace(prompt, lookup=len(prompt.ids) - 1) for prompt in request.prompts]
    return replace(request, prompts=tuple(prompts))


@pytest.mark.parametrize("family", ["llama", "gptj"])
@pytest.mark.parametrize("prompt_tokens", [24, 800])  # parts' prefixes are kept, and made anew
def test_the_peak_of_memory_is_that_of_one_part(family: str, prompt_tokens: int) -> None:
    real = tiny_model(family, max_position_embeddings=1200)
    model = shaped_model(real.config, torch.float32)
    config = settings(layers=(1,), prefix_count=11)
    work = Workload(edits=1, prompt_tokens=prompt_tokens, target_tokens=12)
    requests = [lookup_last(request) for request in facts_of_mean_size(config, work, 1)]
    model.model.requires_grad_(False)
    size = sum(row.width for row in rows_of(requests[0]))

    def peak_of(tokens: int, *, holding: bool = False) -> tuple[int, int, int]:
        """The most bytes of a step, those kept before it, and the most until then."""
        tracker = MetaTracker()
        tracker.ignore([*model.model.parameters(), *model.model.buffers()])
        with tracker:
            loss = loss_of(model, requests, config, tokens)
            kept, before = tracker.live, tracker.peak
            tracker.reset_peak()
            delta = torch.zeros_like(loss.initial_hidden)
            if holding:  # control: graphs that live on are seen
                own = {"kl_weight": 1.0, "margins": False, "gradient": True}
                graphs = [part.evaluate(delta, **own) for part in loss.parts]
                assert len(graphs) == len(loss.parts)
            else:
                loss.evaluate(delta, gradient=True).gradient()
            return tracker.peak, kept, before

    whole, kept_whole, before_whole = peak_of(10**6)
    quarter, kept, before = peak_of(size // 4)
    if prompt_tokens == 24:
        assert quarter - kept < 0.45 * (whole - kept_whole)
        assert kept < 1.3 * kept_whole
        assert peak_of(size // 4, holding=True)[0] - kept > 0.7 * (whole - kept_whole)
    else:  # nearly all is prefixes, of which there are now those of a part
        assert kept < 0.05 * kept_whole
        assert max(quarter, before) < 0.5 * max(whole, before_whole)


def test_a_plan_counts_the_parts_of_one_fact() -> None:
    model = shaped_model(tiny_model("llama").config, torch.float32)
    work = Workload(edits=1, prompt_tokens=24, target_tokens=12)
    config = settings(layers=(1,), prefix_count=11)
    whole, parts = (
        pass_costs(model, config.replace(micro_batch_tokens=tokens), work) for tokens in (8192, 64)
    )
    assert parts.step.bytes < 0.5 * whole.step.bytes
    assert parts.step.flops == pytest.approx(whole.step.flops, rel=0.1)


def test_layers_on_several_devices() -> None:
    config = settings(layers=(0,), stop_margin=3.0)
    alone = tiny_editable("llama")
    requests = requests_of(alone, config, *FACTS)
    expected = optimise_targets(alone, requests, config).target_hidden
    with pretend_devices():
        spread = tiny_editable("llama")
        accelerate.dispatch_model(spread.model, SPREAD_LLAMA)
        for tokens in (20, 1):  # kept, and made anew
            own = config.replace(micro_batch_tokens=tokens)
            found = optimise_targets(spread, requests, own).target_hidden.cpu()
            assert torch.allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("way", WAYS)
def test_offloaded_models(way: str, tmp_path: Path) -> None:
    config = settings(layers=(1,))
    alone = tiny_editable("llama")
    requests = requests_of(alone, config, *FACTS)
    expected = optimise_targets(alone, requests, config)
    away = WAYS[way](tiny_editable("llama"), tmp_path)
    widest = max(suffix(row) for request in requests for row in rows_of(request))
    with scarce(away.model.get_submodule("lm_head"), widest) as seen:
        found = optimise_targets(away, requests, config)
    assert failures(seen, widest)
    assert same_targets(found, expected)


@pytest.mark.parametrize("method", ["langedit", "memit", "rome"])
def test_an_editor_finds_out_once(method: str) -> None:
    config = settings(method=method, layers=(1,))
    plain, small = (
        Editor(model, None, config, random_moments(model, (1,)), PREFIXES)
        for model in (tiny_editable("llama"), tiny_editable("llama"))
    )
    requests = requests_of(plain.model, config, *FACTS)
    widest = max(suffix(row) for request in requests for row in rows_of(request))
    failed = []
    with scarce(small.model.model.lm_head, widest) as seen:
        for batch in (FACTS[:2], FACTS[2:]):
            expected, found = plain.apply(batch), small.apply(batch)
            failed.append(failures(seen, widest))
            seen.clear()
            for layer, update in found.updates.items():
                other = expected.updates[layer].dense()
                assert (update.dense() - other).norm() <= 1e-3 * other.norm()
    assert failed[0] > 0
    assert failed[1] == 0


def test_processes_with_memories_of_their_own_find_the_same(tmp_path: Path) -> None:
    output = tmp_path / "found.pt"
    for ended in side_by_side(JOBS / "small_memory.py", output):
        assert ended.code == 0, ended.err
    found = torch.load(output)
    model, config = tiny_editable("llama"), settings(micro_batch_tokens=40)
    requests = requests_of(model, config, *FACTS)
    expected = optimise_targets(model, requests, config)
    failed = [own["failed"] for own in found]
    assert failed[0] == [0, 0]
    assert failed[1][0] > 0
    assert failed[1][1] == 0
    for own in found:
        for targets in own["targets"]:
            assert torch.allclose(targets, expected.target_hidden, atol=1e-4)
