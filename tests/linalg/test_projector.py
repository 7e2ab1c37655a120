from __future__ import annotations

import gc
import weakref

import oracles
import pytest
import torch

from langedit.errors import ConfigError, NumericalError
from langedit.linalg import NullSpaceProjector, SecondMoment, null_fraction, projected_update

D = 24


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def moment(d: int = D, seed: int = 0) -> SecondMoment:
    keys = randn(10 * d, d, seed=seed) * torch.logspace(1, -2, d, dtype=torch.float64)
    return SecondMoment(count=len(keys), mean=keys.T @ keys / len(keys))


def with_eigenvalues(values: list[float]) -> SecondMoment:
    return SecondMoment(count=1, mean=torch.diag(torch.tensor(values, dtype=torch.float64)))


def test_is_symmetric_idempotent_and_as_the_oracle_says() -> None:
    c0 = moment()
    projector = NullSpaceProjector.from_moment(c0, threshold=0.02)
    dense = projector.dense()
    assert 0 < projector.rank < D
    assert projector.rank + projector.left == D
    assert projector.left == pytest.approx(float(dense.trace()), abs=1e-12)
    torch.testing.assert_close(dense, dense.T, rtol=0, atol=1e-15)
    torch.testing.assert_close(dense @ dense, dense, rtol=0, atol=1e-14)
    torch.testing.assert_close(dense, oracles.null_projector(c0.mean, 0.02), rtol=0, atol=1e-13)


def test_apply_is_the_dense_product_and_kills_the_basis() -> None:
    projector = NullSpaceProjector.from_moment(moment(), threshold=0.02)
    rows = randn(7, D)
    torch.testing.assert_close(projector.apply(rows), rows @ projector.dense(), rtol=0, atol=1e-14)
    assert projector.apply(projector.basis.T).abs().max() < 1e-15
    # the second pass: a row that is nearly forbidden keeps a clean remainder
    faint = 1e8 * projector.basis[:, 0] + projector.apply(rows)[0]
    remainder = projector.apply(faint[None])
    assert (remainder @ projector.basis).abs().max() < 1e-14
    once = faint[None] - (faint[None] @ projector.basis) @ projector.basis.T
    assert (once @ projector.basis).abs().max() > 1e-10  # the control: one pass is not enough


def test_threshold_is_strict() -> None:
    projector = NullSpaceProjector.from_moment(with_eigenvalues([0.01, 0.02, 0.03]), threshold=0.02)
    assert projector.left == 1
    assert projector.threshold == 0.02


@pytest.mark.parametrize(("share", "left"), [(0.25, 1), (0.5, 2), (0.75, 3), (1.0, 4)])
def test_null_share_leaves_that_share_and_reports_the_threshold(share: float, left: int) -> None:
    c0 = with_eigenvalues([4.0, 1.0, 3.0, 2.0])
    projector = NullSpaceProjector.from_moment(c0, null_share=share)
    assert projector.left == left
    assert projector.threshold is not None
    again = NullSpaceProjector.from_moment(c0, threshold=projector.threshold)
    assert again.left == left


def test_equal_eigenvalues_are_never_divided() -> None:
    projector = NullSpaceProjector.from_moment(
        with_eigenvalues([1.0, 2.0, 2.0, 2.0]), null_share=0.5
    )
    assert projector.left == 1


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"threshold": 0.1, "null_share": 0.5},
        {"threshold": 0.0},
        {"threshold": float("nan")},
        {"null_share": 0.0},
        {"null_share": 1.1},
    ],
)
def test_settings_out_of_range(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"threshold|null_share"):
        NullSpaceProjector.from_moment(moment(), **settings)


def test_extend_kills_the_keys_and_keeps_the_rest() -> None:
    start = NullSpaceProjector.from_moment(moment(), threshold=0.02)
    keys = randn(4, D, seed=1)
    projector = start.extend(keys, 1e-12)
    assert projector.rank == start.rank + 4
    assert projector.threshold == start.threshold
    assert null_fraction(projector, keys).max() < 1e-14
    assert null_fraction(start, keys).min() > 0.1  # the control
    expected = oracles.orthogonal_projector(start.dense(), keys.T)
    torch.testing.assert_close(projector.dense(), expected, rtol=0, atol=1e-13)
    assert torch.equal(projector.basis[:, : start.rank], start.basis)


