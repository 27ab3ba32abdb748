"""The models of the libraries that are installed."""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings

from entry import Model

LIBRARIES = {  # distribution → the file with its models
    "torch-rechub": "models_rechub",
    "deepctr-torch": "models_deepctr",
    "recbole": "models_recbole",
    "fuxictr": "models_fuxictr",
    "pytorch-widedeep": "models_widedeep",
    "torchrec": "models_torchrec",
}


def models(library: str) -> list[Model]:
    """Its models; ImportError when the library, or something that it needs, is not installed."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        found: list[Model] = importlib.import_module(LIBRARIES[library]).MODELS
    return found


def find(key: str) -> Model:
    """The model called `library/name`."""
    library, _, name = key.partition("/")
    return next(model for model in models(library) if model.name == name)
