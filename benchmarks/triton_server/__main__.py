"""Install the server, or run it in this process."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a folder: python benchmarks/triton_server

from triton_server import command, install

match sys.argv[1:]:
    case ["install", folder]:
        install(Path(folder))
    case ["serve", folder, repository, *options]:
        program, environment = command(Path(folder), Path(repository), *options)
        os.execve(program[0], program, environment)
    case _:
        sys.exit("python benchmarks/triton_server install FOLDER | serve FOLDER MODELS [options of tritonserver]")
