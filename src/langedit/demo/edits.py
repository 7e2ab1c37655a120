"""Which atlas facts the demo edits, and which it leaves alone.

A sixth of the territories, of the languages and of the currencies is held out together with their
cities: nobody edits them in any language, and they are asked for specificity. Everything else is
decided by the seed, not by what a method does well.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from langedit.demo.atlas import Atlas, Triple
from langedit.facts import Fact, Language, Probe

EDITING_TEMPLATE = 0
PARAPHRASE_TEMPLATES = (1, 2)

HELD_OUT_SHARE = 1 / 6

SHOWN = (("currency", "IS"), ("official_language", "BR"), ("city_country", "Africa/Nairobi"))
"""Facts (relation, subject) that are edited in all six languages, and shown before and after."""

SHOWN_OBJECTS = ("THB", "ja", "PE")


@dataclass(frozen=True)
class AtlasEdit:
    """A triple of the atlas, and the object it shall have from now on."""

    triple: Triple
    new_object: str

    @property
    def key(self) -> str:
        """Of the same edit in all languages; the same triple with another object is another."""
        return f"{self.triple.relation}/{self.triple.subject}={self.new_object}"


def choose_batches(
    atlas: Atlas, *, batches: int = 24, batch_size: int = 25, seed: int = 0
) -> list[tuple[Fact, ...]]:
    """Batches of one language each, the languages in turn.

    A subject is edited at most once in a language, and most edits differ between languages; the
    facts of `SHOWN` alone are edited in all of them, in the first batch of each.

    Args:
        atlas: the facts.
        batches: how many batches; a multiple of the number of languages.
        batch_size: facts a batch.
        seed: of every choice.

    Raises:
        ValueError: the batches do not share out evenly among the languages.
    """
    languages = atlas.languages
    if batches % len(languages) or batches < 1:
        raise ValueError(f"expected a multiple of {len(languages)} batches, got {batches}")
    rounds = batches // len(languages)
    held_out = held_out_triples(atlas, seed)
    left_alone = set(held_out)
    shown = shown_edits(atlas)
    reserved = {edit.triple.subject for edit in shown}
    free = [t for t in atlas.triples if t not in left_alone and t.subject not in reserved]
    by_language: dict[str, list[AtlasEdit]] = {}
    for language in languages:
        edits = draw_edits(atlas, language, free, rounds * batch_size - len(shown), seed)
        first = batch_size - len(shown)
        by_language[language] = [*edits[:first], *shown, *edits[first:]]
    result = []
    for turn in range(rounds):
        for language in languages:
            chosen = by_language[language][turn * batch_size : (turn + 1) * batch_size]
            rng = random.Random(f"{seed}-{language}-{turn}")
            result.append(tuple(to_fact(atlas, edit, language, held_out, rng) for edit in chosen))
    return result


def draw_edits(
    atlas: Atlas, language: str, triples: Sequence[Triple], count: int, seed: int
) -> list[AtlasEdit]:
    """Draw triples with distinct subjects in a language, and give each a false object.

    Args:
        atlas: the facts.
        language: in which no two subjects share a name.
        triples: to draw from; the relations take turns.
        count: how many.
        seed: of the draw, which differs between languages.

    Raises:
        ValueError: there are fewer subjects.
    """
    rng = random.Random(f"{seed}-{language}")
    own = _distinct_subjects(atlas, language, triples, count, rng)
    return [AtlasEdit(t, rng.choice(atlas.false_objects(t))) for t in own]


def shown_edits(atlas: Atlas) -> tuple[AtlasEdit, ...]:
    """The edits of `SHOWN`.

    Raises:
        KeyError: the atlas lacks one of them.
    """
    known = {(t.relation, t.subject): t for t in atlas.triples}
    return tuple(AtlasEdit(known[key], new) for key, new in zip(SHOWN, SHOWN_OBJECTS, strict=True))


def held_out_triples(atlas: Atlas, seed: int) -> tuple[Triple, ...]:
    """Triples that are never edited: those of the held-out subjects."""
    reserved = {subject for _, subject in SHOWN}
    countries = {t.subject: t.object for t in atlas.of_relation("city_country")}
    subjects = sorted({t.subject for t in atlas.triples} - set(countries) - reserved)
    rng = random.Random(f"{seed}-held-out")
    chosen = set(rng.sample(subjects, round(len(subjects) * HELD_OUT_SHARE)))
    chosen |= {city for city, country in countries.items() if country in chosen} - reserved
    return tuple(t for t in atlas.triples if t.subject in chosen)


def to_fact(
    atlas: Atlas,
    edit: AtlasEdit,
    language: str,
    held_out: Sequence[Triple],
    rng: random.Random,
) -> Fact:
    """Write an edit as a fact with probes.

    Its neighbourhood: one held-out fact of the same relation, with the same true object where
    there is one, and one of any relation; both with their true answers. `old` is the true object,
    `group` the edit, equal in all languages.
    """
    triple = edit.triple
    same_relation = [t for t in held_out if t.relation == triple.relation]
    same_object = [t for t in same_relation if t.object == triple.object]
    neighbours = (rng.choice(same_object or same_relation), rng.choice(held_out))
    prompt, subject, _ = atlas.statement(triple, language, EDITING_TEMPLATE)
    return Fact(
        language=language,
        prompt=prompt,
        subject=subject,
        target=atlas.object_label(triple.relation, edit.new_object, language),
        paraphrases=tuple(
            atlas.statement(triple, language, index)[0] for index in PARAPHRASE_TEMPLATES
        ),
        neighbourhood=tuple(true_probe(atlas, t, language) for t in neighbours),
        old=atlas.object_label(triple.relation, triple.object, language),
        group=edit.key,
        id=f"{language}/{triple.relation}/{triple.subject}",
    )


def true_probe(atlas: Atlas, triple: Triple, language: str) -> Probe:
    """Ask for a triple's own object, with the editing template."""
    sentence = atlas.sentence(triple, language, EDITING_TEMPLATE)
    answer = atlas.object_label(triple.relation, triple.object, language)
    stop = Language.parse(language).sentence_break.strip()
    return Probe(sentence.removesuffix(answer + stop).rstrip(), answer)


