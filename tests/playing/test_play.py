"""A dream driven step by step is the dream, and what makes no sense is answered with one sentence."""

import base64
import io
import json
import struct
import threading
import zlib
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import torch
from conftest import CountEnv, PerfectModel
from eval.test_counterfactual import Shaky, Store
from PIL import Image

from worldlab import envs
from worldlab.errors import UsageError
from worldlab.playing.messages import obey, present
from worldlab.playing.server import Server
from worldlab.playing.session import Session
from worldlab.playing.verb import simulator
from worldlab.rollout import rollout


@pytest.fixture(scope="module")
def store():
    t = rollout(Shaky(), CountEnv(3), seed=0)
    return Store(t.episode(i) for i in range(3))


class Double(PerfectModel):
    """Wrong about what actions do."""

    def imagine(self, belief, action, generator=None):
        return super().imagine(belief, 2 * action, generator)


@pytest.fixture
def session(store):
    return Session(PerfectModel(), store, range(3), CountEnv(1), seed=0)


def test_a_perfect_dream_stays_beside_the_simulator(session, store):
    session.reset(1, 3)
    begun = store[1].obs.state[3, 0].item()
    for action in (0.5, -1.0, 0.25):
        session.step([action])
    assert session.now.steps == 3
    assert session.now.joints == pytest.approx((begun - 0.25,))
    assert torch.equal(session.now.dream["front"], session.now.truth["front"])
    assert {**session.now.imagined, "truncated": False} == session.now.happened


def test_the_recorded_actions_lead_to_the_recorded_frames(session, store):
    session.reset(2, 0)
    for action in store[2].action[:5]:
        session.step(action.tolist())
    assert torch.equal(session.now.truth["front"], store[2].obs.images["front"][5])


def test_back_is_where_it_was_branched(store):
    session = Session(Double(), store, range(3), CountEnv(1), seed=0)
    session.step([0.5])
    session.branch()
    ends = []
    for _ in range(2):
        session.back()
        assert (session.now.steps, session.now.happened["reward"]) == (1, pytest.approx(store[0].obs.state[0, 0] + 0.5))
        session.step([1.0])
        ends.append((session.now.joints, session.now.happened["reward"]))
    assert ends[0] == ends[1]
    assert not torch.equal(session.now.dream["front"], session.now.truth["front"])


def test_actions_are_held_within_the_limits(session):
    before = session.now.joints[0]
    session.step([7.0])
    assert session.now.joints[0] == pytest.approx(before + 1)


def picture(colour=(200, 0, 0), size=(40, 20)):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def test_any_picture_begins_a_dream_without_a_truth(session):
    said = obey(session, "show", {"picture": picture()})
    assert session.now.dream["front"].shape == (8, 8, 3)
    assert session.now.dream["front"][0, 0].tolist() == [200, 0, 0]
    assert said["truth"] is None
    assert said["difference"] is None
    assert obey(session, "step", {"action": [0.5]})["steps"] == 1


def test_without_recorded_frames_it_begins_where_the_simulator_does():
    session = Session(PerfectModel(), None, (), CountEnv(1), seed=5)
    env = CountEnv(1)
    env.reset(seed=5)
    assert session.now.joints == (env.x.item(),)
    assert present(Session(PerfectModel(), None, (), None, seed=0)) == {"begun": False}


def test_success_must_hold_in_the_simulator_as_in_the_store():
    for hold in (0, 7):
        world, _ = simulator("worldlab/Reach-v0", envs.make("worldlab/Reach-v0", cameras=()).contract, hold)
        assert world._hold == hold


def test_the_simulator_keeps_the_models_pace():
    held = envs.make("dm_control/cartpole-swingup-v0", size=None, repeat=2).contract
    world, missing = simulator("dm_control/cartpole-swingup-v0", held)
    assert not missing
    assert world.contract == held


def broken_picture():
    """Its last chunk but one is right by its checksum, and too short for what it says."""
    raw, kind = base64.b64decode(picture().partition(",")[2]), b"gAMA"
    chunk = struct.pack(">I", 0) + kind + struct.pack(">I", zlib.crc32(kind))
    return base64.b64encode(raw[:-12] + chunk + raw[-12:]).decode()


ORDERS = [
    ("jump", {}, "unknown order 'jump'"),
    ("step", {}, "'action' must be a list of numbers"),
    ("step", {"action": ["left"]}, "'action' must be a list of numbers"),
    ("step", {"action": [1, 2]}, "an action is 1 finite numbers"),
    ("step", {"action": [10**400]}, "'action' must be a list of numbers"),
    ("step", {"action": [float("nan")]}, "an action is 1 finite numbers"),
    ("reset", {"episode": 7, "row": 0}, "there is no episode 7"),
    ("reset", {"episode": 0, "row": -1}, "episode 0 has no row -1"),
    ("reset", {"episode": 0, "row": 1.5}, "'row' must be a whole number"),
    ("back", {}, "no branch to return to"),
    ("show", {"picture": "abc"}, "not a picture that can be read"),
    ("show", {"picture": base64.b64encode(b"P3 1 1 x").decode()}, "not a picture that can be read"),
    ("show", {"picture": broken_picture()}, "not a picture that can be read"),
    ("show", {}, "must be an image file"),
]


