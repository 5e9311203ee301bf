"""`simulate` against straightforward numpy on one thread: prints ratios, asserts only that both compute the same.

    OMP_NUM_THREADS=1 pytest -m benchmark -s tests/benchmarks/test_physics.py

`tests/physics/test_accuracy.py` prints the accuracy table under the same marker.
"""

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sm_search.config.dataset_settings import DatasetSettings, preset
from sm_search.config.simulation_settings import Grid, Scan
from sm_search.physics.particles import brownian_time_zero_field, langevin_parameter_per_tesla
from sm_search.physics.system_matrix import SystemMatrix, simulate, voxel_centres

pytestmark = pytest.mark.benchmark

SCAN = Scan(core_diameter_nm=30, fx_khz=25, nd=99)
FIELDS = ("low", "high")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    assert os.environ.get("OMP_NUM_THREADS") == "1", "numpy's threads: run with OMP_NUM_THREADS=1"
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """Least processor time of some runs: the machine is shared."""
    taken = []
    for _ in range(repeats):
        begin = time.process_time()
        work()
        taken.append(time.process_time() - begin)
    return min(taken)


def paper(magnetisation: str, size: int = 32) -> DatasetSettings:
    return preset("paper-54").model_copy(update={"magnetisation": magnetisation, "grid": Grid(size=(size, size))})


class Plain:
    """The textbook way: the field at every sample, numpy, all voxels given by index."""

    def __init__(self, settings: DatasetSettings, which: str, samples: int, voxels: NDArray[np.int64]) -> None:
        field = settings.field(which)  # type: ignore[arg-type]
        scale = langevin_parameter_per_tesla(SCAN.core_diameter_m, settings.particle)
        self.static_2V = -scale * field.gradients_t_per_m[0] * np.stack(voxel_centres(settings.grid))[:, voxels]
        self.drive = scale * field.drives_t[0]
        self.tau_s = brownian_time_zero_field(SCAN.core_diameter_m, settings.particle)
        self.times_s = np.arange(samples * (SCAN.nd + 1)) / (samples * SCAN.fx_hz)
        self.k = [m_x * (SCAN.nd + 1) + m_y * SCAN.nd for m_x, m_y in settings.orders.pairs()]
        self.scale = settings.particle.saturation_magnetisation_ka_per_m * 1e3

    def field_and_equilibrium(self, time_s: NDArray[np.float64]) -> tuple[NDArray, NDArray]:
        phases = 2 * math.pi * np.stack([SCAN.fx_hz * time_s, SCAN.fy_hz * time_s])
        xi = self.static_2V[:, :, None] + self.drive * np.cos(phases)[:, None]
        size = np.sqrt((xi**2).sum(axis=0))
        return size, (1 / np.tanh(size) - 1 / size) / size * xi

    def coefficients(self, moment_CVT: NDArray[np.float64]) -> NDArray[np.complex128]:
        spectrum = np.fft.rfft(moment_CVT, axis=-1)[..., self.k] / moment_CVT.shape[-1]
        return self.scale * spectrum.swapaxes(1, 2)

    def equilibrium(self) -> NDArray[np.complex128]:
        """Voxel by voxel: sample, FFT."""
        everything = self.static_2V
        parts = []
        for voxel in range(everything.shape[1]):
            self.static_2V = everything[:, voxel : voxel + 1]
            parts.append(self.coefficients(self.field_and_equilibrium(self.times_s)[1]))
        self.static_2V = everything
        return np.concatenate(parts, axis=-1)

    def relaxation(self, steps: int) -> NDArray[np.float64]:
        """The first `steps` exponential steps with the rate and equilibrium of the step's middle, shape (C, V)."""
        moment = np.zeros_like(self.static_2V)
        step_s = self.times_s[1]
        for time_s in self.times_s[:steps] + step_s / 2:
            size, equilibrium = self.field_and_equilibrium(np.asarray([time_s]))
            decay = np.exp(-step_s / self.tau_s * np.sqrt(1 + 0.126 * size**1.72))[:, 0]
            moment = equilibrium[..., 0] + decay * (moment - equilibrium[..., 0])
        return moment


def own_error(matrix: SystemMatrix, actual_CKV: NDArray[np.complex128], expected_CKV: NDArray[np.complex128]) -> float:
    """Largest error of any component at some voxels, relative to its own maximum in the whole matrix."""
    whole_CK = np.abs(matrix.values_CKN).max(axis=-1)
    return float((np.abs(actual_CKV - expected_CKV).max(axis=-1) / whole_CK).max())


