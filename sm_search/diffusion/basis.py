"""Bases fitted to a training set: `LinearBasis` of images, `FeatureBasis` of what is known of whole scans.

Shapes: B images, P = 2·Y·X real numbers in an image, D coefficients, F features of a scan, N principal components.
"""

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from sm_search.config.streams import stream_seed

OVERSAMPLING = 32
ITERATIONS = 3
"""On the images of `paper-54` the energy left out is then within 1e-3 of the least possible."""

PRECISE = 1024
"""Images of so few numbers are encoded in float64."""

AT_ONCE = 1 << 16
"""Images that are held in float64 at once: of all spectra of a few hundred scans that would be gigabytes."""

WORTH_IT = 4
"""Pixels over iterated vectors from which on iterating is cheaper than all eigenvectors: 2.6 to 3.2 times at 4.9."""


_known = WeakTensorKeyDictionary()
"""By images: their leading vectors and spreads, by the images' version and the number of coefficients. The trials of a
worker share its images, and to fit a basis to them takes seconds."""


class LinearBasis(nn.Module):
    """Leading eigenvectors of the images' second-moment matrix, and the spread of their coefficients.

    Orthonormal: white noise on the image is white noise on the coefficients.
    """

    vectors_PD: Tensor
    spread_D: Tensor

    def __init__(self, pixels: int, coefficients: int) -> None:
        super().__init__()
        self.register_buffer("vectors_PD", torch.zeros(pixels, coefficients))
        self.register_buffer("spread_D", torch.ones(coefficients))

    def fit(self, images: Tensor) -> None:
        """Fit to images of shape (B, 2, Y, X); those of an earlier fit are remembered as long as they exist."""
        known = _known.setdefault(images, {})
        which = (images._version, self.vectors_PD.shape[1])
        if which not in known:
            known[which] = _vectors_and_spread(images.flatten(1), self.vectors_PD.shape[1])
        for constant, value in zip((self.vectors_PD, self.spread_D), known[which], strict=True):
            constant.copy_(value)

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 2, Y, X) to coefficients (B, D), float32 under autocast too: the last are far below the first.

        Of images of a few hundred numbers, which spectra are, they are 1e-6 of the first: there the sums are float64.
        """
        with torch.autocast(images.device.type, enabled=False):
            if len(self.vectors_PD) > PRECISE:
                return images.flatten(1) @ self.vectors_PD
            vectors_PD = self.vectors_PD.double()
            parts = [(part.double() @ vectors_PD).to(images.dtype) for part in images.flatten(1).split(AT_ONCE)]
            return torch.cat(parts)

    def decode(self, coefficients_BD: Tensor, shape: tuple[int, int]) -> Tensor:
        """Coefficients (B, D) to images (B, 2, Y, X)."""
        return (coefficients_BD @ self.vectors_PD.T).unflatten(1, (2, *shape))


def _vectors_and_spread(flat_BP: Tensor, count: int) -> tuple[Tensor, Tensor]:
    vectors_PD = _leading_eigenvectors(flat_BP, count)
    # An eigenvector's sign is arbitrary: fix it, so that the basis is the same on every machine.
    largest = vectors_PD.abs().argmax(0, keepdim=True)
    vectors_PD = (vectors_PD * vectors_PD.gather(0, largest).sign()).to(flat_BP.dtype)
    energy_D = torch.zeros(count, dtype=torch.float64, device=flat_BP.device)
    for part_BP in flat_BP.split(AT_ONCE):
        energy_D += (part_BP @ vectors_PD).double().square().sum(0)
    return vectors_PD, (energy_D / len(flat_BP)).sqrt().clamp(min=1e-6)


def _leading_eigenvectors(flat_BP: Tensor, count: int) -> Tensor:
    """Orthonormal eigenvectors of the largest eigenvalues of flatᵀ·flat, first the largest, float64, (P, count).

    A few of many come from subspace iteration, from random vectors (Halko, Martinsson and Tropp 2011, Algorithm 4.4).
    """
    start = min(flat_BP.shape[1], count + OVERSAMPLING)
    if flat_BP.shape[1] < WORTH_IT * start:
        moment_PP = torch.zeros((flat_BP.shape[1], flat_BP.shape[1]), dtype=torch.float64, device=flat_BP.device)
        for part_BP in flat_BP.split(AT_ONCE):
            moment_PP += part_BP.double().T @ part_BP.double()
        _, vectors_PP = torch.linalg.eigh(moment_PP)
        return vectors_PP.flip(1)[:, :count]
    generator = torch.Generator().manual_seed(stream_seed(0, "basis"))
    basis_PQ = torch.randn((flat_BP.shape[1], start), generator=generator, dtype=flat_BP.dtype)
    for _ in range(ITERATIONS):
        basis_PQ = torch.linalg.qr((flat_BP.T @ (flat_BP @ basis_PQ)).double())[0].to(flat_BP.dtype)
    seen_BQ = (flat_BP @ basis_PQ).double()
    _, vectors_QQ = torch.linalg.eigh(seen_BQ.T @ seen_BQ)
    return basis_PQ.double() @ vectors_QQ.flip(1)[:, :count]


class FeatureBasis(nn.Module):
    """Leading principal components of the scans' features, in units of their spread over the training images."""

    mean_F: Tensor
    vectors_FN: Tensor

    def __init__(self, features: int, components: int) -> None:
        super().__init__()
        self.register_buffer("mean_F", torch.zeros(features))
        self.register_buffer("vectors_FN", torch.zeros(features, components))

    def fit(self, features_BF: Tensor) -> None:
        """Fit to features of shape (B, F); components without spread stay at zero."""
        mean_F = features_BF.double().mean(0)
        centred_BF = features_BF.double() - mean_F
        variance_F, vectors_FF = torch.linalg.eigh(centred_BF.T @ centred_BF / len(features_BF))
        components = self.vectors_FN.shape[1]
        variance_N, vectors_FN = variance_F.flip(0)[:components], vectors_FF.flip(1)[:, :components]
        real_N = variance_N > 1e-9 * variance_N[0]
        self.mean_F.copy_(mean_F)
        self.vectors_FN.copy_(torch.where(real_N, vectors_FN / variance_N.clamp(min=1e-300).sqrt(), 0.0))

    def forward(self, features_BF: Tensor) -> Tensor:
        """Features (B, F) to coordinates (B, N); float32 under autocast too."""
        with torch.autocast(features_BF.device.type, enabled=False):
            return (features_BF - self.mean_F) @ self.vectors_FN
