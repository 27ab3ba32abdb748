"""What every command shares: --json, -q, --seed, --overwrite, and how results are shown."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from amtl_export.cli.errors import speaking_in_flags
from amtl_export.cli.outputs import check_outputs
from amtl_export.cli.working import Working, working
from amtl_export.data.schema_problems import nearest

if TYPE_CHECKING:
    from rich.console import RenderableType

    Numbers = click.ParamType[tuple[int, ...]]
    Ratios = click.ParamType[tuple[float, ...]]
    Texts = click.ParamType[tuple[str, ...]]
else:  # before 8.4, click's types take no subscript
    Numbers = Ratios = Texts = click.ParamType

F = TypeVar("F", bound=Callable[..., Any])

FOLDER = click.Path(path_type=Path)
THREADS, _SEED = click.IntRange(1, 4096), click.IntRange(0, 2**63 - 1)  # libraries do not survive more

#: A trained model: a run's folder, a frozen one's, or `my_model.py:build`.
SOURCE = click.STRING

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
    """

    json_path: str | None
    quiet: bool
    seed: int
    overwrite: bool
    working: Working | None = None

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
            click.echo(json.dumps(values, indent=2, allow_nan=False))
        elif self.json_path is not None:
            from amtl_export.errors import os_errors
            from amtl_export.files import write_json

            with os_errors("writing the JSON result", self.json_path):
                write_json(Path(self.json_path), values)
        if self.is_shown and sys.stdout is not None:  # as >&- makes it
            from amtl_export.cli.terminal import Terminal

            # A terminal's own width where there is one; a width that cuts no table elsewhere.
            Terminal(width=None if sys.stdout.isatty() else 140).print(shown())

    def say(self, *lines: str) -> None:
        """Lines behind a result, for people; none is broken, so that a command in them can be pasted."""
        if self.is_shown:
            from amtl_export.errors import printable

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
        with speaking_in_flags(), working(quiet) as shown:
            check_outputs(click.get_current_context().command.name, kwargs | {"json": json_path})
            return command(*args, common=Common(json_path, quiet, seed, overwrite, shown), **kwargs)

    return with_common  # type: ignore[return-value]  # `common` is filled in, the rest stays


class Choice(click.Choice):  # type: ignore[type-arg]  # before 8.4, it takes no subscript
    """One of some names; says which one may be meant."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Check."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as error:
            if near := nearest(str(value), [str(own) for own in self.choices]):
                raise click.BadParameter(f"{error.message} Did you mean {near!r}?", ctx, param) from None
            raise


class IntList(Numbers):
    """Whole numbers separated by commas: 1,64,1024."""

    name = "N,N,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Parse."""
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(int(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of whole numbers like 1,64,1024", param, ctx)
        if min(numbers) < 1:
            self.fail(f"{min(numbers)} is not positive", param, ctx)
        return numbers


class RatioList(Ratios):
    """Numbers above 0, at most 1, separated by commas: 0.2,0.4."""

    name = "R,R,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Parse."""
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(float(part) for part in str(value).split(",") if part)
        except ValueError:
            self.fail(f"{value!r} is not a list of ratios like 0.2,0.4", param, ctx)
        if any(not 0 < number <= 1 for number in numbers):
            self.fail(f"{value!r}: each ratio must be above 0 and at most 1", param, ctx)
        return numbers


class TextList(Texts):
    """Names separated by commas."""

    name = "A,B,…"

    def convert(self, value: Any, param: object, ctx: object) -> tuple[str, ...]:  # noqa: ARG002 - click fixes it
        """Parse."""
        return value if isinstance(value, tuple) else tuple(part.strip() for part in str(value).split(","))
