from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langedit.errors import FactError, OutputError
from langedit.facts import Fact, FactFile, Probe, read_facts, write_facts

GOOD = '{"language": "en", "prompt": "{} is in", "subject": "France", "target": "Asia"}'
HEADER = "language,prompt,subject,target"


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(folder: Path, name: str, content: str | bytes, *, strict: bool = False) -> FactFile:
    return read_facts(write(folder, name, content), strict=strict)


def test_jsonl_with_every_field(tmp_path: Path) -> None:
    record = {
        "id": "atlas-1",
        "language": "fr",
        "prompt": "La monnaie de {} est",
        "subject": "la France",
        "target": "le yen",
        "paraphrases": ["En {}, on paie avec"],
        "neighbourhood": [{"prompt": "Le Japon paie avec", "answer": "le yen"}],
        "portability": [["La capitale du pays du yen est", "Paris"]],
        "old": "l'euro",
        "group": "FR-currency",
    }
    found = read(tmp_path, "facts.jsonl", json.dumps(record))
    assert found.path == tmp_path / "facts.jsonl"
    assert found.rejected == ()
    assert found.facts == (
        Fact(
            language="fr",
            prompt="La monnaie de {} est",
            subject="la France",
            target="le yen",
            paraphrases=("En {}, on paie avec",),
            neighbourhood=(Probe("Le Japon paie avec", "le yen"),),
            portability=(Probe("La capitale du pays du yen est", "Paris"),),
            old="l'euro",
            group="FR-currency",
            id="atlas-1",
        ),
    )


def test_jsonl_skips_blank_lines_and_a_byte_order_mark_and_names_facts(tmp_path: Path) -> None:
    named = GOOD.replace("{", '{"id": null, ', 1)
    found = read(tmp_path, "f.jsonl", f"\ufeff{GOOD}\r\n\r\n  \n{named}\n")
    assert [fact.id for fact in found.facts] == ["f.jsonl:1", "f.jsonl:4"]
    assert found.rejected == ()


def test_jsonl_lines_end_at_line_feeds_only(tmp_path: Path) -> None:
    odd = GOOD.replace("Asia", "A\u2028s\u0085ia")
    found = read(tmp_path, "f.jsonl", f"{odd}\n{GOOD}\n")
    assert [fact.id for fact in found.facts] == ["f.jsonl:1", "f.jsonl:2"]
    assert found.facts[0].target == "A\u2028s\u0085ia"


@pytest.mark.parametrize(
    ("line", "field", "reason"),
    [
        ('{"language": ', None, "not JSON at column 14"),
        ("hello", None, "not JSON at column 1"),
        ("[1, 2]", None, "expected a JSON object ({...}), got a list"),
        ("null", None, "got a NoneType"),
        ("9" * 5000, None, "JSON that cannot be read"),
        ("[" * 100_000, None, "JSON that cannot be read"),
        (GOOD.replace("target", "Target"), "Target", "did you mean 'target'"),
        (GOOD.replace("{", '{"x\\ud800": 1, ', 1), r"'x\ud800'", "unknown field"),
        (GOOD.replace("{", '{"target": "Asia", ', 1), "target", "given twice"),
        (GOOD.replace(', "subject": "France"', ""), "subject", "missing"),
        (GOOD.replace('"Asia"', "null"), "target", "expected text, got nothing"),
        (GOOD.replace("{} is", "It is"), "prompt", "exactly one {}"),
        (GOOD.replace("{} is", "{} is {}"), "prompt", "got 2"),
        (GOOD.replace('"en"', '"cz"'), "language", "did you mean 'cs'"),
        (GOOD.replace("Asia", "\\ud83d"), "target", "surrogate"),
        (GOOD.replace("{", '{"id": 3, ', 1), "id", "expected text, got int 3"),
        (
            GOOD.replace("{", '{"neighbourhood": [{"prompt": "p", "prompt": "q"}], ', 1),
            "prompt",
            "given twice",
        ),
    ],
)
def test_a_bad_line_is_rejected_with_its_place_and_reason(
    tmp_path: Path, line: str, field: str | None, reason: str
) -> None:
    found = read(tmp_path, "f.jsonl", f"{GOOD}\n\n{line}\n{GOOD}\n")
    assert [fact.id for fact in found.facts] == ["f.jsonl:1", "f.jsonl:4"]
    (row,) = found.rejected
    assert (row.file, row.line, row.field) == (str(tmp_path / "f.jsonl"), 3, field)
    assert reason in row.reason
    str(row).encode()
    assert str(row).startswith(f"{row.file}:3: " + (f"{field}: " if field else ""))


def test_strict_lists_what_it_refuses(tmp_path: Path) -> None:
    path = write(tmp_path, "f.jsonl", f"{GOOD}\nbad\n{{}}\n")
    assert len(read_facts(path).rejected) == 2
    with pytest.raises(FactError, match=r"got 2 rejected rows of 3(?s:.*):2: not JSON") as caught:
        read_facts(path, strict=True)
    assert f"{path}:3: language: missing" in str(caught.value)
    assert read(tmp_path, "good.jsonl", GOOD, strict=True).rejected == ()


