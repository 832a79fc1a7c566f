"""KTO (Ethayarajh et al. 2024) on answers of which some were cut: nothing is learned from an end that is none."""

from __future__ import annotations

from typing import Any

from trl import KTOTrainer


class WholeAnswersTrainer(KTOTrainer):  # type: ignore[misc]  # trl is not typed
    """Trains on rows of `prompt`, `completion`, `label` and `is_cut`.

    The chat template puts an end token after every answer. After an answer whose tokens were used up it would teach the
    model when to end by a place where it did not end.
    """

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
        prepared = super()._prepare_dataset(dataset, processing_class, args, dataset_name)
        end = processing_class.eos_token_id

        def without_end(row: dict[str, Any]) -> dict[str, Any]:
            ids = row["completion_ids"]
            if row["is_cut"] and end in ids:
                ids = ids[: len(ids) - ids[::-1].index(end) - 1]
            return {"completion_ids": ids}

        return prepared.map(without_end)
