"""Requests of one shape whose inputs and outputs stay where they are: in memory, or on the GPU.

It needs numpy and ONNX Runtime and nothing else, as `runtime.predictor`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from amtl_export.errors import InputError
from amtl_export.runtime.predictor import Arrays, Predictor
from amtl_export.runtime.session import onnxruntime


class Bound:
    """A bundle bound to inputs and outputs of fixed shapes (ONNX Runtime's IO binding); of one thread at a time.

    On CUDA, `run` moves nothing between the machine and the GPU, unless the tables are on the CPU; `copy_in` and
    `copy_out` do. With a graph number, and a predictor that was loaded with `Cuda(graphs=True)`, the first runs record
    a CUDA graph of these shapes, and later ones replay it; each `Bound` of a predictor needs a number of its own.

    Args:
        predictor: whose session runs.
        inputs: of the shapes that are bound; the first request.
        outputs: names; None for all.
        graph: number of the CUDA graph; None for none.

    Raises:
        InputError: an input or output does not fit; a text input, which cannot be bound; a graph number without
            `Cuda(graphs=True)`, or the other way round.
    """

    def __init__(
        self,
        predictor: Predictor,
        inputs: Mapping[str, npt.ArrayLike],
        outputs: Sequence[str] | None = None,
        *,
        graph: int | None = None,
    ) -> None:
        if texts := [spec.name for spec in predictor.inputs if spec.dtype == "object"]:
            raise InputError("texts cannot be bound", where=", ".join(texts), fix="encode them first")
        cuda = predictor.cuda
        if (graph is not None) != (cuda is not None and cuda.graphs):
            raise InputError(
                "a number of a CUDA graph goes with a session that records graphs",
                found=f"graph {graph}, {cuda or 'the CPU'}",
                fix='load(bundle, provider="cuda", cuda=Cuda(graphs=True))',
            )
        ort = onnxruntime()
        self._predictor = predictor
        prepared = predictor.prepare(inputs)
        self._shapes = {name: array.shape for name, array in prepared.items()}
        where = cuda.tables if cuda else "cpu"
        # Copies: on the CPU an OrtValue is the array that it is made from, and `copy_in` writes to it.
        self._inputs = {n: ort.OrtValue.ortvalue_from_numpy(a.copy(), where, 0) for n, a in prepared.items()}
        self._outputs: dict[str, Any] = {}
        self._binding = predictor.session.io_binding()
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        batch = next(size for tensor in predictor.inputs for size in _batch(tensor.shape, self._shapes[tensor.name]))
        for spec in predictor.outputs:
            if outputs is None or spec.name in outputs:
                shape = [batch if isinstance(size, str) else size for size in spec.shape]
                value = ort.OrtValue.ortvalue_from_shape_and_type(shape, np.dtype(spec.dtype), where, 0)
                self._outputs[spec.name] = value
                self._binding.bind_ortvalue_output(spec.name, value)
        if unknown := sorted(set(outputs or ()) - set(self._outputs)):
            raise InputError("an output is unknown", found=", ".join(unknown))
        self._options, self._unwaited = ort.RunOptions(), ort.RunOptions()
        self._unwaited.add_run_config_entry("disable_synchronize_execution_providers", "1")
        if cuda and cuda.graphs:
            for options in (self._options, self._unwaited):
                options.add_run_config_entry("gpu_graph_id", str(graph))

    def copy_in(self, inputs: Mapping[str, npt.ArrayLike]) -> None:
        """The next request.

        Raises:
            InputError: an input does not fit, or has another shape than the first request's.
        """
        for name, array in self._predictor.prepare(inputs).items():
            if array.shape != self._shapes[name]:
                raise InputError(
                    "an input has another shape than what is bound",
                    where=name,
                    found=array.shape,
                    allowed=self._shapes[name],
                )
            self._inputs[name].update_inplace(array)

    def run(self, *, wait: bool = True) -> None:
        """Answer what was copied in last; on CUDA without `wait` the answer may not be there yet."""
        self._predictor.session.run_with_iobinding(self._binding, self._options if wait else self._unwaited)

    def copy_out(self) -> Arrays:
        """The answers of the last run, as new arrays."""
        return {name: value.numpy().copy() for name, value in self._outputs.items()}


def _batch(shape: Sequence[str | int], sizes: Sequence[int]) -> list[int]:
    """The dynamic first dimension, if there is one."""
    return [sizes[0]] if isinstance(shape[0], str) else []
