"""Scores of a model against one text at a time through plain transformers."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from chat_templates import chat_model
from tiny import tiny_editable

from langedit.editing import generate_prefixes
from langedit.errors import FactError, NumericalError
from langedit.evaluation import (
    FORCED,
    METRICS,
    FactScore,
    Questions,
    ask,
    continue_greedily,
    encode_answer,
    forced_answers,
    greedy_text,
    mean_scores,
    ngram_entropy,
    perplexity,
    score_both_ways,
    score_facts,
)
from langedit.facts import Fact, Probe
from langedit.linalg import LowRankUpdate
from langedit.models import ChatSettings, Recorder

FACTS = (
    Fact(
        language="en",
        prompt="The capital of {} is",
        subject="France",
        target="Rome",
        paraphrases=("{} has a capital named", "Tell me the capital of France:"),
        neighbourhood=(Probe("The capital of Germany is", "Berlin"), Probe("Berlin is", "big")),
        portability=(Probe("The river in the capital of France is the", "Tiber"),),
        old="Paris in France",
    ),
    Fact(language="zh", prompt="{}的首都是", subject="德国", target="巴黎"),
    Fact(
        language="de",
        prompt="Die Hauptstadt von {} heißt",
        subject="Österreich",
        target="Amsterdam am Wasser",
        neighbourhood=(("Die Hauptstadt von Italien heißt", "Rom"),),
    ),
)


def plain_accuracy(model, language, prompt, answer):
    ids, answer_ids = encode_answer(model, language, prompt, answer)
    with torch.no_grad():
        logits = model.model(torch.tensor([[*ids, *answer_ids]])).logits[0]
    predicted = logits.argmax(-1)[len(ids) - 1 : -1].tolist()
    return sum(a == b for a, b in zip(predicted, answer_ids, strict=True)) / len(answer_ids)


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom", "gemma2", "opt"])
@pytest.mark.parametrize("batch_tokens", [1, 64, 8192])
def test_scores_equal_one_text_at_a_time(family, batch_tokens):
    model = tiny_editable(family)
    for fact, score in zip(
        FACTS, score_facts(model, FACTS, batch_tokens=batch_tokens), strict=True
    ):
        language = fact.language
        assert score.efficacy == plain_accuracy(model, language, fact.text, fact.target)
        forms = [plain_accuracy(model, language, t, fact.target) for t in fact.paraphrase_texts]
        assert score.generalization == (sum(forms) / len(forms) if forms else None)
        near = [plain_accuracy(model, language, p.prompt, p.answer) for p in fact.neighbourhood]
        assert score.specificity == (sum(near) / len(near) if near else None)


def plain_log_probability(model, language, prompt, answer):
    """Mean and total log-probability of an answer, in float64."""
    ids, answer_ids = encode_answer(model, language, prompt, answer)
    with torch.no_grad():
        logits = model.model(torch.tensor([[*ids, *answer_ids]])).logits[0].double()
    rows = torch.log_softmax(logits, -1)[len(ids) - 1 : -1]
    picked = rows[torch.arange(len(answer_ids)), torch.tensor(answer_ids)]
    return float(picked.mean()), float(picked.sum())


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "opt", "bloom"])
def test_probabilities_and_success_equal_one_text_at_a_time(family):
    """Gemma 2 caps its logits: a head of our own would give other probabilities."""
    model = tiny_editable(family)
    scores = score_facts(model, FACTS, kinds=FORCED)
    for fact, score in zip(FACTS, scores, strict=True):

        def of(prompt, answer, language=fact.language):
            return plain_log_probability(model, language, prompt, answer)

        mean, total = of(fact.text, fact.target)
        assert score.target_probability == pytest.approx(math.exp(mean), rel=1e-4)
        assert score.target_probability_total == pytest.approx(math.exp(total), rel=1e-4)
        if fact.old is None:
            assert score.success is score.specificity_success is None
            continue
        assert score.success == float(mean > of(fact.text, fact.old)[0])
        forms = [of(t, fact.target)[0] > of(t, fact.old)[0] for t in fact.paraphrase_texts]
        assert score.generalization_success == sum(forms) / len(forms)
        near = [
            of(p.prompt, p.answer)[0] > of(p.prompt, fact.target)[0] for p in fact.neighbourhood
        ]
        assert score.specificity_success == sum(near) / len(near)
        far = [plain_accuracy(model, "en", p.prompt, p.answer) for p in fact.portability]
        assert score.portability == sum(far) / len(far)


def test_success_is_the_other_way_round_for_the_old_answer():
    """Control: exchanging new and old turns every success around."""
    model = tiny_editable("llama")
    fact = FACTS[0]
    other = replace(fact, target=fact.old, old=fact.target)
    scores = score_facts(model, [fact, other], kinds=["success", "generalization_success"])
    assert scores[0].success + scores[1].success == 1.0
    assert scores[0].generalization_success + scores[1].generalization_success == 1.0
    same = score_facts(model, [replace(fact, old=fact.target.upper())], kinds=["success"])
    assert same[0].success is None  # nothing was replaced


def own_answer(model, prompt, count=3):
    """The answer that a model itself gives, as token ids."""
    ids, _ = encode_answer(model, "en", prompt, "x")
    own = []
    for _ in range(count):
        with torch.no_grad():
            own.append(int(model.model(torch.tensor([[*ids, *own]])).logits[0, -1].argmax()))
    return ids, own


def test_a_model_is_right_about_its_own_answers():
    """Control: answers that the model itself would give score 1, others do not."""
    model = tiny_editable("llama")
    ids, own = own_answer(model, "The capital of France is")
    assert forced_answers(model, [(ids, own)])[0].predicted == tuple(own)
    other = [(token + 1) % 100 for token in own]
    assert forced_answers(model, [(ids, other)])[0].predicted != tuple(other)


def test_an_unedited_model_scores_its_base_rate_and_the_identity_update_changes_nothing():
    model = tiny_editable("llama")
    questions = Questions.of(model, FACTS, METRICS)
    before = ask(model, questions)
    update = LowRankUpdate(
        left=torch.zeros(model.structure.d_model, 2), right=torch.randn(2, model.structure.d_in)
    )
    model.write_weight(1, model.read_weight(1) + update.dense())
    after = ask(model, questions)
    assert after.values(before) == before.values(before)
    assert [own["agreement"] for own in after.values(before)] == [1.0, None, 1.0]
    model.write_weight(1, -3 * model.read_weight(1))  # control: another model agrees less
    assert ask(model, questions).values(before)[0]["agreement"] < 1.0


def test_agreement_needs_answers_to_the_same_questions():
    model = tiny_editable("llama")
    before = ask(model, Questions.of(model, FACTS[:1], ["agreement"]))
    with pytest.raises(ValueError, match="the same questions"):
        score_facts(model, FACTS, kinds=["agreement"], before=before)
    assert score_facts(model, FACTS, kinds=["agreement"])[0].agreement is None


@pytest.mark.parametrize("family", ["llama", "bloom", "gemma2"])
def test_exact_match_of_generated_text(family):
    """Right for what the model itself says, in agreement with the forced pass; wrong otherwise."""
    model = tiny_editable(family)
    prompt = "The capital of {} is"
    fact = Fact(language="en", prompt=prompt, subject="France", target="x")
    (text,) = greedy_continuations(model, [fact.text], 6)
    told = Fact(language="en", prompt=prompt, subject="France", target=text.text.strip() or "x")
    scores = score_facts(model, [told, FACTS[0]], kinds=["efficacy_exact", "fluency"])
    assert scores[0].efficacy_exact == 1.0
    assert scores[1].efficacy_exact == 0.0
    (long,) = greedy_continuations(model, [fact.text], 50)
    assert scores[0].fluency == ngram_entropy(long.ids)


def greedy_continuations(model, texts, count):
    prompts = [encode_answer(model, "en", text, "x")[0] for text in texts]
    return continue_greedily(model, prompts, [count] * len(prompts))


def test_only_the_kinds_asked_for():
    model = tiny_editable("llama")
    (score, *_) = score_facts(model, FACTS, kinds=("efficacy",))
    assert score.efficacy is not None
    assert score.generalization is None
    assert score.specificity is None
    for kinds in (("beauty",), ()):
        with pytest.raises(ValueError, match="expected kinds among"):
            score_facts(model, FACTS, kinds=kinds)
    with pytest.raises(ValueError, match="compat: expected kinds among"):
        score_facts(model, FACTS, kinds=("success",), compat=True)
    assert score_facts(model, []) == []


def test_reports_have_means_over_all_facts_and_by_language():
    rows = [("en", 1.0, 0.5), ("zh", 0.0, None), ("en", 0.5, None)]
    scores = [FactScore(language=code, efficacy=e, generalization=g) for code, e, g in rows]
    found = mean_scores(scores)
    assert json.loads(json.dumps(found)) == found
    assert (found["all"]["facts"], found["all"]["efficacy"]) == (3, 0.5)
    assert found["all"]["generalization"] == 0.5
    assert found["all"]["specificity"] is None
    assert list(found["by_language"]) == ["en", "zh"]
    assert found["by_language"]["en"]["efficacy"] == 0.75


@pytest.mark.parametrize("style", ["llama", "gemma"])
def test_a_model_in_a_chat_is_asked_both_ways_and_another_once(style):
    model = chat_model(style, ChatSettings())
    plain = model.with_chat(None)
    own, as_text = score_both_ways(model, FACTS)
    assert own == tuple(score_facts(model, FACTS))
    assert as_text == tuple(score_facts(plain, FACTS))
    assert score_both_ways(plain, FACTS) == (as_text, ())


def test_targets_are_joined_as_their_language_wants():
    model = tiny_editable("llama")
    _, german = encode_answer(model, "de", "Die Hauptstadt heißt", "Wien")
    _, chinese = encode_answer(model, "zh", "首都是", "巴黎")
    assert model.tokenizer.decode(german) == " Wien"
    assert model.tokenizer.decode(chinese) == "巴黎"


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_perplexity_equals_one_text_at_a_time(family):
    model = tiny_editable(family)
    texts = ["The capital of France is Paris.", "Wien", "法国的首都是巴黎，德国的首都是柏林。"]
    total, count = 0.0, 0
    for text in texts:
        ids = torch.tensor([model.tokenizer(text)["input_ids"]])
        with torch.no_grad():
            logits = model.model(ids).logits[0, :-1].double()
        picked = torch.log_softmax(logits, -1)[torch.arange(ids.shape[1] - 1), ids[0, 1:]]
        total += float(picked.sum())
        count += len(picked)
    assert math.isclose(perplexity(model, texts), math.exp(-total / count), rel_tol=1e-5)
    assert math.isclose(
        perplexity(model, texts, batch_tokens=1), perplexity(model, texts), rel_tol=1e-5
    )


def test_perplexity_needs_text():
    with pytest.raises(FactError, match="expected texts"):
        perplexity(tiny_editable("llama"), [])


def test_greedy_text_is_the_models_own():
    model = tiny_editable("llama")
    prompt = "The capital of France is"
    ids = torch.tensor([model.tokenizer(prompt)["input_ids"]])
    with torch.no_grad():
        for _ in range(4):
            ids = torch.cat([ids, model.model(ids).logits[:, -1].argmax(-1, keepdim=True)], dim=1)
    start = len(model.tokenizer(prompt)["input_ids"])
    expected = (
        model.tokenizer.decode(ids[0, start:], skip_special_tokens=True).split(".")[0].strip()
    )
    assert greedy_text(model, "en", [prompt], max_new_tokens=4) == [expected]


def test_scores_of_activations_that_overflow_float16_are_refused_by_prompt():
    """An overflow after the edited layers, of one fact only: any token would look most probable."""
    sizes, model = [], tiny_editable()
    for fact in FACTS[1:]:
        ids, answer = encode_answer(model, fact.language, fact.text, fact.target)
        with Recorder(model.model, outputs=[model.projection_name(2)]) as seen, torch.no_grad():
            model.model(input_ids=torch.tensor([[*ids, *answer]]))
        asked = seen.outputs[model.projection_name(2)][0, len(ids) - 1 : -1]
        sizes.append(float(asked.abs().max()))
    assert abs(sizes[0] - sizes[1]) > 0.1 * max(sizes)
    larger = sizes.index(max(sizes))
    half = tiny_editable(dtype=torch.float16)
    factor = torch.finfo(torch.float16).max / (sum(sizes) / 2)
    gain = factor**0.5  # the projection's weight and its input, so that both stay in range
    half.projection(2).weight.mul_(gain)
    half.layer(2).mlp.up_proj.weight.mul_(gain)
    sound, spoiled = FACTS[2 - larger], FACTS[1 + larger]
    bare = [replace(own, paraphrases=(), neighbourhood=()) for own in (sound, spoiled)]
    assert score_facts(half, bare[:1], kinds=FORCED)[0].efficacy is not None
    with pytest.raises(NumericalError, match=f"{spoiled.subject}.*not finite.*torch.float16"):
        score_facts(half, bare, kinds=FORCED)
    half.projection(2).weight.mul_(4)
    ids = encode_answer(half, spoiled.language, spoiled.text, spoiled.target)[0]
    with pytest.raises(NumericalError, match=f"next token after .*{spoiled.subject}"):
        continue_greedily(half, [ids], [2])


def test_prefixes_of_activations_that_overflow_float16_are_refused():
    model = tiny_editable(dtype=torch.float16)
    model.projection(2).weight.mul_(3e4)
    with pytest.raises(NumericalError, match=r"prefixes: .*'The'.*torch.float16"):
        generate_prefixes(model, ["en"], seed_words={"en": ["The"]})
