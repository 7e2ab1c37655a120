"""Parts of a sample, and the budget."""

from __future__ import annotations

import pytest

from langedit.calibration.budget import Budget
from langedit.calibration.parts import SHARES, in_turn, split_facts
from langedit.errors import ConfigError, FactError
from langedit.facts import Fact


def fact(language: str, subject: str, group: str | None = None) -> Fact:
    return Fact(language, "{} is", subject, "x", group=group)


MANY = [fact(code, f"{code} {i}") for code in ("en", "zh") for i in range(100)]


def test_subjects_are_shared_out_and_languages_take_turns():
    parts = split_facts(MANY)
    sizes = [len(parts.probe), len(parts.search), len(parts.confirm)]
    assert sizes == [round(200 * share) for share in SHARES]
    assert [f.language for f in parts.search[:4]] in (["en", "zh"] * 2, ["zh", "en"] * 2)
    assert split_facts(list(reversed(MANY))).probe != ()
    assert set(split_facts(list(reversed(MANY))).probe) == set(parts.probe)


def test_one_subject_and_one_group_are_in_one_part():
    facts = [fact("en", f"en {i}", f"g{i}") for i in range(60)]
    facts += [fact("zh", f"zh {i}", f"g{i}") for i in range(60)]
    facts += [fact("en", f"EN  {i}") for i in range(60)]  # the same subjects, written otherwise
    parts = split_facts(facts)
    for part in (parts.probe, parts.search, parts.confirm):
        numbers = [f.subject.split()[1] for f in part]
        assert all(numbers.count(number) == 3 for number in numbers)


@pytest.mark.parametrize("facts", [[], MANY[:2], [*MANY[:100], MANY[150]]])
def test_too_few_facts_say_how_many_are_needed(facts):
    with pytest.raises(FactError, match="at least 5 subjects in each language, better 30"):
        split_facts(facts)


def test_turns_go_on_when_a_language_is_used_up():
    turns = in_turn([fact("en", "a"), fact("en", "b"), fact("zh", "c")])
    assert [f.subject for f in turns] == ["a", "c", "b"]


def test_a_budget_is_spent_by_its_clock():
    now = [100.0]
    budget = Budget(minutes=1.0, clock=lambda: now[0])
    assert budget.allows(0.5)
    now[0] += 40
    assert budget.spent == 40
    assert not budget.allows(0.5)
    assert budget.allows(1.0, more=20)
    assert not budget.allows(1.0, more=21)
    assert Budget(minutes=None, clock=lambda: now[0]).allows(0.0, more=1e9)
    with pytest.raises(ConfigError, match="--budget: expected minutes above 0, got -1"):
        Budget(minutes=-1)
