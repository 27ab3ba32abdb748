"""What fp16, int8 and int4 do to the AUC, and how small they are: trained runs, every value type, judged by `validate`.

amtl-export experiment pareto --data ml-1m --path FOLDER --dim 64 --threads 1 --out ml-1m
python benchmarks/value_types.py ml-1m/runs/fbe-s0 ml-1m/runs/amtl@0.4-s0 --name ml-1m --out benchmarks/results
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click

from amtl_export.bench.machine import describe_machine, today
from amtl_export.bundle.export import ExportConfig, export
from amtl_export.files import write_json
from amtl_export.freezing.frozen import freeze
from amtl_export.tables.values import SCALED, VALUE_TYPES
from amtl_export.training.run import load_run
from amtl_export.validation.validate import validate

#: Every value type of the rows, and the fused layer's weights in int8 too.
CONFIGS: dict[str, ExportConfig] = {
    **{dtype: ExportConfig("ragged", dtype, first_layer="fused") for dtype in VALUE_TYPES},
    **{f"{dtype}-layer-int8": ExportConfig("ragged", dtype, layer_dtype="int8") for dtype in SCALED},
}

KEPT = (
    "verdict", "auc_torch", "auc_onnx", "abs_delta_auc", "logloss_torch", "logloss_onnx", "max_abs_logit_diff",
    "max_abs_logit_change_by_quantization", "rows_checked", "rows_bit_equal", "rank_flips", "rows_scored",
    "bytes_dense", "bytes_table", "bytes_ratio", "problems",
)  # fmt: skip


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--name", required=True, help="Of the data, in the file's name.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results"), show_default=True)
@click.option("--machine", default="cpu2", show_default=True, help="Short name in the file's name.")
def main(runs: tuple[Path, ...], name: str, out: Path, machine: str) -> None:
    """Export every run in every value type, ragged, and validate it on the test split."""
    out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    for path in runs:
        frozen, found[path.name] = freeze(load_run(path)), {}
        for dtype, config in CONFIGS.items():
            with tempfile.TemporaryDirectory() as folder:
                bundle = export(frozen, Path(folder) / "bundle", config)
                verdict = validate(bundle.path, path).to_json()
            found[path.name][dtype] = {key: verdict[key] for key in KEPT if key in verdict}
            change, ratio = verdict["auc_onnx"] - verdict["auc_torch"], verdict["bytes_ratio"]
            click.echo(f"{path.name} {dtype}: {verdict['verdict']}, ΔAUC {change:+.1e}, {ratio:.3f} of dense fp32")
    report = {"date": today(), "machine": describe_machine(), "runs": found}
    write_json(out / f"{today()}-{name}-value-types-{machine}.json", report)


if __name__ == "__main__":
    main()
