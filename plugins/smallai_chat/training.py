"""Trains a LoRA adapter on corrections and ratings: SFT, DPO and KTO, through TRL and PEFT, on a copy of the base.

The base stays frozen, in the quantization in which it is served (QLoRA, Dettmers et al. 2023).

- SFT: corrections as prompt and completion, with the loss on the completion only, together with reference rows that
  hold the model to the base's answers on other questions (`kl_trainer`).
- DPO (Rafailov et al. 2023): pairs of a praised and a rejected answer to one question.
- KTO (Ethayarajh et al. 2024): ratings, as unpaired preferences.

What corrections taught and what ratings taught are components of the adapter: each is trained on the bare base, so that
either can be left out without training the other again.
"""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smallai_assistant import ModelSpec, Training, errors
from smallai_chat.components import Span, Stage, train_each
from smallai_chat.dataset import (
    MAX_TOKENS,
    Row,
    corrected_questions,
    kto_rows,
    rating_pairs,
    reference_rows,
    sft_rows,
    tokenize,
)
from smallai_chat.examples import CORRECTIONS, RATINGS, Fact, Rated
from smallai_chat.layer_breaks import breaks_between_layers
from smallai_chat.scope import Scopes

# The recipe. The figures of `bench.facts`, `bench.style` and `bench.three_cycles` were measured with these values
# (docs/decisions.md, 13 to 17 and 41).
RANK, ALPHA = 16, 32
TARGETS = "all-linear"
SFT_RATE, SFT_EPOCHS, SFT_BATCH = 1e-3, 4, 8
# A few facts take more epochs, up to so many steps: after four epochs over six facts one row in ten is still wrong.
SFT_MIN_STEPS = 150
# Learning ends after an epoch in which at most this share of the rows was wrong.
SFT_MAX_WRONG = 0.02
DPO_RATE, DPO_EPOCHS, DPO_BATCH, DPO_BETA = 5e-5, 1, 4, 0.1
# At twice this rate general language ability suffers, and the style is learned no better.
KTO_RATE, KTO_EPOCHS, KTO_BATCH, KTO_BETA = 2.5e-4, 4, 4, 0.1
# A larger model learns as much from smaller steps and forgets less.
_SMALL_PARAMETERS, _RATE_FACTOR_OF_LARGER = 250e6, 0.6
# KTO compares praised with rejected answers, so it needs both kinds.
_MIN_RATED_OF_A_KIND = 2
# Cost of a row relative to one SFT pass: KTO also runs the reference model, DPO runs both on two answers.
_SFT_COST, _KTO_COST, _DPO_COST = 1, 2, 3
_MAX_KTO_WEIGHT = 4.0  # if one kind of rating is very rare, its few rows must not dominate


@dataclass(frozen=True, slots=True)
class _Run:
    """What a stage needs to run a TRL trainer.

    Attributes:
        callback: a `TrainerCallback` that reports the progress.
        options: further arguments of the trainer.
    """

    trainer_type: Any
    arguments: Any
    callback: Any
    options: dict[str, Any] = field(default_factory=dict)


