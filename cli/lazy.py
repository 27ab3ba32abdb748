"""A group of commands that are imported when called."""

from __future__ import annotations

import importlib
from typing import Any

import click

from amtl_export.data.schema_problems import nearest

_PACKAGE = "amtl_export.cli"


class LazyGroup(click.Group):
    """A group whose commands are imported only when one of them runs or shows its help.

    Args:
        lazy: command name → (module, one line of help).
    """

    def __init__(self, *args: Any, lazy: dict[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click fixes it
        """In the order given."""
        return list(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click fixes it
        """Import the command's module."""
        if cmd_name not in self._lazy:
            return None
        command = importlib.import_module(f"{_PACKAGE}.{self._lazy[cmd_name][0]}").command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that is asked for; where there is none, the one that may be meant is named."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            if near := nearest(args[0], self.list_commands(ctx)):
                raise click.UsageError(f"{error.message} Did you mean {near!r}?", ctx) from None
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click fixes it
        """The commands' lines, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self._lazy.items()])
