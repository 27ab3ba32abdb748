"""What pyproject.toml cannot say: the library's name, the wheel's tag, and the native operators for GPUs.

The native operators are no Python extension: ONNX Runtime loads them, whatever Python runs it. So the library has one
name, `amtl_ort.so`, and a wheel is for a platform and for every Python 3.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).resolve().parent / "amtl_export" / "native"
LIBRARY, CUDA_LIBRARY = "amtl_ort.so", "amtl_ort_cuda.so"

#: Compiled by the C compiler for the GPU's library too.
SHARED = ("register", "check")


class BuildExt(build_ext):
    """`amtl_ort.so`, then `amtl_ort_cuda.so`, if nvcc is there.

    AMTL_EXPORT_CUDA=0 leaves the second out, =1 makes its failure an error.
    """

    def get_ext_filename(self, fullname: str) -> str:
        """Of the one extension: no suffix of a Python."""
        *folders, _ = fullname.split(".")
        return str(Path(*folders, LIBRARY))

    def run(self) -> None:
        """Build."""
        super().run()
        wanted = os.environ.get("AMTL_EXPORT_CUDA")
        nvcc = shutil.which(os.environ.get("NVCC", "nvcc"))
        if wanted == "0" or (nvcc is None and wanted != "1") or sys.platform != "linux":
            return
        target = Path(self.get_ext_fullpath("amtl_export.native.amtl_ort")).resolve().parent / CUDA_LIBRARY
        try:
            if nvcc is None:
                raise OSError("no nvcc")
            build_cuda(nvcc, target, Path(self.build_temp))
        except (OSError, subprocess.CalledProcessError) as error:
            if wanted == "1":
                raise
            self.warn(f"the native operators for GPUs were not built: {error}")


class Wheel(bdist_wheel):
    """For every Python 3, on this platform."""

    def get_tag(self) -> tuple[str, str, str]:
        """`py3-none-PLATFORM`."""
        _, _, platform = super().get_tag()
        return "py3", "none", platform


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


setup(cmdclass={"build_ext": BuildExt, "bdist_wheel": Wheel})
