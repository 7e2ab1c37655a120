"""Hyperparameter files of FT, ROME, MEMIT and AlphaEdit, in our names."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from langedit.errors import ConfigError

RENAMED: Mapping[str, str] = MappingProxyType(
    {
        "layers": "layers",
        "v_num_grad_steps": "value_steps",
        "v_lr": "value_lr",
        "v_loss_layer": "loss_layer",
        "v_weight_decay": "value_weight_decay",
        "clamp_norm_factor": "norm_clamp",
        "kl_factor": "kl_weight",
        "mom2_update_weight": "moment_weight",
        "nullspace_threshold": "null_threshold",
        "L2": "ridge",
        "num_steps": "ft_steps",
        "lr": "ft_lr",
    }
)
"""Names with the same meaning."""

FIXED: Mapping[str, Any] = MappingProxyType(
    {
        "fact_token": "subject_last",
        "layer_selection": "all",
        "mom2_adjustment": True,
        "weight_decay": 0,
    }
)
"""Choices of which only one is offered here."""

IGNORED = frozenset(
    {
        "model_name",
        "stats_dir",
        "mom2_dataset",
        "mom2_n_samples",
        "mom2_dtype",
        "mlp_module_tmp",
        "attn_module_tmp",
        "lm_head_module",
    }
)
"""Names without a meaning here: the model and the moments are given as such, and the head is
found by structure (these files name the embedding table where it is tied to the head)."""

MODULES = frozenset({"rewrite_module_tmp", "layer_module_tmp", "ln_f_module"})
"""Names of modules; the first two hold a `{}` for the layer's index."""

CHANGE_LIMIT = "norm_constraint"
"""Bound of FT-L; `false` in files of FT."""

PREFIXES = "context_template_length_params"
"""ROME's list of one or more [length, count] of context prefixes."""

KNOWN = (*RENAMED, *FIXED, *IGNORED, *MODULES, CHANGE_LIMIT, PREFIXES)


def settings_from_hparams(hparams: Mapping[str, Any]) -> dict[str, Any]:
    """Translate hyperparameters to settings of `EditConfig`.

    Args:
        hparams: names and values as in the JSON files published with ROME (and its FT), MEMIT and
            AlphaEdit.

    Raises:
        ConfigError: a name is unknown, or a value asks for what is not offered.
    """
    for name in hparams:
        if name not in KNOWN:
            near = difflib.get_close_matches(name, KNOWN, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(KNOWN)}"
            raise ConfigError(f"{name}: unknown hyperparameter; {hint}")
    for name, only in FIXED.items():
        if name in hparams and hparams[name] != only:
            raise ConfigError(f"{name}: expected {only!r}, the only choice, got {hparams[name]!r}")
    settings = {RENAMED[name]: value for name, value in hparams.items() if name in RENAMED}
    structure = _structure(hparams)
    if structure:
        settings["structure"] = structure
    if hparams.get(CHANGE_LIMIT, False) is not False:
        settings["ft_change_limit"] = hparams[CHANGE_LIMIT]
    if PREFIXES in hparams:
        settings |= _prefixes(hparams[PREFIXES])
    return settings


def _structure(hparams: Mapping[str, Any]) -> dict[str, str]:
    """Names of the list of layers, of the projection inside a layer, and of the final norm."""
    structure = {}
    if "ln_f_module" in hparams:
        structure["final_norm"] = str(hparams["ln_f_module"])
    layer = hparams.get("layer_module_tmp")
    projection = hparams.get("rewrite_module_tmp")
    if layer is not None:
        structure["layers"] = _before_index("layer_module_tmp", layer)
    if projection is not None:
        layers, _, inside = str(projection).partition(".{}.")
        if not inside or layers != structure.get("layers", layers):
            raise ConfigError(
                "rewrite_module_tmp: expected a module inside of layer_module_tmp, such as "
                f"'model.layers.{{}}.mlp.down_proj', got {projection!r}"
            )
        structure |= {"layers": layers, "projection": inside.removesuffix(".weight")}
    return structure


def _before_index(name: str, template: Any) -> str:
    before, slot, after = str(template).partition(".{}")
    if not slot or after:
        raise ConfigError(f"{name}: expected a name that ends in '.{{}}', got {template!r}")
    return before


def _prefixes(pairs: Any) -> dict[str, int]:
    match pairs:
        case [[int(length), int(count)]]:
            return {"prefix_length": length, "prefix_count": count}
        case _:
            raise ConfigError(
                f"{PREFIXES}: expected one pair [[length, count]], got {pairs!r}: prefixes of one "
                "length are offered"
            )