def test_extend_reveals_the_rank() -> None:
    start = NullSpaceProjector.empty(D)
    keys = randn(3, D)
    repeated = torch.cat([keys, 1e6 * keys, keys[:1] + keys[1:2], torch.zeros(2, D)])
    projector = start.extend(repeated, 1e-10)
    assert projector.rank == 3
    assert projector.extend(repeated, 1e-10) is projector
    assert projector.extend(torch.zeros(2, D), 1e-10) is projector
    assert projector.extend(torch.zeros(0, D), 1e-10) is projector


@pytest.mark.parametrize("tolerance", [1e-2, 1e-6, 1e-10])
def test_what_extend_drops_is_below_the_tolerance(tolerance: float) -> None:
    """Keys that differ by noise of every size: the bound of the docstring holds for each."""
    base = randn(1, D)
    noise = randn(13, D, seed=1) * torch.logspace(0, -12, 13, dtype=torch.float64)[:, None]
    keys = (base + noise) * torch.logspace(-3, 3, 13, dtype=torch.float64)[:, None]
    projector = NullSpaceProjector.empty(D).extend(keys, tolerance)
    assert null_fraction(projector, keys).max() <= tolerance
    assert projector.rank < 13
    finer = NullSpaceProjector.empty(D).extend(keys, tolerance / 1e3)
    assert finer.rank > projector.rank


def test_extend_clips_at_the_full_space() -> None:
    projector = NullSpaceProjector.empty(5).extend(randn(3, 5), 1e-10)
    full = projector.extend(randn(9, 5, seed=1), 1e-10)
    assert (full.rank, full.left) == (5, 0)
    assert full.orthonormality_error() < 1e-13
    assert full.extend(randn(2, 5, seed=2), 1e-10) is full
    assert torch.equal(full.apply(randn(2, 5)), torch.zeros(2, 5, dtype=torch.float64))


def test_stays_orthonormal_over_hundreds_of_extensions() -> None:
    """Each batch is nearly dependent on the keys before it, which is the hard case."""
    d = 400
    projector = NullSpaceProjector.from_moment(moment(d), null_share=0.95)
    keys = torch.zeros(0, d, dtype=torch.float64)
    last = randn(1, d, seed=7)
    for step in range(300):
        fresh = last + 1e-7 * randn(1, d, seed=100 + step)
        projector = projector.extend(fresh, 1e-12)
        keys = torch.cat([keys, fresh])
        last = fresh
    assert projector.rank == 20 + 300
    assert projector.orthonormality_error() < 1e-12
    assert null_fraction(projector, keys).max() < 1e-12
    dense = projector.dense()
    assert (dense @ dense - dense).abs().max() < 1e-12


def test_null_fraction_by_hand() -> None:
    basis = torch.tensor([[1.0], [0.0]], dtype=torch.float64)
    projector = NullSpaceProjector(basis=basis)
    keys = torch.tensor([[0.0, 2.0], [5.0, 0.0], [3.0, 4.0], [0.0, 0.0]])
    expected = torch.tensor([1.0, 0.0, 0.8, 0.0], dtype=torch.float64)
    torch.testing.assert_close(null_fraction(projector, keys), expected)


@pytest.mark.parametrize(
    ("basis", "message"),
    [
        (torch.eye(4), "float32"),
        (2 * torch.eye(4, dtype=torch.float64), "orthonormal"),
        (torch.ones(4, 2, dtype=torch.float64), "orthonormal"),
        (torch.full((4, 2), float("nan"), dtype=torch.float64), "orthonormal"),
        (torch.eye(4, dtype=torch.float64)[:2], "rank <= d_in"),
        (torch.ones(4, dtype=torch.float64), "rank <= d_in"),
    ],
)
def test_what_is_no_basis_is_refused(basis: torch.Tensor, message: str) -> None:
    with pytest.raises(NumericalError, match=message):
        NullSpaceProjector(basis=basis)


@pytest.mark.parametrize("tolerance", [0.0, 1e-14, 1.0, float("nan")])
def test_extend_refuses_a_tolerance_out_of_range(tolerance: float) -> None:
    with pytest.raises(ConfigError, match="tolerance"):
        NullSpaceProjector.empty(3).extend(torch.ones(1, 3), tolerance)