@pytest.mark.parametrize(("order", "told", "sentence"), ORDERS)
def test_what_makes_no_sense_changes_nothing(session, order, told, sentence):
    before = session.now
    with pytest.raises(UsageError, match=sentence):
        obey(session, order, told)
    assert session.now is before


def test_a_model_that_needs_more_than_a_picture_says_so(store):
    class Needy(PerfectModel):
        def observe(self, context):
            if context.privileged is None:
                raise UsageError("this world model needs the simulator's privileged state.")
            return super().observe(context)

    session = Session(Needy(), store, range(3), CountEnv(1), seed=0)
    before, task = session.now, session.task
    with pytest.raises(UsageError, match="privileged state"):
        obey(session, "show", {"picture": picture()})
    assert session.now is before
    assert session.task == task != ""


def test_the_page_is_told_when_time_is_up(session):
    session.reset(0, 0)
    for _ in range(12):
        session.step([0.0])
        late = present(session)["happened"]["truncated"]
        assert late == (session.now.steps == 12)


@pytest.fixture
def server(store):
    server = Server(lambda: Session(Double(), store, range(3), CountEnv(1), seed=0), "a run", ("Look out.",), 0)
    thread = threading.Thread(target=server.serve)
    thread.start()
    yield server
    server.close()
    thread.join()


def ask(server, order, body=b"{}", kind="application/json", **headers):
    request = Request(server.url + order, body, {"Content-Type": kind, **headers})
    try:
        with urlopen(request) as reply:
            return reply.status, json.load(reply)
    except HTTPError as error:
        return error.code, json.load(error)


def test_the_server_answers_orders(server):
    status, about = ask(server, "about")
    assert status == 200
    assert about["controls"] == [{"name": "add", "low": -1.0, "high": 1.0}]
    assert about["now"]["begun"]
    assert ask(server, "step", b'{"action": [0.5]}')[1]["steps"] == 1


def test_the_server_answers_nonsense_with_one_sentence(server):
    for order, body, kind in (
        ("step", b"[1]", "application/json"),
        ("step", b"{", "application/json"),
        ("step", b"[" * 100_000, "application/json"),
        ("step", b'{"action": [0.5]}', "text/plain"),
        ("step", b'{"action": [NaN]}', "application/json"),
        ("fly", b"{}", "application/json"),
    ):
        status, said = ask(server, order, body, kind)
        assert status == 400
        assert set(said) == {"error"}
        assert said["error"].endswith(".")
    status, said = ask(server, "step", **{"Content-Length": "9" * 5000})
    assert (status, set(said)) == (400, {"error"})
    assert "a request may have" in said["error"]
    assert ask(server, "step", b'{"action": [0.5]}', Host="evil.example")[0] == 400
    assert ask(server, "step", b'{"action": [0.5]}', Host="localhost:1")[1]["steps"] == 1
    assert ask(server, "reset", b'{"episode": 0, "row": 0}')[1]["steps"] == 0
    with pytest.raises(HTTPError, match="404"):
        urlopen(server.url + "secret")


def test_a_port_that_is_taken_is_refused(server, store):
    port = int(server.url.rstrip("/").rpartition(":")[2])
    with pytest.raises(UsageError, match="Choose another --port"):
        Server(lambda: Session(PerfectModel(), store, (0,), None, seed=0), "", (), port)
    with pytest.raises(UsageError, match="0 to 65535"):
        Server(lambda: Session(PerfectModel(), store, (0,), None, seed=0), "", (), 70_000)


def test_a_person_can_drive_it_in_a_browser(server, tmp_path):
    pytest.importorskip("websockets.sync.client", reason="the browser is driven over a websocket")
    from playing.browser import Browser, installed

    if installed() is None:
        pytest.skip("there is no Chromium on this machine")
    page = Browser(server.url, tmp_path / "profile")
    try:
        page.wait("now && now.begun")
        assert page.value("document.querySelectorAll('.control').length") == 1
        assert page.value("document.getElementById('notes').textContent") == "Look out."
        shown = "document.querySelector('#truth img').src"
        before = page.value(shown)
        page.press("d", until="now.steps >= 3")
        assert page.value(shown) != before
        assert page.value("now.joints[0]") == pytest.approx(
            page.value("2 * now.happened.reward - world.now.joints[0]"), abs=1e-3
        )
        page.press("b")
        page.wait("now.branched !== null && !waiting")
        page.press("a", until="now.steps >= now.branched + 2")
        page.press("n")
        page.wait("now.steps === now.branched && !waiting")
        page.value("(document.getElementById('row').value = 2, document.querySelector('#recorded button').click())")
        page.wait("now.source === 'episode 0, row 2'")
        page.value("(document.getElementById('row').value = 99, document.querySelector('#recorded button').click())")
        page.wait("document.getElementById('error').textContent.includes('has no row 99')")
        page.value(f"restart('show', {{picture: '{picture()}'}})")
        page.wait("now.source === 'a picture'")
        assert page.value("document.getElementById('truth').classList.contains('empty')")
    finally:
        page.close()
