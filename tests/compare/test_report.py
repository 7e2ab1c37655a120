"""Tables and report: what is bold, what is written, and that figures come from the results."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from compare_helpers import comparison
from rich.console import Console

from langedit.compare.cells import make_cells
from langedit.compare.grid import Outcome, run_grid
from langedit.compare.report import write_report
from langedit.compare.report_origin import origin, trials_section
from langedit.compare.summary import (
    board_table,
    boards_of,
    percent_interval,
    shown_interval,
    shown_value,
    units_apart,
)
from langedit.compare.tidy import rows_of
from langedit.errors import ConfigError
from langedit.evaluation import METRICS, Interval
from langedit.reporting import percent

COMMAND = "langedit compare tiny.toml --report results.md"


@pytest.fixture(scope="module")
def done(ground, tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    config = comparison(
        ground,
        seeds=(0, 1),
        reference="memit-seq",
        ablations={"english": {"base": "langedit", "prefix_language": "en"}},
        ablation_seeds=(0,),
    )
    return config, run_grid(make_cells(config, folder), folder)


@pytest.fixture(scope="module")
def report(done, tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs")
    write_report(*done, folder / "results.md", COMMAND)
    return folder, (folder / "results.md").read_text(encoding="utf-8")


def test_curves_and_matrices_are_of_methods_not_of_ablations(report):
    """An ablation on fewer seeds is no line beside those of all seeds."""
    _, text = report
    matrices = text[text.index("From language to language") : text.index("Time and memory")]
    assert "| langedit |" in matrices
    assert "| english |" not in matrices
    assert "| english | langedit |" in text  # the table of ablations


def test_the_report_has_every_part(report):
    _, text = report
    for part in ("Against memit-seq", "Ablations", "By language", "Retention", "Settings",
                 "From language to language", "Time and memory"):  # fmt: skip
        assert re.search(rf"^#+ {part}$", text, re.MULTILINE), part
    assert COMMAND in text
    assert "7 of 7 runs" in text


def test_every_figure_is_there_with_its_command(report):
    folder, text = report
    links = re.findall(r"!\[[^]]*\]\(([^)]+)\)\n\n[^\n]*Made by `([^`]+)`", text)
    assert len(links) == text.count("![") == 3
    for path, command in links:
        assert (folder / path).read_bytes().startswith(b"\x89PNG")
        assert command == COMMAND


def test_the_tables_say_what_the_results_say(done, report):
    _, outcomes = done
    values = [
        row["value"]
        for row in rows_of(outcomes)
        if (row["method"], row["language"], row["metric"]) == ("langedit", "all", "efficacy")
    ]
    mean = percent(sum(values) / 2)
    assert re.search(rf"^\| langedit \| \**{re.escape(mean)} \(", report[1], re.MULTILINE)


def test_settings_and_how_they_were_chosen_are_written(report):
    text = report[1]
    assert "`null_share` = 0.7" in text
    row = re.search(r"^\| english .*$", text, re.MULTILINE)
    assert row
    assert re.search(r'^\| english \| tiny \|.*`prefix_language` = "en"', text, re.MULTILINE)
    assert "as declared in the comparison" in text


def test_how_subjects_were_found_is_in_the_report_where_cells_say_it(report, done):
    assert "- subjects in their questions, own: en 12 " in report[1]
    old = [
        replace(outcome, record={**outcome.record, "data": {
            name: own for name, own in outcome.record["data"].items() if name != "subjects"}})
        for outcome in done[1]
    ]  # fmt: skip
    assert "subjects in their questions" not in origin(old, COMMAND)
    assert "data: own, seed 0" in origin(old, COMMAND)


def test_every_figure_is_defined(report):
    text = report[1].partition("## What the figures mean")[2].partition("\n## ")[0]
    for name in ("efficacy", "specificity", "first_batch", "mean", "perplexity", "transfer"):
        assert f"| `{name}` | " in text
    assert METRICS["efficacy"].definition in text
    assert "| ablation | of | seeds |" in report[1]
    assert re.search(r"^\| english \| langedit \| 1 \|", report[1], re.MULTILINE)


def test_the_report_says_how_many_runs_each_method_had(done, tmp_path):
    config, _ = done
    tried = [("langedit", False)] * 3 + [("memit-seq", False)] * 2
    tried += [(name, True) for name in ("langedit", "memit-seq")]
    rows = [f'{{method = "{name}", trial = 0, final = {str(final).lower()}, settings = {{}}}}'
            for name, final in tried]  # fmt: skip
    (tmp_path / "c.toml").write_text(f"trials = [{', '.join(rows)}]", encoding="utf-8")
    text = trials_section(config.replace(chosen=str(tmp_path / "c.toml")))
    assert "In the first round runs by method: langedit 3, memit-seq 2 on facts" in text
    assert "decided: every method had 1 run, with" in text


def test_facts_without_a_score_are_not_counted(done):
    outcome = done[1][1]
    point = {"after": 2, "efficacy": [[None, 1.0], [None, 0.5]]}
    record = {**outcome.record, "retention": [point]}
    rows = {row["metric"]: row for row in rows_of([Outcome(cell=outcome.cell, record=record)])
            if row["language"] == "all"}  # fmt: skip
    assert (rows["retention_after_2"]["value"], rows["retention_after_2"]["count"]) == (0.75, 2)
    assert (rows["first_batch_after_2"]["value"], rows["first_batch_after_2"]["count"]) == (1.0, 1)


def test_what_is_no_share_is_shown_in_its_own_unit():
    interval = Interval(mean=4.5, low=4.25, high=5.0, level=0.95, facts=9)
    assert shown_interval("fluency", interval) == "4.50 (4.25–5.00)"
    assert shown_interval("fluency", interval, sign=True) == "+4.50 (+4.25 to +5.00)"
    assert shown_interval("fluency", None) == shown_value("fluency", None) == "–"
    assert (shown_value("fluency", 4.5), shown_value("mean", 0.5)) == ("4.50", "50.0")
    assert units_apart(("efficacy", "mean")) == ""
    assert "of fluency" in units_apart(("efficacy", "fluency"))


def test_failures_are_in_the_report(done, tmp_path):
    config, outcomes = done
    broken = [*outcomes[:-1], Outcome(cell=outcomes[-1].cell, error="no room")]
    write_report(config, broken, tmp_path / "r.md", COMMAND)
    text = (tmp_path / "r.md").read_text(encoding="utf-8")
    assert f"- {outcomes[-1].cell.name}: no room" in text
    with pytest.raises(ConfigError, match="at least one finished"):
        write_report(config, [Outcome(cell=outcomes[0].cell)], tmp_path / "r.md", COMMAND)
    with pytest.raises(ConfigError, match=r"ends in \.md"):
        write_report(config, outcomes, tmp_path / "r.txt", COMMAND)


def with_scores(outcomes, **efficacies):
    """The outcomes with other efficacies, by method."""
    changed = []
    for outcome in outcomes:
        value = efficacies.get(outcome.cell.method.replace("-", "_"), 0.0)
        facts = [{**fact, "efficacy": value} for fact in outcome.record["facts"]]
        changed.append(Outcome(cell=outcome.cell, record={**outcome.record, "facts": facts}))
    return changed


def test_the_best_is_bold_only_where_intervals_part(done):
    _, outcomes = done
    (clear,) = boards_of(with_scores(outcomes, langedit=0.9, memit_seq=0.5, english=1.0), 50)
    assert clear.best("efficacy") == "langedit"  # an ablation is in no contest
    (level,) = boards_of(with_scores(outcomes, langedit=0.5, memit_seq=0.5), 50)
    assert level.best("efficacy") is None
    console = Console(width=200, force_terminal=True, record=True)
    console.print(board_table(clear))
    shown = console.export_text(styles=True)
    assert re.search(r"\x1b\[1m *90\.0", shown)
    row = next(line for line in shown.splitlines() if "memit-seq" in line)
    assert "50.0" in row
    assert "\x1b[1m" not in row
    assert "90.0–90.0" in shown


def test_the_table_fits_a_terminal_of_80_columns(done):
    (board,) = boards_of(done[1], 50)
    console = Console(width=80, record=True)
    console.print(board_table(board))
    shown = console.export_text()
    assert "…" not in shown
    for word in ("efficacy", "generali-", "ficity", "memit-seq", "mean"):
        assert word in shown


def test_intervals_in_words():
    def interval(mean, low, high):
        return Interval(mean=mean, low=low, high=high, level=0.95, facts=9)

    assert percent_interval(interval(0.5, 0.4, 0.6)) == "50.0 (40.0–60.0)"
    assert percent_interval(interval(0.01, -0.02, 0.03), sign=True) == "+1.0 (-2.0 to +3.0)"
    assert percent_interval(None) == "–"
