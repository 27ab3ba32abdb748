"""Which keys of a field go together, where its values are made of the data's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from amtl_export.data.field_schema import FieldSchema

#: Keys that make a field's values of the data's; each gives whole numbers.
DERIVING = ("boundaries", "part")


def implied(values: Any) -> Any:
    """A field as it was given, with the type that such a key implies."""
    if isinstance(values, dict) and any(values.get(key) is not None for key in DERIVING) and "type" not in values:
        return values | {"type": "int64"}
    return values


def check(field: FieldSchema, owner: FieldSchema | None = None) -> None:
    """Refuse what makes no sense together.

    Args:
        field: of a schema.
        owner: the field whose vocabulary it has.

    Raises:
        ValueError: says what.
    """
    for key in DERIVING:
        if owner is not None and getattr(owner, key) is not None:
            raise ValueError(f"field {field.name}: {owner.name} has {key}, and its values are no other field's")
        if getattr(field, key) is None:
            continue
        if field.vocabulary is not None:
            raise ValueError(f"field {field.name}: {key} and vocabulary exclude each other")
        if field.kind != "categorical":
            raise ValueError(f'field {field.name}: {key} is for kind = "categorical", not {field.kind!r}')
        if field.type != "int64":
            raise ValueError(f"field {field.name}: {key} gives whole numbers; leave type = {field.type!r} out")
    if field.boundaries is not None and field.part is not None:
        raise ValueError(f"field {field.name}: boundaries and part exclude each other")
    if field.buckets is not None and field.kind not in ("categorical", "multi-valued"):
        raise ValueError(
            f'field {field.name}: buckets is for kind = "categorical" or "multi-valued", not {field.kind!r}'
        )
    for key in DERIVING:
        if field.buckets is not None and getattr(field, key) is not None:
            raise ValueError(f"field {field.name}: buckets and {key} exclude each other")
    for key in ("dim", "unknown"):
        if getattr(field, key) is not None and field.kind not in ("categorical", "multi-valued"):
            raise ValueError(
                f'field {field.name}: {key} is for kind = "categorical" or "multi-valued", not {field.kind!r}'
            )
    if field.unit is not None and field.part is None:
        raise ValueError(f"field {field.name}: unit is for part = …, of a column of whole numbers")
