"""The native operators under wrong and sound nodes, for every instruction set: a fault ends it, and nothing is written.

tests/native/fuzz_operators.c stands in for ONNX Runtime. It is built with the address and undefined-behaviour
sanitizers; for aarch64, where a cross compiler and qemu are installed, without them.

    python benchmarks/fuzz_native.py --out benchmarks/results
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from amtl_export.bench.machine import describe_machine, today
from amtl_export.files import write_json

ROOT = Path(__file__).resolve().parents[1]
NATIVE, TESTS = ROOT / "amtl_export" / "native", ROOT / "tests" / "native"
KERNELS = tuple(sorted(NATIVE.glob("kernels*.c")))
OPERATORS = (TESTS / "fuzz_operators.c", NATIVE / "register.c", NATIVE / "check.c")
CUDA = (*OPERATORS, TESTS / "cuda_on_cpu.c")

STRICT = ("-std=c11", "-Wall", "-Wextra", "-Werror", f"-I{NATIVE}")
SANITIZED = (*STRICT, "-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
#: For the test command: without what doubles the time that a compiler takes, and mostly repeats the address sanitizer.
QUICK = (*SANITIZED, "-fno-sanitize=null,object-size,pointer-overflow")
THREADED = (*STRICT, "-O1", "-g1", "-fsanitize=thread")
ARM_COMPILER, ARM_RUNNERS = "aarch64-linux-gnu-gcc", ("qemu-aarch64", "qemu-aarch64-static")

#: Instruction sets of x86-64; a library for another processor has `scalar` alone.
ISAS = ("scalar", "avx2", "avx512", "vnni")


def c_compiler() -> str | None:
    """The compiler that CC names, or cc."""
    return shutil.which(os.environ.get("CC", "cc"))


def build(compiler: str, flags: Sequence[str], sources: Sequence[Path], program: Path, objects: Path) -> Path:
    """Compile what is not yet among the objects, two at a time (sanitized kernels take a compiler long); link it."""
    objects.mkdir(parents=True, exist_ok=True)

    def compiled(source: Path) -> str:
        made = objects / f"{source.stem}.o"
        if not made.exists():
            subprocess.run([compiler, *flags, "-c", str(source), "-o", str(made)], check=True)
        return str(made)

    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(compiled, sources))
    subprocess.run([compiler, *flags, *made, "-lm", "-lpthread", "-o", str(program)], check=True)
    return program


def fuzz(program: Path, isa: str, cases: int, seed: int, *, runner: Sequence[str] = ()) -> dict[str, Any]:
    """What a program counts; an instruction set that is not available, or any fault, is an error.

    Raises:
        RuntimeError: with the program's words.
    """
    command = [*runner, str(program), str(cases), str(seed)]
    environment = os.environ | {"AMTL_FORCE_ISA": isa}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} with {isa} ended with {done.returncode}: {done.stderr[-4000:]}")
    counts: dict[str, Any] = json.loads(done.stdout)
    return counts


@dataclass(frozen=True)
class Target:
    """What is built and run.

    Attributes:
        name: of the processor's code: `x86-64`, `aarch64 (qemu)`, or `cuda (its threads on the CPU)`.
        isa: that is forced.
        compiler: C compiler.
        flags: its flags.
        sources: of the program.
        runner: what runs it, if it is not this processor.
        cases: how many.
    """

    name: str
    isa: str
    compiler: str
    flags: tuple[str, ...]
    sources: tuple[Path, ...]
    runner: tuple[str, ...]
    cases: int

    def counted(self, program: Path, parts: int) -> dict[str, Any]:
        """Run all cases, in parts side by side, each with a seed of its own."""
        begin = time.perf_counter()
        sizes = [self.cases // parts + (part < self.cases % parts) for part in range(parts)]

        def one(part: int) -> dict[str, Any]:
            return fuzz(program, self.isa, sizes[part], part + 1, runner=self.runner)

        with ThreadPoolExecutor(2) as pool:
            counts = list(pool.map(one, range(parts)))
        words: Counter[str] = Counter()
        for count in counts:
            words.update(count["words"])
        sanitizers = next((flag.split("=")[1] for flag in self.flags if flag.startswith("-fsanitize=")), "none")
        totals = {key: sum(count[key] for count in counts) for key in ("cases", "answered", "refused")}
        return {
            "processor": self.name,
            "isa": self.isa,
            "operators": counts[0]["operators"],
            "seeds": [1, parts],
            **totals,
            "sanitizers": sanitizers,
            "refused_because": dict(words.most_common()),
            "seconds": round(time.perf_counter() - begin, 1),
        }


def targets(cases: int, arm_cases: int) -> tuple[list[Target], dict[str, str]]:
    """What can be built here; and what cannot, with the reason."""
    compiler, missing = c_compiler(), {}
    if compiler is None:
        raise click.ClickException("no C compiler: install gcc or clang, or set CC")
    everything = (*OPERATORS, *KERNELS)
    found = [Target("x86-64", isa, compiler, SANITIZED, everything, (), cases) for isa in ISAS]
    cuda_flags = (*SANITIZED, "-DAMTL_CUDA")
    found.append(Target("cuda (its threads on the CPU)", "cuda", compiler, cuda_flags, CUDA, (), cases))
    runner = next((path for name in ARM_RUNNERS if (path := shutil.which(name))), None)
    cross = shutil.which(ARM_COMPILER)
    if cross is None or runner is None:
        missing["aarch64 (qemu)"] = f"not run: {ARM_COMPILER} and {ARM_RUNNERS[0]} are not both installed"
    else:
        flags = (*STRICT, "-O2", "-static")
        found.append(Target("aarch64 (qemu)", "scalar", cross, flags, everything, (runner,), arm_cases))
    return found, missing


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results"), show_default=True)
@click.option("--machine", default="cpu2", show_default=True, help="Short name in the file's name.")
@click.option("--cases", default=1_000_000, show_default=True, help="For each instruction set.")
@click.option("--arm-cases", default=50_000, show_default=True, help="For aarch64 under qemu.")
@click.option(
    "--parts", default=4, show_default=True, help="Seeds; two run at a time. Every fourth is ONNX Runtime 1.16."
)
def main(out: Path, machine: str, cases: int, arm_cases: int, parts: int) -> None:
    """Count, and write the counts; ends with the words of the first fault if there is one."""
    found, missing = targets(cases, arm_cases)
    counts, unavailable = [], dict(missing)
    with tempfile.TemporaryDirectory() as folder:
        for target in found:
            program = Path(folder) / target.name.split()[0]
            build(target.compiler, target.flags, target.sources, program, program.with_suffix(".objects"))
            try:
                fuzz(program, target.isa, 1, 1, runner=target.runner)
            except RuntimeError as error:
                if "names no instruction set" not in str(error):
                    raise
                unavailable[f"{target.name}, {target.isa}"] = "not run: this processor does not have it"
                continue
            counts.append(target.counted(program, parts))
            click.echo(json.dumps({key: value for key, value in counts[-1].items() if key != "refused_because"}))
    for name, reason in unavailable.items():
        click.echo(f"{name}: {reason}", err=True)
    compiler = subprocess.run([found[0].compiler, "--version"], capture_output=True, text=True, check=True).stdout
    command = f"python benchmarks/fuzz_native.py --cases {cases} --arm-cases {arm_cases} --parts {parts}"
    report = {"date": today(), "machine": describe_machine(), "compiler": compiler.splitlines()[0], "command": command}
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / f"{today()}-fuzz-native-{machine}.json", report | {"cases": counts, "not_run": unavailable})


if __name__ == "__main__":
    sys.exit(main())
