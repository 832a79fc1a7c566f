"""What a plugin imports: nothing heavy at start, nothing of the host but its root."""

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

START_S = 300.0  # a slow disk, everything cold

HEAVY = {"torch", "torchvision", "torchaudio", "transformers", "sentence_transformers", "whisper", "bitsandbytes"}
HEAVY |= {"scipy", "sklearn", "pandas", "tensorflow", "jax", "onnxruntime", "llama_cpp", "ctranslate2", "peft", "trl"}


def module_of(plugin: object) -> ModuleType:
    if isinstance(plugin, ModuleType) and plugin.__dict__.get("__file__"):
        return plugin
    raise Skip("this is no module with a file", "give the plugin's module to have its imports checked")


def heavy_imports(plugin: object) -> str:
    code = "import sys, importlib; importlib.import_module(sys.argv[1]); print(); print(*sys.modules)"
    command = [sys.executable, "-c", code, module_of(plugin).__name__]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=START_S, check=False)
    if done.returncode:
        return f"a fresh interpreter cannot import it: {''.join(done.stderr.strip().splitlines()[-1:])}"
    heavy = sorted(HEAVY & {each.partition(".")[0] for each in done.stdout.splitlines()[-1].split()})
    return f"every start would load {', '.join(heavy)}" if heavy else ""


def inner_imports(plugin: object) -> str:
    module, host, found = module_of(plugin), sdk.__name__, []
    folders = getattr(sys.modules.get(module.__name__.partition(".")[0]), "__path__", None)
    files = [file for each in folders for file in Path(each).rglob("*.py")] if folders else [Path(str(module.__file__))]
    for file in sorted(files):
        for node in _running(ast.parse(file.read_bytes(), str(file))):
            names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                public = {*sdk.__all__, "__version__", "*"} if node.module == host else set()
                names = [f"{node.module}.{name.name}" for name in node.names if name.name not in public]
            # The kit itself is for the tests, which may lie in the package.
            inner = [name for name in names if name.startswith(f"{host}.") and name.split(".")[1] != "testing"]
            found += [f"{file.name} imports {each}" for each in inner]
    return "; ".join(found)


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes but for those under TYPE_CHECKING, which never run."""
    yield node
    children: Iterable[ast.AST] = ast.iter_child_nodes(node)
    if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
        children = node.orelse
    for child in children:
        yield from _running(child)
