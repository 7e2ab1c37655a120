"""Which facts the demo edits."""

from __future__ import annotations

import pytest

from langedit.demo.atlas import Atlas
from langedit.demo.edits import (
    SHOWN,
    choose_batches,
    held_out_triples,
    shown_edits,
    subject_kinds,
)
from langedit.facts import Fact, check_batch, comparable


@pytest.fixture(scope="module")
def atlas():
    return Atlas.from_cldr()


@pytest.fixture(scope="module")
def batches(atlas):
    return choose_batches(atlas)


def triple_of(atlas, fact):
    _, relation, subject = fact.id.split("/", 2)
    return next(t for t in atlas.of_relation(relation) if t.subject == subject)


def test_languages_take_turns(atlas, batches):
    assert len(batches) == 24
    assert {len(batch) for batch in batches} == {25}
    for index, batch in enumerate(batches):
        assert {fact.language for fact in batch} == {atlas.languages[index % 6]}
        check_batch(batch)


def test_no_subject_twice_in_a_language(atlas, batches):
    for language in atlas.languages:
        subjects = [f.subject for batch in batches for f in batch if f.language == language]
        assert len(subjects) == len(set(subjects)) == 100


def test_new_objects_are_false_and_of_the_relation(atlas, batches):
    for batch in batches:
        for fact in batch:
            triple = triple_of(atlas, fact)
            labels = {
                atlas.object_label(triple.relation, o, fact.language)
                for o in atlas.false_objects(triple)
            }
            assert fact.target in labels
            assert fact.target != atlas.object_label(triple.relation, triple.object, fact.language)


def test_held_out_facts_are_never_edited(atlas, batches):
    held_out = set(held_out_triples(atlas, 0))
    edited = {triple_of(atlas, fact) for batch in batches for fact in batch}
    assert not held_out & edited
    subjects = {t.subject for t in held_out}
    assert not subjects & {t.subject for t in edited}
    relations = {t.relation for t in held_out}
    assert relations == set(atlas.relations)
    probes = [probe for batch in batches for fact in batch for probe in fact.neighbourhood]
    assert len(probes) == 1200
    sentences = {atlas.sentence(t, language, 0) for t in held_out for language in atlas.languages}
    assert all(
        probe.prompt + gap + probe.answer + stop in sentences
        for batch in batches
        for fact in batch
        for probe in fact.neighbourhood
        for gap, stop in [("", "。") if fact.language == "zh" else (" ", ".")]
    )


def test_every_relation_is_edited_about_as_often(atlas, batches):
    counts = dict.fromkeys(atlas.relations, 0)
    for batch in batches:
        for fact in batch:
            counts[fact.id.split("/")[1]] += 1
    assert min(counts.values()) >= 35
    assert max(counts.values()) <= 55


def test_shown_facts_are_edited_in_every_language(atlas, batches):
    assert [(e.triple.relation, e.triple.subject) for e in shown_edits(atlas)] == list(SHOWN)
    ids = [fact.id for batch in batches[:6] for fact in batch]
    for relation, subject in SHOWN:
        assert all(f"{code}/{relation}/{subject}" in ids for code in atlas.languages)


def test_another_seed_gives_other_edits(atlas, batches):
    assert choose_batches(atlas) == batches
    other = choose_batches(atlas, seed=1)
    assert {f.id for b in other for f in b} != {f.id for b in batches for f in b}


def test_batches_must_share_out_evenly(atlas):
    with pytest.raises(ValueError, match="multiple of 6"):
        choose_batches(atlas, batches=7)


def test_facts_know_their_old_answer_and_their_group(atlas, batches):
    facts = [fact for batch in batches for fact in batch]
    groups: dict[str, list] = {}
    for fact in facts:
        triple = triple_of(atlas, fact)
        assert fact.old == atlas.object_label(triple.relation, triple.object, fact.language)
        assert comparable(fact.old) != comparable(fact.target)
        assert fact.group.startswith(f"{triple.relation}/{triple.subject}=")
        groups.setdefault(fact.group, []).append(fact.language)
    for edit in shown_edits(atlas):
        assert sorted(groups[edit.key]) == sorted(atlas.languages)
    assert all(len(set(languages)) == len(languages) for languages in groups.values())


def test_kinds_of_subjects():
    def fact(language, subject, thing):
        return Fact(language, "{} is in", subject, "Peru", id=f"{language}/city_country/{thing}")

    batches = [
        [fact("en", "Rome", "rome"), fact("en", "Nairobi", "nairobi")],
        [fact("de", "Rom", "rome"), fact("de", "Nairobi", "nairobi"), fact("de", "Paris", "paris")],
    ]
    kinds = subject_kinds(batches)
    assert kinds == ["new", "new", "edited before", "same name", "new"]
