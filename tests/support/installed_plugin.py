"""Installs plugins for a test: a module and the metadata of a distribution, in a folder that is put on the path."""

from __future__ import annotations

from pathlib import Path

GOOD = """
from smallai_assistant import Task, TextPart, hookimpl
class Good(Task):
    name = "good"
    def run(self, request, models):
        yield TextPart("fine")
@hookimpl
def register_tasks(register):
    register(Good())
"""


def install(folder: Path, name: str, source: str, *, distribution: str = "", entry_point: str = "") -> Path:
    """Writes a plugin. Returns its module's file.

    Args:
        name: of the entry point; the module is `plug_NAME`.
        distribution: its name; `x-NAME` if empty.
        entry_point: the text of `entry_points.txt`, if not the usual one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    distribution = distribution or f"x-{name}"
    module = f"plug_{distribution}_{name}".replace("-", "_").replace(".", "_")
    (folder / f"{module}.py").write_text(source)
    info = folder / f"{distribution.replace('-', '_')}-1.0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_point or f"[smallai_assistant]\n{name} = {module}\n")
    return folder / f"{module}.py"
