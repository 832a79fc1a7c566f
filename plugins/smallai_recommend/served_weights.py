"""The weights that rank: those of a learning cycle, or weights computed from the statistics when first needed."""

from __future__ import annotations

import numpy as np

from smallai_recommend.ease import EaseModel, Settings
from smallai_recommend.interactions import Bools, InteractionStats
from smallai_recommend.weights import LearnedWeights, TextMap

# Weights are computed again after this share of new choices, and after at least this many: the transitions know what is
# new at once, and computing weights takes from a second to a minute.
_REFIT_SHARE, _MIN_REFIT = 0.1, 200


class ServedWeights:
    """The weights in service.

    Attributes:
        learned: the result of a learning cycle; None if there is none.
        max_dense_items: see `EaseModel`.
    """

    def __init__(self, *, max_dense_items: int = 0) -> None:
        self.learned: LearnedWeights | None = None
        self.max_dense_items = max_dense_items
        self._model: EaseModel | None = None
        self._has_weights: Bools | None = None

    @property
    def settings(self) -> Settings:
        """How the parts of a score are mixed: as learned, else the defaults."""
        return self.learned.settings if self.learned is not None else Settings()

    def use(self, learned: LearnedWeights | None) -> bool:
        """Ranks with these weights from now on; None for weights of the statistics. Returns whether that changes them.

        The caller gives the same object as long as the same adapter serves.
        """
        if learned is self.learned:
            return False
        self.learned = learned
        self.reset()
        return True

    def limit(self, max_dense_items: int) -> None:
        """Changes the largest number of items for EASE."""
        if max_dense_items != self.max_dense_items:
            self.max_dense_items, self._model = max_dense_items, None

    def reset(self) -> None:
        """Forgets what was computed; necessary if items have other indices than before."""
        self._model = self._has_weights = None

    def drop_outdated(self, stats: InteractionStats) -> None:
        """Lets the weights be computed again if many choices came since."""
        if self._model is not None and _is_outdated(self._model.n_interactions, stats):
            self._model = None

    def model(self, stats: InteractionStats) -> EaseModel:
        """The item-item weights: the learned ones until many choices came since, else those of `stats`."""
        if self._model is None:
            learned = self.learned
            if learned is not None and not _is_outdated(learned.n_interactions, stats):
                self._model = learned.model_for(stats)
            else:
                self._model = EaseModel(stats, max_dense_items=self.max_dense_items, settings=self.settings)
        return self._model

    def is_warm(self, stats: InteractionStats) -> Bools:
        """Which items have interactions or learned weights, shape (n_items,)."""
        warm = stats.popularity > 0
        if self.learned is None:
            return np.asarray(warm)
        if self._has_weights is None or len(self._has_weights) != stats.n_items:
            self._has_weights = self.learned.knows(stats)
        return np.asarray(warm | self._has_weights)

    def text_map(self, maker: str) -> TextMap | None:
        """The learned map of text vectors; None if there is none for the vectors of this maker."""
        found = self.learned.text_map if self.learned is not None else None
        return found if found is not None and found.maker == maker else None


def _is_outdated(n_interactions: int, stats: InteractionStats) -> bool:
    """Whether weights of this many choices should be computed again."""
    return stats.n_interactions - n_interactions > max(_MIN_REFIT, _REFIT_SHARE * n_interactions)
