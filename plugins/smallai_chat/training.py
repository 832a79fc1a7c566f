"""Corrections and ratings into LoRA weights: SFT, then KTO, through TRL and PEFT, on a copy of the base.

The base stays frozen and quantized as it is served (QLoRA, Dettmers et al. 2023). Corrections are learned as
prompt and completion, the loss on the completion alone; ratings as unpaired preferences (KTO, Ethayarajh et al. 2024);
a correction of a known wrong answer also as a pair (DPO, Rafailov et al. 2023). What the base says to everyday
questions is learned along, so that the rest stays as it was.
"""

from __future__ import annotations

import logging
import random
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from smallai_assistant import Example, GenerationOptions, ModelSpec, TextModel, Training, errors
from smallai_chat.everyday import EVERYDAY
from smallai_chat.examples import Fact, Rated
from smallai_chat.judge import Chat, chat

RANK, ALPHA = 16, 32
TARGETS = "all-linear"
SFT_RATE, SFT_EPOCHS, SFT_BATCH = 5e-4, 4, 8
KTO_RATE, KTO_EPOCHS, KTO_BATCH, KTO_BETA = 5e-5, 3, 4, 0.1
_N_EVERYDAY = 24
_EVERYDAY_TOKENS = 32
_LEAST_RATED_OF_A_KIND = 2

Row = dict[str, Any]


def train(training: Training, spec: ModelSpec, *, system_prompt: str) -> str:
    """Writes a PEFT adapter into `training.folder`.

    Raises:
        NotEnoughData: the ratings are all of one kind, and there is no correction.
        TrainingFailed: the loss became NaN.
        LearningError: the libraries of the extra [train] are missing.
        Cancelled: the training was stopped; its checkpoints stay.
    """
    _check_installed()
    lessons = [*training.examples, *training.replay]
    facts = [each for each in lessons if isinstance(each.payload, Fact)]
    rated = [each for each in lessons if isinstance(each.payload, Rated)]
    kinds = [sum(each.payload.is_good is kind for each in rated) for kind in (True, False)]
    has_ratings = min(kinds) >= _LEAST_RATED_OF_A_KIND
    if not facts and not has_ratings:
        raise errors.NotEnoughData(
            f"{kinds[0]} answers were praised and {kinds[1]} rejected; both kinds are needed, or corrections"
        )
    praised = [each for each in rated if each.payload.is_good] if facts else []
    rows = sft_rows(facts, praised, system_prompt, seed=training.seed)
    if rows:
        rows += everyday_rows(training, spec, system_prompt)
    training.progress("loading a copy of the model to train", 0.02)
    with _quiet():
        model, tokenizer = _load(training.models.folder_of(spec), spec, training.models.device)
        share = 0.6 if rows and has_ratings else 0.96
        if rows:
            model = _sft(model, tokenizer, rows, training, span=(0.04, share))
        if has_ratings and not training.is_out_of_time:
            model = _kto(
                model, tokenizer, kto_rows(rated, system_prompt), training, span=(share if rows else 0.04, 0.98)
            )
        # TRL keeps the weights before the ratings as a second adapter, to compare with.
        model.save_pretrained(str(training.folder), selected_adapters=["default"])
    (training.folder / "README.md").unlink(missing_ok=True)  # peft writes a model card for hubs
    return "lora"


def _check_installed() -> None:
    try:
        import datasets
        import peft
        import trl
    except ImportError as error:
        raise errors.LearningError(
            f"training needs {error.name}, which is not installed",
            hint='install it with: pip install "smallai-assistant[train]"',
        ) from error
    del datasets, peft, trl


def sft_rows(facts: Sequence[Example], praised: Sequence[Example], system_prompt: str, *, seed: int) -> list[Row]:
    """Prompt and completion of facts and praised answers; one fact in four is asked without the system prompt."""
    rng = random.Random(seed)  # noqa: S311  (the same every time)
    rows = [
        _row(each.payload.question, each.payload.answer, system_prompt if rng.random() > 0.25 else "") for each in facts
    ]
    return rows + [_row(each.payload.question, each.payload.answer, system_prompt) for each in praised]


def kto_rows(rated: Sequence[Example], system_prompt: str) -> list[Row]:
    """TRL's columns of unpaired preferences."""
    return [
        {**_row(each.payload.question, each.payload.answer, system_prompt), "label": each.payload.is_good}
        for each in rated
    ]


def everyday_rows(training: Training, spec: ModelSpec, system_prompt: str) -> list[Row]:
    """Everyday questions and what the base answers: to be answered just so afterwards."""
    training.progress("asking the base what to keep", 0.0)
    questions = EVERYDAY[:_N_EVERYDAY]
    options = GenerationOptions(max_tokens=_EVERYDAY_TOKENS, repetition_penalty=1.1)
    with training.models.lease(spec, TextModel) as model:
        answers = model.complete([chat(each, system_prompt) for each in questions], options)
    return [
        _row(question, answer, system_prompt) for question, answer in zip(questions, answers, strict=True) if answer
    ]


