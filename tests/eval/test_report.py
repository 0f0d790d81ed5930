"""Videos that play and a report that needs nothing but itself."""

import base64
import io
import subprocess
import sys
from html.parser import HTMLParser

import av
import numpy as np
import pytest

from worldlab.eval.charts import Curve
from worldlab.eval.report import (
    Bar,
    Curves,
    Fact,
    Note,
    SuccessBars,
    Table,
    Title,
    Video,
    VideoStrip,
    write_report,
)
from worldlab.eval.video import encode, enlarge, side_by_side, write_mp4


def ramp(t, h, w):
    """A smooth picture that gets brighter."""
    y, x, time = np.mgrid[0:h, 0:w, 0:t].astype(float)
    grey = 40 + 80 * y / h + 60 * x / w + 2 * time
    return np.repeat(grey.transpose(2, 0, 1)[..., None], 3, -1).astype(np.uint8)


def decode(mp4):
    with av.open(io.BytesIO(mp4)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        return np.stack(frames), stream


@pytest.mark.parametrize("size", [(64, 64), (33, 47)])
def test_a_video_comes_back_as_it_went_in(size):
    frames = ramp(12, *size)
    back, stream = decode(encode(frames, fps=10))
    assert (stream.codec_context.name, stream.codec_context.pix_fmt, stream.average_rate) == ("h264", "yuv420p", 10)
    back = back[:, : size[0], : size[1]]
    assert back.shape == frames.shape
    assert np.abs(back.astype(float) - frames).mean() < 2


def test_the_last_frame_is_held():
    frames = ramp(4, 16, 16)
    back, _ = decode(encode(frames, fps=10, last_frame_seconds=0.5))
    assert len(back) == 9
    assert np.abs(back[4:].astype(float) - frames[-1]).mean() < 2


def test_write_mp4_writes_what_encode_gives(tmp_path):
    write_mp4(ramp(3, 16, 16), tmp_path / "videos" / "a.mp4", fps=5)
    assert decode((tmp_path / "videos" / "a.mp4").read_bytes())[0].shape == (3, 16, 16, 3)


def test_enlarging_repeats_pixels():
    frames = ramp(2, 64, 48)
    large = enlarge(frames, 256)
    assert large.shape == (2, 256, 192, 3)
    assert (large[:, ::4, ::4] == frames).all()
    assert (large[:, 3::4, 3::4] == frames).all()


def test_side_by_side_keeps_every_pixel_and_holds_the_last_frame():
    long, short = ramp(5, 64, 64), 255 - ramp(3, 32, 64)
    both = side_by_side({"real": long, "a caption that does not fit in so little space": short}, height=64)
    assert both.dtype == np.uint8
    assert len(both) == 5
    assert (both[:, -64:, :64] == long).all()
    right = both[:, -64:, -128:]
    assert (right[:3] == enlarge(short, 64)).all()
    assert (right[3:] == enlarge(short[-1:], 64)).all()


class Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found, self.ids, self.tags, self.text = [], set(), [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "srcset", "poster", "action", "data"):
                self.found.append((name, value))
            if name == "id":
                self.ids.add(value)

    def handle_data(self, data):
        self.text += data + " "


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    mp4 = encode(ramp(4, 32, 32), fps=10)
    curve = Curve("imagined <b>", (1, 5, 10), (0.1, 0.2, 0.4), 128, (0.05, 0.1, 0.3), (0.2, 0.3, 0.5))
    sections = [
        Title(
            "A <report>", "What & why.", (Fact("97 %", "Reach", "97 of 100"),), {"seed": 7, "versions": {"torch": "2"}}
        ),
        SuccessBars(
            "Success", (Bar("flow", 97, 100), Bar("random", 0, 20, "baseline")), "worldlab eval", "All of them."
        ),
        Curves(
            "Effect", (curve, Curve("copy", (1, 5, 10), (1.0, 1.0, 1.0), 128, dashed=True)), "steps", "error", "imagine"
        ),
        VideoStrip("Videos", (Video("seed 3", mp4, "failure"),), "worldlab view"),
        Table("Numbers", ("policy", "seconds"), (("flow", 2.12345), ("random", None)), "worldlab eval"),
        Note("Words", "One.\n\nTwo."),
    ]
    path = write_report(sections, tmp_path_factory.mktemp("report") / "deep" / "report.html")
    html = path.read_text(encoding="utf-8")
    links = Links()
    links.feed(html)
    return html, links, mp4


def test_the_report_asks_nobody_for_anything(page):
    html, links, _ = page
    for _, value in links.found:
        assert value.startswith(("data:", "#")), value
        assert not value.startswith("#") or value[1:] in links.ids
    assert "script" not in links.tags
    assert "@import" not in html
    assert "url(http" not in html


def test_the_report_holds_the_videos_themselves(page):
    _, links, mp4 = page
    (url,) = [value for name, value in links.found if value.startswith("data:video")]
    assert base64.b64decode(url.removeprefix("data:video/mp4;base64,")) == mp4


def test_every_number_comes_with_its_n_its_interval_and_its_command(page):
    text = " ".join(page[1].text.split())
    for words in (
        "97 /100 92",
        "99 %",
        "0 /20 0",
        "16 %",
        "n ≥ 128",
        "worldlab eval",
        "worldlab view",
        "imagine",
        "2.12",
    ):
        assert words in text
    assert "seed 7" in text


def test_text_is_text_and_charts_wear_the_pages_colours(page):
    html, links, _ = page
    assert "A <report>" in links.text
    assert "<b>" not in html.split("<svg")[0].split("<h2>Effect")[1]
    assert links.tags.count("svg") == 2
    for svg in html.split("<svg")[1:]:
        assert "var(--s0)" in svg.split("</svg>")[0]
        assert "#04" not in svg.split("</svg>")[0]


def test_importing_eval_stays_light():
    code = "import sys, worldlab.eval; print([m for m in ('matplotlib', 'av', 'jinja2', 'PIL') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
