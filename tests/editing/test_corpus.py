from __future__ import annotations

import gzip
import itertools
import json
import os
import sys
import types
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from langedit.editing.corpus import CorpusFingerprint, read_corpus
from langedit.errors import ConfigError, MomentsError


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rows(*items: dict[str, Any]) -> str:
    return "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)


def test_languages_take_turns_and_drop_out(tmp_path: Path) -> None:
    write(tmp_path / "text/de/a.txt", "eins\nzwei\n")
    write(tmp_path / "text/de/b.txt", "drei\n")
    write(tmp_path / "text/zh/a.txt", "一\n")
    write(tmp_path / "text/README.md", "not a text")
    assert list(read_corpus([str(tmp_path / "text")])) == [
        ("de", "eins"),
        ("zh", "一"),
        ("de", "zwei"),
        ("de", "drei"),
    ]


def test_language_from_statement_file_folder_and_row(tmp_path: Path) -> None:
    stated = write(tmp_path / "corpora/first.txt", "un\n")
    named = write(tmp_path / "nl.txt", "een\n")
    in_folder = write(tmp_path / "es/words.txt.gz", gzip.compress(b"uno\n"))
    own = write(tmp_path / "mixed.jsonl", rows({"text": "one", "language": "en"}))
    nested = write(tmp_path / "deep/zh_hant/sub-folder/x.txt", "一\n")
    sources = [f"fr={stated}", str(named), str(in_folder), str(own), str(tmp_path / "deep")]
    assert nested.exists()
    assert list(read_corpus(sources)) == [
        ("fr", "un"),
        ("nl", "een"),
        ("es", "uno"),
        ("en", "one"),
        ("zh-Hant", "一"),
    ]


def test_a_row_wins_over_the_name_of_the_file(tmp_path: Path) -> None:
    mixed = rows(
        {"text": "eins"},
        {"text": "zwei", "language": None},
        {"text": "one", "language": "EN"},
        {"text": "  "},
    )
    path = write(tmp_path / "de.jsonl", mixed)
    assert list(read_corpus([str(path)])) == [("de", "eins"), ("en", "one"), ("de", "zwei")]


def test_a_path_with_an_equals_sign_is_still_a_path(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "de=x" / "fr.txt", "un\n")
    assert list(read_corpus(["de=x"])) == [("fr", "un")]


def test_line_ends_byte_order_marks_and_blank_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "en.txt", b"\xef\xbb\xbfone\r\n\n  \ntwo\x0bstill two\nthree")
    texts = [text for _, text in read_corpus([str(path)])]
    assert texts == ["one", "two\x0bstill two", "three"]


