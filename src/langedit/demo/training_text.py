"""Training text of the bundled model: statements of the atlas, and calendar prose.

Sentences are tokenised once; documents are then drawn as token ids. A document is one to five
sentences of one language after BOS. Statements that the model still gets wrong are drawn more
often, so that no step is spent on what is known.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from langedit.demo.atlas import Atlas
from langedit.demo.prose import calendar_sentence
from langedit.demo.templates import LEADS

OTHER_SHARE = 0.35
"""Share of the tokens outside objects that is trained on: they are easy, and logits are dear."""

_LEAST_LOSS, _MOST_LOSS = 0.15, 3.0
"""Bounds (nats) of the loss by which statements are drawn."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Tokens:
    """A tokenised sentence.

    Attributes:
        ids: token ids, (n,).
        marks: true on the tokens of the statement's object, (n,).
        subject: true on the tokens of its subject, (n,).
    """

    ids: NDArray[np.int64]
    marks: NDArray[np.bool_]
    subject: NDArray[np.bool_]

    @classmethod
    def plain(cls, ids: NDArray[np.int64]) -> Tokens:
        """Tokens that belong to no statement."""
        nothing = np.zeros(len(ids), dtype=np.bool_)
        return cls(ids=ids, marks=nothing, subject=nothing)


@dataclass(frozen=True, kw_only=True, eq=False)
class Sentence:
    """A sentence as it opens a document, and as it follows another sentence."""

    opening: Tokens
    following: Tokens


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingBatch:
    """Packed documents.

    Attributes:
        ids: token ids, (rows, length).
        wanted: where a token is trained on, (rows, length).
        language: index of the language of an object token, else -1, (rows, length).
        triple: index of the triple of an object token, else -1, (rows, length).
        subject: number of the subject a token belongs to, counted within the row, else -1,
            (rows, length).
        name: what that subject is called: a number for each subject of the atlas and language,
            else -1, (rows, length). Numbers of one subject are equal modulo the number of subjects.
    """

    ids: torch.Tensor
    wanted: torch.Tensor
    language: NDArray[np.int64]
    triple: NDArray[np.int64]
    subject: torch.Tensor
    name: torch.Tensor


