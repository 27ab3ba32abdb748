"""A bundle that answers raw rows of files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import polars as pl

from amtl_export.bundle.answers import check_inputs
from amtl_export.bundle.bundle import Bundle
from amtl_export.bundle.raw import encoded_values, raw_fields
from amtl_export.data.frames import FILE, ROW
from amtl_export.data.normalise import Normalisation
from amtl_export.data.rows import typed_fields
from amtl_export.errors import InputError
from amtl_export.graph.raw_field import RawField
from amtl_export.runtime.predictor import Predictor, load

#: Columns of the result that say where a row stood: its file's path within the folder, and its place in it, from 0.
FILE_COLUMN, ROW_COLUMN = "file", "row"


@dataclass(frozen=True)
class Scorer:
    """Reader, vocabularies and graph of a bundle.

    Attributes:
        bundle: of a run.
        predictor: answers ids.
        outputs: that are asked for.
        specs: field → what it does to a raw value.
        fields: embedded field → its vocabulary.
    """

    bundle: Bundle
    predictor: Predictor
    outputs: tuple[str, ...]
    specs: Mapping[str, Normalisation]
    fields: Mapping[str, RawField]

    @classmethod
    def open(cls, bundle: Bundle, outputs: Sequence[str] = ()) -> Scorer:
        """Open a bundle's graph, on one thread for each call.

        Args:
            bundle: of a run.
            outputs: that are asked for; all if none is named.

        Raises:
            InputError: the bundle takes fields once per request, its examples hang together, or it has no such output.
            EnvironmentLacks: ONNX Runtime or the native library is missing.
        """
        signature = bundle.signature
        if signature.request_fields or not signature.batches.independent:
            raise InputError(
                "score: rows of files are answered each on its own",
                where=bundle.path,
                found=f"given once per request: {', '.join(signature.request_fields)}"
                if signature.request_fields
                else "a model whose examples hang together",
                fix="a bundle exported without request_fields, of a model that answers each example alone",
            )
        known = tuple(spec.name for spec in signature.outputs)
        if unknown := [name for name in outputs if name not in known]:
            raise InputError("score: unknown outputs", found=", ".join(unknown), allowed=", ".join(known))
        predictor = load(bundle.path)
        check_inputs(predictor, signature)
        return cls(bundle, predictor, tuple(outputs) or known, bundle.normalisations(), raw_fields(bundle))

    def scored(self, raw: pl.DataFrame, kept: Sequence[str], batch: int, pool: ThreadPoolExecutor) -> pl.DataFrame:
        """`file`, `row`, the kept columns and the outputs of a chunk.

        Args:
            raw: columns as the data has them, and `__file` and `__row`.
            kept: of these, columns that are taken over.
            batch: rows of a call of the graph.
            pool: answers batches.

        Raises:
            InputError: a value cannot be used; names file and row.
        """
        values = dict(zip(self.specs, typed_fields(raw, self.specs.values()), strict=True))
        feed = encoded_values(values, self.bundle.inputs, self.fields)
        starts = range(0, max(len(raw), 1), batch)  # of no row, the columns
        batches = [{name: array[start : start + batch] for name, array in feed.items()} for start in starts]
        answers = list(pool.map(lambda part: self.predictor.answer(part, self.outputs), batches))
        places = [raw[FILE].alias(FILE_COLUMN), raw[ROW].cast(pl.Int64).alias(ROW_COLUMN)]
        scores = [pl.concat([pl.Series(name, found[name]) for found in answers]) for name in self.outputs]
        return pl.DataFrame([*places, *(raw[name] for name in kept), *scores])
