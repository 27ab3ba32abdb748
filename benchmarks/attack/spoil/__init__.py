"""Ways to spoil a folder that this tool wrote; sums are right again afterwards, so that contents alone are judged."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import onnx

from amtl_export.files import SUMS, write_sums
from attack.spoil.contents import flip, folder_for_file, lengthen, link, more_files, remove, sums, swap, truncate
from attack.spoil.graphs import GRAPHS, graph
from attack.spoil.values import column, key, numbers, sample, tensors, text

#: Changes a folder; False if it has nothing to change.
Spoil = Callable[[Path, random.Random], bool]

#: Kind → how, of bundles.
BUNDLES: dict[str, Spoil] = {
    **{"bits": flip, "truncated": truncate, "longer": lengthen, "missing": remove, "swapped": swap, "link": link},
    **{"no-file": folder_for_file, "more-files": more_files, "json-text": text, "json-key": key, "columns": column},
    **{"sums": sums, "graph": graph, "samples": sample},
}

#: Of runs, frozen folders and unfinished trainings.
RUNS: dict[str, Spoil] = {
    **{"bits": flip, "truncated": truncate, "longer": lengthen, "missing": remove, "swapped": swap, "link": link},
    **{"no-file": folder_for_file, "more-files": more_files, "json-text": text, "json-key": key, "columns": column},
    **{"tensors": tensors, "rows": numbers},
}


def _of_graph(change: Callable[[onnx.ModelProto, random.Random], None]) -> Spoil:
    def spoil(folder: Path, draw: random.Random) -> bool:
        model = onnx.load(str(folder / "model.onnx"), load_external_data=False)
        was = model.SerializeToString()
        change(model, draw)
        (folder / "model.onnx").write_bytes(now := model.SerializeToString())
        return bool(now != was)

    return spoil


#: Kind → how, of what `validate` must not pass.
TAMPERED: dict[str, Spoil] = {
    **{change.__name__.replace("_", "-"): _of_graph(change) for change in GRAPHS},
    **{"json-key": key, "columns": column, "samples": sample, "missing": remove, "swapped": swap, "link": link},
    **{"more-files": more_files, "sums": sums, "truncated": truncate, "json-text": text},
}


def seal(folder: Path) -> None:
    """Make the sums right again."""
    if (folder / SUMS).is_file():
        try:
            write_sums(folder)
        except OSError:
            return


def spoil(folder: Path, kinds: dict[str, Spoil], draw: random.Random) -> str:
    """Spoil a folder in one way or several; the kinds.

    Args:
        folder: a copy.
        kinds: to draw from.
        draw: what draws.
    """
    done: list[str] = []
    while not done:
        for _ in range(draw.choice((1, 1, 1, 2))):
            kind = draw.choice(sorted(kinds))
            try:
                changed = kinds[kind](folder, draw)
            except Exception:
                if not done:
                    raise
                continue  # it cannot read what another one has spoilt
            if changed:
                done.append(kind)
        if "sums" not in done and draw.random() < 0.9:
            seal(folder)
    return "+".join(done)
