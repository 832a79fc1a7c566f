"""Every error the assistant raises on purpose.

    AssistantError
    ├── InvalidInput            what the caller gave cannot be used
    │   ├── InputTooLarge       ... because it is over a stated limit
    │   ├── InvalidImage        ... because it is no whole picture of a supported format
    │   ├── InvalidAudio        ... because it is no whole recording of a supported format
    │   └── UrlNotAllowed       ... because it is an address where a path is expected
    ├── ConfigError             a setting is unknown, of the wrong type or out of range
    ├── NoTaskError             no installed task takes this message
    ├── PluginError             a plugin broke the contract
    ├── ModelError              a model cannot be had or used
    │   ├── ModelNotFound       it is not in the catalogue, or not pulled
    │   ├── ModelInvalid        a file of it is cut short or malformed
    │   │   ├── UnsafeModelFormat    a format that can run code (pickle, h5)
    │   │   └── UnsafeModelConfig    a config that asks to run code
    │   ├── IntegrityError      a file's sha256 is not the recorded one
    │   ├── DownloadError       no source gave the file
    │   └── OutOfMemory         it does not fit the memory budget or the device
    ├── StoreError              the database cannot be used
    │   └── StoreFull           ... because the disk is full
    ├── LearningError           learning did not give what was asked
    │   ├── NotEnoughData       too little feedback to learn from or to judge by
    │   ├── EvalContaminated    something trained on is also in the evaluation
    │   ├── GateRejected        an adapter that the gate refused cannot serve
    │   ├── TrainingFailed      the loss became NaN, or the adapter does not answer
    │   └── AdapterMismatch     the adapter was made for another base, or holds no numbers
    ├── Cancelled               the caller stopped it
    └── Busy                    another job holds what this one needs

A caller's programming error stays ValueError or TypeError.
"""

from __future__ import annotations

from typing import ClassVar


class AssistantError(Exception):
    """Base of the tree above.

    Args:
        message: what went wrong and with which value.
        hint: what to do about it, one sentence; the class has a general one where none is given.

    Attributes:
        code: stable identifier, snake_case, for programs.
    """

    code: ClassVar[str] = "assistant_error"
    default_hint: ClassVar[str] = ""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = self.default_hint if hint is None else hint

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message} ({self.hint})" if self.hint else message

    @property
    def message(self) -> str:
        """The text without the hint."""
        return super().__str__()


class InvalidInput(AssistantError):
    code = "invalid_input"


class InputTooLarge(InvalidInput):
    code = "input_too_large"
    default_hint = "send a smaller input, or raise the limit in the configuration"


class InvalidImage(InvalidInput):
    code = "invalid_image"
    default_hint = "give a whole PNG, JPEG, WebP or GIF file"


class InvalidAudio(InvalidInput):
    code = "invalid_audio"
    default_hint = "give a whole WAV, FLAC, OGG or MP3 file"


class UrlNotAllowed(InvalidInput):
    code = "url_not_allowed"
    default_hint = "download the file yourself and give its path"


class ConfigError(AssistantError):
    code = "config_error"


class NoTaskError(AssistantError):
    code = "no_task"


class PluginError(AssistantError):
    code = "plugin_error"


class ModelError(AssistantError):
    code = "model_error"


class ModelNotFound(ModelError):
    code = "model_not_found"
    default_hint = "see `smallai models list`, get it with `smallai models pull NAME`"


class ModelInvalid(ModelError):
    code = "model_invalid"


class UnsafeModelFormat(ModelInvalid):
    code = "unsafe_model_format"
    default_hint = "use a safetensors or GGUF file of the same model"


class UnsafeModelConfig(ModelInvalid):
    code = "unsafe_model_config"
    default_hint = "use a model whose architecture ships with transformers"


class IntegrityError(ModelError):
    code = "integrity_error"
    default_hint = "remove it and pull it again"


class DownloadError(ModelError):
    code = "download_error"
    default_hint = "check the network and the package index settings, then pull again: what is complete is kept"


class OutOfMemory(ModelError):
    code = "out_of_memory"


class StoreError(AssistantError):
    code = "store_error"


class StoreFull(StoreError):
    code = "store_full"
    default_hint = "free disk space and try again: nothing stored before was lost"


class LearningError(AssistantError):
    code = "learning_error"


class NotEnoughData(LearningError):
    code = "not_enough_data"
    default_hint = "give more feedback: corrections and ratings of different turns"


class EvalContaminated(LearningError):
    code = "eval_contaminated"
    default_hint = "remove the row from one of the two"


class GateRejected(LearningError):
    code = "gate_rejected"
    default_hint = "see `smallai adapters show ID`; the champion goes on serving"


class TrainingFailed(LearningError):
    code = "training_failed"
    default_hint = "nothing was changed; the champion goes on serving"


class AdapterMismatch(LearningError):
    code = "adapter_mismatch"
    default_hint = "train anew with `smallai learn`, or configure the model it was made for"


class Cancelled(AssistantError):
    code = "cancelled"


class Busy(AssistantError):
    code = "busy"
