"""Every command and snippet of the README and of docs/ runs as pasted, beside an installed wheel, or says why not.

A clone goes through several pages, in order: those after the first go on with what it made.
"""

from __future__ import annotations

import re
import socket
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from triton_server import free_ports

from amtl_export.data.schema import Schema

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
#: Name under docs/ → file. docs/commands.md is written from the commands, which tests/test_docs.py checks.
PAGES = {
    "README.md": ROOT / "README.md",
    **{path.relative_to(DOCS).as_posix(): path for path in sorted(DOCS.rglob("*.md")) if path.name != "commands.md"},
}

#: What a reader of the README goes on with, of training.md, and of own-model.md; gpu.md asks for a card.
FIRST = ("README.md", "compress.md", "bundle.md", "score.md", "scale.md")
SERVED = ("training.md", "serving.md")
OWN = ("own-model.md",)
GPU = ("gpu.md",)

#: How a command begins that does not run here → why.
NOT_RUN = {
    "pip ": "changes the environment; test_install.py and make venv install",
    "python3 -m pip ": "changes the environment; test_install.py and make venv install",
    "AMTL_EXPORT_CUDA=1 python3 -m pip ": "changes the environment; test_install.py and make venv install",
    "make demo": "bench/test_scripts.py runs what it runs",
    "make test": "runs this",
    "make triton": "the fixture has what it makes",
    "docker run ": "NVIDIA's container, of many gigabytes",
    "serve run ": "serving/test_ray.py runs it, with ports of its own",
    "python benchmarks/gpu ": "minutes; bench/test_scripts.py runs it, short and on the CPU",
    "python3 benchmarks/gpu ": "minutes; bench/test_scripts.py runs it, short and on the CPU",
    "python3 -m pytest -m gpu": "the tests with that mark",
    "amtl-export score bundles/first --data lake --out scores-all.parquet --ray 10.0.0.5:6379": "another's cluster",
    "amtl-export experiment table1 --data synthetic:rows=20000,values=500 --ray 10.0.0.5:6379": "another's cluster",
}

#: Part of a page → why it does not run here.
PARTS_NOT_RUN = {("own-model.md", "A SASRec of RecBole"): "RecBole's pins are its own; make zoo exports its SASRec"}

#: What a command may end with besides 0: the load that it states may be missed on a busy machine.
ENDS = {"amtl-export bench server ": 5}

#: Programs that a line can begin with; only fenced blocks may show them.
PROGRAMS = "amtl-export|python3?|pip|make|torchrun|serve|docker|git|curl|tritonserver|AMTL_[A-Z]+=|from|import"


@dataclass(frozen=True)
class Block:
    """Of a page.

    Attributes:
        part: heading that it stands under.
        kind: sh, python, toml or text.
        file: that a reader writes it to.
    """

    part: str
    kind: str
    file: str
    text: str

    def commands(self) -> list[str]:
        """Lines as the shell takes them."""
        lines = self.text.replace("\\\n", "").splitlines()
        return [line for line in lines if line and not line.startswith("#")]


def blocks(page: str, text: str | None = None) -> Iterator[Block]:
    """In order."""
    if text is None:
        text = PAGES[page].read_text(encoding="utf-8")
    for part in re.split(r"(?m)^(?=#+ )", re.sub(r"(?ms)^```.*?^```$", lambda m: m[0].replace("\n#", "\n\0#"), text)):
        heading = part.partition("\n")[0].lstrip("# ")
        for found in re.finditer(r"(?ms)(?:^Write `(\w+\.py)`:\n\n)?^```(\w*)\n(.*?)^```$", part.replace("\0", "")):
            written = re.match(r"# (\w+\.py)\n", found[3])
            yield Block(heading, found[2], found[1] or (written[1] if written else ""), found[3])


def reason(command: str) -> str | None:
    """Why a command does not run here."""
    return next((why for begins, why in NOT_RUN.items() if command.startswith(begins)), None)


def script(page: str) -> str:
    """A page as bash goes through it: what is pasted, to the letter."""
    lines = ["set -e", "trap 'kill $(jobs -p) 2> /dev/null || true' EXIT"]  # a server ends with the page
    for number, block in enumerate(blocks(page)):
        if (page, block.part) in PARTS_NOT_RUN:
            continue
        if block.kind == "python":
            end = f"END_OF_BLOCK_{number}"
            told = f"cat > {block.file}" if block.file else "code=$(cat"
            lines += [f"{told} <<'{end}'", block.text + end, *([] if block.file else [")", 'python -c "$code"'])]
        elif block.kind == "sh":
            for command in block.commands():
                if reason(command) is None:
                    allowed = next((code for begins, code in ENDS.items() if command.startswith(begins)), None)
                    lines += ["set -x", command, "{ set +x; } 2> /dev/null"]
                    if allowed:
                        lines[-2] = command.partition("   #")[0] + f" || [ $? = {allowed} ]"
    return "\n".join([*lines, ""])


