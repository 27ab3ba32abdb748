"""`compare`: two bundles side by side."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from amtl_export.bundle.bundle import Bundle, open_bundle
from amtl_export.report.inspection import inspect


@dataclass(frozen=True)
class Comparison:
    """What two bundles have in common, and what not.

    Attributes:
        a: facts of the first bundle, by name; `b`, of the second.
        differing: names of facts that differ.
        interchangeable: whether a client of one can ask the other: inputs, outputs and vocabularies are alike.
    """

    a: dict[str, Any]
    b: dict[str, Any]
    differing: tuple[str, ...]
    interchangeable: bool

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def compare_bundles(a: Path | str, b: Path | str) -> Comparison:
    """Open two bundles and compare what they say of themselves.

    Raises:
        InputError: one is no bundle, or cannot be read.
    """
    first, second = (_facts(open_bundle(path)) for path in (a, b))
    names = [*first, *(name for name in second if name not in first)]
    differing = tuple(name for name in names if first.get(name) != second.get(name))
    contract = {"inputs", "outputs", "vocabulary hash"}
    return Comparison(first, second, differing, not contract & set(differing))


def _facts(bundle: Bundle) -> dict[str, Any]:
    made, signature = bundle.made(), bundle.signature
    inspected = inspect(bundle.path)
    facts: dict[str, Any] = {
        "producer": " ".join(signature.producer.values()),
        "origin": ", ".join(f"{key} {value}" for key, value in made.origin.items()),
        "inputs": [f"{spec.name} {spec.dtype} {list(spec.shape)}" for spec in signature.inputs],
        "outputs": [f"{spec.name} {spec.dtype} {list(spec.shape)}" for spec in signature.outputs],
        "vocabulary hash": signature.vocabulary_hash,
        "layout": inspected.layout,
        "id policy": signature.id_policy,
        "bytes of tables": signature.table_bytes,
        "bytes of files": bundle.bytes(),
        "nodes": sum(inspected.ops.values()),
    }
    facts |= {f"mean dims of {own.name}": round(own.avg_dim, 3) for own in inspected.fields}
    facts |= {f"nodes of {op}": count for op, count in inspected.ops.items()}
    return facts
