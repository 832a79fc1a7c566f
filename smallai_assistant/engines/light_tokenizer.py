"""What `ChatTokenizer` needs of a tokenizer of transformers, from the files of a model of the catalogue.

`import transformers` takes longer than llama.cpp takes to load a model and to make its first token: 1.8 of 3.9 s. The
templates of pinned models need nothing of it but jinja2 with the settings of transformers
(`transformers.utils.chat_template_utils`). A test compares both on every chat model of the catalogue.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2.exceptions import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from smallai_assistant.models.json_files import read_json_object

TEMPLATE = "chat_template.jinja"


class LightTokenizer:
    """The tokenizer of a pinned model: tokenizer.json, tokenizer_config.json and chat_template.jinja.

    Attributes:
        backend_tokenizer: of the tokenizers library.
        added_tokens_decoder: the tokens beside the vocabulary, by their id.
        chat_template: empty if there is none.
    """

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        self.backend_tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.added_tokens_decoder: dict[int, Any] = self.backend_tokenizer.get_added_tokens_decoder()
        self.chat_template = (folder / TEMPLATE).read_text(encoding="utf-8") if (folder / TEMPLATE).is_file() else ""
        config = read_json_object(folder / "tokenizer_config.json")
        self._special = {
            key: value if isinstance(value, str) else value["content"]
            for key, value in config.items()
            if key in ("bos_token", "eos_token", "pad_token", "unk_token") and value is not None
        }
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = _to_json
        environment.globals.update(raise_exception=_raise, strftime_now=_now)
        self._template = environment.from_string(self.chat_template)

    @property
    def eos_token_id(self) -> int | None:
        """The id of the token that ends a turn, None if the files name none."""
        index: int | None = self.backend_tokenizer.token_to_id(self._special.get("eos_token", ""))
        return index

    def apply_chat_template(
        self, messages: Sequence[dict[str, str]], *, add_generation_prompt: bool, tokenize: bool
    ) -> str:
        """The text of the prompt; see the method of that name in transformers.

        Raises:
            ValueError: `tokenize` is true.
            jinja2.TemplateError: the template refuses the messages.
        """
        if tokenize:
            raise ValueError("it makes texts only")
        text: str = self._template.render(
            messages=list(messages), add_generation_prompt=add_generation_prompt, **self._special
        )
        return text


def _to_json(value: Any, **options: Any) -> str:
    # jinja2's own filter escapes HTML, and a prompt is none.
    return json.dumps(value, ensure_ascii=False, **options)


def _raise(message: str) -> None:
    raise TemplateError(message)


def _now(pattern: str) -> str:
    return datetime.now().strftime(pattern)
