"""The safetensors file of one layer's second moment: written whole, read with suspicion."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from langedit.editing.tensor_file import TensorFileKind, read_tensor_file, write_tensor_file
from langedit.errors import MomentsError
from langedit.linalg import NullSpaceAngle
from langedit.models import ModelIdentity

FORMAT = "langedit-moments-1"
_KIND = TensorFileKind(
    format=FORMAT,
    advice="Copy it again or collect the second moments anew with langedit stats",
    error=MomentsError,
)
_TENSORS = ("moment", "sample")
_NAME = re.compile(r"layer-(\d{3,})\.safetensors")


@dataclass(frozen=True, kw_only=True)
class LayerHeader:
    """What the file says about its tensors.

    Attributes:
        layer: Layer number.
        weight_name: The edited weight in the model's state dict.
        tokens: Number of tokens behind the moment.
        counts: The same by language.
        weights_hash: Hash of the model's weights.
        revision: Revision of the model asked for, if any.
        source: Hub id or folder of the model.
        corpus: Fingerprint of the texts.
        angle: Between the null spaces of two halves of the tokens, where it was measured.
        rounding: Of the moment (`SecondMoment.rounding`).
    """

    layer: int
    weight_name: str | None
    tokens: int
    counts: dict[str, int]
    weights_hash: str
    revision: str | None
    source: str
    corpus: str
    angle: NullSpaceAngle | None = None
    rounding: float = 0.0

    @property
    def identity(self) -> ModelIdentity:
        """The model whose keys these are."""
        return ModelIdentity(
            weights_hash=self.weights_hash, revision=self.revision, source=self.source
        )


def layer_path(folder: Path, layer: int) -> Path:
    """Return the file of a layer, `layer-004.safetensors`."""
    return folder / f"layer-{layer:03d}.safetensors"


def find_layers(folder: Path) -> list[int]:
    """Return the layers that a folder holds, in rising order.

    Raises:
        MomentsError: When there is no such folder, or no layer in it.
    """
    if not folder.is_dir():
        raise MomentsError(f"{folder}: no such folder; collect second moments with langedit stats")
    names = (_NAME.fullmatch(path.name) for path in folder.iterdir())
    layers = sorted(int(name[1]) for name in names if name)
    if not layers:
        raise MomentsError(
            f"{folder}: expected files named layer-004.safetensors and so on, found none; "
            "collect second moments with langedit stats"
        )
    return layers


def write_layer(path: Path, tensors: Mapping[str, Tensor], header: LayerHeader) -> None:
    """Write a layer; the file appears complete or not at all.

    Raises:
        OutputError: When the file cannot be written; nothing is left behind.
    """
    stored = {name: tensors[name] for name in _TENSORS}
    write_tensor_file(path, _KIND, stored, _encode(header, stored["moment"].dtype))


def read_layer(path: Path, layer: int) -> tuple[LayerHeader, dict[str, Tensor]]:
    """Read and check the file of one layer.

    Raises:
        MomentsError: When it is missing, not a file of this format and version, truncated,
            altered since it was written, or of another layer.
    """
    if not path.is_file():
        raise MomentsError(
            f"{path}: no second moment for layer {layer}; collect it with langedit stats"
        )
    metadata, tensors = read_tensor_file(path, _KIND, _TENSORS)
    header = _decode(metadata)
    if header.layer != layer:
        raise _KIND.refuse(path, f"layer {layer}", f"layer {header.layer}")
    return header, tensors


def _encode(header: LayerHeader, dtype: torch.dtype) -> dict[str, str]:
    software = {name: version(name) for name in ("langedit", "torch", "transformers")}
    return {
        "header": json.dumps(asdict(header), ensure_ascii=False, sort_keys=True),
        "dtype": str(dtype).removeprefix("torch."),
        "software": json.dumps(software, sort_keys=True),
    }


def _decode(metadata: Mapping[str, str]) -> LayerHeader:
    """Rebuild the header; the checksum has shown that it is as it was written."""
    fields = json.loads(metadata["header"])
    angle = fields.pop("angle", None)  # files of before have none
    return LayerHeader(**fields, angle=None if angle is None else NullSpaceAngle(**angle))
