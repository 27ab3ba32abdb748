"""Bad input of many kinds: the right exit code, one clear message, no traceback, nothing left behind."""

from __future__ import annotations

import gzip
import resource
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest

from amtl_export.bundle.bundle import Bundle
from amtl_export.training.run import Run

Command = Callable[..., subprocess.CompletedProcess[str]]

SCHEMA = """label = "y"
[[field]]
name = "a"
kind = "categorical"
type = "int64"
[[field]]
name = "x"
kind = "numeric"
"""


@dataclass(frozen=True)
class Place:
    """A folder with everything that a case may spoil."""

    path: Path

    @property
    def run(self) -> Path:
        return self.path / "run"

    @property
    def bundle(self) -> Path:
        return self.path / "bundle"

    @property
    def data(self) -> Path:
        return self.path / "data"

    @property
    def rows(self) -> Path:
        return self.data / "rows.csv"

    def change(self, file: Path, old: str, new: str) -> None:
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new, 1))

    def cut(self, file: Path, keep: int) -> None:
        file.write_bytes(file.read_bytes()[:keep])

    def train(self, *more: object) -> list[object]:
        return [
            "train",
            "--data",
            self.data,
            "--epochs",
            1,
            "--dim",
            4,
            "--hidden",
            4,
            *more,
            "--out",
            self.path / "out",
        ]

    def export(self, *more: object) -> list[object]:
        return ["export", self.run, *more, "--out", self.path / "out"]

    def validate(self, *more: object) -> list[object]:
        return ["validate", self.bundle, "--run", self.run, *more]


@pytest.fixture
def place(tmp_path: Path, run: Run, paged_bundle: Bundle) -> Place:
    made = Place(tmp_path / "place")
    made.path.mkdir()
    shutil.copytree(run.path, made.run)
    shutil.copytree(paged_bundle.path, made.bundle)
    made.data.mkdir()
    (made.data / "schema.toml").write_text(SCHEMA)
    made.rows.write_text("a,x,y\n" + "".join(f"{i % 9},{i}.5,{i % 2}\n" for i in range(200)))
    return made


#: name → (spoil and command, exit code, texts that the message has)
CASES: dict[str, tuple[Callable[[Place], list[object]], int, tuple[str, ...]]] = {}


def case(code: int, *says: str) -> Callable[[Callable[[Place], list[object]]], Callable[[Place], list[object]]]:
    def add(spoil: Callable[[Place], list[object]]) -> Callable[[Place], list[object]]:
        assert spoil.__name__ not in CASES, "a case of this name is there; it would not run"
        CASES[spoil.__name__] = (spoil, code, says)
        return spoil

    return add


@case(2, "label", "column 'y'", "rows.csv, row 3", "found: 'maybe'", "allowed: 0 or 1")
def text_label(p: Place) -> list[object]:
    p.change(p.rows, "2,2.5,0", "2,2.5,maybe")
    return p.train()


@case(2, "rows.csv, row 3", "nan", "0 or 1")
def nan_label(p: Place) -> list[object]:
    p.change(p.rows, "2,2.5,0", "2,2.5,nan")
    return p.train()


@case(2, "rows.csv, row 3", "None", "0 or 1")
def missing_label(p: Place) -> list[object]:
    p.change(p.rows, "2,2.5,0", "2,2.5,")
    return p.train()


@case(2, "rows.csv, row 3", "found: '7'", "0 or 1")
def label_of_seven(p: Place) -> list[object]:
    p.change(p.rows, "2,2.5,0", "2,2.5,7")
    return p.train()


@case(2, "field a", "rows.csv, row 3", "'two'", "whole number")
def text_in_an_int_field(p: Place) -> list[object]:
    p.change(p.rows, "2,2.5,0", "two,2.5,0")
    return p.train()


@case(2, "field a", "rows.csv, row 1", 'whole numbers need unit = "s" or "ms"')
def whole_numbers_as_times(p: Place) -> list[object]:
    p.change(p.data / "schema.toml", 'type = "int64"', 'part = "day"')
    return p.train()


@case(2, "field a: default = 'x' is no value of the field", "a whole number that int64 holds", "schema.toml")
def default_of_another_type(p: Place) -> list[object]:
    p.change(p.data / "schema.toml", 'type = "int64"', 'type = "int64"\ndefault = "x"')
    return p.train()


@case(2, "field a: boundaries must increase, as float32 too: 2.0, 1.0", "schema.toml")
def boundaries_that_fall(p: Place) -> list[object]:
    p.change(p.data / "schema.toml", 'type = "int64"', "boundaries = [2, 1]")
    return p.train()


