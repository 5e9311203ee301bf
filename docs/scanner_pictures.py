"""The pictures of scanners in docs/: `python docs/scanner_pictures.py docs/images [FOLDER OF MEASURED FILES]`."""

import sys
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from sm_search.config.dataset_settings import DatasetSettings, preset
from sm_search.config.receive_settings import FeedThrough, ReceiveSettings, Resonance
from sm_search.config.scanner_settings import ScannerSettings
from sm_search.config.simulation_settings import FieldName, Scan
from sm_search.data.transfer_file import read_transfer_table
from sm_search.physics.background import frame_times
from sm_search.physics.receive import receive
from sm_search.physics.scanner_fields import in_plane, scanner_fields, sensitivities
from sm_search.physics.system_matrix import SystemMatrix, simulate, voxel_centres
from sm_search.physics.transfer import transfer_function

SHOWN = ((3, 0), (5, 4), (9, 7))
FIELDS: tuple[FieldName, FieldName] = ("low", "high")
DPI = 100


def main(out: Path, measured: Path | None) -> None:
    out.mkdir(parents=True, exist_ok=True)
    settings = preset("scanner-64")
    scan = max(settings.scans("test"), key=lambda each: each.core_diameter_nm)
    ideal = settings.model_copy(update={"scanners": None})
    bare = scan.model_copy(update={"scanner": None})
    scanner_figure(settings, scan, ideal, bare, out / "scanner.png")
    transfer_figure(measured, out / "transfer-function.png")
    background_figure(simulate(ideal, bare, "low"), out / "background.png")


def scanner_figure(settings: DatasetSettings, scan: Scan, ideal: DatasetSettings, bare: Scan, path: Path) -> None:
    """Field and sensitivity of a scanner, and components of the ideal and of the imperfect one."""
    figure, axes = plt.subplots(4, 4, figsize=(10, 10), constrained_layout=True)
    scanner = settings.scanner_of(scan)
    field_maps(scanner, settings, axes[:, 0])
    for row, (which, sources) in enumerate(
        [(which, source) for which in FIELDS for source in ((ideal, bare), (settings, scan))]
    ):
        sm = simulate(*sources, which)
        for axis, order in zip(axes[row, 1:], SHOWN, strict=True):
            image_YX = sm.channel_images(0)[sm.mixing_orders.index(order)]
            show_complex(axis, image_YX)
            axis.set_title(f"{'ideal' if sources[1] is bare else 'imperfect'}, {which}, {order}", fontsize=9)
    figure.suptitle(
        f"{scan.id}, {settings.magnetisation}, x-channel: brightness is the root of the modulus, colour the phase (red "
        "0, green 120°, blue 240°);\n40 mm × 40 mm; on the left what deviates, fields in mT at the high gradient",
        fontsize=9,
    )
    figure.savefig(path, dpi=DPI)
    plt.close(figure)


def field_maps(scanner: ScannerSettings, settings: DatasetSettings, axes: NDArray) -> None:
    size_x, size_y = settings.grid.size
    position_3N = in_plane(*voxel_centres(settings.grid))
    fields, none = (scanner_fields(each, settings.high, position_3N) for each in (scanner, ScannerSettings()))
    gradient = np.mean(settings.high.gradients_t_per_m)
    displacement_3N = 1e3 * (fields.selection_3N - none.selection_3N) / gradient
    maps = (
        ("selection field off by, mm", np.linalg.norm(displacement_3N, axis=0)),
        ("its z part, mT", 1e3 * fields.selection_3N[2]),
        ("x-drive field along x, mT", 1e3 * fields.drive_x_3N[0]),
        ("x-receive coil along x", sensitivities(scanner, position_3N)[0, 0]),
    )
    for axis, (title, values_N) in zip(axes, maps, strict=True):
        shown = axis.imshow(values_N.reshape(size_y, size_x), origin="lower", cmap="viridis")
        axis.figure.colorbar(shown, ax=axis, shrink=0.8)
        axis.set_title(title, fontsize=9)
        axis.set_axis_off()


