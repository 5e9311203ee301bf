"""A system matrix need not fit in memory: its values stay in the file until they are used."""

import subprocess
import sys
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from sm_search.config.errors import DataError
from sm_search.config.simulation_settings import FieldSettings, Grid, MixingOrders
from sm_search.data.mdf import read_mdf, write_mdf
from sm_search.physics.system_matrix import SystemMatrix

MIB = 1 << 20


def large_file(path: Path, orders: MixingOrders, side: int) -> int:
    """A file whose values are a hole on the disk, but for component 1 of channel 0, which is all 3 + 4i; its bytes."""
    pairs = orders.pairs()
    small = SystemMatrix(
        np.ones((2, len(pairs), 4), dtype=np.complex128),
        pairs,
        Grid(size=(2, 2)),
        FieldSettings(gradient_t_per_m=1.0, drive_mt=20.0),
        25e3,
        99,
    )
    write_mdf(path, small, uuid="ee94cb6d-febf-47d9-bec9-e3afa59bfaf8", time="2025-01-31T12:00:00.000")
    shape = (1, 2, len(pairs), side * side)
    with h5py.File(path, "r+") as file:
        for field in ("/measurement/data", "/measurement/isBackgroundFrame"):
            del file[field]
        file["/measurement/isBackgroundFrame"] = np.zeros(side * side, dtype=np.int8)
        file["/calibration/size"][...] = [side, side, 1]
        creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        kind, space = h5py.h5t.py_create(np.dtype(np.complex128)), h5py.h5s.create_simple(shape)
        values = h5py.Dataset(h5py.h5d.create(file["/measurement"].id, b"data", kind, space, creation))
        values[0, 0, 1] = 3 + 4j
    return 16 * int(np.prod(shape))


READ = """
import os, sys
from sm_search.data.mdf import read_mdf


def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


before = resident()
values_CKN = read_mdf(sys.argv[1], check_values=len(sys.argv) > 2).values_CKN
assert (values_CKN[0, 1] == 3 + 4j).all()
print(values_CKN[0, 1].nbytes, resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_one_component_of_a_large_file_is_read_alone(tmp_path: Path) -> None:
    path = tmp_path / "large.mdf"
    total = large_file(path, MixingOrders(max_x=12, max_y=12), 512)
    assert path.stat().st_size > total > 1300 * MIB
    assert 512 * path.stat().st_blocks < 32 * MIB
    done = subprocess.run([sys.executable, "-c", READ, str(path)], capture_output=True, text=True, check=True)
    component, grown = map(int, done.stdout.split())
    assert component == 4 * MIB
    # The component, what the kernel reads ahead, and what the interpreter takes on the way.
    assert component <= grown < 48 * MIB


def test_checking_all_values_allocates_a_few_blocks(tmp_path: Path) -> None:
    path = tmp_path / "large.mdf"
    total = large_file(path, MixingOrders(max_x=3, max_y=3), 512)
    assert total > 100 * MIB
    tracemalloc.start()
    try:
        sm = read_mdf(path)
        largest = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert np.array_equal(sm.values_CKN[0, 1], np.full(512 * 512, 3 + 4j))
    assert largest < 32 * MIB


def test_values_that_are_not_checked_are_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "nan.mdf"
    large_file(path, MixingOrders(max_x=1, max_y=1), 4)
    with h5py.File(path, "r+") as file:
        file["/measurement/data"][0, 1, 2, 5] = np.nan
    with pytest.raises(DataError, match="channel 1, component 2, frame 5: must be finite"):
        read_mdf(path)
    values_CKN = read_mdf(path, check_values=False).values_CKN
    assert np.argwhere(np.isnan(values_CKN)).tolist() == [[1, 2, 5]]
    assert torch.tensor(values_CKN)[0, 1].tolist() == [3 + 4j] * 16
    with pytest.raises(ValueError, match="read-only"):
        values_CKN[0, 0, 0] = 1
