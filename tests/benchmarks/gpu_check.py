"""What a GPU makes of all this, in a few minutes: tables for docs/results.md on stdout, all of it in one JSON file.

    make gpu-check                                          # on a machine with a GPU
    python tests/benchmarks/gpu_check.py --tiny --out DIR   # a rehearsal in seconds on a CPU, which a test runs

It needs PyTorch, NumPy, SciPy, h5py, PyYAML, safetensors, scikit-image, pydantic and pytest, for the U-Net diffusers:
no Ray, no Optuna, no MLflow. What cannot be measured says why, and the other sections go on.
"""

import argparse
import contextlib
import hashlib
import importlib.util
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from sm_search.config.dataset_settings import DatasetSettings, Design  # noqa: E402
from sm_search.config.model_settings import Diffuse, ScheduleSettings, TrainingSettings  # noqa: E402
from sm_search.config.simulation_settings import Grid, MixingOrders  # noqa: E402
from sm_search.data.dataset import FIELDS, Dataset  # noqa: E402
from sm_search.diffusion.condition import Condition  # noqa: E402
from sm_search.diffusion.spectra import state_shape  # noqa: E402
from sm_search.evaluation.validation import ScheduleScorer, Validation  # noqa: E402
from sm_search.physics.system_matrix import simulate  # noqa: E402
from sm_search.search.space.space_file import load_space  # noqa: E402
from sm_search.search.study.gpu_memory import GIB, gpu_share, measured_memory  # noqa: E402
from sm_search.synthesis import Synthesiser  # noqa: E402
from sm_search.training import Trainer, TrainingImages, make_checkpoint, training_images  # noqa: E402
from tests.datasets import simulated  # noqa: E402

BACKBONES: dict[str, dict[str, Any]] = {
    "linear-basis": {"backbone": "linear-basis", "coefficients": 384, "width": 1024, "blocks": 4},
    "linear-basis, voxel": {"backbone": "linear-basis", "coefficients": 336, "width": 1024, "blocks": 4},
    "unet, patch 4": {"backbone": "unet", "patch": 4},
}
TINY_BACKBONES: dict[str, dict[str, Any]] = {
    "linear-basis": {"backbone": "linear-basis", "coefficients": 16, "width": 32, "blocks": 1},
    "linear-basis, voxel": {"backbone": "linear-basis", "coefficients": 16, "width": 32, "blocks": 1},
    "unet, patch 4": {"backbone": "unet", "patch": 4, "channels": [8, 8]},
}
PRECISIONS = ("float32", "tf32", "bfloat16")
SHARING = 8
"""Trials that share a GPU in the comparison with one trial of as many times the batch."""
TESTS = ("tests/test_training_on_gpu.py", "tests/physics/test_axes.py")


