"""One array of a store: sharded, compressed without loss, checked."""

from pathlib import Path
from typing import Literal

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.errors import ChunkNotFoundError

from worldlab.errors import UsageError

_CHUNKS_PER_SHARD = 32


class Column:
    """The committed rows of one array, for reading and, by the store's only writer, for adding to."""

    def __init__(self, store: Path, name: str, rows: int, mode: Literal["r", "r+"]) -> None:
        """Open the array `name` of a store.

        Raises:
            UsageError: it is missing, or has fewer than the committed `rows`.
        """
        self.store, self.name = store, name
        try:
            # By default Zarr reads zeros where a file is missing, and leaves out files that would hold only zeros.
            self._array = zarr.open_array(
                str(store / name), mode=mode, config={"read_missing_chunks": False, "write_empty_chunks": True}
            )
        except (FileNotFoundError, ValueError):
            raise self._damaged("is missing") from None
        if self._array.shape[0] < rows:
            raise self._damaged(f"has {self._array.shape[0]} of {rows} rows")

    @classmethod
    def create(cls, store: Path, name: str, values: NDArray[np.generic]) -> "Column":
        """Make the empty array that rows like `values` go to, in place of what an interrupted append may have left.

        LZ4 without shuffling is the fastest lossless codec for rendered frames, and about as small as the others;
        shuffling the bytes of numbers helps.
        """
        row, chunk = values.shape[1:], _chunk_rows(values)
        shuffle = "noshuffle" if values.dtype.itemsize == 1 else "shuffle"
        zarr.open_group(str(store), mode="r+").create_array(
            name,
            shape=(0, *row),
            dtype=values.dtype,
            chunks=(chunk, *row),
            shards=(_CHUNKS_PER_SHARD * chunk, *row),
            filters=None,
            compressors=[BloscCodec(cname="lz4", clevel=5, shuffle=shuffle), Crc32cCodec()],
            overwrite=True,
        )
        return cls(store, name, 0, "r+")

    def extend(self, values: NDArray[np.generic], at: int) -> None:
        """Write rows from row `at` on, over whatever an interrupted append left there.

        Zarr replaces each file by an atomic rename, so committed rows in a shard that is rewritten are never at risk.
        """
        self._array.resize((at + len(values), *self.shape))
        self._array[at:] = values

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one row."""
        return self._array.shape[1:]

    def read(self, start: int, stop: int) -> NDArray[np.generic]:
        """Rows start..stop-1.

        Raises:
            UsageError: a chunk is missing, or does not match its checksum.
        """
        try:
            return np.asarray(self._array[start:stop])
        except (ChunkNotFoundError, ValueError, RuntimeError) as error:
            raise self._damaged(
                f"cannot be read at rows {start} to {stop - 1} ({str(error).splitlines()[0]})"
            ) from error

    def _damaged(self, how: str) -> UsageError:
        return UsageError(
            f"'{self.store}' is damaged: its column '{self.name}' {how}; restore it from a copy, or collect again."
        )


def _chunk_rows(values: NDArray[np.generic]) -> int:
    """Rows of a chunk: about 64 KiB, at least the 16 frames that make random windows of images cheap, at most 4096."""
    fit = 65536 // max(1, int(np.prod(values.shape[1:])) * values.dtype.itemsize)
    return min(4096, max(16, 1 << max(fit, 1).bit_length() - 1))
