"""Whether a bundle and a source are of one model at all, so that comparing them makes sense."""

from __future__ import annotations

from collections.abc import Iterator

from amtl_export.bundle.bundle import Bundle
from amtl_export.errors import ValidationFailed
from amtl_export.freezing.frozen import FrozenModel
from amtl_export.graph.weights import Part
from amtl_export.validation.provenance import load_graph


def another_model(bundle: Bundle, frozen: FrozenModel) -> str:
    """What inputs, outputs, fields, sizes, D or bases say against it, in words; empty if nothing does."""
    return _other_shape(bundle, frozen) or _other_bases(bundle, frozen)


def _other_shape(bundle: Bundle, frozen: FrozenModel) -> str:
    signature = bundle.signature
    for what, has, wanted in (
        ("inputs", {spec.source for spec in signature.inputs}, {spec.name for spec in frozen.inputs}),
        ("outputs", {spec.name for spec in signature.outputs}, set(frozen.outputs)),
    ):
        if has != wanted:
            return f"the bundle is of another model: {what} {sorted(has)}, the source has {sorted(wanted)}"
    theirs = {own.name: own.size for own in signature.fields}
    ours = {own.name: own.size for own in frozen.fields if own.table in frozen.tables}
    dims = signature.dim, frozen.table.rows.shape[1]
    if list(theirs) != list(ours) or dims[0] != dims[1]:
        return (
            f"the bundle is of another model: fields {list(theirs)} with D={dims[0]}, "
            f"the source has {list(ours)} with D={dims[1]}; a compressed model's bundle is held against that model"
        )
    if theirs != ours:
        return (
            f"another run's vocabulary: its fields have {list(theirs.values())} ids, the source's "
            f"{list(ours.values())}; vocabulary hash {signature.vocabulary_hash}, the source's {frozen.vocabulary_hash}"
        )
    return ""


def _other_bases(bundle: Bundle, frozen: FrozenModel) -> str:
    """Bases that are folded into the bundle's weights and that the source has not."""
    try:
        values = load_graph(bundle.model).graph.initializers.values()
    except ValidationFailed:
        return ""  # said by the checks of files and weights
    parts = [part for value in values if (part := Part.described(value))]
    missing = {name for part in parts for name in part.unknown_bases(frozen.projections)}
    if not missing:
        return ""
    return (
        f"the bundle is of a compressed model: the source has no {', '.join(sorted(missing))}; "
        "give the model that it was exported from"
    )


def other_vocabularies(bundle: Bundle, frozen: FrozenModel) -> Iterator[str]:
    """Fields of a run whose values have other ids, and hashes of other vocabularies."""
    if frozen.data is None:
        return
    found, ours = bundle.vocabularies(), frozen.data.vocabularies
    if differing := [name for name in bundle.fields if found[name].digest != ours[name].digest]:
        yield f"another run's vocabulary: field(s) {', '.join(differing)} map values to other ids than the run does"
    stated = {entry.key: entry.value for entry in bundle.proto().metadata_props}.get("amtl.vocabulary_hash")
    for where, value in (("model.onnx", stated), ("signature.json", bundle.signature.vocabulary_hash)):
        if value != frozen.vocabulary_hash:
            yield f"{where} states the vocabulary hash {value}, the run's is {frozen.vocabulary_hash}"
