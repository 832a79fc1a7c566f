"""The doors of model folders: configuration and manifest, headers of weights, GGUF files, and a whole load."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from random import Random
from typing import Any

from bench.fuzzing.door import Door, scratch
from bench.fuzzing.mutations import dump, integer, mutate_bytes, mutate_json, text

_NAME = "owner/model"  # as of a hub; the catalogue would demand the hashes of its own files
_FOLDER = "hub--owner--model"
_KEYS = (
    "architectures",
    "model_type",
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "auto_map",
    "num_key_value_heads",
    "max_position_embeddings",
    "rope_parameters",
    "rope_scaling",
    "quantization_config",
    "attn_implementation",
    "dtype",
    "id2label",
    "eos_token_id",
    "tie_word_embeddings",
    "layer_types",
    "num_experts",
    "head_dim",
    "hidden_act",
    "vision_config",
    "text_config",
    "is_encoder_decoder",
    "sliding_window",
)
_WORDS = (
    "bert",
    "gpt2",
    "qwen2",
    "mixtral",
    "clip",
    "t5",
    "bitnet",
    "mamba",
    "gemma3",
    "../x",
    "LlamaForCausalLM",
    "GPT2LMHeadModel",
    "float16",
    "int4",
    "bitsandbytes",
    "gptq",
    "yarn",
    "linear",
    "full_attention",
    "gelu",
    "owner/kernel",
)


class _Folder(Door):
    """A door that takes a model folder. An input is the files that differ from those of a tiny Llama."""

    def __init__(self, folder: Path) -> None:
        from tests.support.tiny_text import save_tiny_llama

        super().__init__(folder)
        self.models = folder / "models"
        self.model = self.models / _FOLDER
        save_tiny_llama(self.model, hidden=16, context=64)
        self.files = {path.name: path.read_bytes() for path in self.model.iterdir()}
        self.weights = self.files["model.safetensors"]

    def samples(self) -> list[dict[str, bytes]]:
        return [{}]

    def trees(self) -> dict[str, Any]:
        """The JSON files that are changed."""
        return {name: json.loads(data) for name, data in self.files.items() if name.endswith("config.json")}

    def make(self, rng: Random) -> dict[str, bytes]:
        trees = self.trees()
        name = "config.json" if rng.random() < 0.6 else rng.choice(list(trees))
        tree = trees[name]
        if rng.random() < 0.4 and isinstance(tree, dict):
            for _ in range(rng.choice((1, 1, 2, 3))):
                tree[rng.choice(_KEYS)] = rng.choice(
                    (rng.choice(_WORDS), [rng.choice(_WORDS)], integer(rng), {}, {"0": "x"})
                )
        else:
            tree = mutate_json(rng, tree)
        data = dump(rng, tree)
        return {name: mutate_bytes(rng, data, list(self.files.values())) if rng.random() < 0.2 else data}

    def use(self) -> None:
        raise NotImplementedError

    def enter(self, case: dict[str, bytes]) -> None:
        for name, data in case.items():
            scratch(self.model, name, data)
        try:
            self.use()
        finally:
            for name in case:
                if name in self.files:
                    scratch(self.model, name, self.files[name])
                else:
                    (self.model / name).unlink()


class Manifest(_Folder):
    """What is read of a model folder before a library opens it: its record, its configuration, its tokenizer's."""

    name = "manifest"

    def __init__(self, folder: Path) -> None:
        import hashlib

        super().__init__(folder)
        hashes = {name: hashlib.sha256(data).hexdigest() for name, data in self.files.items()}
        manifest = {"name": _NAME, "revision": "", "files": hashes}
        self.files["smallai-model.json"] = json.dumps(manifest).encode()
        scratch(self.model, "smallai-model.json", self.files["smallai-model.json"])

    def trees(self) -> dict[str, Any]:
        names = json.loads(self.files["smallai-model.json"])
        module = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}
        index = {"metadata": {"total_size": 9}, "weight_map": {"a": "model.safetensors"}}
        return super().trees() | {
            "smallai-model.json": names,
            "modules.json": [module, {**module, "idx": 1}],
            "model.safetensors.index.json": index,
            "preprocessor_config.json": {"size": {"height": 224, "width": 224}, "image_mean": [0.5, 0.5, 0.5]},
        }

    def use(self) -> None:
        from smallai_assistant.engines.base import ModelSpec
        from smallai_assistant.engines.transformers import TransformersEngine
        from smallai_assistant.models.catalog import Catalog
        from smallai_assistant.models.files import check_model_folder

        catalog = Catalog(self.models)
        folder = catalog.resolve(_NAME)
        check_model_folder(folder)
        engine, spec = TransformersEngine(), ModelSpec(_NAME, task="text-generation")
        if engine.can_load(spec, folder):
            engine.estimate_bytes(spec, folder)
        catalog.fingerprint(_NAME)
        catalog.verify(_NAME)


class Load(_Folder):
    """A whole load, as of a folder of the user's; its weights and its tokenizer are right."""

    name = "load"
    is_cheap = False

    def use(self) -> None:
        from smallai_assistant.engines.base import ModelSpec
        from smallai_assistant.engines.transformers import TransformersEngine

        # The name of a pinned model: its tokenizer runs in this process, which is a hundred times faster.
        spec = ModelSpec("smollm2-135m-instruct", task="text-generation", dtype="float32")
        model = TransformersEngine().load(spec, self.model, device="cpu", progress=lambda *_: None)
        model.close()


