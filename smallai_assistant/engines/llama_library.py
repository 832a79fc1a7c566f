"""The C interface of llama.cpp, from the library inside the wheel of xllamacpp.

The wheel's own `Server` is not used. It opens an HTTP port, it loads adapters only when it starts, it has no
log-likelihoods, and a cancel waits for the end of a prefill. The C interface has none of these limits, and the tokens
of all streams are computed together here as well as there. Of its structures, this module knows only the fields that it
sets, and it checks their places by their default values before it uses them.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smallai_assistant.errors import AdapterMismatch, ModelError, ModelInvalid, OutOfMemory

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float32]

PACKAGE = "xllamacpp"
_HINT = f"install the tested version: pip install 'smallai-assistant[llamacpp]' -c constraints.txt ({PACKAGE})"
# Larger than the structures of parameters (144 and 80 bytes). They are passed by value; the library reads its own size.
_PARAMS_BYTES = 256
# `llama_context_params`: the first seven fields, each of 32 bits, and their default values.
_CONTEXT_FIELDS = struct.Struct("<7I")  # n_ctx, n_batch, n_ubatch, n_seq_max, n_rs_seq, n_outputs_max, ..._per_seq
_CONTEXT_DEFAULTS = (512, 2048, 512, 1, 0, 0, 1)
# Its last fields are flags: embeddings, offload_kqv, no_perf, op_offload, swa_full, kv_unified.
_FLAGS_AT, _FLAG_DEFAULTS = 136, bytes([0, 1, 1, 1, 1, 0])
_KV_UNIFIED = 5  # all sequences share one cache, instead of an equal part for each
_NO_ROOM = 1  # what `llama_decode` returns if the cache has no room for the tokens


class _Params(ctypes.Structure):
    _fields_ = (("raw", ctypes.c_uint8 * _PARAMS_BYTES),)


class _Batch(ctypes.Structure):
    """`llama_batch`: the tokens of a pass, each with its position, its sequence and whether its logits are wanted."""

    _fields_ = (
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        ("embd", ctypes.c_void_p),
        ("pos", ctypes.POINTER(ctypes.c_int32)),
        ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    )


_POINTER, _INT, _SIZE = ctypes.c_void_p, ctypes.c_int32, ctypes.c_size_t
_LOG = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
# Takes the log of the library, which would be written to stderr. The library keeps the address, so it lives as long.
_NO_LOG = _LOG(lambda _level, _text, _data: None)
# The functions that are used: the type of the result, and those of the arguments.
_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "llama_backend_init": (None, ()),
    "llama_log_set": (None, (_LOG, _POINTER)),
    "llama_model_default_params": (_Params, ()),
    "llama_context_default_params": (_Params, ()),
    "llama_model_load_from_file": (_POINTER, (ctypes.c_char_p, _Params)),
    "llama_model_free": (None, (_POINTER,)),
    "llama_model_size": (ctypes.c_uint64, (_POINTER,)),
    "llama_model_is_recurrent": (ctypes.c_bool, (_POINTER,)),
    "llama_model_is_hybrid": (ctypes.c_bool, (_POINTER,)),
    "llama_model_n_ctx_train": (_INT, (_POINTER,)),
    "llama_model_get_vocab": (_POINTER, (_POINTER,)),
    "llama_vocab_n_tokens": (_INT, (_POINTER,)),
    "llama_vocab_is_eog": (ctypes.c_bool, (_POINTER, _INT)),
    "llama_init_from_model": (_POINTER, (_POINTER, _Params)),
    "llama_free": (None, (_POINTER,)),
    "llama_n_ctx": (ctypes.c_uint32, (_POINTER,)),
    "llama_n_seq_max": (ctypes.c_uint32, (_POINTER,)),
    "llama_n_ctx_seq": (ctypes.c_uint32, (_POINTER,)),
    "llama_set_n_threads": (None, (_POINTER, _INT, _INT)),
    "llama_get_memory": (_POINTER, (_POINTER,)),
    "llama_memory_seq_rm": (ctypes.c_bool, (_POINTER, _INT, _INT, _INT)),
    "llama_memory_seq_cp": (None, (_POINTER, _INT, _INT, _INT, _INT)),
    "llama_batch_init": (_Batch, (_INT, _INT, _INT)),
    "llama_batch_free": (None, (_Batch,)),
    "llama_decode": (_INT, (_POINTER, _Batch)),
    "llama_get_logits_ith": (ctypes.POINTER(ctypes.c_float), (_POINTER, _INT)),
    "llama_adapter_lora_init": (_POINTER, (_POINTER, ctypes.c_char_p)),
    "llama_adapter_lora_free": (None, (_POINTER,)),
    "llama_set_adapters_lora": (
        _INT,
        (_POINTER, ctypes.POINTER(_POINTER), _SIZE, ctypes.POINTER(ctypes.c_float)),
    ),
}


def is_installed() -> bool:
    """Whether the package is installed. Nothing is imported."""
    return importlib.util.find_spec(PACKAGE) is not None


@functools.cache
def library() -> Any:
    """The loaded library with its functions.

    Raises:
        ModelError: the package is missing, or is a version whose structures this module does not know.
    """
    spec = importlib.util.find_spec(PACKAGE)
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    files = [path for folder in folders for path in sorted(Path(folder).glob(f"{PACKAGE}.*")) if _is_library(path)]
    if not files:
        raise ModelError(f"the engine llama.cpp needs the package {PACKAGE}", hint=_HINT)
    try:
        loaded = ctypes.CDLL(str(files[0]))
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(loaded, name)
            function.restype, function.argtypes = result, list(arguments)
    except (OSError, AttributeError) as error:
        raise ModelError(f"the library of {PACKAGE} cannot be used: {error}", hint=_HINT) from error
    defaults = bytes(loaded.llama_context_default_params().raw)
    if (
        _CONTEXT_FIELDS.unpack_from(defaults) != _CONTEXT_DEFAULTS
        or defaults[_FLAGS_AT : _FLAGS_AT + len(_FLAG_DEFAULTS)] != _FLAG_DEFAULTS
    ):
        raise ModelError(f"this version of {PACKAGE} is not known", hint=_HINT)
    loaded.llama_log_set(_NO_LOG, None)
    loaded.llama_backend_init()
    return loaded


def _is_library(path: Path) -> bool:
    return path.suffix in (".so", ".pyd", ".dylib")


class LlamaWeights:
    """The weights of a GGUF file, mapped into memory.

    Attributes:
        n_bytes: their size.
        n_context: the number of tokens that the model was trained for.
        n_words: the size of its vocabulary.
        has_state: whether layers keep a state of the whole text, instead of keys and values of each token.

    Raises:
        ModelInvalid: the library cannot load the file; it says nothing more.
    """

    def __init__(self, path: Path) -> None:
        self._library = library()
        handle = self._library.llama_model_load_from_file(os.fsencode(path), self._library.llama_model_default_params())
        if not handle:
            raise ModelInvalid(f"llama.cpp cannot load {path.name}", hint="verify the model, or pull it again")
        self.handle: int | None = handle
        self._vocabulary = self._library.llama_model_get_vocab(handle)
        self.n_bytes = int(self._library.llama_model_size(handle))
        self.n_context = int(self._library.llama_model_n_ctx_train(handle))
        self.n_words = int(self._library.llama_vocab_n_tokens(self._vocabulary))
        kinds = (self._library.llama_model_is_recurrent, self._library.llama_model_is_hybrid)
        self.has_state = any(is_kind(handle) for is_kind in kinds)

    def end_ids(self) -> frozenset[int]:
        """The tokens that end an answer."""
        is_end = self._library.llama_vocab_is_eog
        return frozenset(index for index in range(self.n_words) if is_end(self._vocabulary, index))

    def load_adapter(self, path: Path) -> int:
        """Loads a LoRA adapter in GGUF format. Returns its handle, which `free_adapter` takes.

        Raises:
            AdapterMismatch: it does not fit the weights.
        """
        handle = self._library.llama_adapter_lora_init(self.handle, os.fsencode(path))
        if not handle:
            raise AdapterMismatch("llama.cpp cannot load it for this model")
        return int(handle)

    def free_adapter(self, handle: int) -> None:
        """Drops an adapter that no context uses."""
        self._library.llama_adapter_lora_free(handle)

    def close(self) -> None:
        """Unmaps the file. Close its contexts before. Idempotent."""
        handle, self.handle = self.handle, None
        if handle:
            self._library.llama_model_free(handle)


class LlamaContext:
    """A cache of keys and values that several sequences share, and the passes that fill it. One thread uses it.

    Args:
        n_tokens: that the cache has room for, of all sequences together.
        n_sequences: the number of sequences; each is named by its index.
        n_batch: the maximum number of tokens of a pass.
        n_logits: the maximum number of tokens of a pass whose logits are wanted.

    Attributes:
        can_share: whether sequences may share the beginning of a text.

    Raises:
        OutOfMemory: there is no memory for the cache.
        ModelError: the library does not do what it was asked for.
    """

    def __init__(self, weights: LlamaWeights, *, n_tokens: int, n_sequences: int, n_batch: int, n_logits: int) -> None:
        self._library = library()
        raw = bytearray(bytes(self._library.llama_context_default_params().raw))
        _CONTEXT_FIELDS.pack_into(raw, 0, n_tokens, n_batch, n_batch, n_sequences, 0, n_logits, n_logits)
        raw[_FLAGS_AT + _KV_UNIFIED] = 1
        handle = self._library.llama_init_from_model(weights.handle, _Params.from_buffer_copy(raw))
        if not handle:
            raise OutOfMemory(f"there is no memory for a context of {n_tokens:,} tokens", hint="close other programs")
        self._handle: int | None = handle
        self._batch: Any = None
        self._n_words = weights.n_words
        self.can_share = not weights.has_state
        found = [getattr(self._library, f"llama_n_{name}")(handle) for name in ("ctx", "ctx_seq", "seq_max")]
        if found[0] < n_tokens or found[1] < n_tokens or found[2] != n_sequences:
            self.close()
            raise ModelError(f"llama.cpp made a context of {found}, not of {n_tokens}", hint=_HINT)
        self._memory = self._library.llama_get_memory(handle)
        self._batch = self._library.llama_batch_init(n_batch, 0, 1)

    def set_threads(self, n_threads: int) -> None:
        """Sets the number of threads of a pass."""
        self._library.llama_set_n_threads(self._handle, n_threads, n_threads)

    def set_adapter(self, adapter: int | None) -> None:
        """Makes the next passes use an adapter, or none."""
        n = 0 if adapter is None else 1
        handles, scales = (_POINTER * 1)(adapter), (ctypes.c_float * 1)(1.0)
        if self._library.llama_set_adapters_lora(self._handle, handles, n, scales):
            raise ModelError("llama.cpp refused an adapter that it has loaded")

    def decode(self, tokens: Sequence[tuple[int, int, int, bool]]) -> bool:
        """Computes tokens.

        Args:
            tokens: of each its id, its position, its sequence, and whether its logits are wanted.

        Returns:
            False if the cache has no room for them.

        Raises:
            ModelError: the library failed.
        """
        batch = self._batch
        for i, (token, position, sequence, has_logits) in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, position, 1
            batch.seq_id[i][0] = sequence
            batch.logits[i] = has_logits
        batch.n_tokens = len(tokens)
        found = self._library.llama_decode(self._handle, batch)
        if found not in (0, _NO_ROOM):
            raise ModelError(f"llama.cpp could not compute {len(tokens)} tokens (code {found})")
        return bool(found == 0)

    def logits(self, place: int) -> FloatArray:
        """The scores after the token at this place of the last pass: float32, shape (n_words,), a copy."""
        import numpy as np

        pointer = self._library.llama_get_logits_ith(self._handle, place)
        return np.ctypeslib.as_array(pointer, (self._n_words,)).astype(np.float32, copy=True)

    def cut(self, sequence: int, n_kept: int) -> bool:
        """Drops the tokens of a sequence after the first `n_kept`.

        Returns:
            False if the model cannot do that, because it keeps a state instead of keys; then nothing is left of it.
        """
        if self._library.llama_memory_seq_rm(self._memory, sequence, n_kept, -1):
            return True
        self._library.llama_memory_seq_rm(self._memory, sequence, -1, -1)
        return False

    def share(self, source: int, target: int, n_tokens: int) -> None:
        """Makes an empty sequence begin with the first tokens of another one. Nothing is copied."""
        self._library.llama_memory_seq_cp(self._memory, source, target, 0, n_tokens)

    def close(self) -> None:
        """Frees the cache. Idempotent."""
        handle, self._handle = self._handle, None
        if handle:
            if self._batch is not None:
                self._library.llama_batch_free(self._batch)
            self._library.llama_free(handle)