def test_gzipped_json(tmp_path: Path) -> None:
    path = write(tmp_path / "en.jsonl.gz", gzip.compress(rows({"text": "one"}).encode()))
    assert list(read_corpus([str(path)])) == [("en", "one")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("de.txt", b"gut\nschl\xe4cht\n", r"de\.txt, line 2: expected UTF-8, got byte 0xe4.*5"),
        ("de.txt", b"", "holds no text"),
        ("de.txt", b"\n  \n", "holds no text"),
        ("de.txt.gz", b"not gzip", "cannot be read"),
        ("de.txt.gz", gzip.compress(b"eins\n" * 9999, mtime=0)[:40], "cannot be read"),
        ("de.jsonl", b'{"text": "eins"}\n{"text"\n', "line 2: expected one JSON object"),
        ("de.jsonl", b'["eins"]\n', 'line 1: expected an object with a string "text"'),
        ("de.jsonl", b'{"text": 3}\n', 'expected an object with a string "text"'),
        ("de.jsonl", b'{"text": "x", "language": 7}\n', 'expected "language" to be a code'),
        ("de.jsonl", b'{"text": "x", "language": "qqz"}\n', "line 1: .*qqz"),
    ],
)
def test_damaged_files_name_file_and_line(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(MomentsError, match=message) as caught:
        list(read_corpus([str(path)]))
    assert str(path) in str(caught.value)


def test_sources_that_cannot_be_used(tmp_path: Path) -> None:
    unnamed = write(tmp_path / "xx-words/first.txt", "eins\n")
    picture = write(tmp_path / "de.png", "eins\n")
    empty = tmp_path / "folder"
    empty.mkdir()
    for source, message in [
        (str(unnamed), "the language is unknown"),
        (str(picture), r"expected a file named \*\.txt"),
        (str(empty), "found none"),
        (str(tmp_path / "missing"), "no such file or folder"),
        (f"qqz={unnamed}", "qqz"),
        ("hf:some/set", "expected LANGUAGE=hf:NAME"),
        ("de=hf:", "expected LANGUAGE=hf:NAME"),
    ]:
        with pytest.raises(ConfigError, match=message):
            read_corpus([source])
    with pytest.raises(ConfigError, match="at least one file"):
        read_corpus([])


def test_a_statement_that_a_row_contradicts(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", rows({"text": "one", "language": "en"}))
    with pytest.raises(MomentsError, match="stated to be 'de', but a row says 'en'"):
        read_corpus([f"de={path}"])


class TestHub:
    """A stand-in for `datasets`: the real one needs a network to stream from the hub."""

    @pytest.fixture
    def calls(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
        calls: list[tuple[Any, ...]] = []

        def load_dataset(name: str, config: str | None, *, split: str, streaming: bool) -> Any:
            calls.append((name, config, split, streaming))
            if name == "missing":
                raise FileNotFoundError("no such data set")
            column = "content" if name == "other" else "text"
            return iter([{column: "eins"}, {column: " "}, {column: "zwei"}])

        module = types.ModuleType("datasets")
        module.load_dataset = load_dataset  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "datasets", module)
        return calls

    @pytest.mark.parametrize(
        ("place", "call"),
        [
            ("hf:a/b", ("a/b", None, "train", True)),
            ("hf:a/b:20231101.de", ("a/b", "20231101.de", "train", True)),
            ("hf:a/b:c:test", ("a/b", "c", "test", True)),
            ("hf:a/b::test", ("a/b", None, "test", True)),
        ],
    )
    def test_streams(self, calls: list[tuple[Any, ...]], place: str, call: tuple[Any, ...]) -> None:
        assert list(read_corpus([f"de={place}"])) == [("de", "eins"), ("de", "zwei")]
        assert calls == [call]

    def test_is_not_opened_before_it_is_read(self, calls: list[tuple[Any, ...]]) -> None:
        read_corpus(["de=hf:a/b"])
        assert calls == []

    @pytest.mark.usefixtures("calls")
    def test_mistakes(self) -> None:
        with pytest.raises(ConfigError, match="cannot be streamed"):
            list(read_corpus(["de=hf:missing"]))
        with pytest.raises(MomentsError, match="row 0 has content"):
            list(read_corpus(["de=hf:other"]))

    def test_package_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "datasets", None)
        with pytest.raises(ConfigError, match=r"pip install 'langedit\[eval\]'"):
            read_corpus(["de=hf:a/b"])


def fingerprint(*pairs: tuple[str, str]) -> str:
    made = CorpusFingerprint()
    for language, text in pairs:
        made.add(language, text)
    return made.hexdigest()


def test_fingerprint_tells_texts_order_and_languages_apart() -> None:
    corpora = [
        [],
        [("de", "ab")],
        [("en", "ab")],
        [("de", "a"), ("de", "b")],
        [("de", "b"), ("de", "a")],
        [("de", "a"), ("d", "eb")],
        [("dea", "")],
    ]
    made = [fingerprint(*corpus) for corpus in corpora]
    assert len(set(made)) == len(made)
    assert fingerprint(("de", "ab")) == made[1]


def test_large_files_are_streamed(tmp_path: Path) -> None:
    """Taking a few texts reads only the head of the file: damage further on is not met."""
    path = write(tmp_path / "de.txt", b"eins\n" * 200_000 + b"\xff\n")
    stream: Iterator[tuple[str, str]] = read_corpus([str(path)])
    assert list(itertools.islice(stream, 3)) == [("de", "eins")] * 3
    with pytest.raises(MomentsError, match="line 200001"):
        list(stream)


@pytest.mark.data
@pytest.mark.skipif("LANGEDIT_DATA" not in os.environ, reason="LANGEDIT_DATA is not set")
def test_real_text_in_six_languages() -> None:
    stream = read_corpus([str(Path(os.environ["LANGEDIT_DATA"]) / "text")])
    head = list(itertools.islice(stream, 6 * 200))
    assert [language for language, _ in head[:6]] == ["de", "en", "es", "fr", "nl", "zh"]
    assert Counter(language for language, _ in head) == dict.fromkeys(
        ["de", "en", "es", "fr", "nl", "zh"], 200
    )
    assert all(text == text.strip() != "" for _, text in head)
