"""The basis of a field: a change of it is undone exactly, and cutting in it costs what it says."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amtl_export.principal.basis import Basis, covariance, principal_basis, rows_in, shared_basis

Floats = npt.NDArray[Any]


def drawn(V: int, D: int, seed: int, kind: str = "full") -> tuple[Floats, Floats, Floats]:
    """Rows, counts and a metric."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(V, D)).astype(np.float32)
    if kind == "low":
        rows = (rng.normal(size=(V, 1)) @ rng.normal(size=(1, D))).astype(np.float32)
    elif kind == "constant":
        rows[:] = rows[0]
    elif kind == "zero":
        rows[:] = 0
    gradients = rng.normal(size=(1 if kind == "one_gradient" else 3 * D, D))
    metric = gradients.T @ gradients
    return rows, rng.integers(1, 100, V).astype(np.float64), metric * (0 if kind == "no_metric" else 1)


def damage(rows: Floats, counts: Floats, metric: Floats, basis: Basis, k: int) -> float:
    """What cutting every row behind k numbers does: sum of q · d G dᵀ."""
    z = rows.astype(np.float64) @ basis.encode
    z[:, :k] = 0
    d = z @ basis.decode
    return float((counts * np.einsum("vi,ij,vj->v", d, metric, d)).sum())


KINDS = ["full", "low", "constant", "zero", "one_gradient", "no_metric"]


@given(st.integers(1, 9), st.integers(1, 6), st.integers(0, 999), st.sampled_from(KINDS))
def test_rows_come_back(V: int, D: int, seed: int, kind: str) -> None:
    rows, counts, metric = drawn(V, D, seed, kind)
    basis = principal_basis(covariance(rows, counts), metric)
    np.testing.assert_allclose(basis.encode @ basis.decode, np.eye(D), atol=1e-8)
    np.testing.assert_allclose(rows_in(basis, rows) @ basis.decode, rows, atol=1e-4)
    assert np.isfinite(basis.encode).all()
    assert (basis.energies >= 0).all()
    assert (np.diff(basis.energies) <= 1e-9 * max(1.0, basis.energies[0])).all()


@pytest.mark.parametrize("D", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("V", [1, 3, 40])
def test_what_a_cut_costs(V: int, D: int) -> None:
    rows, counts, metric = drawn(V, D, seed=V * 10 + D)
    metric += np.trace(metric) * 0.1 * np.eye(D)  # no eigenvalue below the least
    basis = principal_basis(covariance(rows, counts), metric)
    z = rows_in(basis, rows).astype(np.float64)
    for k in range(D + 1):
        said = float((counts[:, None] * basis.weights * z**2)[:, k:].sum())
        np.testing.assert_allclose(said, damage(rows, counts, metric, basis, k), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(basis.energies[k:].sum(), said, rtol=1e-4, atol=1e-4)


def test_no_other_basis_costs_less() -> None:
    rows, counts, metric = drawn(60, 5, seed=1)
    scatter = covariance(rows, counts)
    best = principal_basis(scatter, metric)
    rng = np.random.default_rng(2)
    for _ in range(20):
        encode = rng.normal(size=(5, 5))
        other = Basis(encode, np.asarray(np.linalg.inv(encode), np.float64), np.ones(5), np.ones(5))
        for k in range(1, 5):
            assert damage(rows, counts, metric, best, k) <= damage(rows, counts, metric, other, k) * (1 + 1e-6)


def test_rows_of_one_direction_need_one_number() -> None:
    rows, counts, metric = drawn(50, 6, seed=3, kind="low")
    basis = principal_basis(covariance(rows, counts), metric)
    assert basis.energies[1:].sum() <= 1e-6 * basis.energies[0]
    assert basis.effective_rank == pytest.approx(1, abs=1e-3)


def test_effective_rank() -> None:
    eye = np.eye(4)
    assert Basis(eye, eye, np.ones(4), np.full(4, 2.5)).effective_rank == pytest.approx(4)
    assert Basis(eye, eye, np.ones(4), np.array([1.0, 1, 0, 0])).effective_rank == pytest.approx(2)
    assert Basis(eye, eye, np.ones(4), np.zeros(4)).effective_rank == 0


def test_a_direction_that_the_model_does_not_feel_comes_last() -> None:
    rows, counts, _ = drawn(50, 3, seed=4)
    basis = principal_basis(covariance(rows, counts), np.diag([1.0, 0.0, 1.0]))
    felt = np.abs(basis.decode[:, [0, 2]]).max(axis=1)
    assert np.abs(basis.decode[-1, 1]) > 10 * felt[-1]
    np.testing.assert_allclose(basis.encode @ basis.decode, np.eye(3), atol=1e-9)


def test_counts_weigh_rows() -> None:
    rows = np.array([[1, 0], [0, 1]], dtype=np.float32)
    for counts, first in (([9.0, 1.0], 0), ([1.0, 9.0], 1)):
        basis = principal_basis(covariance(rows, np.array(counts)), np.eye(2))
        np.testing.assert_allclose(np.abs(basis.encode[:, 0]), np.eye(2)[first], atol=1e-12)
        np.testing.assert_allclose(basis.energies, [9, 1])


def test_covariance_of_many_rows_and_of_none() -> None:
    rows, counts, _ = drawn((1 << 16) + 5, 2, seed=5)
    np.testing.assert_allclose(
        covariance(rows, counts), (rows * counts[:, None]).astype(np.float64).T @ rows, rtol=1e-4
    )
    assert not covariance(rows[:0], counts[:0]).any()


@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 999))
def test_a_shared_basis_leaves_products(fields: int, D: int, seed: int) -> None:
    known = [drawn(7, D, seed + i, KINDS[(seed + i) % len(KINDS)]) for i in range(fields)]
    bases = shared_basis([covariance(r, q) for r, q, _ in known], [metric for _, _, metric in known])
    for (rows, counts, metric), basis in zip(known, bases, strict=True):
        assert basis.decode is bases[0].decode
        np.testing.assert_allclose(basis.encode @ basis.encode.T, np.eye(D), atol=1e-9)
        np.testing.assert_allclose(basis.decode, basis.encode.T)
        z = rows_in(basis, rows)
        np.testing.assert_allclose(z @ z.T, rows @ rows.T, atol=1e-3)
        for j in range(D):  # alone, cutting a number costs what is said
            d = np.outer(z[:, j], basis.decode[j])
            cost = (counts * np.einsum("vi,ij,vj->v", d, metric, d)).sum()
            said = (counts * basis.weights[j] * z[:, j].astype(np.float64) ** 2).sum()
            np.testing.assert_allclose(said, cost, rtol=1e-3, atol=1e-3)


def test_a_shared_basis_follows_the_field_that_matters() -> None:
    first, second = np.diag([9.0, 1.0]), np.diag([1.0, 9.0])
    for weights, leading in (([100.0, 1.0], 0), ([1.0, 100.0], 1)):
        bases = shared_basis([first, second], [weight * np.eye(2) for weight in weights])
        assert abs(bases[0].encode[leading, 0]) == pytest.approx(1)


def test_equal_inputs_give_equal_bases() -> None:
    rows, counts, metric = drawn(30, 5, seed=8)
    one, two = (principal_basis(covariance(rows, counts), metric) for _ in range(2))
    np.testing.assert_array_equal(one.encode, two.encode)
