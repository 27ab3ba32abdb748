"""From Parquet files of thirty fields to a validated bundle and a raw-features package, by schema.toml alone.

Draws two million rows with all that such sets have: 64-bit hashes as unsigned and as dictionaries, whole numbers with
holes stored as floats, lists, fixed arrays, decimals, timestamps, flags, weights, groups, two labels, ids that several
fields share. Then runs the commands, each timed, and writes `<date>-raw-parquet-<machine>.json`.

    python benchmarks/raw_parquet.py --out benchmarks/results
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import numpy as np
import polars as pl

from amtl_export.bench.machine import describe_machine, today
from amtl_export.files import write_json

_FILES = 8
_START = datetime(2024, 5, 1)
_DAYS = 10


def schema() -> str:
    """schema.toml of the set."""
    fields = [
        ("user", "categorical", 'type = "string"'),
        ("device", "categorical", ""),
        ("item", "categorical", ""),
        ("last_item", "categorical", 'vocabulary = "item"'),
        ("seen", "sequence", 'of = "item"\nmax_length = 20'),
        ("liked", "multi-valued", 'vocabulary = "item"\nmax_length = 10'),
        ("tags", "multi-valued", "max_length = 8\ndim = 8"),
        ("codes", "multi-valued", 'type = "int64"\nmax_length = 4'),
        ("city", "categorical", 'type = "int64"\nmissing = ["-1"]'),
        ("brand", "categorical", 'type = "int64"\ndefault = 0'),
        ("price", "categorical", 'column = "cost"\nboundaries = [1, 2.5, 5, 10, 25, 50, 100, 250]'),
        ("hour", "categorical", 'column = "at"\npart = "hour"\ndim = 4\nmin_count = 1'),
        ("weekday", "categorical", 'column = "at"\npart = "weekday"\ndim = 4\nmin_count = 1'),
        ("member", "categorical", "dim = 2"),
        ("cost", "numeric", 'transform = "log1p"'),
        ("age", "numeric", "default = 35"),
        *((f"kind_{i}", "categorical", 'type = "int64"\ndim = 8') for i in range(8)),
        *((f"rate_{i}", "numeric", "") for i in range(6)),
    ]
    head = (
        'label = { click = "act >= 1", buy = "act = 2" }\nfilter = "bot = false"\ngroup = "user"\nweight = "w"\n'
        '[split]\nrule = "time"\ncolumn = "at"\nvalid_from = 2024-05-09\ntest_from = 2024-05-10\n'
    )
    return head + "".join(f'[[field]]\nname = "{n}"\nkind = "{kind}"\n{more}\n' for n, kind, more in fields)


def rows(count: int, seed: int) -> pl.DataFrame:
    """Rows with planted effects of user, item and city."""
    rng = np.random.default_rng(seed)
    planted = np.random.default_rng(0)
    warmth, worth = planted.normal(size=200_000), planted.normal(size=100_000)
    user, item = rng.zipf(1.3, count) % 200_000, rng.zipf(1.2, count) % 100_000
    city = rng.integers(0, 500, count)
    logit = 0.8 * warmth[user] + 0.8 * worth[item] + 0.3 * np.sin(city) - 1
    click = rng.random(count) < 1 / (1 + np.exp(-logit))
    buy = click & (rng.random(count) < 1 / (1 + np.exp(-worth[item])))
    hashes = planted.integers(0, 2**64, 200_000, dtype=np.uint64)  # most are past 2^63

    def lists(most: int, size: int) -> list[list[int]]:
        lengths = rng.integers(0, most + 1, count)
        values = rng.zipf(1.3, int(lengths.sum())) % size
        return [part.tolist() for part in np.split(values, np.cumsum(lengths)[:-1])]

    spread = rng.integers(0, _DAYS * 86_400, count)
    cost = np.round(np.exp(rng.normal(2, 1.5, count)), 2)
    frame = {
        "user": pl.Series(hashes[user]),
        "device": pl.Series([f"m{k % 3000}" for k in rng.zipf(1.4, count)]).cast(pl.Categorical),
        "item": pl.Series(item).cast(pl.String),
        "last_item": pl.Series(rng.zipf(1.2, count) % 100_000).cast(pl.String),
        "seen": pl.Series(lists(6, 100_000)).cast(pl.List(pl.String)),
        "liked": pl.Series(lists(3, 100_000)).cast(pl.List(pl.String)),
        "tags": pl.Series(lists(4, 300)).cast(pl.List(pl.String)),
        "codes": pl.Series(rng.integers(0, 900, (count, 3)), dtype=pl.Array(pl.Int64, 3)),
        "city": pl.Series(np.where(rng.random(count) < 0.05, -1, city)),
        "brand": pl.Series(np.where(rng.random(count) < 0.1, np.nan, rng.integers(1, 4000, count))).fill_nan(None),
        "cost": pl.Series(cost).cast(pl.Decimal(12, 2)),
        "at": pl.Series([_START]).dt.epoch("s").first() + pl.Series(spread),
        "member": pl.Series(rng.random(count) < 0.2),
        "age": pl.Series(np.where(rng.random(count) < 0.1, np.nan, rng.integers(14, 90, count).astype(float))),
        "w": pl.Series(rng.choice([0.5, 1.0, 2.0], count)),
        "bot": pl.Series(rng.random(count) < 0.01),
        "act": pl.Series(click.astype(np.int64) + buy),
    }
    frame |= {f"kind_{i}": pl.Series(rng.zipf(1.5, count) % (50 * (i + 1))) for i in range(8)}
    frame |= {f"rate_{i}": pl.Series(rng.gamma(2, 3, count).astype(np.float32)) for i in range(6)}
    return pl.DataFrame(frame).with_columns(pl.from_epoch("at", time_unit="s"))


def timed(*arguments: str) -> dict[str, Any]:
    """Run a command; its seconds and what its `--json` says."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "amtl_export", *arguments, "--json", "-", "-q"], stdout=subprocess.PIPE
    )
    if done.returncode:
        click.echo(f"{arguments[0]} ended with {done.returncode}")
        sys.exit(done.returncode)
    found: dict[str, Any] = json.loads(done.stdout)
    seconds = time.perf_counter() - started
    click.echo(f"{arguments[0]}: {seconds:.1f} s")
    return {"seconds": seconds, "found": found}


