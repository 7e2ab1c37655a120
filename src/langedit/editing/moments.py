"""Second moments of a model's layers, and the folder they are kept in.

One safetensors file a layer, `layer-004.safetensors`, with two tensors, `moment (d_in, d_in)` and
`sample (m, d_in)`, and metadata that says of which model, layer, weight and corpus they are. A
checksum covers both. What does not fit is refused, never used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from langedit.editing import moment_files
from langedit.errors import MomentsError, NumericalError
from langedit.linalg import NullSpaceAngle, SecondMoment
from langedit.models import ModelIdentity


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerMoment:
    """What the corpus says about the keys of one layer.

    Attributes:
        moment: Uncentred second moment of the keys.
        sample: `(m, d_in)` float32, keys drawn uniformly from the same tokens, in random order.
        counts: Tokens by language code; they add up to `moment.count`.
        weight_name: The edited weight in the model's state dict, if known.
        angle: How well the tokens determine the null space, where that was measured.

    Raises:
        MomentsError: When widths or counts contradict one another.
    """

    moment: SecondMoment
    sample: Tensor
    counts: Mapping[str, int]
    weight_name: str | None = None
    angle: NullSpaceAngle | None = None

    def __post_init__(self) -> None:
        width = self.moment.width
        if self.sample.ndim != 2 or self.sample.shape[1] != width:
            raise MomentsError(
                f"sample of keys: expected (m, {width}), got {tuple(self.sample.shape)}"
            )
        if not bool(torch.isfinite(self.sample).all()):
            raise MomentsError("sample of keys: not all values are finite; collect again")
        if (
            sum(self.counts.values()) != self.moment.count
            or min(self.counts.values(), default=0) < 0
        ):
            raise MomentsError(
                f"counts by language: expected them to add up to {self.moment.count} tokens, got "
                f"{dict(self.counts)}"
            )

    def merge(self, other: LayerMoment) -> LayerMoment:
        """Return the moment over the tokens of both; the sample keeps the larger of both sizes.

        Raises:
            MomentsError: When the weights or widths differ.
        """
        if self.weight_name != other.weight_name:
            raise MomentsError(
                f"merge: expected moments of {self.weight_name}, got those of {other.weight_name}"
            )
        try:
            moment = self.moment.merge(other.moment)
        except NumericalError as error:
            raise MomentsError(str(error)) from error
        languages = sorted(self.counts.keys() | other.counts.keys())
        counts = {name: self.counts.get(name, 0) + other.counts.get(name, 0) for name in languages}
        sample = _merge_samples(self, other)
        return replace(self, moment=moment, sample=sample, counts=counts, angle=None)


@dataclass(frozen=True, kw_only=True, eq=False)
class Moments:
    """The second moments of some layers of one model over one corpus.

    Attributes:
        layers: By layer number.
        identity: The model whose keys these are.
        corpus: Fingerprint of the texts; of merged results the sorted fingerprints joined
            by `+`.
        folder: Where they were read from, if anywhere; what follows from them may be kept there.
    """

    layers: Mapping[int, LayerMoment]
    identity: ModelIdentity
    corpus: str
    folder: Path | None = None

    def merge(self, other: Moments) -> Moments:
        """Return the moments over both corpora; commutes.

        Raises:
            MomentsError: When model or layers differ, or a corpus would be counted twice.
        """
        _require_model(self.identity, other.identity, "merge")
        if self.layers.keys() != other.layers.keys():
            raise MomentsError(
                f"merge: expected layers {sorted(self.layers)}, got {sorted(other.layers)}; "
                "collect the same layers on both sides"
            )
        mine, theirs = self.corpus.split("+"), other.corpus.split("+")
        twice = sorted(set(mine) & set(theirs))
        if twice:
            raise MomentsError(
                f"merge: the corpus {twice[0][:12]} is in both and would count twice; "
                "merge each partial result once"
            )
        layers = {i: layer.merge(other.layers[i]) for i, layer in self.layers.items()}
        corpus = "+".join(sorted(mine + theirs))
        return replace(self, layers=layers, corpus=corpus, folder=None)

    def save(self, folder: str | Path, *, dtype: torch.dtype | None = None) -> None:
        """Write one file a layer; each appears complete or not at all.

        Args:
            folder: Made if missing; files of the same layers are replaced.
            dtype: float32 halves the files; `None` keeps the precision of the moments.

        Raises:
            OutputError: When the folder cannot be written.
        """
        for number, layer in self.layers.items():
            stored = layer.moment.with_spectrum(None).to(dtype=dtype)
            moment_files.write_layer(
                moment_files.layer_path(Path(folder), number),
                {
                    "moment": stored.mean,
                    "sample": layer.sample.to(torch.float32),
                },
                moment_files.LayerHeader(
                    layer=number,
                    weight_name=layer.weight_name,
                    tokens=layer.moment.count,
                    counts=dict(layer.counts),
                    weights_hash=self.identity.weights_hash,
                    revision=self.identity.revision,
                    source=self.identity.source,
                    corpus=self.corpus,
                    angle=layer.angle,
                    rounding=stored.rounding,
                ),
            )

    @classmethod
    def load(
        cls,
        folder: str | Path,
        expect: ModelIdentity | None = None,
        layers: Iterable[int] | None = None,
    ) -> Moments:
        """Read the moments of some layers, refusing whatever is damaged or of another model.

        Args:
            folder: As given to `save`.
            expect: The model that will be edited; its weight hash must be that of the files.
                `None` checks only that all files are of one model.
            layers: Layers wanted; `None` reads all that are there.

        Raises:
            MomentsError: When a layer is missing, a file is truncated, altered or of another
                format, a value is not finite, or the files are of another model or of several.
        """
        root = Path(folder)
        found = moment_files.find_layers(root) if layers is None else sorted(set(layers))
        if not found:
            raise MomentsError(f"{root}: expected at least one layer, none was asked for")
        paths = {number: moment_files.layer_path(root, number) for number in found}
        return replace(cls.load_files(paths, expect), folder=root)

    @classmethod
    def load_files(cls, paths: Mapping[int, Path], expect: ModelIdentity | None = None) -> Moments:
        """Read the moments of one or more layers from files with any names.

        Args:
            paths: layer -> its file, as `save` wrote it.
            expect: as for `load`.

        Raises:
            MomentsError: as for `load`.
        """
        moments: dict[int, LayerMoment] = {}
        first: moment_files.LayerHeader | None = None
        for number, path in paths.items():
            header, tensors = moment_files.read_layer(path, number)
            first = first or header
            _require_model(expect or first.identity, header.identity, str(path))
            if header.corpus != first.corpus:
                raise MomentsError(
                    f"{path}: is of another corpus ({header.corpus[:12]}) than the other layers "
                    f"({first.corpus[:12]}); collect all layers in one pass"
                )
            moments[number] = _build_layer(path, header, tensors)
        assert first is not None
        return cls(layers=moments, identity=first.identity, corpus=first.corpus)


def _require_model(expected: ModelIdentity, got: ModelIdentity, where: str) -> None:
    if expected.weights_hash != got.weights_hash:
        raise MomentsError(
            f"{where}: expected second moments of {expected.source} (weights "
            f"{expected.weights_hash[:12]}), got those of {got.source} "
            f"(weights {got.weights_hash[:12]}); collect them for this model with langedit stats"
        )


def _build_layer(
    path: Path, header: moment_files.LayerHeader, tensors: Mapping[str, Tensor]
) -> LayerMoment:
    try:
        return LayerMoment(
            moment=SecondMoment(
                count=header.tokens, mean=tensors["moment"], rounding=header.rounding
            ),
            sample=tensors["sample"],
            counts=header.counts,
            weight_name=header.weight_name,
            angle=header.angle,
        )
    except (NumericalError, MomentsError) as error:
        raise MomentsError(f"{path}: {error}") from error


def _merge_samples(first: LayerMoment, second: LayerMoment) -> Tensor:
    """Take from each sample as many rows as its share of all tokens; both are in random order."""
    size = max(len(first.sample), len(second.sample))
    total = first.moment.count + second.moment.count
    from_first = min(round(size * first.moment.count / total), len(first.sample))
    from_second = min(size - from_first, len(second.sample))
    return torch.cat([first.sample[:from_first], second.sample[:from_second]])
