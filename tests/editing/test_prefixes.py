from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import TOKENIZER_KINDS, TokenizerKind, tiny_editable

from langedit.editing import Prefixes, generate_prefixes
from langedit.editing.prefixes import SEED_WORDS, seed_words_of
from langedit.errors import ConfigError, FactError, OutputError


def test_the_model_continues_the_seed_words_of_each_language() -> None:
    model = tiny_editable("llama")
    prefixes = generate_prefixes(model, ["en", "zh"])
    assert list(prefixes) == ["en", "zh"]
    for language, end in (("en", ". "), ("zh", "。")):
        texts = prefixes[language]
        assert len(texts) == 5
        for word, text in zip(SEED_WORDS[language], texts, strict=True):
            assert text.startswith(word)
            assert text.endswith(end)
            assert len(text) > len(word) + len(end)


@pytest.mark.parametrize("kind", TOKENIZER_KINDS)
def test_prefixes_are_clean_text(kind: TokenizerKind) -> None:
    model = tiny_editable("llama", tokenizer=kind, bos=True)
    special = model.tokenizer.all_special_tokens
    texts = generate_prefixes(model, ["zh"], count=15)["zh"]
    for text in texts:
        assert "\ufffd" not in text
        assert text.removesuffix("。").isprintable()
        assert not any(token in text for token in special)


def test_a_seed_gives_the_same_texts_whatever_was_drawn_elsewhere() -> None:
    model = tiny_editable("gpt2")
    first = generate_prefixes(model, ["en", "de"], seed=3)
    torch.rand(7)
    state = torch.get_rng_state()
    assert generate_prefixes(model, ["de", "en"], seed=3) == first
    assert torch.equal(torch.get_rng_state(), state)
    assert generate_prefixes(model, ["en", "de"], seed=4) != first


def test_more_texts_than_seed_words_differ() -> None:
    model = tiny_editable("llama")
    texts = generate_prefixes(model, ["en"], count=4, seed_words={"en": ["A"]})["en"]
    assert len(set(texts)) > 1
    assert generate_prefixes(model, ["en"], count=0)["en"] == ()


def test_length_counts_the_tokens_that_are_added() -> None:
    model = tiny_editable("llama")
    short, long = (
        generate_prefixes(model, ["en"], count=1, length=n)["en"][0].removesuffix(". ")
        for n in (1, 12)
    )
    assert long.startswith(short)
    assert len(long) > len(short)


@pytest.mark.parametrize(
    ("language", "words"),
    [
        ("it", ("lunedì", "martedì", "mercoledì", "giovedì", "venerdì")),
        ("ja", ("月曜日", "火曜日", "水曜日", "木曜日", "金曜日")),
        ("pt-BR", ("segunda-feira", "terça-feira", "quarta-feira", "quinta-feira", "sexta-feira")),
        ("en-GB", SEED_WORDS["en"]),
        ("zh-Hant", SEED_WORDS["zh"]),
    ],
)
def test_seed_words_of_other_languages(language: str, words: tuple[str, ...]) -> None:
    assert seed_words_of(language) == words


def test_given_seed_words_come_first() -> None:
    assert seed_words_of("en", {"en": ["Once"]}) == ("Once",)
    assert seed_words_of("pt-BR", {"pt": ["Era"]}) == ("Era",)


def test_a_language_without_any_seed_words() -> None:
    with pytest.raises(ConfigError, match="seed_words: expected words for 'got'"):
        seed_words_of("got")
    assert seed_words_of("got", {"got": ["Gallia"]}) == ("Gallia",)


def test_save_and_load(tmp_path: Path) -> None:
    prefixes = Prefixes({"zh": ["中国。"], "de": [], "iw": ["א. "]})
    path = tmp_path / "prefixes.json"
    prefixes.save(path)
    assert Prefixes.load(path) == prefixes
    assert list(prefixes) == ["zh", "de", "he"]
    with pytest.raises(OutputError):
        prefixes.save(tmp_path / "missing" / "prefixes.json")


@pytest.mark.parametrize("content", ["[", "[]", '{"en": "text"}', '{"en": [1]}'])
def test_wrong_files_of_prefixes(tmp_path: Path, content: str) -> None:
    path = tmp_path / "prefixes.json"
    path.write_text(content)
    with pytest.raises(ConfigError):
        Prefixes.load(path)


def test_wrong_prefixes() -> None:
    with pytest.raises(ConfigError, match="list of texts"):
        Prefixes({"en": "The water. "})
    with pytest.raises(FactError):
        Prefixes({"no such language": ["a"]})
    with pytest.raises(ConfigError, match="expected texts for 'fr', got en"):
        Prefixes({"en": ["a"]}).of("fr")


def test_days_of_one_language_leave_those_of_others_as_they_are() -> None:
    """In a process of its own, since CLDR's tables are read once."""
    program = """
from babel import Locale
from langedit.editing.prefixes import _cldr_days
assert _cldr_days("fr")[0] == "lundi"
print(Locale("de").days["stand-alone"]["wide"][0])
"""
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=100
    )
    assert found.stdout.strip() == "Montag"
