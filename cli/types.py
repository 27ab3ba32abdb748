"""Types of the commands' parameters: paths, names to choose from, lists separated by commas."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from amtl_export.data.schema_problems import nearest

if TYPE_CHECKING:
    Numbers = click.ParamType[tuple[int, ...]]
    Ratios = click.ParamType[tuple[float, ...]]
    Texts = click.ParamType[tuple[str, ...]]
    Words = click.ParamType[str]
else:  # before 8.4, click's types take no subscript
    Numbers = Ratios = Texts = Words = click.ParamType

FOLDER = click.Path(path_type=Path)
THREADS = click.IntRange(1, 4096)  # libraries do not survive more


def as_argument(path: Path | str) -> str:
    """A path as a command takes it; without "./", one that begins with "-" would be a flag."""
    return f"./{path}" if str(path).startswith("-") else str(path)


class _PathLike(Words):
    """A text that is most often a path: the shell completes it as one."""

    name = "text"

    def shell_complete(self, ctx: object, param: object, incomplete: str) -> list[CompletionItem]:  # noqa: ARG002 - click's
        """The files that begin so."""
        return [CompletionItem(incomplete, type="file")]


#: A trained model: a run's folder, a frozen one's, or `my_model.py:build`.
SOURCE = _PathLike()
#: Rows to train on: a named source, or a folder or file with a schema.
DATA = _PathLike()


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
