"""amtl-export package."""

from __future__ import annotations

from pathlib import Path
from shlex import join
from typing import Any

import click

from amtl_export.cli.options import Common, common
from amtl_export.cli.types import FOLDER, THREADS, Choice


@click.command("package")
@click.argument("bundle", type=FOLDER)
@click.option("--triton", type=FOLDER, required=True, metavar="DIR", help="Triton's model repository.")
@click.option("--name", required=True, help="Of the model; one that is there gets its next version.")
@click.option(
    "--backend",
    type=Choice(["onnxruntime", "python"]),
    default="onnxruntime",
    show_default=True,
    help="Of config.pbtxt; the other is in configs/, for tritonserver --model-config-name.",
)
@click.option("--max-batch", type=click.IntRange(1), default=4096, show_default=True, help="Rows of one run at most.")
@click.option("--queue-us", type=click.IntRange(0), default=0, show_default=True, help="How long to wait for more, µs.")
@click.option("--instances", type=click.IntRange(1), default=1, show_default=True, help="Answering at the same time.")
@click.option("--threads", type=THREADS, default=1, show_default=True, help="Of each instance, for one run.")
@click.option("--raw-features", is_flag=True, help="The server takes values instead of ids, and encodes them.")
@click.option(
    "--graph-keys",
    type=click.IntRange(0),
    default=1_000_000,
    show_default=True,
    help="With --raw-features: values that the graph may hold; more become a model of their own, and NAME an ensemble.",
)
@click.option("--mounted-at", metavar="PATH", help="Where the server will see DIR.  [default: where it is]")
@click.option("--storage-uri", metavar="URI", help="Where KServe will fetch DIR from; writes kserve.yaml.")
@common
def command(bundle: Path, triton: Path, name: str, common: Common, **settings: Any) -> None:
    """Make BUNDLE a version of a model that Triton Inference Server loads."""
    from amtl_export.report.tables import packaged
    from amtl_export.serving.package import PackageConfig, package

    if common.overwrite:
        raise click.UsageError("No version is ever replaced: leave '--overwrite' out, or choose another '--name'.")
    version = package(bundle, triton, name, PackageConfig(**settings))
    values = {"model": str(version.model), "version": version.version, "path": str(version.path)}
    common.result(values, lambda: packaged(values, settings["backend"]))
    common.say(join(["tritonserver", f"--model-repository={triton}"]))
