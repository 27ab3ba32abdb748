"""The labelled examples' scores: those of the graph against those of the source, output by output."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import numpy as np

from amtl_export.bundle.bundle import Bundle
from amtl_export.compare import compare
from amtl_export.freezing.compressed import Compressed
from amtl_export.freezing.frozen import FrozenModel
from amtl_export.freezing.scores import Scored, ScoreKind, Scores, torch_answers, torch_auc
from amtl_export.runtime.session import Provider
from amtl_export.source.same_batches import same_each_time
from amtl_export.validation.scores import graph_answers, rank_flips
from amtl_export.validation.verdict import Judged, Tolerances, Verdict
from amtl_export.validation.worth import held


@dataclass(frozen=True)
class ScoreCheck:
    """Scores the labelled examples of a split, and says in a verdict what came of it.

    Attributes:
        bundle: whose graph answers.
        frozen: its source.
        reference: the source with the bundle's numbers where they are quantized; the source itself where none are.
        split: whose examples.
        provider: where the graph runs.
        tolerances: what may differ.
        verdict: is told.
    """

    bundle: Bundle
    frozen: FrozenModel
    reference: FrozenModel
    split: str
    provider: Provider
    tolerances: Tolerances
    verdict: Verdict

    def run(self) -> None:
        """The whole split, optimised, and not where the runtime answers so.

        Raises:
            InputError: the model fails on a batch, labels do not fit its scores, or the batches are others each time.
        """
        verdict, labelled = self.verdict, self.frozen.labelled
        assert labelled is not None
        frozen = replace(self.frozen, labelled=same_each_time(labelled))
        given = torch_answers(frozen, self.split, trained=True)
        stored = given
        if self.reference is not self.frozen:
            stored = torch_answers(replace(self.reference, labelled=frozen.labelled), self.split, trained=False)
        levels = (True, False) if verdict.unoptimized in ("answered", None) else (True,)
        answers = {
            optimized: graph_answers(self.bundle, frozen, self.split, self.provider, optimized=optimized)
            for optimized in levels
        }
        compressed = frozen.compressed
        original = {}
        if compressed is not None and compressed.original is not None:
            original = torch_auc(compressed.original, self.split, trained=True)
        judged = {}
        for name in frozen.scores:
            one = _Output(self, name)
            judged[name], allowed = one.judge(
                given[name], stored[name], {level: found[name] for level, found in answers.items()}
            )
            if compressed is not None and name in original:
                self._hold_original(judged[name], compressed, original[name], allowed, one.said)
        main = judged[frozen.score]
        for field in fields(Judged):
            setattr(verdict, field.name, getattr(main, field.name))
        verdict.outputs = judged if len(judged) > 1 else {}
        verdict.rows_scored = len(given[frozen.score].values)
        verdict.weighted = given[frozen.score].beside.weight is not None
        verdict.max_auc_drop = None if compressed is None or not original else compressed.max_auc_drop

    def _hold_original(
        self, judged: Judged, compressed: Compressed, original: float, tolerance: float, said: str
    ) -> None:
        """The graph's AUC against that of the model before it was compressed; a tolerance beside what was allowed."""
        judged.auc_original = original
        if judged.auc_onnx is None or math.isnan(original):
            return
        judged.delta_auc_original = judged.auc_onnx - original
        drop, allowed = -judged.delta_auc_original, compressed.max_auc_drop
        if self.split == "valid" and allowed is not None and not drop <= allowed + tolerance:
            self.verdict.problems.append(
                f"{said}AUC is {drop:.3g} below the model that was compressed; allowed {allowed:.3g}"
            )


@dataclass(frozen=True)
class _Output:
    """One output that labels judge."""

    check: ScoreCheck
    name: str

    @property
    def said(self) -> str:
        """Its name before what is wrong, where there are several."""
        return f"{self.name}: " if len(self.check.frozen.scores) > 1 else ""

    def judge(self, given: Scored, stored: Scored, answers: dict[bool, Scored]) -> tuple[Judged, float]:
        """What it came to, and what its AUC may differ.

        Args:
            given: of the source.
            stored: with quantized numbers.
            answers: of the graph, by whether ONNX Runtime optimised it.
        """
        verdict, frozen = self.check.verdict, self.check.frozen
        kind: ScoreKind | None = "logit" if frozen.data is not None else None  # a run's may all be within [0, 1], too
        expected = wanted = Scores.of(given, kind)
        if stored is not given:
            wanted = Scores.of(stored, expected.kind)
            verdict.max_abs_logit_change_by_quantization = max(
                verdict.max_abs_logit_change_by_quantization or 0.0,
                float(np.abs(wanted.values - expected.values).max()),
            )
        judged = Judged(auc_torch=expected.auc, logloss_torch=expected.logloss, scores_are=expected.kind)
        if given.beside.group is not None:
            judged.gauc_torch, judged.gauc_groups = expected.gauc, expected.gauc_groups
        allowed = {
            optimized: self._hold(judged, expected, wanted, Scores.of(scored, expected.kind), optimized=optimized)
            for optimized, scored in answers.items()
        }
        return judged, allowed[True]

    @property
    def _dtype(self) -> str:
        """The value type whose AUC difference is allowed: layers in int8 cost what rows in int8 do."""
        signature = self.check.bundle.signature
        exact = signature.dtype in ("fp32", "fp16")
        return "int8" if exact and signature.layer_dtype == "int8" else signature.dtype

    def _hold(self, judged: Judged, expected: Scores, wanted: Scores, found: Scores, *, optimized: bool) -> float:
        """Scores of the graph against those of the source; what AUC may differ."""
        verdict, tolerances = self.check.verdict, self.check.tolerances
        (difference,) = compare({self.name: wanted.values}, {self.name: found.values})
        verdict.max_abs_logit_diff = max(verdict.max_abs_logit_diff or 0.0, difference.absolute)
        verdict.max_relative_diff = max(verdict.max_relative_diff or 0.0, difference.relative)
        verdict.minimum_logit_atol, judged.nan_answers = verdict.max_relative_diff, difference.nans
        if optimized:
            judged.auc_onnx, judged.logloss_onnx = found.auc, found.logloss
            judged.abs_delta_auc = abs(found.auc - expected.auc)
            judged.rank_flips = rank_flips(expected.values, found.values)
            if judged.gauc_groups is not None:
                judged.gauc_onnx, judged.abs_delta_gauc = found.gauc, abs(found.gauc - expected.gauc)
        level = "optimised" if optimized else "not optimised"
        metrics = held(expected, wanted, found, difference.scale, tolerances, self._dtype)
        verdict.problems += [self.said + problem for own in metrics if (problem := own.problem(level))]
        assert tolerances.logit_atol is not None
        if not difference.relative <= tolerances.logit_atol:
            verdict.problems.append(
                f"{self.said}a logit differs by {difference.absolute:.3g} ({level}); allowed "
                f"{tolerances.logit_atol:.3g}; logit_atol={difference.relative * 1.01:.2g} would have passed"
            )
        return metrics[0].allowed if metrics else 0.0