def train(training: Training, spec: ModelSpec, scopes: Scopes, *, system_prompt: str) -> str:
    """Writes a PEFT adapter for each component into `training.folder`, and the scope of corrections. Returns the kind.

    Raises:
        NotEnoughData: there is no correction, and the ratings are not of both kinds.
        TrainingFailed: the loss became NaN.
        LearningError: the libraries of the extra [train] are missing.
        ModelError: the chat model, or the embedding model that corrections need, is not available.
        Cancelled: the training was cancelled; its checkpoints stay.
    """
    _check_installed()
    examples = [*training.examples, *training.replay]
    facts = [example for example in examples if isinstance(example.payload, Fact)]
    rated = [example for example in examples if isinstance(example.payload, Rated)]
    praised = [example for example in rated if example.payload.is_good]
    has_ratings = min(len(praised), len(rated) - len(praised)) >= _MIN_RATED_OF_A_KIND
    if not facts and not has_ratings:
        raise errors.NotEnoughData(
            f"{len(praised)} answers were praised and {len(rated) - len(praised)} rejected; both kinds are needed, "
            "or corrections"
        )
    stages: dict[str, list[Stage]] = {CORRECTIONS: [], RATINGS: []}
    if facts:
        rows = sft_rows(facts, system_prompt, seed=training.seed)
        rows += reference_rows(facts, training, spec, scopes, system_prompt)
        stages[CORRECTIONS].append(Stage(_sft, rows, _SFT_COST * sft_epochs(len(rows))))
    if has_ratings:
        stages[RATINGS].append(Stage(_kto, kto_rows(rated, system_prompt), _KTO_COST * KTO_EPOCHS))
    if pairs := rating_pairs(rated, system_prompt):
        stages[RATINGS].append(Stage(_dpo, pairs, _DPO_COST * DPO_EPOCHS))
    training.progress("loading a copy of the model to train", 0.02)
    with _quiet():
        model, tokenizer = load_base(training.models.folder_of(spec), spec, training.models.device)
        train_each(model, tokenizer, stages, training)
    if (training.folder / CORRECTIONS).is_dir():
        scopes.of_questions(corrected_questions(facts)).save(training.folder / CORRECTIONS)
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


def load_base(folder: Path, spec: ModelSpec, device: str) -> tuple[Any, Any]:
    """Loads a copy of the model for training, in the quantization of `spec`. Returns the model and its tokenizer."""
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
    if quantization is not None and device == "cpu":
        # The same rounded values, unpacked once: on a CPU, unpacking them at every step takes most of the time.
        model = model.dequantize(torch.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained(str(folder), **local)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer


def lora_config() -> Any:
    """Returns PEFT's configuration of a new adapter."""
    from peft import LoraConfig

    return LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=TARGETS, task_type="CAUSAL_LM")


def _sft(model: Any, tokenizer: Any, rows: list[Row], training: Training, *, span: Span) -> Any:
    from trl import SFTConfig

    from smallai_chat.kl_trainer import KLTrainer, TreeLoss, collate

    arguments = SFTConfig(
        **_common(training, "sft"),
        learning_rate=SFT_RATE * _rate_factor(model),
        num_train_epochs=sft_epochs(len(rows)),
        per_device_train_batch_size=SFT_BATCH,
        # `tokenize` prepares the rows, and the column `is_reference` must reach the loss.
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
    )
    loss = TreeLoss()
    callback = _callback(training, "learning corrections", span, lambda: loss.share_wrong() <= SFT_MAX_WRONG)
    run = _Run(KLTrainer, arguments, callback, {"data_collator": collate, "loss": loss})
    return _fit(run, model, tokenizer, tokenize(rows, tokenizer), training)


def _dpo(model: Any, tokenizer: Any, rows: list[Row], training: Training, *, span: Span) -> Any:
    from trl import DPOConfig, DPOTrainer

    arguments = DPOConfig(
        **_common(training, "dpo"),
        learning_rate=DPO_RATE,
        num_train_epochs=DPO_EPOCHS,
        per_device_train_batch_size=DPO_BATCH,
        beta=DPO_BETA,
        # The loss on pairs alone can make both answers less likely, as long as the rejected one falls faster. The SFT
        # term prevents that (Pang et al. 2024).
        loss_type=["sigmoid", "sft"],
        max_length=MAX_TOKENS,
    )
    callback = _callback(training, "learning from pairs", span)
    return _fit(_Run(DPOTrainer, arguments, callback), model, tokenizer, rows, training)


def _kto(model: Any, tokenizer: Any, rows: list[Row], training: Training, *, span: Span) -> Any:
    from trl import KTOConfig

    from smallai_chat.kto_trainer import WholeAnswersTrainer

    n_good = sum(row["label"] for row in rows)
    arguments = KTOConfig(
        **_common(training, "kto"),
        learning_rate=KTO_RATE * _rate_factor(model),
        num_train_epochs=KTO_EPOCHS,
        per_device_train_batch_size=KTO_BATCH,
        beta=KTO_BETA,
        # The rarer kind weighs more, so that both count alike, as section 4.2 of the paper advises.
        desirable_weight=min(_MAX_KTO_WEIGHT, max(1.0, (len(rows) - n_good) / n_good)),
        undesirable_weight=min(_MAX_KTO_WEIGHT, max(1.0, n_good / (len(rows) - n_good))),
    )
    callback = _callback(training, "learning from ratings", span)
    return _fit(_Run(WholeAnswersTrainer, arguments, callback), model, tokenizer, rows, training)


