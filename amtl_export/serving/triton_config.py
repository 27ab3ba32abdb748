"""`config.pbtxt` of Triton Inference Server, through Triton's own protobuf classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from amtl_export.errors import EnvironmentLacks
from amtl_export.runtime.predictor import Predictor
from amtl_export.spec import DATATYPES, TensorSpec

Backend = Literal["onnxruntime", "python"]
Device = Literal["cpu", "gpu"]

#: numpy's name of a type → Triton's.
_TYPES = {name: f"TYPE_{own}" for name, own in DATATYPES.items()} | {"object": "TYPE_STRING"}


@dataclass(frozen=True)
class WarmUp:
    """A request that a server answers before it says that it is ready.

    Attributes:
        name: for the server's log.
        batch: rows; Triton repeats the one row of the files.
        files: input → (file in the model's `warmup` folder, shape without the batch).
    """

    name: str
    batch: int
    files: dict[str, tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class ServerConfig:
    """How a server runs a model.

    Attributes:
        backend: onnxruntime (in NVIDIA's container), or python, with onnxruntime installed in the server's Python.
        device: cpu or gpu.
        max_batch: rows of one run at most; 0 where inputs are given once per request, which cannot be batched together.
        queue_us: how long the batcher waits for more requests, µs.
        instances: that answer at the same time. Each of the ONNX Runtime backend has weights of its own, but for what
            is mapped from the file; each of the Python backend is a process.
        threads: of each instance, for one run.
        library: the native operators' file, where the server finds it; None without.
        versions: the newest ones, that are ready at the same time.
    """

    backend: Backend
    device: Device
    max_batch: int
    queue_us: int
    instances: int
    threads: int
    library: str | None
    versions: int = 1


def protobuf() -> tuple[Any, Any]:
    """Triton's `model_config_pb2`, and protobuf's text format.

    Raises:
        EnvironmentLacks: tritonclient is not installed.
    """
    try:
        from google.protobuf import text_format
        from tritonclient.grpc import model_config_pb2
    except ImportError:
        raise EnvironmentLacks("tritonclient is not installed", fix="pip install 'amtl-export[serve]'") from None
    return model_config_pb2, text_format


def model_config(name: str, model: Predictor, config: ServerConfig, warm_up: Sequence[WarmUp]) -> str:
    """The text of a model's `config.pbtxt`.

    Raises:
        EnvironmentLacks: tritonclient is not installed.
    """
    messages, text_format = protobuf()
    proto = messages.ModelConfig(name=name, backend=config.backend, max_batch_size=config.max_batch)
    proto.version_policy.latest.num_versions = config.versions
    for entries, tensors in ((proto.input, model.inputs), (proto.output, model.outputs)):
        for tensor in tensors:
            _add_tensor(messages, entries, tensor, batched=config.max_batch > 0)
    group = proto.instance_group.add(count=config.instances)
    group.kind = (
        messages.ModelInstanceGroup.KIND_GPU if config.device == "gpu" else messages.ModelInstanceGroup.KIND_CPU
    )
    if config.device == "gpu":
        group.gpus.append(0)  # unsaid, every GPU of the machine would get a copy
    if config.max_batch:
        proto.dynamic_batching.max_queue_delay_microseconds = config.queue_us
    for key, value in _parameters(config).items():
        proto.parameters[key].string_value = value
    if config.library and config.backend == "onnxruntime":
        proto.model_operations.op_library_filename.append(config.library)
    types = {tensor.name: _TYPES[tensor.dtype] for tensor in model.inputs}
    for sample in warm_up:
        entry = proto.model_warmup.add(name=sample.name, batch_size=sample.batch)
        for input_name, (file, shape) in sample.files.items():
            entry.inputs[input_name].data_type = messages.DataType.Value(types[input_name])
            entry.inputs[input_name].dims.extend(shape)
            entry.inputs[input_name].input_data_file = file
    return str(text_format.MessageToString(proto))


@dataclass(frozen=True)
class Step:
    """A model of an ensemble.

    Attributes:
        name: of the model.
        version: of it, which the ensemble asks.
        inputs: its input → the ensemble's tensor.
        outputs: its output → the ensemble's tensor.
    """

    name: str
    version: int
    inputs: dict[str, str]
    outputs: dict[str, str]


def ensemble_config(
    name: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], steps: Sequence[Step], max_batch: int
) -> str:
    """The text of an ensemble's `config.pbtxt`: models that answer one after the other.

    Raises:
        EnvironmentLacks: tritonclient is not installed.
    """
    messages, text_format = protobuf()
    proto = messages.ModelConfig(name=name, platform="ensemble", max_batch_size=max_batch)
    proto.version_policy.latest.num_versions = 1
    for entries, tensors in ((proto.input, inputs), (proto.output, outputs)):
        for tensor in tensors:
            _add_tensor(messages, entries, tensor, batched=max_batch > 0)
    for tensor in (*proto.input, *proto.output):
        tensor.ClearField("reshape")  # its models do that
    for step in steps:
        entry = proto.ensemble_scheduling.step.add(model_name=step.name, model_version=step.version)
        entry.input_map.update(step.inputs)
        entry.output_map.update(step.outputs)
    return str(text_format.MessageToString(proto))


def _parameters(config: ServerConfig) -> dict[str, str]:
    common = {"intra_op_thread_count": str(config.threads), "inter_op_thread_count": "1"}
    if config.backend == "onnxruntime":
        return common
    provider = "cuda" if config.device == "gpu" else "cpu"
    return common | {"provider": provider, "native": "true" if config.library else "false"}


def _add_tensor(messages: Any, tensors: Any, tensor: TensorSpec, *, batched: bool) -> None:
    added = tensors.add(name=tensor.name, data_type=messages.DataType.Value(_TYPES[tensor.dtype]))
    sizes = [-1 if isinstance(size, str) else size for size in tensor.shape]
    if not batched:
        added.dims.extend(sizes)
    elif sizes[1:]:
        added.dims.extend(sizes[1:])
    else:  # Triton has no output without a dimension: it says [batch, 1], the graph [batch]
        added.dims.append(1)
        added.reshape.SetInParent()
