"""Context prefixes: short texts, written by the model itself, that stand before a prompt.

They make a key and a target hold whatever comes before the fact. The model continues seed words in
the language of the edit.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from babel import Locale, UnknownLocaleError, localedata
from babel.localedata import LocaleDataDict
from torch import Tensor

from langedit.errors import ConfigError, NumericalError, OutputError
from langedit.facts import Language
from langedit.models import EditableModel

SEED_WORDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "en": ("The", "Therefore", "Because", "I", "You"),
        "de": ("Heute", "Kommst", "Weil", "Den", "Der"),
        "nl": ("Wij", "Daarom", "Omdat", "Het", "Jij"),
        "es": ("Ellos", "Por lo tanto", "Porque", "Vosotras", "Tú"),
        "fr": ("très", "Par conséquent", "Parce que", "Je suis", "Vous"),
        "zh": ("那个", "因此", "因为", "我", "你"),
    }
)
"""Seed words of the released code of LangEdit."""

TOP_K = 5
"""The sampler chooses among this many tokens, as in the released code."""


class Prefixes(Mapping[str, tuple[str, ...]]):
    """Language code -> texts that come before a prompt, complete with the separator. Immutable."""

    def __init__(self, texts: Mapping[str, Iterable[str]]) -> None:
        """Store texts by language.

        Args:
            texts: language code -> texts, used verbatim: "The city. " + prompt.

        Raises:
            ConfigError: a value is a single string, or not made of strings.
        """
        stored = {}
        for language, own in texts.items():
            listed = [own] if isinstance(own, str) else list(own)
            if isinstance(own, str) or not all(isinstance(text, str) for text in listed):
                raise ConfigError(
                    f"prefixes of {language!r}: expected a list of texts, got {own!r}"
                )
            stored[Language.parse(language).code] = tuple(listed)
        self._texts = MappingProxyType(stored)

    def __getitem__(self, language: str) -> tuple[str, ...]:
        return self._texts[language]

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)

    def __repr__(self) -> str:
        return f"Prefixes({dict(self._texts)!r})"

    def of(self, language: str) -> tuple[str, ...]:
        """The texts of a language.

        Raises:
            ConfigError: there are none.
        """
        if language not in self._texts:
            raise ConfigError(
                f"prefixes: expected texts for {language!r}, got {', '.join(self._texts) or 'none'}"
                ": add them, or give no prefixes and let the model write them"
            )
        return self._texts[language]

    def save(self, path: str | Path) -> None:
        """Write a JSON object: language -> list of texts.

        Raises:
            OutputError: the file cannot be written.
        """
        text = json.dumps({k: list(v) for k, v in self.items()}, ensure_ascii=False, indent=2)
        try:
            Path(path).write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise OutputError(f"{path}: expected a writable file, got an error: {error}") from None

    @classmethod
    def load(cls, path: str | Path) -> Prefixes:
        """Read what `save` wrote.

        Raises:
            ConfigError: the file cannot be read or holds something else.
        """
        try:
            texts = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: expected a JSON file of prefixes, got: {error}") from None
        if not isinstance(texts, dict) or not all(isinstance(v, list) for v in texts.values()):
            raise ConfigError(f"{path}: expected an object of language codes to lists of texts")
        return cls(texts)


def seed_words_of(
    language: str, given: Mapping[str, Iterable[str]] | None = None
) -> tuple[str, ...]:
    """Words that the prefixes of a language begin with.

    In this order: those given for the code; those given for its language alone (`pt` for `pt-BR`);
    the released ones; the names of the days from Monday to Friday in Unicode CLDR.

    Raises:
        ConfigError: nothing is given and CLDR has no names of days in the language.
    """
    code = Language.parse(language).code
    base = code.partition("-")[0]
    for source in (given or {}, SEED_WORDS):
        for key in (code, base):
            if key in source:
                return tuple(source[key])
    days = _cldr_days(code)
    if days is None:
        raise ConfigError(
            f"seed_words: expected words for {code!r}, of which CLDR has no names of days: give "
            f'some, for example seed_words = {{"{code}" = ["...", "..."]}}, or give prefixes'
        )
    return days


def generate_prefixes(
    model: EditableModel,
    languages: Iterable[str],
    *,
    count: int = 5,
    length: int = 10,
    seed: int = 0,
    seed_words: Mapping[str, Iterable[str]] | None = None,
) -> Prefixes:
    """Let the model continue seed words, and end each text with the language's sentence break.

    The sampler draws among the five likeliest tokens that are no special tokens, from a random
    stream of its own for each text: a text depends on the model, its seed word, its number and the
    seed, and on no other language.

    Args:
        model: the model as it is now.
        languages: language codes.
        count: texts a language; seed words are taken in turn.
        length: tokens added to a seed word.
        seed: of the random streams.
        seed_words: seed words by language, instead of the built-in ones.

    Raises:
        ConfigError: a language has no seed words.
        NumericalError: the model's activations overflow after a seed word.
    """
    texts = {}
    for language in dict.fromkeys(languages):
        known = Language.parse(language)
        seeds = seed_words_of(known.code, seed_words)
        texts[known.code] = [
            _continue(model, seeds[i % len(seeds)], length, _stream(seed, i)) + known.sentence_break
            for i in range(count)
        ]
    return Prefixes(texts)


def _stream(seed: int, index: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * 1_000_003 + index)


def _continue(model: EditableModel, word: str, length: int, generator: torch.Generator) -> str:
    """A seed word and `length` sampled tokens, as one line of clean text."""
    encoded = model.tokenizer(word, add_special_tokens=True, verbose=False)["input_ids"]
    special = set(model.tokenizer.all_special_ids)
    ids = list(encoded)
    while len(ids) > 1 and ids[-1] in special:  # an end token that the tokenizer adds
        ids.pop()
    for _ in range(length):
        batch = torch.tensor([ids], device=model.device)
        with torch.no_grad():
            logits = model.model(input_ids=batch, use_cache=False).logits[0, -1]
        if not bool(logits.float().logsumexp(dim=0).isfinite()):
            raise NumericalError(
                f"prefixes: expected the model to go on after {word!r}, got logits that are not "
                f"finite: activations overflow {logits.dtype}. Load it in float32 or bfloat16"
            )
        ids.append(_sample(logits, special, generator))
    return _clean(str(model.tokenizer.decode(ids, skip_special_tokens=True)))


def _sample(logits: Tensor, forbidden: set[int], generator: torch.Generator) -> int:
    """One of the likeliest tokens, on the CPU so that every device has the same random stream."""
    scores = logits.float().cpu()
    scores[[token for token in forbidden if token < len(scores)]] = -torch.inf
    best = scores.topk(min(TOP_K, len(scores) - len(forbidden)))
    chosen = torch.multinomial(best.values.softmax(dim=0), 1, generator=generator)
    return int(best.indices[chosen])


def _clean(text: str) -> str:
    """Without broken and control characters; any white space is one blank."""
    kept = (c for c in text if c.isspace() or (c.isprintable() and c != "\ufffd"))
    return " ".join("".join(kept).split())


def _cldr_days(code: str) -> tuple[str, ...] | None:
    """Monday to Friday, or `None` where CLDR only repeats its root."""
    try:
        locale = Locale.parse(code, sep="-")
    except (UnknownLocaleError, ValueError):
        return None
    days = tuple(str(locale.days["format"]["wide"][day]) for day in range(5))
    # A copy: reading the root itself would settle what locales that are read later inherit from it.
    tables: dict[Any, Any] = deepcopy(localedata.load("root"))
    root = LocaleDataDict(tables)["days"]["format"]["wide"]
    return None if days == tuple(str(root[day]) for day in range(5)) else days