@case(2, "field a: buckets and boundaries exclude each other", "schema.toml")
def buckets_with_boundaries(p: Place) -> list[object]:
    p.change(p.data / "schema.toml", 'type = "int64"', "boundaries = [1]\nbuckets = 9")
    return p.train()


@case(2, "numeric field x", "rows.csv, row 3", "'dear'")
def text_in_a_numeric_field(p: Place) -> list[object]:
    p.change(p.rows, "2,2.5,0", "2,dear,0")
    return p.train()


@case(2, "numeric field x", "row 3", "inf", "finite")
def infinite_number(p: Place) -> list[object]:
    p.change(p.rows, "2,2.5,0", "2,inf,0")
    return p.train()


@case(2, "lacks columns", "['x']")
def missing_column(p: Place) -> list[object]:
    p.change(p.rows, "a,x,y", "a,z,y")
    return p.train()


@case(2, "cut off", "rows.csv")
def cut_off_csv(p: Place) -> list[object]:
    p.cut(p.rows, p.rows.stat().st_size - 4)
    return p.train()


@case(2, "the file is empty", "rows.csv")
def empty_csv(p: Place) -> list[object]:
    p.cut(p.rows, 0)
    return p.train()


@case(2, "too many columns", "rows.csv, row 3", "found: 5 columns", "allowed: 3 columns")
def too_many_columns(p: Place) -> list[object]:
    p.change(p.rows, "2,2.5,0", "2,2.5,0,9,9")
    return p.train()


@case(2, "too few columns", "rows.csv, row 3", "found: 2 columns: '2,2.5'")
def too_few_columns(p: Place) -> list[object]:
    p.change(p.rows, "2,2.5,0", "2,2.5")
    return p.train()


@case(2, "empty line", "rows.csv, row 3", "remove the line")
def empty_line(p: Place) -> list[object]:
    p.change(p.rows, "2,2.5,0", "")
    return p.train()


@case(2, "damaged or cut off", "rows.csv.gz", "again")
def truncated_gzip(p: Place) -> list[object]:
    (p.data / "rows.csv.gz").write_bytes(gzip.compress(p.rows.read_bytes())[:-20])
    p.rows.unlink()
    return p.train()


@case(2, "no gzip file", "rows.csv.gz")
def gzip_in_name_only(p: Place) -> list[object]:
    p.rows.rename(p.data / "rows.csv.gz")
    return p.train()


@case(2, "files of several formats", "csv (rows.csv), tsv (rows.tsv)", "format = ")
def two_formats(p: Place) -> list[object]:
    shutil.copy(p.rows, p.data / "rows.tsv")
    return p.train()


@case(2, "belongs to no split", "rows.csv", "[split]")
def file_of_no_split(p: Place) -> list[object]:
    split = '[split]\nrule = "files"\ntrain = "a.csv"\nvalid = "b.csv"\ntest = "c.csv"\n[[field]]'
    p.change(p.data / "schema.toml", "[[field]]", split)
    return p.train()


@case(2, "time split", "rows.csv, row 3, column 'a'", "'soon'", "a date")
def time_that_is_none(p: Place) -> list[object]:
    split = '[split]\nrule = "time"\ncolumn = "a"\nvalid_from = 2024-05-01\ntest_from = 2024-05-02\n[[field]]'
    p.change(p.data / "schema.toml", "[[field]]", split)
    p.change(p.data / "schema.toml", 'type = "int64"', 'type = "string"')
    lines = [f"2024-04-0{i % 9 + 1},{i}.5,{i % 2}" for i in range(200)]
    lines[2] = "soon,2.5,0"
    p.rows.write_text("\n".join(["a,x,y", *lines]) + "\n")
    return p.train()


@case(2, "cannot be used", "rows.libsvm, row 2", "'7:0.5'", "numeric field")
def libsvm_with_a_number(p: Place) -> list[object]:
    p.rows.unlink()
    (p.data / "rows.libsvm").write_text("1 3:1\n0 7:0.5\n")
    text = 'label = "label"\n[[field]]\nname = "features"\nkind = "multi-valued"\n'
    (p.data / "schema.toml").write_text(text)
    return p.train()


@case(2, "type that no field can use", "Binary", "store it as text")
def binary_column(p: Place) -> list[object]:
    p.rows.unlink()
    frame = pl.DataFrame({"a": [b"x"] * 9, "x": [1.0] * 9, "y": [0, 1, 0] * 3})
    frame.write_parquet(p.data / "rows.parquet")
    return p.train()


@case(2, "cannot be parsed", "rows.parquet")
def truncated_parquet(p: Place) -> list[object]:
    p.rows.rename(p.data / "rows.parquet")
    return p.train()


