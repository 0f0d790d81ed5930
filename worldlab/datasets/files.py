"""Where the files of a store are: a folder of this machine, or whatever fsspec reaches (s3://, gs://, memory://)."""

import fcntl
import json
import mmap
import os
import secrets
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import BinaryIO, Protocol, runtime_checkable

import fsspec
import numpy as np
from fsspec.spec import AbstractFileSystem
from numpy.typing import NDArray

from worldlab.errors import UsageError

type Bytes = NDArray[np.uint8]
type Span = tuple[str, int, int | None]
"""Of a file: name, first byte (counted from the end if negative), and the byte to stop at."""

type Content = dict[str, Sequence[bytes | Bytes]]
"""Of files by name, each in parts."""

_MAPS = 8192
_FLUSHES = 8
_ABANDONED_SECONDS = 900.0


@runtime_checkable
class Lock(Protocol):
    """The right to be the only writer."""

    def renew(self) -> None:
        """Say that the writer is alive; `UsageError` if another one has taken its place."""
        ...

    def release(self) -> None:
        """Let another writer write."""
        ...


@runtime_checkable
class Files(Protocol):
    """The files below one root; names are relative, with forward slashes."""

    root: str

    def exists(self, name: str = "") -> bool:
        """Whether there is such a file or folder."""
        ...

    def read(self, name: str) -> bytes:
        """A whole file. Raises FileNotFoundError."""
        ...

    def spans(self, wanted: Sequence[Span]) -> list[Bytes]:
        """Parts of files, fetched together. Raises FileNotFoundError."""
        ...

    def write(self, content: Content) -> None:
        """Make or replace files; of each, every reader sees the old content or the new, also after a crash."""
        ...

    def adopt(self, name: str, source: "Files", source_name: str) -> None:
        """Give a file of another root a second name here, without reading its content through this process."""
        ...

    def delete(self, first: str) -> None:
        """Remove everything, one file before the others."""
        ...

    def lock(self) -> Lock:
        """Become the only writer, or raise `UsageError`."""
        ...


def files_at(path: str | Path) -> Files:
    """The files at a path or a URL.

    Raises:
        UsageError: fsspec does not know the protocol, or needs a package for it.
    """
    if "://" not in str(path):
        return LocalFiles(Path(path))
    try:
        filesystem, root = fsspec.url_to_fs(str(path))
    except (ImportError, ValueError) as error:
        raise UsageError(f"'{path}' cannot be reached: {error}. For S3: pip install 'worldlab[s3]'.") from None
    return RemoteFiles(str(path), filesystem, root)


