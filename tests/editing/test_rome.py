from __future__ import annotations

import pytest
import torch
from edits import FACTS, LATER, PREFIXES, random_moments, settings
from oracles_targets import naive_target
from tiny import FAMILIES, tiny_editable
from torch import Tensor

from langedit.editing import Editor, batch, compute_keys, optimise_targets, prepare_request
from langedit.editing.keys import lookup_projected, prompt_keys
from langedit.editing.methods import rome
from langedit.errors import ConfigError, NumericalError
from langedit.linalg import LowRankUpdate
from langedit.models import EditableModel, EncodedPrompt

TOLERANCE = 2e-5  # as in test_targets


def editor(family: str = "llama", **changes: object) -> Editor:
    model = tiny_editable(family)
    config = settings(method="rome", **{"layers": (1,), **changes})
    return Editor(model, None, config, random_moments(model, (1,)), PREFIXES)


@pytest.mark.parametrize("family", FAMILIES)
def test_targets_of_the_projection_follow_the_straightforward_trajectory(family: str) -> None:
    model, config = tiny_editable(family), settings(layers=(1,))
    requests = [prepare_request(model, fact, PREFIXES.of(fact.language), config) for fact in FACTS]
    found = optimise_targets(model, requests, config, site="projection")
    bare = [request.prompts[0] for request in requests]
    outputs = lookup_projected(model, bare, 1)
    for i, request in enumerate(requests):
        expected = naive_target(model, request, config, site="projection")
        size = expected.target.norm()
        assert (found.initial_hidden[i] - outputs[i]).norm() <= TOLERANCE * size
        assert (found.target_hidden[i] - expected.target).norm() <= TOLERANCE * size
        ours = [float(part[i]) for part in (found.last.total, found.last.nll, found.last.kl)]
        assert ours == pytest.approx(expected.losses[-1][:3], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "opt", "bloom"])
@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("use_cache", [True, False])
def test_so_do_those_of_the_first_and_the_last_layer(
    family: str, layer: int, use_cache: bool
) -> None:
    model, config = tiny_editable(family), settings(layers=(layer,))
    assert model.structure.n_layers == 3
    # The prompt ends with its subject: in the last layer nothing that follows could be reached, and
    # a gradient that is zero but for rounding would decide where Adam goes.
    request = prepare_request(model, FACTS[3], PREFIXES.of("en"), config)
    found = optimise_targets(model, [request], config, site="projection", use_cache=use_cache)
    expected = naive_target(model, request, config, site="projection")
    assert (found.target_hidden[0] - expected.target).norm() <= TOLERANCE * expected.target.norm()
    of_layer = optimise_targets(model, [request], config, use_cache=use_cache)  # control
    assert not torch.allclose(found.initial_hidden, of_layer.initial_hidden, atol=1e-2)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "opt"])
def test_the_edited_projection_gives_the_target_exactly(family: str) -> None:
    edited = editor(family)
    report = edited.apply(FACTS[:1])
    assert report.targets is not None
    assert report.updates[1].rank == 1
    request = prepare_request(edited.model, FACTS[0], PREFIXES.of("en"), edited.config)
    output = lookup_projected(edited.model, [request.prompts[0]], 1)
    torch.testing.assert_close(output, report.targets.target_hidden, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(output, report.targets.initial_hidden, atol=1e-2)


def test_a_batch_is_its_facts_one_after_another() -> None:
    whole, single = editor(), editor()
    report = whole.apply(FACTS)
    reports = [single.apply([fact]) for fact in FACTS]
    update = report.updates[1]
    assert isinstance(update, LowRankUpdate)
    assert update.rank == len(FACTS)
    for i, one in enumerate(reports):
        assert torch.allclose(update.right[i], one.updates[1].right[0], rtol=1e-4, atol=1e-5)
        assert torch.allclose(update.left[:, i], one.updates[1].left[:, 0], rtol=1e-2, atol=1e-3)
    together = optimise_targets(  # control: targets found on unedited weights are others
        tiny_editable("llama"),
        [prepare_request(whole.model, f, PREFIXES.of(f.language), whole.config) for f in FACTS],
        whole.config,
        site="projection",
    )
    assert report.targets is not None
    assert not torch.allclose(
        together.target_hidden[-1], report.targets.target_hidden[-1], atol=1e-2
    )


def test_the_update_reads_the_mean_over_contexts() -> None:
    edited = editor()
    request = prepare_request(edited.model, FACTS[0], PREFIXES.of("en"), edited.config)
    keys = compute_keys(edited.model, [[prompt] for prompt in request.prompts], [1])[1].double()
    moment = random_moments(edited.model, (1,)).layers[1].moment.mean
    update = edited.apply(FACTS[:1]).updates[1]
    u = torch.linalg.solve(moment, keys.mean(dim=0))
    expected = (u / torch.dot(u, keys[0])).float()
    torch.testing.assert_close(update.right[0], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])  # without a bias, and with one
def test_a_key_of_zeros_is_told_of_before_any_target(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    edited = editor(family)
    before = edited.weights_hash
    request = prepare_request(edited.model, FACTS[1], PREFIXES.of("en"), edited.config)
    bare = request.prompts[0]
    rows: list[Tensor] = []

    def zero_in_the_bare_prompt(
        model: EditableModel, prompts: list[EncodedPrompt], layers: list[int], *, max_tokens: int
    ) -> dict[int, Tensor]:
        found = prompt_keys(model, prompts, layers, max_tokens=max_tokens)
        rows.append(found[1].clone())
        found[1][[prompt == bare for prompt in prompts]] = 0.0
        return found

    monkeypatch.setattr(rome, "prompt_keys", zero_in_the_bare_prompt)
    monkeypatch.setattr(batch, "optimise_targets", lambda *_, **__: pytest.fail("too late"))
    message = (
        r"layer 1: expected keys that are not zero, got one of zeros alone in the bare prompt of "
        r"en: Peru is in -> Paris: .* edit another layer \(layers\), or leave the fact out"
    )
    with pytest.raises(NumericalError, match=message):
        edited.apply(FACTS)
    assert edited.weights_hash == before
    assert bool(rows[0].any(dim=1).all())  # control: as they are, none of them is zero


def test_a_layer_that_is_fed_zeros_is_told_of() -> None:
    edited = editor("llama")
    edited.model.projection(1).register_forward_pre_hook(lambda _, args: (0.0 * args[0],))
    with pytest.raises(NumericalError, match="of zeros alone in the bare prompt of en: The capita"):
        edited.apply(FACTS)


def test_given_targets_are_taken_as_they_are() -> None:
    one, other = editor(), editor()
    targets = one.apply(FACTS).targets
    assert targets is not None
    report = other.apply(FACTS, target_hidden=targets.target_hidden)
    assert report.targets is None
    weights = (edited.model.read_weight(1) for edited in (one, other))
    assert torch.allclose(*weights, atol=1e-5)


def test_earlier_edits_are_felt_and_measured() -> None:
    edited = editor()
    edited.apply(FACTS)
    report = edited.apply(LATER)
    assert report.independence_max is not None
    assert report.independence_max > 1e-3


def test_several_layers_are_refused() -> None:
    with pytest.raises(ConfigError, match="rome edits one layer, got 0, 1"):
        settings(method="rome")
    with pytest.raises(ConfigError, match="rome edits one layer, got 0, 2"):
        settings(method="rome", layers=(0, 1, 2), spread="ends")
