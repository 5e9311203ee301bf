"""Images as NIfTI-1 files, which viewers of medical images open; nibabel writes them (extra `nifti`)."""

import gzip
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sm_search.config.errors import DataError
from sm_search.config.simulation_settings import Grid
from sm_search.data.atomic import atomic_path

SUFFIXES = (".nii", ".nii.gz")


def write_nifti(path: str | Path, images_QYX: NDArray[np.floating], grid: Grid) -> None:
    """Write images as one volume of a slice, or as a series of such; x and y in mm, the origin in the middle.

    Raises:
        DataError: nibabel is not installed, or the file cannot be written.
    """
    try:
        import nibabel
    except ImportError:
        raise DataError(f"{path}: NIfTI needs nibabel: pip install 'sm-search[nifti]'") from None
    step_x, step_y = (fov / n for fov, n in zip(grid.fov_mm, grid.size, strict=True))
    affine = np.diag([step_x, step_y, min(step_x, step_y), 1.0])
    affine[:2, 3] = [-(grid.size[0] - 1) / 2 * step_x, -(grid.size[1] - 1) / 2 * step_y]
    series_XY1Q = np.asarray(images_QYX, dtype=np.float64).transpose(2, 1, 0)[:, :, None]
    image = nibabel.Nifti1Image(series_XY1Q if len(images_QYX) > 1 else series_XY1Q[..., 0], affine)
    image.header.set_xyzt_units("mm")
    content: bytes = image.to_bytes()
    with atomic_path(path) as temporary:
        temporary.write_bytes(gzip.compress(content, mtime=0) if str(path).endswith(".gz") else content)