def go_through(pages: tuple[str, ...], outside: Any, clone: Path, changed: Callable[[str], str] = str) -> None:
    """Run pages in order, as a reader does."""
    for page in pages:
        (clone.parent / "page.sh").write_text(changed(script(page)), encoding="utf-8")
        done = outside.run("bash", str(clone.parent / "page.sh"), cwd=clone)
        assert done.returncode == 0, f"{page}\n{done.stdout}{done.stderr}"


def left(clone: Path) -> set[str]:
    """What git neither knows nor ignores."""
    words = ["git", "status", "--short"]
    done = subprocess.run(words, cwd=clone, capture_output=True, text=True, check=True)
    return set(done.stdout.split()) - {"??"}


def test_the_readme_and_what_goes_on_from_it(outside: Any, clone: Path) -> None:
    go_through(FIRST, outside, clone)
    scores = {path.name: path.read_bytes() for path in clone.glob("scores*.parquet")}
    assert scores["scores.parquet"] == scores["scores-ray.parquet"]
    assert left(clone) == {
        "my_model.py", "mine.html", "repository/", "first.html", "lake/", "experiments/", *scores
    }  # fmt: skip


def test_from_data_to_a_server(outside: Any, clone: Path, triton: Path) -> None:
    """The last command asks a real server; a wrong answer of it would be told."""
    (clone / ".triton").symlink_to(triton)
    go_through(SERVED, outside, clone, on_free_ports)
    assert left(clone) == {".triton", "repository/", "served/", "load.png"}


def on_free_ports(text: str) -> str:
    """The page's own if nobody listens there."""
    for port in (8000, 8001):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                continue
        http, grpc = free_ports(2)
        served = "serve .triton repository"
        text = text.replace(served, f"{served} --http-port={http} --grpc-port={grpc}")
        return text.replace("client.py", f"client.py http://127.0.0.1:{http}").replace(":8001", f":{grpc}")
    return text


def test_the_page_on_ones_own_model(outside: Any, clone: Path) -> None:
    pytest.importorskip("torch_rechub", reason="torch-rechub is not installed: the extra thirdparty")
    go_through(OWN, outside, clone)
    assert left(clone) == {"my_model.py", "repository/"}


@pytest.mark.gpu
@pytest.mark.usefixtures("gpu")
def test_the_page_on_gpus(outside: Any, clone: Path) -> None:
    """`doctor` alone needs no card, and test_install.py runs it."""
    go_through(("README.md", *GPU), outside, clone)


def test_every_command_is_gone_through_or_says_why_not() -> None:
    """A new page, a block that no test runs, a command outside of blocks, a reason that nothing has: all are told."""
    ran = {*FIRST, *SERVED, *OWN, *GPU}
    used: set[str | tuple[str, str]] = set()
    for page, path in PAGES.items():
        text = path.read_text(encoding="utf-8")
        outside = re.sub(r"(?ms)^```.*?^```$", "", text)
        assert re.findall(rf"(?m)^ +(?:\$ )?(?:{PROGRAMS})\b.*", outside) == [], f"{page}: commands belong in ```sh"
        for block in blocks(page):
            assert block.kind in ("sh", "python", "toml", "text"), f"{page}: a block of {block.kind!r}"
            if block.kind in ("sh", "python"):
                assert page in ran, f"no test goes through {page}, which has commands"
            if block.kind == "sh":
                used |= {begins for line in block.commands() for begins in NOT_RUN if line.startswith(begins)}
            used |= {(page, block.part)} & set(PARTS_NOT_RUN)
    assert used == {*NOT_RUN, *PARTS_NOT_RUN}


def test_blocks_are_found_under_their_headings() -> None:
    """Lines of code that begin with # are no headings; a block that is said to be a file is that file."""
    text = (
        "# A\n\n```sh\n# one\nmake \\\n  x\n```\n\n"
        "## B\n\nWrite `m.py`:\n\n```python\n# two\n1\n```\n\n```python\n# n.py\n```\n"
    )
    assert list(blocks("", text)) == [
        Block("A", "sh", "", "# one\nmake \\\n  x\n"),
        Block("B", "python", "m.py", "# two\n1\n"),
        Block("B", "python", "n.py", "# n.py\n"),
    ]
    assert next(blocks("", text)).commands() == ["make   x"]


def test_the_schemas_on_the_pages_are_schemas() -> None:
    shown = [block for page in PAGES for block in blocks(page) if block.kind == "toml"]
    whole, *parts = (tomllib.loads(block.text) for block in shown)
    Schema.model_validate(whole)
    assert parts
    for part in parts:
        Schema.model_validate(whole | part)