def subject_kinds(batches: Sequence[Sequence[Fact]]) -> list[str]:
    """How much of each edit's subject was edited before it, fact by fact.

    Returns:
        `same name` if a fact of an earlier batch has its very name (in another language), `edited
        before` if one is about the same thing under another name, else `new`.
    """
    kinds = []
    names: set[str] = set()
    things: set[str] = set()
    for batch in batches:
        own = [(fact.subject, str(fact.id).split("/", 2)[-1]) for fact in batch]
        for name, thing in own:
            known = "edited before" if thing in things else "new"
            kinds.append("same name" if name in names else known)
        names |= {name for name, _ in own}
        things |= {thing for _, thing in own}
    return kinds


def _distinct_subjects(
    atlas: Atlas, language: str, triples: Sequence[Triple], count: int, rng: random.Random
) -> list[Triple]:
    """Draw triples, relation by relation in turn, no name of a subject twice in the language."""
    by_relation: dict[str, list[Triple]] = {}
    for triple in rng.sample(list(triples), len(triples)):
        by_relation.setdefault(triple.relation, []).append(triple)
    queues = [by_relation[relation] for relation in sorted(by_relation)]
    rng.shuffle(queues)
    taken: list[Triple] = []
    used: set[str] = set()
    while len(taken) < count and any(queues):
        for queue in queues:
            while queue and atlas.subject_label(queue[-1], language) in used:
                queue.pop()
            if queue and len(taken) < count:
                taken.append(queue.pop())
                used.add(atlas.subject_label(taken[-1], language))
    if len(taken) < count:
        raise ValueError(f"expected {count} subjects to edit, the atlas has {len(taken)}")
    return taken
