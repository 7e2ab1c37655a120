"""Second moments on disk: what is written comes back, and what is damaged is refused."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from langedit.editing import moment_files, tensor_file
from langedit.editing.moments import LayerMoment, Moments
from langedit.errors import MomentsError, OutputError
from langedit.linalg import SecondMoment
from langedit.models import ModelIdentity

IDENTITY = ModelIdentity(weights_hash="a" * 64, revision="main", source="some/model")
OTHER = ModelIdentity(weights_hash="b" * 64, revision="main", source="other/model")
D = 5


def layer(seed: int = 0, *, count: int = 12, rows: int = 4, d: int = D) -> LayerMoment:
    keys = torch.randn(count, d, generator=torch.Generator().manual_seed(seed)).double()
    mean = keys.T @ keys / count
    return LayerMoment(
        moment=SecondMoment(count=count, mean=(mean + mean.T) / 2),
        sample=keys[:rows].float(),
        counts={"de": count - 2, "zh": 2},
        weight_name="model.layers.4.mlp.down_proj.weight",
    )


def moments(corpus: str = "c" * 64) -> Moments:
    return Moments(layers={4: layer(1), 11: layer(2)}, identity=IDENTITY, corpus=corpus)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    moments().save(tmp_path / "moments")
    return tmp_path / "moments"


def test_round_trip_is_exact(folder: Path) -> None:
    original, loaded = moments(), Moments.load(folder, IDENTITY)
    assert loaded.identity == IDENTITY
    assert loaded.corpus == original.corpus
    assert sorted(loaded.layers) == [4, 11]
    for number, expected in original.layers.items():
        came = loaded.layers[number]
        assert torch.equal(came.moment.mean, expected.moment.mean)
        assert came.moment.mean.dtype == torch.float64
        assert torch.equal(came.sample, expected.sample)
        assert came.moment.count == expected.moment.count
        assert dict(came.counts) == dict(expected.counts)
        assert came.weight_name == expected.weight_name
    assert sorted(path.name for path in folder.iterdir()) == [
        "layer-004.safetensors",
        "layer-011.safetensors",
    ]


def test_float32_halves_the_file_and_keeps_seven_digits(tmp_path: Path) -> None:
    moments().save(tmp_path, dtype=torch.float32)
    loaded = Moments.load(tmp_path).layers[4].moment.mean
    assert loaded.dtype == torch.float32
    torch.testing.assert_close(loaded.double(), layer(1).moment.mean, rtol=1e-6, atol=1e-8)


def test_rounding_is_kept_and_storing_in_float32_adds_to_it(tmp_path: Path) -> None:
    known = replace(layer(1), moment=replace(layer(1).moment, rounding=1e-3))
    written = Moments(layers={4: known}, identity=IDENTITY, corpus="c")
    written.save(tmp_path / "double")
    written.save(tmp_path / "single", dtype=torch.float32)
    assert Moments.load(tmp_path / "double").layers[4].moment.rounding == 1e-3
    stored = Moments.load(tmp_path / "single").layers[4].moment
    lost = float(torch.linalg.matrix_norm(stored.mean.double() - known.moment.mean))
    assert stored.rounding == pytest.approx(1e-3 + lost, rel=1e-12)
    assert lost > 0


def test_metadata_can_be_read_by_others(folder: Path) -> None:
    with safe_open(folder / "layer-004.safetensors", framework="pt") as file:
        metadata = file.metadata()
    assert metadata["format"] == "langedit-moments-1"
    assert metadata["dtype"] == "float64"
    assert set(json.loads(metadata["software"])) == {"langedit", "torch", "transformers"}
    header = json.loads(metadata["header"])
    assert header["counts"] == {"de": 10, "zh": 2}
    assert header["tokens"] == 12
    assert header["weights_hash"] == IDENTITY.weights_hash


def test_an_empty_sample_is_kept(tmp_path: Path) -> None:
    empty = Moments(layers={0: layer(rows=0)}, identity=IDENTITY, corpus="c")
    empty.save(tmp_path)
    assert Moments.load(tmp_path).layers[0].sample.shape == (0, D)


def test_only_the_layers_asked_for_are_read(folder: Path) -> None:
    (folder / "layer-011.safetensors").write_bytes(b"damaged")
    assert list(Moments.load(folder, IDENTITY, layers=[4]).layers) == [4]
    with pytest.raises(MomentsError, match="layer-011"):
        Moments.load(folder, IDENTITY)


def test_the_source_of_the_model_may_differ_but_not_its_weights(folder: Path) -> None:
    moved = replace(IDENTITY, source="/elsewhere", revision=None)
    assert Moments.load(folder, moved).identity == IDENTITY
    with pytest.raises(MomentsError, match=r"other/model .*bbbbbbbbbbbb.*some/model"):
        Moments.load(folder, OTHER)


def test_files_of_several_models_or_corpora_do_not_mix(folder: Path) -> None:
    Moments(layers={7: layer()}, identity=OTHER, corpus="c" * 64).save(folder)
    with pytest.raises(MomentsError, match=r"layer-007.*expected second moments of some/model"):
        Moments.load(folder)
    Moments(layers={7: layer()}, identity=IDENTITY, corpus="d" * 64).save(folder)
    with pytest.raises(MomentsError, match=r"layer-007.*another corpus"):
        Moments.load(folder)


def test_missing_folder_files_and_layers(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(MomentsError, match="no such folder"):
        Moments.load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MomentsError, match="found none"):
        Moments.load(tmp_path / "empty")
    with pytest.raises(MomentsError, match=r"no second moment for layer 5.*langedit stats"):
        Moments.load(folder, IDENTITY, layers=[4, 5])
    with pytest.raises(MomentsError, match="none was asked for"):
        Moments.load(folder, IDENTITY, layers=[])


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


def truncate_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def flip_tensor_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def edit_header(old: bytes, new: bytes) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        content = path.read_bytes()
        length = struct.unpack("<Q", content[:8])[0]
        header = content[8 : 8 + length]
        assert header.count(old) == 1
        changed = header.replace(old, new)
        path.write_bytes(struct.pack("<Q", len(changed)) + changed + content[8 + length :])

    return edit


def drop_metadata(path: Path) -> None:
    save_file({"moment": torch.eye(D), "sample": torch.zeros(1, D)}, path)


def rename_tensor(path: Path) -> None:
    save_file({"matrix": torch.eye(D)}, path, metadata={"format": moment_files.FORMAT})


def swap_layers(path: Path) -> None:
    path.write_bytes(path.with_name("layer-011.safetensors").read_bytes())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(b""), "complete safetensors file"),
        (lambda path: path.write_text("not tensors at all"), "complete safetensors file"),
        (truncate, "complete safetensors file"),
        (truncate_header, "complete safetensors file"),
        (flip_tensor_bit, "checksum"),
        (edit_header(b"moments-1", b"moments-9"), "format 'langedit-moments-9'"),
        (edit_header(b"a" * 64, b"b" * 64), "checksum"),
        (edit_header(rb"\"tokens\": 12", rb"\"tokens\": 13"), "checksum"),
        (drop_metadata, "format None"),
        (rename_tensor, "tensors moment, sample"),
        (swap_layers, "expected layer 4, got layer 11"),
    ],
)
def test_damaged_files_are_refused(
    folder: Path, damage: Callable[[Path], object], message: str
) -> None:
    path = folder / "layer-004.safetensors"
    Moments.load(folder, IDENTITY)  # the control: before the damage it is used
    damage(path)
    with pytest.raises(MomentsError, match=message) as caught:
        Moments.load(folder, IDENTITY)
    assert str(path) in str(caught.value)
    assert "langedit stats" in str(caught.value)


def header(**changes: object) -> moment_files.LayerHeader:
    whole = moment_files.LayerHeader(
        layer=4,
        weight_name=None,
        tokens=3,
        counts={"de": 3},
        weights_hash=IDENTITY.weights_hash,
        revision=None,
        source="x",
        corpus="c",
    )
    return replace(whole, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("moment", "sample", "counts", "message"),
    [
        (torch.full((D, D), float("nan")), torch.zeros(1, D), {"de": 3}, "not finite"),
        (torch.zeros(D, D + 1), torch.zeros(1, D), {"de": 3}, "square"),
        (torch.eye(D).half(), torch.zeros(1, D), {"de": 3}, "float16"),
        (torch.eye(D), torch.full((1, D), float("inf")), {"de": 3}, "sample"),
        (torch.eye(D), torch.zeros(1, D + 1), {"de": 3}, "sample"),
        (torch.eye(D), torch.zeros(1, D), {"de": 2}, "add up to 3"),
        (torch.eye(D), torch.zeros(1, D), {}, "add up to 3"),
    ],
)
def test_whole_files_of_wrong_content_are_refused(
    tmp_path: Path,
    moment: torch.Tensor,
    sample: torch.Tensor,
    counts: dict[str, int],
    message: str,
) -> None:
    path = moment_files.layer_path(tmp_path, 4)
    tensors = {"moment": moment, "sample": sample}
    moment_files.write_layer(path, tensors, header(counts=counts))
    with pytest.raises(MomentsError, match=message) as caught:
        Moments.load(tmp_path)
    assert str(path) in str(caught.value)


def test_a_failed_write_leaves_the_old_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (folder / "layer-004.safetensors").read_bytes()

    def full(*args: object, **kwargs: object) -> None:
        Path(str(args[1])).write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(tensor_file, "save_file", full)
    with pytest.raises(OutputError, match=r"layer-004.*No space left"):
        moments().save(folder)
    assert (folder / "layer-004.safetensors").read_bytes() == before
    assert len(list(folder.iterdir())) == 2


def test_saving_below_a_file_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot be written"):
        moments().save(tmp_path / "file" / "moments")


def test_merge_commutes_and_counts() -> None:
    first = Moments(layers={4: layer(1)}, identity=IDENTITY, corpus="x")
    second = Moments(layers={4: layer(2, count=36, rows=8)}, identity=IDENTITY, corpus="b")
    one, two = first.merge(second), second.merge(first)
    assert one.corpus == two.corpus == "b+x"
    assert torch.equal(one.layers[4].moment.mean, two.layers[4].moment.mean)
    assert dict(one.layers[4].counts) == {"de": 44, "zh": 4}
    assert one.layers[4].moment.count == 48
    # 8 rows shared as 12 : 36 tokens
    expected = torch.cat([layer(1).sample[:2], layer(2, count=36, rows=8).sample[:6]])
    assert torch.equal(one.layers[4].sample, expected)


def test_merge_refuses_what_does_not_belong_together() -> None:
    mine = moments(corpus="x")
    with pytest.raises(MomentsError, match="other/model"):
        mine.merge(replace(mine, identity=OTHER, corpus="y"))
    with pytest.raises(MomentsError, match=r"expected layers \[4, 11\], got \[4\]"):
        mine.merge(replace(mine, layers={4: layer()}, corpus="y"))
    with pytest.raises(MomentsError, match="count twice"):
        mine.merge(mine)
    with pytest.raises(MomentsError, match="count twice"):
        mine.merge(replace(mine, corpus="y")).merge(replace(mine, corpus="y"))
    other_weight = {4: replace(layer(), weight_name="w"), 11: layer()}
    with pytest.raises(MomentsError, match="got those of w"):
        mine.merge(replace(mine, layers=other_weight, corpus="y"))
    wider = {4: layer(d=6), 11: layer(d=6)}
    with pytest.raises(MomentsError, match="width"):
        mine.merge(replace(mine, layers=wider, corpus="y"))
