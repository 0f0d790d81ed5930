import math

import torch

from worldlab import so101


def random_joints(n: int) -> torch.Tensor:
    low, high = torch.tensor(so101.LOW), torch.tensor(so101.HIGH)
    return torch.lerp(low, high, torch.rand(n, 6, generator=torch.Generator().manual_seed(0)))


def test_units_are_those_of_the_follower():
    degrees = so101.to_lerobot(torch.tensor([[math.pi / 2, 0, 0, 0, -math.pi / 4, so101.HIGH[5]]]))
    torch.testing.assert_close(degrees, torch.tensor([[90.0, 0, 0, 0, -45, 100]]))
    assert so101.to_lerobot(torch.tensor([so101.LOW]))[0, 5].abs() < 1e-4


def test_snapped_joints_survive_lerobots_float32_bit_for_bit():
    joints = so101.snap(random_joints(100_000))
    assert torch.equal(so101.from_lerobot(so101.to_lerobot(joints)), joints)
    assert torch.equal(so101.snap(joints), joints)


def test_snapping_moves_less_than_a_thousandth_of_an_encoder_step():
    joints = random_joints(1000)
    assert (so101.snap(joints) - joints).abs().max() < 2 * math.pi / 4096 / 1000


def test_targets_are_snapped_and_within_the_ranges():
    targets = so101.target(2 * random_joints(1000))
    assert torch.equal(so101.snap(targets), targets)
    for limit in (so101.LOW, so101.HIGH):
        wanted = so101.target(torch.tensor([limit], dtype=torch.float64))
        assert (wanted - torch.tensor([limit], dtype=torch.float64)).abs().max() < 2.0**-20
    assert bool((targets.double() >= torch.tensor(so101.LOW, dtype=torch.float64)).all())
    assert bool((targets.double() <= torch.tensor(so101.HIGH, dtype=torch.float64)).all())
