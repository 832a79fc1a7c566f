"""Corrections and ratings into LoRA weights: SFT, DPO, KTO, through TRL and PEFT, on a copy of the base.

The base stays frozen, with its weights rounded as it is served (QLoRA, Dettmers et al. 2023). Corrections are learned
as prompt and completion, the loss on the completion alone; a right and a wrong answer to one question as a pair (DPO,
Rafailov et al. 2023); other ratings as unpaired preferences (KTO, Ethayarajh et al. 2024). What the base says to other
questions is kept, so that the rest stays as it was.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from smallai_assistant import ModelSpec, Training, errors
from smallai_chat.dataset import (
    MAX_TOKENS,
    Row,
    as_taught,
    correction_pairs,
    kept_rows,
    kto_rows,
    rating_pairs,
    sft_rows,
    tokenized,
)
from smallai_chat.examples import Fact, Rated
from smallai_chat.scope import ELSEWHERE, Scopes

RANK, ALPHA = 16, 32
TARGETS = "all-linear"
SFT_RATE, SFT_EPOCHS, SFT_BATCH = 5e-4, 6, 8
DPO_RATE, DPO_EPOCHS, DPO_BATCH, DPO_BETA = 5e-5, 1, 4, 0.1
KTO_RATE, KTO_EPOCHS, KTO_BATCH, KTO_BETA = 2.5e-4, 4, 4, 0.1  # at twice the rate language suffers
_SMALL_PARAMETERS, _RATE_OF_LARGER = 250e6, 0.6  # a larger model learns as much from smaller steps, and spoils less
_MIN_RATED_OF_A_KIND = 2

Span = tuple[float, float]


class Stage(Protocol):
    """A way to train a model further on rows, within a span of the progress."""

    def __call__(self, model: Any, tokenizer: Any, rows: list[Row], training: Training, *, span: Span) -> Any: ...


Step = tuple[Stage, list[Row], int]


def train(training: Training, spec: ModelSpec, scopes: Scopes, *, system_prompt: str) -> str:
    """Writes a PEFT adapter into `training.folder`, and the scope of what corrections taught.

    Raises:
        NotEnoughData: the ratings are all of one kind, and there is no correction.
        TrainingFailed: the loss became NaN.
        LearningError: the libraries of the extra [train] are missing.
        ModelError: a model cannot be had; corrections need the embedding model, too.
        Cancelled: the training was stopped; its checkpoints stay.
    """
    _check_installed()
    judged_turns = [*training.examples, *training.replay]
    facts = [judged_turn for judged_turn in judged_turns if isinstance(judged_turn.payload, Fact)]
    rated = [judged_turn for judged_turn in judged_turns if isinstance(judged_turn.payload, Rated)]
    praised = [each for each in rated if each.payload.is_good]
    has_ratings = min(len(praised), len(rated) - len(praised)) >= _MIN_RATED_OF_A_KIND
    if not facts and not has_ratings:
        raise errors.NotEnoughData(
            f"{len(praised)} answers were praised and {len(rated) - len(praised)} rejected; both kinds are needed, "
            "or corrections"
        )
    # How to answer whatever is asked, then what to answer to some questions; how, on what, and how much work a row is.
    general: list[Step] = []
    if has_ratings:
        general.append((_kto, kto_rows(rated, system_prompt), 2 * KTO_EPOCHS))
    if pairs := rating_pairs(rated, system_prompt):
        general.append((partial(_dpo, name="dpo-ratings"), pairs, 3 * DPO_EPOCHS))
    taught: list[Step] = []
    if facts:
        rows = sft_rows(facts, praised, system_prompt, seed=training.seed)
        kept = kept_rows(facts, training, spec, scopes, system_prompt)
        taught.append((_sft, rows + kept, SFT_EPOCHS))
    if pairs := correction_pairs(facts, system_prompt):
        taught.append((_dpo, pairs, 3 * DPO_EPOCHS))
    training.progress("loading a copy of the model to train", 0.02)
    with _quiet():
        model, tokenizer = _load(training.models.folder_of(spec), spec, training.models.device)
        steps = [*general, *taught]
        whole, done, n_run = sum(len(rows) * work for _, rows, work in steps), 0, 0
        for run, rows, work in steps:
            if n_run and training.is_out_of_time:
                break
            if 0 < n_run == len(general):
                _save(model, training.folder / ELSEWHERE)
            begin, done, n_run = done, done + len(rows) * work, n_run + 1
            span = (0.04 + 0.94 * begin / whole, 0.04 + 0.94 * done / whole)
            model = run(model, tokenizer, rows, training, span=span)
        _save(model, training.folder)
    if n_run > len(general):
        questions = [*as_taught(facts), *(each.payload.question for each in praised)]
        scopes.of_questions(list(dict.fromkeys(questions))).save(training.folder)
    return "lora"


def _save(model: Any, folder: Path) -> None:
    model.save_pretrained(str(folder))
    (folder / "README.md").unlink(missing_ok=True)  # peft writes a model card for hubs


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
    if quantization is not None and device == "cpu":
        model = model.dequantize(torch.bfloat16)  # the same rounded weights, unpacked once and not at every step
    tokenizer = AutoTokenizer.from_pretrained(str(folder), **local)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer


def _lora() -> Any:
    from peft import LoraConfig

    return LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=TARGETS, task_type="CAUSAL_LM")


def _sft(model: Any, tokenizer: Any, rows: list[Row], training: Training, *, span: Span) -> Any:
    from trl import SFTConfig

    from smallai_chat.kl_trainer import KeepingTrainer, collated

    arguments = SFTConfig(
        **_common(training, "sft"),
        learning_rate=SFT_RATE * _share_of_rate(model),
        num_train_epochs=SFT_EPOCHS,
        per_device_train_batch_size=SFT_BATCH,
        train_sampling_strategy="group_by_length",
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
    )
    watch = _callback(training, "learning corrections", span)
    collator = partial(collated, pad_id=tokenizer.pad_token_id)
    rows = tokenized(rows, tokenizer)
    return _run(KeepingTrainer, arguments, (model, tokenizer), rows, training, watch, data_collator=collator)


def _dpo(model: Any, tokenizer: Any, rows: list[Row], training: Training, *, span: Span, name: str = "dpo") -> Any:
    from trl import DPOConfig, DPOTrainer

    arguments = DPOConfig(
        **_common(training, name),
        learning_rate=DPO_RATE,
        num_train_epochs=DPO_EPOCHS,
        per_device_train_batch_size=DPO_BATCH,
        beta=DPO_BETA,
        # The pair alone may make both answers less likely, as long as the wrong one falls faster (Pang et al. 2024).
        loss_type=["sigmoid", "sft"],
        max_length=MAX_TOKENS,
    )
    watch = _callback(training, "learning from pairs", span)
    return _run(DPOTrainer, arguments, (model, tokenizer), rows, training, watch)


def _kto(model: Any, tokenizer: Any, rows: list[Row], training: Training, *, span: Span) -> Any:
    from trl import KTOConfig, KTOTrainer

    n_good = sum(row["label"] for row in rows)
    arguments = KTOConfig(
        **_common(training, "kto"),
        learning_rate=KTO_RATE * _share_of_rate(model),
        num_train_epochs=KTO_EPOCHS,
        per_device_train_batch_size=KTO_BATCH,
        beta=KTO_BETA,
        # Balanced, as section 4.2 of the paper advises.
        desirable_weight=min(4.0, max(1.0, (len(rows) - n_good) / n_good)),
        undesirable_weight=min(4.0, max(1.0, n_good / (len(rows) - n_good))),
    )
    watch = _callback(training, "learning from ratings", span)
    return _run(KTOTrainer, arguments, (model, tokenizer), rows, training, watch)


def _share_of_rate(model: Any) -> float:
    return 1.0 if model.num_parameters() < _SMALL_PARAMETERS else _RATE_OF_LARGER


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


def _run(
    trainer_type: Any,
    arguments: Any,
    model_and_tokenizer: tuple[Any, Any],
    rows: list[Row],
    training: Training,
    watch: Any,
    **options: Any,
) -> Any:
    """The trained model; it has LoRA layers from the first stage on."""
    from datasets import Dataset
    from transformers.trainer_utils import get_last_checkpoint

    model, tokenizer = model_and_tokenizer
    trainer = trainer_type(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=None if hasattr(model, "peft_config") else _lora(),
        callbacks=[watch],
        **options,
    )
    trainer.remove_callback(_printer())
    folder = Path(arguments.output_dir)
    checkpoint = get_last_checkpoint(str(folder)) if folder.is_dir() else None
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except (ValueError, OSError, RuntimeError) as error:
        if checkpoint is None or training.cancel.is_set():
            raise
        logging.getLogger(__name__).warning("a checkpoint was damaged and is left out: %s", error)
        shutil.rmtree(folder, ignore_errors=True)
        trainer.train()
    if "ref" in trainer.model.peft_config:  # a copy of the weights before; the next stage compares with those after
        trainer.model.delete_adapter("ref")
    return trainer.model


def _printer() -> Any:
    from transformers import PrinterCallback

    return PrinterCallback


def _callback(training: Training, what: str, span: Span) -> Any:
    from transformers import TrainerCallback

    class Watch(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
        """Waits for answers between steps, stops when asked, and tells how far it is."""

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            del args
            training.yield_to_serving()
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
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
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
