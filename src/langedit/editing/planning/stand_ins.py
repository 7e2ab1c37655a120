"""Linear modules as libraries quantise them, on the meta device.

A stand-in stores as many bytes as the library's module, and its `forward` makes tensors as large as
the library does, in the same order; values there are none. Checked against bitsandbytes 0.50 and
torchao 0.18.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from langedit.models.blocks import linear_sizes

_META = torch.device("meta")
_BLOCK, _OUTER_BLOCK = 64, 256  # weights of one scale, scales of one scale of scales
_CODES = 16  # values that 4 bits can mean
_OUTER_CODES = 256  # values that 8 bits of a scale can mean


class StandIn(nn.Linear):
    """Does as a quantised module, as far as memory and arithmetic go.

    Attributes:
        plain: the module that it stands in place of, in a tuple, so that it is no part of it.
    """

    def __init__(self, plain: nn.Linear | Conv1D, stored: Mapping[str, Tensor]) -> None:
        """Take the place of a plain module.

        Args:
            plain: on the meta device, in the precision of the model.
            stored: name -> tensor instead of its weight; "weight" is one of them.
        """
        sizes = linear_sizes(plain)
        assert sizes is not None
        super().__init__(*sizes, bias=plain.bias is not None, device=_META, dtype=torch.float32)
        self.plain = (plain,)
        for name, tensor in stored.items():
            setattr(self, name, nn.Parameter(tensor, requires_grad=False))
        self.bias = plain.bias

    @property
    def values(self) -> int:
        """Number of values that the plain module has."""
        return sum(parameter.numel() for parameter in self.plain[0].parameters())

    def _like_plain(self, dtype: torch.dtype) -> Tensor:
        return torch.empty(self.out_features, self.in_features, dtype=dtype, device=_META)


class FourBitStandIn(StandIn):
    """`Linear4bit` of bitsandbytes: a weight is unpacked for each product and not kept."""

    def __init__(self, plain: nn.Linear | Conv1D, compute: torch.dtype, *, double: bool) -> None:
        """Take the place of a plain module.

        Args:
            plain: the module.
            compute: precision of its products.
            double: whether scales are quantised, too.
        """
        weight: Any = plain.weight
        blocks = -(-weight.numel() // _BLOCK)
        stored = {
            "weight": _empty(torch.uint8, -(-weight.numel() // 2), 1),
            "absmax": _empty(torch.uint8 if double else torch.float32, blocks),
            "code": _empty(torch.float32, _CODES),
        }
        if double:
            stored["outer_absmax"] = _empty(torch.float32, -(-blocks // _OUTER_BLOCK))
            stored["outer_code"] = _empty(torch.float32, _OUTER_CODES)
            stored["offset"] = _empty(torch.float32)
        super().__init__(plain, stored)
        self._compute, self._blocks, self._double = compute, blocks, double
        self._dtype: torch.dtype = weight.dtype

    def forward(self, x: Tensor) -> Tensor:
        """Products in the compute precision; the result in that of `x`."""
        inner = x.to(self._compute)
        bias = None if self.bias is None else self.bias.to(self._compute)
        if torch.is_grad_enabled() and inner.requires_grad:
            product: Any = _FourBitProduct.apply
            return product(inner, bias, self).to(x.dtype)  # type: ignore[no-any-return]
        return functional.linear(inner, self.unpacked(self._compute), bias).to(x.dtype)

    def unpacked(self, dtype: torch.dtype | None = None) -> Tensor:
        """The weight in a precision; `None`: that in which it was quantised."""
        scales = _empty(torch.float32, self._blocks) if self._double else None
        weight = self._like_plain(dtype or self._dtype)
        del scales
        return weight


class _FourBitProduct(torch.autograd.Function):
    """A product whose gradient unpacks the weight again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, module: FourBitStandIn) -> Tensor:
        ctx.module = module
        return functional.linear(x, module.unpacked(x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0] @ ctx.module.unpacked().to(gradients[0].dtype), None, None


class EightBitStandIn(StandIn):
    """`Linear8bitLt` of bitsandbytes: inputs are quantised as well, and kept for gradients."""

    def __init__(self, plain: nn.Linear | Conv1D) -> None:
        """Take the place of a plain module."""
        d_in, d_out = linear_sizes(plain) or (0, 0)
        stored = {"weight": _empty(torch.int8, d_out, d_in), "scale": _empty(torch.float32, d_out)}
        super().__init__(plain, stored)

    def forward(self, x: Tensor) -> Tensor:
        """Integer products, brought to the precision of `x`."""
        product: Any = _EightBitProduct.apply
        found: Tensor = product(x, self)
        return found if self.bias is None else found + self.bias


class _EightBitProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, module: EightBitStandIn) -> Tensor:
        ctx.module, ctx.shape = module, x.shape
        rows = x.reshape(-1, x.shape[-1])
        if ctx.needs_input_grad[0]:
            ctx.x = rows
        half = rows.to(torch.float16)
        outliers = half.abs() >= 0
        codes = torch.empty_like(half, dtype=torch.int8)
        del half, outliers
        sums = torch._int_mm(codes, module.weight.t())
        return sums.to(torch.float16).to(x.dtype).reshape(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        weight = ctx.module.weight.to(gradients[0].dtype)
        rows = gradients[0].reshape(-1, weight.shape[0])
        return (rows @ weight).view(ctx.shape), None


class ScaledStandIn(StandIn):
    """Integers of torchao: products are torch's own, so gradients keep every unpacked weight."""

    scale: Tensor
    zero_point: Tensor

    def __init__(
        self, plain: nn.Linear, *, groups: int | None, scale: torch.dtype, whole: bool
    ) -> None:
        """Take the place of a plain module.

        Args:
            plain: the module.
            groups: scales of a row; `None`: one for the whole weight.
            scale: their precision.
            whole: whether a row is multiplied before it is scaled.
        """
        shape = (1, 1) if groups is None else (plain.out_features, groups)
        stored = {
            "weight": _empty(torch.int8, plain.out_features, plain.in_features),
            "scale": _empty(scale, *shape),
            "zero_point": _empty(torch.int8, *shape),
        }
        super().__init__(plain, stored)
        self._whole = whole
        self._dtype = plain.weight.dtype

    def forward(self, x: Tensor) -> Tensor:
        """Scale the product of integers, or multiply by scaled ones."""
        if not self._whole:
            return functional.linear(x, self._scaled().to(x.dtype), self.bias)
        rows = x.reshape(-1, x.shape[-1])
        found = (rows @ self.weight.t().to(x.dtype)) * self.scale.to(x.dtype).flatten()
        found = found.reshape(*x.shape[:-1], -1)
        return found if self.bias is None else found.add_(self.bias)

    def _scaled(self) -> Tensor:
        """The weight in the precision in which it was quantised."""
        groups = self.weight.view(*self.scale.shape, -1).to(self._dtype)
        groups = groups - self.zero_point.unsqueeze(2).to(self._dtype)
        groups = groups * self.scale.unsqueeze(2)
        return groups.view(self.weight.shape).to(self._dtype)


def _empty(dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=_META)
