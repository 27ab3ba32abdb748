"""`report`: one self-contained HTML file on a bundle, for a manager and an engineer."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amtl_export.bundle.bundle import Bundle, open_bundle
from amtl_export.bundle.made import Compressed, Made
from amtl_export.errors import InputError, os_errors
from amtl_export.files import read_json
from amtl_export.graph.facts import TABLE, WEIGHT
from amtl_export.report import html
from amtl_export.report.inspection import FieldInspection, inspect

if TYPE_CHECKING:
    from amtl_export.validation.verdict import Verdict

_MARK = '<meta name="generator" content="amtl-export">'
#: Shown of a field's dims by frequency.
_FIELDS = 6


def write_report(
    bundle: Path | str,
    out: Path | str,
    verdict: Verdict | None = None,
    timings: Sequence[Path | str] = (),
    *,
    overwrite: bool = False,
) -> Path:
    """Write the page.

    Args:
        bundle: its folder.
        out: an HTML file.
        verdict: of `validate`; None says that nothing was proven here.
        timings: what `bench infer` wrote as JSON.
        overwrite: replace a page that this function wrote.

    Raises:
        InputError: not a bundle, not a result of `bench infer`, or `out` exists.
        EnvironmentLacks: no disk space or no permission.
    """
    out = Path(out)
    if (out.exists() or out.is_symlink()) and not (overwrite and _is_ours(out)):
        fix = "choose another file" if overwrite else "choose another file, or say overwrite=True"
        raise InputError("the output file exists", where=out, fix=fix)
    opened = open_bundle(bundle)
    text = html.page(f"{Path(bundle).name}: what it is, and what is proven", _sections(opened, verdict, timings))
    text = text.replace('<meta charset="utf-8">', f'<meta charset="utf-8">{_MARK}', 1)
    with os_errors("writing the page", out):
        out.parent.mkdir(parents=True, exist_ok=True)
        draft = out.with_name(f".{out.name}.{os.getpid()}.part")
        try:
            draft.write_text(text, encoding="utf-8")
            draft.replace(out)
        finally:
            draft.unlink(missing_ok=True)
    return out


def _is_ours(page: Path) -> bool:
    """Whether `write_report` wrote a file."""
    return page.is_file() and _MARK in page.read_text(encoding="utf-8", errors="replace")[:2000]


def _sections(bundle: Bundle, verdict: Verdict | None, timings: Sequence[Path | str]) -> Iterator[str]:
    made, inspected = bundle.made(), inspect(bundle.path)
    origin = ", ".join(f"{key} {value}" for key, value in made.origin.items() if value is not None)
    part = bundle.signature.table_bytes / max(made.bytes_dense, 1)
    yield html.paragraph(
        f"The tables take {_size(bundle.signature.table_bytes)}, {part:.2f} of the {_size(made.bytes_dense)} that "
        "they would take dense.",
        "lead",
    )
    yield html.paragraph(f"From {origin}. Layout {bundle.signature.layout}, values {bundle.signature.dtype}.", "soft")
    yield html.section("Verdict", *_verdict(verdict))
    yield html.section("Bytes by field", _bytes(inspected.fields, inspected.bytes_dense))
    yield html.section("Dims by frequency", *_dims(inspected.fields))
    yield html.section("AUC against bytes", *_curve(made.compressed))
    for file in timings:
        yield html.section(f"Latency: {Path(file).name}", *_latency(file))
    yield html.section("Nodes before and after", _nodes(made.ops_traced, made.ops))
    yield html.section("A request to paste", *_request(bundle))
    yield html.section("Where every weight comes from", _weights(bundle))
    yield html.section("Versions", _versions(bundle, made))


def _size(count: float) -> str:
    for unit in ("bytes", "KB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:,.0f} {unit}" if unit == "bytes" else f"{count:,.2f} {unit}"
        count /= 1000
    raise AssertionError


def _verdict(verdict: Verdict | None) -> Iterator[str]:
    if verdict is None:
        yield html.paragraph("Nothing was proven for this page: no model was given.", "soft")
        return
    passed = verdict.verdict == "pass"
    yield html.paragraph(f"{verdict.verdict.upper()} against {verdict.run}", "good" if passed else "bad")
    yield "".join(html.paragraph(problem, "bad") for problem in verdict.problems)
    yield "".join(html.paragraph(note, "soft") for note in verdict.notes)
    rows = [
        ("rows of tables, bit for bit", _of(verdict.rows_bit_equal, verdict.rows_checked)),
        ("raw rows with the ids of training", _of(verdict.raw_rows_equal, verdict.raw_rows_checked)),
        ("ids outside the tables, answered", _shown(verdict.hostile_ids_checked, ",")),
        ("AUC of PyTorch", _shown(verdict.auc_torch, ".6f")),
        ("AUC of ONNX Runtime", _shown(verdict.auc_onnx, ".6f")),
        ("AUC before compressing", _shown(verdict.auc_original, ".6f")),
        ("group AUC of PyTorch", _shown(verdict.gauc_torch, ".6f")),
        ("group AUC of ONNX Runtime", _shown(verdict.gauc_onnx, ".6f")),
        ("largest difference of an answer", _shown(verdict.max_abs_logit_diff, ".1e")),
        ("rank flips", _shown(verdict.rank_flips, ",")),
    ]
    rows += [
        (f"AUC of {name}, PyTorch and ONNX Runtime", f"{_shown(own.auc_torch, '.6f')}, {_shown(own.auc_onnx, '.6f')}")
        for name, own in list(verdict.outputs.items())[1:]
    ]
    yield html.table(("what was compared", "found"), [row for row in rows if row[1]])


def _shown(value: Any, form: str) -> str:
    return "" if value is None else format(value, form)


def _of(part: int | None, whole: int | None) -> str:
    return "" if whole is None else f"{part or 0:,} of {whole:,}"


def _bytes(fields: Sequence[FieldInspection], dense: int) -> str:
    rows = [("all tables, dense", float(dense), _size(dense))]
    rows += [(own.name, float(own.bytes_kept), _size(own.bytes_kept)) for own in _largest(fields, len(fields))]
    return html.bars(rows, "bytes of the numbers that are kept, as stored", first_is_other=True)


def _largest(fields: Sequence[FieldInspection], most: int) -> list[FieldInspection]:
    return sorted(fields, key=lambda own: -own.bytes_kept)[:most]


def _dims(fields: Sequence[FieldInspection]) -> Iterator[str]:
    shown = [own for own in _largest(fields, len(fields)) if len(own.group_dims) > 1][:_FIELDS]
    for own in shown:
        points = [(float(place), dims) for place, dims in enumerate(own.group_dims, start=1)]
        said = f"{own.name}: {own.vocab:,} ids, {own.avg_dim:.1f} of D = {own.dim} dims on average"
        yield html.curve(points, None, "frequency group, rarest first", "mean dims", said)
    if len(fields) > len(shown):
        rows = [(own.name, f"{own.vocab:,}", str(own.dim), f"{own.avg_dim:.1f}") for own in fields]
        yield html.table(("field", "ids", "D", "mean dims"), rows)


def _curve(compressed: Compressed | None) -> Iterator[str]:
    tried = [] if compressed is None else compressed.curve
    places = [(own.bytes / 1e6, own.auc_valid) for own in tried if own.auc_valid is not None]
    if len(places) < 2 or compressed is None or compressed.auc_valid_before is None:
        return
    chosen = next(((own.bytes / 1e6, own.auc_valid) for own in tried if own.chosen and own.auc_valid is not None), None)
    said = f"cuts that were tried; before, {_size(compressed.bytes_before)} and {compressed.auc_valid_before:.5f}"
    yield html.curve(places, chosen, "MB of all tables", "AUC, valid split", f"{said}; the ring is the one chosen")


def _latency(file: Path | str) -> Iterator[str]:
    result = read_json(Path(file))
    cases = result.get("cases") if isinstance(result, dict) else None
    known = {"batch", "ids", "subject", "p50_us"}
    if not isinstance(cases, list) or not all(isinstance(own, dict) and known <= set(own) for own in cases):
        raise InputError("no result of bench infer", where=file, fix="bench infer writes one as JSON")
    machine = result.get("machine", {}).get("cpu", "unknown machine")
    for batch, ids in sorted({(own["batch"], own["ids"]) for own in cases}):
        own_cases = [own for own in cases if (own["batch"], own["ids"]) == (batch, ids)]
        first = own_cases[0]["p50_us"]
        rows = [(c["subject"], c["p50_us"], f"{c['p50_us']:,.0f} µs ({c['p50_us'] / first:.2f})") for c in own_cases]
        caption = f"p50 of {batch:,} rows, {ids} ids, {result.get('threads')} thread(s) of {machine}"
        yield html.bars(rows, caption, first_is_other=True)


def _nodes(before: dict[str, int], after: dict[str, int]) -> str:
    rows = [(op, str(before.get(op, 0)), str(after.get(op, 0))) for op in sorted({*before, *after})]
    total = ("all", str(sum(before.values())), str(sum(after.values())))
    return html.table(("operator", "as PyTorch wrote it", "in the bundle"), [total, *rows])


def _request(bundle: Bundle) -> Iterator[str]:
    request = (bundle.path / "samples" / "request.json").read_text(encoding="utf-8")
    yield html.paragraph("In the Open Inference Protocol v2, as the packaged model takes it on HTTP:")
    yield html.code(json.dumps(json.loads(request), separators=(",", ":")), "the request")
    yield html.code((bundle.path / "samples" / "response.json").read_text(encoding="utf-8"), "its response")


def _weights(bundle: Bundle) -> str:
    graph = bundle.proto().graph
    facts = {own.name: {entry.key: entry.value for entry in own.metadata_props} for own in graph.value_info}
    rows = []
    for own in graph.initializer:
        about = facts.get(own.name, {})
        source = about.get(WEIGHT) or (f"table {about[TABLE]}" if TABLE in about else "a constant of the graph")
        rows.append((own.name, source, " × ".join(map(str, own.dims)) or "one number"))
    return html.table(("initializer", "is", "shape"), rows)


def _versions(bundle: Bundle, made: Made) -> str:
    producer = bundle.signature.producer
    rows = [(producer["tool"], producer["version"]), *made.versions.items()]
    rows.append(("onnxruntime", made.onnxruntime))
    rows += [("ONNX opset", f"{own.domain or 'ai.onnx'} {own.version}") for own in bundle.proto().opset_import]
    rows.append(("vocabulary hash", bundle.signature.vocabulary_hash or "none: a user's module"))
    return html.table(("of", "version"), rows)
