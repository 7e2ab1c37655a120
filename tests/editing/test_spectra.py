"""Eigendecompositions beside the moments: made once, used again, and only for their own moment."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from edits import random_moments, settings
from tiny import tiny_editable

import langedit.linalg.spectrum as spectrum_module
from langedit.editing import Editor, Moments
from langedit.editing.spectra import spectrum_path, with_spectrum
from langedit.linalg import SecondMoment


@pytest.fixture
def decomposed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Widths of the matrices that were decomposed."""
    widths: list[int] = []
    eigh = torch.linalg.eigh

    def count(matrix: torch.Tensor) -> object:
        widths.append(len(matrix))
        return eigh(matrix)

    monkeypatch.setattr(spectrum_module.torch.linalg, "eigh", count)
    return widths


def a_moment(seed: int = 0, d: int = 12) -> SecondMoment:
    keys = torch.randn(50, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return SecondMoment(count=50, mean=keys.T @ keys / 50)


def test_is_made_once_and_read_again(tmp_path: Path, decomposed: list[int]) -> None:
    first = with_spectrum(a_moment(), tmp_path, 4)
    again = with_spectrum(a_moment(), tmp_path, 4)
    assert decomposed == [12]
    assert first.spectrum is not None
    assert again.spectrum is not None
    assert torch.equal(first.spectrum.eigenvectors, again.spectrum.eigenvectors)
    assert again.spectrum.fits(again.mean)


def test_of_another_moment_or_damaged_it_is_made_anew(
    tmp_path: Path, decomposed: list[int]
) -> None:
    with_spectrum(a_moment(), tmp_path, 4)
    other = with_spectrum(a_moment(1), tmp_path, 4)
    assert other.spectrum is not None
    assert other.spectrum.fits(other.mean)
    path = spectrum_path(tmp_path, 4)
    whole = path.read_bytes()
    path.write_bytes(whole[:-8] + bytes(8))
    again = with_spectrum(a_moment(1), tmp_path, 4)
    assert again.spectrum is not None
    assert torch.equal(again.spectrum.eigenvectors, other.spectrum.eigenvectors)
    assert len(decomposed) == 3
    with_spectrum(a_moment(1), tmp_path, 4)
    assert len(decomposed) == 3


def test_a_folder_that_cannot_be_written_is_no_fault(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    moment = with_spectrum(a_moment(), file / "moments", 0)
    assert moment.spectrum is not None


def test_a_decomposition_knows_its_matrix() -> None:
    moment = with_spectrum(a_moment(), Path("/nonexistent"), 0)
    spectrum = moment.spectrum
    assert spectrum is not None
    assert spectrum.fits(moment.mean)
    assert not spectrum.fits(1.001 * moment.mean)
    assert not spectrum.fits(a_moment(1).mean)
    assert not spectrum.fits(a_moment(d=13).mean)


def test_editors_share_it(tmp_path: Path, decomposed: list[int]) -> None:
    model = tiny_editable()
    random_moments(model).save(tmp_path)
    config = settings()
    first = Editor(model, None, config, Moments.load(tmp_path))
    assert len(decomposed) == 2
    second = Editor(model, None, config, Moments.load(tmp_path))
    assert len(decomposed) == 2
    for layer, state in first.layer_states.items():
        assert state.projector is not None
        other = second.layer_states[layer].projector
        assert other is not None
        assert torch.equal(state.projector.basis, other.basis)
    plain = Editor(model, None, config, random_moments(model))  # nothing to keep it in
    assert len(decomposed) == 4
    assert plain.layer_states[0].projector is not None
    memit = Editor(model, None, settings(method="memit"), Moments.load(tmp_path))
    assert len(decomposed) == 4  # which needs none
    assert memit.layer_states[0].solver is not None
