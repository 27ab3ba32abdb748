"""Tables of what large data costs: seconds, memory, rows a second."""

from __future__ import annotations

from collections.abc import Iterator

from figures import read


def encoded(name: str) -> Iterator[list[str]]:
    """CPU nanoseconds of a row, by how many values there are."""
    cases = read(name)["encode"]
    yield ["CPU ns a row", "10⁴ values", "10⁵", "10⁶"]
    titles = {
        "lookup_ns_per_row": "looked up",
        "read_ns_per_further_row": "read from Parquet, twice",
        "encode_ns_per_further_row": "read, counted and encoded",
    }
    for key, text in titles.items():
        for type in ("int64", "string"):
            yield [f"{type}, {text}", *(f"{case[key]:.0f}" for case in cases if case["type"] == type)]


def counted(name: str) -> Iterator[list[str]]:
    """A line for how much of what is counted is kept in memory."""
    yield ["counted values in memory", "peak of memory", "CPU"]
    for case in read(name)["count"]:
        limit = case["counted_bytes"]
        kept = f"at most {limit / 2**20:,.0f} MiB" if limit < 1 << 40 else "all"
        yield [kept, f"{case['peak_bytes'] / 2**20:,.0f} MiB", f"{case['encode_s']:.0f} s"]


def steps(name: str) -> Iterator[list[str]]:
    """A line for a shape of batch: milliseconds of a step, AMTL's against FBE's."""
    cases = read(name)["steps"]
    yield ["fields × batch, D", *(f"{m}, {o}" for o in ("Adam", "row-wise Adagrad") for m in ("FBE", "AMTL"))]
    for start in range(0, len(cases), 4):
        first, *_ = found = cases[start : start + 4]
        said = (f"{own['cpu_ms']:.1f} ms" + f" ({own['cpu_ratio']:.2f})" * (own["method"] == "amtl") for own in found)
        yield [f"{first['fields']} × {first['batch']:,}, {first['dim']}", *said]


def tables(name: str, ids: int) -> Iterator[list[str]]:
    """A line for a table: milliseconds of a step of each optimizer."""
    cases = [case for case in read(name)["tables"] if case["ids"] == ids]
    titles = {"adam": "Adam", "rowwise-adagrad": "row-wise Adagrad", "fbgemm rowwise-adagrad": "FBGEMM's, fused"}
    yield ["V × D", *titles.values()]
    for values, dim in dict.fromkeys((case["values"], case["dim"]) for case in cases):
        own = {case["subject"]: case["cpu_ms"] for case in cases if (case["values"], case["dim"]) == (values, dim)}
        yield [f"{values:,} × {dim}", *(f"{own[subject]:.1f} ms" for subject in titles)]


def mapped(name: str) -> Iterator[list[str]]:
    """A line for a command: seconds, and the most memory that the system could not take back."""
    cases = read(name)["cases"]
    yield ["", *(f"{case['values']:,} × {case['dim']}, {case['table_bytes'] / 2**30:.1f} GiB" for case in cases)]
    for number, own in enumerate(cases[0]["commands"]):
        said, *words = own["command"].split()
        kind = f" {words[0]}" if said == "validate" else f" {words[2]}" if said == "export" else ""
        found = [case["commands"][number] for case in cases]
        yield [
            f"`{said}`{kind}",
            *(f"{one['seconds']:.0f} s, {one['anonymous_bytes'] / 2**30:.2f} GiB" for one in found),
        ]


def grown(name: str) -> Iterator[list[str]]:
    """A line for an axis: each command at its largest point, and the exponent of its seconds."""
    result = read(name)
    slopes = {(o["axis"], o["command"]): o["exponent"] for o in result["exponents"] if o["of"] == "seconds"}
    commands = ("train", "freeze", "compress", "export", "validate")
    yield ["", *(f"`{command}`" for command in commands)]
    for axis in dict.fromkeys(case["axis"] for case in result["cases"]):
        cases = [case for case in result["cases"] if case["axis"] == axis]
        last = {own["command"].split()[0]: own for own in cases[-1]["commands"]}
        cells = [
            f"{own['seconds']:,.0f} s, {own['anonymous_bytes'] / 2**30:.1f} GiB ({slopes[axis, command]:.2f})"
            if (own := last.get(command))
            else ""
            for command in commands
        ]
        yield [f"{axis}, {cases[0]['number']:,} to {cases[-1]['number']:,}", *cells]


def scored(name: str) -> Iterator[list[str]]:
    """A line for what scores files."""
    result = read(name)
    parts = [result["compared"], result["full"]]
    yield ["", *(f"rows a second, {part['rows']:,} rows" for part in parts), "memory", "rows in order"]
    titles = {
        "score": "`score`",
        "score on ray": "`score --ray local`",
        "polars loop": "a loop of Polars and ONNX Runtime",
    }
    for subject, title in (titles | {"ray data": "Ray Data, two workers"}).items():
        found = [part["subjects"][subject] for part in parts]
        rates = (f"{own['rows_per_second']:,.0f}" for own in found)
        yield [title, *rates, f"{found[-1]['peak_bytes'] / 2**20:,.0f} MiB", "yes" if found[-1]["in_order"] else "no"]
