"""The wheel is complete: an environment that holds only the wheel imports it and finds the plugins and the command."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*command: str | Path, **options: object) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "smallai_assistant", "plugins"):
        # A build of a copy: folders of earlier builds are not used, and none is left behind.
        run("cp", "-r", ROOT / name, source)
    for stale in [*source.glob("*.egg-info"), *source.glob("plugins/*.egg-info")]:
        run("rm", "-r", stale)
    # Without isolation: setuptools is installed (torch requires it), so nothing has to be fetched.
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, source)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def bare_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that holds the wheel without its dependencies."""
    folder = tmp_path_factory.mktemp("bare") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "-q", wheel)
    return python


def test_wheel_holds_every_package_and_data_file(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    wanted = [*ROOT.glob("smallai_assistant/**/*"), *ROOT.glob("plugins/smallai_*/**/*")]
    files = [path for path in wanted if path.is_file() and "__pycache__" not in path.parts]
    relative = {str(file.relative_to(ROOT)).removeprefix("plugins/") for file in files if "egg-info" not in str(file)}
    assert relative <= names, f"missing: {sorted(relative - names)}"
    top = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert top == {"smallai_assistant", "smallai_chat", "smallai_image", "smallai_speech", "smallai_recommend"}
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_root_imports_without_any_dependency(bare_python: Path) -> None:
    out = run(bare_python, "-I", "-c", "import smallai_assistant as s; print(s.__version__, len(s.__all__))")
    version, n_names = out.split()
    assert version == "0.1.0"
    assert int(n_names) <= 40


def test_entry_points_are_there(bare_python: Path) -> None:
    code = (
        "import json, importlib.metadata as m; "
        "print(json.dumps({e.name: e.value for g in ('smallai_assistant', 'console_scripts')"
        " for e in m.entry_points(group=g)}))"
    )
    assert json.loads(run(bare_python, "-I", "-c", code)) == {
        "chat": "smallai_chat",
        "image": "smallai_image",
        "speech": "smallai_speech",
        "recommend": "smallai_recommend",
        "smallai": "smallai_assistant.cli:main",
    }


def test_installed_command_works(bare_python: Path, tmp_path: Path) -> None:
    """With the dependencies of the running environment added, the command loads all four plugins."""
    site = next(bare_python.parents[1].glob("lib/python*/site-packages"))
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    env = {"HOME": str(tmp_path), "SMALLAI_DATA_DIR": str(tmp_path / "data"), "PATH": "/usr/bin:/bin"}
    command = bare_python.with_name("smallai")
    where = run(bare_python, "-c", "import smallai_assistant; print(smallai_assistant.__file__)", env=env, cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(site)
    assert "chat" in run(command, "--help", env=env, cwd=tmp_path)
    rows = [json.loads(line) for line in run(command, "plugins", "--json", env=env, cwd=tmp_path).splitlines()]
    assert {"chat", "image", "speech", "recommend"} <= {row.get("name", row.get("plugin")) for row in rows}
