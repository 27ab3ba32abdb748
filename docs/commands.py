"""Write docs/commands.md: every command and flag, from the commands themselves.

python docs/commands.py > docs/commands.md
"""

from __future__ import annotations

from collections.abc import Iterator

import click

from amtl_export.cli.main import cli

#: Options that every command has, described once.
SHARED = ("json_path", "quiet", "seed", "overwrite")

HEAD = """\
# Commands

Every command and every flag, as `--help` has them. `python docs/commands.py > docs/commands.md` writes this page.

Exit codes: 0 done, 1 a bug here, 2 wrong usage or bad input, 3 validation failed, 4 the environment lacks something,
5 a stated service level was missed, 130 interrupted.

A shell completes commands, flags, names and paths, with one line in its start-up file. For bash, in `~/.bashrc`:
`eval "$(_AMTL_EXPORT_COMPLETE=bash_source amtl-export)"`; for zsh, in `~/.zshrc`, the same with `zsh_source`; for
fish, in `config.fish`: `_AMTL_EXPORT_COMPLETE=fish_source amtl-export | source`.
"""


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """Name as it is typed, and command, in the order of `--help`."""
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


def line(option: click.Option, context: click.Context) -> str:
    """An option's line: its flags with what they take, and its help with the default."""
    named = option.get_help_record(context)
    assert named is not None
    flags, said = (" ".join(text.split()) for text in named)
    return f"- `{flags}`: {said.replace('<', '&lt;')}"


def section(name: str, command: click.Command) -> str:
    """A command's part of the page."""
    context = click.Context(command, info_name=f"amtl-export {name}")
    usage = " ".join(piece for piece in command.collect_usage_pieces(context) if piece != "[OPTIONS]")
    options = [p for p in command.params if isinstance(p, click.Option) and p.name not in SHARED and not p.hidden]
    text = "\n\n".join(" ".join(part.split()) for part in (command.help or "").split("\n\n"))
    lines = [f"## {name}", "", f"    amtl-export {name} {usage}".rstrip(), "", text]
    if options:
        lines += ["", *(line(option, context) for option in options)]
    return "\n".join(lines) + "\n"


def shared() -> str:
    """The options that every command has."""
    command = next(command for _, command in commands(cli))
    context = click.Context(command)
    options = [p for p in command.params if isinstance(p, click.Option) and p.name in SHARED]
    return "\n".join(["## Every command has", "", *(line(option, context) for option in options)]) + "\n"


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD, shared(), *(section(name, command) for name, command in commands(cli))])


if __name__ == "__main__":
    print(page(), end="")
