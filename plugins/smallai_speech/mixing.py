"""Mixes the channels of a recording to one, so that opposite channels do not cancel each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float32]

_HALF_LIFE_S = 0.25  # of what was heard before, when a channel is compared with the first
# A channel is turned round if its correlation with the first falls below the negative of this, and back if it rises
# above: speech in a room, music and two speakers on two channels stay between. In between the sign stays as it is, so
# that it does not change with every block.
_OPPOSITE = 0.5
_MIN_TURNED_S = 0.1  # less is not worth telling


class Mixer:
    """Takes block after block of one recording.

    A microphone that is wired the wrong way round, or a balanced cable in a stereo socket, gives two channels that are
    opposite: their mean is silence. Such a channel is turned round first.

    Attributes:
        turned_s: seconds in which a channel was turned round.
    """

    def __init__(self, rate_hz: int) -> None:
        self._rate_hz = rate_hz
        self._products: npt.NDArray[np.float64] | None = None
        self._signs: FloatArray | None = None
        self.turned_s = 0.0

    @property
    def is_turned(self) -> bool:
        """Whether enough was turned round to tell the user."""
        return self.turned_s >= _MIN_TURNED_S

    def push(self, block: FloatArray) -> FloatArray:
        """Returns the mean of the channels.

        Args:
            block: float32, shape (n_samples, n_channels).
        """
        import numpy as np

        n_samples, n_channels = block.shape
        if n_channels == 1:
            return block[:, 0]
        if self._signs is None or len(self._signs) != n_channels:
            self._products, self._signs = np.zeros((2, n_channels)), np.ones(n_channels, np.float32)
        with np.errstate(all="ignore"):  # samples that are not finite are refused by the caller
            # The products of each channel with the first, and the squares of each.
            new = np.stack([block[:, 0].astype(np.float64) @ block, np.square(block, dtype=np.float64).sum(axis=0)])
            self._products = self._products * 0.5 ** (n_samples / self._rate_hz / _HALF_LIFE_S) + new
            with_first, squares = self._products
            correlation = with_first / np.sqrt(squares[0] * squares)
            self._signs[correlation < -_OPPOSITE] = -1
            self._signs[correlation > _OPPOSITE] = 1
            if (self._signs > 0).all():
                mean: FloatArray = block.mean(axis=1, dtype=np.float32)
                return mean
            self.turned_s += n_samples / self._rate_hz
            mixed: FloatArray = block @ (self._signs / np.float32(n_channels))
            return mixed
