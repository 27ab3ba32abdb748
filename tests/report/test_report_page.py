"""The page on a bundle: whole, escaped, without anything from elsewhere, and true."""

from __future__ import annotations

import html as html_text
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from amtl_export.bench.infer import InferConfig, bench_infer
from amtl_export.bundle.bundle import Bundle
from amtl_export.bundle.export import ExportConfig, export
from amtl_export.compression.compress import compress
from amtl_export.errors import InputError
from amtl_export.files import write_json
from amtl_export.freezing.frozen import FrozenModel
from amtl_export.report import html
from amtl_export.report.comparison import compare_bundles
from amtl_export.report.inspection import inspect
from amtl_export.report.page import write_report
from amtl_export.training.run import Run
from amtl_export.validation.validate import validate


class Page(HTMLParser):
    """Tags are closed in order; what refers to elsewhere, and the texts."""

    VOID = frozenset({"meta", "circle", "polyline", "path"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in self.VOID
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)


def test_the_page_of_a_compressed_bundle(frozen: FrozenModel, tmp_path: Path) -> None:
    small = compress(frozen, dim_budget=0.3)
    bundle = export(small, tmp_path / "bundle")
    verdict = validate(bundle.path, small)
    timing = bench_infer(bundle.path, small, InferConfig(batches=(1, 4), distributions=("zipf",), seconds=0.01))
    write_json(tmp_path / "timing.json", timing)
    out = write_report(bundle.path, tmp_path / "page.html", verdict, [tmp_path / "timing.json"])
    source = out.read_text(encoding="utf-8")
    page = Page(source)
    assert page.links == []
    assert not re.search(r"https?://|@import|url\(", source)
    assert {"script", "iframe", "img", "link"}.isdisjoint(page.tags)
    assert len(source) < 2_000_000
    assert "prefers-color-scheme: dark" in source
    assert 'lang="en"' in source
    assert small.compressed is not None
    left = small.compressed.report["left"]
    assert left
    for name, why in left.items():
        assert f"{name} {why}" in " ".join(page.text.split())
    for said in ("PASS against", f"{verdict.auc_onnx:.6f}", f"{verdict.rows_checked:,} of {verdict.rows_checked:,}"):
        assert said in page.text
    for field in bundle.fields:
        assert field in page.text
    for title in (
        "Bytes by field",
        "Spectrum",
        "Dims by frequency",
        "AUC against bytes",
        "Latency: timing.json",
        "Versions",
    ):
        assert title in page.text
    assert "Its time against ONNX with dense tables: " in page.text
    assert "backbone.layers.1.weight" in page.text
    request = json.loads((bundle.path / "samples" / "request.json").read_text())
    assert json.dumps(request, separators=(",", ":")) in page.text
    assert 'class="chosen"' in source


#: What a reader's browser finds: how wide the page is in a narrow window, and the least contrast of a text (WCAG 2.2).
LOOK = """<script>
const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
const light = (color) => numbers(color).slice(0, 3).map((c) => c / 255)
  .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
  .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const paper = light(getComputedStyle(document.body).backgroundColor);
const texts = [...document.querySelectorAll("main *")].filter(
  (e) => e.textContent.trim() && (e instanceof HTMLElement || e.tagName == "text"));
const contrast = Math.min(...texts.map((e) => {
  const style = getComputedStyle(e), ink = light(e instanceof SVGElement ? style.fill : style.color);
  return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
}));
const main = document.querySelector("main");
main.style.width = "328px";
document.title = JSON.stringify({ contrast, wide: main.scrollWidth, paper });
</script></body>"""


@pytest.mark.parametrize("dark", [False, True])
def test_the_page_in_a_browser(frozen: FrozenModel, tmp_path: Path, dark: bool) -> None:
    """Read without scrolling sideways, and with enough contrast, light and dark."""
    if (chromium := shutil.which("chromium")) is None:
        pytest.skip("chromium is not installed")
    bundle = export(compress(frozen, dim_budget=0.3), tmp_path / "bundle")
    page = write_report(bundle.path, tmp_path / "page.html")
    page.write_text(page.read_text(encoding="utf-8").replace("</body>", LOOK), encoding="utf-8")
    words = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--dump-dom"]
    words += [f"--user-data-dir={tmp_path / 'profile'}", f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
    done = subprocess.run([*words, page.as_uri()], capture_output=True, text=True, check=True, timeout=120)
    seen = json.loads(html_text.unescape(re.findall(r"<title>(.*?)</title>", done.stdout)[0]))
    assert (seen["paper"] < 0.1) == dark
    assert seen["contrast"] >= 4.5
    assert seen["wide"] <= 328


def test_the_page_of_every_layout_and_of_a_failure(bundle: Bundle, fbe_run: Run, run: Run, tmp_path: Path) -> None:
    Page(write_report(bundle.path, tmp_path / "plain.html").read_text())
    assert "Nothing was proven for this page" in (tmp_path / "plain.html").read_text()
    wrong = validate(bundle.path, fbe_run)
    page = Page(write_report(bundle.path, tmp_path / "wrong.html", wrong).read_text())
    assert "FAIL against" in page.text
    assert wrong.problems[0] in page.text
    right = Page(write_report(bundle.path, tmp_path / "right.html", validate(bundle.path, run)).read_text())
    assert "PASS against" in right.text


def test_texts_of_a_bundle_are_escaped(bundle: Bundle, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle.path, tmp_path / "<b>bold"))
    report = json.loads((copy / "report.json").read_text())
    report["origin"]["run"] = "<script>alert(1)</script>"
    (copy / "report.json").write_text(json.dumps(report))
    source = write_report(copy, tmp_path / "page.html").read_text()
    assert "script" not in Page(source).tags
    assert "<script>alert(1)</script>" in Page(source).text
    assert "<b>" not in source


def test_a_page_is_not_written_over_something_else(bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    write_report(bundle.path, out)
    with pytest.raises(InputError, match="exists"):
        write_report(bundle.path, out)
    write_report(bundle.path, out, overwrite=True)
    out.write_text("<html>mine</html>")
    with pytest.raises(InputError, match="choose another file"):
        write_report(bundle.path, out, overwrite=True)
    assert out.read_text() == "<html>mine</html>"
    with pytest.raises(InputError, match="no result of bench infer"):
        write_report(bundle.path, tmp_path / "other.html", timings=[bundle.path / "report.json"])
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]


def test_pieces() -> None:
    Page(html.page("a", [html.bars([("x", 0.0, "0"), ("y", 0.0, "0")], "none"), html.section("empty", "")]))
    for x in (html.Axis("x"), html.Axis("x", logarithmic=True)):
        one = html.curve([(1.0, 2.0), (1.0, 2.0)], x, html.Axis("y"), "flat", (1.0, 2.0), 2.0)
        assert "nan" not in one
        Page(one)
    assert html.Axis("x", logarithmic=True).part(10, (1, 100)) == pytest.approx(0.5)
    assert html.plots([]) == ""
    assert html.table(("a",), []) == ""


def test_two_bundles_side_by_side(frozen: FrozenModel, fbe_run: Run, tmp_path: Path) -> None:
    dense = export(frozen, tmp_path / "dense", ExportConfig("dense"))
    again = export(frozen, tmp_path / "again", ExportConfig("dense"))
    ragged = export(frozen, tmp_path / "ragged", ExportConfig("ragged", dtype="int8"))
    assert compare_bundles(dense.path, again.path).differing == ()
    found = compare_bundles(dense.path, ragged.path)
    assert found.interchangeable
    assert {"layout", "bytes of tables", "nodes"} <= set(found.differing)
    assert found.a["bytes of tables"] > found.b["bytes of tables"]
    other = compress(fbe_run, dim_budget=0.3)
    shared = export(other, tmp_path / "shared", ExportConfig("dense", request_fields=(frozen.fields[0].name,)))
    assert not compare_bundles(dense.path, shared.path).interchangeable
    with pytest.raises(InputError):
        compare_bundles(dense.path, tmp_path)


@pytest.mark.parametrize("key", ["origin", "versions", "onnxruntime", "bytes_dense", "ops_traced", "ops", "compressed"])
def test_a_bundle_that_does_not_say_how_it_was_made_is_refused(bundle_copy: Path, tmp_path: Path, key: str) -> None:
    file = bundle_copy / "report.json"
    said = json.loads(file.read_text())
    for spoilt in ({k: own for k, own in said.items() if k != key}, said | {key: [1]}):
        file.write_text(json.dumps(spoilt))
        for read in (
            inspect,
            lambda path: compare_bundles(path, path),
            lambda path: write_report(path, tmp_path / "p"),
        ):
            with pytest.raises(InputError, match=rf"(?s)report\.json.*{key}"):
                read(bundle_copy)
