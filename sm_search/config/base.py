"""`Settings`: the frozen, strict base of every settings class, and its content hash."""

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A set of checked values: frozen, no unknown keys, no silent conversion of types, no NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True)

    def content_hash(self) -> str:
        """SHA-256 (hex) of the values in canonical JSON; equal values give equal hashes on every machine."""
        return content_hash(self.model_dump(mode="json"))


def content_hash(value: Any) -> str:
    """SHA-256 (hex) of a JSON-able `value` with sorted keys and no spaces."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
