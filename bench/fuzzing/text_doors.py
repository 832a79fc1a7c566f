"""The doors of tokenizers and chat templates of strangers.

The inputs run in this process, in the code of the child that holds them in the product: that is a hundred times faster.
The product's child may take too much and may crash; what did so here is therefore tried again in a real one.
"""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

from bench.fuzzing.door import Door, scratch
from bench.fuzzing.mutations import dump, integer, mutate_bytes, mutate_json
from smallai_assistant.engines.tokenizer_child import TokenizerServer, answer
from smallai_assistant.engines.tokenizer_process import TokenizerProcess
from smallai_assistant.errors import ModelInvalid

_TEXTS = ("", "hello world", "Grüße <|im_end|> 🧑‍🚀 \0 e\u0301", "a" * 500, " " * 300, "1 2 3\n\n4")
_MESSAGES = [{"role": "system", "content": "be brief"}, {"role": "user", "content": _TEXTS[2]}]


def _ask(serve: Any, **request: Any) -> None:
    reply = answer(serve, request)
    json.dumps(reply)  # it goes through a pipe
    if "error" in reply:
        raise ModelInvalid(reply["message"])


class _TextModel(Door):
    """A door that takes a file of a tokenizer."""

    file: str

    def __init__(self, folder: Path) -> None:
        from tests.support.tiny_text import save_tiny_llama

        super().__init__(folder)
        self.model = save_tiny_llama(folder / "model", hidden=16, context=64)

    def server(self, case: bytes) -> TokenizerServer:
        """A server that has loaded the model with the file of an input."""
        scratch(self.model, self.file, case)
        server = TokenizerServer()
        _ask(server.load, folder=str(self.model))
        return server

    def enter(self, case: bytes) -> None:
        server = self.server(case)
        requests: list[tuple[Any, dict[str, Any]]] = [
            (server.open_chat, {}),
            (server.chat, {"messages": _MESSAGES}),
            *((server.text, {"text": text}) for text in _TEXTS),
            (server.decode, {"ids": [0, 5, 70, 999_999]}),
        ]
        for serve, request in requests:
            _ask(serve, **request)

    def enter_contained(self, case: bytes) -> None:
        scratch(self.model, self.file, case)
        process = TokenizerProcess(self.model, "a model", is_chat=True)
        try:
            process.wait()
            process.encode_chat(_MESSAGES)
            for text in _TEXTS:
                process.encode_text(text)
            process.decode([0, 5, 70, 999_999])
        finally:
            process.close()


class TokenizerFile(_TextModel):
    """tokenizer.json."""

    name = "tokenizer"
    file = "tokenizer.json"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        tokenizer = json.loads((self.model / self.file).read_text())
        words = {"[UNK]": 0, "hello": 1, "##o": 2, "w": 3, "<|im_start|>": 4, "<|im_end|>": 5, "a": 6, "##a": 7}
        word_piece = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                      "max_input_chars_per_word": 100, "vocab": words}  # fmt: skip
        unigram = {"type": "Unigram", "unk_id": 0, "byte_fallback": False, "vocab": [[word, -2.5] for word in words]}
        merges = [["h", "e"], ["l", "l"]]
        bpe = {**tokenizer["model"], "vocab": {**tokenizer["model"]["vocab"], "he": 900, "ll": 901}, "merges": merges}
        normalizer = {"type": "Sequence", "normalizers": [
            {"type": "NFKC"}, {"type": "Replace", "pattern": {"Regex": " +"}, "content": " "},
            {"type": "Prepend", "prepend": "_"}, {"type": "Lowercase"}]}  # fmt: skip
        split = {
            "type": "Split",
            "pattern": {"Regex": "\\p{N}{1,3}| ?\\p{L}+|\\s+"},
            "behavior": "Isolated",
            "invert": False,
        }
        splitter = {"type": "Sequence", "pretokenizers": [split, {"type": "ByteLevel", "add_prefix_space": False,
                    "trim_offsets": True, "use_regex": True}]}  # fmt: skip
        decoder = {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "_"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}  # fmt: skip
        processor = {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}], "pair": [],
                     "special_tokens": {}}  # fmt: skip
        cut = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
        pad = {"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 1,
               "pad_type_id": 0, "pad_token": "<|im_end|>"}  # fmt: skip
        metaspace = {"type": "Metaspace", "replacement": "_", "prepend_scheme": "always"}
        self._trees = [
            tokenizer,
            tokenizer | {"model": word_piece, "normalizer": normalizer, "pre_tokenizer": {"type": "Whitespace"}},
            tokenizer
            | {
                "model": unigram,
                "pre_tokenizer": metaspace,
            },
            tokenizer | {"model": bpe, "pre_tokenizer": splitter, "decoder": decoder, "post_processor": processor},
            tokenizer | {"truncation": cut, "padding": pad},
        ]

    def samples(self) -> list[bytes]:
        return [json.dumps(tree).encode() for tree in self._trees]

    def make(self, rng: Random) -> bytes:
        tree = dict(rng.choice(self._trees))
        if rng.random() < 0.8:  # a part at a time: most of the file is its vocabulary
            key = rng.choice(list(tree))
            tree[key] = mutate_json(rng, tree[key])
            if rng.random() < 0.3:
                tree[rng.choice(list(tree))] = tree[rng.choice(list(tree))]
        data = dump(rng, tree)
        return mutate_bytes(rng, data, [data]) if rng.random() < 0.3 else data


