"""What a format is, and how its reader puts a fact together."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from langedit.facts.datasets.entries import DatasetFact
from langedit.facts.datasets.subjects import Found, MissingSubject, find_subject
from langedit.facts.datasets.values import Values
from langedit.facts.fact import Fact, FactFieldError, Probe
from langedit.facts.languages import Language

_NQ = "nq question: "


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """How records are read.

    Attributes:
        missing_subject: What to do about a subject that is not in its question as it is written.
        keep_nq_prefix: Leave ``"nq question: "`` at the front of a neighbourhood question. By
            default it is taken off: it names the corpus the question is from (Natural Questions),
            it is no part of the question, and the translations do not have it. Published numbers
            were measured with it.
    """

    missing_subject: MissingSubject = "reject"
    keep_nq_prefix: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a reader knows of a record beside its fields.

    Attributes:
        index: Number of the record in its source, from 0.
        language: Of the texts.
        options: How to read.
        english: The English side, in a format that pairs languages.
    """

    index: int
    language: Language
    options: ReadOptions
    english: Values | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One shape of record.

    Attributes:
        name: As the user writes it.
        summary: One line for people.
        keys: Fields that each record has (each side of it, if languages are paired).
        read: Turns the fields of one record in one language into a fact; raises FactFieldError.
        paired: Whether a record is an object of sides by language code: ``{"en": …, "de": …}``.
        language: Of formats that pair no languages: the language if the user states none.
        language_field: Of formats whose records say their language: the field that does.
    """

    name: str
    summary: str
    keys: frozenset[str]
    read: Callable[[Values, Context], DatasetFact] = field(repr=False)
    paired: bool = False
    language: str | None = None
    language_field: str | None = None


def marked(values: Values, template: str, subject: str) -> tuple[str, Found]:
    """Fill a subject into a field that marks its place by ``{}``; return question and place.

    Raises:
        FactFieldError: The field does not hold exactly one ``{}``, or is no text.
    """
    text, wanted = values.text(template), subject.strip()
    before, slot, after = text.partition("{}")
    if not slot or "{}" in after:
        raise FactFieldError(
            values.name(template),
            f"expected exactly one {{}}, where the subject goes, got {text.count('{}')}: {text!r}",
        )
    return f"{before}{wanted}{after}", Found(len(before), len(before) + len(wanted), "marked")


def locate(values: Values, question: str, subject: str, context: Context) -> Found:
    """Find the subject of one field in the question of another.

    Raises:
        FactFieldError: It is not there, or one of the fields is no text.
    """
    text, wanted = values.text(question), values.text(subject)
    english = context.english.fields.get(subject) if context.english is not None else None
    english = english if isinstance(english, str) else None
    policy, spaced = context.options.missing_subject, context.language.joins_with_space
    found = find_subject(text, wanted, english, policy, spaced=spaced)
    if found is None:
        last = policy == "english-subject"
        wider = "" if last else f", or choose a wider rule for missing subjects than {policy}"
        raise FactFieldError(
            values.name(subject),
            f"not in the question: expected {wanted!r} in {text!r}; mend the row{wider}",
        )
    return found


def entry(
    values: Values,
    context: Context,
    *,
    question: str,
    found: Found,
    target: str,
    key: str | None = None,
    paraphrases: Iterable[str] = (),
    neighbourhood: Iterable[Probe] = (),
    old: str | None = None,
    portability: tuple[Probe, ...] = (),
) -> DatasetFact:
    """Put a fact together from a question and where its subject stands.

    Args:
        values: The record, for messages.
        context: Number and language of the record.
        question: The prompt with its subject.
        found: The subject in the question.
        target: What the edit writes.
        key: Name of the fact in all languages; the record's number if None.
        paraphrases: Other questions, verbatim.
        neighbourhood: Probes about other subjects.
        old: The answer that the edit replaces.
        portability: Questions whose answers follow.

    Raises:
        FactFieldError: The parts make no fact.
    """
    key = str(context.index) if key is None else key
    try:
        fact = Fact(
            language=context.language.code,
            prompt=f"{question[: found.start]}{{}}{question[found.end :]}",
            subject=question[found.start : found.end],
            target=target,
            paraphrases=tuple(map(_verbatim, paraphrases)),
            neighbourhood=tuple(_without_prefix(probe, context) for probe in neighbourhood),
            portability=portability,
            old=old,
            group=key,
            id=f"{context.language.code}/{key}",
        )
    except FactFieldError as error:
        raise FactFieldError(values.name(error.field), error.reason) from None
    return DatasetFact(fact=fact, key=key, found=found.how)


def _verbatim(paraphrase: str) -> str:
    """Return a paraphrase in which no ``{}`` would be taken for the subject's place."""
    if "{}" in paraphrase:
        raise FactFieldError("paraphrases", f"expected a text without {{}}, got {paraphrase!r}")
    return paraphrase


def _without_prefix(probe: Probe, context: Context) -> Probe:
    if context.options.keep_nq_prefix:
        return probe
    return Probe(probe.prompt.removeprefix(_NQ), probe.answer)
