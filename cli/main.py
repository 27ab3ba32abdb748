"""The entry point: commands are imported when called, errors become exit codes."""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
import traceback
from types import FrameType
from typing import NoReturn

import click

from amtl_export import __version__
from amtl_export.cli.lazy import LazyGroup
from amtl_export.cli.streams import take_any_text

_HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

bench = LazyGroup(
    "bench",
    help="Time training and inference, as ratios within one run.",
    context_settings=_HELP,
    lazy={
        "train": ("bench_train", "Seconds per epoch by method."),
        "infer": ("bench_infer", "A bundle against PyTorch and ONNX dense."),
        "server": ("bench_server", "Requests a second within a latency, here or behind a server."),
    },
)
data = LazyGroup(
    "data",
    help="Look at data before training on it.",
    context_settings=_HELP,
    lazy={"describe": ("data_describe", "Fields, vocabulary sizes, skew, label rate.")},
)


class _Root(LazyGroup):
    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return {"bench": bench, "data": data}.get(cmd_name) or super().get_command(ctx, cmd_name)


cli = _Root(
    "amtl-export",
    help="From a trained click-through model with adaptive embedding sizes to a small, fast, proven ONNX file.",
    context_settings=_HELP,
    lazy={
        "train": ("train", "Train a model from data."),
        "compress": ("compress", "Cut a trained model's tables to a part of their size, without training."),
        "freeze": ("freeze", "Turn a run into constants: rows, dims, backbone."),
        "export": ("export", "Write an ONNX bundle from a run, checked."),
        "validate": ("validate", "Prove that a bundle answers as its run does."),
        "score": ("score", "Score files of raw rows with a bundle."),
        "experiment": ("experiment", "The paper's comparisons over seeds, as one command."),
        "bench": ("", "Time training and inference."),
        "package": ("package", "Make a bundle a version of a model that Triton loads."),
        "inspect": ("inspect", "What a run or a bundle holds."),
        "report": ("report", "One HTML file on a bundle: verdict, bytes, dims, latency."),
        "compare": ("compare", "How two bundles differ."),
        "data": ("", "Look at data."),
        "doctor": ("doctor", "What is installed, and what each missing part costs."),
    },
)
click.version_option(__version__)(cli)


def main() -> NoReturn:
    """Run a command; exit codes: 0 done, 1 a bug here, 2 usage or input, 3 validation failed,
    4 the environment lacks something, 5 a service level was missed, 130 interrupted."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    take_any_text()
    importlib.import_module("amtl_export.runtime.session").quiet()  # what fails is said here
    code = run(sys.argv[1:])
    gc.freeze()  # no search for cycles in what the system takes back anyhow: with PyTorch that takes a second
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run a command line; the exit code."""
    _called[:] = arguments[:1]
    try:
        result = cli.main(arguments, prog_name="amtl-export", standalone_mode=False)
    except click.ClickException as error:
        if _signals:
            return _say_interrupted()
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _say_interrupted()
    except BrokenPipeError:
        return 0
    except Exception as error:
        # A library that was being imported may turn the interruption into an error of its own.
        return _say_interrupted() if _signals else _report(error)
    return result if isinstance(result, int) else 0


def _report(error: Exception) -> int:
    from amtl_export.errors import AmtlError, from_os_error, memory_error, os_error_within
    from amtl_export.extras import lacking

    if not isinstance(error, AmtlError) and (known := os_error_within(error)):
        error = from_os_error(known, "running the command")
    if isinstance(error, ModuleNotFoundError):
        error = lacking(error) or error
    error = memory_error(error) or error
    if isinstance(error, AmtlError):
        click.echo(f"error: {error}", err=True)
        return error.exit_code
    traceback.print_exception(error)
    click.echo("this is a bug in amtl-export; please report it with the lines above", err=True)
    return 1


#: Signals that asked for an end.
_signals: list[int] = []

#: The command that runs, and those that keep what they have done.
_called: list[str] = []
_GO_ON = ("train", "score", "experiment")


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    _signals.append(number)
    while frame is not None:
        if "importlib._bootstrap" in frame.f_code.co_filename:  # a library in C++ would abort, or swallow the exception
            importlib.import_module("amtl_export.interruptions").undo_all()
            os._exit(_say_interrupted())
        frame = frame.f_back
    raise KeyboardInterrupt


def _say_interrupted() -> int:
    how = "; the same command goes on from there" if _called and _called[0] in _GO_ON else ""
    click.echo(f"interrupted{how}", err=True)
    return 130