@click.command()
@click.option("--rows", "count", default=2_000_000, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results"), show_default=True)
@click.option("--machine", default="cpu2", show_default=True, help="Short name in the file's name.")
def main(count: int, out: Path, machine: str) -> None:
    """Draw the files, run the commands, write what they took."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        data = folder / "data"
        data.mkdir()
        for number in range(_FILES):
            rows(count // _FILES, number + 1).write_parquet(data / f"part-{number}.parquet")
        (data / "schema.toml").write_text(schema())
        size = sum(file.stat().st_size for file in data.glob("*.parquet"))
        run, bundle = str(folder / "run"), str(folder / "bundle")
        steps = {
            "train": timed("train", "--data", str(data), "--method", "fbe", "--epochs", "1", "--out", run),
            "export": timed("export", run, "--out", bundle),
            "validate": timed("validate", bundle, "--run", run),
            "package": timed(
                "package", bundle, "--triton", str(folder / "repository"), "--name", "ctr", "--raw-features"
            ),
        }
        metrics, verdict = steps["train"]["found"], steps["validate"]["found"]
        kept = ("verdict", "abs_delta_auc", "rows_checked", "rows_bit_equal", "raw_rows_checked", "raw_rows_equal")
        write_json(
            out / f"{today()}-raw-parquet-{machine}.json",
            {
                "date": today(),
                "machine": describe_machine(),
                "rows": metrics["rows"],
                "fields": len(metrics["fields"]) + schema().count('kind = "numeric"'),
                "bytes": size,
                "labels": {name: own["auc_test"] for name, own in metrics["labels"].items()},
                "seconds": {name: step["seconds"] for name, step in steps.items()},
                "validate": {key: verdict[key] for key in kept},
                "outputs": verdict["outputs"],
            },
        )


if __name__ == "__main__":
    main()
