"""One body of tests over the plain-torch twin, the CPU's kernels and the GPU's, simulated where there is none."""

from __future__ import annotations

import re
from itertools import product

import pytest
import torch
import torch.nn.functional as F

from msrim.ops import accumulate, reference

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Source, target: every number of axes, channels below and above eight, sides that fill no tile.
SIZES = [((7,), (5,)), ((9, 13), (4,)), ((6, 11), (7, 5)), ((5,), (3, 4)), ((3, 4, 5), (4, 3, 2)), ((8, 19), (2, 5, 3))]


def example(source, target, *, batch=2, channels=3, steps=4, shared=False, dtype=torch.float64, device="cpu"):
    """Values, and places that lie partly outside the target."""
    draw = torch.Generator().manual_seed(0)
    u = torch.randn(batch, channels, *source, generator=draw, dtype=torch.float64)
    places = torch.rand(1 if shared else batch, steps, len(target), *source, generator=draw, dtype=torch.float64)
    scale = torch.tensor(target, dtype=torch.float64).view(-1, *[1] * len(source))
    return u.to(device, dtype), (places * (scale + 3) - 2).to(device, dtype)


def counted_by_hand(u, grids, size, *, kernel):
    """Eq. 2 of the paper as it stands: for every cell, pixel and grid the product of kernels."""
    batch, _, *space = u.shape
    v = torch.zeros(*u.shape[:2], *size, dtype=torch.float64)
    for b, k in product(range(batch), range(grids.shape[1])):
        for s in product(*map(range, space)):
            place = grids[(b % len(grids), k, slice(None), *s)]
            for cell in product(*map(range, size)):
                if kernel == "nearest":
                    weights = [float(torch.floor(g + 0.5) == i) for g, i in zip(place, cell, strict=True)]
                else:
                    weights = [max(0.0, 1 - abs(float(g) - i)) for g, i in zip(place, cell, strict=True)]
                v[(b, slice(None), *cell)] += (
                    torch.tensor(weights, dtype=torch.float64).prod() * u[(b, slice(None), *s)]
                )
    return v


def test_votes_by_hand(way):
    op, device = way.accumulate, way.device
    u = torch.tensor([[[1.0, 2.0, 4.0, 8.0]]], device=device)
    grids = torch.tensor([[[[0.5, 1.49, -0.5, 2.5]], [[-0.51, 2.0, 0.0, 2.0]]]], device=device)
    # floor(g + 0.5): 0.5 goes up to 1, -0.5 to 0; -0.51 and 2.5 leave a target of three cells.
    assert op(u, grids, (3,), kernel="nearest").tolist() == [[[4 + 4, 1 + 2, 2 + 8]]]


def test_bilinear_shares_by_hand(way):
    op, device = way.accumulate, way.device
    u = torch.tensor([[[4.0, 8.0]]], device=device)
    grids = torch.tensor([[[[0.25, -0.5], [1.5, 1.0]]]], device=device)
    # 4 at (0.25, 1.5): 3 and 1 by row, halved by column, of which column 2 is outside; 8 at (-0.5, 1): half of it lost.
    assert op(u, grids, (2, 2), kernel="bilinear").tolist() == [[[[0, 1.5 + 4], [0, 0.5]]]]


def test_the_gradient_to_places_at_whole_numbers_by_hand(way):
    # That of a step to the right, the first cell from the left of the target too: bfloat16 places are often whole.
    grids = torch.tensor([[[[-1.0, 0, 2, 3]]]], device=way.device, requires_grad=True)
    votes = way.accumulate(torch.ones(1, 1, 4, device=way.device), grids, (3,), kernel="bilinear")
    (votes * torch.tensor([1.0, 4, 9], device=way.device)).sum().backward()
    assert grids.grad.tolist() == [[[[1, 4 - 1, -9, 0]]]]