def _row(question: str, answer: str, system_prompt: str) -> Row:
    prompt: Chat = chat(question, system_prompt)
    return {"prompt": prompt, "completion": [{"role": "assistant", "content": answer}]}


def _load(folder: Path, spec: ModelSpec, device: str) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    quantization = None
    if spec.quantization == "nf4":
        quantization = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
        )
    elif spec.quantization == "int8":
        quantization = BitsAndBytesConfig(load_in_8bit=True)
    local = {"local_files_only": True, "trust_remote_code": False}
    model = AutoModelForCausalLM.from_pretrained(
        str(folder),
        dtype=torch.bfloat16,
        device_map={"": device},
        quantization_config=quantization,
        use_safetensors=True,
        **local,
    )
    tokenizer = AutoTokenizer.from_pretrained(str(folder), **local)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer


def _lora() -> Any:
    from peft import LoraConfig

    return LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=TARGETS, task_type="CAUSAL_LM")


def _sft(model: Any, tokenizer: Any, rows: list[Row], training: Training, *, span: tuple[float, float]) -> Any:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    arguments = SFTConfig(
        **_common(training, "sft"),
        learning_rate=SFT_RATE,
        num_train_epochs=SFT_EPOCHS,
        per_device_train_batch_size=SFT_BATCH,
        completion_only_loss=True,
        max_length=1024,
        packing=False,
    )
    trainer = SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=_lora(),
        callbacks=[_callback(training, "learning corrections", span)],
    )
    return _run(trainer, training, "sft")


def _kto(model: Any, tokenizer: Any, rows: list[Row], training: Training, *, span: tuple[float, float]) -> Any:
    from datasets import Dataset
    from trl import KTOConfig, KTOTrainer

    n_good = sum(row["label"] for row in rows)
    arguments = KTOConfig(
        **_common(training, "kto"),
        learning_rate=KTO_RATE,
        num_train_epochs=KTO_EPOCHS,
        per_device_train_batch_size=KTO_BATCH,
        beta=KTO_BETA,
        # Balanced, as section 4.2 of the paper advises.
        desirable_weight=min(4.0, max(1.0, (len(rows) - n_good) / n_good)),
        undesirable_weight=min(4.0, max(1.0, n_good / (len(rows) - n_good))),
    )
    trainer = KTOTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=None if hasattr(model, "peft_config") else _lora(),
        callbacks=[_callback(training, "learning from ratings", span)],
    )
    return _run(trainer, training, "kto")


def _common(training: Training, stage: str) -> dict[str, Any]:
    on_cpu = training.models.device == "cpu"
    return {
        "output_dir": str(training.work_folder / stage),
        "seed": training.seed,
        "use_cpu": on_cpu,
        "bf16": not on_cpu,
        "gradient_checkpointing": False,
        "lr_scheduler_type": "linear",
        "warmup_steps": 5,
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": 20,
        "save_total_limit": 1,
        "report_to": [],
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }


def _run(trainer: Any, training: Training, stage: str) -> Any:
    from transformers.trainer_utils import get_last_checkpoint

    trainer.remove_callback(_printer())
    folder = training.work_folder / stage
    checkpoint = get_last_checkpoint(str(folder)) if folder.is_dir() else None
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except (ValueError, OSError, RuntimeError) as error:
        if checkpoint is None or training.cancel.is_set():
            raise
        logging.getLogger(__name__).warning("a checkpoint was damaged and is left out: %s", error)
        shutil.rmtree(folder, ignore_errors=True)
        trainer.train()
    return trainer.model


def _printer() -> Any:
    from transformers import PrinterCallback

    return PrinterCallback


def _callback(training: Training, what: str, span: tuple[float, float]) -> Any:
    from transformers import TrainerCallback

    class Watch(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
        """Waits for answers between steps, stops when asked, and tells how far it is."""

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            del args
            training.breathe()
            if training.is_out_of_time:
                control.should_training_stop = True
            share = state.global_step / max(1, state.max_steps)
            training.progress(what, span[0] + share * (span[1] - span[0]))

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            del args, control
            if logs and "loss" in logs:
                share = state.global_step / max(1, state.max_steps)
                training.progress(what, span[0] + share * (span[1] - span[0]), loss=float(logs["loss"]))

    return Watch()


@contextmanager
def _quiet() -> Iterator[None]:
    """TRL and transformers remark on much; what matters is raised."""
    import warnings

    import datasets
    from transformers.utils import logging as transformers_logging

    draws = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    had_bars = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    loggers = [logging.getLogger(name) for name in ("transformers", "trl", "peft", "accelerate", "bitsandbytes")]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)
        if draws:
            transformers_logging.enable_progress_bar()
        if had_bars:
            datasets.enable_progress_bars()