def test_a_long_list_of_rejected_rows_ends_in_a_count(tmp_path: Path) -> None:
    with pytest.raises(FactError, match="and 5 more") as caught:
        read(tmp_path, "f.jsonl", GOOD + "\n" + "bad\n" * 25, strict=True)
    assert str(caught.value).count("not JSON") == 20


@pytest.mark.parametrize("name", ["f.jsonl", "f.csv"])
@pytest.mark.parametrize("content", ["", "\ufeff", "\n \n"])
def test_an_empty_file_is_refused(tmp_path: Path, name: str, content: str) -> None:
    with pytest.raises(FactError, match="got an empty file"):
        read(tmp_path, name, content)


def test_a_file_without_a_good_row_is_refused_with_the_reasons(tmp_path: Path) -> None:
    with pytest.raises(FactError, match=r"of 2:\n.*f.jsonl:1: not JSON.*\n.*f.jsonl:2: expected"):
        read(tmp_path, "f.jsonl", "bad\n[]\n")
    with pytest.raises(FactError, match="got an empty file"):
        read(tmp_path, "f.csv", HEADER + "\n")


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FactError, match=r"cannot read .*No such file"):
        read_facts(tmp_path / "absent.jsonl")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(FactError, match="got the folder"):
        read_facts(tmp_path / "folder.csv")
    with pytest.raises(FactError, match=r"ends in \.jsonl or \.csv, got .*facts\.xlsx"):
        read_facts(tmp_path / "facts.xlsx")
    with pytest.raises(FactError, match=r"expected UTF-8 .* byte 0xe9 in line 2"):
        read(tmp_path, "latin.csv", f"{HEADER}\nfr,{{}} a,caf\u00e9,b\n".encode("latin-1"))
    with pytest.raises(FactError, match="expected UTF-8"):
        read(tmp_path, "wide.csv", HEADER.encode("utf-16"))


def test_csv_with_every_column_in_another_order(tmp_path: Path) -> None:
    content = (
        "\ufeffid,target, language,subject,prompt,neighbourhood,paraphrases,"
        "portability,old,group\r\n"
        'a, yen ,en,"Paris, France",In {} one pays in,'
        "Japan pays in => yen | Italy pays in=>euros,In {} they use|{} has the,"
        "One of it in Paris buys => little | It is called=>en, euro , money \r\n"
        ",yen,ja,フランス,{}の通貨は,,,,,\r\n"
    )
    found = read(tmp_path, "f.CSV", content)
    assert found.rejected == ()
    assert found.facts == (
        Fact(
            language="en",
            prompt="In {} one pays in",
            subject="Paris, France",
            target="yen",
            paraphrases=("In {} they use", "{} has the"),
            neighbourhood=(Probe("Japan pays in", "yen"), Probe("Italy pays in", "euros")),
            portability=(Probe("One of it in Paris buys", "little"), Probe("It is called", "en")),
            old="euro",
            group="money",
            id="a",
        ),
        Fact("ja", "{}の通貨は", "フランス", "yen", id="f.CSV:3"),
    )


def test_csv_lines_are_counted_through_records_of_several_lines(tmp_path: Path) -> None:
    content = (
        f"{HEADER}\n"
        'en,"line one\nline two\nabout {} is",France,Rome\n'
        "\n"
        ",,,\n"
        "en,no slot,France,Rome\n"
        "en,{} is,France\n"
        "en,{} is,one,two,Rome\n"
        'en,"{} is"x,France,Rome\n'
        "en,{} is,France,Rome\n"
        'en,"{} is,France,Rome\n'
        "en,{} is,France,Rome\n"
    )
    found = read(tmp_path, "f.csv", content)
    assert [fact.id for fact in found.facts] == ["f.csv:2", "f.csv:11"]
    reasons = {row.line: f"{row.field}: {row.reason}" for row in found.rejected}
    assert list(reasons) == [7, 8, 9, 10, 12]
    assert "prompt: expected exactly one {}" in reasons[7]
    assert "None: expected 4 cells as in the header, got 3" in reasons[8]
    assert "None: expected 4 cells as in the header, got 5" in reasons[9]
    assert "None: not CSV: " in reasons[10]
    assert "None: not CSV: unexpected end of data" in reasons[12]


@pytest.mark.parametrize(
    ("header", "fault"),
    [
        ("case_id,src,subject,alt", "language is missing; prompt is missing; target is missing"),
        ("language;prompt;subject;target", "'language;prompt;subject;target' is unknown"),
        (HEADER + ",rephrase", "'rephrase' is unknown"),
        (HEADER + ",target", "'target' comes twice"),
        (HEADER + ",", "'' is unknown"),
        (HEADER.replace("language,", ""), "language is missing"),
        ('"language', "it is not CSV"),
    ],
)
def test_csv_with_other_columns_is_refused(tmp_path: Path, header: str, fault: str) -> None:
    with pytest.raises(FactError, match="expected the columns language, prompt") as caught:
        read(tmp_path, "f.csv", f"{header}\na,b,c,d\n")
    assert fault in str(caught.value)
    assert "found" in str(caught.value) or "not CSV" in fault


