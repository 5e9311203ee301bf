"""Typed settings: strict, frozen, loaded from YAML, content-hashed."""
