"""Every error the assistant raises on purpose.

    AssistantError
    ├── InvalidInput            what the caller gave cannot be used
    │   ├── InputTooLarge       ... because it is over a stated limit
    │   ├── InvalidImage        ... because it is not a complete picture of a supported format
    │   ├── InvalidAudio        ... because it is not a complete recording of a supported format
    │   └── UrlNotAllowed       ... because it is an address where a path is expected
    ├── ConfigError             a setting is unknown, of the wrong type or out of range
    ├── NoTaskError             no installed task accepts this message
    ├── PluginError             a plugin broke the contract
    ├── ModelError              a model cannot be found, fetched or used
    │   ├── ModelNotFound       it is not in the catalogue, or not pulled
    │   ├── ModelInvalid        one of its files is cut short or malformed
    │   │   ├── UnsafeModelFormat    a format that can run code (pickle, h5)
    │   │   └── UnsafeModelConfig    a config that asks to run code
    │   ├── IntegrityError      a file's sha256 is not the recorded one
    │   ├── DownloadError       no source delivered the file
    │   └── OutOfMemory         it does not fit the memory budget or the device
    ├── StoreError              the database cannot be used
    │   └── StoreFull           ... because the disk is full
    ├── LearningError           learning did not give the result that was asked for
    │   ├── NotEnoughData       too little feedback to train or to evaluate
    │   ├── EvalContaminated    a training example is also in the evaluation
    │   ├── GateRejected        an adapter that the gate refused cannot serve
    │   ├── TrainingFailed      the loss became NaN, or the adapter does not answer
    │   └── AdapterMismatch     the adapter was made for another base, or holds no numbers
    ├── Cancelled               the caller stopped the work
    └── Busy                    another job holds a resource that this one needs

A caller's programming error stays ValueError or TypeError.

The message and the hint are sentences for people. Programs read the fields: `code`, `suggestion`, `pull_name`,
`n_missing`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class NearestName:
    """The known name that is nearest to an unknown one. `str()` is the hint for people.

    Attributes:
        name: the nearest known name; None if no known name is similar.
        known: all known names, sorted; the hint lists them if `name` is None.
    """

    name: str | None
    known: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.name is not None:
            return f"did you mean {self.name!r}?"
        return f"known: {', '.join(self.known) or 'none'}"


def nearest(name: str, known: Iterable[str]) -> NearestName:
    """Finds the known name that is most similar to an unknown one; pass it to an error as `hint`."""
    choices = tuple(sorted(known))
    close = difflib.get_close_matches(name, choices, n=1)
    return NearestName(close[0] if close else None, choices)


class AssistantError(Exception):
    """Base of the tree above.

    Args:
        message: what went wrong and with which value.
        hint: what to do about it, one sentence. A `NearestName` also sets `suggestion`. None takes the general hint of
            the class.
        suggestion: the known name that was probably meant. `hint` is made from it if none is given.

    Attributes:
        code: stable identifier, snake_case, for programs.
        fields: names of the attributes that `to_json` adds to the code, the message and the hint.
    """

    code: ClassVar[str] = "assistant_error"
    default_hint: ClassVar[str] = ""
    fields: ClassVar[tuple[str, ...]] = ("suggestion",)

    def __init__(self, message: str, *, hint: str | NearestName | None = None, suggestion: str | None = None) -> None:
        super().__init__(message)
        # This is the one place that turns a suggestion into a sentence, so that no caller has to parse one.
        if hint is None and suggestion is not None:
            hint = NearestName(suggestion)
        if isinstance(hint, NearestName) and suggestion is None:
            suggestion = hint.name
        self.suggestion = suggestion
        # An empty hint stays empty: the caller knows that the general advice of the class does not help.
        self.hint = self.default_hint if hint is None else str(hint)

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message} ({self.hint})" if self.hint else message

    @property
    def message(self) -> str:
        """The text without the hint."""
        # Exception.__str__ gives the first argument; our own __str__ would add the hint.
        return super().__str__()

    def to_json(self) -> dict[str, Any]:
        """The error as an object for programs: `code`, `message`, `hint`, and the fields of its class."""
        fields = {name: getattr(self, name) for name in self.fields}
        return {"code": self.code, "message": self.message, "hint": self.hint, **fields}


class InvalidInput(AssistantError):
    code = "invalid_input"


class InputTooLarge(InvalidInput):
    code = "input_too_large"
    default_hint = "send a smaller input, or raise the limit in the configuration"


class InvalidImage(InvalidInput):
    code = "invalid_image"
    default_hint = "give a complete PNG, JPEG, WebP or GIF file"


class InvalidAudio(InvalidInput):
    code = "invalid_audio"
    default_hint = "give a complete WAV, FLAC, OGG, MP3, M4A, AAC, MP4 or WebM file"


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
    """A model is not in the catalogue, or not pulled.

    Args:
        pull_name: the name that `smallai models pull` gets it by. The chat offers to pull it. None if no pull helps, as
            for an unknown name. `hint` is made from it if none is given.
    """

    code = "model_not_found"
    default_hint = "see `smallai models list`, get it with `smallai models pull NAME`"
    fields = (*ModelError.fields, "pull_name")

    def __init__(
        self,
        message: str,
        *,
        hint: str | NearestName | None = None,
        suggestion: str | None = None,
        pull_name: str | None = None,
    ) -> None:
        # A suggestion is more helpful than a pull: a misspelt name cannot be pulled.
        if hint is None and suggestion is None and pull_name is not None:
            hint = f"get it with `smallai models pull {pull_name}`"
        super().__init__(message, hint=hint, suggestion=suggestion)
        self.pull_name = pull_name


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
    default_hint = "check the network and the package index settings, then pull again: finished files are kept"


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
    """There is too little feedback to train or to evaluate.

    Args:
        n_missing: how many more questions, pictures or recordings need feedback, as far as it can be told.
    """

    code = "not_enough_data"
    default_hint = "give more feedback: corrections and ratings of different answers"
    fields = (*LearningError.fields, "n_missing")

    def __init__(self, message: str, *, hint: str | NearestName | None = None, n_missing: int | None = None) -> None:
        super().__init__(message, hint=hint)
        self.n_missing = n_missing


class EvalContaminated(LearningError):
    code = "eval_contaminated"
    default_hint = "remove the example from the training data or from the evaluation"


class GateRejected(LearningError):
    code = "gate_rejected"
    default_hint = "see `smallai adapters show ID`; the champion continues to serve"


class TrainingFailed(LearningError):
    code = "training_failed"
    default_hint = "nothing was changed; the champion continues to serve"


class AdapterMismatch(LearningError):
    code = "adapter_mismatch"
    default_hint = "train again with `smallai learn`, or configure the model it was made for"


class Cancelled(AssistantError):
    code = "cancelled"


class Busy(AssistantError):
    code = "busy"
