"""`Settings`: the frozen, strict base of every settings class, and its content hash."""

import hashlib
import json
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer


class Settings(BaseModel):
    """A set of checked values: frozen, no unknown keys, no silent conversion of types, no NaN or infinity.

    Attributes:
        added: names of keys that came later and are left out of a dump where they hold their default: the hash of older
            settings, which a dataset folder keeps, stays what it was.
    """

    added: ClassVar[frozenset[str]] = frozenset()

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True)

    @model_serializer(mode="wrap")
    def _dump(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        for name in self.added:
            if getattr(self, name) == type(self).model_fields[name].default:
                values.pop(name, None)
        return values

    def content_hash(self) -> str:
        """SHA-256 (hex) of the values in canonical JSON; equal values give equal hashes on every machine."""
        return content_hash(self.model_dump(mode="json"))


def content_hash(value: Any) -> str:
    """SHA-256 (hex) of a JSON-able `value` with sorted keys and no spaces."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
