"""`report`: one self-contained HTML file on a bundle, for a manager and an engineer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amtl_export.bundle.bundle import Bundle, open_bundle
from amtl_export.bundle.made import Compressed, Made
from amtl_export.errors import InputError, os_errors
from amtl_export.files import read_json, refuse_inside, whole_file
from amtl_export.graph.facts import TABLE, WEIGHT
from amtl_export.report import html
from amtl_export.report.inspection import FieldInspection, Inspection, inspect
from amtl_export.report.tables import size
from amtl_export.stages import stage

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
    check_page(out, overwrite)
    stage("writing the page")
    opened = open_bundle(bundle)
    text = html.page(f"{Path(bundle).name}: what it is, and what is proven", _sections(opened, verdict, timings))
    text = text.replace('<meta charset="utf-8">', f'<meta charset="utf-8">{_MARK}', 1)
    with os_errors("writing the page", out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(out) as draft:
            draft.write_text(text, encoding="utf-8")
    return out


def check_page(out: Path, overwrite: bool) -> None:
    """Refuse a file that exists, unless `write_report` wrote it and `overwrite` was said.

    Raises:
        InputError: it must not be replaced, or lies in a folder that this tool made.
    """
    refuse_inside(out)
    if (out.exists() or out.is_symlink()) and not (overwrite and _is_ours(out)):
        fix = "choose another file" if overwrite else "choose another file, or say overwrite=True"
        raise InputError("the output file exists", where=out, fix=fix)


def _is_ours(page: Path) -> bool:
    """Whether `write_report` wrote a file."""
    return page.is_file() and _MARK in page.read_text(encoding="utf-8", errors="replace")[:2000]


def _sections(bundle: Bundle, verdict: Verdict | None, timings: Sequence[Path | str]) -> Iterator[str]:
    made, inspected = bundle.made(), inspect(bundle.path)
    part = bundle.signature.table_bytes / max(made.bytes_dense, 1)
    yield html.paragraph(
        f"The tables take {size(bundle.signature.table_bytes)}, {part:.2f} of the {size(made.bytes_dense)} that they "
        "would take dense.",
        "lead",
    )
    results = [(Path(file).name, _timed(file)) for file in timings]
    for line in _faster(results):
        yield html.paragraph(line, "lead")
    yield html.paragraph(
        f"From {_origin(bundle, made)}. Layout {bundle.signature.layout}, values {bundle.signature.dtype}.", "soft"
    )
    yield html.section("Verdict", *_verdict(verdict))
    yield html.section("Bytes by field", _bytes(inspected))
    yield html.section("Spectrum", _spectrum(made.compressed))
    by_frequency = " by frequency" if any(own.group_dims for own in inspected.fields) else ""
    yield html.section(f"Dims{by_frequency}", *_dims(inspected.fields))
    left = {} if made.compressed is None else made.compressed.left
    yield html.section("Not cut", html.table(("table or field", "because"), left.items()))
    yield html.section("AUC against bytes", *_curve(made.compressed))
    for name, result in results:
        yield html.section(f"Latency: {name}", *_latency(result))
    yield html.section("Nodes before and after", _nodes(made.ops_traced, made.ops))
    yield html.section("A request to paste", *_request(bundle))
    yield html.section("Where every weight comes from", _weights(bundle))
    yield html.section("Versions", _versions(bundle, made))


def _origin(bundle: Bundle, made: Made) -> str:
    """Where the model comes from; a user's module was trained by no method of ours."""
    module = bundle.signature.source == "module"
    known = {"module": made.origin["run"], "class": made.origin["backbone"]} if module else made.origin
    return ", ".join(f"{key} {value}" for key, value in known.items() if value is not None)


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


def _bytes(inspected: Inspection) -> str:
    fields = inspected.fields
    totals = [("all tables, dense", inspected.bytes_dense), ("all tables, as stored", inspected.bytes_table)]
    parts = [(own.name, own.bytes_kept) for own in _largest(fields, len(fields))]
    rows = [(name, float(count), size(count)) for name, count in (*totals, *parts)]
    return html.bars(rows, "bytes; of a field, of the numbers that are kept of its rows", first_is_other=True)


def _largest(fields: Sequence[FieldInspection], most: int) -> list[FieldInspection]:
    return sorted(fields, key=lambda own: -own.bytes_kept)[:most]


def _spectrum(compressed: Compressed | None) -> str:
    fields = {} if compressed is None else compressed.fields
    return html.plots(
        html.curve(
            [(0.0, 0.0), *((float(k), share) for k, share in enumerate(own.energy, start=1))],
            html.Axis("leading numbers"),
            html.Axis("share of what the rows matter", (0.0, 1.0)),
            f"{name}: {own.energy[0]:.3f} in the first of {len(own.energy)} numbers",
        )
        for name, own in list(fields.items())[:_FIELDS]
        if own.energy
    )


