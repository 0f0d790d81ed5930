"""Small frames as videos that a browser plays: H.264 in MP4, pixels enlarged without blur."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray

type Frames = UInt8[NDArray[np.uint8], "_ _ _ 3"]

_BAR, _GAP = 26, 8
_BACKGROUND, _INK = (24, 26, 31), (236, 238, 242)


def enlarge(frames: Frames, height: int = 256) -> Frames:
    """Repeat every pixel a whole number of times, so that frames are about `height` pixels high."""
    factor = max(1, round(height / frames.shape[1]))
    return frames.repeat(factor, axis=1).repeat(factor, axis=2)


def side_by_side(panels: Mapping[str, Frames], height: int = 256) -> Frames:
    """Videos next to one another under their captions; one that ends early holds its last frame.

    Args:
        panels: caption -> frames, of any length and size.
        height: of each picture in pixels, about (pixels are repeated a whole number of times).
    """
    pictures = [enlarge(frames, height) for frames in panels.values()]
    length, tallest = max(len(p) for p in pictures), max(p.shape[1] for p in pictures)
    width = sum(p.shape[2] for p in pictures) + _GAP * (len(pictures) - 1)
    canvas = np.empty((length, _BAR + tallest, width, 3), np.uint8)
    canvas[:] = _BACKGROUND
    left = 0
    for caption, picture in zip(panels, pictures, strict=True):
        right = left + picture.shape[2]
        canvas[:, :_BAR, left:right] = _caption(caption, picture.shape[2])
        canvas[:, _BAR : _BAR + picture.shape[1], left:right] = picture[np.minimum(np.arange(length), len(picture) - 1)]
        left = right + _GAP
    return canvas


def encode(frames: Frames, fps: int, last_frame_seconds: float = 0.0) -> bytes:
    """The frames as an MP4 file in memory.

    Args:
        frames: RGB.
        fps: frames a second.
        last_frame_seconds: seconds that the last frame stays, so that a short video in a loop can be followed.
    """
    import av

    frames = np.concatenate([frames, frames[-1:].repeat(round(last_frame_seconds * fps), axis=0)])
    even = np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), mode="edge")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "20", "preset": "slow"})
        stream.height, stream.width = even.shape[1:3]
        stream.pix_fmt = "yuv420p"  # the one chroma format that every browser decodes
        for frame in even:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def write_mp4(frames: Frames, path: str | Path, fps: int, last_frame_seconds: float = 0.0) -> None:
    """Write the frames as an MP4 file; see `encode`."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(encode(frames, fps, last_frame_seconds))


def _caption(text: str, width: int) -> UInt8[NDArray[np.uint8], "_ _ 3"]:
    """A bar with the text, cut off where it does not fit."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size=15)
    bar = Image.new("RGB", (width, _BAR), _BACKGROUND)
    draw = ImageDraw.Draw(bar)
    while draw.textlength(text, font) > width - 8:
        text = text.rstrip("…")[:-1] + "…"
    draw.text((width / 2, _BAR / 2), text, _INK, font, anchor="mm")
    return np.asarray(bar)
