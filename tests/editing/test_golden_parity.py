"""The same numbers as the original research code, batch by batch, on recorded runs.

Tolerances are relative Frobenius distances. They come with the recordings: the floor that equal
runs of the original reach when weights are perturbed by 1e-7, times a margin, and far below the
size of real differences (3 % for a projector that is not refreshed, 0.1 % for a missing history).
"""

from __future__ import annotations

import pytest
from golden import OUR_METHODS, RUNS, GoldenRun, as_stored, assert_final_weights, distance

from langedit.editing import BatchReport, Editor, LayerState, optimise_targets, prepare_request
from langedit.editing.methods.null_space import projector_of
from langedit.facts import Fact

pytestmark = pytest.mark.golden

LAYERS = (1, 2)


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("templates", ["langedit", "alphaedit"])
def test_token_ids_and_lookup_tokens(name: str, templates: str) -> None:
    run = GoldenRun(name)
    model, config, prefixes = run.model(), run.config(templates), run.prefixes(templates)
    section = run.read_json(templates)["inputs"].rpartition("/")[2]
    recorded = run.read_json("inputs")[section]["compute_z"]
    for facts, inputs in zip(run.batches(), recorded, strict=True):
        for fact, own in zip(facts, inputs, strict=True):
            request = prepare_request(model, fact, prefixes.of(fact.language), config)
            ids = [[*prompt.ids, *request.target_ids[:-1]] for prompt in request.prompts]
            lookups = [prompt.lookup for prompt in (*request.prompts, request.kl_prompt)]
            assert [*ids, list(request.kl_prompt.ids)] == own["input_ids"]
            assert lookups == own["lookup_idxs"]
            assert list(request.target_ids) == own["target_ids"]


@pytest.mark.parametrize("method", OUR_METHODS)
@pytest.mark.parametrize("name", RUNS)
def test_updates_from_recorded_targets(name: str, method: str) -> None:
    run = GoldenRun(name)
    recorded = run.read_tensors(method)
    model = run.model()
    editor = Editor(model, None, run.config(method), run.moments(model), run.prefixes(method))
    for batch, facts in enumerate(run.batches()):
        states = editor.layer_states
        report = editor.apply(facts, target_hidden=recorded[f"b{batch}/z"].T)
        assert_layers(
            run,
            method,
            batch,
            report,
            states,
            editor.layer_states,
            keys=1e-4,
            resid=1e-4,
            delta=5e-4,
        )
    assert_final_weights(editor, recorded, 1e-4)


@pytest.mark.parametrize("method", OUR_METHODS)
@pytest.mark.parametrize("name", RUNS)
def test_the_whole_run(name: str, method: str) -> None:
    run = GoldenRun(name)
    recorded, noise = run.read_tensors(method), run.read_json("noise")[method]["z_per_request"]
    model = run.model()
    editor = Editor(model, None, run.config(method), run.moments(model), run.prefixes(method))
    for batch, facts in enumerate(run.batches()):
        states = editor.layer_states
        report = editor.apply(facts)
        limit = 1e-3 if batch else 1e-4
        limits = [max(limit, 10 * floor) for floor in noise[f"b{batch}/z"]]
        assert_targets(run, method, batch, report, limits)
        assert_layers(
            run,
            method,
            batch,
            report,
            states,
            editor.layer_states,
            keys=1e-3,
            resid=5e-3,
            delta=5e-3,
        )
    assert_final_weights(editor, recorded, 1e-3)


@pytest.mark.parametrize("name", RUNS)
def test_another_method_is_told_apart(name: str) -> None:
    run = GoldenRun(name)
    recorded, model = run.read_tensors("langedit"), run.model()
    config = run.config("langedit").replace(method="alphaedit")  # the projector is not refreshed
    editor = Editor(model, None, config, run.moments(model), run.prefixes("langedit"))
    distances = []
    for batch, facts in enumerate(run.batches()):
        report = editor.apply(facts, target_hidden=recorded[f"b{batch}/z"].T)
        dense = report.updates[2].dense()
        delta = as_stored(recorded[f"b{batch}/layer2/delta"], dense)
        distances.append(distance(dense, delta))
    assert distances[0] <= 5e-4
    assert min(distances[1:]) > 1e-2


@pytest.mark.parametrize("name", RUNS)
def test_facts_that_stop_early(name: str) -> None:
    run = GoldenRun(name)
    model, prefixes = run.model(), run.prefixes("alphaedit")
    recorded, counts = run.read_tensors("z_cases"), {"wide": 0, "default": 0}
    for case in run.read_json("z_cases"):
        config = run.config("alphaedit").replace(
            layers=(case["layer"],),
            norm_clamp=case["clamp_norm_factor"],
            value_lr=case["v_lr"],
            value_steps=case["v_num_grad_steps"],
            value_weight_decay=case["v_weight_decay"],
            kl_weight=case["kl_factor"],
        )
        fact = Fact("en", case["prompt"], case["subject"], case["target_new"])
        request = prepare_request(model, fact, prefixes.of("en"), config)
        found = optimise_targets(model, [request], config)
        expected = recorded[f"{case['setting']}/{counts[case['setting']]}/z"]
        counts[case["setting"]] += 1
        assert int(found.steps[0]) == case["steps"]
        assert distance(found.target_hidden[0], expected) <= 1e-3
    assert counts == {"wide": 6, "default": 6}


def assert_targets(
    run: GoldenRun, method: str, batch: int, report: BatchReport, limits: list[float]
) -> None:
    recorded = run.read_tensors(method)[f"b{batch}/z"].T
    found = report.targets
    assert found is not None
    for i, own in enumerate(run.read_json(method)["batches"][batch]["z"]):
        assert distance(found.target_hidden[i], recorded[i]) <= limits[i]
        assert int(found.steps[i]) == own["steps"]
        for terms, losses in ((found.first, own["first"]), (found.last, own["last"])):
            ours = [float(part[i]) for part in (terms.total, terms.nll, terms.kl, terms.decay)]
            assert ours == pytest.approx(losses[:4], abs=1e-3)  # recorded with three decimals


def assert_layers(
    run: GoldenRun,
    method: str,
    batch: int,
    report: BatchReport,
    before: dict[int, LayerState],
    after: dict[int, LayerState],
    *,
    keys: float,
    resid: float,
    delta: float,
) -> None:
    recorded = run.read_tensors(method)
    figures = run.read_json(method)["batches"][batch]["layers"]
    for layer in LAYERS:
        place = f"b{batch}/layer{layer}"
        ours = after[layer].history[-len(report.facts) :]
        assert distance(ours, recorded[f"{place}/keys"]) <= keys
        if f"{place}/keys_after" in recorded:
            assert distance(ours, recorded[f"{place}/keys_after"]) <= keys
        assert distance(report.updates[layer].left, recorded[f"{place}/resid"]) <= resid
        if f"{place}/P_keys" in recorded:
            projected = projector_of(before[layer]).apply(ours).T
            assert distance(projected, recorded[f"{place}/P_keys"]) <= 2e-3
        rank = report.ranks[layer]
        if "null_rank" in figures[str(layer)]:
            assert rank is not None
            assert rank.left == figures[str(layer)]["null_rank"]
        if f"{place}/delta" in recorded:
            dense = report.updates[layer].dense()
            assert distance(dense, as_stored(recorded[f"{place}/delta"], dense)) <= delta
