"""A model that encodes, a model that scores, and the ensemble that asks one version of each."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from amtl_export.files import atomic_folder, write_json
from amtl_export.graph.raw_field import encoded_name
from amtl_export.serving.model_folder import ModelFolder, Packaged, next_version, write_client, write_mark
from amtl_export.serving.triton_config import Step, ensemble_config

#: What the folder's mark says that it is.
ENSEMBLE = "triton-ensemble"


@dataclass
class Ensemble:
    """An ensemble's folder.

    Ids of one version's vocabulary mean nothing to another version's tables. So the ensemble names the versions of the
    two models that it asks, which serve their two newest: a new version of them is not asked before the ensemble's
    configuration names it, and that is replaced last.

    Attributes:
        model: the folder.
        encoder: values → ids.
        scorer: ids → scores.
        files: further files of the folder → their text.
    """

    model: Path
    encoder: ModelFolder
    scorer: ModelFolder
    files: Mapping[str, str]
    _steps: list[Step] = field(default_factory=list)

    def add(self, drafts: ExitStack) -> Packaged:
        """Add a version of all three; `point_to_latest` is due once `drafts` is left without an error.

        Raises:
            InputError: what is there is configured otherwise, or was not made by this tool.
            EnvironmentLacks: no disk space; no permission.
        """
        version = next_version(self.model, self.files, ENSEMBLE)
        draft = drafts.enter_context(atomic_folder(self.model if version.version == 1 else version.path))
        self._steps = self._asked(self.encoder.add(drafts), self.scorer.add(drafts))
        versions = {step.name: step.version for step in self._steps}
        if version.version == 1:
            for file, text in {**self.files, "config.pbtxt": self._config()}.items():
                (draft / file).write_text(text, encoding="utf-8")
            self._write_client(draft)
            write_mark(draft, ENSEMBLE)
            (draft / "1").mkdir()
            write_json(draft / "1" / "steps.json", versions)
        else:
            write_json(draft / "steps.json", versions)
        return version

    def point_to_latest(self) -> None:
        """Replace the configuration by one that names the versions of the last `add`."""
        draft = self.model / ".config.pbtxt.part"
        draft.write_text(self._config(), encoding="utf-8")
        draft.replace(self.model / "config.pbtxt")

    def _asked(self, encoder: Packaged, scorer: Packaged) -> list[Step]:
        raw, ids = self.encoder.opened, self.scorer.opened
        given = {spec.name for spec in raw.outputs}
        return [
            Step(
                encoder.model.name,
                encoder.version,
                {spec.name: spec.name for spec in raw.inputs},
                {spec.name: spec.name for spec in raw.outputs},
            ),
            Step(
                scorer.model.name,
                scorer.version,
                {s.name: encoded_name(s.name) if encoded_name(s.name) in given else s.name for s in ids.inputs},
                {spec.name: spec.name for spec in ids.outputs},
            ),
        ]

    def _config(self) -> str:
        raw, ids = self.encoder.opened, self.scorer.opened
        taken = {spec.name for spec in raw.inputs}
        inputs = [*raw.inputs, *(s for s in ids.inputs if s.dtype == "float32" and s.name not in taken)]
        return ensemble_config(self.model.name, inputs, ids.outputs, self._steps, self.scorer.server.max_batch)

    def _write_client(self, folder: Path) -> None:
        numbers = {n: np.nan_to_num(v) for n, v in self.scorer.sample.items() if v.dtype == np.float32}
        raw = self.encoder.sample | {n: v for n, v in numbers.items() if n in self.encoder.sample}
        found = self.encoder.opened.predict(raw)
        given = {
            s.name: found[encoded_name(s.name)] for s in self.scorer.opened.inputs if encoded_name(s.name) in found
        }
        answers = self.scorer.opened.predict(numbers | given)
        write_client(folder, raw | numbers, answers, batched=self.scorer.server.max_batch > 0)
