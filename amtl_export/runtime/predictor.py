"""Answering requests with a bundle, in Python: `load(bundle).predict(inputs)`.

This file, and what it imports, needs numpy and ONNX Runtime and nothing else: it travels with a model into servers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from amtl_export.errors import EnvironmentLacks, InputError
from amtl_export.native import HOW_TO_BUILD, library_path
from amtl_export.runtime.cuda import Cuda
from amtl_export.runtime.session import Provider, open_session, run
from amtl_export.spec import Feed, TensorSpec

#: ONNX Runtime's name of a type → numpy's.
_DTYPES = {
    "tensor(int64)": "int64", "tensor(int32)": "int32", "tensor(int16)": "int16", "tensor(int8)": "int8",
    "tensor(uint8)": "uint8", "tensor(bool)": "bool", "tensor(float)": "float32", "tensor(double)": "float64",
    "tensor(float16)": "float16", "tensor(string)": "object",
}  # fmt: skip

#: What an input takes, by the kind of its type: other integers are widened or checked, other numbers rounded.
_KINDS = {"i": "iu", "u": "iu", "f": "fiu", "b": "b", "O": "OUS"}

Arrays = Feed


class Predictor:
    """A bundle in ONNX Runtime. One may be shared by all threads of a process: nothing is kept between calls.

    Attributes:
        bundle: its folder.
        provider: cpu or cuda.
        cuda: how it runs on CUDA; None on the CPU.
        session: of ONNX Runtime.
        inputs: what `predict` takes.
        outputs: what it gives.
        metadata: `amtl.*` of the graph; ids must be those of the vocabularies with its `amtl.vocabulary_hash`.
    """

    def __init__(
        self,
        bundle: Path | str,
        *,
        provider: Provider = "cpu",
        threads: int = 1,
        native: bool | None = None,
        cuda: Cuda | None = None,
    ) -> None:
        self.bundle = Path(bundle)
        self.provider, self.cuda = provider, (cuda or Cuda()) if provider == "cuda" else None
        self.session = open_session(
            self.bundle / "model.onnx", provider=provider, threads=threads, native=native, cuda=cuda
        )
        try:
            self.metadata: dict[str, str] = dict(self.session.get_modelmeta().custom_metadata_map)
            self.inputs = tuple(_spec(value) for value in self.session.get_inputs())
            self.outputs = tuple(_spec(value) for value in self.session.get_outputs())
        except UnicodeDecodeError as error:
            raise InputError(
                "a name in the graph is not UTF-8", where=self.bundle / "model.onnx", found=error, fix="export it again"
            ) from None
        tables = self.cuda.tables if self.cuda else provider
        if native is None and self.native_operators and library_path(tables) is None:
            raise EnvironmentLacks(
                "the bundle has native operators, and their library is not there",
                where=bundle,
                found=", ".join(self.native_operators),
                fix=f"{HOW_TO_BUILD[tables]}; or native=False: as right, and several times slower",
            )
        self._given = [spec.name for spec in self.outputs]

    def check_vocabulary(self, vocabulary_hash: str) -> None:
        """Refuse ids of other vocabularies than the bundle's.

        Args:
            vocabulary_hash: of the vocabularies that a request was encoded with.

        Raises:
            InputError: another hash than the bundle's.
        """
        if vocabulary_hash != (allowed := self.metadata.get("amtl.vocabulary_hash")):
            raise InputError(
                "ids of another vocabulary",
                where="request",
                found=vocabulary_hash,
                allowed=allowed,
                fix="encode with encoder/ of the version that answers",
            )

    @property
    def native_operators(self) -> list[str]:
        """Operators of the graph that the native library computes."""
        return [name for name in self.metadata.get("amtl.operators", "").split(",") if name]

    def predict(self, inputs: Mapping[str, npt.ArrayLike], outputs: Sequence[str] | None = None) -> Arrays:
        """Answer one request.

        Args:
            inputs: name → array of `self.inputs`.
            outputs: names of the outputs wanted; None for all.

        Returns:
            name → new array, float32 `[batch]`.

        Raises:
            InputError: see `prepare` and `answer`.
        """
        return self.answer(self.prepare(inputs), outputs)

    def prepare(self, inputs: Mapping[str, npt.ArrayLike]) -> Arrays:
        """A request as the graph takes it.

        C-contiguous arrays of the input's own dtype are not copied; other integers are cast to int64, other numbers
        to float32. Texts may be str or UTF-8.

        Raises:
            InputError: an input is missing, unknown, of another kind of number or of a shape that does not fit.
        """
        if not isinstance(inputs, Mapping):
            raise InputError("a request is no mapping", found=type(inputs).__name__, allowed="input → array")
        if wrong := sorted(set(inputs) ^ {spec.name for spec in self.inputs}):
            raise InputError(
                "inputs are missing or unknown", where="request", found=", ".join(wrong), allowed=_names(self.inputs)
            )
        sizes: dict[str, int] = {}
        return {spec.name: _fitted(inputs[spec.name], spec, sizes) for spec in self.inputs}

    def answer(self, prepared: Arrays, outputs: Sequence[str] | None = None) -> Arrays:
        """The outputs of a prepared request; inputs are read in place, outputs are new arrays.

        Raises:
            InputError: an output is unknown, or none is wanted; the graph fails on the request.
        """
        wanted = self._given if outputs is None else [outputs] if isinstance(outputs, str) else list(outputs)
        if not wanted or not set(self._given).issuperset(wanted):
            found = ", ".join(map(str, wanted)) or "none"
            raise InputError("outputs that the graph does not give", found=found, allowed=_names(self.outputs))
        return run(self.session, wanted, prepared, where=self.bundle)


def load(
    bundle: Path | str,
    *,
    provider: Provider = "cpu",
    threads: int = 1,
    native: bool | None = None,
    cuda: Cuda | None = None,
) -> Predictor:
    """Open a bundle to answer requests.

    Args:
        bundle: its folder, or the model folder of a packaged version.
        provider: cpu or cuda.
        threads: for each request.
        native: None takes the native library where the bundle's operators need it, and is an error where it is missing;
            False leaves it out.
        cuda: how it runs on CUDA; None for the usual: no TF32, no CUDA graphs, the tables on the GPU.

    Raises:
        EnvironmentLacks: ONNX Runtime, the provider or the native library is missing.
        InputError: not a bundle; see `runtime.session.open_session`.
    """
    if not (Path(bundle) / "model.onnx").is_file():
        raise InputError("no such bundle", where=bundle, found="no model.onnx", fix="give a folder that export wrote")
    return Predictor(bundle, provider=provider, threads=threads, native=native, cuda=cuda)


def _spec(value: Any) -> TensorSpec:
    """ONNX Runtime's description of an input or output."""
    shape = tuple(size if isinstance(size, int) else str(size) for size in value.shape)
    if value.type not in _DTYPES:
        raise InputError("an input or output has a type that is not served", where=value.name, found=value.type)
    return TensorSpec(value.name, _DTYPES[value.type], shape)


