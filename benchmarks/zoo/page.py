"""The table of the zoo for the docs, from a result."""

from __future__ import annotations

from typing import Any

STAGES = ("attach", "export", "validate", "answer", "done")
HEAD = ["", "attach", "export", "validate", "largest difference", "bundle, module, tables: bytes"]
PAGE = """# Models that export

{right} of {tried} models of {libraries} libraries export, pass validation and answer as in PyTorch.
The others are in the table too, each with the reason.

Each model has random weights and tables of some thousand rows. `attach` gets falling counts and halves the dims
(`initial_ratio=0.5`). The export uses the defaults, and validation compares it with the module. Then ONNX Runtime gets
77 fresh examples, fed by name: skewed ids, paddings among them. "Largest difference" is absolute, over all outputs. A
model is right up to 1e-5 of its largest answer. Bytes are those of the bundle's graph and weights, of the module's
parameters, and of the tables among these.

`make zoo` runs it. The figures: `{name}`, {date}, {cpu}; {versions}.

{table}
"""


def markdown(report: dict[str, Any], name: str) -> str:
    """The page: what was tried, how many are right, and a row a model."""
    cases, machine = report["cases"], report["machine"]
    versions = report["libraries"] | {key: machine["versions"][key] for key in ("torch", "onnxruntime", "numpy")}
    return PAGE.format(
        right=sum(case["right"] for case in cases),
        tried=len(cases),
        libraries=len(report["libraries"]),
        name=name,
        date=report["date"],
        cpu=machine["cpu"],
        versions=", ".join(f"{library} {version}" for library, version in versions.items()),
        table="\n".join(table(cases)),
    )


def table(cases: list[dict[str, Any]]) -> list[str]:
    """A head and a row a model, by library."""
    return ["| " + " | ".join(HEAD) + " |", "|---" * len(HEAD) + "|", *map(row, cases)]


def row(case: dict[str, Any]) -> str:
    """One model: yes or no a stage, and the reason in the place of figures where it stopped."""
    reached = STAGES.index(case["stage"]) if case["stage"] in STAGES else -1
    attach, export = ("yes" if reached > step else "no" if reached == step else "" for step in (0, 1))
    validate = "" if reached < 2 else "no" if reached == 2 or case["problems"] else "yes"
    cells = [f"{case['library']} {case['name']}", attach, export, validate, _difference(case), _bytes(case)]
    return "| " + " | ".join(cells) + " |"


def _difference(case: dict[str, Any]) -> str:
    if case["right"]:
        return f"{case['max_abs_diff']:.1e}"
    found = case["error"] or "; ".join(case["problems"] or []) or f"differs by {case['max_abs_diff']:.1e}"
    return str(case["reason"] or f"not explained: {found}").replace("|", "\\|")


def _bytes(case: dict[str, Any]) -> str:
    if not case.get("bytes_bundle"):
        return ""
    return f"{case['bytes_bundle']:,}, {case['bytes_parameters']:,}, {case['bytes_tables']:,}"