def _dims(fields: Sequence[FieldInspection]) -> Iterator[str]:
    shown = [own for own in _largest(fields, len(fields)) if len(own.group_dims) > 1][:_FIELDS]
    yield html.plots(
        html.curve(
            [(float(place), dims) for place, dims in enumerate(own.group_dims, start=1)],
            html.Axis("group of ids by frequency, rarest first"),
            html.Axis("mean dims", (0.0, float(own.dim))),
            f"{own.name}: {own.vocab:,} ids, {own.avg_dim:.1f} of D = {own.dim} dims on average",
        )
        for own in shown
    )
    if len(fields) > len(shown):
        rows = [(own.name, f"{own.vocab:,}", str(own.dim), f"{own.avg_dim:.1f}") for own in fields]
        yield html.table(("field", "ids", "D", "mean dims"), rows)


def _curve(compressed: Compressed | None) -> Iterator[str]:
    tried = [] if compressed is None else compressed.curve
    places = [(own.bytes / 1024, own.auc_valid) for own in tried if own.auc_valid is not None]
    if len(places) < 2 or compressed is None or compressed.auc_valid_before is None:
        return
    chosen = next(
        ((own.bytes / 1024, own.auc_valid) for own in tried if own.chosen and own.auc_valid is not None), None
    )
    before = f"{size(compressed.bytes_before)} and {compressed.auc_valid_before:.5f} before, which is dashed"
    x, y = html.Axis("KiB of all tables, logarithmic", logarithmic=True), html.Axis("AUC, valid split")
    said = f"cuts that were tried; {before}; the ring is the one chosen"
    yield html.curve([place[:2] for place in places], x, y, said, chosen, compressed.auc_valid_before)


def _timed(file: Path | str) -> dict[str, Any]:
    """What `bench infer` wrote.

    Raises:
        InputError: something else.
    """
    result: Any = read_json(Path(file))
    cases = result.get("cases") if isinstance(result, dict) else None
    known = {"batch", "ids", "subject", "p50_us"}
    if not cases or not isinstance(cases, list) or not all(isinstance(c, dict) and known <= set(c) for c in cases):
        raise InputError("no result of bench infer", where=file, fix="bench infer writes one as JSON")
    return dict(result)


#: What a user would run instead.
_DENSE = "onnx-dense"


def _faster(results: Sequence[tuple[str, dict[str, Any]]]) -> Iterator[str]:
    """The bundle's own time against dense, in one line a file."""
    for _, result in results:
        own = result["cases"][-1]["subject"]  # stands behind the others
        ids, parts = next(iter(_by_law(result).items()))
        times = [(batch, {case["subject"]: case["p50_us"] for case in cases}) for batch, cases in parts]
        said = [f"{known[own] / known[_DENSE]:.2f} at batch {batch:,}" for batch, known in times if _DENSE in known]
        if said and own != _DENSE:
            yield f"Its time against ONNX with dense tables: {', '.join(said)} ({ids} ids)."


def _by_law(result: dict[str, Any]) -> dict[str, list[tuple[int, list[dict[str, Any]]]]]:
    """Law of ids → batch and its cases, dense first: Zipf ids before the others."""
    found: dict[str, list[tuple[int, list[dict[str, Any]]]]] = {}
    pairs = sorted({(own["ids"] != "zipf", own["ids"], own["batch"]) for own in result["cases"]})
    for _, ids, batch in pairs:
        cases = [own for own in result["cases"] if (own["batch"], own["ids"]) == (batch, ids)]
        found.setdefault(ids, []).append((batch, sorted(cases, key=lambda own: own["subject"] != _DENSE)))
    return found


def _latency(result: dict[str, Any]) -> Iterator[str]:
    machine = result.get("machine", {}).get("cpu", "unknown machine")
    for number, (ids, parts) in enumerate(_by_law(result).items()):
        figures = []
        for batch, cases in parts:
            first = cases[0]["p50_us"]
            rows = [(c["subject"], c["p50_us"], f"{c['p50_us']:,.0f} µs ({c['p50_us'] / first:.2f})") for c in cases]
            caption = f"p50 of {batch:,} rows, {ids} ids, {result.get('threads')} thread(s) of {machine}"
            figures.append(html.bars(rows, caption, first_is_other=True))
        yield "".join(figures) if number == 0 else html.folded(f"{ids} ids", "".join(figures))


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
