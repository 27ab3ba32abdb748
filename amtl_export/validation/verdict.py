"""What `validate` finds: typed numbers, and the reason for every failure."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from amtl_export.errors import InputError

#: Value type → what |AUC difference| is allowed to it.
AUC_ATOL: dict[str, float] = {"fp32": 1e-6, "fp16": 1e-4, "int8": 1e-4, "int4": 1e-3}

#: How much more of it GAUC may differ where rows are rounded: a group has few pairs, and each that turns round is seen.
GAUC_TIMES = 10


@dataclass(frozen=True)
class Tolerances:
    """What may differ.

    Attributes:
        auc_atol: |AUC difference| to the source, and |GAUC difference|; None for the value type's own, see `auc_for`,
            and what pairs come to that float32 roundings can turn round, see `worth`.
        logit_atol: largest difference of any answer, for scores up to 1; relative to the largest score above that. In
            a lossy value type it is held against the model with its tables quantized. None for what a graph needs:
            1e-4, and 1e-2 where layers quantize what they multiply.
    """

    auc_atol: float | None = None
    logit_atol: float | None = None

    def __post_init__(self) -> None:
        for name in ("auc_atol", "logit_atol"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise InputError(f"validate: {name}", found=value, allowed="a finite number, at least 0")

    def auc_for(self, dtype: str) -> float:
        """What is allowed for a value type: `AUC_ATOL`, unless it is given."""
        return AUC_ATOL[dtype] if self.auc_atol is None else self.auc_atol

    def gauc_for(self, dtype: str) -> float:
        """The same for GAUC; `GAUC_TIMES` as much for a lossy value type."""
        lossy = self.auc_atol is None and dtype != "fp32"
        return self.auc_for(dtype) * (GAUC_TIMES if lossy else 1)


@dataclass
class Judged:
    """What an output that labels judge came to; a number that could not be had is None.

    Attributes:
        auc_torch: of the source on its labelled examples, and of the graph; None without labels.
        gauc_torch: group AUC, likewise; None without groups, NaN where none has both a click and a non-click.
        gauc_groups: groups that have both; None without groups.
        auc_original: of the model before it was compressed, on the same examples; None if the source is not compressed.
        delta_auc_original: what the graph's AUC is more than that.
        scores_are: logits or probabilities, which the logloss needs to know.
        rank_flips: neighbours in the source's ranking that the graph ranks the other way.
        nan_answers: numbers that are NaN in the module itself as in the graph.
    """

    auc_torch: float | None = None
    auc_onnx: float | None = None
    abs_delta_auc: float | None = None
    gauc_torch: float | None = None
    gauc_onnx: float | None = None
    abs_delta_gauc: float | None = None
    gauc_groups: int | None = None
    auc_original: float | None = None
    delta_auc_original: float | None = None
    logloss_torch: float | None = None
    logloss_onnx: float | None = None
    scores_are: str | None = None
    rank_flips: int | None = None
    nan_answers: int | None = None


@dataclass(kw_only=True)
class Verdict(Judged):
    """The outcome; a number that could not be had is None. `to_json` is the form that tools outside the project read.

    What it has of `Judged` is the main output's.

    Attributes:
        bundle: its folder.
        run: the source that it was held against.
        split: whose examples were scored.
        problems: why it failed, a sentence each; empty means pass.
        notes: what could not be looked at, and why.
        proof: `rebuilt`, the graph was held against the one that export makes of the source; `answers`, another version
            of the exporter wrote it, and numbers and answers were; None if neither could be.
        outputs: of several that labels judge, each one's; empty otherwise.
        weighted: whether examples have weights, which AUC, GAUC and logloss take; None without labels.
        max_auc_drop: what compressing was allowed to cost on the valid split.
        max_abs_logit_diff: largest difference of any answer.
        max_relative_diff: the same against the scale of the scores, what the tolerance is held against.
        minimum_logit_atol: the tolerance that would just pass.
        max_abs_logit_change_by_quantization: what quantized values change, in PyTorch.
        rows_checked: ids of the tables that were looked up in the graph; rows_bit_equal of them have the source's bits.
        layers_checked: layers in int8 that were held against PyTorch's on what the graph gives them; layers_bit_equal
            of them have its bits. None where there are none.
        hostile_ids_checked: ids outside the tables, tried at the lookups and through the whole model.
        raw_rows_checked: rows of raw values, hostile ones too, that went through training's reader, `encoder/` and the
            graph in front; raw_rows_equal of them have the ids that training has. None where a run kept none.
        unoptimized: whether ONNX Runtime answers without its optimisations, or why not.
        batch_of_none: what happens to a batch of no example, and of one.
        examples_independent: whether examples alone are answered as in a batch.
        out_of_range: input → how ids outside the tables are taken.
    """

    bundle: str
    run: str
    split: str
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    proof: Literal["rebuilt", "answers"] | None = None
    outputs: dict[str, Judged] = field(default_factory=dict)
    weighted: bool | None = None
    max_auc_drop: float | None = None
    max_abs_logit_diff: float | None = None
    max_relative_diff: float | None = None
    minimum_logit_atol: float | None = None
    max_abs_logit_change_by_quantization: float | None = None
    rows_checked: int | None = None
    rows_bit_equal: int | None = None
    layers_checked: int | None = None
    layers_bit_equal: int | None = None
    rows_scored: int | None = None
    selector_nodes: int | None = None
    selector_initializers: int | None = None
    bytes_dense: int | None = None
    bytes_table: int | None = None
    bytes_ratio: float | None = None
    providers: list[str] | None = None
    native_operator: bool | None = None
    nodes_by_provider: dict[str, int] | None = None
    hostile_ids_checked: int | None = None
    raw_rows_checked: int | None = None
    raw_rows_equal: int | None = None
    unoptimized: str | None = None
    batch_of_none: str | None = None
    batch_of_one: str | None = None
    examples_independent: bool | None = None
    out_of_range: dict[str, str] | None = None

    @property
    def verdict(self) -> Literal["pass", "fail"]:
        """pass or fail."""
        return "fail" if self.problems else "pass"

    def to_json(self) -> dict[str, Any]:
        """JSON values; NaN is null, too."""
        values = {key: value for key, value in _finite(asdict(self)).items() if key != "problems"}
        return {"verdict": self.verdict, **values, "problems": self.problems}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
