"""Chat templates and tokenizers of strangers: they get two seconds and 300 MB, and what takes more fails alone."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.tiny_text import TEMPLATE, save_tiny_llama

from smallai_assistant import GenerationOptions, InvalidInput, ModelRuntime, ModelSpec, TextModel
from smallai_assistant.engines import tokenizer_process
from smallai_assistant.engines.prompts import ChatTokenizer
from smallai_assistant.engines.tokenizer_process import TokenizerProcess
from smallai_assistant.engines.transformers import TransformersEngine
from smallai_assistant.errors import Cancelled, InputTooLarge, ModelInvalid
from smallai_assistant.models.catalog import Catalog
from smallai_assistant.models.child_process import package_environment

# Each takes far too much if the user says "bomb".
LOOPS = (
    "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}"
)
DOUBLES = "{% set n = namespace(s='x' * 99999) %}{% for a in range(30) %}{% set n.s = n.s ~ n.s %}{% endfor %}{{ n.s }}"
POWER = "{% set a = 9 ** 9 %}{{ 9 ** a }}"
LONG = "{% for a in range(900) %}{{ 'x' * 9999 }}{% endfor %}"
BOMBS = {"loops": LOOPS, "doubles": DOUBLES, "power": POWER, "long": LONG}


def says(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def changed(tiny: Path, tmp_path: Path) -> Callable[..., Path]:
    """Copies the tiny model with another template, and with other parts of its tokenizer."""

    def change(template: str = TEMPLATE, **parts: Any) -> Path:
        folder = Path(shutil.copytree(tiny, tmp_path / "changed"))
        (folder / "chat_template.jinja").write_text(template)
        tokenizer = json.loads((folder / "tokenizer.json").read_text())
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer | parts))
        return folder

    return change


@pytest.fixture
def opened() -> Iterator[Callable[[Path], TokenizerProcess]]:
    """Opens tokenizers and closes them after the test."""
    processes: list[TokenizerProcess] = []

    def open_folder(folder: Path) -> TokenizerProcess:
        processes.append(TokenizerProcess(folder, "a model", is_chat=True))
        return processes[-1]

    yield open_folder
    for process in processes:
        process.close()


def test_it_computes_what_the_tokenizer_in_this_process_computes(
    tiny: Path, opened: Callable[[Path], TokenizerProcess]
) -> None:
    from transformers import AutoTokenizer

    ours = ChatTokenizer(AutoTokenizer.from_pretrained(str(tiny), local_files_only=True))
    process = opened(tiny)
    process.wait()
    assert process.eos_id == ours.eos_id
    for text in ("", "Grüße 🧑‍🚀 \x00", "<|im_end|><|im_start|>system", "x" * 100_000):
        assert process.encode_chat(says(text)) == ours.encode_chat(says(text))
        ids = process.encode_text(text)
        assert ids == ours.encode_text(text)
        assert process.decode(ids) == ours.decode(ids)
    for tokenizer in (process, ours):
        with pytest.raises(InvalidInput, match="surrogate"):
            tokenizer.encode_text("\ud800")


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_a_template_that_takes_too_much_fails_alone(
    changed: Callable[..., Path], opened: Callable[[Path], TokenizerProcess], bomb: str
) -> None:
    process = opened(changed("{% if 'bomb' in messages[0]['content'] %}" + bomb + "{% endif %}" + TEMPLATE))
    before = process.encode_chat(says("hello"))
    with pytest.raises(ModelInvalid, match=r"a model: .*template"):
        process.encode_chat(says("bomb"))
    assert process.encode_chat(says("hello again")) != before  # a new child
    assert process.encode_chat(says("hello")) == before


def test_a_template_that_never_renders_does_not_load(
    changed: Callable[..., Path], opened: Callable[[Path], TokenizerProcess]
) -> None:
    with pytest.raises(ModelInvalid, match="takes over 2"):
        opened(changed(LOOPS)).wait()


def test_a_tokenizer_that_takes_too_much_fails_alone(
    changed: Callable[..., Path], opened: Callable[[Path], TokenizerProcess]
) -> None:
    many = {"type": "Replace", "pattern": {"String": "b"}, "content": "b" * 100}
    process = opened(changed(normalizer={"type": "Sequence", "normalizers": [many] * 5}))
    with pytest.raises(ModelInvalid, match=r"a model: .*tokenizer"):
        process.encode_text("b")
    assert process.encode_text("a")


def test_a_decoder_that_makes_too_much_is_stopped(
    changed: Callable[..., Path], opened: Callable[[Path], TokenizerProcess]
) -> None:
    many = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 100}
    process = opened(changed(decoder={"type": "Sequence", "decoders": [many] * 4}))
    ids = process.encode_text("a")
    with pytest.raises(ModelInvalid, match="a model"):
        process.decode(ids)


def test_a_long_text_is_blamed_and_not_the_model(
    changed: Callable[..., Path], opened: Callable[[Path], TokenizerProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer_process, "_LONG_CHARS", 10)
    process = opened(changed("{% if 'bomb' in messages[0]['content'] %}" + DOUBLES + "{% endif %}" + TEMPLATE))
    with pytest.raises(InputTooLarge, match="19 characters"):
        process.encode_chat(says("bomb in a long text"))


def test_a_cancel_ends_the_work(changed: Callable[..., Path], opened: Callable[[Path], TokenizerProcess]) -> None:
    process = opened(changed("{% if 'bomb' in messages[0]['content'] %}" + LOOPS + "{% endif %}" + TEMPLATE))
    process.wait()
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Cancelled):
        process.encode_chat(says("bomb"), cancel=cancel)
    assert process.encode_chat(says("hello"))


def test_close_ends_the_child_and_what_waits_for_it(
    changed: Callable[..., Path], opened: Callable[[Path], TokenizerProcess]
) -> None:
    process = opened(changed())
    process.close()
    with pytest.raises(Cancelled, match="closed"):
        process.encode_text("hello")


def test_a_child_whose_parent_died_ends(changed: Callable[..., Path]) -> None:
    folder = changed("{% if messages[0].content == 'bomb' %}" + LOOPS + "{% endif %}x")
    child = subprocess.Popen(
        [sys.executable, "-m", "smallai_assistant.engines.tokenizer_child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=package_environment(),
    )
    assert child.stdin is not None
    assert child.stdout is not None
    requests = [{"do": "load", "folder": str(folder)}, {"do": "open_chat"}, {"do": "chat", "messages": says("bomb")}]
    for request in requests:
        seconds = 0.1 if request["do"] == "chat" else 20.0
        child.stdin.write(json.dumps(request | {"seconds": seconds}).encode() + b"\n")
    child.stdin.flush()
    assert [list(json.loads(child.stdout.readline())) for _ in requests[1:]] == [["result"], ["result"]]
    child.stdin.close()
    child.stdout.close()
    assert child.wait(120) == -signal.SIGXCPU


def test_calls_of_a_library_run_in_the_child(
    changed: Callable[..., Path], opened: Callable[[Path], TokenizerProcess]
) -> None:
    from transformers import AutoTokenizer

    many = {"type": "Replace", "pattern": {"String": "b"}, "content": "b" * 100}
    folder = changed(normalizer={"type": "Sequence", "normalizers": [many] * 5})
    own, other = (AutoTokenizer.from_pretrained(str(folder), local_files_only=True) for _ in range(2))
    opened(folder).replace_calls(other)
    options = {"padding": True, "truncation": True, "max_length": 12, "return_tensors": "pt"}
    expected, found = own(["one", "a longer text"], **options), other(["one", "a longer text"], **options)
    assert found.keys() == expected.keys()
    assert all((found[key] == expected[key]).all() for key in expected)
    with pytest.raises(ModelInvalid, match="a model"):
        other(["b"])


def test_an_answer_on_a_hostile_model_fails_and_the_next_comes(changed: Callable[..., Path], models_dir: Path) -> None:
    folder = changed("{% if 'bomb' in messages[0]['content'] %}" + LOOPS + "{% endif %}" + TEMPLATE)
    models = ModelRuntime(Catalog(models_dir), [TransformersEngine()], device="cpu")
    with models.lease(ModelSpec(str(folder), task="text-generation"), TextModel) as model:
        with pytest.raises(ModelInvalid, match="takes over 2"):
            model.generate(says("bomb"), GenerationOptions(max_tokens=4))
        assert list(model.generate(says("hello"), GenerationOptions(max_tokens=4))) is not None
    models.close()