@pytest.mark.parametrize("kernel", ["nearest", "bilinear"])
@pytest.mark.parametrize(("source", "target"), SIZES[:5], ids=str)
def test_equals_the_equation(way, source, target, kernel):
    op, device = way.accumulate, way.device
    u, grids = example(source, target, batch=2, channels=2, steps=2)
    expected = counted_by_hand(u, grids, target, kernel=kernel)
    found = op(u.to(device), grids.to(device), target, kernel=kernel)
    torch.testing.assert_close(found.cpu(), expected)


@pytest.mark.parametrize("kernel", ["nearest", "bilinear"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shared", [False, True], ids=["grid each", "one grid"])
@pytest.mark.parametrize(("source", "target"), SIZES, ids=str)
def test_kernels_and_their_gradients_equal_the_twin(way, closeness, source, target, shared, dtype, kernel):
    op, device = way.accumulate, way.device
    u, grids = example(source, target, channels=11, shared=shared, dtype=dtype, device=device)
    expected_inputs = u.double().requires_grad_(), grids.double().requires_grad_()
    expected = reference.accumulate(*expected_inputs, target, kernel=kernel)
    u.requires_grad_(), grids.requires_grad_(kernel == "bilinear")
    found = op(u, grids, target, kernel=kernel)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, **closeness(dtype))
    weights = torch.linspace(-1, 1, expected.numel(), dtype=torch.float64, device=device).view_as(expected).to(dtype)
    (found * weights).sum().backward()
    (expected * weights.double()).sum().backward()
    torch.testing.assert_close(u.grad.double(), expected_inputs[0].grad, **closeness(dtype))
    if kernel == "bilinear":
        assert grids.grad.dtype == dtype
        torch.testing.assert_close(grids.grad.double(), expected_inputs[1].grad, **closeness(dtype))


@pytest.mark.parametrize("channels", [1, 7, 8, 9, 24])
@pytest.mark.parametrize("batch", [1, 3, 20])
def test_every_way_to_share_out_the_work(way, batch, channels):
    op, device = way.accumulate, way.device
    u, grids = example((20, 17), (5, 6), batch=batch, channels=channels, steps=3, device=device)
    u.requires_grad_()
    expected = reference.accumulate(u, grids, (5, 6))
    found = op(u, grids, (5, 6))
    torch.testing.assert_close(found, expected)
    weights = torch.rand_like(expected)
    gathered = [torch.autograd.grad(v, u, weights)[0] for v in (found, expected)]
    torch.testing.assert_close(*gathered)


@pytest.mark.parametrize(("source", "target"), [((5, 7), (6, 4)), ((3, 4, 5), (4, 5, 3))], ids=str)
def test_one_grid_is_the_adjoint_of_grid_sample(way, source, target):
    op, device = way.accumulate, way.device
    u, grids = example(source, target, channels=9, steps=1, device=device)
    y = torch.randn(2, 9, *target, dtype=torch.float64, device=device)
    # grid_sample counts axes backwards, from -1 to 1.
    sides = torch.tensor(target, dtype=torch.float64, device=device)
    places = (2 * grids[:, 0].movedim(1, -1) / (sides - 1) - 1).flip(-1)
    sampled = F.grid_sample(y, places, mode="bilinear", padding_mode="zeros", align_corners=True)
    votes = op(u, grids, target, kernel="bilinear")
    assert float((votes * y).sum()) == pytest.approx(float((u * sampled).sum()), abs=1e-10)


@pytest.mark.parametrize("kernel", ["nearest", "bilinear"])
def test_no_vote_leaves_no_mass_is_lost(way, kernel):
    op, device = way.accumulate, way.device
    u, grids = example((8, 9), (12, 11), channels=5, device=device)
    grids = grids.clamp(0, 10)
    votes = op(u, grids, (12, 11), kernel=kernel)
    torch.testing.assert_close(votes.sum((2, 3)), 4 * u.sum((2, 3)))


@pytest.mark.parametrize("kernel", ["nearest", "bilinear"])
def test_places_that_are_no_numbers_are_outside(way, kernel):
    op, device = way.accumulate, way.device
    u = torch.ones(1, 1, 5, device=device)
    grids = torch.tensor([float("nan"), float("inf"), -float("inf"), 1e30, 1.0], device=device).view(1, 1, 1, 5)
    assert op(u, grids, (3,), kernel=kernel).tolist() == [[[0, 1, 0]]]


def test_a_lost_vote_does_not_matter_even_if_it_is_no_number(way):
    op, device = way.accumulate, way.device
    u = torch.tensor([[[float("nan"), 1.0]]], device=device)
    grids = torch.tensor([[[[-3.0, 1.0]]]], device=device)
    assert op(u, grids, (2,), kernel="bilinear").tolist() == [[[0, 1]]]


@pytest.mark.parametrize("kernel", ["nearest", "bilinear"])
def test_gradients_are_the_derivatives(way, kernel):
    op, device = way.accumulate, way.device
    u, grids = example((3, 4), (4, 5), channels=2, steps=2, device=device)
    # Away from where the nearest cell changes and the bilinear kernel has its corners.
    grids = torch.floor(grids) + 0.2 + 0.2 * torch.rand_like(grids)
    u.requires_grad_(), grids.requires_grad_(kernel == "bilinear")
    assert torch.autograd.gradcheck(lambda u, grids: op(u, grids, (4, 5), kernel=kernel), (u, grids))
    assert torch.autograd.gradgradcheck(lambda u: op(u, grids.detach(), (4, 5), kernel=kernel), (u,))


def test_nearest_gives_the_grids_no_gradient(way):
    op, device = way.accumulate, way.device
    u, grids = example((3, 4), (4, 5), device=device)
    u.requires_grad_(), grids.requires_grad_()
    op(u, grids, (4, 5), kernel="nearest").sum().backward()
    assert grids.grad is None
    assert u.grad is not None


@pytest.mark.parametrize("kernel", ["nearest", "bilinear"])
def test_inputs_in_any_order_in_memory(way, kernel):
    op, device = way.accumulate, way.device
    u, grids = example((6, 10), (7, 5), channels=9, device=device)
    expected = op(u, grids, (7, 5), kernel=kernel)
    scattered = u.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0)
    places = torch.cat([grids, grids], -1)[..., :10]
    assert not scattered.is_contiguous()
    assert not places.is_contiguous()
    torch.testing.assert_close(op(scattered, places, (7, 5), kernel=kernel), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("kernel", ["nearest", "bilinear"])
@pytest.mark.parametrize("shared", [False, True], ids=["grid each", "one grid"])
def test_empty_batch(way, shared, kernel):
    op, device = way.accumulate, way.device
    u, grids = example((6, 10), (7, 5), batch=0, shared=shared, device=device)
    u.requires_grad_(), grids.requires_grad_(kernel == "bilinear")
    votes = op(u, grids, (7, 5), kernel=kernel)
    assert votes.shape == (0, 3, 7, 5)
    votes.sum().backward()
    assert u.grad.shape == u.shape
    if kernel == "bilinear":
        assert not grids.grad.any()


def test_no_grid_is_no_vote(way):
    op, device = way.accumulate, way.device
    u, grids = example((6, 10), (7, 5), steps=0, device=device)
    assert op(u, grids, (7, 5), kernel="nearest").tolist() == torch.zeros(2, 3, 7, 5).tolist()


@pytest.mark.parametrize("kernel", ["nearest", "bilinear"])
def test_torch_finds_the_operator_sound(device, kernel):
    u, grids = example((4, 5), (3, 4), device=device)
    u.requires_grad_(), grids.requires_grad_(kernel == "bilinear")
    torch.library.opcheck(torch.ops.msrim.accumulate.default, (u, grids, [3, 4], kernel))
    v = torch.rand(2, 3, 3, 4, dtype=torch.float64, device=device, requires_grad=True)
    torch.library.opcheck(torch.ops.msrim.sample.default, (v, grids, kernel))
    torch.library.opcheck(torch.ops.msrim.grad_grids.default, (u.detach(), v.detach(), grids.detach()))


def test_compiles_whole(device):
    u, grids = example((4, 5), (3, 4), dtype=torch.float32, device=device)
    u.requires_grad_()
    compiled = torch.compile(
        lambda u, grids: accumulate(2 * u, grids, (3, 4)).square(), fullgraph=True, backend="aot_eager"
    )
    found, expected = compiled(u, grids), accumulate(2 * u, grids, (3, 4)).square()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(v.sum(), u)[0] for v in (found, expected)))