def test_rows_are_checked() -> None:
    projector = NullSpaceProjector.empty(3)
    with pytest.raises(NumericalError, match=r"\(n, 3\), got \(1, 4\)"):
        projector.apply(torch.ones(1, 4))
    with pytest.raises(NumericalError, match="not finite"):
        projector.extend(torch.tensor([[1.0, float("inf"), 0.0]]), 1e-6)
    with pytest.raises(NumericalError, match="int64"):
        projector.apply(torch.ones(1, 3, dtype=torch.int64))


# --- the keys of a batch are projected once -----------------------------------------------------


def test_the_last_keys_are_projected_once() -> None:
    projector = NullSpaceProjector.empty(D).extend(randn(5, D), 1e-9)
    keys = randn(4, D, seed=3)
    left = projector.project_keys(keys)
    assert torch.equal(left, projector.apply(keys))
    assert projector.project_keys(keys) is left
    equal = keys.clone()  # another tensor with the same values is not known to be the same
    assert projector.project_keys(equal) is not left
    assert torch.equal(projector.project_keys(keys), left)


def test_keys_that_were_written_to_are_projected_anew() -> None:
    projector = NullSpaceProjector.empty(D).extend(randn(5, D), 1e-9)
    keys = randn(4, D, seed=3)
    before = projector.project_keys(keys)
    keys[0] *= 2
    assert torch.equal(projector.project_keys(keys), projector.apply(keys))
    assert not torch.equal(projector.project_keys(keys), before)


def test_nothing_is_kept_of_keys_that_are_gone() -> None:
    projector = NullSpaceProjector.empty(D).extend(randn(5, D), 1e-9)
    keys = randn(4, D, seed=3)
    left = weakref.ref(projector.project_keys(keys))
    assert left() is not None
    del keys
    assert left() is None


def test_nothing_is_kept_of_a_projector_that_is_gone() -> None:
    projector = NullSpaceProjector.empty(D).extend(randn(5, D), 1e-9)
    keys = randn(4, D, seed=3)
    left = weakref.ref(projector.project_keys(keys))
    gc.collect()
    gc.disable()
    try:
        del projector
        assert left() is None
    finally:
        gc.enable()


def test_keys_of_inference_mode_are_projected_each_time() -> None:
    projector = NullSpaceProjector.empty(D).extend(randn(5, D), 1e-9)
    with torch.inference_mode():
        keys = randn(4, D, seed=3)
    assert torch.equal(projector.project_keys(keys), projector.apply(keys))
    assert projector.extend(keys, 1e-9).rank == 9


def test_a_batch_passes_its_keys_over_the_basis_once(monkeypatch: pytest.MonkeyPatch) -> None:
    projector = NullSpaceProjector.empty(D).extend(randn(5, D), 1e-9)
    keys, residuals = randn(4, D, seed=3), randn(4, 6, seed=4)
    passed: list[int] = []
    settle = NullSpaceProjector.settle

    def count(own: NullSpaceProjector, rows: torch.Tensor) -> torch.Tensor:
        passed.append(len(rows))
        return settle(own, rows)

    monkeypatch.setattr(NullSpaceProjector, "settle", count)
    projected_update(projector, keys, residuals, ridge=0.1)
    null_fraction(projector, keys)
    projector.extend(keys, 1e-9)
    assert passed == [4, 4]  # the keys, and the rows of the update


def test_beside_one_that_waits_only_the_growth_is_brought() -> None:
    waiting = direct = NullSpaceProjector.from_moment(moment(), null_share=0.8)
    places = set()
    for seed in range(4):
        rows = randn(2, D, seed=seed)
        near = waiting.to("cpu")
        later, direct = near.extend(rows, 1e-9).beside(waiting, near), direct.extend(rows, 1e-9)
        assert torch.equal(later.basis, direct.basis)
        assert later.basis.stride() == direct.basis.stride()
        assert later.threshold == direct.threshold
        assert near.beside(waiting, near) is waiting
        waiting = later
        places.add(later.basis.untyped_storage().data_ptr())
    assert len(places) == 1
    near, other = waiting.to("cpu"), NullSpaceProjector.from_moment(moment(seed=1), null_share=0.2)
    anew = other.beside(waiting, near)
    assert torch.equal(anew.basis, other.basis)
    assert anew.threshold == other.threshold
