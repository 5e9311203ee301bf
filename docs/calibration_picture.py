"""The picture of calibration: `python docs/calibration_picture.py EVALUATION.json … docs/images/calibration.png`.

From what `sm-search evaluate --json` printed, of one split or of several.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from PIL import Image

matplotlib.use("Agg")
import matplotlib.pyplot as plt

LEVELS = ("0.5", "0.9")
AIM = (0.85, 0.95)
Scans = Mapping[str, Sequence[Mapping[str, Any]]]


def main(evaluations: Sequence[Path], out: Path) -> None:
    scans: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for path in evaluations:
        for each in json.loads(path.read_text(encoding="utf-8"))["distribution"]:
            scans[each["split"]].append(each)
    figure, (ranks, covers) = plt.subplots(1, 2, figsize=(9, 3.6), constrained_layout=True)
    show_ranks(ranks, scans)
    show_coverage(covers, scans)
    drawn = BytesIO()
    figure.savefig(drawn, dpi=110)
    Image.open(drawn).convert("RGB").quantize(256).save(out, optimize=True)


def show_ranks(axis: Any, scans: Scans) -> None:
    """How often so many of the draws lie below the truth, over what it were if the truth could be one of them."""
    for split, found in scans.items():
        share = np.mean([each["ranks"] for each in found], axis=0)
        axis.plot(range(len(share)), share * len(share), marker="o", ms=3, lw=1.2, label=split)
    axis.axhline(1, color="black", lw=0.8, ls="--")
    axis.set(xlabel="draws below the truth", ylabel="share of the values, 1 if calibrated", ylim=(0, None))
    axis.set_title("Rank of the truth among eight draws", fontsize=10)
    axis.legend(fontsize=8, ncols=2, loc="upper center")


def show_coverage(axis: Any, scans: Scans) -> None:
    """What the stated intervals cover, the mean of a split and each of its scans."""
    axis.axvspan(*AIM, color="tab:green", alpha=0.15, lw=0)
    for level in LEVELS:
        axis.axvline(float(level), color="black", lw=0.8, ls="--")
    for row, found in enumerate(scans.values()):
        for level in LEVELS:
            covered = [each["coverages"][level] for each in found]
            axis.plot(covered, [row] * len(covered), "|", color=f"C{row}", ms=9, alpha=0.6)
            axis.plot(np.mean(covered), row, "o", color=f"C{row}", ms=6)
    axis.set_yticks(range(len(scans)), list(scans))
    axis.invert_yaxis()
    axis.set(xlabel="share of the values within", xlim=(0, 1))
    axis.set_title("Stated intervals of 50 % and 90 %: mean ● and scans |", fontsize=10)


if __name__ == "__main__":
    main([Path(each) for each in sys.argv[1:-1]], Path(sys.argv[-1]))
