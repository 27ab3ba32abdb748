"""amtl-export doctor."""

from __future__ import annotations

import click

from amtl_export.cli.options import Common, common


@click.command("doctor")
@click.option("--require", metavar="PART,…", default="", help="Parts whose absence is exit code 4, by name.")
@common
def command(require: str, common: Common) -> None:
    """Show what is installed, and what each missing part costs."""
    from amtl_export.doctor import examine, named_parts
    from amtl_export.errors import EnvironmentLacks, InputError
    from amtl_export.report.tables import environment

    checks = examine()
    common.result([check.to_json() for check in checks], lambda: environment(checks))
    known = {check.part: check for check in checks}
    for part in named_parts(require, known):
        if part not in known:
            raise InputError("doctor: unknown part", found=part, allowed=", ".join(known))
        if not known[part].ok:
            raise EnvironmentLacks(f"{part} is missing", found=known[part].cost, fix=known[part].fix)
