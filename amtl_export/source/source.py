"""A trained model of a user's, and what its factory may say of it."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from amtl_export.errors import AmtlError, InputError
from amtl_export.files import real
from amtl_export.source.binding import DynamicShapes, bind, same_structure
from amtl_export.spec import Feed, TensorSpec

#: Inputs and their labels, batch by batch; of every split, or one for each. Labels are 0 or 1, `[B]`; of several
#: outputs a mapping, output → `[B]`.
Batches = Iterable[tuple[Any, Any]] | Callable[[], Iterable[tuple[Any, Any]]]
#: Output → what is known of its examples, float64 `[B]`, 0 or 1.
Labels = dict[str, npt.NDArray[np.float64]]
#: A split's name → its inputs as arrays, and their labels, batch by batch.
Labelled = Callable[[str], Iterator[tuple[Feed, Labels]]]


@dataclass(frozen=True)
class Source:
    """A trained model, and how it is called.

    Attributes:
        module: any `nn.Module`.
        example: what its forward takes, at least two rows: parameter name → value, or a tuple; values may be nested.
        outputs: names of what it gives, in order; None takes a dict's keys, or `output`, `output_0`, ….
        dynamic_shapes: input → axis → name of a dimension that may change; the batch is found without.
        batches: (inputs, labels) of examples with known outcome, for AUC; a mapping has them by split.
        counts: dotted name of an embedding → int64 `[V]`, training occurrences of every id.
        score: the output that the labels judge, or several, the main one first; None takes the first.
    """

    module: nn.Module
    example: Any
    outputs: Sequence[str] | None = None
    dynamic_shapes: DynamicShapes | None = None
    batches: Batches | Mapping[str, Batches] | None = None
    counts: Mapping[str, Any] | None = None
    score: str | Sequence[str] | None = None

    @property
    def scores(self) -> tuple[str, ...] | None:
        """The outputs that labels judge, as far as they are said."""
        return (self.score,) if isinstance(self.score, str) else tuple(self.score or ()) or None

    def labelled(self, inputs: Sequence[TensorSpec], scores: Sequence[str]) -> Labelled | None:
        """The labelled batches as arrays; None where there are none.

        Args:
            inputs: of the model.
            scores: outputs that labels judge.
        """
        if self.batches is None:
            return None
        splits = self.batches if isinstance(self.batches, Mapping) else {"": self.batches}
        # What can be gone through once alone is gone through here.
        kept = {split: list(own) if isinstance(own, Iterator) else own for split, own in splits.items()}
        return lambda split: self._arrays(split, kept, inputs, scores)

    def _arrays(
        self, split: str, splits: Mapping[str, Batches], inputs: Sequence[TensorSpec], scores: Sequence[str]
    ) -> Iterator[tuple[Feed, Labels]]:
        batches = splits.get(split, splits.get(""))
        if batches is None:
            raise InputError("the source has no such split", found=split, allowed=", ".join(splits))
        number = -1
        for number, batch in enumerate(batches() if callable(batches) else batches):
            if not isinstance(batch, (tuple, list)) or len(batch) != 2:
                raise InputError("a batch is no pair", where=f"batch {number}", allowed="(inputs, labels)")
            feed = same_structure(bind(self.module, batch[0]).feed, inputs)
            yield feed, labels_by_output(batch[1], scores, f"batch {number}")
        if number < 0:
            raise InputError("the source has no labelled examples", where=split or "batches", found="no batch")


def labels_by_output(given: Any, scores: Sequence[str], where: str) -> Labels:
    """Labels of a batch by the output that they judge.

    Args:
        given: `[B]`, or a mapping of outputs to such.
        scores: outputs that labels judge.
        where: for errors.

    Raises:
        InputError: there are labels of other outputs, or one is neither 0 nor 1.
    """
    named = given if isinstance(given, Mapping) else {scores[0]: given} if len(scores) == 1 else {}
    if set(named) != set(scores):
        found = ", ".join(map(str, given)) if isinstance(given, Mapping) else type(given).__name__
        raise InputError(
            "labels of other outputs than are scored",
            where=where,
            found=found,
            allowed=", ".join(scores) if len(scores) == 1 else f"a mapping with {', '.join(scores)}",
            fix="Source(…, score=[…]) says which outputs the labels judge",
        )
    return {score: _label(named[score], where) for score in scores}


def _label(given: Any, where: str) -> npt.NDArray[np.float64]:
    """Labels of one output as float64 `[B]`.

    Raises:
        InputError: there are none, or one is neither 0 nor 1.
    """
    if given is None:
        raise InputError(
            "a batch has no labels",
            where=where,
            allowed="0 and 1",
            fix="give them, or leave batches out; compress(…, dim_budget=R, batches=…) alone takes some without",
        )
    known = given.detach().cpu() if isinstance(given, Tensor) else given
    try:
        labels = np.asarray(known, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError) as error:
        raise InputError("labels are no numbers", where=where, found=error, allowed="0 and 1") from None
    if wrong := sorted(set(np.unique(labels).tolist()) - {0.0, 1.0}):
        raise InputError("labels are not 0 and 1", where=where, found=wrong[:5], allowed="0 and 1")
    return labels


def source_of(value: Any, where: object) -> Source:
    """What a factory gave: a `Source`, (module, example), (module, example, batches), or a dict of a `Source`'s fields.

    Raises:
        InputError: none of these.
    """
    names = [field.name for field in fields(Source)]
    if isinstance(value, tuple) and 2 <= len(value) <= 3:
        value = dict(zip(("module", "example", "batches"), value, strict=False))
    if isinstance(value, dict) and {"module", "example"} <= set(value) <= set(names):
        value = Source(**value)
    if not isinstance(value, Source) or not isinstance(value.module, nn.Module):
        raise InputError(
            "the factory gives no model",
            where=where,
            found=sorted(value) if isinstance(value, dict) else type(value).__name__,
            allowed="amtl_export.Source(module=…, example=…), or the tuple (module, example)",
        )
    return value


def is_factory(text: str) -> bool:
    """Whether a text names a function: `my_model.py:build` or `package.module:build`."""
    file, _, function = text.rpartition(":")
    return bool(file) and function.isidentifier() and (file.endswith(".py") or "/" not in file)


def absolute(factory: str) -> str:
    """A factory's file wherever the command runs that calls it again."""
    file, _, function = factory.rpartition(":")
    return f"{real(file)}:{function}" if file.endswith(".py") else factory


