"""Rows by a mapping of columns, from files and from the `datasets` package."""

from __future__ import annotations

import json
import sys

import pytest

from langedit.errors import ConfigError
from langedit.facts import Probe
from langedit.facts.datasets import read_dataset

ROWS = [
    {
        "q": "Where does Ada live?",
        "who": "Ada",
        "new": "Oslo",
        "was": "Bonn",
        "more": ["Ada lives where?"],
        "other": "Where does Tom live?",
        "answer": "Rome",
        "lang": "en",
        "nr": 4,
    },
    {
        "q": "Waar woont {}?",
        "who": "Ada",
        "new": "Oslo",
        "was": None,
        "more": [],
        "other": None,
        "answer": None,
        "lang": "nl",
        "nr": 5,
    },
    {"q": "Wo?", "who": "Ada", "new": "Oslo", "lang": "de", "nr": 6},
]
COLUMNS = {
    "prompt": "q",
    "subject": "who",
    "target": "new",
    "old": "was",
    "paraphrases": "more",
    "neighbourhood.prompt": "other",
    "neighbourhood.answer": "answer",
    "language": "lang",
    "id": "nr",
}


@pytest.fixture
def folder(tmp_path):
    lines = "".join(f"{json.dumps(row)}\n" for row in ROWS)
    (tmp_path / "train.jsonl").write_text(lines, encoding="utf-8")
    return tmp_path


def check(file):
    english, dutch = file.entries
    assert english.fact.prompt == "Where does {} live?"
    assert english.fact.paraphrases == ("Ada lives where?",)
    assert english.fact.neighbourhood == (Probe("Where does Tom live?", "Rome"),)
    assert (english.fact.id, english.fact.old, english.found) == ("en/4", "Bonn", "as given")
    assert (dutch.fact.prompt, dutch.fact.id, dutch.found) == ("Waar woont {}?", "nl/5", "marked")
    assert (dutch.fact.paraphrases, dutch.fact.neighbourhood, dutch.fact.old) == ((), (), None)
    (row,) = file.rejected
    assert (row.line, row.field, row.language) == (3, "[2].who", "de")


def test_columns_of_a_file(folder):
    check(read_dataset(folder / "train.jsonl", columns=COLUMNS))
    file = read_dataset(folder / "train.jsonl", columns=COLUMNS, language="nl")
    assert [fact.language for fact in file.facts] == ["nl"]


def test_one_paraphrase_may_be_a_text(folder):
    columns = COLUMNS | {"paraphrases": "q"}
    file = read_dataset(folder / "train.jsonl", columns=columns, language="en")
    assert file.facts[0].paraphrases == ("Where does Ada live?",)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"prompt": "q", "subject": "who"}, "target is missing"),
        ({**COLUMNS, "answer": "new"}, "'answer' is unknown"),
        (
            {key: column for key, column in COLUMNS.items() if key != "neighbourhood.answer"},
            "neighbourhood.answer is missing",
        ),
    ],
)
def test_a_mapping_that_cannot_be_used(folder, columns, message):
    with pytest.raises(ConfigError, match=message):
        read_dataset(folder / "train.jsonl", columns=columns)


def test_columns_without_a_language_need_one(folder):
    columns = {"prompt": "q", "subject": "who", "target": "new"}
    with pytest.raises(ConfigError, match="does not say the language"):
        read_dataset(folder / "train.jsonl", columns=columns)
    assert len(read_dataset(folder / "train.jsonl", columns=columns, language="nl").facts) == 2


def test_a_local_data_set_of_the_datasets_package(folder, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    source = f"hf:{folder}"
    file = read_dataset(source, columns=COLUMNS)
    assert file.source == source
    check(file)
    with pytest.raises(ConfigError, match="cannot be loaded"):
        read_dataset(f"{source}::absent", columns=COLUMNS)


def test_name_configuration_and_split(monkeypatch):
    calls = []

    class Stub:
        class exceptions:
            DatasetsError = KeyError

        @staticmethod
        def load_dataset(*arguments, **options):
            calls.append((arguments, options))
            if arguments[0] == "broken":
                raise KeyError("boom")
            return [{"language": "en", "prompt": "{} is", "subject": "a", "target": "b"}]

    monkeypatch.setitem(sys.modules, "datasets", Stub)
    assert read_dataset("hf:me/facts:small:test").format == "langedit"
    assert read_dataset("hf:me/facts.csv").facts[0].id == "en/0"
    assert calls == [
        (("me/facts", "small"), {"split": "test"}),
        (("me/facts.csv", None), {"split": "train"}),
    ]
    with pytest.raises(ConfigError, match=r"cannot be loaded .*boom"):
        read_dataset("hf:broken")
    with pytest.raises(ConfigError, match=r"expected hf:NAME"):
        read_dataset("hf:")


def test_without_the_package_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"pip install 'langedit\[eval\]'"):
        read_dataset("hf:me/facts")