@case(2, "no schema.toml")
def no_schema(p: Place) -> list[object]:
    (p.data / "schema.toml").unlink()
    return p.train()


@case(2, "not TOML", "schema.toml")
def broken_toml(p: Place) -> list[object]:
    p.change(p.data / "schema.toml", "label =", "label = =")
    return p.train()


@case(2, "field.0.kind", "'category'")
def unknown_kind(p: Place) -> list[object]:
    p.change(p.data / "schema.toml", "categorical", "category")
    return p.train()


@case(2, "no data files", "data")
def no_files(p: Place) -> list[object]:
    p.rows.unlink()
    return p.train()


@case(2, "split cannot be used", "positive")
def one_class(p: Place) -> list[object]:
    p.rows.write_text("a,x,y\n" + "1,1,1\n" * 100)
    return p.train()


@case(2, "no such data")
def no_such_data(p: Place) -> list[object]:
    shutil.rmtree(p.data)
    return p.train()


@case(2, "no such data", "did you mean ml-1m?")
def named_source_written_otherwise(p: Place) -> list[object]:
    return ["train", "--data", "ml1m", "--out", p.path / "out"]


@case(2, "needs --path")
def named_source_without_path(p: Place) -> list[object]:
    return ["train", "--data", "ml-1m", "--out", p.path / "out"]


@case(2, "published file is missing", "ratings.dat")
def named_source_in_the_wrong_folder(p: Place) -> list[object]:
    return ["train", "--data", "ml-1m", "--path", p.data, "--out", p.path / "out"]


@case(2, "--method", "'lstm'", "'amtl'")
def unknown_method(p: Place) -> list[object]:
    return p.train("--method", "lstm")


@case(2, "--dim")
def dim_of_zero(p: Place) -> list[object]:
    return p.train("--dim", 0)


@case(2, "output folder exists", "--overwrite")
def output_exists(p: Place) -> list[object]:
    return ["train", "--data", p.data, "--out", p.run]


@case(2, "was not made by amtl-export")
def output_is_not_ours(p: Place) -> list[object]:
    return ["export", p.run, "--out", p.data, "--overwrite"]


@case(2, "warm start from a run of another D", "--dim 12")
def warm_start_of_another_size(p: Place) -> list[object]:
    return p.train("--warm-start", p.run)


@case(2, "shares no field and no layer")
def warm_start_of_another_kind(p: Place) -> list[object]:
    return p.train("--warm-start", p.run, "--method", "mde", "--dim", 12)


@case(2, "attends to a sequence", 'kind = "sequence"')
def din_without_a_sequence(p: Place) -> list[object]:
    return p.train("--backbone", "din")


@case(2, "train: epochs", "at least 1")
def no_epochs_without_a_warm_start(p: Place) -> list[object]:
    return p.train("--epochs", 0)


@case(2, "no such run")
def no_such_run(p: Place) -> list[object]:
    return ["export", p.path / "nothing", "--out", p.path / "out"]


@case(2, "a bundle is no source")
def a_bundle_instead_of_a_run(p: Place) -> list[object]:
    return ["export", p.bundle, "--out", p.path / "out"]


@case(2, "truncated or corrupted", "model.safetensors")
def truncated_model(p: Place) -> list[object]:
    p.cut(p.run / "model.safetensors", 900)
    return p.export()


@case(2, "does not hold JSON", "config.json")
def truncated_config(p: Place) -> list[object]:
    p.cut(p.run / "config.json", 30)
    return p.export()


@case(2, "truncated or not Parquet", "user.parquet")
def truncated_vocabulary(p: Place) -> list[object]:
    p.cut(p.run / "vocab" / "user.parquet", 30)
    return p.export()


@case(2, "--layout", "folded", "'paged', 'blocks', 'ragged'")
def unknown_layout(p: Place) -> list[object]:
    return p.export("--layout", "folded")


@case(2, "--page-width 99", "1..12")
def page_wider_than_the_row(p: Place) -> list[object]:
    return p.export("--layout", "paged", "--page-width", 99)


@case(2, "complete bundle", "this is a frozen model: export it")
def a_frozen_model_instead_of_a_bundle(p: Place) -> list[object]:
    (p.path / "frozen").mkdir()
    (p.path / "frozen" / "frozen.safetensors").touch()
    return ["validate", p.path / "frozen", "--run", p.path / "nothing"]


@case(2, "output file exists", "choose another file")
def a_report_over_a_file_before_anything_is_proven(p: Place) -> list[object]:
    (p.path / "page.html").touch()
    return ["report", p.bundle, "--vs", p.path / "nothing", "--out", p.path / "page.html"]