class TrainingText:
    """Draws documents; `feedback` tells it which statements are not known yet."""

    def __init__(
        self,
        atlas: Atlas,
        tokenizer: PreTrainedTokenizerFast,
        *,
        seed: int,
        prose_sentences: int = 4000,
        prose_share: float = 0.12,
        echo_share: float = 0.0,
    ) -> None:
        """Tokenise every statement (all templates, all languages) and some calendar prose.

        Args:
            atlas: the facts.
            tokenizer: the bundled model's tokenizer.
            seed: of the drawing.
            prose_sentences: how many sentences of calendar prose a language.
            prose_share: share of documents that are calendar prose.
            echo_share: share of documents of statements that are followed by one which says
                something else of the same subjects.
        """
        self.languages = atlas.languages
        self._rng = random.Random(seed)
        self._prose_share = prose_share
        self._echo_share = echo_share
        subjects = sorted({triple.subject for triple in atlas.triples})
        self.subject_count = len(subjects)
        place = {subject: index for index, subject in enumerate(subjects)}
        self._subject_of = [place[triple.subject] for triple in atlas.triples]
        self._about: list[list[int]] = [[] for _ in subjects]
        for index, subject in enumerate(self._subject_of):
            self._about[subject].append(index)
        self._bos = int(tokenizer.bos_token_id)
        self._statements = {
            language: list(_statements(atlas, tokenizer, language)) for language in self.languages
        }
        self._leads = {
            language: _sentences(tokenizer, language, [_Text(lead.strip()) for lead in leads])
            for language, leads in LEADS.items()
        }
        self._prose = {
            language: _sentences(
                tokenizer,
                language,
                [_Text(text) for text in prose_lines(language, prose_sentences, seed)],
            )
            for language in self.languages
        }
        self._loss = np.full((len(self.languages), len(atlas.triples)), _MOST_LOSS)
        self.reweigh()

    def feedback(
        self, language: NDArray[np.int64], triple: NDArray[np.int64], loss: NDArray[np.float64]
    ) -> None:
        """Take note of the loss (nats) of object tokens of some statements."""
        seen = self._loss[language, triple]
        self._loss[language, triple] = 0.7 * seen + 0.3 * loss

    def reweigh(self) -> None:
        """Draw from now on by the losses noted so far."""
        weights = np.cumsum(np.clip(self._loss, _LEAST_LOSS, _MOST_LOSS), axis=1)
        self._weights = [row.tolist() for row in weights]

    def batch(self, rows: int, length: int) -> TrainingBatch:
        """Draw `rows` rows of `length` tokens, documents packed one after another."""
        ids = np.zeros((rows, length), dtype=np.int64)
        marks = np.zeros((rows, length), dtype=np.bool_)
        language = np.full((rows, length), -1, dtype=np.int64)
        triple = np.full((rows, length), -1, dtype=np.int64)
        subject = np.full((rows, length), -1, dtype=np.int64)
        name = np.full((rows, length), -1, dtype=np.int64)
        for row in range(rows):
            filled, subjects = 0, 0
            documents = self._documents()
            while filled < length:
                code, document = next(documents)
                for pick, tokens in document:
                    take = slice(filled, min(filled + len(tokens.ids), length))
                    size = take.stop - take.start
                    ids[row, take] = tokens.ids[:size]
                    marks[row, take] = tokens.marks[:size]
                    subject[row, take][tokens.subject[:size]] = subjects
                    subjects += 1
                    if pick >= 0:
                        own = code * self.subject_count + self._subject_of[pick]
                        name[row, take][tokens.subject[:size]] = own
                        language[row, take][tokens.marks[:size]] = code
                        triple[row, take][tokens.marks[:size]] = pick
                    filled = take.stop
        chance = np.random.default_rng(self._rng.getrandbits(32)).random((rows, length))
        wanted = (marks | (chance < OTHER_SHARE)) & (ids != self._bos)
        wanted[:, 0] = False
        return TrainingBatch(
            ids=torch.from_numpy(ids),
            wanted=torch.from_numpy(wanted),
            language=language,
            triple=triple,
            subject=torch.from_numpy(subject),
            name=torch.from_numpy(name),
        )

    def _documents(self) -> Iterator[tuple[int, list[tuple[int, Tokens]]]]:
        """Draw documents without end: the index of the language, and the document."""
        rng = self._rng
        while True:
            code = rng.randrange(len(self.languages))
            document = list(self._document(code))
            yield code, document
            if self._echo_share and rng.random() < self._echo_share:
                others = [
                    rng.choice([i for i in self._about[self._subject_of[pick]] if i != pick])
                    for pick, _ in document
                    if pick >= 0 and len(self._about[self._subject_of[pick]]) > 1
                ]
                if others:
                    yield code, list(self._document(code, rng.sample(others, len(others))))

    def _document(self, code: int, given: Sequence[int] = ()) -> Iterator[tuple[int, Tokens]]:
        """Draw one document of a language: pairs of triple index (or -1) and tokens."""
        rng, language = self._rng, self.languages[code]
        yield -1, Tokens.plain(np.array([self._bos]))
        if not given and rng.random() < self._prose_share:
            chosen = rng.choices(self._prose[language], k=rng.choice((1, 2, 3, 4)))
            picks = [-1] * len(chosen)
        else:
            statements = self._statements[language]
            picks = list(given) or rng.choices(
                range(len(statements)),
                cum_weights=self._weights[code],
                k=rng.choice((1, 1, 1, 2, 2, 3, 4, 5)),
            )
            chosen = [rng.choice(statements[pick]) for pick in picks]
            if rng.random() < 0.2:
                chosen.insert(0, rng.choice(self._leads[language]))
                picks.insert(0, -1)
            elif len(chosen) > 1 and rng.random() < 0.3:
                chosen[0] = _broken_off(chosen[0], rng)
                picks[0] = -1
        for place, (pick, sentence) in enumerate(zip(picks, chosen, strict=True)):
            yield pick, sentence.following if place else sentence.opening


