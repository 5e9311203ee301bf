"""Kernel ridge regression from the features of a scan to many numbers: a Gaussian process, one kernel for all outputs.

Shapes: S training scans, F features, P outputs, R directions that the outputs are stored in.
"""

import math

import torch
from torch import Tensor, nn

WIDTHS = (1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0)
"""Kernel widths tried, in units of the median distance between training scans."""

RIDGES = (1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3)
"""Ridges tried: the variance of an output's noise over that of its signal."""

_COLUMNS = 1 << 16


class KernelRidge(nn.Module):
    """Mean and relative variance of the outputs at new features.

    The kernel is Gaussian. Its width and the ridge maximise the marginal likelihood of the training outputs, the
    variance of the process being one number (Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006,
    section 5.4.1).
    """

    features_SF: Tensor
    precision_SS: Tensor
    scores_SR: Tensor
    directions_RP: Tensor
    mean_P: Tensor
    width: Tensor
    ridge: Tensor

    def __init__(self, scans: int, features: int, outputs: int, rank: int) -> None:
        super().__init__()
        double = torch.float64
        self.register_buffer("features_SF", torch.zeros(scans, features, dtype=double))
        self.register_buffer("precision_SS", torch.zeros(scans, scans, dtype=double))
        self.register_buffer("scores_SR", torch.zeros(scans, rank, dtype=double))
        self.register_buffer("directions_RP", torch.zeros(rank, outputs))
        self.register_buffer("mean_P", torch.zeros(outputs))
        self.register_buffer("width", torch.ones((), dtype=double))
        self.register_buffer("ridge", torch.full((), RIDGES[-1], dtype=double))

    @staticmethod
    def fitted(features_SF: Tensor, outputs_SP: Tensor, dropped: float = 0.0) -> "KernelRidge":
        """Fit to the features and outputs of S scans.

        Args:
            dropped: directions of the outputs are left out as long as their root mean square, all together, stays below
                this share of the root-mean-square error of leaving one scan out.
        """
        features_SF = features_SF.double()
        mean_P = outputs_SP.double().mean(0)
        gram_SS = sum(
            (part - mean).double() @ (part - mean).double().T
            for part, mean in zip(outputs_SP.split(_COLUMNS, 1), mean_P.split(_COLUMNS), strict=True)
        )
        width, ridge = _most_likely(features_SF, gram_SS)
        precision_SS = torch.linalg.inv(_kernel(features_SF, features_SF, width) + ridge * torch.eye(len(features_SF)))
        total2 = _left_out_squared(precision_SS, gram_SS).sum()
        scores_SR, rank = _scores(gram_SS, dropped**2 * total2)
        model = KernelRidge(features_SF.shape[0], features_SF.shape[1], outputs_SP.shape[1], rank)
        model.features_SF.copy_(features_SF)
        model.precision_SS.copy_(precision_SS)
        model.scores_SR.copy_(scores_SR)
        model.mean_P.copy_(mean_P)
        model.width.fill_(width)
        model.ridge.fill_(ridge)
        if rank:
            project_RS = (scores_SR / scores_SR.square().sum(0)).T
            for begin in range(0, outputs_SP.shape[1], _COLUMNS):
                columns = slice(begin, begin + _COLUMNS)
                model.directions_RP[:, columns] = (project_RS @ (outputs_SP[:, columns] - mean_P[columns])).float()
        return model

    def forward(self, features_F: Tensor) -> Tensor:
        """The outputs (P,), float64, at new features (F,)."""
        weights_S = self.precision_SS @ self._similarity(features_F)
        return (self.mean_P + (weights_S @ self.scores_SR).float() @ self.directions_RP).double()

    def outputs(self) -> Tensor:
        """What it was fitted to, float32, (S, P), but for the directions that were dropped."""
        return self.mean_P + self.scores_SR.float() @ self.directions_RP

    def variance(self, features_F: Tensor) -> Tensor:
        """Predictive variance of an output at new features (F,), in units of the process's variance."""
        similarity_S = self._similarity(features_F)
        explained = similarity_S @ self.precision_SS @ similarity_S
        return (1 + self.ridge - explained).clamp(min=self.ridge)

    def _similarity(self, features_F: Tensor) -> Tensor:
        return _kernel(features_F.double()[None], self.features_SF, self.width.item())[0]

    def leave_out(self, outputs_SP: Tensor, neighbours: int) -> tuple[Tensor, Tensor]:
        """What each training scan's outputs are above their prediction without it and its nearest `neighbours`.

        In closed form (ibid., eq. 5.12, for a group): with Q the inverse of kernel plus ridge and I the scans left out,
        the residuals are Q_II⁻¹ [Q y]_I, and their variances the diagonal of Q_II⁻¹.

        Returns:
            Residuals (S, P) and their variances (S,), in units of the process's variance.
        """
        distances_SS = _distances(self.features_SF, self.features_SF).fill_diagonal_(-1)
        weights_SS, variance_S = [], []
        for distances_S in distances_SS:
            out_I = distances_S.argsort(stable=True)[: 1 + neighbours]  # the scan itself comes first
            covariance_II = torch.linalg.inv(self.precision_SS[out_I][:, out_I])
            weights_SS.append(covariance_II[0] @ self.precision_SS[out_I])
            variance_S.append(covariance_II[0, 0])
        residual_SP = torch.empty_like(outputs_SP)
        for begin in range(0, outputs_SP.shape[1], _COLUMNS):
            columns = slice(begin, begin + _COLUMNS)
            centred = outputs_SP[:, columns].double() - self.mean_P[columns]
            residual_SP[:, columns] = (torch.stack(weights_SS) @ centred).to(outputs_SP.dtype)
        return residual_SP, torch.stack(variance_S)


