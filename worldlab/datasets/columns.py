"""One array of a store: reading any rows, and, for the store's only writer, adding some."""

import json
from collections.abc import Iterable, Iterator
from itertools import batched

import numpy as np
from numpy.typing import NDArray

from worldlab.datasets.files import Bytes, Content, Files
from worldlab.datasets.shards import ArrayLayout

type Wanted = tuple[int, NDArray[np.generic]]
"""The first row, and where that row and those after it go to."""

_AT_ONCE = 256
"""Chunks that are fetched together: what a remote store can send at the same time."""


class DamageError(Exception):
    """Rows that cannot be read."""

    def __init__(self, column: str, how: str, rows: tuple[int, int] | None = None) -> None:
        """`how` completes the sentence "its column ..."; `rows` are the first and last that are lost."""
        super().__init__(f"its column '{column}' {how}")
        self.rows = rows


class Column:
    """The committed rows of one array."""

    def __init__(self, files: Files, layout: ArrayLayout) -> None:
        self.files, self.layout = files, layout
        self._index: dict[int, tuple[str, NDArray[np.int64]]] = {}

    def check(self, rows: int) -> None:
        """Raise `DamageError` if the array's zarr.json is missing, was changed, or has fewer than `rows` rows."""
        try:
            metadata = json.loads(self.files.read(f"{self.layout.name}/zarr.json"))
            have = metadata["shape"][0]
            changed = metadata != self.layout.metadata(have)
        except FileNotFoundError:
            raise DamageError(self.layout.name, "is missing") from None
        except (ValueError, KeyError, TypeError, IndexError):
            raise DamageError(self.layout.name, "has a zarr.json that is not readable") from None
        if changed:
            raise DamageError(self.layout.name, "has a zarr.json that was changed")
        if have < rows:
            raise DamageError(self.layout.name, f"has {have} of {rows} rows")

    def resized(self, rows: int) -> Content:
        """The file that says how many rows there are."""
        return {f"{self.layout.name}/zarr.json": [json.dumps(self.layout.metadata(rows), indent=2).encode()]}

    def extended(self, values: NDArray[np.generic], at: int) -> Content:
        """The files that hold `values` from row `at` on, over whatever an interrupted append left there.

        A shard that already holds committed rows is replaced whole by one that begins with the same bytes.
        """
        layout, content = self.layout, self.resized(at + len(values))
        for k, start, stop in layout.split(at, at + len(values), layout.shard):
            first = start - start % layout.chunk
            rows = values[start - at : stop - at]
            if first < start:  # the chunk goes on that committed rows began
                rows = np.concatenate([self.read(first, start), rows])
            encoded = (layout.encode(rows[i : i + layout.chunk]) for i in range(0, len(rows), layout.chunk))
            content[layout.file(k)] = layout.pack([*self._before(k, start), *encoded])
            self._index.pop(k, None)
        return content

    def _before(self, k: int, row: int) -> Iterator[Bytes]:
        """The encoded chunks of shard k that end at or before a row."""
        count = (row % self.layout.shard) // self.layout.chunk
        if count:
            file, table = self._table(k)
            yield from self.files.spans([(file, int(a), int(a + size)) for a, size in table[:count]])

    def read(self, start: int, stop: int) -> NDArray[np.generic]:
        """Rows start..stop-1. Raises `DamageError`."""
        out = np.empty((stop - start, *self.layout.shape), self.layout.dtype)
        self.fill([(start, out)])
        return out

    def fill(self, wanted: Iterable[Wanted]) -> None:
        """Read rows to where they are wanted.

        Raises:
            DamageError: a chunk is missing, or does not match its checksum.
        """
        layout = self.layout
        scratch = np.empty((layout.chunk, *layout.shape), layout.dtype)
        for group in batched(self._pieces(wanted), _AT_ONCE):
            parts = self.files.spans([self._span(chunk) for chunk, _, _ in group])
            for (chunk, start, out), data in zip(group, parts, strict=True):
                try:
                    layout.decode(data, start, out, scratch)
                except ValueError:
                    layout.decode(self._fetch_anew(chunk), start, out, scratch)

    def _pieces(self, wanted: Iterable[Wanted]) -> Iterator[tuple[int, int, NDArray[np.generic]]]:
        """The chunks that hold the rows: their numbers, and which of their rows go where."""
        rows = self.layout.chunk
        for start, out in wanted:
            done, count = 0, len(out)
            while done < count:
                chunk, first = divmod(start + done, rows)
                stop = min(done + rows - first, count)
                yield chunk, first, out[done:stop]
                done = stop

    def _span(self, chunk: int) -> tuple[str, int, int]:
        """Where a chunk's bytes are."""
        shard, place = divmod(chunk, self.layout.shard // self.layout.chunk)
        file, table = self._index[shard] if shard in self._index else self._table(shard)
        offset, size = table[place].tolist()
        if size < 0:
            raise self._lost(chunk, "was never written")
        return file, offset, offset + size

    def _table(self, shard: int) -> tuple[str, NDArray[np.int64]]:
        """The file of a shard, and the places of its chunks."""
        if shard not in self._index:
            file, rows = self.layout.file(shard), (shard * self.layout.shard, (shard + 1) * self.layout.shard - 1)
            try:
                (tail,) = self.files.spans([(file, -self.layout.index_bytes, None)])
                self._index[shard] = file, self.layout.index(tail)
            except FileNotFoundError:
                raise DamageError(self.layout.name, f"lost its file '{file}'", rows) from None
            except ValueError as error:
                raise DamageError(self.layout.name, f"has a file '{file}' whose table {error}", rows) from None
        return self._index[shard]

    def _fetch_anew(self, chunk: int) -> Bytes:
        """A chunk that did not match, from a shard that was replaced by a longer one since its table was read."""
        shard = chunk // (self.layout.shard // self.layout.chunk)
        _, known = self._index.pop(shard)
        if np.array_equal(known, self._table(shard)[1]):
            raise self._lost(chunk, "does not match its checksum")
        (data,) = self.files.spans([self._span(chunk)])
        return data

    def _lost(self, chunk: int, why: str) -> DamageError:
        rows = (chunk * self.layout.chunk, (chunk + 1) * self.layout.chunk - 1)
        return DamageError(self.layout.name, f"lost chunk {chunk} (rows {rows[0]} to {rows[1]}), which {why}", rows)
