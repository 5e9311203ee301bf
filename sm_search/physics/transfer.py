"""The transfer function a_k of a receiver: filters, resonances and a delay, or a measured table, in series.

Shapes: C receive channels, K components; ω in rad/s.
"""

import math

import numpy as np
from numpy.typing import NDArray

from sm_search.config.errors import DataError
from sm_search.config.receive_settings import ReceiveSettings, Resonance, TransferTable

Complex = NDArray[np.complex128]


def transfer_function(settings: ReceiveSettings, omega_K: NDArray[np.float64], channels: int) -> Complex | None:
    """a_k of shape (C, K); None where there is none.

    The filters are 1/(1 + iω/ω_low) and 1/(1 + ω_high/(iω)), a delay τ is exp(−iωτ).

    Raises:
        DataError: a table does not reach to a component, or has too few channels.
    """
    if not settings.transfers:
        return None
    a_K = np.ones(len(omega_K), dtype=complex)
    if settings.low_pass_khz is not None:
        a_K /= 1 + 1j * omega_K / (2e3 * math.pi * settings.low_pass_khz)
    if settings.high_pass_khz is not None:
        a_K /= 1 + 2e3 * math.pi * settings.high_pass_khz / (1j * omega_K)
    for each in settings.resonances:
        a_K *= resonance(each, omega_K)
    a_K *= np.exp(-1e-6j * settings.delay_us * omega_K)
    a_CK = np.tile(a_K, (channels, 1))
    if settings.transfer_table is None:
        return a_CK
    if isinstance(settings.transfer_table, str):
        raise DataError(f"transfer_table {settings.transfer_table}: names a file that was not read")
    return a_CK * interpolated(settings.transfer_table, omega_K, channels)


def resonance(settings: Resonance, omega_K: NDArray[np.float64]) -> Complex:
    """1 + (gain − 1)·(if/Qf_0)/(1 − (f/f_0)² + if/Qf_0), shape (K,)."""
    relative_K = omega_K / (2e3 * math.pi * settings.frequency_khz)
    width_K = 1j * relative_K / settings.quality
    return 1 + (settings.gain - 1) * width_K / (1 - relative_K**2 + width_K)


def interpolated(table: TransferTable, omega_K: NDArray[np.float64], channels: int) -> Complex:
    """The table at the components, linear in real and imaginary part, shape (C, K)."""
    table_F, wanted_K = np.array(table.frequency_khz), np.abs(omega_K) / (2e3 * math.pi)
    if wanted_K.min() < table_F[0] * (1 - 1e-9) or wanted_K.max() > table_F[-1] * (1 + 1e-9):
        raise DataError(
            f"transfer_table: reaches from {table_F[0]:g} to {table_F[-1]:g} kHz, and the components from "
            f"{wanted_K.min():g} to {wanted_K.max():g} kHz"
        )
    if 1 < len(table.real) < channels:
        raise DataError(f"transfer_table: has {len(table.real)} channels for {channels} receive channels")
    chosen = [c if len(table.real) > 1 else 0 for c in range(channels)]
    a_CK = np.stack(
        [
            np.interp(wanted_K, table_F, table.real[c]) + 1j * np.interp(wanted_K, table_F, table.imaginary[c])
            for c in chosen
        ]
    )
    if not a_CK.all():
        channel, k = np.argwhere(a_CK == 0)[0]
        raise DataError(
            f"transfer_table: is 0 at {wanted_K[k]:g} kHz in channel {channel + 1}, where a component lies: nothing "
            "would be received"
        )
    return a_CK
