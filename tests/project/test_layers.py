"""The layers hold, and the checker that says so can fail."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINT_IMPORTS = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]


def lint(config: Path, root: Path) -> subprocess.CompletedProcess[str]:
    paths = f"{root}:{root / 'plugins'}"
    return subprocess.run(
        [*LINT_IMPORTS, "--config", str(config)],
        cwd=root,
        env={"PYTHONPATH": paths, "PATH": "/usr/bin:/bin", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_contracts_are_kept() -> None:
    done = lint(ROOT / ".importlinter", ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 kept, 0 broken" in done.stdout


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("smallai_assistant/types.py", "from smallai_assistant.conversation.session import Session", "layers"),
        ("smallai_assistant/extra.py", "X = 1", "layers"),
        ("smallai_assistant/conversation/router.py", "import smallai_chat", "the host imports no plugin"),
        (
            "plugins/smallai_chat/__init__.py",
            "from smallai_assistant.types import Turn",
            "a plugin imports only the root",
        ),
        ("plugins/smallai_chat/__init__.py", "import smallai_image", "plugins do not import each other"),
    ],
)
def test_a_forbidden_import_is_reported(tmp_path: Path, file: str, line: str, contract: str) -> None:
    """Runs the checker over skeletons of all modules with one bad import added."""
    for source in [*ROOT.glob("smallai_assistant/**/*.py"), *ROOT.glob("plugins/*/__init__.py")]:
        skeleton = tmp_path / source.relative_to(ROOT)
        skeleton.parent.mkdir(parents=True, exist_ok=True)
        skeleton.write_text("")
    (tmp_path / file).write_text(line + "\n")
    done = lint(ROOT / ".importlinter", tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    broken = [splitline for splitline in done.stdout.splitlines() if splitline.endswith("BROKEN")]
    assert len(broken) == 1, done.stdout
    assert broken[0].startswith(contract)
