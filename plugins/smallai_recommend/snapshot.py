"""What one query reads."""

from __future__ import annotations

from dataclasses import dataclass

from smallai_recommend.catalogue import Catalogue
from smallai_recommend.cold_start import ColdNeighbours
from smallai_recommend.dislikes import StoredDislikes
from smallai_recommend.ease import EaseModel, Settings
from smallai_recommend.interactions import Bools, Floats, InteractionStats
from smallai_recommend.item_texts import TextVectors
from smallai_recommend.memory import FeedbackMemory
from smallai_recommend.served_weights import ServedWeights
from smallai_recommend.weights import TextMap

SHORT_HISTORY = 10  # distinct items; from this length on, texts do not count for a user's scores


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """The state of an index for one query, valid until the index changes.

    Attributes:
        catalogue: the items of the store.
        stats: the statistics of all choices.
        weights: the weights in service.
        memory: what feedback says.
        dislikes: what imported interactions say against items.
        is_warm: which items have interactions or learned weights, shape (n_items,).
        against: how many voters and imported users are against each item, float32, shape (n_items,).
        texts: the text vectors; None if no text has been read.
        text_map: the learned map of the text vectors; None if there is none for these vectors.
        neighbours: for each item without interactions the items with some that read most like it; None without texts.
    """

    catalogue: Catalogue
    stats: InteractionStats
    weights: ServedWeights
    memory: FeedbackMemory
    dislikes: StoredDislikes
    is_warm: Bools
    against: Floats
    texts: TextVectors | None
    text_map: TextMap | None
    neighbours: ColdNeighbours | None

    @property
    def n_items(self) -> int:
        """Number of items with an index, including those that only interactions name."""
        return self.stats.n_items

    @property
    def model(self) -> EaseModel:
        """The item-item weights. Computed on first use: users without a history do not need them."""
        return self.weights.model(self.stats)

    @property
    def settings(self) -> Settings:
        """How the parts of a score are mixed."""
        return self.weights.settings