def _distances(first: Tensor, second: Tensor) -> Tensor:
    # The faster way through a matrix product gives equal rows a distance above zero.
    return torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist")


def _kernel(first: Tensor, second: Tensor, width: float) -> Tensor:
    return torch.exp(-0.5 * (_distances(first, second) / width).square())


def _most_likely(features_SF: Tensor, gram_SS: Tensor) -> tuple[float, float]:
    """Width and ridge of the largest marginal likelihood; the first of each if the outputs do not differ."""
    scans = len(features_SF)
    distances = torch.pdist(features_SF)
    unit = distances[distances > 0].median().item() if bool((distances > 0).any()) else 1.0
    best, chosen = -math.inf, (unit, RIDGES[-1])
    for relative in WIDTHS:
        values_S, vectors_SS = torch.linalg.eigh(_kernel(features_SF, features_SF, relative * unit))
        energy_S = torch.einsum("st,su,ut->t", vectors_SS, gram_SS, vectors_SS)
        for ridge in RIDGES:
            spectrum_S = (values_S + ridge).clamp(min=ridge / 2)
            fit = (energy_S / spectrum_S).sum().item()
            if fit <= 0:
                return chosen
            likelihood = -0.5 * spectrum_S.log().sum().item() - 0.5 * scans * math.log(fit)
            if likelihood > best:
                best, chosen = likelihood, (relative * unit, ridge)
    return chosen


def _left_out_squared(precision_SS: Tensor, gram_SS: Tensor) -> Tensor:
    """Squared norm of every scan's leave-one-out residual, (S,)."""
    return torch.einsum("st,tu,us->s", precision_SS, gram_SS, precision_SS) / precision_SS.diagonal().square()


def _scores(gram_SS: Tensor, allowed: Tensor) -> tuple[Tensor, int]:
    """The outputs' coordinates (S, R) in their leading directions; what is left out has a squared norm ≤ `allowed`."""
    energies_S, vectors_SS = torch.linalg.eigh(gram_SS)
    positive = energies_S > 1e-14 * energies_S[-1].clamp(min=0)
    kept = positive & (energies_S.clamp(min=0).cumsum(0) > allowed)
    return vectors_SS[:, kept] * energies_S[kept].sqrt(), int(kept.sum())
