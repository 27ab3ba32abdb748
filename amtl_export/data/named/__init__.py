"""Public data sets by name, read from the files as published."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from amtl_export.data.named import criteo, ijcai18, movielens, taobao
from amtl_export.data.source import Source

#: Name → opens the source in the folder given by `path`. `synthetic` needs no folder and is not here.
NAMED: dict[str, Callable[[Path], Source]] = {
    "ml-1m": movielens.ml_1m,
    "ml-100k": movielens.ml_100k,
    "ijcai18": ijcai18.source,
    "taobao": taobao.source,
    "taobao-history": taobao.with_history,
    "criteo": criteo.source,
}
