"""What pyproject.toml cannot say: the native operators for GPUs, built where NVIDIA's compiler is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).resolve().parent / "amtl_export" / "native"
LIBRARY = "amtl_ort_cuda.so"

#: Compiled by the C compiler for the GPU's library too.
SHARED = ("register", "check")


class BuildExt(build_ext):
    """Then `amtl_ort_cuda.so`, if nvcc is there; AMTL_EXPORT_CUDA=0 leaves it out, =1 makes its failure an error."""

    def run(self) -> None:
        """Build."""
        super().run()
        wanted = os.environ.get("AMTL_EXPORT_CUDA")
        nvcc = shutil.which(os.environ.get("NVCC", "nvcc"))
        if wanted == "0" or (nvcc is None and wanted != "1") or sys.platform != "linux":
            return
        target = Path(self.get_ext_fullpath("amtl_export.native.amtl_ort")).resolve().parent / LIBRARY
        try:
            if nvcc is None:
                raise OSError("no nvcc")
            build_cuda(nvcc, target, Path(self.build_temp))
        except (OSError, subprocess.CalledProcessError) as error:
            if wanted == "1":
                raise
            self.warn(f"the native operators for GPUs were not built: {error}")


def build_cuda(nvcc: str, target: Path, scratch: Path) -> None:
    """For each GPU from Turing on: Hopper's own code, and PTX that a driver compiles for the others."""
    scratch.mkdir(parents=True, exist_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    objects = [str(scratch / f"amtl_cuda_{name}.o") for name in SHARED]
    compiler = os.environ.get("CC", "cc")
    flags = ["-std=c11", "-O2", "-fPIC", "-fvisibility=hidden", "-DAMTL_CUDA"]
    for name, made in zip(SHARED, objects, strict=True):
        subprocess.run([compiler, *flags, "-c", str(HERE / f"{name}.c"), "-o", made], check=True)
    targets = ["-gencode=arch=compute_90,code=sm_90", "-gencode=arch=compute_75,code=compute_75"]
    how = ["-O3", "-shared", "-Xcompiler", "-fPIC,-fvisibility=hidden", "-cudart", "static", *targets]
    subprocess.run([nvcc, *how, str(HERE / "cuda_launch.cu"), *objects, "-o", str(target)], check=True)


setup(cmdclass={"build_ext": BuildExt})
