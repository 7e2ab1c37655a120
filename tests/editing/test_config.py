from __future__ import annotations

import json
from importlib.metadata import EntryPoint
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langedit.editing import EditConfig
from langedit.editing.hparams import FIXED, IGNORED
from langedit.editing.methods import find_method, method_names
from langedit.errors import ConfigError

HPARAMS = {
    "model_name": "Llama3-8B",
    "layers": [4, 5, 6, 7, 8],
    "layer_selection": "all",
    "fact_token": "subject_last",
    "v_num_grad_steps": 25,
    "v_lr": 0.1,
    "v_loss_layer": 31,
    "v_weight_decay": 0.5,
    "clamp_norm_factor": 0.75,
    "kl_factor": 0.0625,
    "mom2_adjustment": True,
    "mom2_update_weight": 15000,
    "rewrite_module_tmp": "model.layers.{}.mlp.down_proj",
    "layer_module_tmp": "model.layers.{}",
    "mlp_module_tmp": "model.layers.{}.mlp",
    "attn_module_tmp": "model.layers.{}.self_attn",
    "ln_f_module": "model.norm",
    "lm_head_module": "lm_head",
    "mom2_dataset": "wikipedia",
    "mom2_n_samples": 100000,
    "mom2_dtype": "float32",
    "nullspace_threshold": 0.02,
    "L2": 10,
}


def shipped() -> list[Path]:
    return sorted(Path(str(files("langedit"))).joinpath("configs").glob("*.toml"))


@pytest.mark.parametrize("path", shipped(), ids=lambda path: path.stem)
def test_shipped_settings_load(path: Path) -> None:
    config = EditConfig.from_toml(path)
    assert config.null_threshold == 0.02
    assert (config.norm_clamp, config.kl_weight, config.value_weight_decay) == (0.75, 0.0625, 0.5)


def test_published_settings_of_each_model_are_shipped() -> None:
    published = {
        "llama3-8b": ((4, 5, 6, 7, 8), 25, 0.1, 31, 15000.0),
        "gpt-j-6b": ((3, 4, 5, 6, 7, 8), 25, 0.5, 27, 15000.0),
        "gpt2-xl": ((13, 14, 15, 16, 17), 20, 0.5, 47, 20000.0),
        "qwen2.5-7b": ((4, 5, 6, 7, 8), 25, 0.1, 27, 15000.0),
    }
    found = {}
    for path in shipped():
        c = EditConfig.from_toml(path)
        found[path.stem] = (c.layers, c.value_steps, c.value_lr, c.loss_layer, c.moment_weight)
    assert found == published


def test_hyperparameters_of_the_original_code() -> None:
    config = EditConfig.from_hparams(HPARAMS)
    shipped_config = EditConfig.from_toml(next(p for p in shipped() if p.stem == "llama3-8b"))
    structure = {
        "layers": "model.layers",
        "projection": "mlp.down_proj",
        "final_norm": "model.norm",
    }
    assert config == shipped_config.replace(structure=structure)


def test_hyperparameters_from_a_file_with_settings_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "hparams.json"
    path.write_text(json.dumps(HPARAMS))
    config = EditConfig.from_hparams(path, method="alphaedit", refresh_edits=100)
    assert (config.method, config.refresh_edits, config.layers) == (
        "alphaedit",
        100,
        (4, 5, 6, 7, 8),
    )


def test_hyperparameters_without_a_meaning_here_change_nothing() -> None:
    plain = {name: value for name, value in HPARAMS.items() if name not in IGNORED}
    assert EditConfig.from_hparams(plain) == EditConfig.from_hparams(HPARAMS)


@pytest.mark.parametrize("name", sorted(FIXED))
def test_hyperparameters_that_ask_for_something_else_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        EditConfig.from_hparams({**HPARAMS, name: "other"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"v_rl": 0.1}, "v_rl: unknown hyperparameter; did you mean 'v_lr'"),
        ({"rewrite_module_tmp": "mlp.down_proj"}, "rewrite_module_tmp"),
        ({"rewrite_module_tmp": "transformer.h.{}.mlp.c_proj"}, "inside of layer_module_tmp"),
        ({"layer_module_tmp": "model.layers"}, "layer_module_tmp"),
        ({"context_template_length_params": [[5, 10], [10, 10]]}, "one pair"),
        ({"nullspace_threshold": -1}, "null_threshold"),
    ],
)
def test_wrong_hyperparameters(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EditConfig.from_hparams({**HPARAMS, **changes})


def test_prefix_lengths_of_rome() -> None:
    config = EditConfig.from_hparams({**HPARAMS, "context_template_length_params": [[7, 3]]})
    assert (config.prefix_length, config.prefix_count) == (7, 3)


@pytest.mark.parametrize(("bound", "limit"), [(False, 5e-4), (5e-5, 5e-5)])
def test_hyperparameters_of_ft(bound: object, limit: float) -> None:
    hparams = {"layers": [21], "num_steps": 20, "lr": 1e-3, "weight_decay": 0, "kl_factor": 0}
    names = {"rewrite_module_tmp": "model.layers.{}.mlp.down_proj.weight"}
    config = EditConfig.from_hparams({**hparams, **names, "norm_constraint": bound}, method="ft-l")
    assert (config.layers, config.ft_steps, config.ft_lr) == ((21,), 20, 1e-3)
    assert config.ft_change_limit == limit
    assert config.structure == {"layers": "model.layers", "projection": "mlp.down_proj"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "layers: expected a value, got none"),
        ({"layers": ()}, "layers: expected one or more"),
        ({"layers": (2, 1)}, "rising"),
        ({"layers": (1, 1)}, "without repeats"),
        ({"layers": (-1,)}, "layers.0"),
        ({"value_step": 3}, "value_step: unknown setting; did you mean 'value_steps'"),
        ({"method": "lang-edit"}, "did you mean 'langedit'"),
        ({"projection": "other"}, "projection"),
        ({"null_share": None}, "needs null_threshold or null_share"),
        ({"null_threshold": 0.1}, "got both"),
        ({"null_share": 1.0}, "null_share"),
        ({"ridge": 0.0}, "ridge"),
        ({"ridge": float("inf")}, "ridge"),
        ({"value_lr": float("nan")}, "value_lr"),
        ({"value_steps": 0}, "value_steps"),
        ({"loss_layer": 0}, "loss_layer at or after"),
        ({"kl_template": "is a"}, "exactly one {}"),
        ({"seed_words": {"xx": []}}, "seed_words"),
        ({"basis_tolerance": 0.0}, "basis_tolerance"),
    ],
)
def test_wrong_settings_say_what_was_expected(settings: dict[str, object], message: str) -> None:
    layers = {} if settings == {} else {"layers": (1, 2)}
    with pytest.raises(ConfigError, match=message):
        EditConfig(**{**layers, "null_share": 0.5, **settings})


