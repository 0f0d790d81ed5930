"""One array of a store: sharded, compressed without loss, checked."""

from pathlib import Path

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.errors import ChunkNotFoundError

from worldlab.errors import UsageError

_CHUNKS_PER_SHARD = 32


class Column:
    """The committed rows of one array, for reading."""

    def __init__(self, store: Path, name: str, rows: int) -> None:
        """Open the array `name` of a store.

        Raises:
            UsageError: it is missing, or has fewer than the committed `rows`.
        """
        self.store, self.name = store, name
        try:
            # Where a file is missing, Zarr would return zeros.
            self._array = zarr.open_array(str(store / name), mode="r", config={"read_missing_chunks": False})
        except (FileNotFoundError, ValueError):
            raise self._damaged("is missing") from None
        if self._array.shape[0] < rows:
            raise self._damaged(f"has {self._array.shape[0]} of {rows} rows")

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


def write_column(store: Path, name: str, values: NDArray[np.generic], at: int, *, new: bool) -> None:
    """Write rows from row `at` on; whatever an interrupted append left there is overwritten.

    Zarr replaces each file by an atomic rename, so committed rows in a shard that is rewritten are never at risk.
    `new` makes the array first. LZ4 without shuffling is the fastest lossless codec for rendered frames and as small as
    the others; numbers are shuffled, which halves them.
    """
    if new:
        group = zarr.open_group(str(store), mode="r+")
        chunk = _chunk_rows(values)
        shuffle = "noshuffle" if values.dtype.itemsize == 1 else "shuffle"
        group.create_array(
            name,
            shape=(0, *values.shape[1:]),
            dtype=values.dtype,
            chunks=(chunk, *values.shape[1:]),
            shards=(_CHUNKS_PER_SHARD * chunk, *values.shape[1:]),
            filters=None,
            compressors=[BloscCodec(cname="lz4", clevel=5, shuffle=shuffle), Crc32cCodec()],
            overwrite=True,
        )
    array = zarr.open_array(str(store / name), mode="r+", config={"write_empty_chunks": True})
    array.resize((at + len(values), *values.shape[1:]))
    array[at:] = values


def _chunk_rows(values: NDArray[np.generic]) -> int:
    """Rows of a chunk: about 64 KiB, at least the 16 frames that make random windows of images cheap, at most 4096."""
    fit = 65536 // max(1, int(np.prod(values.shape[1:])) * values.dtype.itemsize)
    return min(4096, max(16, 1 << max(fit, 1).bit_length() - 1))