def prose_lines(language: str, count: int, seed: int | str) -> list[str]:
    """Write `count` sentences of calendar prose; another seed gives other text."""
    rng = random.Random(f"{seed}-{language}")
    return [calendar_sentence(language, rng) for _ in range(count)]


def training_sentences(atlas: Atlas, seed: int) -> Iterator[str]:
    """All texts that the tokenizer is trained on, in a fixed order."""
    for language in atlas.languages:
        for triple in atlas.triples:
            for index in range(len(atlas.templates(triple.relation, language))):
                yield atlas.sentence(triple, language, index)
        yield from prose_lines(language, 2000, seed)
        yield from LEADS[language]


def _broken_off(sentence: Sentence, rng: random.Random) -> Sentence:
    """Break a sentence off after some tokens, as generated context prefixes are."""
    keep = rng.randrange(2, max(3, len(sentence.opening.ids)))
    stop = sentence.following.ids[-1:]
    ids = np.concatenate([sentence.opening.ids[:keep], stop])
    tokens = Tokens.plain(ids)
    return Sentence(opening=tokens, following=tokens)


@dataclass(frozen=True)
class _Text:
    """A text with the characters (start, end) of its object and of its subject, if it has them."""

    text: str
    answer: tuple[int, int] = (0, 0)
    subject: tuple[int, int] = (0, 0)


def _statements(
    atlas: Atlas, tokenizer: PreTrainedTokenizerFast, language: str
) -> Iterator[list[Sentence]]:
    """Tokenise the statements of a language: for each triple, one sentence a template."""
    texts: list[_Text] = []
    sizes: list[int] = []
    for triple in atlas.triples:
        templates = atlas.templates(triple.relation, language)
        for index in range(len(templates)):
            prompt, subject, answer = atlas.statement(triple, language, index)
            text, begin = atlas.sentence(triple, language, index), prompt.index("{}")
            end = len(text) - 1
            texts.append(_Text(text, (end - len(answer), end), (begin, begin + len(subject))))
        sizes.append(len(templates))
    sentences = iter(_sentences(tokenizer, language, texts))
    for size in sizes:
        yield [next(sentences) for _ in range(size)]


def _sentences(
    tokenizer: PreTrainedTokenizerFast, language: str, texts: Sequence[_Text]
) -> list[Sentence]:
    """Tokenise texts, as they open a document and as they follow another sentence."""
    opening = _encode(tokenizer, texts, "")
    if language == "zh":
        return [Sentence(opening=tokens, following=tokens) for tokens in opening]
    following = _encode(tokenizer, texts, " ")
    return [Sentence(opening=a, following=b) for a, b in zip(opening, following, strict=True)]


def _encode(tokenizer: PreTrainedTokenizerFast, texts: Sequence[_Text], gap: str) -> list[Tokens]:
    encoded: Any = tokenizer(
        [gap + item.text for item in texts], add_special_tokens=False, return_offsets_mapping=True
    )
    result = []
    for ids, offsets, item in zip(
        encoded["input_ids"], encoded["offset_mapping"], texts, strict=True
    ):
        edges = np.array(offsets, dtype=np.int64) - len(gap)
        result.append(
            Tokens(
                ids=np.array(ids, dtype=np.int64),
                marks=_inside(edges, item.answer),
                subject=_inside(edges, item.subject),
            )
        )
    return result


def _inside(edges: NDArray[np.int64], span: tuple[int, int]) -> NDArray[np.bool_]:
    """Which tokens, given by their (start, end) characters, share a character with a span."""
    start, end = span
    return np.asarray((edges[:, 1] > start) & (edges[:, 0] < end) & (end > start))
