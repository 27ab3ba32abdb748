"""Which inputs a graph takes: the model's own, or each cut in two where some fields are the request's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from amtl_export.errors import InputError
from amtl_export.models.config import ModelConfig

#: In front of the names of inputs that come with the request, one row for all candidates.
REQUEST = "request_"


@dataclass(frozen=True)
class Input:
    """One input of a graph.

    Attributes:
        name: in the graph.
        source: the model's own input that it is, or is a part of: `ids`, `numeric`, or a multi-valued field.
        fields: of its columns; the field itself if that is multi-valued.
        columns: their positions in `source`; empty for a multi-valued field, which has as many as it has values.
        request: whether it has one row for the whole request, `[1, …]`, or one for each candidate, `[batch, …]`.
    """

    name: str
    source: str
    fields: tuple[str, ...]
    columns: tuple[int, ...]
    request: bool = False


def inputs_of(
    single: Sequence[str], numeric: Sequence[str], multi: Sequence[str], request_fields: Sequence[str] = ()
) -> tuple[Input, ...]:
    """A graph's inputs in their order: those of the request first, then `ids`, `numeric`, the multi-valued fields.

    Args:
        single: single-valued fields, the columns of `ids`.
        numeric: numeric fields.
        multi: multi-valued fields.
        request_fields: of them, those that are the same for all candidates of a request.

    Raises:
        InputError: a request field is not one of the fields, or no field is left for the candidates.
    """
    everything = [*single, *numeric, *multi]
    if unknown := sorted(set(request_fields) - set(everything)):
        raise InputError("--request-fields: unknown fields", found=", ".join(unknown), allowed=", ".join(everything))
    if request_fields and set(request_fields) == set(everything):
        raise InputError(
            "--request-fields: every field is named, and candidates would all be alike",
            found=", ".join(request_fields),
            fix="leave out the fields that differ between the candidates of a request",
        )
    inputs = []
    for request in (True, False):
        for source, fields in (("ids", single), ("numeric", numeric)):
            columns = tuple(i for i, field in enumerate(fields) if (field in request_fields) == request)
            if columns:
                name = f"{REQUEST}{source}" if request else source
                inputs.append(Input(name, source, tuple(fields[i] for i in columns), columns, request))
        inputs += [
            Input(field, field, (field,), (), request) for field in multi if (field in request_fields) == request
        ]
    return tuple(inputs)


def model_inputs(config: ModelConfig, request_fields: Sequence[str] = ()) -> tuple[Input, ...]:
    """The inputs of a model's graph.

    Raises:
        InputError: as `inputs_of`.
    """
    names = [field.name for field in config.embedded]
    single, multi = ([names[i] for i in columns] for columns in (config.single, config.multi))
    return inputs_of(single, [field.name for field in config.numeric], multi, request_fields)
