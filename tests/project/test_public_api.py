"""The API is what `__all__` says: small, sorted, documented, and cheap to import."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys

import pytest

import smallai_assistant

HEAVY = ("torch", "transformers", "sqlalchemy", "numpy", "bitsandbytes", "sentence_transformers", "whisper", "scipy")


def modules_after(code: str) -> set[str]:
    """The modules that a new interpreter has imported after `code`."""
    script = f"{code}\nimport sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_all_is_sorted_and_small() -> None:
    names = smallai_assistant.__all__
    assert list(names) == sorted(names)
    assert len(set(names)) == len(names) <= 40


@pytest.mark.parametrize("name", smallai_assistant.__all__)
def test_every_name_resolves_and_is_documented(name: str) -> None:
    value = getattr(smallai_assistant, name)
    assert name in dir(smallai_assistant)
    if inspect.isclass(value) and issubclass(value, smallai_assistant.AssistantError):
        # The leaves of the error tree are explained in the tree that their module draws.
        assert name in (inspect.getdoc(inspect.getmodule(value)) or "")
    elif inspect.isclass(value) or inspect.isfunction(value):
        assert (value.__doc__ or "").strip(), f"{name} has no docstring of its own"


def test_no_public_signature_takes_arbitrary_keywords() -> None:
    """Only `Assistant` takes any keyword: its `overrides` are checked against the keys of the configuration."""
    for name in smallai_assistant.__all__:
        value = getattr(smallai_assistant, name)
        methods = inspect.getmembers(value, inspect.isfunction) if inspect.isclass(value) else []
        for method_name, method in methods:
            if method_name.startswith("_") or not (method.__module__ or "").startswith("smallai_assistant"):
                continue
            kinds = [parameter.kind for parameter in inspect.signature(method).parameters.values()]
            assert inspect.Parameter.VAR_KEYWORD not in kinds, f"{name}.{method_name}"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Assistent"):
        _ = smallai_assistant.Assistent


def test_importing_the_root_loads_nothing_heavy() -> None:
    loaded = modules_after("import smallai_assistant")
    assert not loaded & set(HEAVY)
    assert not any(module.startswith("smallai_assistant.") for module in loaded)


@pytest.mark.parametrize("plugin", ["smallai_chat", "smallai_image", "smallai_speech", "smallai_recommend"])
def test_importing_a_plugin_loads_no_model_library(plugin: str) -> None:
    loaded = modules_after(f"import {plugin}")
    assert not loaded & (set(HEAVY) - {"numpy", "sqlalchemy"})


def test_command_line_help_loads_no_model_library() -> None:
    loaded = modules_after(
        "import contextlib\nfrom smallai_assistant.cli import main\n"
        "with contextlib.suppress(SystemExit):\n    main(['--help'])"
    )
    assert not loaded & (set(HEAVY) - {"numpy", "sqlalchemy"})
