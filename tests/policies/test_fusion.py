"""Laws of the five ways in which images get into the language model."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from policies.synthetic import TASKS, TINY, make_batch, make_spec

from worldlab.errors import UsageError
from worldlab.policies import Backbone
from worldlab.policies.attention import additive, block_causal, positions
from worldlab.policies.backbone_config import FUSIONS, LANGUAGE_FAMILIES
from worldlab.policies.fusion import Tiling

CAMERAS = {"front": (32, 32), "wrist": (32, 32)}


def make(fusion="llava", cameras=CAMERAS, pointing=None, **fields):
    torch.manual_seed(0)
    config = replace(TINY, fusion=fusion, image=16 if fusion == "anyres" else 32, **fields)
    return Backbone.create(config, cameras, TASKS, pointing=pointing).eval()


@pytest.fixture(params=FUSIONS)
def backbone(request):
    made = make(request.param)
    open_gates(made)
    return made


def open_gates(backbone):
    """Untrained, flamingo's gates are closed."""
    for name, weight in backbone.named_parameters():
        if "alpha" in name:
            weight.data.fill_(0.7)


def scene(b=4):
    obs = make_batch(make_spec(), b=b).obs.map(lambda x: x[:, 0])
    return dict(obs.images), obs.task


@torch.no_grad()
def read(backbone, images, task, **fields):
    return backbone(images, task, **fields)


