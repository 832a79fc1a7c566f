"""The boundary of the stages that read a model's files: whose fault an error is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from smallai_assistant.errors import AssistantError, ModelInvalid


@contextmanager
def model_errors(what: str, *, hint: str = "verify it, or get it again") -> Iterator[None]:
    """The boundary of every stage that reads a model's files: what a library or the system raises is blamed on them.

    Errors of ours pass. So do those for want of memory, because the runtime makes room and tries again, and the
    requests to stop.

    Args:
        what: the model or folder, for the error.

    Raises:
        ModelInvalid: the block raised something else.
    """
    try:
        yield
    except (AssistantError, MemoryError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # a panic in the Rust code of tokenizers or safetensors is not an Exception
        if is_out_of_memory(error):
            raise
        text = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        raise ModelInvalid(f"{what} cannot be used: {text}", hint=hint) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the device or the system had no memory left."""
    # By its name: torch is not imported for engines that do not use it.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if not isinstance(error, RuntimeError):
        return False
    # torch reports CPU memory, and libraries report CUDA memory, as a plain RuntimeError with one of these texts.
    text = str(error)
    return "out of memory" in text.lower() or "can't allocate memory" in text
