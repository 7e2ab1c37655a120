"""What a comparison may say: names are checked, settings are put on top of one another."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from pathlib import Path

import pytest
from compare_helpers import SETTINGS, comparison, values

from langedit.compare.config import CompareConfig
from langedit.compare.reading import (
    edit_config,
    overlay,
    prefix_language,
    read_comparison,
    shipped_comparisons,
    shipped_folder,
)
from langedit.compare.streams import plans_of
from langedit.editing import method_names
from langedit.errors import ConfigError
from langedit.evaluation import METRICS
from langedit.method_points import BUILT_IN


def ranges_of(label, setting):
    ranges = {label: {setting: [1.0, 2.0]}}
    return {"tune": {"batches": 2, "edits_per_batch": 1, "ranges": ranges}}


BAD = [
    ({"methods": {"langedt": {}}}, r"methods\.langedt: .*did you mean 'langedit'"),
    ({"methods": {"mine": {"method": "memit-sek"}}}, "did you mean 'memit-seq'"),
    ({"methods": {"mine": {"base": "langedit"}}}, r"mine\.base: .*got 'langedit'"),
    ({"methods": {"a": {"base": "b"}, "b": {"base": "a"}}}, "circle"),
    ({"methods": {}}, "at least one"),
    ({"methods": {"unedited": {"method": "memit"}}}, "unedited: expected a name that is not taken"),
    ({"ablations": {"langedit": {}}}, "langedit: expected a name that is not taken"),
    ({"schedule": "per-batsch"}, "did you mean 'per-batch'"),
    ({"metrics": ["eficacy"]}, "did you mean 'efficacy'"),
    ({"languages": ["en", "xq"]}, "expected a known language code"),
    ({"languages": ["en", "EN"]}, "each once"),
    ({"batchez": 3}, "did you mean 'batches'"),
    ({"batches": 0}, "batches: "),
    ({"seeds": []}, "seeds: "),
    ({"ablation_seeds": [7]}, "ablation_seeds: expected some of seeds"),
    ({"reference": "memit"}, "reference: expected one of langedit, memit-seq, got 'memit'"),
    ({"name": "a/b"}, "expected names of letters"),
    ({"methods": {"langedit": {"on": {"tinny": {}}}}}, "did you mean 'tiny'"),
    ({"datasets": {"own": {"files": ["f"], "schedule": "paralel"}}}, "did you mean 'parallel'"),
    ({"datasets": {"own": {"fils": ["f"]}}}, "did you mean 'files'"),
    ({"models": {"tiny": {}}}, r"models\.tiny\.source: expected a value"),
    ({"tune": {"batches": 2, "edits_per_batch": 1, "ranges": {"lngedit": {}}}}, "'langedit'"),
    ({"tune": {"batches": 2, "edits_per_batch": 1, "ranges": {"common": {"ridge": 1}}}}, "ridge: "),
    (ranges_of("common", "rige"), r"tune\.ranges\.common: .*did you mean 'ridge'"),
    (ranges_of("memit-seq", "ridge"), r"tune\.ranges\.memit-seq: expected one of .*got 'ridge'"),
    ({"methods": {"langedit": {"prefix_language": "xq"}}}, r"langedit\.prefix_language: expected"),
    ({"retention": [1, 99]}, "retention: expected batches from 1 to 2.*got 99"),
    ({"retention": "all"}, r"retention: expected a number of points.*got 'all': for example"),
    ({"retention": [0]}, r"retention: expected a number of points.*got \[0\]"),
    ({"languages": "en"}, r"languages: expected a list, got 'en': put it in \[ \]"),
    ({"batches": 2.5}, r"batches: expected a whole number, got 2\.5"),
    ({"batches": 0}, "batches: expected 1 or more, got 0: raise it"),
    ({"seeds": []}, r"seeds: expected at least 1, got \(?\[?"),
    ({"models": {"tiny": {"source": 3}}}, r"models\.tiny\.source: expected text, got 3"),
    ({"models": 3}, "models: expected a table, got 3"),
    ({"models": {"tiny": 3}}, r"models\.tiny: expected a table, got 3"),
    ({"every_method": "perhaps"}, "every_method: expected true or false, got 'perhaps'"),
    ({"models": {"tiny": {"source": "tiny", "dtype": "int3"}}}, "dtype: expected one of 'auto'"),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_what_is_wrong_is_named_with_the_nearest_name(ground, changes, message):
    with pytest.raises(ConfigError, match=message):
        comparison(ground, **changes)


def test_the_tiny_comparison_is_good(ground):
    assert comparison(ground).replace(seeds=(1, 2)).seeds == (1, 2)


def test_settings_come_from_weak_to_strong(ground):
    config = comparison(
        ground,
        common={"layers": [0], "ridge": 1.0, "null_share": 0.5, "value_steps": 9},
        models={"tiny": {"source": "tiny", "settings": {"ridge": 2.0, "null_threshold": 0.1}}},
        methods={
            "langedit": {"ridge": 3.0, "on": {"tiny": {"value_steps": 7}}},
            "pooled": {"base": "langedit", "projection": "pooled", "null_share": 0.9},
            "english": {"base": "pooled", "prefix_language": "en"},
        },
    )
    own = edit_config(config, "langedit", "tiny")
    assert (own.ridge, own.value_steps, own.null_threshold, own.null_share) == (3.0, 7, 0.1, None)
    pooled = edit_config(config, "english", "tiny")
    assert (pooled.method, pooled.projection, pooled.ridge) == ("langedit", "pooled", 3.0)
    assert (pooled.null_threshold, pooled.null_share) == (None, 0.9)
    assert [prefix_language(config, label) for label in config.methods] == ["own", "own", "en"]


def test_a_wrong_setting_names_method_and_model(ground):
    config = comparison(ground, methods={"mine": {"method": "memit", "moment_wait": 1}})
    with pytest.raises(ConfigError, match=r"method mine on model tiny: .*moment_weight"):
        edit_config(config, "mine", "tiny")


def test_settings_that_a_method_does_not_read_are_refused_in_its_own_tables(ground):
    for own in ({"corpus_weight": 2.0}, {"on": {"tiny": {"corpus_weight": 2.0}}}):
        config = comparison(ground, methods={"memit": own})
        with pytest.raises(ConfigError, match=r"memit on model tiny: expected settings that memit "
                           r"reads, got corpus_weight; it reads .*moment_weight"):  # fmt: skip
            edit_config(config, "memit", "tiny")
    common = {**SETTINGS, "corpus_weight": 2.0, "layers": [0]}
    for label in method_names():
        config = comparison(ground, common=common, methods={label: {}})
        assert edit_config(config, label, "tiny").corpus_weight == 2.0
    methods = {"langedit": {"basis_tolerance": 1e-5}, "ft": {"stop_margin": 1.0}}
    config = comparison(ground, methods=methods, ablations={
        "fixed": {"base": "langedit", "method": "alphaedit", "solve_history": False},
        "wrong": {"base": "langedit", "method": "alphaedit", "refresh_edits": 3},
    })  # fmt: skip
    assert edit_config(config, "fixed", "tiny").basis_tolerance == 1e-5
    for label, name in (("wrong", "refresh_edits"), ("ft", "stop_margin")):
        with pytest.raises(ConfigError, match=f"got {name}; it reads"):
            edit_config(config, label, "tiny")


def test_the_one_given_last_of_two_alternatives_counts():
    assert overlay({"relative_ridge": 0.1, "a": 1}, {"ridge": 2}) == {"a": 1, "ridge": 2}
    both = {"ridge": 1, "relative_ridge": 2}
    assert overlay({"ridge": 5}, both) == both


def test_every_registered_method_can_be_asked_for(ground):
    config = comparison(ground, every_method=True, methods={"mine": {"method": "memit"}})
    assert {"mine", "langedit", "alphaedit", "memit", "memit-seq"} <= set(config.all_methods())


@pytest.mark.parametrize("name", shipped_comparisons())
def test_shipped_comparisons_are_valid(name):
    config = read_comparison(name)
    assert config.name == name
    assert config.languages[0] in ("en", "zh")
    for label in [*config.all_methods(), *config.ablations]:
        for model in config.models:
            assert edit_config(config, label, model).method == config.method_of(label)
    for dataset in config.datasets:
        assert all(plan.facts_each for plan in plans_of(config, dataset).values())


def test_the_paper_has_six_languages_of_400_in_batches_of_100():
    config = read_comparison("paper-mzsre")
    (plan,) = plans_of(config, "mzsre").values()
    assert (len(plan.languages), plan.facts_each, plan.size) == (6, 400, 100)
    assert edit_config(config, "memit", "llama3-8b").moment_weight == 15000
    assert edit_config(config, "alphaedit", "gpt-j-6b").layers == (3, 4, 5, 6, 7, 8)


@pytest.mark.parametrize("name", ["paper-mzsre", "paper-bzsre"])
def test_the_paper_has_every_method_with_its_published_settings(name):
    config = read_comparison(name)
    assert {point.name for point in BUILT_IN} <= set(config.all_methods())
    rome, on_gptj = (edit_config(config, "rome", model) for model in ("llama3-8b", "gpt-j-6b"))
    assert (rome.layers, rome.value_lr, rome.norm_clamp) == ((5,), 0.5, 4.0)
    assert (rome.value_weight_decay, rome.value_steps, rome.loss_layer) == (1e-3, 25, 31)
    assert (on_gptj.value_weight_decay, on_gptj.value_steps) == (0.5, 20)
    for label in ("ft", "ft-l"):
        own = edit_config(config, label, "qwen25-7b")
        assert (own.layers, own.ft_steps, own.ft_lr) == ((21,), 25, 5e-4)
    for label in ("rect", "prune"):
        assert edit_config(config, label, "llama3-8b").moment_weight == 15000


def test_the_shipped_tuning_is_that_of_the_atlas():
    config = read_comparison("atlas", chosen=None)
    found = tomllib.loads((shipped_folder() / "chosen" / "atlas.toml").read_text(encoding="utf-8"))
    assert set(found["methods"]) == set(config.all_methods())
    tune = config.tune
    rounds = Counter((row["method"], row["final"]) for row in found["trials"])
    assert rounds == {
        (method, final): tune.final.trials if final else tune.budget
        for method in config.all_methods()
        for final in (False, True)
    }
    for row in found["trials"]:
        ranges = tune.ranges[row["method"]]
        assert set(row["settings"]) == (set(ranges) if row["trial"] else set())
    for method, table in found["methods"].items():
        finals = [row for row in found["trials"] if row["final"] and row["method"] == method]
        best = max(finals, key=lambda row: row["objective"])
        assert table.get("on", {}).get("bundled", {}) == best["settings"]


def test_an_unknown_shipped_name_and_a_missing_file_are_said(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'quick'"):
        read_comparison("quik")
    with pytest.raises(ConfigError, match=r"none\.toml: expected a readable TOML file"):
        read_comparison(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("batches = 'x'\n")
    with pytest.raises(ConfigError, match=r"bad\.toml: "):
        read_comparison(tmp_path / "bad.toml")


def test_chosen_settings_take_the_place_of_those_given(tmp_path):
    (tmp_path / "c.toml").write_text(
        """
