"""Errors of the library as the command line says them: parameters become flags."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import click

from amtl_export.errors import AmtlError, printable

#: `name=value` as Python writes it, the value a string, a number or a placeholder.
_GIVEN = re.compile(r"\b([a-z]\w*)=('[^']*'|[\w.…/-]*[\w…-])")


class Failed(click.ClickException):
    """An error of the library, in the command's words.

    Args:
        message: what is shown.
        exit_code: of the process.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click's own UsageError does so too

    def show(self, file: object = None) -> None:  # noqa: ARG002 - click fixes it
        """On standard error."""
        click.echo(f"error: {printable(self.message)}", err=True)


@contextmanager
def speaking_in_flags() -> Iterator[None]:
    """Errors of the library inside the block name the running command's flags."""
    try:
        yield
    except AmtlError as error:
        raise Failed(in_own_flags(str(error)), error.exit_code) from error


def flags(command: click.Command) -> dict[str, str]:
    """Parameter → its flag, the longest where it has several."""
    return {
        parameter.name: max(parameter.opts, key=len)
        for parameter in command.params
        if isinstance(parameter, click.Option) and parameter.name
    }


def in_own_flags(text: str) -> str:
    """A text of the library with the running command's flags."""
    return in_flags(text, flags(click.get_current_context().command))


def in_flags(text: str, flags: Mapping[str, str]) -> str:
    """`layout='paged'` → `--layout paged`, `overwrite=True` → `--overwrite`; other names stay."""

    def flag(match: re.Match[str]) -> str:
        name, value = match[1], match[2].strip("'")
        if name not in flags or value in ("None", "False"):
            return match[0]
        return flags[name] if value == "True" else f"{flags[name]} {value}"

    return _GIVEN.sub(flag, text)
