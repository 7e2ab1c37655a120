"""The published zsRE evaluation, list by list, on the recorded weights before and after editing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from golden import RUNS, GoldenRun

from langedit.evaluation import compat_cases, score_facts
from langedit.facts import Fact
from langedit.models import EditableModel

pytestmark = pytest.mark.golden

LISTS = {
    "efficacy": "rewrite_prompts_correct",
    "generalization": "paraphrase_prompts_correct",
    "specificity": "neighborhood_prompts_correct",
}
CLEAR = 1e-3
"""Margin between the two largest logits above which the recorded prediction is no accident."""

KEPT = (
    "langedit",
    "langedit_l2_1",
    "alphaedit",
    "alphaedit_langtmpl",
    "memit",
    "memit_seq",
    "memit_rect",
    "memit_prune",
    "memit_prune_strong",
    "rome",
    "ft",
)
"""Methods that recorded their final weights; `rome_single` has none, see below."""


def fact_of(record: dict[str, Any]) -> Fact:
    return Fact(
        language=record["lang"],
        prompt=record["src"].replace(record["subject"], "{}", 1),
        subject=record["subject"],
        target=record["alt"],
        paraphrases=(record["rephrase"],),
        neighbourhood=((record["loc"], record["loc_ans"]),),
    )


def assert_cases(model: EditableModel, facts: list[Fact], recorded: list[dict[str, Any]]) -> int:
    """Compare every list; return how many True values were met."""
    right = 0
    for case, own in zip(compat_cases(model, facts), recorded, strict=True):
        if "prompts" in own:
            assert [item.prompt for item in case.items] == own["prompts"]
            assert [item.expected for item in case.items] == own["expected_ids"]
        flags = [flag for kind in LISTS for flag in case.correct(kind)]
        expected = [flag for name in LISTS.values() for flag in own[name]]
        assert len(flags) == len(expected)
        assert [len(case.correct(kind)) for kind in LISTS] == [len(own[n]) for n in LISTS.values()]
        for i, margin in enumerate(own["top2_margin"]):
            if margin > CLEAR:
                assert case.predicted[i] == own["predicted_ids"][i]
                assert flags[i] == expected[i]
        right += sum(expected)
    return right


@pytest.fixture(scope="module", params=RUNS)
def run(request: pytest.FixtureRequest) -> GoldenRun:
    return GoldenRun(request.param)


def test_before_editing(run: GoldenRun) -> None:
    facts = [fact_of(record) for record in run.spec["records"]]
    assert_cases(run.model(), facts, run.read_json("eval_before")["cases"])


def test_answers_that_are_right(run: GoldenRun) -> None:
    """The same with targets that the model gives by itself, so that lists hold True."""
    recorded = run.read_json("metric_cases")
    model, facts = run.model(), [fact_of(record) for record in recorded["records"]]
    assert assert_cases(model, facts, recorded["eval"]["cases"]) > 10
    for kind, name in LISTS.items():
        scores = [getattr(s, kind) for s in score_facts(model, facts, kinds=[kind], compat=True)]
        mean = sum(scores) / len(scores)
        assert mean == pytest.approx(recorded["eval"]["summary"][name], abs=1e-12)


@pytest.mark.parametrize("method", KEPT)
def test_after_editing(run: GoldenRun, method: str) -> None:
    model, recorded = run.model(), run.read_json(method)["eval_after"]["cases"]
    weights = dict(model.model.named_parameters())
    with torch.no_grad():
        for name, value in run.read_tensors(method).items():
            if name.startswith("final/"):
                weights[name.removeprefix("final/")].copy_(value)
    facts = [fact_of(record) for record in run.spec["records"]][: len(recorded)]
    assert_cases(model, facts, recorded)


def test_after_the_last_single_edit_of_rome(run: GoldenRun) -> None:
    """`rome_single` edits the original weights anew each time: what is evaluated is the last."""
    model, recorded = run.model(), run.read_json("rome_single")["eval_after"]["cases"]
    tensors = run.read_tensors("rome_single")
    facts = [fact_of(record) for record in run.spec["records"]]
    u, v = (tensors[f"e{len(facts) - 1}/{name}"] for name in "uv")
    model.write_weight(1, model.read_weight(1) + torch.outer(v, u))
    assert_cases(model, facts, recorded)


def test_our_own_scores_differ_where_the_habits_matter(run: GoldenRun) -> None:
    """Control: the option does something."""
    recorded = run.read_json("metric_cases")["records"]
    model, facts = run.model(), [fact_of(record) for record in recorded]
    ours, theirs = (score_facts(model, facts, compat=compat) for compat in (False, True))
    assert ours != theirs
