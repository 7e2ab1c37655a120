"""Quantised checkpoints: what their settings say, and the modules that they quantise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizers_utils import should_convert_module

from langedit.editing.planning.stand_ins import (
    EightBitStandIn,
    FourBitStandIn,
    ScaledStandIn,
    StandIn,
)
from langedit.errors import ModelError
from langedit.models import EditableModel

KNOWN = (
    "bitsandbytes in 4 or 8 bits",
    "Int8WeightOnlyConfig of torchao",
    "IntxWeightOnlyConfig of torchao",
)
"""Kinds of quantisation whose memory is known."""


@dataclass(frozen=True, kw_only=True)
class Quantisation(ABC):
    """How the linear modules of a checkpoint are quantised.

    Attributes:
        name: for people.
        skipped: names of modules that stay plain; `None`: those that transformers chooses.
    """

    name: str
    skipped: tuple[str, ...] | None

    @abstractmethod
    def takes(self, module: nn.Module) -> bool:
        """Whether the library quantises such a module, if its name is not skipped."""

    @abstractmethod
    def make(self, plain: Any) -> StandIn:
        """What stands for a quantised module."""

    def asked(self, name: str) -> str:
        """What is compared with the names that are skipped, of a module's name."""
        return name

    def products(self, dtype: torch.dtype) -> torch.dtype:
        """Precision of the products of quantised modules in a model of some precision."""
        return dtype

    def apply(self, model: PreTrainedModel) -> None:
        """Put stand-ins in the place of all modules of a model that are quantised."""
        choose: Any = HfQuantizer.get_modules_to_not_convert
        skipped = None if self.skipped is None else list(self.skipped)
        kept = choose(model, skipped, model._keep_in_fp32_modules)
        for name, module in list(model.named_modules()):
            if self.takes(module) and should_convert_module(self.asked(name), kept):
                model.set_submodule(name, self.make(module))


@dataclass(frozen=True, kw_only=True)
class FourBits(Quantisation):
    """bitsandbytes, two weights a byte; `compute` and `double` as for `FourBitStandIn`."""

    compute: torch.dtype
    double: bool

    def products(self, dtype: torch.dtype) -> torch.dtype:
        """That of the settings, whatever the model's."""
        return self.compute

    def takes(self, module: nn.Module) -> bool:
        """Linear modules and those of GPT-2, no subclasses."""
        return _taken_by_bitsandbytes(module)

    def make(self, plain: Any) -> StandIn:
        """A `Linear4bit`."""
        return FourBitStandIn(plain, self.compute, double=self.double)


@dataclass(frozen=True, kw_only=True)
class EightBits(Quantisation):
    """bitsandbytes, a byte a weight."""

    def takes(self, module: nn.Module) -> bool:
        """Linear modules and those of GPT-2, no subclasses."""
        return _taken_by_bitsandbytes(module)

    def make(self, plain: Any) -> StandIn:
        """A `Linear8bitLt`."""
        return EightBitStandIn(plain)


