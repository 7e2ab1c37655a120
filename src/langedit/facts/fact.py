"""What to edit: one fact in one language, and the probes that say how well it was edited."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from langedit.errors import FactError
from langedit.facts.languages import Language

_SLOT = "{}"


class FactFieldError(FactError):
    """One field of a fact is wrong.

    Attributes:
        field: The field's name, such as ``"prompt"`` or ``"neighbourhood[1].answer"``.
        reason: What was expected, what came, and what to do.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(field, reason)
        self.field = field
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.field}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Probe:
    """A question with the answer that is right after an edit.

    Attributes:
        prompt: The text before the answer, used verbatim: a ``{}`` in it is plain text.
        answer: The right answer. White space around it is removed.

    Raises:
        FactFieldError: A field is no text, or blank.
    """

    prompt: str
    answer: str

    def __post_init__(self) -> None:
        _text("prompt", self.prompt)
        object.__setattr__(self, "answer", _text("answer", self.answer).strip())


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact to write into a model: after the prompt with its subject, the target comes next.

    Texts are kept as they are given, except that white space around the subject and the target is
    removed. Lists are stored as tuples.

    Attributes:
        language: BCP-47 code; stored in its canonical form (``zh_hant`` becomes ``zh-Hant``).
        prompt: Text with exactly one ``{}``, where the subject goes. Other braces are plain text.
        subject: What the fact is about.
        target: What the model should say next, without a space before it.
        paraphrases: Other prompts with the same target; each may hold at most one ``{}``.
        neighbourhood: Probes about other subjects. Mappings with the keys ``prompt`` and
            ``answer``, and pairs of both, are accepted too. An edit should leave them as they are.
        portability: Probes whose answers follow from the new fact, given like the neighbourhood.
        old: The answer that the edit replaces, where it is known.
        group: Equal for the same fact in other languages: the one may be edited, the others asked.
        id: A name for reports.

    Raises:
        FactFieldError: A field is missing, of a wrong type, or cannot be used.
    """

    language: str
    prompt: str
    subject: str
    target: str
    paraphrases: tuple[str, ...] = ()
    neighbourhood: tuple[Probe, ...] = ()
    portability: tuple[Probe, ...] = ()
    old: str | None = None
    group: str | None = None
    id: str | None = None

    def __post_init__(self) -> None:
        checked = {
            "language": _language_code(self.language),
            "prompt": _prompt(self.prompt),
            "subject": _text("subject", self.subject).strip(),
            "target": _text("target", self.target).strip(),
            "paraphrases": _paraphrases(self.paraphrases),
            "neighbourhood": _probes("neighbourhood", self.neighbourhood),
            "portability": _probes("portability", self.portability),
            "old": None if self.old is None else _text("old", self.old).strip(),
            "group": None if self.group is None else _text("group", self.group),
            "id": None if self.id is None else _text("id", self.id),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @property
    def text(self) -> str:
        """The prompt with the subject filled in."""
        return _fill(self.prompt, self.subject)

    @property
    def subject_span(self) -> tuple[int, int]:
        """Where the subject stands in ``text``: first character, and one past the last."""
        start = self.prompt.index(_SLOT)
        return start, start + len(self.subject)

    @property
    def paraphrase_texts(self) -> tuple[str, ...]:
        """The paraphrases, with the subject filled in where they hold a ``{}``."""
        return tuple(_fill(paraphrase, self.subject) for paraphrase in self.paraphrases)

    @property
    def target_text(self) -> str:
        """The target as it follows ``text``: with a space before it, if the language has one."""
        return Language.parse(self.language).join(self.target, after=self.text)


def _fill(prompt: str, subject: str) -> str:
    """Put the subject in place of the first ``{}``; ``str.format`` would trip on other braces."""
    before, slot, after = prompt.partition(_SLOT)
    return f"{before}{subject}{after}" if slot else prompt


def _text(field: str, value: object) -> str:
    """Return ``value`` if it is text that says something and can be encoded."""
    if not isinstance(value, str):
        raise FactFieldError(field, f"expected text, got {_kind(value)}")
    if not value.strip():
        raise FactFieldError(field, "expected text, got nothing but white space: fill it in")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise FactFieldError(
            field, "holds half of a surrogate pair, which no encoding can store: repair the text"
        )
    return value


def _prompt(value: object) -> str:
    prompt = _text("prompt", value)
    slots = prompt.count(_SLOT)
    if slots != 1:
        raise FactFieldError(
            "prompt", f"expected exactly one {{}}, where the subject goes, got {slots}: {prompt!r}"
        )
    return prompt


def _paraphrases(value: object) -> tuple[str, ...]:
    paraphrases = []
    for index, item in enumerate(_items("paraphrases", value, "texts")):
        field = f"paraphrases[{index}]"
        slots = _text(field, item).count(_SLOT)
        if slots > 1:
            raise FactFieldError(field, f"expected at most one {{}}, got {slots}: {item!r}")
        paraphrases.append(str(item))
    return tuple(paraphrases)


def _probes(field: str, value: object) -> tuple[Probe, ...]:
    probes = []
    for index, item in enumerate(_items(field, value, "probes")):
        try:
            probes.append(_probe(item))
        except FactFieldError as error:
            raise FactFieldError(f"{field}[{index}].{error.field}", error.reason) from None
        except FactError as error:
            raise FactFieldError(f"{field}[{index}]", str(error)) from None
    return tuple(probes)


def _probe(item: object) -> Probe:
    """Read a probe, a mapping with its two keys, or a pair."""
    if isinstance(item, Probe):
        return item
    if isinstance(item, Mapping) and set(item) == {"prompt", "answer"}:
        return Probe(item["prompt"], item["answer"])
    if isinstance(item, list | tuple) and len(item) == 2:
        return Probe(*item)
    got = f"the keys {sorted(map(str, item))}" if isinstance(item, Mapping) else _kind(item)
    raise FactError(f"expected a prompt and an answer (keys or a pair), got {got}")


def _items(field: str, value: object, kind: str) -> list[object]:
    if not isinstance(value, list | tuple):
        raise FactFieldError(field, f"expected a list of {kind}, got {_kind(value)}")
    return list(value)


def _language_code(value: object) -> str:
    try:
        return Language.parse(_text("language", value)).code
    except FactFieldError:
        raise
    except FactError as error:
        raise FactFieldError("language", str(error)) from None


def _kind(value: object) -> str:
    """Name a value's type in a message: ``text 'abc'``, ``a list of 3``, ``int 5``."""
    if isinstance(value, str):
        return f"text {value!r}"
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    return "nothing" if value is None else f"{type(value).__name__} {value!r}"
