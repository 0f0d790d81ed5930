"""Every vision tower sees what transformers' own image processor would show it."""

from dataclasses import replace

import pytest
import torch
from policies.synthetic import TINY
from transformers import (
    BitImageProcessor,
    CLIPImageProcessor,
    Siglip2ImageProcessor,
    SiglipImageProcessor,
    ViTImageProcessor,
)

from worldlab.policies.backbone_config import VISION_FAMILIES
from worldlab.policies.towers import Tower

PROCESSORS = {
    "siglip": SiglipImageProcessor(do_resize=False),
    "siglip2": Siglip2ImageProcessor(do_resize=False, patch_size=8, max_num_patches=16),
    "clip": CLIPImageProcessor(do_resize=False, do_center_crop=False),
    "vit": ViTImageProcessor(do_resize=False),
    "dinov2": BitImageProcessor(
        do_resize=False, do_center_crop=False, image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225]
    ),
}


def image(b=3, h=32, w=32):
    return torch.randint(0, 256, (b, h, w, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=VISION_FAMILIES)
def tower(request):
    torch.manual_seed(0)
    return Tower.small(replace(TINY, vision=request.param)).eval()


def see(tower, *images):
    return tower([tower.pixels(x, tower.size(x)) for x in images])


def test_its_features_are_transformers_own(tower):
    kind = tower.model.config.model_type.removesuffix("_vision_model")
    shown = PROCESSORS[kind](list(image().permute(0, 3, 1, 2)), return_tensors="pt")
    with torch.no_grad():
        theirs = tower.model(**shown).last_hidden_state[:, -16:]
        (ours,) = see(tower, image())
    assert ours.shape == (3, 16, TINY.width)
    torch.testing.assert_close(ours, theirs)


def test_rows_and_images_are_independent(tower):
    with torch.no_grad():
        one, two = see(tower, image(), image().flip(0))
        torch.testing.assert_close(two, one.flip(0))
        torch.testing.assert_close(see(tower, image()[:1])[0], one[:1])


def test_images_of_another_size_are_resized(tower):
    one, two = see(tower, image(2, 48, 64), image(2, 24, 32))
    kept = tower.model.config.model_type == "siglip2_vision_model"
    assert one.shape == two.shape == (2, 12 if kept else 16, TINY.width)
    rows, columns = tower.grid((32, 128))
    assert (rows, columns) == ((2, 8) if kept else (4, 4))


def test_its_description_is_everything_but_the_weights(tower):
    made = Tower.of_description(tower.describe()).eval()
    assert made.describe() == tower.describe()
    made.load_state_dict(tower.state_dict())
    assert torch.equal(see(made, image())[0], see(tower, image())[0])


def test_every_weight_that_learns_has_a_use(tower):
    see(tower, image())[0].square().sum().backward()
    assert [p.grad is None for p in tower.parameters()] == [not p.requires_grad for p in tower.parameters()]
