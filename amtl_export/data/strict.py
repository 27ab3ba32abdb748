"""What schemas are made of: frozen, and nothing unknown in them."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """Base of every part of a schema: frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")