class LocalFiles:
    """A folder; files are mapped into memory when they are read in parts."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.root = folder, str(folder)
        self._maps: dict[str, Bytes] = {}

    def exists(self, name: str = "") -> bool:
        """Whether there is such a file or folder."""
        return (self.folder / name).exists()

    def read(self, name: str) -> bytes:
        """A whole file."""
        return (self.folder / name).read_bytes()

    def spans(self, wanted: Sequence[Span]) -> list[Bytes]:
        """Views into the mapped files."""
        return [self._map(name)[start:stop] for name, start, stop in wanted]

    def _map(self, name: str) -> Bytes:
        if name not in self._maps:
            if len(self._maps) == _MAPS:  # the kernel allows a process some 65,000 of them
                self._maps.clear()
            with (self.folder / name).open("rb") as file:
                empty = os.fstat(file.fileno()).st_size == 0
                content = b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._maps[name] = np.frombuffer(content, np.uint8)
        return self._maps[name]

    def write(self, content: Content) -> None:
        """Write beside them, force all to the disk together, and rename."""
        paths = {name: self.folder / name for name in content}
        with ExitStack() as opened, ThreadPoolExecutor(_FLUSHES) as pool:
            files: list[BinaryIO] = []
            for name, parts in content.items():
                paths[name].parent.mkdir(parents=True, exist_ok=True)
                file = opened.enter_context(_partial(paths[name]).open("wb"))
                file.writelines(parts)
                file.flush()
                files.append(file)
            list(pool.map(os.fsync, files))
        for name, path in paths.items():
            _partial(path).replace(path)
            self._maps.pop(name, None)

    def adopt(self, name: str, source: Files, source_name: str) -> None:
        """Link the file; copy it where the file systems differ."""
        if not isinstance(source, LocalFiles):
            raise UsageError(f"'{source.root}' cannot be moved into '{self.root}': they are not in one place.")
        path, old = self.folder / name, source.folder / source_name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        if os.stat(old).st_dev == os.stat(path.parent).st_dev:
            os.link(old, path)
        else:
            shutil.copyfile(old, path)
        self._maps.pop(name, None)

    def delete(self, first: str) -> None:
        """Remove the folder."""
        (self.folder / first).unlink(missing_ok=True)
        shutil.rmtree(self.folder)

    def lock(self) -> "LocalLock":
        """Lock the folder itself: that needs no file, and the kernel drops it with the process."""
        handle = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise _taken(self.root) from None
        for left_by_a_crash in self.folder.rglob("*.partial"):
            left_by_a_crash.unlink()
        self._maps.clear()  # of files that the writer before may have replaced
        return LocalLock(handle)


class LocalLock:
    """An advisory lock of the kernel on an open folder."""

    def __init__(self, handle: int) -> None:
        self.release = partial(os.close, handle)

    def renew(self) -> None:
        """Nothing to do: the lock lives as long as its process."""


class RemoteFiles:
    """Objects below a prefix of an fsspec file system, each of which is replaced whole."""

    def __init__(self, url: str, filesystem: AbstractFileSystem, prefix: str) -> None:
        self.root, self.filesystem, self.prefix = url, filesystem, prefix.rstrip("/")

    def _at(self, name: str) -> str:
        return f"{self.prefix}/{name}" if name else self.prefix

    def exists(self, name: str = "") -> bool:
        """Whether there is such an object, or any below it."""
        self.filesystem.invalidate_cache()
        return bool(self.filesystem.exists(self._at(name)))

    def read(self, name: str) -> bytes:
        """A whole object."""
        content = self.filesystem.cat_file(self._at(name))
        assert isinstance(content, bytes)
        return content

    def spans(self, wanted: Sequence[Span]) -> list[Bytes]:
        """Parts of objects, requested concurrently where the file system can."""
        names, starts, stops = [self._at(name) for name, *_ in wanted], [w[1] for w in wanted], [w[2] for w in wanted]
        contents = self.filesystem.cat_ranges(names, starts, stops, on_error="raise")
        return [np.frombuffer(content, np.uint8) for content in contents]

    def write(self, content: Content) -> None:
        """Put the objects, concurrently where the file system can."""
        self.filesystem.pipe({self._at(name): b"".join(bytes(p) for p in parts) for name, parts in content.items()})

    def adopt(self, name: str, source: Files, source_name: str) -> None:
        """Copy the object where it is."""
        if not isinstance(source, RemoteFiles) or source.filesystem is not self.filesystem:
            raise UsageError(f"'{source.root}' cannot be moved into '{self.root}': they are not in one place.")
        self.filesystem.copy(f"{source.prefix}/{source_name}", self._at(name))

    def delete(self, first: str) -> None:
        """Remove every object below the prefix."""
        if self.exists(first):
            self.filesystem.rm_file(self._at(first))
        self.filesystem.rm(self.prefix, recursive=True)

    def lock(self) -> "RemoteLock":
        """Make the object that says who writes; one that has not been renewed for a quarter of an hour is ignored."""
        lock = RemoteLock(self)
        try:
            self.filesystem.pipe_file(self._at(RemoteLock.NAME), lock.content(), mode="create")
        except FileExistsError:
            if time.time() - lock.holder()[1] < _ABANDONED_SECONDS:
                raise _taken(self.root) from None
            lock.write()
        return lock


class RemoteLock:
    """An object that names the writer and when it was last alive."""

    NAME = "writer.lock"

    def __init__(self, files: RemoteFiles) -> None:
        self._files, self._owner = files, secrets.token_hex(8)

    def content(self) -> bytes:
        """What the object says when this writer is alive now."""
        return json.dumps({"owner": self._owner, "time": time.time()}).encode()

    def holder(self) -> tuple[str, float]:
        """Who writes, and when that writer was last alive."""
        said = json.loads(self._files.read(self.NAME))
        return str(said["owner"]), float(said["time"])

    def write(self) -> None:
        """Take or renew the lock."""
        self._files.write({self.NAME: [self.content()]})

    def renew(self) -> None:
        """Renew it, if it is still ours."""
        if not self._files.exists(self.NAME) or self.holder()[0] != self._owner:
            raise _taken(self._files.root)
        self.write()

    def release(self) -> None:
        """Remove the object, if it is still ours."""
        if self._files.exists(self.NAME) and self.holder()[0] == self._owner:
            self._files.filesystem.rm_file(self._files.prefix + "/" + self.NAME)


def _partial(path: Path) -> Path:
    """Where a file is written before it gets its name."""
    return path.with_name(f"{path.name}.partial")


def _taken(root: str) -> UsageError:
    return UsageError(f"'{root}' is being written by another writer; wait for it, or write to another store.")