class Safetensors(Door):
    """The header of a safetensors file. What is taken must be right for the library as well."""

    name = "safetensors"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._header = {
            "__metadata__": {"format": "pt"},
            "a.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
            "b": {"dtype": "BF16", "shape": [], "data_offsets": [24, 26]},
            "c": {"dtype": "I64", "shape": [0, 5], "data_offsets": [26, 26]},
            "d": {"dtype": "U8", "shape": [6], "data_offsets": [26, 32]},
        }

    def _file(self, header: bytes, n_data: int = 32) -> bytes:
        return struct.pack("<Q", len(header)) + header + bytes(range(n_data))

    def samples(self) -> list[bytes]:
        return [self._file(json.dumps(self._header).encode())]

    def make(self, rng: Random) -> bytes:
        header = dump(rng, mutate_json(rng, self._header) if rng.random() < 0.8 else self._header)
        if rng.random() < 0.3:
            header = mutate_bytes(rng, header, [header])
        data = self._file(header, rng.choice((32, 32, 32, 0, 31, 33, 200)))
        return mutate_bytes(rng, data, [data]) if rng.random() < 0.15 else data

    def enter(self, case: bytes) -> None:
        from safetensors import safe_open

        from smallai_assistant.models.files import read_safetensors_header

        path = scratch(self.folder, "x.safetensors", case)
        header = read_safetensors_header(path)
        with safe_open(path, framework="numpy") as file:
            if set(file.keys()) != set(header):
                raise AssertionError("the library finds other tensors")


class Gguf(Door):
    """The header of a GGUF file. The library that reads what is taken runs in a process with limits."""

    name = "gguf"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._names = [b"general.architecture", b"general.alignment", b"llama.block_count", b"llama.context_length",
                       b"tokenizer.ggml.tokens", b"tokenizer.chat_template", b"llama.rope.freq_base", b"x"]  # fmt: skip

    @staticmethod
    def _text(value: bytes) -> bytes:
        return struct.pack("<Q", len(value)) + value

    def _value(self, kind: int, value: Any) -> bytes:
        codes = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
        if kind == 8:
            return self._text(value)
        if kind == 9:
            inner, rows = value
            return struct.pack("<IQ", inner, len(rows)) + b"".join(self._value(inner, row) for row in rows)
        return struct.pack("<" + codes[kind], value)

    def _build(self, values: list[tuple[bytes, int, Any]], tensors: list[tuple[bytes, list[int], int, int]]) -> bytes:
        out = bytearray(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(values)))
        for name, kind, value in values:
            out += self._text(name) + struct.pack("<I", kind) + self._value(kind, value)
        for name, shape, kind, offset in tensors:
            out += self._text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
        out += bytes(-len(out) % 32)
        return bytes(out + bytes(256))

    def _parts(self) -> tuple[list[tuple[bytes, int, Any]], list[tuple[bytes, list[int], int, int]]]:
        values = [
            (b"general.architecture", 8, b"llama"),
            (b"general.alignment", 4, 32),
            (b"llama.block_count", 4, 2),
            (b"llama.context_length", 4, 64),
            (b"llama.rope.freq_base", 6, 10_000.0),
            (b"tokenizer.ggml.tokens", 9, (8, [b"a", b"bc", b""])),
            (b"tokenizer.ggml.scores", 9, (6, [0.5, 1.0])),
        ]
        return values, [(b"token_embd.weight", [32, 1], 2, 0), (b"output_norm.weight", [4], 0, 32), (b"v", [8], 0, 64)]

    def samples(self) -> list[bytes]:
        return [self._build(*self._parts())]

    def make(self, rng: Random) -> bytes:
        values, tensors = self._parts()
        for _ in range(rng.choice((0, 1, 1, 2))):
            kind = rng.randrange(6)
            if kind == 0:
                values.insert(rng.randrange(len(values) + 1), (rng.choice(self._names), *self._odd(rng)))
            elif kind == 1:
                at = rng.randrange(len(values))
                values[at] = (values[at][0], *self._odd(rng))
            elif kind == 2 and len(values) > 1:
                del values[rng.randrange(len(values))]
            elif kind == 3:
                name, shape, _, offset = rng.choice(tensors)
                shape = (
                    [abs(integer(rng)) % 2**64 for _ in range(rng.choice((0, 1, 2, 4, 5)))]
                    if rng.random() < 0.5
                    else shape
                )
                tensors[rng.randrange(len(tensors))] = (
                    name,
                    shape,
                    rng.randrange(45),
                    offset + rng.choice((0, 0, 32, 1)),
                )
            elif kind == 4:
                tensors = tensors * rng.choice((1, 2, 300))
        data = self._build(values, tensors)
        return mutate_bytes(rng, data, [data]) if rng.random() < 0.6 else data

    @staticmethod
    def _odd(rng: Random) -> tuple[int, Any]:
        return rng.choice(
            (
                (4, abs(integer(rng)) % 2**32),
                (10, abs(integer(rng)) % 2**64),
                (11, rng.choice((-1, 2**62))),
                (8, text(rng).encode("utf-8", "surrogatepass")),
                (7, True),
                (12, float("nan")),
                (9, (4, [1] * rng.choice((0, 3, 5_000)))),
                (9, (8, [b"x"] * rng.choice((0, 3, 5_000)))),
            )
        )

    def enter(self, case: bytes) -> None:
        from smallai_assistant.models.gguf_header import check_gguf

        check_gguf(scratch(self.folder, "x.gguf", case))