def _names(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(spec.name for spec in specs)


def _text(value: Any, name: str) -> str:
    """A text of an input; servers hand over UTF-8."""
    if isinstance(value, str):
        return str(value)
    try:
        if isinstance(value, bytes):
            return value.decode()
    except UnicodeDecodeError as error:
        raise InputError("a text is not UTF-8", where=name, found=error) from None
    raise InputError("an input has another type", where=name, found=repr(value), allowed="texts; '' is missing")


def _fitted(values: npt.ArrayLike, spec: TensorSpec, sizes: dict[str, int]) -> npt.NDArray[Any]:
    """The input as the graph takes it; `sizes` gathers the dynamic dimensions."""
    dtype = np.dtype(spec.dtype)
    try:
        array = np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:  # the last of PyTorch, of a tensor with a gradient
        fix = "fill rows up to one length, as the signature says" if isinstance(error, ValueError) else None
        raise InputError("an input is no array", where=spec.name, found=error, allowed=spec.shape, fix=fix) from None
    if array.dtype.kind not in _KINDS[dtype.kind] and array.size:
        wanted = "texts" if spec.dtype == "object" else spec.dtype
        raise InputError("an input has another type", where=spec.name, found=array.dtype, allowed=wanted)
    if spec.dtype == "object":
        array = np.array([_text(value, spec.name) for value in array.flat], dtype=object).reshape(array.shape)
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise InputError("values are masked", where=spec.name, fix="fill them with what is missing there")
    _check_range(array, dtype, spec.name)
    fits = array.ndim == len(spec.shape) and all(
        size == (sizes.setdefault(expected, size) if isinstance(expected, str) else expected)
        for size, expected in zip(array.shape, spec.shape, strict=True)
    )
    if not fits:
        allowed = [sizes.get(size, size) if isinstance(size, str) else size for size in spec.shape]
        raise InputError("an input has a shape that does not fit", where=spec.name, found=array.shape, allowed=allowed)
    return np.asarray(array, dtype=dtype, order="C")


def _check_range(array: npt.NDArray[Any], dtype: np.dtype[Any], name: str) -> None:
    """Refuse whole numbers that a narrower type would change, and others that it would make infinite."""
    if dtype.kind == "f" and array.dtype.kind == "f" and array.dtype.itemsize > dtype.itemsize:
        most = np.finfo(dtype).max
        if (past := np.isfinite(array) & (np.abs(array) > most)).any():
            raise InputError(f"a number is past {dtype}", where=name, found=array[past][0], allowed=f"±{most}")
        return
    if dtype.kind not in "iu" or not array.size or np.can_cast(array.dtype, dtype):
        return
    limits = np.iinfo(dtype)
    low, high = int(array.min()), int(array.max())
    if low < limits.min or high > limits.max:
        raise InputError(
            f"an id is past {dtype}",
            where=name,
            found=high if high > limits.max else low,
            allowed=f"{limits.min}..{limits.max}",
        )
