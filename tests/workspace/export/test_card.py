"""The card says what is in it, whatever the facts are made of."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from exports import Edited, edited
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from langedit.editing import EditedModelRecord
from langedit.facts import Fact, read_facts
from langedit.workspace.export import ExportOutcome, export_delta, export_merged
from langedit.workspace.export import card as card_module
from langedit.workspace.export.card import card_lines, table
from langedit.workspace.export.escape import inline

NASTY = (
    "a | b\n\n# Heading\n- item",
    "<script>alert(1)</script><img src=x onerror=y>",
    "[click](javascript:alert(1)) ![](http://x/y.png) www.example.com a@b.org",
    "`code` **bold** _it_ ~~no~~ \\| $x$ &amp; &#124; {x}",
    "\u202eright to left\u2066\x1b[31mred\x07",
)
SCORE = {"efficacy": 0.5, "generalization": None, "specificity": 1.0}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Edited:
    return edited(tmp_path_factory.mktemp("card"))


def outcome_of(record: EditedModelRecord, **changes: object) -> ExportOutcome:
    outcome = ExportOutcome(kind="delta", folder=Path("out"), record=record)
    return replace(outcome, **changes)  # type: ignore[arg-type]


def html(text: str) -> str:
    return str(MarkdownIt("commonmark").enable("table").enable("strikethrough").render(text))


def cells(text: str) -> list[str]:
    """Text of every cell of the tables in a Markdown text, as a reader sees it."""
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    found = []
    for opening, inside in pairwise(tokens):
        if opening.type == "td_open":
            kinds = {child.type for child in inside.children or ()}
            assert kinds <= {"text", "text_special", "code_inline"}, kinds
            found.append("".join(child.content for child in inside.children or ()))
    return found


@pytest.mark.parametrize("text", NASTY)
def test_nothing_in_a_fact_is_taken_for_markup(text: str) -> None:
    shown = cells("\n".join(table(("a", "b"), [(inline(text), "end")])))
    assert len(shown) == 2
    plain = "".join("\ufffd" if c in "\u202e\u2066\x1b\x07" else c for c in text)
    assert shown[0] == " ".join(plain.split())
    assert shown[1] == "end"


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=80))
def test_any_text_fits_its_cell(text: str) -> None:
    lines = list(table(("a", "b"), [(inline(text), "end")]))
    assert all("\n" not in line for line in lines)
    shown = cells("\n".join(lines))
    assert (len(shown), shown[1]) == (2, "end")
    rendered = html("\n".join(lines))
    assert rendered.count("<") == html("\n".join(table(("a", "b"), [("x", "end")]))).count("<")


def test_a_control_unescaped_text_breaks_the_table() -> None:
    assert len(cells("\n".join(table(("a", "b"), [("x | y", "end")])))) == 2
    assert cells("\n".join(table(("a", "b"), [("x | y", "end")])))[1] != "end"


def test_long_texts_are_cut() -> None:
    assert len(inline("x" * 10**6)) < 400


def test_a_card_lists_facts_languages_scores_and_the_way_back(made: Edited) -> None:
    nasty = tuple(
        Fact("en", "What is {} " + text, f"s{n} {text}", text) for n, text in enumerate(NASTY[:4])
    )
    batches = (replace(made.record.batches[0], facts=nasty), made.record.batches[1])
    record = replace(made.record, batches=batches).with_scores([SCORE] * 6)
    text = "\n".join(card_lines(outcome_of(record)))
    shown = cells(text)
    for fact in record.facts:
        for part in (fact.text, fact.subject, fact.target):
            assert " ".join(part.split()) in shown
    assert shown.count("50.0") == 6 + 4  # a row a fact, then en, de, zh and all
    assert record.base.weights_hash in text
    assert 'language: ["en", "de", "zh"]' in text
    assert "langedit apply-delta BASE DELTA OUT" in text
    assert "to undo it" in text
    assert "no solve was" not in text.lower()
    assert "<script" not in html(text.split("---", 2)[2])


@pytest.mark.parametrize(
    ("kind", "words"),
    [("merged", "load the base model instead"), ("adapter", "unload()"), ("delta", "go back")],
)
def test_each_form_says_how_to_undo_it(made: Edited, kind: str, words: str) -> None:
    record = made.record.with_scores([SCORE] * 6)
    assert words in "\n".join(card_lines(outcome_of(record, kind=kind, rank=6)))


def test_a_selection_says_that_it_was_never_solved_for(tmp_path: Path, made: Edited) -> None:
    export_merged(made.record, tmp_path / "out", languages=["zh"])
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "No solve was ever made for this selection." in text
    assert "2 of 6 facts" in text
    assert "Österreich" not in text
    assert "法国" in text


def test_facts_are_beside_the_card_in_full(
    tmp_path: Path, made: Edited, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(card_module, "_LISTED", 2)
    export_delta(made.record, tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "... and 4 more, see facts.jsonl" in text
    found = read_facts(tmp_path / "out" / "facts.jsonl", strict=True).facts
    assert [fact.text for fact in found] == [fact.text for fact in made.record.facts]


def test_a_hub_model_is_named_for_the_hub_and_a_folder_is_not(made: Edited) -> None:
    record = made.record.with_scores([SCORE] * 6)
    hub = replace(record, base=replace(record.base, source="owner/model"))
    assert 'base_model: "owner/model"' in "\n".join(card_lines(outcome_of(hub)))
    assert "base_model:" not in "\n".join(card_lines(outcome_of(record)))
