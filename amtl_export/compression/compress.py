"""`compress`: a trained model's tables in principal order, each id cut where its tail is worth least.

Nothing is trained. Rows are rewritten in the basis where leading numbers matter most (`basis`), each id keeps the dims
whose damage is worth their bytes (`dims`), and the basis goes into what reads the rows (`graph.passes.fold_bases`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import nn

from amtl_export.compression.cuts import scores_apart
from amtl_export.compression.report import BasisKind, CompressReport, FieldOrder, Placement
from amtl_export.compression.search import DEFAULT_DROP, BestCut, best_cut, smallest
from amtl_export.compression.uncut import Note, RowGroup, Uncut
from amtl_export.errors import InputError
from amtl_export.freezing.compressed import Compressed
from amtl_export.freezing.folding import fold
from amtl_export.freezing.frozen import FrozenModel, freeze
from amtl_export.freezing.scores import answered
from amtl_export.principal.dims import Dims
from amtl_export.source.binding import bind, same_structure
from amtl_export.source.call import ModuleCall
from amtl_export.source.source import Batches, Labels, Source, labels_by_output
from amtl_export.spec import Feed
from amtl_export.stages import stage
from amtl_export.tables.values import NARROW, VALUE_TYPES, ValueType, fake_quantized, quantize, value_types
from amtl_export.training.run import Run


def compress(
    frozen: FrozenModel | Run | Source | nn.Module | str | Path,
    *,
    dim_budget: float | None = None,
    max_auc_drop: float | None = None,
    batches: Any = None,
    all_fields: bool = False,
    dtype: ValueType | Literal["auto"] = "auto",
    curve: bool = True,
    note: Note = lambda _: None,
) -> FrozenModel:
    """Put a trained model's tables in principal order and cut them; nothing is trained.

    Args:
        frozen: the model, or what `freeze` takes.
        dim_budget: R: mean dims of the fields that are cut are at most R·D.
        max_auc_drop: the smallest table is taken whose AUC on the valid split is at most so much lower; 1e-4 if neither
            this nor `dim_budget` is given.
        batches: (inputs, labels) of real requests, as `Source.batches`; the model's own labelled examples if not given.
            Labels may be None where no AUC is needed.
        all_fields: of a run, cut the fields too that its schema does not mark as governed.
        dtype: of the stored numbers, which the AUC is judged with. `auto` tries all of them where there is an AUC drop,
            and the smallest file wins; with a dim budget it is fp32. `export` takes over what was found.
        curve: whether AUC is measured at some budgets more, for the report.
        note: is told how it goes.

    Returns:
        The compressed model; `.compressed.report` is what the command writes as JSON.

    Raises:
        InputError: both or bad limits, no table that can be cut, no labelled examples where an AUC is needed, or others
            each time.
        ValidationFailed: answers before the cut are not the model's.
    """
    _check_limits(dim_budget, max_auc_drop, dtype)
    original = given = freeze(frozen)
    if batches is not None:
        if given.weighted:
            note("the batches that were given have no weights: AUC is unweighted")
        original = replace(original, labelled=_given(original, batches), beside=None)
    drop = DEFAULT_DROP if dim_budget is None and max_auc_drop is None else max_auc_drop
    stage("looking at the model as it is")
    work = Uncut(original, fold(original), all_fields, curve, note)
    if not work.groups:
        raise InputError(
            "compress: no table can be cut",
            found=work.left or "no table",
            fix=_what_can_be_cut(original),
        )
    if drop is not None and work.auc_before is None:
        raise InputError(
            "compress: an AUC drop needs labelled examples",
            found="none" if original.labelled is None else "no AUC: a score is NaN, or all labels are alike",
            fix="Source(module, example, batches=[(inputs, labels), …]) in place of (module, example), or dim_budget=R",
        )
    if drop is not None:
        work.check_steady()
    dtypes: tuple[ValueType, ...] = (dtype,) if dtype != "auto" else VALUE_TYPES if drop is not None else ("fp32",)
    found = [best_cut(work, kind, dim_budget, drop, dtypes) for kind in work.kinds()]
    best = smallest(found, work.auc_before, drop)
    stage("cutting the tables")
    report = _report(work, found, best, dim_budget, drop)
    # What was given for the search alone stands for no split of the model's own.
    labelled = given.labelled or original.labelled
    original = replace(original, labelled=labelled, beside=given.beside)
    source = None if best.model.data else best.model.source  # a run's folder holds the model before, not this one
    compressed = Compressed(original, drop, report.to_json())
    return replace(best.model, labelled=labelled, beside=given.beside, compressed=compressed, source=source)


def _what_can_be_cut(frozen: FrozenModel) -> str:
    numbers = f"{NARROW} numbers a row and more"
    if frozen.data is not None:
        return f"all_fields=True, or a model with tables of {numbers}"
    return f"a table can be cut that has {numbers}, and whose nn.Embedding forward calls with ids: table(ids)"


def _check_limits(dim_budget: float | None, max_auc_drop: float | None, dtype: str) -> None:
    if dtype != "auto" and dtype not in VALUE_TYPES:
        raise InputError("compress: unknown value type", found=dtype, allowed=", ".join(("auto", *VALUE_TYPES)))
    if dim_budget is not None and max_auc_drop is not None:
        raise InputError(
            "compress: a dim budget and an AUC drop", found=f"{dim_budget} and {max_auc_drop}", fix="give one of them"
        )
    if dim_budget is not None and not 0 < dim_budget <= 1:
        raise InputError("compress: dim_budget", found=dim_budget, allowed="above 0, at most 1")
    if max_auc_drop is not None and not 0 <= max_auc_drop < 1:
        raise InputError("compress: max_auc_drop", found=max_auc_drop, allowed="0 <= drop < 1")


def _given(frozen: FrozenModel, batches: Any) -> Any:
    """Labelled examples as the model's own would be."""
    call = frozen.module.call
    if isinstance(call, ModuleCall):
        module = (frozen.trained or frozen.module).model

        def unlabelled(inputs: Any) -> Labels:
            feed = same_structure(bind(module, inputs).feed, frozen.inputs)
            answers = answered(frozen, feed, trained=True)
            return {name: np.zeros(answers[name].size) for name in frozen.scores}

        pairs = _labelled(batches, unlabelled)
        return Source(module, frozen.example, batches=pairs).labelled(frozen.inputs, frozen.scores)
    pairs = _labelled(batches, lambda inputs: dict.fromkeys(frozen.scores, np.zeros(len(next(iter(inputs.values()))))))

    def rows(_: str) -> Iterator[tuple[Feed, Labels]]:
        for number, (inputs, labels) in enumerate(pairs()):
            feed = {name: np.asarray(values) for name, values in inputs.items()}
            yield feed, labels_by_output(labels, frozen.scores, f"batch {number}")

    return rows