@pytest.mark.parametrize(
    ("column", "cell", "field", "reason"),
    [
        ("paraphrases", "{} is|", "paraphrases[1]", "white space"),
        ("paraphrases", "{} {}", "paraphrases[0]", "at most one {}"),
        ("neighbourhood", "a => b | c", "neighbourhood[1]", "expected one '=>'"),
        ("neighbourhood", "a => b => c", "neighbourhood[0]", "got 2"),
        ("neighbourhood", "a =>", "neighbourhood[0].answer", "white space"),
    ],
)
def test_csv_lists_are_checked(
    tmp_path: Path, column: str, cell: str, field: str, reason: str
) -> None:
    good = "en,{} is,France,Rome"
    found = read(tmp_path, "f.csv", f"{HEADER},{column}\n{good},{cell}\n{good},\n")
    assert [fact.id for fact in found.facts] == ["f.csv:3"]
    (row,) = found.rejected
    assert (row.line, row.field) == (2, field)
    assert reason in row.reason


def test_written_facts_replace_a_file_and_leave_out_what_is_empty(tmp_path: Path) -> None:
    path = write(tmp_path, "f.jsonl", "old\n" * 9)
    write_facts(path, [Fact("fr", "{} est à", "Paris", "Rome")])
    assert path.read_text("utf-8") == (
        '{"language": "fr", "prompt": "{} est à", "subject": "Paris", "target": "Rome"}\n'
    )


def test_facts_are_not_written_where_they_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "f.csv", tmp_path / "absent" / "f.jsonl"):
        with pytest.raises(OutputError, match=r"f\.(csv|jsonl)"):
            write_facts(path, [Fact("en", "{} is", "France", "Rome")])
        assert not path.exists()


text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(str.strip)
slotless = text.filter(lambda value: "{" not in value and "}" not in value)
facts = st.builds(
    lambda before, after, **rest: Fact(prompt=f"{before}{{}}{after}", **rest),
    before=slotless,
    after=slotless,
    language=st.sampled_from(["en", "zh-Hant", "pt-BR", "th"]),
    subject=text,
    target=text,
    paraphrases=st.lists(slotless, max_size=2),
    neighbourhood=st.lists(st.builds(Probe, text, text), max_size=2),
    portability=st.lists(st.builds(Probe, text, text), max_size=2),
    old=st.none() | text,
    group=st.none() | text,
    id=text,
)


@settings(deadline=None)
@given(st.lists(facts, min_size=1, max_size=4))
def test_written_facts_read_back_equal(
    tmp_path_factory: pytest.TempPathFactory, written: list[Fact]
) -> None:
    path = tmp_path_factory.mktemp("round") / "facts.jsonl"
    write_facts(path, written)
    found = read_facts(path, strict=True)
    assert found.facts == tuple(written)


@settings(deadline=None)
@given(st.lists(facts, min_size=1, max_size=3))
def test_any_fact_can_be_told_in_csv(
    tmp_path_factory: pytest.TempPathFactory, told: list[Fact]
) -> None:
    path = tmp_path_factory.mktemp("round") / "facts.csv"
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, quoting=csv.QUOTE_ALL)
        writer.writerow([*HEADER.split(","), "id"])
        for fact in told:
            writer.writerow([fact.language, fact.prompt, fact.subject, fact.target, fact.id])
    left_out = {
        "paraphrases": (),
        "neighbourhood": (),
        "portability": (),
        "old": None,
        "group": None,
    }
    expected = [replace(fact, **left_out) for fact in told]
    expected = [replace(fact, id=str(fact.id).strip()) for fact in expected]
    assert list(read_facts(path, strict=True).facts) == expected


def outcome(path: Path) -> FactFile | str:
    try:
        return read_facts(path)
    except FactError as error:
        return str(error)


lines = st.sampled_from([GOOD, "en,{} is,France,Rome", HEADER, '"', "{", "[]", "", "\r", "\x00"])
content = st.binary(max_size=80) | st.lists(lines | st.text(max_size=20), max_size=8).map(
    lambda some: "\n".join(some).encode("utf-8", "replace")
)


@settings(deadline=None)
@given(content, st.sampled_from(["f.jsonl", "f.csv"]), st.booleans())
def test_any_content_gives_rows_or_a_fact_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str, with_header: bool
) -> None:
    head = f"{HEADER}\n".encode() if with_header else b""
    path = write(tmp_path_factory.mktemp("any"), name, head + content)
    found = outcome(path)
    if isinstance(found, str):
        assert name in found
        return
    rows = [row.line for row in found.rejected]
    assert found.facts
    assert rows == sorted(set(rows))
    assert all(row.reason and str(row).encode() for row in found.rejected)
    n_lines = len((head + content).splitlines())
    assert all(1 <= line <= n_lines for line in rows)
