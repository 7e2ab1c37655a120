"""Quantised models: with modules in miniature, and as libraries make them that are installed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from langedit.models import EditableModel


class Int8Linear(nn.Linear):
    """A `Linear` whose weight is int8 with one scale a row, as bitsandbytes' and others'."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__(plain.in_features, plain.out_features, bias=plain.bias is not None)
        scale = plain.weight.detach().float().abs().amax(dim=1, keepdim=True) / 127
        codes = (plain.weight.float() / scale).round().to(torch.int8)
        self.weight = nn.Parameter(codes, requires_grad=False)
        self.register_buffer("scale", scale)
        if plain.bias is not None:
            self.bias = nn.Parameter(plain.bias.detach().clone(), requires_grad=False)

    def true_weight(self) -> Tensor:
        return self.weight.float() * self.scale

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.true_weight().to(x.dtype), self.bias)


class PackedLinear(nn.Module):
    """No `Linear` at all: two 4-bit codes to a byte, in buffers, as GPTQ and AWQ keep them."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = plain.in_features, plain.out_features
        scale = plain.weight.detach().float().abs().amax(dim=1, keepdim=True) / 7
        codes = ((plain.weight.float() / scale).round() + 8).to(torch.uint8)
        self.register_buffer("qweight", codes[:, ::2] * 16 + codes[:, 1::2])
        self.register_buffer("scales", scale)
        self.bias = plain.bias

    def true_weight(self) -> Tensor:
        codes = torch.stack([self.qweight // 16, self.qweight % 16], dim=2).flatten(1)
        return (codes.float() - 8) * self.scales

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.true_weight().to(x.dtype), self.bias)


QUANTISERS = {"int8": Int8Linear, "4-bit": PackedLinear}


def quantise(model: EditableModel, kind: str) -> EditableModel:
    """Quantise every linear module of the model's decoder layers, in place."""
    for layer in range(model.structure.n_layers):
        block = model.layer(layer)
        for name, module in list(block.named_modules()):
            if isinstance(module, nn.Linear):
                block.set_submodule(name, QUANTISERS[kind](module))
    return model


# --- libraries ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scheme:
    """A way to quantise while a checkpoint is loaded.

    Attributes:
        library: the package that it needs.
        make: gives what `from_pretrained` takes as `quantization_config`.
    """

    library: str
    make: Callable[[], Any]

    @property
    def installed(self) -> bool:
        return find_spec(self.library) is not None


def _bitsandbytes(**options: Any) -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(**options)


def _torchao_4bit() -> Any:
    from torchao.quantization import IntxWeightOnlyConfig
    from torchao.quantization.granularity import PerGroup
    from transformers import TorchAoConfig

    return TorchAoConfig(IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(16)))


def _torchao_8bit() -> Any:
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    return TorchAoConfig(Int8WeightOnlyConfig())


SCHEMES = {
    "bitsandbytes 8-bit": Scheme("bitsandbytes", lambda: _bitsandbytes(load_in_8bit=True)),
    "bitsandbytes 4-bit": Scheme(
        "bitsandbytes", lambda: _bitsandbytes(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    ),
    "torchao 8-bit": Scheme("torchao", _torchao_8bit),
    "torchao 4-bit": Scheme("torchao", _torchao_4bit),
}
