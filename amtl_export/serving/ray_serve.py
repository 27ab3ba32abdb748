"""A bundle in Ray Serve, for when one machine is not enough.

    serve run amtl_export.serving.ray_serve:app bundle=/models/ctr name=ctr replicas=2

It answers the Open Inference Protocol v2 as JSON, at `/v2/models/NAME/infer`. Each replica is a process; those of one
machine map the same file, so that its tables are in memory once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from amtl_export.errors import EnvironmentLacks, InputError
from amtl_export.files import real
from amtl_export.runtime.predictor import Arrays, load
from amtl_export.serving.open_inference import answer, metadata

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response


class Settings(BaseModel):
    """What `serve run` takes after the application's name.

    Attributes:
        bundle: its folder, where each machine finds it; its path as it is here if it is relative.
        name: of the model, in addresses.
        replicas: processes that answer.
        provider: cpu or cuda.
        threads: of ONNX Runtime, for one request.
        native: see `runtime.predictor.load`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    bundle: Path
    name: str = "ctr"
    replicas: int = Field(default=1, ge=1)
    provider: Literal["cpu", "cuda"] = "cpu"
    threads: int = Field(default=1, ge=1)
    native: bool | None = None


class Replica:
    """A bundle that answers over HTTP, and to `handle.predict.remote(inputs)` of other deployments."""

    def __init__(self, settings: Settings) -> None:
        self._name = settings.name
        self._predictor = load(
            settings.bundle, provider=settings.provider, threads=settings.threads, native=settings.native
        )

    async def predict(self, inputs: Arrays) -> Arrays:
        """The outputs for arrays; see `runtime.predictor.Predictor.predict`."""
        return await asyncio.to_thread(self._predictor.predict, inputs)

    async def __call__(self, request: Request) -> Response:
        """Health, metadata, inference."""
        from starlette.responses import JSONResponse

        path, model = request.url.path.rstrip("/"), f"/v2/models/{self._name}"
        if path in ("/v2/health/live", "/v2/health/ready", f"{model}/ready"):
            return JSONResponse({})
        if path == model:
            return JSONResponse(metadata(self._name, self._predictor))
        if path != f"{model}/infer":
            return JSONResponse({"error": f"nothing at {path}; there is {model}/infer"}, 404)
        body = await request.body()
        try:
            return JSONResponse(await asyncio.to_thread(answer, self._name, self._predictor, body))
        except InputError as error:
            return JSONResponse({"error": str(error)}, 400)


def app(settings: Mapping[str, Any]) -> Any:
    """The application, for `ray.serve.run` or `serve run`.

    Args:
        settings: what `Settings` has, texts as `serve run` hands them over or values.

    Raises:
        EnvironmentLacks: Ray Serve is not installed.
        InputError: an unknown setting, or no such bundle.
    """
    try:
        given = Settings.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(
            "a setting cannot be used",
            where=".".join(map(str, first["loc"])),
            found=f"{first['input']!r}: {first['msg']}",
            allowed=", ".join(Settings.model_fields),
        ) from None
    given = given.model_copy(update={"bundle": real(given.bundle)})
    load(given.bundle, provider=given.provider, native=given.native)
    try:
        from ray import serve
    except ImportError:
        raise EnvironmentLacks("Ray Serve is not installed", fix="pip install 'amtl-export[ray]'") from None
    deployment = serve.deployment(
        name=given.name,
        num_replicas=given.replicas,
        ray_actor_options={"num_cpus": given.threads, "num_gpus": int(given.provider == "cuda")},
    )(Replica)
    return deployment.bind(given)