_PIECES = (
    "{{ m }}",
    "{{ m.content }}",
    "{{ m['role'] | upper }}",
    "{% for m in messages %}",
    "{% endfor %}",
    "{% if m %}",
    "{% if m.role == 'system' %}",
    "{% else %}",
    "{% endif %}",
    "{{ raise_exception('no') }}",
    "{{ bos_token }}",
    "{% set x = messages | length %}",
    "{% set ns = namespace(a=0) %}",
    "{% set ns.a = ns.a + 1 %}",
    "{{ x | tojson }}",
    "{{ x.__class__.__mro__ }}",
    "{{ messages | map(attribute='content') | join }}",
    "{% macro f(a) %}",
    "{% endmacro %}",
    "{{ f(f) }}",
    "{{ 'x' * 10 }}",
    "{{ strftime_now('%Y') }}",
    "{% break %}",
    "{% continue %}",
    "{% generation %}",
    "{% include 'x' %}",
    "{% import 'x' as y %}",
    "{% extends 'x' %}",
    "{{ range(10) | list }}",
    "{{ 1 / 0 }}",
    "{{ self }}",
    "{{ x | pprint }}",
    "{{ messages | sort }}",
    "{{ messages[9] }}",
    "{{ messages[0:2] }}",
    "{{ 'a' ~ 1 }}",
    "{# x #}",
    "{% raw %}",
    "{{ '%s' % x }}",
    "{{ '{0.__class__}'.format(x) }}",
    "{{ x.append(1) }}",
    "{{ cycler }}",
    "{{ joiner() }}",
    "{% filter upper %}",
    "{% call f(1) %}",
    "{{ lipsum(n=2) }}",
    "{{ dict(a=1) }}",
    "{{ 2 ** 70 }}",
    "{{ 'é\ud800' }}",
    "{{ none }}",
    "{{ tools | default([]) }}",
    "<|im_start|>",
    "<|im_end|>",
    "\n",
    "text",
    "{%- if loop.first -%}",
)
_HEAVY = (
    "{{ 'x' * 99999999 }}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{{ 9 ** 9 ** 9 }}",
    "{{ range(99999) | list | pprint }}",
    "{{ 'x' | center(999999999) }}",
    "{{ lipsum(n=20000) }}",
    "{% macro f(a) %}{{ f(a) }}{{ f(a) }}{% endmacro %}{{ f(1) }}",
)


class ChatTemplate(_TextModel):
    """chat_template.jinja."""

    name = "template"
    file = "chat_template.jinja"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._template = (self.model / self.file).read_text()
        self._server = super().server(self._template.encode())

    def server(self, case: bytes) -> TokenizerServer:
        try:
            text = case.decode()
        except UnicodeDecodeError:
            return super().server(case)
        # As the library does after it has read the file; reading everything again would take most of the time.
        self._server.tokenizer.chat_template = text
        return self._server

    def samples(self) -> list[bytes]:
        return [self._template.encode()]

    def make(self, rng: Random) -> bytes:
        pieces = [self._template] if rng.random() < 0.5 else []
        for _ in range(rng.choice((1, 2, 3, 6, 12))):
            pieces.insert(rng.randrange(len(pieces) + 1), rng.choice(_PIECES))
        if rng.random() < 0.001:
            pieces.append(rng.choice(_HEAVY))
        if rng.random() < 0.05:
            pieces.append("{{ " + rng.choice("([{-") * rng.choice((10, 300, 5_000)) + str(integer(rng)))
        data = "".join(pieces).encode("utf-8", "surrogatepass")
        return mutate_bytes(rng, data, [data, self._template.encode()]) if rng.random() < 0.4 else data
