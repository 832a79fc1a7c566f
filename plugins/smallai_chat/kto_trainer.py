"""KTO (Ethayarajh et al. 2024) on answers of which some were cut: nothing is learned from an end that is none."""

from __future__ import annotations

from typing import Any

from trl import KTOTrainer

from smallai_chat.dataset import without_end


class WholeAnswersTrainer(KTOTrainer):  # type: ignore[misc]  # trl is not typed
    """Trains on rows of `prompt`, `completion`, `label` and `is_cut`.

    The chat template puts an end token after every answer. After an answer whose tokens were used up it would teach the
    model when to end by a place where it did not end.
    """

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
        prepared = super()._prepare_dataset(dataset, processing_class, args, dataset_name)
        end = processing_class.eos_token_id

        def as_ended(row: dict[str, Any]) -> dict[str, Any]:
            ids = row["completion_ids"]
            return {"completion_ids": without_end(ids, end) if row["is_cut"] else ids}

        return prepared.map(as_ended)
