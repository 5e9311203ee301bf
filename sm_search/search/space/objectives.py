"""What a study may ask for: its metric, further objectives, and which way each is better.

The qualities among them are computed by `sm_search.evaluation.validation.QUALITIES`.
"""

from typing import Literal

Metric = Literal["val_psnr_db", "val_ssim"]
"""What decides: ASHA, the inner search and the ranking go by it."""
Objective = Literal["val_psnr_db", "val_ssim", "evaluations"]
DIRECTIONS: dict[str, Literal["max", "min"]] = {"val_psnr_db": "max", "val_ssim": "max", "evaluations": "min"}
