"""The tokenizer without transformers, compared with that of transformers on the chat models of the catalogue."""

from __future__ import annotations

from pathlib import Path

import pytest

from smallai_assistant.engines.light_tokenizer import LightTokenizer
from smallai_assistant.engines.prompts import ChatTokenizer
from smallai_assistant.errors import InvalidInput
from smallai_assistant.models.entries import read_entries

CHATS = (
    [{"role": "user", "content": "Hi <|im_end|> there"}],
    [
        {"role": "system", "content": "Sé brief."},
        {"role": "user", "content": "x <y> & 'z'\n"},
        {"role": "assistant", "content": "  y"},
        {"role": "user", "content": "日本語 🐋 \u200b"},
    ],
)


@pytest.mark.parametrize("name", [entry.name for entry in read_entries().values() if entry.task == "text-generation"])
def test_ids_are_those_of_transformers(models_dir: Path, name: str) -> None:
    from transformers import AutoTokenizer

    folder = models_dir / name
    ours = ChatTokenizer(LightTokenizer(folder))
    theirs = ChatTokenizer(AutoTokenizer.from_pretrained(folder, local_files_only=True))
    assert ours.eos_id == theirs.eos_id
    for chat in CHATS:
        ids = ours.encode_chat(chat)
        assert ids == theirs.encode_chat(chat)
        assert ours.decode(ids) == theirs.decode(ids)
    assert ours.encode_text("  two spaces") == theirs.encode_text("  two spaces")


def test_refusal_of_a_template_is_a_typed_error(models_dir: Path) -> None:
    tokenizer = LightTokenizer(models_dir / "smollm2-135m-instruct")
    strict = tokenizer._template.environment.from_string(
        "{% if messages[0]['content'] == 'no' %}{{ raise_exception('not this') }}{% endif %}x"
    )
    tokenizer._template = strict
    with pytest.raises(InvalidInput, match="not this"):
        ChatTokenizer(tokenizer).encode_chat([{"role": "user", "content": "no"}])
