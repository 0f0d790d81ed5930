"""How the rows of one array lie in files: Zarr v3's sharded, compressed, checksummed chunks, read and written directly.

Zarr's own pipeline makes an object, a task and several copies of every chunk, which is twelve times slower than
decoding for random windows. The bytes are the same: `zarr.open` reads every array. A shard is its chunks one after
another, then a table of their places (offset and size, 64 bits each) and the table's CRC-32C; a chunk is a Blosc frame
and its CRC-32C (Zarr v3 specification, codecs sharding_indexed, blosc and crc32c).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import google_crc32c
import numcodecs.blosc
import numpy as np
from numpy.typing import NDArray

from worldlab.datasets.files import Bytes

_ABSENT = -1  # 2⁶⁴ - 1 as a signed number: a chunk that was never written
_LEVEL = 5  # of LZ4, the fastest lossless codec on rendered frames
_CHUNK_BYTES, _SHARD_BYTES = 1 << 17, 1 << 26
_CHUNK_ROWS, _SHARD_ROWS = (4, 1024), 4096


@dataclass(frozen=True)
class ArrayLayout:
    """Of one array; the first axis is time."""

    name: str
    """Path below the store, "images/front"."""
    dtype: str
    """NumPy's name of the type."""
    shape: tuple[int, ...]
    """Of one row."""
    chunk: int
    """Rows that are decoded together."""
    shard: int
    """Rows of one file: a power of two, so that shards of all columns line up every `SHARD_ROWS` rows."""

    @classmethod
    def of(cls, name: str, values: NDArray[np.generic]) -> "ArrayLayout":
        """The layout for rows like `values`.

        A chunk is about 128 KiB. Random windows decode whole chunks, so images, of which four fit, waste little; four
        frames also hold nearly all that LZ4's 64 KiB of memory can find.
        """
        row = max(1, int(np.prod(values.shape[1:])) * values.dtype.itemsize)
        chunk = _power_of_two(_CHUNK_BYTES // row, *_CHUNK_ROWS)
        shard = _power_of_two(_SHARD_BYTES // row, chunk, _SHARD_ROWS)
        return cls(name, values.dtype.name, values.shape[1:], chunk, shard)

    @property
    def row_bytes(self) -> int:
        """Of one row, not compressed."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize

    def file(self, shard: int) -> str:
        """Name of a shard's file."""
        return "/".join([self.name, "c", str(shard), *("0" for _ in self.shape)])

    @property
    def _shuffle(self) -> Literal["noshuffle", "shuffle"]:
        """Shuffling the bytes of numbers makes them smaller, and the bytes of pixels not."""
        return "noshuffle" if np.dtype(self.dtype).itemsize == 1 else "shuffle"

    def metadata(self, rows: int) -> dict[str, object]:
        """What the array's zarr.json says when it has `rows` rows."""
        dtype = np.dtype(self.dtype)
        endian = {} if dtype.itemsize == 1 else {"configuration": {"endian": "little"}}
        blosc = {"typesize": dtype.itemsize, "cname": "lz4", "clevel": _LEVEL, "shuffle": self._shuffle, "blocksize": 0}
        sharding = {
            "chunk_shape": [self.chunk, *self.shape],
            "codecs": [{"name": "bytes", **endian}, {"name": "blosc", "configuration": blosc}, {"name": "crc32c"}],
            "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
            "index_location": "end",
        }
        return {
            "shape": [rows, *self.shape],
            "data_type": self.dtype,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [self.shard, *self.shape]}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": dtype.type(0).item(),
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
            "attributes": {},
            "zarr_format": 3,
            "node_type": "array",
            "storage_transformers": [],
        }

    def encode(self, values: NDArray[np.generic]) -> bytes:
        """A chunk of up to `chunk` rows."""
        whole = values
        if len(values) < self.chunk:
            whole = np.zeros((self.chunk, *self.shape), self.dtype)
            whole[: len(values)] = values
        shuffle = numcodecs.blosc.SHUFFLE if self._shuffle == "shuffle" else numcodecs.blosc.NOSHUFFLE
        return _with_checksum(numcodecs.blosc.compress(np.ascontiguousarray(whole), b"lz4", _LEVEL, shuffle))

    def decode(self, data: Bytes, start: int, out: NDArray[np.generic], scratch: NDArray[np.generic]) -> None:
        """Rows from row `start` of a chunk on, as many as `out` holds; `scratch` has room for a chunk.

        Raises:
            ValueError: the chunk does not match its checksum.
        """
        content = _checked(data)
        if len(out) == self.chunk and out.flags.c_contiguous:
            numcodecs.blosc.decompress(content, out)
        else:
            numcodecs.blosc.decompress(content, scratch)
            out[:] = scratch[start : start + len(out)]

    @property
    def index_bytes(self) -> int:
        """Of the table at a shard's end."""
        return 16 * (self.shard // self.chunk) + 4

    def index(self, tail: Bytes) -> NDArray[np.int64]:
        """The table (chunks, 2) of offsets and sizes; negative where a chunk was never written.

        Raises:
            ValueError: it does not match its checksum.
        """
        return _checked(tail).view("<i8").reshape(-1, 2)

    def pack(self, chunks: Sequence[bytes | Bytes]) -> list[bytes | Bytes]:
        """A shard's file, of its first chunks."""
        table = np.full((self.shard // self.chunk, 2), _ABSENT, "<i8")
        sizes = np.array([len(chunk) for chunk in chunks])
        table[: len(chunks)] = np.stack([np.cumsum(sizes) - sizes, sizes], 1)
        return [*chunks, _with_checksum(table.tobytes())]

    def split(self, start: int, stop: int, rows: int) -> Iterator[tuple[int, int, int]]:
        """Cut rows start..stop-1 where pieces of `rows` rows end: each piece's number, first row and end."""
        while start < stop:
            end = min(stop, (start // rows + 1) * rows)
            yield start // rows, start, end
            start = end


def _power_of_two(number: int, low: int, high: int) -> int:
    """The largest one that is not above `number`, within limits."""
    return min(max(1 << max(number, 1).bit_length() - 1, low), high)


def _with_checksum(content: bytes) -> bytes:
    return content + google_crc32c.value(content).to_bytes(4, "little")


_MATCHES = google_crc32c.value(_with_checksum(b""))
"""The checksum of anything that is followed by its own: the same whatever it is, by the linearity of a CRC."""


def _checked(data: Bytes) -> Bytes:
    """The data without its checksum, which it matches."""
    if google_crc32c.value(data) != _MATCHES:
        raise ValueError("does not match its checksum")
    return data[:-4]
