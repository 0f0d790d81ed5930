"""Memory for batches."""

import weakref
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_WORTH_KEEPING = 1 << 20
_KEPT = 2


class Buffers:
    """Hands out the memory of tensors that nobody holds any more.

    Large memory goes back to the kernel when it is freed and comes from it as new pages, whose first touch takes half
    as long as decoding pictures into them.
    """

    def __init__(self) -> None:
        self._free: list[NDArray[np.uint8]] = []

    def empty(self, shape: Sequence[int], dtype: str) -> Tensor:
        """A tensor with any content."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        memory = next((memory for memory in self._free if memory.nbytes == size), None)
        if memory is None:
            memory = np.empty(size, np.uint8)
        else:
            self._free = [other for other in self._free if other is not memory]
        view = memory.view(dtype).reshape(shape)  # lives as long as the tensor's storage, which all its views share
        if size >= _WORTH_KEEPING:
            weakref.finalize(view, self._take_back, memory).atexit = False
        return torch.from_numpy(view)

    def _take_back(self, memory: NDArray[np.uint8]) -> None:
        self._free = [*self._free, memory][-_KEPT:]