@pytest.mark.parametrize("method", ["memit", "memit-seq"])
def test_memit_needs_no_null_space_but_bears_one(method: str) -> None:
    assert EditConfig(method=method, layers=(1,)).null_share is None
    assert EditConfig(method=method, layers=(1,), null_share=0.5).null_share == 0.5


def test_layers_beyond_the_model() -> None:
    config = EditConfig(layers=(1, 6), null_share=0.5)
    config.check_depth(7)
    with pytest.raises(ConfigError, match="from 0 to 5"):
        config.check_depth(6)
    with pytest.raises(ConfigError, match="got 9"):
        config.replace(loss_layer=9).check_depth(7)


def test_settings_cannot_be_changed() -> None:
    config = EditConfig(layers=(1,), null_share=0.5)
    with pytest.raises(Exception, match="frozen"):
        config.ridge = 1.0  # type: ignore[misc]
    with pytest.raises(ConfigError, match="ridge"):
        config.replace(ridge=-1.0)


text = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)


@given(
    words=st.dictionaries(
        st.sampled_from(["en", "zh-Hant", "pt-BR", "th"]),
        st.lists(text, min_size=1, max_size=3),
        max_size=3,
    ),
    template=text,
    ridge=st.floats(1e-8, 1e8),
    loss_layer=st.none() | st.integers(2, 90),
)
def test_toml_there_and_back(
    tmp_path_factory: pytest.TempPathFactory,
    words: dict[str, list[str]],
    template: str,
    ridge: float,
    loss_layer: int | None,
) -> None:
    config = EditConfig(
        layers=(1, 2),
        null_share=0.25,
        seed_words=words,
        kl_template=template.replace("{}", "") + "{}",
        ridge=ridge,
        loss_layer=loss_layer,
        structure={"layers": "model.layers"},
    )
    path = tmp_path_factory.mktemp("toml") / "config.toml"
    path.write_text(config.to_toml(), encoding="utf-8", newline="")
    assert EditConfig.from_toml(path) == config


@pytest.mark.parametrize(
    ("content", "message"),
    [("layers = [1", "expected TOML"), ("layers = [1]\nlayer = 2", "config.toml: layer: unknown")],
)
def test_wrong_files(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        EditConfig.from_toml(path)
    with pytest.raises(ConfigError, match="readable"):
        EditConfig.from_toml(tmp_path / "missing.toml")
    with pytest.raises(ConfigError, match="expected JSON"):
        EditConfig.from_hparams(path)


def test_methods_by_name() -> None:
    assert method_names()[:4] == ("langedit", "alphaedit", "memit", "memit-seq")
    assert find_method("langedit").needs_null_space
    with pytest.raises(ConfigError, match="got none"):
        find_method("rome2")


def test_a_plug_in_brings_a_method(monkeypatch: pytest.MonkeyPatch) -> None:
    points = "langedit.method_points"

    def offer(name: str) -> None:
        point = EntryPoint(name=name, value="langedit.editing.methods.memit:Memit", group="g")
        monkeypatch.setattr(f"{points}.entry_points", lambda group: (point,))

    offer("mine")
    assert method_names()[-1] == "mine"
    assert find_method("mine").__name__ == "Memit"
    assert EditConfig(method="mine", layers=(1,)).method == "mine"
    offer("memit")  # a name that is taken is ambiguous, not replaced
    with pytest.raises(ConfigError, match="expected one class"):
        find_method("memit")


def test_changes_go_in_before_a_file_is_checked(tmp_path):
    """A file without a null space is good for MEMIT only."""
    file = tmp_path / "memit.toml"
    file.write_text("layers = [1]\nmoment_weight = 3.0\n", encoding="utf-8")
    assert EditConfig.from_toml(file, method="memit").method == "memit"
    with pytest.raises(ConfigError, match="null_threshold or null_share"):
        EditConfig.from_toml(file)


def test_languages_of_seed_words_are_made_canonical():
    words = {"pt_br": ("O",), "iw": ("א",)}
    config = EditConfig(layers=(1,), null_share=0.5, seed_words=words)
    assert dict(config.seed_words) == {"pt-BR": ("O",), "he": ("א",)}
    with pytest.raises(ConfigError, match=r"seed_words.*'cz'"):
        EditConfig(layers=(1,), null_share=0.5, seed_words={"cz": ("A",)})