def _labelled(
    batches: Batches | Mapping[str, Batches], unlabelled: Callable[[Any], Labels]
) -> Callable[[], Iterator[tuple[Any, Any]]]:
    """The batches, again at each call; labels of 0 where there are none, which no AUC comes of."""
    if isinstance(batches, Mapping):
        if "valid" not in batches:
            raise InputError("compress: no such split among the batches", found=sorted(batches), allowed="valid")
        batches = batches["valid"]
    kept = list(batches) if isinstance(batches, Iterator) else batches

    def pairs() -> Iterator[tuple[Any, Any]]:
        known: bool | None = None
        for number, (inputs, labels) in enumerate(kept() if callable(kept) else kept):
            if known not in (None, labels is not None):
                raise InputError("compress: some batches have labels and some have none", where=f"batch {number}")
            known = labels is not None
            yield inputs, labels if known else unlabelled(inputs)

    return pairs


def _report(
    work: Uncut, found: Sequence[BestCut], best: BestCut, dim_budget: float | None, drop: float | None
) -> CompressReport:
    fields = {}
    for group in work.groups:
        basis, dims, whole = best.bases[group.rows], best.dims[group.rows], work.whole[group.rows]
        kind: BasisKind = best.kind if group.rows in best.projected else "folded"
        if best.kind == "shared":
            kind = "shared"
        energies = np.cumsum(basis.energies)
        D = len(basis.weights)
        fields[group.name] = FieldOrder(
            dim=D,
            rows=group.size,
            avg_dim_before=_mean_dims(work.plain, group, whole),
            avg_dim=float(dims[dims > 0].mean()) if (dims > 0).any() else 0.0,
            longest=int(dims.max(initial=0)),
            effective_rank=basis.effective_rank,
            energy=(energies / energies[-1]).tolist() if energies[-1] > 0 else [1.0] * D,
            basis=kind,
            metric=work.metrics[group.rows][0],
            bytes_before=4 * D * group.size,
            bytes_after=4 * int(dims.sum()),
        )
    return CompressReport(
        fields=fields,
        left=work.left,
        requests=work.measured.requests,
        avg_dim_ratio=best.point.avg_dim_ratio,
        bytes_before=work.original.dense_bytes,
        bytes_after=best.point.bytes,
        auc_valid_before=work.auc_before,
        auc_valid_after=best.point.outputs.get(work.original.score, best.point.auc_valid),
        weighted=work.original.weighted,
        dtype=best.point.dtype,
        max_auc_drop=drop,
        dim_budget=dim_budget,
        max_abs_logit_diff_before_cut=best.moved,
        answers_after_cut=_after_cut(work, best),
        placements=[
            Placement(
                own.kind,
                own.point.dtype,
                own.point.avg_dim_ratio,
                own.point.bytes,
                own.projection_bytes,
                own.multiply_adds,
                own.point.auc_valid,
                own is best,
            )
            for own in found
        ],
        curve=best.curve,
        outputs={
            name: {"auc_valid_before": work.aucs_before[name], "auc_valid_after": after}
            for name, after in best.point.outputs.items()
        },
    )


def _after_cut(work: Uncut, best: BestCut) -> dict[str, float]:
    """How far answers move by the cut, and by numbers as they are stored."""
    cut = fake_quantized(best.model, quantize(best.model, value_types(best.model, best.point.dtype)))
    scores, apart = scores_apart(work.plain, cut, work.original)
    return {
        "examples": len(scores),
        "max_abs_diff": float(apart.max(initial=0.0)),
        "mean_abs_diff": float(apart.mean()) if len(apart) else 0.0,
        "std": float(scores.std()) if len(scores) else 0.0,
    }


def _mean_dims(frozen: FrozenModel, group: RowGroup, whole: Dims) -> float:
    path, offset = group.rows
    dims = frozen.tables[path].dims[offset : offset + group.size].numpy()[whole > 0]
    return float(dims.mean()) if len(dims) else 0.0