@dataclass
class Table:
    """What one section found: rows of equal keys, or the reason why there are none."""

    title: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    reason: str | None = None

    def markdown(self) -> str:
        lines = [f"### {self.title}", ""]
        if self.rows:
            columns = list(self.rows[0])
            lines += [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
            lines += ["| " + " | ".join(_cell(row[column]) for column in columns) + " |" for row in self.rows]
        if self.reason:
            lines += [*([""] if self.rows else []), f"not measured: {self.reason}"]
        return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def diffused(backbone: str) -> Diffuse:
    return "voxel" if backbone.endswith("voxel") else "component"


@cache
def random_images(count: int, shape: tuple[int, int]) -> TrainingImages:
    draw = torch.Generator().manual_seed(0)
    low, high = torch.randn((2, count, 2, *shape), generator=draw)
    orders = torch.randint(0, 13, (count, 2), generator=draw).float()
    condition = Condition(low, orders, -torch.rand(count), torch.zeros(count, 8), torch.zeros(count), torch.ones(count))
    return TrainingImages(high, condition)


def is_there(backbone: str) -> bool:
    """Whether what the backbone is made of is installed here."""
    if backbone != "unet":
        return True
    try:
        return importlib.util.find_spec("diffusers") is not None
    except ModuleNotFoundError:
        return False


class Check:
    """The machine, the size of the check, and what its sections share."""

    def __init__(self, tiny: bool, folder: Path) -> None:
        self.tiny, self.folder = tiny, folder
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.seconds = 0.05 if tiny else 0.8
        self.batches = (8, 16) if tiny else (256, 1024, 4096, 8192)
        backbones = TINY_BACKBONES if tiny else BACKBONES
        self.backbones = {name: backbone for name, backbone in backbones.items() if is_there(backbone["backbone"])}
        self.side = 16 if tiny else 32

    def settings(self, backbone: str, batch: int, precision: str = "float32") -> TrainingSettings:
        wanted = {
            "backbone": self.backbones[backbone],
            "diffuse": diffused(backbone),
            "batch_size": batch,
            "precision": "bfloat16" if precision == "bfloat16" else "float32",
            "steps": 1_000_000,
            "mean": "none",
        }
        return TrainingSettings.model_validate_json(json.dumps(wanted))

    def images(self, backbone: str) -> TrainingImages:
        """As many random images as `paper-54` has, or spectra; what they show changes no time."""
        shape = state_shape(diffused(backbone), 168, (self.side, self.side))
        return random_images(64 if self.tiny else 54 * 168, shape)

    @cached_property
    def dataset(self) -> Dataset:
        """A few scans under the equilibrium model."""
        diameters = (20.0, 30.0) if self.tiny else (20.0, 30.0, 40.0, 50.0, 60.0, 70.0)

        def design(diameters_nm: tuple[float, ...], fx_khz: float) -> Design:
            return Design(core_diameter_nm=diameters_nm, fx_khz=(fx_khz,), nd=(9,))

        settings = DatasetSettings(
            name="gpu-check",
            magnetisation="equilibrium",
            grid=Grid(size=(self.side, self.side)),
            orders=MixingOrders(max_x=3, max_y=3) if self.tiny else MixingOrders(),
            splits={
                "train": (design(diameters, 20.0),),
                "validation": (design((25.0,), 20.0),),
                "test": (design((35.0,), 20.0),),
            },
        )
        return simulated(settings, self.folder / "data")

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def time_of(self, action: Callable[[], Any]) -> float:
        """Median seconds of one call, after one that does not count."""
        action()
        taken, begin = [], time.perf_counter()
        while not taken or time.perf_counter() - begin < self.seconds:
            self.wait()
            start = time.perf_counter()
            action()
            self.wait()
            taken.append(time.perf_counter() - start)
        return statistics.median(taken)

    @cached_property
    def peaks(self) -> dict[str, float]:
        """FLOP/s of a product of two large matrices in each precision."""
        size = 256 if self.tiny else 8192 if self.device == "cuda" else 2048
        found = {}
        for precision in PRECISIONS:
            kind = torch.bfloat16 if precision == "bfloat16" else torch.float32
            a, b = torch.randn((2, size, size), device=self.device).to(kind)
            with matmul_precision(precision):
                found[precision] = 2 * size**3 / self.time_of(lambda a=a, b=b: a @ b)  # type: ignore[misc]
        return found


@contextlib.contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """Float32 products in TF32 where that is asked for."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def matmul_peak(check: Check) -> list[dict[str, Any]]:
    return [{"precision": name, "TFLOP/s": flops / 1e12} for name, flops in check.peaks.items()]


def training_throughput(check: Check) -> Iterator[dict[str, Any]]:
    """Images a second and the share of the peak, by backbone, batch, precision and way of running a step."""
    for backbone in check.backbones:
        for batch in check.batches:
            for precision in PRECISIONS:
                for way in ("eager", "captured", "compiled"):
                    if way == "captured" and check.device != "cuda":
                        continue
                    if way == "compiled" and (check.device != "cuda" or (batch, precision) != (4096, "bfloat16")):
                        continue
                    row = {"backbone": backbone, "batch": batch, "precision": precision, "way": way}
                    with matmul_precision(precision):
                        yield row | _throughput(check, backbone, batch, precision, way)


def _throughput(check: Check, backbone: str, batch: int, precision: str, way: str) -> dict[str, Any]:
    settings = check.settings(backbone, batch, precision)
    trainer = Trainer(settings, check.images(backbone), check.device, captured=way == "captured")
    with FlopCounterMode(display=False) as counter:
        list(trainer.train(1))
    if way == "compiled":
        trainer.denoiser.compile()
    list(trainer.train(6))
    begin, first = time.perf_counter(), trainer.step
    while time.perf_counter() - begin < check.seconds:
        list(trainer.train(trainer.step + 10))  # a record reads the loss, and so waits
    step = (time.perf_counter() - begin) / (trainer.step - first)
    share = counter.get_total_flops() / step / check.peaks[precision]
    return {"images/s": settings.batch_size / step, "ms a step": 1e3 * step, "of the peak": f"{share:.0%}"}


def profile(check: Check) -> Iterator[dict[str, Any]]:
    """Kernels a step, and how much of the time the device works."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if check.device == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    steps = 10
    for backbone in check.backbones:
        for captured in (False, True) if check.device == "cuda" else (False,):
            settings = check.settings(backbone, check.batches[-2], "bfloat16")
            trainer = Trainer(settings, check.images(backbone), check.device, captured=captured)
            list(trainer.train(6))
            check.wait()
            begin = time.perf_counter()
            with torch.profiler.profile(activities=activities) as seen:
                for _ in range(steps):
                    trainer._advance()
                check.wait()
            wall_us = 1e6 * (time.perf_counter() - begin)
            device = torch.autograd.DeviceType.CUDA if check.device == "cuda" else torch.autograd.DeviceType.CPU
            kernels = [event for event in seen.events() if event.device_type == device]
            busy_us = sum(event.self_device_time_total for event in kernels) if check.device == "cuda" else float("nan")
            yield {
                "backbone": backbone,
                "way": "captured" if captured else "eager",
                "kernels a step" if check.device == "cuda" else "operators a step": len(kernels) / steps,
                "device busy": f"{busy_us / wall_us:.0%}" if check.device == "cuda" else "–",
            }


def synthesis(check: Check) -> Iterator[dict[str, Any]]:
    """Seconds of a whole matrix, both receive channels, weights untrained."""
    low = next(iter(check.dataset.pairs("test"))).low
    for backbone in check.backbones:
        settings = check.settings(backbone, 8)
        images, models = training_images(check.dataset, "train", (0,), "none", diffuse=diffused(backbone))
        trainer = Trainer(settings, images, check.device)
        checkpoint = make_checkpoint(trainer, check.dataset, models, ScheduleSettings(), {})
        for steps, samples in ((1, 1), (8, 1), (8, 8)):
            model = Synthesiser(checkpoint, ScheduleSettings(steps=steps, samples=samples), device=check.device)
            components = low.values_CKN.shape[0] * low.values_CKN.shape[1]
            seconds = check.time_of(lambda model=model: model.predict(low))  # type: ignore[misc]
            yield {"backbone": backbone, "components": components, "steps": steps, "draws": samples, "s": seconds}


def schedules(check: Check) -> Iterator[dict[str, Any]]:
    """Schedules a second of the inner search: 96 validation images, 2 and 24 schedules asked at once."""
    wanted = [ScheduleSettings(steps=steps, eta_max=0.1 * i) for i in range(6) for steps in (1, 4, 8, 16)]
    for backbone in check.backbones:
        images, models = training_images(check.dataset, "train", (0,), "none", diffuse=diffused(backbone))
        trainer = Trainer(check.settings(backbone, 8), images, check.device)
        validation = Validation.of(check.dataset, models, diffuse=diffused(backbone)).subset(96)
        for together in (2, len(wanted)):
            scorer = ScheduleScorer(trainer.ema, trainer.settings.diffusion, validation, check.device)

            def score(scorer: ScheduleScorer = scorer, together: int = together, images: int = len(validation)) -> None:
                for first in range(0, len(wanted), together):
                    scorer(wanted[first : first + together], 0, images)

            rate = len(wanted) / check.time_of(score)
            yield {"backbone": backbone, "images": len(validation), "asked at once": together, "schedules/s": rate}


def simulation(check: Check) -> Iterator[dict[str, Any]]:
    """The same matrix on the CPU (one thread) and on the GPU: seconds, and the largest difference."""
    if check.device != "cuda":
        raise NotMeasuredError("no CUDA device")
    scan = check.dataset.settings.scans("test")[0]
    for magnetisation in ("equilibrium", "debye"):  # the others are compiled for the processor
        settings = check.dataset.settings.model_copy(update={"magnetisation": magnetisation})
        for which in FIELDS:
            row = {"model": magnetisation, "field": which}
            try:
                ours = simulate(settings, scan, which, device="cuda").values_CKN
            except (ValueError, KeyError) as error:
                yield row | {"CPU s": "–", "GPU s": str(error).splitlines()[0], "largest difference": "–"}
                continue
            torch.set_num_threads(1)
            truth = simulate(settings, scan, which).values_CKN
            difference = float(np.abs(ours - truth).max() / np.abs(truth).max())
            times = [
                check.time_of(
                    lambda settings=settings, which=which, device=device: simulate(settings, scan, which, device=device)
                )  # type: ignore[misc]
                for device in ("cpu", "cuda")
            ]
            yield row | {"CPU s": times[0], "GPU s": times[1], "largest difference": difference}


def memory(check: Check) -> list[dict[str, Any]]:
    """What `gpus: auto` would reserve for a trial of search_spaces/gpu.yaml."""
    found = measured_memory(load_space(ROOT / "search_spaces/gpu.yaml"), check.dataset)
    if found is None:
        raise NotMeasuredError("no CUDA device")
    share = gpu_share(found)
    return [{"peak GiB": found.peak / GIB, "GPU GiB": found.total / GIB, "share": share, "trials": int(1 / share)}]


def determinism(check: Check) -> Iterator[dict[str, Any]]:
    """A seed gives one result, captured or not."""
    for backbone in check.backbones:
        runs = {}
        for name, captured in (("first", False), ("second", False), ("captured", True)):
            trainer = Trainer(
                check.settings(backbone, check.batches[0]), check.images(backbone), check.device, captured=captured
            )
            list(trainer.train(12))
            state = trainer.state()
            runs[name] = hashlib.sha256(b"".join(state[key].numpy().tobytes() for key in sorted(state))).hexdigest()
        yield {
            "backbone": backbone,
            "the same again": runs["first"] == runs["second"],
            "captured is eager": runs["first"] == runs["captured"],
        }


def sharing(check: Check) -> Iterator[dict[str, Any]]:
    """Trials side by side on one device against one trial of as many times the batch."""
    count, batch = (2, 8) if check.tiny else (SHARING, 512)
    for backbone in list(check.backbones)[:1]:
        alone = sum(_side_by_side(check, backbone, 1, count * batch))
        shared = sum(_side_by_side(check, backbone, count, batch))
        share = f"{shared / alone:.0%}"
        yield {
            "backbone": backbone,
            "trials": count,
            "images/s shared": shared,
            "images/s alone": alone,
            "ratio": share,
        }


def _side_by_side(check: Check, backbone: str, count: int, batch: int) -> list[float]:
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(count), context.Queue()
    work = (check.tiny, check.folder, backbone, batch, barrier, answers)
    processes = [context.Process(target=_one_of_many, args=work) for _ in range(count)]
    for process in processes:
        process.start()
    rates = [answers.get(timeout=240) for _ in processes]
    for process in processes:
        process.join()
    return rates


def _one_of_many(tiny: bool, folder: Path, backbone: str, batch: int, barrier: Any, answers: Any) -> None:
    check = Check(tiny, folder)
    torch.set_num_threads(1)
    trainer = Trainer(
        check.settings(backbone, batch, "bfloat16" if check.device == "cuda" else "float32"),
        check.images(backbone),
        check.device,
        captured=True,
    )
    list(trainer.train(6))
    barrier.wait()
    begin, first = time.perf_counter(), trainer.step
    while time.perf_counter() - begin < 4 * check.seconds:
        list(trainer.train(trainer.step + 10))
    answers.put((trainer.step - first) * batch / (time.perf_counter() - begin))


def gpu_tests(check: Check) -> list[dict[str, Any]]:
    """The tests marked `gpu` that need no Ray."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", *TESTS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        print(done.stdout[-4000:], done.stderr[-2000:], file=sys.stderr)
    return [{"exit status": done.returncode, "says": (done.stdout.strip().splitlines() or ["nothing"])[-1]}]


class NotMeasuredError(Exception):
    """Why a section has no figures here."""


SECTIONS: dict[str, Callable[[Check], Any]] = {
    "Product of two matrices": matmul_peak,
    "Tests marked gpu": gpu_tests,
    "Training throughput": training_throughput,
    "Where a step's time goes": profile,
    "One seed, one result": determinism,
    "Synthesis of a whole matrix": synthesis,
    "Schedules of the inner search": schedules,
    "Simulation": simulation,
    "Memory that gpus: auto reserves": memory,
    "Trials that share a device": sharing,
}


def machine(check: Check) -> dict[str, Any]:
    name = torch.cuda.get_device_name() if check.device == "cuda" else platform.processor() or platform.machine()
    return {"device": name, "torch": torch.__version__, "python": platform.python_version(), "tiny": check.tiny}


def run(check: Check, out: Path) -> bool:
    """Every section; whether none of them broke. What was found so far is on disk after each."""
    whole = True
    found: dict[str, Any] = {"machine": machine(check), "sections": {}}
    print(f"## GPU check: {found['machine']['device']}, torch {found['machine']['torch']}\n", flush=True)
    for title, section in SECTIONS.items():
        table, begin = Table(title), time.perf_counter()
        try:
            for row in section(check):
                table.rows.append(row)
        except NotMeasuredError as why:
            table.reason = str(why)
        except Exception as error:  # one section that breaks must not cost the others their figures
            whole, table.reason = False, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        found["sections"][title] = {
            "rows": table.rows,
            "reason": table.reason,
            "seconds": round(time.perf_counter() - begin, 2),
        }
        (out / "gpu-check.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
        print(table.markdown(), flush=True)
    return whole


def main() -> int:
    parser = argparse.ArgumentParser(description="What a GPU makes of sm_search; see the top of this file.")
    parser.add_argument("--tiny", action="store_true", help="a rehearsal in seconds")
    parser.add_argument("--out", type=Path, default=Path("outputs/gpu-check"), help="folder of gpu-check.json")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        return 0 if run(Check(options.tiny, Path(folder)), options.out) else 1


if __name__ == "__main__":
    sys.exit(main())
