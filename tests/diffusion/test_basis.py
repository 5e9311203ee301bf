"""The linear basis is orthonormal, leading, and the same on every machine."""

import pytest
import torch

from sm_search.diffusion import basis as basis_module
from sm_search.diffusion.basis import OVERSAMPLING, WORTH_IT, FeatureBasis, LinearBasis

SHAPE = (4, 6)
PIXELS = 2 * 4 * 6


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Images of rank 10 with spreads 2⁰ … 2⁻⁹."""
    generator = torch.Generator().manual_seed(0)
    directions, _ = torch.linalg.qr(torch.randn((PIXELS, 10), generator=generator, dtype=torch.float64))
    coefficients = torch.randn((2000, 10), generator=generator, dtype=torch.float64) * 0.5 ** torch.arange(10)
    return (coefficients @ directions.T).reshape(-1, 2, *SHAPE).float()


def fitted(images: torch.Tensor, coefficients: int) -> LinearBasis:
    basis = LinearBasis(PIXELS, coefficients)
    basis.fit(images)
    return basis


def test_a_few_vectors_of_many_are_the_leading_ones() -> None:
    """Images of 1024 numbers, full rank with a slow decay, where the basis is found by iteration."""
    generator = torch.Generator().manual_seed(0)
    spread = 1 / (1 + torch.arange(1024.0)) ** 2
    mixing, _ = torch.linalg.qr(torch.randn((1024, 1024), generator=generator))
    images = (torch.randn((1500, 1024), generator=generator) * spread @ mixing.T).unflatten(1, (2, 16, 32))
    basis = LinearBasis(1024, 20)
    assert basis.vectors_PD.shape[0] > WORTH_IT * (20 + OVERSAMPLING)
    basis.fit(images)
    flat_BP = images.flatten(1).double()
    energies, vectors = torch.linalg.eigh(flat_BP.T @ flat_BP)
    leading = vectors.flip(1)[:, :20]
    torch.testing.assert_close((basis.vectors_PD.double() * leading).sum(0).abs(), torch.ones(20).double())
    torch.testing.assert_close(basis.spread_D.double(), (energies.flip(0)[:20] / 1500).sqrt(), rtol=1e-4, atol=0)
    torch.testing.assert_close(basis.vectors_PD.T @ basis.vectors_PD, torch.eye(20), rtol=0, atol=1e-6)
    before = basis.vectors_PD.clone()
    torch.randn(5)  # the global generator does not matter
    basis.fit(images)
    assert torch.equal(basis.vectors_PD, before)


def test_the_same_images_are_fitted_once_and_again_when_they_have_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randn((60, 2, *SHAPE), generator=torch.Generator().manual_seed(1))
    first, found = fitted(images, 5), []
    find = basis_module._leading_eigenvectors
    monkeypatch.setattr(
        basis_module, "_leading_eigenvectors", lambda flat, count: found.append(count) or find(flat, count)
    )
    again = fitted(images, 5)
    assert torch.equal(again.vectors_PD, first.vectors_PD)
    assert torch.equal(again.spread_D, first.spread_D)
    assert found == []
    assert fitted(images, 3).vectors_PD.shape == (PIXELS, 3)
    images *= 2
    assert torch.equal(fitted(images, 5).spread_D, 2 * first.spread_D)
    assert found == [3, 5]


def test_features_of_scans_become_uncorrelated_coordinates_of_unit_spread() -> None:
    """Two of four directions vary: a third coordinate has nothing to say, also on scans never seen."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn((300, 2), generator=generator) @ torch.tensor([[3.0, 0, 1, 0], [0.1, 0.2, 0, 0]]) + 5
    basis = FeatureBasis(4, 3)
    basis.fit(features)
    found = basis(features)
    covariance = found.T @ found / 300
    torch.testing.assert_close(covariance, torch.diag(torch.tensor([1.0, 1.0, 0.0])), rtol=1e-3, atol=1e-3)
    assert basis(torch.full((1, 4), 100.0))[0, 2] == 0


@pytest.mark.parametrize("coefficients", [3, 10, PIXELS])
def test_the_vectors_are_orthonormal(images: torch.Tensor, coefficients: int) -> None:
    vectors_PD = fitted(images, coefficients).vectors_PD
    torch.testing.assert_close(vectors_PD.T @ vectors_PD, torch.eye(coefficients), rtol=0, atol=1e-6)


def test_the_round_trip_is_exact_on_the_span_and_a_projection_elsewhere(images: torch.Tensor) -> None:
    basis = fitted(images, 10)
    torch.testing.assert_close(basis.decode(basis.encode(images), SHAPE), images, rtol=0, atol=1e-5)
    other = torch.randn((5, 2, *SHAPE), generator=torch.Generator().manual_seed(1))
    projected = basis.decode(basis.encode(other), SHAPE)
    torch.testing.assert_close(basis.decode(basis.encode(projected), SHAPE), projected, rtol=0, atol=1e-5)
    # What is left out is orthogonal to what is kept.
    assert ((other - projected) * projected).sum(dim=(1, 2, 3)).abs().max() < 1e-4


def test_white_noise_stays_white(images: torch.Tensor) -> None:
    basis = fitted(images, 10)
    noise = torch.randn((40_000, 2, *SHAPE), generator=torch.Generator().manual_seed(2))
    coefficients = basis.encode(noise)
    covariance = coefficients.T @ coefficients / len(noise)
    torch.testing.assert_close(covariance, torch.eye(10), rtol=0, atol=0.03)


def test_the_coefficients_are_uncorrelated_with_falling_spread(images: torch.Tensor) -> None:
    basis = fitted(images, 10)
    coefficients = basis.encode(images).double()
    covariance = coefficients.T @ coefficients / len(images)
    expected = torch.diag(basis.spread_D.double().square())
    torch.testing.assert_close(covariance, expected, rtol=1e-4, atol=1e-6)
    assert (basis.spread_D.diff() < 0).all()
    torch.testing.assert_close(basis.spread_D, 0.5 ** torch.arange(10), rtol=0.1, atol=0)


def test_signs_are_fixed(images: torch.Tensor) -> None:
    vectors_PD = fitted(images, 10).vectors_PD
    assert (vectors_PD.gather(0, vectors_PD.abs().argmax(0, keepdim=True)) > 0).all()
    # Neither the order of the images nor their sign changes the basis.
    torch.testing.assert_close(fitted(-images.flip(0), 10).vectors_PD, vectors_PD, rtol=0, atol=1e-4)