languages = ["en"]
batches = 1
edits_per_batch = 1
chosen = "best.toml"
[models.m]
source = "x"
[models.n]
source = "y"
[methods.alphaedit]
layers = [0]
null_share = 0.5
ridge = 3.0
on.m.norm_clamp = 2.0
[ablations.weighed]
base = "alphaedit"
corpus_weight = 1.0
[datasets.atlas]
"""
    )
    best = '[methods.alphaedit]\nchosen = "tried"\n[methods.alphaedit.on.m]\nrelative_ridge = 0.1\n'
    (tmp_path / "best.toml").write_text(best)
    config = read_comparison(tmp_path / "c.toml")
    tuned, other = (edit_config(config, "weighed", name) for name in "mn")
    assert (tuned.relative_ridge, tuned.norm_clamp, tuned.corpus_weight) == (0.1, 2.0, 1.0)
    assert (other.relative_ridge, other.ridge) == (None, 3.0)
    assert config.entry("alphaedit").chosen == "tried"
    more = best + "[methods.prune]\nmoment_weight = 3.0\n"
    (tmp_path / "best.toml").write_text(more)
    assert set(read_comparison(tmp_path / "c.toml").methods) == {"alphaedit"}
    (tmp_path / "best.toml").write_text(best.replace("alphaedit", "alphaedt"))
    with pytest.raises(ConfigError, match="did you mean 'alphaedit'"):
        read_comparison(tmp_path / "c.toml")


def test_the_example_in_the_docs_is_valid(tmp_path):
    page = Path(__file__).parents[2] / "docs" / "compare.md"
    (block,) = re.findall(r"^```toml\n(.*?)^```$", page.read_text(encoding="utf-8"), re.S | re.M)
    (tmp_path / "mine.toml").write_text(block, encoding="utf-8")
    config = read_comparison(tmp_path / "mine.toml")
    assert edit_config(config, "langedit-english", "small").projection == "orthogonal"
    assert config.tune is not None


def test_values_are_not_shared(ground):
    assert CompareConfig(**values(ground)) == CompareConfig(**values(ground))


def test_metrics_are_all_scores_of_facts_and_efficacy_is_one(tmp_path):
    assert comparison(tmp_path, metrics=("success",)).metrics == ("efficacy", "success")
    assert set(comparison(tmp_path, metrics=tuple(METRICS)).metrics) == set(METRICS)