def build(text: str) -> Source:
    """Call the factory that a text names.

    Args:
        text: `file.py:function`, or `package.module:function`.

    Raises:
        InputError: file, module or function are not there, the function fails, or it gives no model.
    """
    file, _, name = text.rpartition(":")
    try:
        module = _imported(file)
        factory = getattr(module, name, None)
        if not callable(factory):
            raise InputError("the factory is not there", where=file, found=name, allowed=_functions(module))
        _refuse_arguments(factory, text)
        return source_of(factory(), text)
    except AmtlError:
        raise
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        ends = isinstance(error, SystemExit)
        raise InputError(
            "the factory failed",
            where=f"{text}{_line(error)}",
            found=f"{type(error).__name__}: {error}",
            fix="raise an error instead; a program goes under if __name__ == '__main__':" if ends else None,
        ) from error


def _refuse_arguments(factory: Callable[..., Any], text: str) -> None:
    try:
        signature = inspect.signature(factory)
    except ValueError:  # some that are written in C have none
        return
    try:
        signature.bind()
    except TypeError:
        raise InputError(
            "the factory needs arguments",
            where=text,
            found=f"{text.rpartition(':')[2]}{signature}",
            allowed="a function that is called without any",
            fix="write one that calls it with yours",
        ) from None


def _line(error: BaseException) -> str:
    """The line that failed, for people; nothing where it is none of the user's."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({Path(error.filename).name}, line {error.lineno})"
    frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    lines = [
        f" ({Path(name).name}, line {number})"
        for name, number in frames
        if name not in (__file__, importlib.__file__) and not name.startswith("<frozen importlib")
    ]
    return lines[-1] if lines else ""


def _imported(file: str) -> Any:
    if not file.endswith(".py"):
        sys.path.insert(0, "")  # the current folder, as `python -m` has it
        try:
            return importlib.import_module(file)
        finally:
            sys.path.remove("")
    path = Path(file)
    if not path.is_file():
        raise InputError("no such file", where=file, fix="give my_model.py:build, a file and a function in it")
    folder = str(real(path).parent)
    sys.path.insert(0, folder)  # so that it finds its neighbours
    try:
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules.setdefault(path.stem, module)  # dataclasses look their module up
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(folder)


def _functions(module: Any) -> str:
    return ", ".join(name for name, value in vars(module).items() if callable(value) and not name.startswith("_"))