def test_autocast_adds_in_float32(device):
    # 2049 and 4097 are no numbers in half precision.
    u = torch.ones(1, 1, 4097, device=device, dtype=torch.bfloat16, requires_grad=True)
    grids = torch.zeros(1, 1, 1, 4097, device=device)
    with torch.autocast(device, torch.bfloat16):
        votes = accumulate(u, grids, (1,))
    votes.sum().backward()
    assert votes.dtype == torch.float32
    assert votes.item() == 4097
    assert u.grad.dtype == torch.bfloat16


def test_the_number_of_threads_changes_no_bit():
    u, grids = example((200, 210), (9, 8), batch=3, channels=5, dtype=torch.float32)
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            found.append(accumulate(u, grids, (9, 8), kernel="bilinear"))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_deterministic_on_a_gpu():
    u, grids = example((64, 64), (8, 8), batch=2, channels=9, dtype=torch.float32, device="cuda")
    torch.use_deterministic_algorithms(True)
    try:
        first, *others = (accumulate(u, grids, (8, 8), kernel="bilinear") for _ in range(5))
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kernel": "cubic"}, "kernel 'cubic': choose one of nearest, bilinear"),
        ({"u": torch.ones(2, 3, 4, 5, dtype=torch.int64)}, "u is torch.int64: .* convert it with .float()"),
        ({"grids": torch.ones(2, 1, 2, 4, 5, dtype=torch.bool)}, "grids is torch.bool"),
        ({"u": torch.ones(2, 3)}, r"u has shape \(2, 3\); it must be \(B, C, \*S\)"),
        ({"size": ()}, r"size \(\): give 1 to 3 sides"),
        ({"size": (3, 0)}, r"size \(3, 0\): give 1 to 3 sides of at least one cell"),
        ({"size": (70000, 70000)}, "more cells than"),
        ({"grids": torch.ones(2, 1, 3, 4, 5)}, r"grids have shape \(2, 1, 3, 4, 5\); .* \(1 or 2, K, 2, 4, 5\)"),
        ({"grids": torch.ones(3, 1, 2, 4, 5)}, "grids have shape"),
        ({"grids": torch.ones(2, 1, 2, 5, 4)}, "grids have shape"),
        ({"grids": torch.ones(2, 2, 4, 5)}, "grids have shape"),
        (
            {"grids": torch.ones(2, 1, 2, 4, 5, device="meta")},
            "u is on cpu and grids on meta: bring them to one device",
        ),
    ],
)
def test_what_does_not_fit_is_said(change, message):
    call = {"u": torch.ones(2, 3, 4, 5), "grids": torch.ones(2, 1, 2, 4, 5), "size": (3, 4), "kernel": "nearest"}
    with pytest.raises(ValueError, match=message):
        accumulate(**{**call, **change})


def test_messages_reach_the_user_of_a_compiled_network_too():
    compiled = torch.compile(lambda u, grids: accumulate(u, grids, (3, 4)), backend="eager")
    with pytest.raises(Exception, match=re.escape("it must be (B, K, D, *S)")):
        compiled(torch.ones(2, 3, 4, 5), torch.ones(2, 1, 3, 4, 5))
