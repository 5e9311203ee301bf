"""Images as NIfTI-1 files, which viewers of medical images open; nibabel writes them (extra `nifti`)."""

import gzip
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sm_search.config.errors import DataError
from sm_search.data.atomic import atomic_path
from sm_search.data.mdf_fields import grid_fields
from sm_search.physics.system_matrix import SystemMatrix

SUFFIXES = (".nii", ".nii.gz")


def write_nifti(path: str | Path, images_QZYX: NDArray[np.floating], place: SystemMatrix) -> None:
    """Write images as one volume, or as a series of such, in mm in the scanner's coordinates.

    Args:
        images_QZYX: of one plane also (Q, Y, X).
        place: the system matrix, whose voxels they have.

    Raises:
        DataError: nibabel is not installed, or the file cannot be written.
    """
    try:
        import nibabel
    except ImportError:
        raise DataError(f"{path}: NIfTI needs nibabel: pip install 'sm-search[nifti]'") from None
    where = grid_fields(place)
    size, fov_mm, centre_mm = where["size"], 1e3 * where["fieldOfView"], 1e3 * where["fieldOfViewCenter"]
    step_mm = fov_mm / size
    affine = np.diag([*step_mm, 1.0])
    affine[:3, 3] = centre_mm - (size - 1) / 2 * step_mm
    volumes_QZYX = np.asarray(images_QZYX, dtype=np.float64).reshape(-1, *size[::-1])
    series_XYZQ = volumes_QZYX.transpose(3, 2, 1, 0)
    image = nibabel.Nifti1Image(series_XYZQ if len(volumes_QZYX) > 1 else series_XYZQ[..., 0], affine)
    image.header.set_xyzt_units("mm")
    content: bytes = image.to_bytes()
    with atomic_path(path) as temporary:
        temporary.write_bytes(gzip.compress(content, mtime=0) if str(path).endswith(".gz") else content)
