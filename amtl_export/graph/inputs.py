"""Which inputs a graph takes: the model's own, or each split where fields are given once per request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from amtl_export.errors import InputError
from amtl_export.spec import Feed, TensorSpec

#: In front of the names of inputs that hold the columns of the request.
REQUEST = "request_"


def graph_inputs(inputs: Sequence[TensorSpec], request_fields: Sequence[str] = ()) -> tuple[TensorSpec, ...]:
    """A graph's inputs in their order, those of the request first.

    An input with a field for each column is split by columns; another one is the request's or the candidates' whole.

    Args:
        inputs: of the model.
        request_fields: fields, or whole inputs, that are the same for all candidates of a request.

    Raises:
        InputError: a request field is not there, or no field is left for the candidates.
    """
    everything = [name for spec in inputs for name in _fields(spec)]
    if unknown := sorted(set(request_fields) - set(everything)):
        raise InputError("request_fields: unknown fields", found=", ".join(unknown), allowed=", ".join(everything))
    if request_fields and set(request_fields) == set(everything):
        raise InputError(
            "request_fields: every field is named, and candidates would all be alike",
            found=", ".join(request_fields),
            fix="leave out the fields that differ between the candidates of a request",
        )
    parts = [_split(spec, request_fields, request=request) for request in (True, False) for spec in inputs]
    return tuple(part for part in parts if part is not None)


def _fields(spec: TensorSpec) -> tuple[str, ...]:
    return spec.fields if spec.packed else (spec.name,)


def _split(spec: TensorSpec, request_fields: Sequence[str], *, request: bool) -> TensorSpec | None:
    """The part of an input that the request has, or the candidates; None if there is none."""
    fields = _fields(spec)
    positions = tuple(i for i, name in enumerate(fields) if (name in request_fields) == request)
    if not positions:
        return None
    if request and not spec.batched:
        raise InputError("request_fields: an input that is not batched", found=spec.name, allowed="inputs [batch, …]")
    if not request and not spec.packed:
        return spec
    first = 1 if request else spec.shape[0]
    if not spec.packed:
        return replace(spec, shape=(first, *spec.shape[1:]), shared=True)
    columns = tuple(spec.columns[i] for i in positions)
    name = f"{REQUEST}{spec.name}" if request else spec.name
    part = replace(spec, name=name, shape=(first, len(columns)), columns=columns, shared=request)
    return part if len(columns) == len(spec.columns) else replace(part, positions=positions)


def one_request(feed: Feed, taken: Sequence[TensorSpec]) -> Feed:
    """The same rows as candidates of one request: what is given once is the first row's in all of them.

    Args:
        feed: the model's inputs.
        taken: inputs of the graph.
    """
    rows = {name: values.copy() for name, values in feed.items()}
    for spec in taken:
        if spec.request and spec.positions:
            rows[spec.source][:, list(spec.positions)] = rows[spec.source][:1, list(spec.positions)]
        elif spec.request:
            rows[spec.source][:] = rows[spec.source][:1]
    return rows


def as_request(rows: Feed, taken: Sequence[TensorSpec]) -> Feed:
    """Rows of one request as a graph takes them; the very same where nothing is split.

    Args:
        rows: the model's inputs, at least one row if something is given once, which is taken from the first.
        taken: inputs of the graph.
    """
    request: Feed = {}
    for spec in taken:
        values = rows[spec.source]
        values = values[:, list(spec.positions)] if spec.positions else values
        request[spec.name] = np.asarray(values[:1] if spec.request else values, order="C")
    return request