def _rate_factor(model: Any) -> float:
    return 1.0 if model.num_parameters() < _SMALL_PARAMETERS else _RATE_FACTOR_OF_LARGER


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


def _fit(run: _Run, model: Any, tokenizer: Any, rows: list[Row], training: Training) -> Any:
    """Trains, from the last checkpoint if there is one. Returns the model with its LoRA layers."""
    from datasets import Dataset
    from transformers.trainer_utils import get_last_checkpoint

    trainer = run.trainer_type(
        model=model,
        args=run.arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        # The first stage adds the LoRA layers, later ones go on with them.
        peft_config=None if hasattr(model, "peft_config") else lora_config(),
        callbacks=[run.callback],
        **run.options,
    )
    trainer.remove_callback(_printer())
    folder = Path(run.arguments.output_dir)
    checkpoint = get_last_checkpoint(str(folder)) if folder.is_dir() else None
    with breaks_between_layers(trainer.model.get_base_model(), training.yield_to_serving):
        try:
            trainer.train(resume_from_checkpoint=checkpoint)
        except (ValueError, OSError, RuntimeError) as error:
            # A kill while a checkpoint is written leaves a damaged one. Without a checkpoint the error is a real one.
            if checkpoint is None or training.cancel.is_set():
                raise
            logging.getLogger(__name__).warning("a damaged checkpoint is ignored, the stage starts again: %s", error)
            shutil.rmtree(folder, ignore_errors=True)
            trainer.train()
    # TRL keeps the weights before this stage as the reference adapter. The next stage must make its own.
    if "ref" in trainer.model.peft_config:
        trainer.model.delete_adapter("ref")
    return trainer.model


def _printer() -> Any:
    """Returns the callback that prints every log line to stdout; the trainer adds it by default."""
    from transformers import PrinterCallback

    return PrinterCallback


def sft_epochs(n_rows: int) -> int:
    """Returns over how many epochs corrections are learned at most."""
    return max(SFT_EPOCHS, math.ceil(SFT_MIN_STEPS / math.ceil(n_rows / SFT_BATCH)))


def _callback(training: Training, what: str, span: Span, is_learned: Callable[[], bool] = lambda: False) -> Any:
    """Returns a callback that reports progress, yields to serving, and stops when time is out or all is learned.

    Args:
        is_learned: asked after every epoch; True ends the training.
    """
    from transformers import TrainerCallback

    class Reporter(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            del args
            training.yield_to_serving()  # raises Cancelled, which ends the trainer
            if training.is_out_of_time:
                control.should_training_stop = True
            share = state.global_step / max(1, state.max_steps)
            training.progress(what, span[0] + share * (span[1] - span[0]))

        def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            del args, state
            if is_learned():
                control.should_training_stop = True

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            del args, control
            if logs and "loss" in logs:
                share = state.global_step / max(1, state.max_steps)
                training.progress(what, span[0] + share * (span[1] - span[0]), loss=float(logs["loss"]))

    return Reporter()


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences progress bars, warnings and log lines of the training libraries. Errors are still raised."""
    import warnings

    import datasets
    from transformers.utils import logging as transformers_logging

    # The libraries keep these settings per process, so they are put back for the rest of the program.
    had_bars_of_transformers = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    had_bars_of_datasets = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    loggers = [logging.getLogger(name) for name in ("transformers", "trl", "peft", "accelerate", "bitsandbytes")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if had_bars_of_transformers:
            transformers_logging.enable_progress_bar()
        if had_bars_of_datasets:
            datasets.enable_progress_bars()
