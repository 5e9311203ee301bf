"""MDF files: written atomically, read with suspicion, validated against the standard.

A system matrix that is read (`read_mdf`, `Dataset.read`, `Dataset.pairs`) is a view of its file: `values_CKN` is a
read-only memory map, a NumPy array that `torch.tensor` takes, and need not fit in memory.
"""
