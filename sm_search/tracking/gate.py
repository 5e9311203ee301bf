"""The gate before the champion: what is compared, which number must reach what, and the table that says so."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field

from sm_search.config.base import Settings
from sm_search.evaluation.comparison import Row

MODEL, CHAMPION_ROW = "model", "champion"
MUST_BEAT = "copy"
TOLERANCE_DB = 0.1
COLUMNS = ("split", "method", "PSNR dB", "over the seeds ±", "SSIM", "nRMSE", "gain error dB")


class Score(Settings):
    """One method on one split: means over its scans, and over the sampling seeds where there are several.

    Attributes:
        psnr_db_spread: half the difference of the best and the worst seed.
    """

    psnr_db: float
    ssim: float
    nrmse: float
    gain_error_db: float
    psnr_db_spread: float = Field(default=0.0, ge=0)

    @staticmethod
    def of(seeds: Sequence[Sequence[Row]]) -> "Score":
        """From the rows of each seed, one row a scan."""

        def mean(name: str) -> list[float]:
            return [float(np.mean([getattr(row.quality, name) for row in rows])) for rows in seeds]

        psnr_db = mean("psnr_db_mean")
        return Score(
            psnr_db=float(np.mean(psnr_db)),
            ssim=float(np.mean(mean("ssim_mean"))),
            nrmse=float(np.mean(mean("nrmse_mean"))),
            gain_error_db=float(np.mean(mean("gain_error_db_mean"))),
            psnr_db_spread=(max(psnr_db) - min(psnr_db)) / 2,
        )


@dataclass(frozen=True)
class Check:
    """One number that the gate asks for: the PSNR of the model minus that of `rival`, in dB."""

    split: str
    rival: str
    psnr_db: float
    rival_psnr_db: float
    least_gain_db: float

    @property
    def gain_db(self) -> float:
        return self.psnr_db - self.rival_psnr_db

    @property
    def passed(self) -> bool:
        """More than `copy`, and not less than the champion and the gain asked for."""
        return self.gain_db > 0 if self.rival == MUST_BEAT else self.gain_db >= self.least_gain_db

    def __str__(self) -> str:
        rule = "above 0" if self.rival == MUST_BEAT else f"at least {self.least_gain_db:+g} dB"
        return (
            f"{self.split}: PSNR {self.psnr_db:.2f} dB is {self.gain_db:+.2f} dB against the {self.rival_psnr_db:.2f} "
            f"of {self.rival}; must be {rule}"
        )


def checks(split: str, scores: Mapping[str, Score], least_gain_db: float) -> list[Check]:
    """What the gate asks of the model on one split: more than `copy`, and the champion's PSNR plus a least gain.

    The other baselines do not gate. On noise-free simulated data a regression over the scans is as good as any network,
    and a fit of the physics is exact: to ask for more than that would refuse the best model that there can be.
    """
    model = scores[MODEL].psnr_db
    return [
        Check(split, rival, model, scores[rival].psnr_db, least_gain_db)
        for rival in (MUST_BEAT, CHAMPION_ROW)
        if rival in scores
    ]


def table_rows(splits: Mapping[str, Mapping[str, Score]]) -> list[tuple[str, ...]]:
    """The comparison as text, under `COLUMNS`."""
    return [
        (
            split,
            method,
            f"{score.psnr_db:.2f}",
            f"{score.psnr_db_spread:.2g}" if method in (MODEL, CHAMPION_ROW) else "",
            f"{score.ssim:.4f}",
            f"{score.nrmse:.3g}",
            f"{score.gain_error_db:.2f}",
        )
        for split, scores in splits.items()
        for method, score in scores.items()
    ]


def markdown(title: str, splits: Mapping[str, Mapping[str, Score]], asked: Sequence[Check]) -> str:
    """The whole comparison as a page for MLflow's artifact view."""
    lines = [f"# {title}", "", "| asked | result |", "|---|---|"]
    lines += [f"| {check} | {'met' if check.passed else '**fell short**'} |" for check in asked]
    lines += ["", f"| {' | '.join(COLUMNS)} |", "|---|---|" + "---:|" * (len(COLUMNS) - 2)]
    lines += [f"| {' | '.join(row)} |" for row in table_rows(splits)]
    return "\n".join(lines) + "\n"


def as_object(splits: Mapping[str, Mapping[str, Score]], asked: Sequence[Check]) -> dict[str, Any]:
    """The whole comparison for `--json` and for the artifact."""
    return {
        "passed": all(check.passed for check in asked),
        "checks": [
            {
                "split": check.split,
                "against": check.rival,
                "gain_db": check.gain_db,
                "least_gain_db": 0.0 if check.rival == MUST_BEAT else check.least_gain_db,
                "passed": check.passed,
            }
            for check in asked
        ],
        "scores": {
            split: {method: score.model_dump() for method, score in scores.items()} for split, scores in splits.items()
        },
    }
