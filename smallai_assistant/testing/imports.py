"""Checks of what a plugin imports: no heavy library at start, and nothing of the host except its root.

Each check returns what is wrong, one sentence for people, or an empty text.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

import smallai_assistant as sdk
from smallai_assistant.testing.report import Skip

START_S = 300.0  # for a fresh interpreter on a slow disk with cold caches
RESULT = "smallai kit: "  # begins the line of a fresh interpreter that has the result

# Libraries that take a noticeable time to import. Every plugin is imported at every start.

HEAVY = {"torch", "torchvision", "torchaudio", "transformers", "sentence_transformers", "whisper", "bitsandbytes"}
HEAVY |= {"scipy", "sklearn", "pandas", "tensorflow", "jax", "onnxruntime", "llama_cpp", "ctranslate2", "peft", "trl"}


def module_of(plugin: object) -> ModuleType:
    """The plugin, if it is a module of a file; skips the check if not."""
    if isinstance(plugin, ModuleType) and plugin.__dict__.get("__file__"):
        return plugin
    raise Skip("it is not a module with a file", "pass the plugin's module to have its imports checked")


def heavy_imports(plugin: object) -> str:
    """Imports the plugin in a fresh interpreter and looks at what was loaded; this process has everything loaded."""
    code = f"import sys, importlib; importlib.import_module(sys.argv[1]); print(); print({RESULT!r}, *sys.modules)"
    command = [sys.executable, "-c", code, module_of(plugin).__name__]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=START_S, check=False)
    if done.returncode:
        return f"a fresh interpreter cannot import it: {''.join(done.stderr.strip().splitlines()[-1:])}"
    heavy = sorted(HEAVY & {name.partition(".")[0] for name in result_in(done.stdout).split()})
    return f"every start would load {', '.join(heavy)}" if heavy else ""


def result_in(output: str) -> str:
    """The result among what the plugin itself prints, also at the end of its interpreter."""
    return next(line.removeprefix(RESULT) for line in output.splitlines() if line.startswith(RESULT))


def inner_imports(plugin: object) -> str:
    """Reads all files of the plugin's package and checks that they import only public names of the host."""
    module, host, found = module_of(plugin), sdk.__name__, []
    folders = getattr(sys.modules.get(module.__name__.partition(".")[0]), "__path__", None)
    # A plugin of a single file has no package.
    files = [file for path in folders for file in Path(path).rglob("*.py")] if folders else [Path(str(module.__file__))]
    for file in sorted(files):
        for node in _running(ast.parse(file.read_bytes(), str(file))):
            names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                public = {*sdk.__all__, "__version__", "*"} if node.module == host else set()
                names = [f"{node.module}.{name.name}" for name in node.names if name.name not in public]
            # The kit may be imported, because a package may contain its tests.
            inner = [name for name in names if name.startswith(f"{host}.") and name.split(".")[1] != "testing"]
            found += [f"{file.name} imports {name}" for name in inner]
    return "; ".join(found)


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes except those under `if TYPE_CHECKING`, which never run."""
    yield node
    children: Iterable[ast.AST] = ast.iter_child_nodes(node)
    if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
        children = node.orelse
    for child in children:
        yield from _running(child)
