"""MDF files: written atomically, read with suspicion, validated against the standard."""
