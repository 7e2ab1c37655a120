"""Which facts are edited in what order: schedules, alignment, and slices that do not meet."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import pytest
from compare_helpers import comparison

from langedit.compare.pools import file_pool, in_part
from langedit.compare.reading import read_comparison
from langedit.compare.streams import Plan, Streams, make_stream, plans_of
from langedit.errors import ConfigError, FactError


def stream_of(ground, **changes):
    config = comparison(ground, **changes)
    (name,) = config.datasets
    plans = plans_of(config, name)
    return [Streams(config).stream(name, plan, 0) for plan in plans.values()]


def ids(stream):
    return [[fact.id.partition("/")[2] or fact.id for fact in batch] for batch in stream.batches]


def languages(stream):
    return [[fact.language for fact in batch] for batch in stream.batches]


def test_per_batch_has_one_language_a_batch_and_facts_of_its_own(ground):
    (stream,) = stream_of(ground, batches=4)
    assert languages(stream) == [["en"] * 2, ["de"] * 2, ["en"] * 2, ["de"] * 2]
    assert max(Counter(name for batch in ids(stream) for name in batch).values()) == 1
    pairs = {fact.language + other.language for fact, other in stream.aligned}
    assert pairs == {"ende", "deen"}


def test_aligned_facts_say_the_same_in_the_other_language(ground):
    (stream,) = stream_of(ground, batches=4, transfer_sample=9)
    assert len(stream.aligned) == 8
    for own, fact in stream.aligned:
        assert own in stream.facts
        assert own.id == fact.id
        assert own.group == fact.group is not None
        assert own.language != fact.language
        assert fact.text not in {edited.text for edited in stream.facts}


def test_parallel_has_the_same_facts_in_all_languages_and_asks_no_others(ground):
    (stream,) = stream_of(ground, schedule="parallel", batches=4)
    names = ids(stream)
    assert languages(stream) == [["en"] * 2, ["de"] * 2, ["en"] * 2, ["de"] * 2]
    assert names[0] == names[1]
    assert names[2] == names[3] != names[0]
    assert stream.aligned == ()


def test_per_fact_mixes_the_languages_of_a_batch(ground):
    (stream,) = stream_of(ground, schedule="per-fact", batches=2)
    assert languages(stream) == [["en", "de"], ["en", "de"]]


def test_monolingual_is_a_stream_for_each_language(ground):
    english, german = stream_of(ground, schedule="monolingual")
    assert languages(english) == [["en"] * 2] * 2
    assert languages(german) == [["de"] * 2] * 2


def test_seeds_draw_other_facts_unless_the_order_is_kept(ground):
    config = comparison(ground)
    plan = plans_of(config, "own")["own"]
    prints = [Streams(config).stream("own", plan, seed).fingerprint for seed in (0, 0, 1)]
    assert prints[0] == prints[1] != prints[2]
    entry = config.datasets["own"].model_copy(update={"shuffle": False})
    kept = config.replace(datasets={"own": entry})
    first, second = (Streams(kept).stream("own", plan, seed) for seed in (0, 1))
    assert first.fingerprint == second.fingerprint
    assert [fact.subject for fact in first.batches[0]] == ["France", "Italy"]


@pytest.mark.parametrize("part", ["evaluation", "tuning"])
def test_no_subject_is_in_both_parts(ground, part):
    config = comparison(ground, tuning_share=0.5)
    pools = {
        name: file_pool(config, "own", ("en", "de"), seed=0, part=name)
        for name in ("evaluation", "tuning")
    }
    own = {sides["en"].subject for sides in pools[part].facts.values()}
    assert 0 < len(own) < 12
    assert len(own) + sum(in_part(s, 0.5, part) is False for s in own) == len(own)
    both = [set(pool.facts) for pool in pools.values()]
    assert both[0].isdisjoint(both[1])
    assert len(both[0] | both[1]) == 12


def test_too_few_facts_and_uneven_shares_are_said(ground):
    with pytest.raises(FactError, match=r"data set own.*expected 14 facts in en.*got 6"):
        stream_of(ground, batches=14)
    with pytest.raises(ConfigError, match="2 languages share evenly, got 3"):
        stream_of(ground, batches=3)
    with pytest.raises(FactError, match="got none in fr; it has de, en"):
        stream_of(ground, languages=["en", "fr"])


def test_an_unknown_data_set_is_said(ground):
    with pytest.raises(ConfigError, match=r"datasets\.atlass: .*did you mean 'atlas'"):
        stream_of(ground, datasets={"atlass": {}})
    with pytest.raises(ConfigError, match="environment variable"):
        stream_of(ground, datasets={"own": {"files": ["$LANGEDIT_NOT_SET/x.jsonl"]}})


def test_the_atlas_is_aligned_and_its_parts_do_not_meet(ground):
    config = comparison(
        ground,
        datasets={"atlas": {}},
        languages=["en", "de", "zh"],
        batches=3,
        edits_per_batch=4,
        tuning_share=0.3,
        transfer_sample=3,
    )
    (plan,) = plans_of(config, "atlas").values()
    evaluation = Streams(config).stream("atlas", plan, 0)
    tuning = Streams(config, "tuning").stream("atlas", plan, 0)
    assert [batch[0].language for batch in evaluation.batches] == ["en", "de", "zh"]
    assert len(evaluation.aligned) == 3 * 3 * 2
    for own, fact in evaluation.aligned:
        relation, subject = own.id.split("/", 1)[1].split("/", 1)
        assert fact.id == f"{fact.language}/{relation}/{subject}"
        assert own.group == fact.group
        assert fact.old not in (None, fact.target)
    names = [{f.id.split("/", 2)[2] for f in own.facts} for own in (evaluation, tuning)]
    assert names[0].isdisjoint(names[1])
    assert set(evaluation.texts) == {"en", "de", "zh"}
    parallel = Plan(schedule="parallel", languages=("en", "zh"), batches=2, size=3)
    pair = Streams(config).stream("atlas", parallel, 0)
    assert [f.id[2:] for f in pair.batches[0]] == [f.id[2:] for f in pair.batches[1]]


def test_how_subjects_were_found_is_counted_and_not_in_the_fingerprint(ground, tmp_path):
    sides = [
        {"en": {"src": f"Who rules {name}?", "subject": name, "alt": "Bo", "rephrase": "?",
                "loc": "x?", "loc_ans": "y"},
         "de": {"src": question, "subject": name, "alt": "Bo", "rephrase": "?", "loc": "x?",
                "loc_ans": "y"}}
        for name, question in (("Peru", "Wer regiert Peru?"), ("Chile", "Wer regiert CHILE?"),
                               ("Ghana", "Wer regiert das Land?"))
    ]  # fmt: skip
    (tmp_path / "m.json").write_text(json.dumps(sides), encoding="utf-8")
    entry = {"files": [str(tmp_path / "m.json")], "missing_subject": "normalise"}
    config = comparison(ground, datasets={"own": entry}, edits_per_batch=1)
    pool = file_pool(config, "own", ("en", "de"), seed=0, part="evaluation")
    assert pool.subjects == {
        "en": {"as given": 3}, "de": {"as given": 1, "normalised": 1, "rejected": 1},
    }  # fmt: skip
    (plan,) = plans_of(config, "own").values()
    stream = make_stream(pool, plan, 0)
    assert stream.subjects == pool.subjects
    assert replace(stream, subjects={}).fingerprint == stream.fingerprint


@pytest.mark.data
@pytest.mark.parametrize("name", ["paper-mzsre", "paper-bzsre"])
def test_the_shipped_comparisons_of_the_paper_have_their_facts(name, data_folder):
    assert data_folder.is_dir()
    config = read_comparison(name)
    (dataset,) = config.datasets
    (plan,) = plans_of(config, dataset).values()
    stream = Streams(config).stream(dataset, plan, 0)
    assert [len(batch) for batch in stream.batches] == [100] * config.batches
    assert [batch[0].language for batch in stream.batches[: len(config.languages)]] == list(
        config.languages
    )
    texts = [(fact.language, fact.text) for fact in stream.facts]
    assert len(set(texts)) == len(texts)
    assert set(stream.subjects) >= set(config.languages)


def test_a_text_is_told_once_in_a_language(ground, tmp_path):
    lines = (ground / "facts.jsonl").read_text(encoding="utf-8").splitlines()
    again = lines[0].replace('"id": "0"', '"id": "99"').replace("Rome", "Berlin", 1)
    (tmp_path / "facts.jsonl").write_text("\n".join([*lines, again]), encoding="utf-8")
    config = comparison(ground, datasets={"own": {"files": [str(tmp_path / "facts.jsonl")]}})
    pool = file_pool(config, "own", ("en", "de"), seed=0, part="evaluation")
    texts = [sides["en"].text for sides in pool.facts.values() if "en" in sides]
    assert len(texts) == len(set(texts)) == 12
    plan = Plan(schedule="per-batch", languages=("en", "de"), batches=2, size=6)
    assert len(make_stream(pool, plan, 0).facts) == 12
