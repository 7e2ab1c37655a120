from __future__ import annotations

import pytest
import torch
from edits import FACTS, PREFIXES, settings
from scarce import failures, scarce
from tiny import FAMILIES, count_calls, tiny_editable

from langedit.editing import EditRequest, compute_keys, lookup_hidden, prepare_request
from langedit.editing.batching import micro_batches
from langedit.editing.keys import LayerWalk, lookup_projected
from langedit.editing.layout import lay_out
from langedit.errors import LangEditError, TokenError
from langedit.facts import Fact
from langedit.models import EditableModel, Recorder


def encoded(model: EditableModel) -> list[EditRequest]:
    return [prepare_request(model, fact, PREFIXES.of(fact.language), settings()) for fact in FACTS]


def naive_key(model: EditableModel, request: EditRequest, layer: int) -> torch.Tensor:
    """Each whole prompt alone, unpadded; half the bare key, half the mean of the others."""
    found = []
    name = model.projection_name(layer)
    for prompt in request.prompts:
        with torch.no_grad(), Recorder(model.model, inputs=[name]) as recorder:
            model.model(input_ids=torch.tensor([prompt.ids]), use_cache=False)
        found.append(recorder.inputs[name].reshape(len(prompt.ids), -1)[prompt.lookup])
    return 0.5 * found[0] + 0.5 * torch.stack(found[1:]).mean(dim=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_keys_of_every_family(family: str) -> None:
    model = tiny_editable(family)
    requests = encoded(model)
    keys = compute_keys(model, [request.prompts for request in requests], [0, 2])
    for layer in (0, 2):
        expected = torch.stack([naive_key(model, request, layer) for request in requests])
        assert keys[layer].shape == (4, model.structure.d_in)
        assert torch.allclose(keys[layer], expected, rtol=1e-4, atol=1e-5)


def test_a_single_prompt_is_its_own_key() -> None:
    model = tiny_editable("llama")
    request = encoded(model)[0]
    alone = compute_keys(model, [request.prompts[:1]], [1])[1]
    twice = compute_keys(model, [request.prompts[:1] * 3], [1])[1]
    assert torch.allclose(alone, twice, rtol=1e-5)


def test_micro_batches_change_nothing_but_rounding() -> None:
    model = tiny_editable("llama")
    prompts = [request.prompts for request in encoded(model)]
    whole = compute_keys(model, prompts, [0, 1])
    parts = compute_keys(model, prompts, [0, 1], max_tokens=1)
    assert all(torch.allclose(whole[layer], parts[layer], atol=1e-5) for layer in (0, 1))


def test_hidden_states_at_the_lookup_tokens() -> None:
    model = tiny_editable("gptj")
    prompts = [request.prompts[0] for request in encoded(model)]
    found = lookup_hidden(model, prompts, 1)
    for row, prompt in zip(found, prompts, strict=True):
        with torch.no_grad(), Recorder(model.model, outputs=["transformer.h.1"]) as recorder:
            model.model(input_ids=torch.tensor([prompt.ids]), use_cache=False)
        expected = recorder.outputs["transformer.h.1"][0, prompt.lookup]
        assert torch.allclose(row, expected, rtol=1e-4, atol=1e-5)


def test_half_precision_gives_float32_keys() -> None:
    model = tiny_editable("llama", dtype=torch.bfloat16)
    keys = compute_keys(model, [encoded(model)[0].prompts], [0])
    assert keys[0].dtype == torch.float32


def test_groups_hold_every_item_once_and_respect_the_limit() -> None:
    lengths, rows = [5, 9, 1, 7, 3], [2, 1, 4, 1, 2]
    groups = micro_batches(lengths, 16, rows=rows)
    assert sorted(item for group in groups for item in group) == [0, 1, 2, 3, 4]
    for group in groups:
        assert max(lengths[i] for i in group) * sum(rows[i] for i in group) <= 16
    assert micro_batches([100], 1) == [[0]]


def test_requests_join_targets_as_asked() -> None:
    model = tiny_editable("llama")
    fact = FACTS[2]
    joined = prepare_request(model, fact, (), settings())
    spaced = prepare_request(model, fact, (), settings(target_joint="space"))
    assert model.tokenizer.decode(joined.target_ids) == "北京"
    assert model.tokenizer.decode(spaced.target_ids) == " 北京"


def test_text_beyond_the_context_names_the_fact() -> None:
    model = tiny_editable("gpt2", n_positions=16)
    fact = Fact("en", "The capital of {} is", "France", "Paris", id="fact 7")
    prepare_request(model, fact, (), settings(kl_template="{}"))
    with pytest.raises(TokenError, match="fact 7: expected at most 16 tokens"):
        prepare_request(model, fact, ["The water of the city is in the capital. "], settings())


@pytest.mark.parametrize("family", FAMILIES)
def test_walking_while_layers_are_edited_reads_the_same(family: str) -> None:
    model = tiny_editable(family)
    requests = encoded(model)
    contexts = [request.prompts for request in requests]
    walk = LayerWalk(model, contexts, 2)
    for layer in (0, 1, 2):
        keys, hidden = walk.read(layer)
        fresh = compute_keys(model, contexts, [layer])[layer]
        assert torch.allclose(keys, fresh, rtol=1e-4, atol=1e-5)
        expected = lookup_hidden(model, [request.prompts[0] for request in requests], 2)
        assert torch.allclose(hidden, expected, rtol=1e-4, atol=1e-4)
        naive = torch.stack([naive_key(model, request, layer) for request in requests])
        assert torch.allclose(keys, naive, rtol=1e-4, atol=1e-5)
        model.write_weight(layer, 1.1 * model.read_weight(layer))


def test_a_reading_runs_each_layer_once_and_not_those_below() -> None:
    model = tiny_editable("llama")
    contexts = [request.prompts[:1] for request in encoded(model)]
    ran: list[int] = []
    walk = LayerWalk(model, contexts, 2)
    walk.read(0)
    for number in range(3):
        attention = model.layer(number).self_attn
        attention.register_forward_pre_hook(lambda *_, n=number: ran.append(n))
    for layer, expected in ((0, [0, 1, 2]), (1, [0, 1, 2]), (2, [1, 2])):
        ran.clear()
        walk.read(layer)
        assert ran == expected  # from what entered the layer read before
    ran.clear()
    walk.read(2)
    assert ran == [2]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_projection_of_which_only_the_input_is_read_does_not_run(family: str) -> None:
    model = tiny_editable(family)
    requests = encoded(model)
    contexts = [request.prompts for request in requests]
    assert model.behaviour  # what is run to find out comes first
    ran = {layer: count_calls(model.projection(layer)) for layer in range(3)}
    compute_keys(model, contexts, [0, 1])
    assert ran[0]
    assert not ran[1]
    assert not ran[2]
    walk = LayerWalk(model, contexts, 2)
    walk.read(0)  # bare prompts to the end of the last layer, the others to the first key
    assert len(ran[2]) == len(lay_out(model, [p[0].ids[: p[0].lookup + 1] for p in contexts], 8192))
    ran[2].clear()
    lookup_projected(model, [context[0] for context in contexts], 2)  # control: it is the output
    assert ran[2]


def test_out_of_memory_halves_the_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_editable("llama")
    contexts = [request.prompts for request in encoded(model)]
    expected = compute_keys(model, contexts, [0, 1])
    walk = LayerWalk(model, contexts, 1)
    walked = [walk.read(layer)[0] for layer in (0, 1)]
    seen: list[int] = []
    module, forward = model.model.model, model.model.model.forward

    def small(*args: object, **kwargs: object) -> object:
        seen.append(kwargs["input_ids"].numel())
        if seen[-1] > 40:
            raise torch.OutOfMemoryError("out of memory")
        return forward(*args, **kwargs)

    monkeypatch.setattr(module, "forward", small)
    found = compute_keys(model, contexts, [0, 1])
    assert max(seen) > 40 >= seen[-1]
    assert all(torch.allclose(found[layer], expected[layer], atol=1e-5) for layer in (0, 1))
    seen.clear()
    compute_keys(model, contexts, [0, 1])
    assert max(seen) <= 40  # what did not fit is not tried again
    walk = LayerWalk(model, contexts, 1)
    for layer in (0, 1):
        assert torch.allclose(walk.read(layer)[0], walked[layer], atol=1e-5)
    monkeypatch.setattr(module, "forward", lambda **_: small(input_ids=torch.zeros(99)))
    with pytest.raises(LangEditError, match=r"longest prompt.*micro_batch_tokens"):
        compute_keys(model, contexts, [0])


def test_where_memory_is_short_a_walk_keeps_no_states(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_editable("llama")
    contexts = [request.prompts for request in encoded(model)] * 8
    expected = LayerWalk(model, contexts, 2)
    roomy = [expected.read(layer) for layer in (0, 1, 2)]
    begun: list[int] = []
    model.layer(0).self_attn.register_forward_pre_hook(lambda *_: begun.append(0))
    longest = max(own.lookup + 1 for context in contexts for own in context)
    with scarce(model.model.get_input_embeddings(), longest) as seen:
        walk = LayerWalk(model, contexts, 2)
        walk.read(0)
        assert failures(seen, longest)
        for layer in (1, 2):
            begun.clear()
            keys, hidden = walk.read(layer)
            assert len(begun) > 2  # from the embeddings again, in small passes
            assert torch.allclose(keys, roomy[layer][0], atol=1e-5)
            assert torch.allclose(hidden, roomy[layer][1], atol=1e-5)
