import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from amtl_export.bundle.bundle import Bundle
from amtl_export.bundle.export import export
from amtl_export.compression.compress import compress
from amtl_export.data.vocabulary import FIRST_VALUE
from amtl_export.doctor import Check, examine
from amtl_export.freezing.folder import save_frozen
from amtl_export.freezing.frozen import FrozenModel
from amtl_export.report import tables
from amtl_export.report.inspection import GROUPS, frequency_groups, inspect
from amtl_export.report.plots import plot_dims, plot_inference
from amtl_export.training.run import Run


def shown(renderable: object) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(renderable)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert isinstance(text, str)
    return text


def test_run_frozen_and_bundle_tell_the_same(
    run: Run, frozen: FrozenModel, paged_bundle: Bundle, tmp_path: Path
) -> None:
    save_frozen(frozen, tmp_path / "frozen")
    found = [inspect(path) for path in (run.path, tmp_path / "frozen", paged_bundle.path)]
    assert [f.kind for f in found] == ["run", "frozen", "bundle"]
    assert found[0].fields == found[1].fields == found[2].fields
    assert found[2].bytes_table == paged_bundle.signature.table_bytes
    assert found[2].ops["Gemm"] == 3


def test_a_compressed_model_tells_the_dim_that_it_had(frozen: FrozenModel, tmp_path: Path) -> None:
    small = compress(frozen, dim_budget=0.1, all_fields=True)
    assert small.table.rows.shape[1] < 12
    save_frozen(small, tmp_path / "frozen")
    bundle = export(small, tmp_path / "bundle")
    for path in (tmp_path / "frozen", bundle.path):
        found = inspect(path)
        assert [own.dim for own in found.fields] == [12] * len(found.fields)
        assert sum(own.bytes_dense for own in found.fields) == 4 * 12 * sum(own.vocab for own in found.fields)


def test_numbers_add_up(run: Run) -> None:
    for field in inspect(run.path).fields:
        assert sum(field.histogram) == field.vocab
        assert sum(dims * ids for dims, ids in enumerate(field.histogram)) == field.params_kept
        assert field.avg_dim == pytest.approx(run.metrics["fields"][field.name]["avg_dim"])


def test_groups_hold_every_value_once_rarest_first(run: Run, frozen: FrozenModel) -> None:
    vocabulary = run.vocabularies["user"]
    groups = frequency_groups(vocabulary.counts, frozen.field_dims("user").numpy(), FIRST_VALUE)
    assert len(groups) == GROUPS
    assert sorted(np.concatenate(groups).tolist()) == list(range(2, vocabulary.size))
    means = [vocabulary.counts[ids].mean() for ids in groups]
    assert means == sorted(means)
    assert max(map(len, groups)) - min(map(len, groups)) <= 1


def test_is_shown_and_plotted(paged_bundle: Bundle, tmp_path: Path) -> None:
    found = inspect(paged_bundle.path)
    text = shown(tables.inspection(found))
    assert "Mean dims by frequency group" in text
    assert "layout paged" in text
    plot_dims(found, tmp_path / "dims.png")
    assert (tmp_path / "dims.png").read_bytes().startswith(b"\x89PNG")


def test_latency_is_plotted(tmp_path: Path) -> None:
    case = {"ids": "zipf", "subject": "onnx-dense", "p50_us": 2.0, "p95_us": 3.0}
    plot_inference({"cases": [case | {"batch": 1}, case | {"batch": 64}]}, tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 1000


@pytest.mark.parametrize(("runs", "cell"), [(99, "-"), (100, "9.0")])
def test_a_hundredth_part_needs_a_hundred_runs(runs: int, cell: str) -> None:
    case = {"subject": "onnx-dense", "ids": "zipf", "batch": 1, "p50_us": 2.0, "p95_us": 3.0, "p99_us": 9.0, "qps": 1.0}
    result = {"cases": [case | {"bytes": 8, "runs": runs}], "threads": 1, "provider": "cpu", "machine": {"cpu": "x"}}
    *_, last = shown(tables.inference(result)).strip().splitlines()
    assert last.split()[6] == cell


def test_brackets_are_shown_as_they_are() -> None:
    missing = Check("a part", None, "no speed", "pip install 'amtl-export[gpu]'")
    assert "no speed. pip install 'amtl-export[gpu]'." in shown(tables.environment([missing]))


def test_doctor_looks_at_what_is_installed() -> None:
    found = {check.part: check for check in examine()}
    assert found["torch"].ok
    assert found["onnxruntime"].ok
    assert found["one ONNX Runtime"].found is not None
    assert found["one ONNX Runtime"].found.startswith("onnxruntime")


def test_sizes_for_people() -> None:
    assert [tables.size(n) for n in (0, 1023, 1024, 5 << 20, 3 << 30)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "5.0 MiB",
        "3.0 GiB",
    ]


def test_bars_reach_the_top() -> None:
    assert tables.bars([0, 4, 8], 8) == " ▄█"