@pytest.mark.parametrize("voxel", ["point", "mean"])
@pytest.mark.parametrize("which", FIELDS)
def test_equilibrium_against_a_plain_fft(which: str, voxel: str) -> None:
    """A few voxels in the plain way, scaled to all, with the fewest samples that bring its error below 1e-6.

    The errors are of any component's own maximum, against a plain FFT with five times the samples. The plain FFT stays
    the response at the voxel's centre: a mean would cost it as many times more as there are points.
    """
    few = np.arange(5, 1024, 93)
    settings = paper("equilibrium")
    matrix = simulate(settings, SCAN, which)  # type: ignore[arg-type]
    exact = Plain(settings, which, 5 * (96 if which == "low" else 640), few).equilibrium()
    for samples in range(48, 1000, 8):  # 48: twice the highest frequency wanted
        plain = Plain(settings, which, samples, few)
        their_error = own_error(matrix, plain.equilibrium(), exact)
        if their_error < 1e-6:
            break
    ours = seconds(lambda: simulate(settings.model_copy(update={"voxel": voxel}), SCAN, which), 20)  # type: ignore[arg-type]
    theirs = seconds(plain.equilibrium) * 1024 / len(few)
    error = own_error(matrix, matrix.values_CKN[..., few], exact)
    print(f"\nequilibrium {which}, {voxel}: {ours * 1e3:.1f} ms, error {error:.0e}; plain FFT with {samples} samples a "
          f"period {theirs * 1e3:.0f} ms, error {their_error:.0e}; ratio {theirs / ours:.0f}")  # fmt: skip
    assert error < 1e-6
    assert their_error < 1e-6


@pytest.mark.parametrize("which", FIELDS)
def test_brownian_against_a_loop_over_time(which: str) -> None:
    """Some steps in the plain way, scaled to two Lissajous periods (one of warm-up).

    The loop's error, largest of any component's own maximum, is (24·2π/samples)²/24: 6e-3 at 384 samples a period and
    6e-5 at 4096, where `simulate` stays below 1e-6.
    """
    settings = paper("brownian")
    ours = seconds(lambda: simulate(settings, SCAN, which))  # type: ignore[arg-type]
    for samples in (384, 4096):
        plain = Plain(settings, which, samples, np.arange(1024))
        steps = 2000
        theirs = seconds(lambda p=plain, n=steps: p.relaxation(n), 1) / steps  # type: ignore[misc]
        theirs *= samples * (SCAN.nd + 1) * 2
        print(f"\nbrownian {which}: {ours:.2f} s; loop over time with {samples} samples a period {theirs:.0f} s; "
              f"ratio {theirs / ours:.0f}")  # fmt: skip


MEASURE = """
import resource, sys, time, torch
from sm_search.config.dataset_settings import preset
from sm_search.config.simulation_settings import Grid, Scan
from sm_search.physics.system_matrix import simulate
torch.set_num_threads(1)
model, which, size, nd, diameter, voxel = sys.argv[1:]
settings = preset("paper-54").model_copy(
    update={"magnetisation": model, "voxel": voxel, "grid": Grid(size=(int(size), int(size)))}
)
scan = Scan(core_diameter_nm=float(diameter), fx_khz=25, nd=int(nd))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
begin = time.process_time()
simulate(settings, scan, which)
taken = time.process_time() - begin
print(taken, before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def test_cost_grows_with_voxels_and_lines() -> None:
    """Seconds of the first call and peak memory of a process of its own, for 30 nm at the high gradient."""
    print("\nmodel         grid  N_d  seconds  ns per voxel and line  peak MB  (of which imports)")
    for model in ("equilibrium", "brownian", "effective-field", "neel-brown"):
        for size, nd in ((16, 99), (32, 49), (32, 99), (32, 199), (64, 99), (128, 99)):
            if model == "neel-brown" and size > 32:
                continue
            arguments = [model, "high", str(size), str(nd), "30", "point"]
            done = subprocess.run(
                [sys.executable, "-c", MEASURE, *arguments], capture_output=True, text=True, check=True
            )
            taken, imports, peak = map(float, done.stdout.split())
            each = taken / (size**2 * (nd + 1)) * 1e9
            print(f"{model:12} {size:5}  {nd:3}  {taken:7.2f}  {each:21.0f}  {peak:7.0f}  {imports:7.0f}")
            assert size > 32 or peak < 1024


AGAINST = """
import sys, time, torch
try:
    from sm_search.config.dataset_settings import preset
    from sm_search.config.simulation_settings import Scan
except ModuleNotFoundError:  # before the rooms were rebuilt
    from sm_search.config.dataset import preset
    from sm_search.config.simulation import Scan
from sm_search.physics.system_matrix import simulate
torch.set_num_threads(1)
settings = preset("paper-54").model_copy(update={"magnetisation": sys.argv[1]})
scan = Scan(core_diameter_nm=30, fx_khz=25, nd=99)
simulate(settings, scan, sys.argv[2])  # compiles, or loads what is compiled
taken = []
for _ in range(3):
    begin = time.process_time()
    simulate(settings, scan, sys.argv[2])
    taken.append(time.process_time() - begin)
print(min(taken))
"""


def test_against_an_older_checkout() -> None:
    """Processor seconds of a full matrix here and in a checkout of another commit: OLD=PATH, from `git worktree add`.

    Both in one run, the older one before and after, so that a machine that slows down shows.
    """
    old = os.environ.get("OLD")
    if not old:
        pytest.skip("OLD=PATH of an older checkout is not set")
    print("\nmodel        field    old s    new s  ratio")
    for model in ("equilibrium", "brownian"):
        for which in FIELDS:
            taken = []
            for folder in (old, os.getcwd(), old):
                command = [sys.executable, "-c", AGAINST, model, which]
                environment = os.environ | {"PYTHONPATH": folder}
                done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=folder)
                taken.append(float(done.stdout))
            before, new, after = taken
            print(f"{model:12} {which:5}  {min(before, after):7.3f}  {new:7.3f}  {min(before, after) / new:5.1f}")
            assert new > 0