@dataclass(frozen=True, kw_only=True)
class ScaledIntegers(Quantisation):
    """torchao, a byte a weight, whatever the number of bits in use.

    Attributes:
        group: weights of one scale; 0: a row, `None`: all.
        scale: precision of the scales; `None`: that of the model.
        whole: whether rows are multiplied before they are scaled.
    """

    group: int | None
    scale: torch.dtype | None
    whole: bool

    def takes(self, module: nn.Module) -> bool:
        """Linear modules and their subclasses."""
        return isinstance(module, nn.Linear)

    def asked(self, name: str) -> str:
        """The name of the weight."""
        return f"{name}.weight"

    def make(self, plain: Any) -> StandIn:
        """A `Linear` with a weight of torchao."""
        size = self.group or plain.in_features
        groups = None if self.group is None else -(-plain.in_features // size)
        scale = self.scale or plain.weight.dtype
        return ScaledStandIn(plain, groups=groups, scale=scale, whole=self.whole)


def quantisation_of(source: str, config: PretrainedConfig) -> Quantisation | None:
    """How a checkpoint is quantised, `None` if it is not.

    Args:
        source: what is planned, for messages.
        config: its configuration.

    Raises:
        ModelError: in a way whose memory is not known.
    """
    found: Any = getattr(config, "quantization_config", None)
    if found is None:
        return None
    settings: Mapping[str, Any] = found if isinstance(found, Mapping) else found.to_dict()
    if settings.get("load_in_4bit") or settings.get("load_in_8bit"):
        kind, reason, scheme = "bitsandbytes", *_of_bitsandbytes(settings)
    elif settings.get("quant_method") == "torchao":
        kind, reason, scheme = "torchao", *_of_torchao(settings)
    else:
        kind = str(settings.get("quant_method") or "quantization_config")
        reason, scheme = "what its library stores and unpacks is not known here", None
    if scheme is None:
        raise ModelError(
            f"--model: expected a configuration of plain weights, or quantised by one of "
            f"{', '.join(KNOWN)}, got {source!r}, which is quantised by {kind}: {reason}. Plan a "
            "copy of its config.json without quantization_config: that is more than it will need, "
            "since quantised weights are smaller"
        )
    return scheme


_Found = tuple[str, Quantisation | None]


def _of_bitsandbytes(settings: Mapping[str, Any]) -> _Found:
    skipped = _names(settings.get("llm_int8_skip_modules"))
    if settings.get("load_in_8bit"):
        if settings.get("llm_int8_has_fp16_weight"):
            return "with llm_int8_has_fp16_weight weights stay in 16 bits", None
        return "", EightBits(name="8 bits of bitsandbytes", skipped=skipped)
    compute = _dtype(settings.get("bnb_4bit_compute_dtype"), torch.float32)
    double = bool(settings.get("bnb_4bit_use_double_quant"))
    kind = settings.get("bnb_4bit_quant_type", "fp4")
    twice = ", scales quantised" if double else ""
    name = f"4 bits of bitsandbytes ({kind}{twice})"
    return "", FourBits(name=name, skipped=skipped, compute=compute, double=double)


def _of_torchao(settings: Mapping[str, Any]) -> _Found:
    chosen = dict(settings.get("quant_type") or {}).get("default")
    if not isinstance(chosen, Mapping):
        return "its quant_type has no configuration for all modules", None
    if settings.get("include_input_output_embeddings"):
        return "its embeddings are quantised, in whose precision edited weights are kept", None
    kind, options = chosen.get("_type"), dict(chosen.get("_data") or {})
    skipped = _names(settings.get("modules_to_not_convert"))
    granularity = dict(options.get("granularity") or {})
    size = dict(granularity.get("_data") or {}).get("group_size")
    per = {"PerRow": 0, "PerAxis": 0, "PerTensor": None, "PerGroup": size}
    shape = granularity.get("_type", "PerRow")
    if shape not in per:
        return f"its {kind} has scales {shape}", None
    group = per[shape]
    if kind == "Int8WeightOnlyConfig":
        whole = shape != "PerGroup"
        return "", ScaledIntegers(
            name="8 bits of torchao", skipped=skipped, group=group, scale=torch.float32, whole=whole
        )
    if kind == "IntxWeightOnlyConfig":
        bits = str(dict(options.get("weight_dtype") or {}).get("_data", "int8")).removeprefix("int")
        named = dict(options.get("scale_dtype") or {}).get("_data")
        return "", ScaledIntegers(
            name=f"{bits} bits of torchao, a byte each",
            skipped=skipped,
            group=group,
            scale=None if named is None else _dtype(named, torch.float32),
            whole=False,
        )
    if kind == "Int4WeightOnlyConfig":
        return "products with packed int4 have no gradients, which targets need", None
    return f"what its {kind} stores and unpacks is not known here", None


def _names(given: Any) -> tuple[str, ...] | None:
    return None if given is None else tuple(given)


def _dtype(given: Any, otherwise: torch.dtype) -> torch.dtype:
    """A precision as settings name it."""
    named = getattr(torch, str(given).removeprefix("torch."), None)
    return named if isinstance(named, torch.dtype) else otherwise


def _taken_by_bitsandbytes(module: nn.Module) -> bool:
    return isinstance(module, Conv1D) or type(module) is nn.Linear


def value_count(model: nn.Module) -> int:
    """Number of values in a model, of quantised modules that of the plain ones."""
    packed = [module for module in model.modules() if isinstance(module, StandIn)]
    inside = {id(own) for module in packed for own in module.parameters()}
    others = {id(own): own for own in model.parameters() if id(own) not in inside}
    return sum(own.numel() for own in others.values()) + sum(own.values for own in packed)


def is_stand_in(model: nn.Module) -> bool:
    """Whether modules of a model are quantised."""
    return any(isinstance(module, StandIn) for module in model.modules())


def plain_module(module: nn.Module) -> nn.Module:
    """A module as an editor makes it where it is quantised; any other itself."""
    return module.plain[0] if isinstance(module, StandIn) else module


@contextmanager
def plain_projections(model: EditableModel, layers: Iterable[int]) -> Iterator[None]:
    """While inside, edited projections are plain, as an editor makes them of quantised ones."""
    replaced = {
        model.projection_name(layer): module
        for layer in layers
        if isinstance(module := model.projection(layer), StandIn)
    }
    for name, module in replaced.items():
        model.model.set_submodule(name, module.plain[0])
    try:
        yield
    finally:
        for name, module in replaced.items():
            model.model.set_submodule(name, module)
