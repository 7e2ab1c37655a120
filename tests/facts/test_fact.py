from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langedit.errors import FactError
from langedit.facts import Fact, FactFieldError, Probe


def fact(**changes: Any) -> Fact:
    values = {
        "language": "en",
        "prompt": "The capital of {} is",
        "subject": "France",
        "target": "Rome",
    }
    return Fact(**{**values, **changes})


@pytest.mark.parametrize(
    ("prompt", "subject", "text"),
    [
        ("The capital of {} is", "France", "The capital of France is"),
        ("{} uses the", "France", "France uses the"),
        ("The capital of {}", "France", "The capital of France"),
        ("{}", "France", "France"),
        ("France, {}, France", "France", "France, France, France"),
        ("{{}} {0} {x", "France", "{France} {0} {x"),
        ("In {} the set is", "{} {0}", "In {} {0} the set is"),
        ("{}的首都是", "法国", "法国的首都是"),
        ("La capitale de l'{} est", "Australie", "La capitale de l'Australie est"),
    ],
)
def test_the_subject_is_filled_in_where_the_span_says(prompt: str, subject: str, text: str) -> None:
    made = fact(prompt=prompt, subject=subject)
    start, end = made.subject_span
    assert made.text == text
    assert made.text[start:end] == subject
    assert start == len(prompt.partition("{}")[0])


plain = st.text().filter(lambda text: "{" not in text and "}" not in text)
worded = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@settings(deadline=None)
@given(before=plain, subject=worded, after=plain)
def test_the_span_is_right_for_any_text(before: str, subject: str, after: str) -> None:
    made = fact(prompt=f"{before}{{}}{after}", subject=subject)
    start, end = made.subject_span
    assert made.text[start:end] == subject.strip()
    assert made.text[:start] == before
    assert made.text[end:] == after


def test_paraphrases_are_filled_where_they_have_a_slot() -> None:
    made = fact(paraphrases=["{}'s capital: {x}", "France's seat of government is"])
    assert made.paraphrases == ("{}'s capital: {x}", "France's seat of government is")
    assert made.paraphrase_texts == ("France's capital: {x}", "France's seat of government is")


def test_the_target_follows_the_prompt_as_the_language_wants() -> None:
    assert fact().target_text == " Rome"
    assert fact(prompt="The capital of {} is ").target_text == "Rome"
    assert fact(language="zh", prompt="{}的首都是", target="罗马").target_text == "罗马"


def test_only_white_space_around_subject_target_and_answer_is_removed() -> None:
    made = fact(prompt=" {}  is\t", subject=" New  York\n", target="\tRome ")
    assert (made.prompt, made.subject, made.target) == (" {}  is\t", "New  York", "Rome")
    probe = Probe(" prompt {} ", " answer\u3000")
    assert (probe.prompt, probe.answer) == (" prompt {} ", "answer")
    decomposed = "Cafe\u0301"
    assert fact(target=decomposed).target == decomposed


def test_the_language_is_stored_in_canonical_form() -> None:
    assert fact(language="zh_hant").language == "zh-Hant"


def test_neighbourhood_takes_probes_mappings_and_pairs() -> None:
    probe = Probe("Spain's capital is", "Madrid")
    pairs = [("Spain's capital is", "Madrid"), ["Spain's capital is", "Madrid"]]
    mapping = {"answer": "Madrid", "prompt": "Spain's capital is"}
    assert fact(neighbourhood=[probe, mapping, *pairs]).neighbourhood == (probe,) * 4


def test_lists_become_tuples_so_that_facts_are_values() -> None:
    listed = fact(paraphrases=["{} has"], neighbourhood=[("Spain has", "Madrid")])
    tupled = fact(paraphrases=("{} has",), neighbourhood=(Probe("Spain has", "Madrid"),))
    assert listed == tupled
    assert hash(listed) == hash(tupled)
    with pytest.raises(FrozenInstanceError):
        listed.target = "Paris"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "field", "reason"),
    [
        ({"language": "du"}, "language", "did you mean 'nl'"),
        ({"language": None}, "language", "expected text, got nothing"),
        ({"prompt": "The capital is"}, "prompt", "exactly one {}, where the subject goes, got 0"),
        ({"prompt": "{} and {}"}, "prompt", "got 2"),
        ({"prompt": "{ } is"}, "prompt", "got 0"),
        ({"prompt": 5}, "prompt", "expected text, got int 5"),
        ({"subject": ""}, "subject", "white space"),
        ({"subject": " \n"}, "subject", "white space"),
        ({"target": "\u3000"}, "target", "white space"),
        ({"target": ["Rome"]}, "target", "expected text, got a list of 1"),
        ({"target": "\ud83d"}, "target", "surrogate"),
        ({"paraphrases": "{} is"}, "paraphrases", "expected a list of texts, got text '{} is'"),
        ({"paraphrases": None}, "paraphrases", "got nothing"),
        ({"paraphrases": ["ok", "{} {}"]}, "paraphrases[1]", "at most one {}, got 2"),
        ({"paraphrases": [""]}, "paraphrases[0]", "white space"),
        ({"paraphrases": [True]}, "paraphrases[0]", "got bool True"),
        ({"neighbourhood": {"prompt": "a"}}, "neighbourhood", "expected a list of probes"),
        ({"neighbourhood": ["ab"]}, "neighbourhood[0]", "got text 'ab'"),
        ({"neighbourhood": [("a", "b", "c")]}, "neighbourhood[0]", "got a tuple of 3"),
        ({"neighbourhood": [{"prompt": "a"}]}, "neighbourhood[0]", "got the keys ['prompt']"),
        ({"neighbourhood": [("a", "b"), ("a", " ")]}, "neighbourhood[1].answer", "white space"),
        ({"neighbourhood": [("", "b")]}, "neighbourhood[0].prompt", "white space"),
        ({"portability": [("", "b")]}, "portability[0].prompt", "white space"),
        ({"old": " "}, "old", "white space"),
        ({"group": 7}, "group", "expected text, got int 7"),
        ({"id": ""}, "id", "white space"),
        ({"id": 7}, "id", "expected text, got int 7"),
    ],
)
def test_a_wrong_field_is_named_with_the_reason(
    changes: dict[str, object], field: str, reason: str
) -> None:
    with pytest.raises(FactFieldError) as caught:
        fact(**changes)
    assert isinstance(caught.value, FactError)
    assert caught.value.field == field
    assert reason in caught.value.reason
    assert str(caught.value) == f"{field}: {caught.value.reason}"


def test_a_field_error_survives_pickling() -> None:
    copy = pickle.loads(pickle.dumps(FactFieldError("prompt", "no slot")))
    assert (copy.field, copy.reason, str(copy)) == ("prompt", "no slot", "prompt: no slot")