def test_rows_are_independent(backbone):
    images, task = scene()
    prefix = read(backbone, images, task)
    alone = read(backbone, {name: x[2:3] for name, x in images.items()}, task[2:3])
    torch.testing.assert_close(alone.words, prefix.words[2:3], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(alone.map, prefix.map[2:3], rtol=1e-4, atol=1e-5)


def test_padding_is_inert(backbone):
    images, task = scene()
    prefix = read(backbone, images, task)
    assert not prefix.spoken.all()
    backbone.tokenizer.width += 5
    longer = read(backbone, images, task)
    torch.testing.assert_close(longer.map, prefix.map, rtol=1e-4, atol=1e-5)
    words = prefix.words.shape[1]
    torch.testing.assert_close(
        longer.words[:, :words][prefix.spoken], prefix.words[prefix.spoken], rtol=1e-4, atol=1e-5
    )


def test_every_camera_and_the_instruction_matter(backbone):
    images, task = scene()
    prefix = read(backbone, images, task)
    for name in images:
        blank = read(backbone, {**images, name: torch.zeros_like(images[name])}, task)
        assert not torch.allclose(blank.words, prefix.words, atol=1e-4)
    other = read(backbone, images, tuple(t.replace("reach", "go") for t in task))
    assert not torch.allclose(other.words, prefix.words, atol=1e-4)


def test_the_map_has_a_place_for_every_feature_whichever_camera_is_pointed_into(backbone):
    images, task = scene()
    for camera in images:
        backbone = make(backbone.config.fusion, pointing=camera)
        prefix = read(backbone, images, task)
        assert prefix.map.shape == (4, len(backbone.centres), backbone.map_width)
        assert len(backbone.centres.unique(dim=0)) == len(backbone.centres) == 16
        torch.testing.assert_close(backbone.centres.mean(0), torch.tensor([0.5, 0.5]))


@pytest.mark.parametrize("fusion", FUSIONS)
def test_each_place_of_the_map_is_where_its_pixels_are(fusion):
    """Changing one patch's pixels changes the map's feature there more than any other, on the mean over images."""
    backbone = make(fusion, layers=1)
    image = torch.randint(0, 256, (16, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images, task = dict.fromkeys(CAMERAS, image), TASKS[:1] * 16
    before = read(backbone, images, task).map
    for row, column in ((0, 0), (1, 2), (3, 1)):
        spot = image.clone()
        spot[:, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = torch.tensor([250, 10, 10], dtype=torch.uint8)
        change = (read(backbone, {**images, "front": spot}, task).map - before).norm(dim=-1).mean(0)
        u, v = backbone.centres[change.argmax()].tolist()
        assert (int(v * 4), int(u * 4)) == (row, column)


def test_its_description_is_everything_but_the_weights(backbone):
    made = Backbone.of_description(backbone.config, backbone.describe(), backbone.cameras).eval()
    assert made.describe() == backbone.describe()
    made.load_state_dict(backbone.state_dict())
    images, task = scene()
    assert torch.equal(read(made, images, task).words, read(backbone, images, task).words)
    assert torch.equal(made.centres, backbone.centres)


def test_eager_attention_and_torchs_own_agree(backbone):
    other = Backbone.of_description(replace(backbone.config, attention="sdpa"), backbone.describe(), backbone.cameras)
    other.load_state_dict(backbone.state_dict())
    images, task = scene()
    one, two = read(backbone, images, task), read(other, images, task)
    torch.testing.assert_close(two.words[one.spoken], one.words[one.spoken], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("language", LANGUAGE_FAMILIES)
@pytest.mark.parametrize("fusion", ["llava", "flamingo"])
@torch.no_grad()
def test_going_on_in_steps_is_going_on_at_once(language, fusion):
    """Keys and values in the cache stand for the tokens they came from, in every family."""
    backbone = make(fusion, language=language, layers=2, every=2)
    open_gates(backbone)
    images, task = scene()
    tokens = torch.randn(4, 3, TINY.width)

    def go_on(sizes):
        prefix = read(backbone, images, task)
        everyone, out = prefix.valid, []
        for part in tokens.split(sizes, 1):
            n = part.shape[1]
            query = 1 + torch.arange(n)
            key = torch.cat([query.new_zeros(everyone.shape[1]), query])
            everyone = torch.cat([everyone, everyone.new_ones(4, n)], 1)
            mask = additive(block_causal(query, key, everyone))
            out.append(backbone.extend(prefix, part, mask, positions(everyone)[:, -n:]))
        return torch.cat(out, 1)

    torch.testing.assert_close(go_on([1, 1, 1]), go_on([3]), rtol=1e-4, atol=1e-5)
    assert backbone.of_description(backbone.config, backbone.describe(), backbone.cameras).describe() == (
        backbone.describe()
    )


def test_closed_gates_leave_the_language_model_as_it_was():
    """Flamingo starts as the model that reads the instruction alone."""
    backbone = make("flamingo", layers=3, every=2)
    images, task = scene()
    prefix = read(backbone, images, task)
    for layer in backbone.language.layers:
        layer._forward_pre_hooks.clear()
    ids, valid = backbone.tokenizer(task)
    with torch.no_grad():
        plain = backbone.language(
            inputs_embeds=backbone.embed(ids),
            attention_mask=additive(valid[:, None].expand(-1, valid.shape[1], -1)),
            position_ids=positions(valid),
        )
    assert torch.equal(prefix.words, plain.last_hidden_state)
    assert [crossing.layer is None for crossing in backbone.fusion.crossings] == [False, True, False]


def test_a_q_former_has_as_many_tokens_whatever_the_camera():
    task = scene()[1]
    for size in ((32, 32), (64, 96)):
        backbone = make("qformer", cameras={"front": size}, queries=5)
        prefix = read(backbone, {"front": torch.zeros(4, *size, 3, dtype=torch.uint8)}, task)
        assert prefix.valid.shape[1] == 5 + backbone.tokenizer.width


def test_native_keeps_an_images_shape():
    backbone = make("native", cameras={"front": (32, 64), "wrist": (24, 32)}, pointing="wrist")
    images = {name: torch.zeros(4, *size, 3, dtype=torch.uint8) for name, size in backbone.cameras.items()}
    prefix = read(backbone, images, scene()[1])
    assert prefix.valid.shape[1] == 4 * 8 + 3 * 4 + backbone.tokenizer.width
    assert prefix.map.shape[1] == 12
    with pytest.raises(UsageError, match="less than a patch of 8"):
        make("native", cameras={"front": (4, 64)})
    with pytest.raises(UsageError, match="has no vision tower"):
        make("native", vision="some/tower")


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 500), st.integers(1, 500), st.integers(8, 64), st.integers(1, 9))
def test_tiles_never_exceed_their_cap(h, w, side, cap):
    tiling = Tiling.best((h, w), side, cap)
    assert 1 <= tiling.down * tiling.across <= cap
    assert tiling.shown <= cap
    if max(h, w) <= side:
        assert tiling.shown == 0


@pytest.mark.parametrize(
    ("size", "shape"), [((32, 32), (1, 1)), ((64, 64), (2, 2)), ((32, 96), (1, 3)), ((9, 9), (1, 1))]
)
def test_an_image_is_cut_in_its_own_proportions(size, shape):
    assert Tiling.best(size, 32, 4) == shape


def test_the_tiles_are_the_image():
    backbone = make("anyres", cameras={"wrist": (16, 16), "front": (32, 48)}, pointing="front", tiles=6)
    image = torch.randint(0, 256, (2, 32, 48, 3), dtype=torch.uint8)
    views = backbone.fusion.views({"front": image, "wrist": image[:, :16, :16]})
    assert [tuple(x.shape) for x in views] == [(2, 3, 16, 16)] * (1 + 1 + 6)
    tiles = torch.stack(views[2:]).unflatten(0, (2, 3))
    whole = tiles.permute(2, 3, 0, 4, 1, 5).flatten(2, 3).flatten(3)
    torch.testing.assert_close(whole, image.permute(0, 3, 1, 2) / 127.5 - 1)