def show_complex(axis: plt.Axes, image_YX: NDArray[np.complex128]) -> None:
    scaled = image_YX / np.abs(image_YX).max()
    hue = (np.angle(scaled) / (2 * np.pi)) % 1.0
    hsv = np.stack([hue, np.full_like(hue, 0.75), np.sqrt(np.abs(scaled))], axis=-1)
    axis.imshow(matplotlib.colors.hsv_to_rgb(hsv), origin="lower")
    axis.set_axis_off()


def transfer_figure(measured: Path | None, path: Path) -> None:
    """A resonant receiver, and a measured one over its mean below the resonance."""
    khz = np.linspace(20, 1200, 2361)
    chain = ReceiveSettings(
        signal="voltage",
        high_pass_khz=30.0,
        low_pass_khz=900.0,
        delay_us=0.2,
        resonances=(Resonance(frequency_khz=640.0, quality=12.0, gain=20.0),),
    )
    figure, (top, below) = plt.subplots(2, 1, figsize=(8, 5), sharex=True, constrained_layout=True)
    model = transfer_function(chain, 2e3 * np.pi * khz, 1)
    assert model is not None
    curves = [("gain 20, Q 12 at 640 kHz; 30 to 900 kHz; delay 0.2 µs", khz, model[0])]
    if measured is not None:
        table = read_transfer_table(measured / "transfer-function-UH.h5")
        at_khz = np.array(table.frequency_khz)
        for channel in (0, 1):
            a_F = np.array(table.real[channel]) + 1j * np.array(table.imaginary[channel])
            a_F = a_F / np.median(np.abs(a_F[(at_khz > 100) & (at_khz < 400)]))
            curves.append((f"measured, channel {channel + 1}, over its median at 100 to 400 kHz", at_khz, a_F))
    for label, at_khz, a_F in curves:
        top.semilogy(at_khz, np.abs(a_F), lw=1, label=label)
        below.plot(at_khz, np.degrees(np.angle(a_F)), lw=0.8)
    top.set_ylabel("modulus")
    top.set_ylim(0.02, 100)
    top.legend(fontsize=8)
    below.set(xlabel="frequency, kHz", ylabel="phase, degrees", xlim=(20, 1200))
    figure.savefig(path, dpi=DPI)
    plt.close(figure)


def background_figure(sm: SystemMatrix, path: Path) -> None:
    """What is not signal in component (3, 0), in the order of measurement, and after the scanner's subtraction."""
    figure, axes = plt.subplots(3, 1, figsize=(8, 6), sharex=True, constrained_layout=True)
    k = sm.mixing_orders.index((3, 0))
    lines = FeedThrough(uv_per_mt=0.4, drift_percent=20.0)
    for axis, how in zip(axes, ("none", "mean", "interpolated"), strict=True):
        chain = ReceiveSettings(
            signal="voltage", noise_nv=0.2, background_frames=24, feed_through=lines, background_correction=how
        )
        received = receive(sm, chain, "picture", scanner=0)
        assert received.background_CKE is not None
        frames, time_F = received.values_CKN.shape[-1], frame_times(received.values_CKN.shape[-1], 24)
        signal_N = receive(sm, ReceiveSettings(signal="voltage")).values_CKN[0, k]
        nv = 1e9 * np.abs(np.concatenate((received.values_CKN[0, k] - signal_N, received.background_CKE[0, k])))
        axis.plot(time_F[:frames], nv[:frames], lw=0.5, label="voxels")
        axis.plot(time_F[frames:], nv[frames:], "o", ms=3, label="background frames")
        axis.set_title(f"background_correction: {how}", fontsize=9)
        axis.set_ylabel("|u − signal|, nV")
        axis.set_ylim(bottom=0)
    axes[0].legend(fontsize=8, loc="lower left")
    axes[-1].set_xlabel("time of the measurement")
    figure.suptitle(
        "What is not signal in component (3, 0) at the low gradient: a feed-through line that drifts, and noise",
        fontsize=10,
    )
    figure.savefig(path, dpi=DPI)
    plt.close(figure)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
