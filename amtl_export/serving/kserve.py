"""KServe's `InferenceService` for a packaged model: its Triton runtime over a model repository in a store."""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from amtl_export.errors import EnvironmentLacks, InputError

#: Where KServe's Triton runtime finds what it fetched.
MOUNT = "/mnt/models"


class _Part(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class _Metadata(_Part):
    name: str


class _Format(_Part):
    name: str = "triton"


class _Model(_Part):
    model_format: _Format = _Format()
    runtime: str = "kserve-tritonserver"
    protocol_version: str = "v2"
    storage_uri: str
    args: list[str]


class _Predictor(_Part):
    model: _Model


class _Spec(_Part):
    predictor: _Predictor


class InferenceService(_Part):
    """The resource, `serving.kserve.io/v1beta1`."""

    api_version: str = "serving.kserve.io/v1beta1"
    kind: str = "InferenceService"
    metadata: _Metadata
    spec: _Spec


def inference_service(name: str, storage_uri: str) -> str:
    """The YAML of a model's service.

    Args:
        name: of the model; the service's name is the same in lower case, with `-` for `_` and `.`.
        storage_uri: of the model repository, such as `s3://bucket/models` or `pvc://claim/models`.

    Raises:
        InputError: Kubernetes cannot have the name.
        EnvironmentLacks: PyYAML is not installed.
    """
    try:
        import yaml
    except ImportError:
        raise EnvironmentLacks("PyYAML is not installed", fix="pip install 'amtl-export[serve]'") from None
    label = re.sub(r"[_.]", "-", name).lower()
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", label):
        raise InputError(
            "a service cannot have this name",
            found=repr(label),
            allowed="a letter first, at most 63 letters, digits, -",
        )
    model = _Model(storage_uri=storage_uri, args=[f"--load-model={name}", "--model-control-mode=explicit"])
    service = InferenceService(metadata=_Metadata(name=label), spec=_Spec(predictor=_Predictor(model=model)))
    values: dict[str, Any] = service.model_dump(by_alias=True)
    return str(yaml.safe_dump(values, sort_keys=False))