@case(2, "complete bundle", "no model.onnx.data")
def bundle_without_weights(p: Place) -> list[object]:
    (p.bundle / "model.onnx.data").unlink()
    return p.validate()


@case(3, "FAIL", "SHA256SUMS", "model.onnx.data")
def bundle_with_cut_off_weights(p: Place) -> list[object]:
    p.cut(p.bundle / "model.onnx.data", 900)
    return p.validate()


@case(3, "FAIL", "cannot be read", "SHA256SUMS")
def bundle_with_a_broken_graph(p: Place) -> list[object]:
    p.cut(p.bundle / "model.onnx", 300)
    return p.validate()


@case(2, "signature cannot be read", "layout")
def bundle_with_a_broken_signature(p: Place) -> list[object]:
    p.change(p.bundle / "signature.json", '"layout"', '"layuot"')
    return p.validate()


@case(4, "cuda is not there", "amtl-export[gpu]")
def cuda_without_a_gpu(p: Place) -> list[object]:
    return p.validate("--provider", "cuda")


@case(4, "cuda is not there")
def bench_on_cuda_without_a_gpu(p: Place) -> list[object]:
    return ["bench", "infer", p.bundle, "--vs", p.run, "--provider", "cuda"]


@case(4, "PyTorch finds no GPU", "or the CPU")
def training_on_cuda_without_a_gpu(p: Place) -> list[object]:
    return ["bench", "train", "--data", p.data, "--device", "cuda"]


@case(2, "options of CUDA", "provider cpu")
def tables_on_a_gpu_of_a_session_on_the_cpu(p: Place) -> list[object]:
    return ["bench", "infer", p.bundle, "--vs", p.run, "--table-device", "cuda"]


@case(2, "--batch", "'1,x'")
def bench_of_no_numbers(p: Place) -> list[object]:
    return ["bench", "infer", p.bundle, "--vs", p.run, "--batch", "1,x"]


@case(2, "unknown id distributions", "normal")
def bench_of_unknown_ids(p: Place) -> list[object]:
    return ["bench", "infer", p.bundle, "--vs", p.run, "--ids", "normal"]


@case(2, "neither a run nor a bundle")
def inspect_something_else(p: Place) -> list[object]:
    return ["inspect", p.data]


@case(2, "PNG")
def plot_that_is_no_png(p: Place) -> list[object]:
    return ["inspect", p.run, "--plot", p.path / "plot.svg"]


@case(2, "the folder of an output is not there", "nowhere")
def json_into_no_folder(p: Place) -> list[object]:
    return ["inspect", p.run, "--json", p.path / "nowhere" / "x.json"]


@case(4, "CUDAExecutionProvider is missing")
def doctor_requires_cuda(p: Place) -> list[object]:
    return ["doctor", "-q", "--require", "CUDAExecutionProvider"]


CUDA = {
    "cuda_without_a_gpu",
    "bench_on_cuda_without_a_gpu",
    "training_on_cuda_without_a_gpu",
    "doctor_requires_cuda",
}


def listing(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", CASES)
def test_bad_input(name: str, place: Place, amtl_here: Command) -> None:
    if name in CUDA:
        import onnxruntime

        if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            pytest.skip("this machine has CUDA")
    spoil, code, says = CASES[name]
    arguments = spoil(place)
    before = listing(place.path)
    done = amtl_here(*arguments)
    shown = done.stdout + done.stderr
    assert done.returncode == code, shown
    assert "Traceback" not in shown
    assert shown.count("error: ") <= 1
    for text in says:
        assert text in shown.replace("\n", " ").replace("  ", " ") or text in shown, shown
    assert listing(place.path) == before


def test_what_cuda_makes_right_are_cases() -> None:
    assert set(CASES) >= CUDA


@pytest.mark.parametrize("limit", [2_000, 9_000])
@pytest.mark.parametrize("what", ["train", "export", "freeze", "package"])
def test_no_room_left(place: Place, amtl: Command, what: str, limit: int) -> None:
    """A real limit on file size stands for a full disk: the same error from the same system calls."""
    out = place.path / "out"
    arguments = {
        "train": place.train("--hidden", "256,256"),
        "export": place.export(),
        "freeze": ["freeze", place.run, "--out", out],
        "package": ["package", place.bundle, "--triton", out, "--name", "ctr"],
    }[what]
    before = listing(place.path)
    done = amtl(*arguments, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    assert done.returncode == 4, done.stderr
    assert "no room left" in done.stderr or "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert listing(place.path) == before
