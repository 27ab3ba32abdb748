"""What every command shares: --json, -q, --seed, --overwrite, and how results are shown."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import click

from amtl_export.cli.errors import speaking_in_flags
from amtl_export.cli.outputs import check_outputs
from amtl_export.cli.streams import result_alone, while_read
from amtl_export.cli.working import Working, working

if TYPE_CHECKING:
    from rich.console import RenderableType

F = TypeVar("F", bound=Callable[..., Any])

_SEED = click.IntRange(0, 2**63 - 1)  # libraries do not survive more

#: Of the flags that take a Ray cluster's address.
RAY = "its address as ray.init takes it, or local, which starts one here. Needs the extra ray."


@dataclass(frozen=True)
class Common:
    """The shared options.

    Attributes:
        json_path: where the result goes as JSON; `-` is standard output.
        quiet: no progress, no tables.
        seed: of everything drawn.
        overwrite: replace an output folder that this tool made.
        working: shows what the command is doing; None shows nothing.
        out: where results are printed; None is standard output, as far as there is one.
    """

    json_path: str | None
    quiet: bool
    seed: int
    overwrite: bool
    working: Working | None = None
    out: TextIO | None = None

    @property
    def is_shown(self) -> bool:
        """Whether standard output is for people to read."""
        return not self.quiet and self.json_path != "-"

    def note(self, text: str) -> None:
        """A line of progress, on standard error."""
        if not self.quiet:
            from amtl_export.errors import printable

            if self.working is not None:
                self.working.line(printable(text))
            else:
                click.echo(printable(text), err=True)

    def result(self, values: Any, shown: Callable[[], RenderableType]) -> None:
        """Print the result for people and write it as JSON where that was asked for."""
        if self.working is not None:
            self.working.stage(None)
        if self.json_path == "-":
            with while_read(self.out):
                click.echo(json.dumps(values, indent=2, allow_nan=False), self.out)
        elif self.json_path is not None:
            from amtl_export.errors import os_errors
            from amtl_export.files import whole_file, write_json

            with os_errors("writing the JSON result", self.json_path), whole_file(Path(self.json_path)) as draft:
                write_json(draft, values)
        if self.is_shown and sys.stdout is not None:  # as >&- makes it
            from amtl_export.cli.terminal import Terminal

            # A terminal's own width where there is one; a width that cuts no table elsewhere.
            with while_read(sys.stdout):
                Terminal(width=None if sys.stdout.isatty() else 140).print(shown())

    def say(self, *lines: str) -> None:
        """Lines behind a result, for people; none is broken, so that a command in them can be pasted."""
        if self.is_shown:
            from amtl_export.errors import printable

            with while_read(sys.stdout):
                for line in lines:
                    click.echo(printable(line))


def common(command: F) -> F:
    """Add the shared options; the command gets them as `common`."""

    @click.option("--json", "json_path", metavar="PATH", help="Write the result as JSON; - is standard output.")
    @click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors and --json -.")
    @click.option("--seed", type=_SEED, default=0, show_default=True, help="Seed of all that is drawn.")
    @click.option("--overwrite", is_flag=True, help="Replace an output folder that this tool made.")
    @wraps(command)
    def with_common(*args: Any, json_path: str | None, quiet: bool, seed: int, overwrite: bool, **kwargs: Any) -> Any:
        alone = result_alone() if json_path == "-" else nullcontext()
        with speaking_in_flags(), working(quiet) as shown, alone as out:
            check_outputs(click.get_current_context().command.name, kwargs | {"json": json_path})
            return command(*args, common=Common(json_path, quiet, seed, overwrite, shown, out), **kwargs)

    return with_common  # type: ignore[return-value]  # `common` is filled in, the rest stays
