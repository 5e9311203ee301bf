"""The receive chain: what stands between the voltage of a coil and a file."""

import itertools
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from sm_search.config.base import Settings

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Samples = Annotated[tuple[float, ...], Field(min_length=2, max_length=20_000)]


class Resonance(Settings):
    """1 + (gain − 1)·(if/Qf_0)/(1 − (f/f_0)² + if/Qf_0): `gain` at f_0, 1 far from it.

    Attributes:
        frequency_khz: f_0.
        quality: Q; the resonance is f_0/Q wide.
    """

    frequency_khz: Positive
    quality: Positive
    gain: Positive


class TransferTable(Settings):
    """A measured transfer function, linear between its samples (real and imaginary part).

    Attributes:
        frequency_khz: ascending.
        real, imaginary: one list for each receive channel, or one list for all of them.
    """

    frequency_khz: Samples
    real: Annotated[tuple[Samples, ...], Field(min_length=1, max_length=8)]
    imaginary: Annotated[tuple[Samples, ...], Field(min_length=1, max_length=8)]

    @model_validator(mode="after")
    def _consistent(self) -> "TransferTable":
        if self.frequency_khz[0] < 0 or any(a >= b for a, b in itertools.pairwise(self.frequency_khz)):
            raise ValueError("frequency_khz: must ascend from 0 or above")
        lengths = {len(samples) for samples in (self.frequency_khz, *self.real, *self.imaginary)}
        if len(lengths) > 1 or len(self.real) != len(self.imaginary):
            raise ValueError("real and imaginary: as many channels each, with a value for every frequency_khz")
        return self


class FeedThrough(Settings):
    """Lines of the drive's own harmonics that are there without a sample.

    Harmonic m of a drive has an amplitude of `uv_per_mt`·(drive in mT)·10^(−decay_db·(m−1)/20) in the coil along it, at
    a phase of the scanner, and `coupling` of it in the other coil.

    Attributes:
        harmonics: the highest m.
        drift_percent: root mean square, over the frames, of each line's slow drift.
    """

    uv_per_mt: Positive
    decay_db: NotNegative = 20.0
    coupling: Annotated[float, Field(ge=0, le=1)] = 0.1
    harmonics: Annotated[int, Field(ge=1, le=1000)] = 12
    drift_percent: Annotated[float, Field(ge=0, le=100)] = 1.0


class ReceiveSettings(Settings):
    """From the magnetisation to what is stored.

    The voltage of a coil is u_k = −iω_k·μ0·p·V·c_k with c_k the magnetisation of the core material (A/m); where the
    magnetisation is stored, the noise of the voltage is carried over by the same factor.

    Attributes:
        signal: what a file holds: the `magnetisation` of the core material in A/m, or the induced `voltage` in V.
        coil_sensitivity_per_m: p in 1/m, the field of a unit current, the same for both channels.
        core_volume_nl: V, the volume of magnetic core material in the point sample.
        low_pass_khz, high_pass_khz: −3 dB corners of the receiver's first-order filters (`voltage` only); none without.
        resonances, delay_us, transfer_table: the rest of the transfer function (`voltage` only), all in series. A table
            is written out, or the name of a file beside the settings: MDF, HDF5 or CSV.
        transfer_function: what becomes of it: `stored` beside the values, which still contain it; `corrected`, divided
            out by the scanner; `unknown`, contained and not in the file.
        noise_nv: standard deviation of the complex white noise on each voltage coefficient of one repetition.
        noise_corner_khz, noise_rise_khz: the noise at f is √(1 + corner/f + (f/rise)²) times that.
        averages: repetitions of each frame that were averaged; they divide the noise by their root.
        background_frames: frames without sample, stored behind the others; the noise of a file's `snr` is theirs. They
            are measured in between, evenly spread.
        feed_through: lines of the drive in all frames.
        background_correction: what the scanner subtracts: nothing, the `mean` of the background frames, or what lies
            `interpolated` between the two that were measured before and after a frame.
        seed: of the noise.
    """

    added: ClassVar[frozenset[str]] = frozenset(
        {
            "resonances",
            "delay_us",
            "transfer_table",
            "transfer_function",
            "noise_corner_khz",
            "noise_rise_khz",
            "feed_through",
            "background_correction",
        }
    )

    signal: Literal["magnetisation", "voltage"] = "magnetisation"
    coil_sensitivity_per_m: Positive = 50.0
    core_volume_nl: Positive = 3.0
    low_pass_khz: Positive | None = None
    high_pass_khz: Positive | None = None
    resonances: Annotated[tuple[Resonance, ...], Field(max_length=100)] = ()
    delay_us: float = 0.0
    transfer_table: TransferTable | str | None = None
    transfer_function: Literal["stored", "corrected", "unknown"] = "stored"
    noise_nv: NotNegative = 0.0
    noise_corner_khz: NotNegative = 0.0
    noise_rise_khz: Positive | None = None
    averages: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    background_frames: Annotated[int, Field(ge=0, le=100_000)] = 0
    feed_through: FeedThrough | None = None
    background_correction: Literal["none", "mean", "interpolated"] = "none"
    seed: Annotated[int, Field(ge=0)] = 0

    @property
    def unit(self) -> str:
        """Of what a file holds."""
        return "V" if self.signal == "voltage" else "A/m"

    @property
    def transfers(self) -> bool:
        """Whether there is a transfer function."""
        return bool(self.low_pass_khz or self.high_pass_khz or self.resonances or self.delay_us or self.transfer_table)

    @model_validator(mode="after")
    def _consistent(self) -> "ReceiveSettings":
        if self.background_frames == 1:
            raise ValueError("background_frames is 1: a deviation needs at least 2 (or 0 for none)")
        if self.signal == "magnetisation" and (self.low_pass_khz or self.high_pass_khz):
            raise ValueError("low_pass_khz and high_pass_khz act on the voltage: set signal: voltage")
        if self.signal == "magnetisation" and (self.transfers or self.feed_through):
            raise ValueError(
                "resonances, delay_us, transfer_table and feed_through act on the voltage: set signal: voltage"
            )
        if self.low_pass_khz and self.high_pass_khz and self.high_pass_khz >= self.low_pass_khz:
            raise ValueError(f"high_pass_khz {self.high_pass_khz:g} must be below low_pass_khz {self.low_pass_khz:g}")
        if self.background_correction != "none" and not self.background_frames:
            raise ValueError(f"background_correction is {self.background_correction}: it needs background_frames")
        if self.transfer_function != "stored" and not self.transfers:
            raise ValueError(f"transfer_function is {self.transfer_function}, but there is none")
        return self
