"""The house rules of the design, checked on the source."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found.add(node.module or "")
    return found


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def test_imports_point_one_way() -> None:
    for file in sources("models"):
        own = {name for name in imports(file) if name.startswith("amtl_export")}
        assert all(name.startswith("amtl_export.models") for name in own), file
    for file in sources("amtl_export"):
        assert not [name for name in imports(file) if name.startswith("amtl_export.cli")], file


def test_commands_are_thin() -> None:
    for file in sources("cli"):
        assert len(file.read_text(encoding="utf-8").splitlines()) < 170, file


def test_files_stay_small() -> None:
    for folder in ("amtl_export", "cli", "models"):
        for file in sources(folder):
            assert len(file.read_text(encoding="utf-8").splitlines()) <= 400, file


def test_nothing_foreign_lands_in_site_packages() -> None:
    import amtl_export.cli.main
    import amtl_export.models

    assert amtl_export.cli.main.__name__ == "amtl_export.cli.main"
    code = "import importlib.util as u; assert not u.find_spec('cli') and not u.find_spec('models')"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, cwd="/", check=False)
    assert done.returncode == 0, done.stderr


def test_nothing_is_unpickled_or_evaluated() -> None:
    forbidden = {"torch.load", "torch.save", "eval", "exec", "pickle.load", "pickle.loads", "numpy.load", "joblib.load"}
    for folder in ("amtl_export", "cli", "models", "benchmarks"):
        for file in sources(folder):
            assert not imports(file) & {"pickle", "cloudpickle", "joblib", "dill"}, file
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call):
                    assert ast.unparse(node.func) not in forbidden, f"{file}, line {node.lineno}"
                    if ast.unparse(node.func) == "np.load":
                        assert "allow_pickle=False" in ast.unparse(node), f"{file}, line {node.lineno}"
