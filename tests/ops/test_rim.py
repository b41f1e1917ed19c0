"""The rim transformation: one body of tests over twin and kernels."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from msrim.ops import reference, rim_transform

SHAPES = [(2, 3, 9, 11), (1, 2, 12, 8, 3), (1, 1, 6, 7, 17)]


def noise(shape, *, dtype=torch.float64, device="cpu"):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(device, dtype)


def ring(radius, *, side=33):
    i, j = torch.meshgrid(*[torch.arange(float(side))] * 2, indexing="ij")
    distance = torch.hypot(i - side // 2, j - side // 2)
    return torch.exp(-((distance - radius) ** 2) / 2)[None, None].double()


def by_definition(x, radius, *, eps):
    """V_u and V_s of planes (B, C, X, Y) by scipy's convention of Sobel's filter and an explicit grid."""
    smooth, slope = torch.tensor([1.0, 2, 1], dtype=x.dtype) / 4, torch.tensor([-1.0, 0, 1], dtype=x.dtype) / 2
    filters = torch.stack([slope[:, None] * smooth, smooth[:, None] * slope])[:, None]
    planes = x.flatten(0, 1)[:, None]
    gradient = F.conv2d(F.pad(planes, (1, 1, 1, 1), mode="replicate"), filters)
    strength = gradient.norm(dim=1, keepdim=True)
    mesh = torch.stack(torch.meshgrid(*map(torch.arange, x.shape[2:]), indexing="ij"))
    grids = torch.stack([k * gradient / (strength + eps) + mesh for k in range(1, radius + 1)], 1)
    return [
        reference.accumulate(values, grids, x.shape[2:], kernel="nearest").view(x.shape)
        for values in (planes, strength)
    ]


def test_a_ramp_by_hand(way):
    # Slope 2 along x: every voxel votes one, two, three rows down; S is 2, but half of it where the border repeats.
    x = (2 * torch.arange(5.0, device=way.device))[:, None].expand(5, 4)[None, None]
    v_u, v_s = way.rim_transform(x, (1, 3), eps=1e-6)
    assert v_u[0, 0, :, :, 1].tolist() == [[0, 0, 2, 4, 6], [0, 0, 0 + 2, 0 + 2 + 4, 0 + 2 + 4 + 6]]
    assert v_s[0, 0, :, :, 1].tolist() == [[0, 1, 2, 2, 2], [0, 1, 3, 5, 6]]


def test_a_flat_image_votes_for_itself_by_hand(way):
    v_u, v_s = way.rim_transform(torch.full((1, 1, 3, 4, 2), 7.0, device=way.device), (2, 5), eps=1e-6)
    assert v_u[0, 0].tolist() == torch.tensor([14.0, 35.0]).view(2, 1, 1, 1).expand(2, 3, 4, 2).tolist()
    assert not v_s.any()


@pytest.mark.parametrize("radius", [1, 4])
def test_equals_the_definition(way, radius):
    x = noise((2, 2, 8, 9))
    for found, expected in zip(
        way.rim_transform(x.to(way.device), (radius,), eps=1e-6), by_definition(x, radius, eps=1e-6), strict=True
    ):
        torch.testing.assert_close(found[:, :, 0].cpu(), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("radii", [(3,), (5, 2, 4)], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernels_and_their_gradients_equal_the_twin(way, closeness, shape, radii, dtype):
    x = noise(shape, dtype=dtype, device=way.device).requires_grad_()
    # Positions are those of the sums' dtype: in another one a vote near a cell's edge may go elsewhere.
    twin = x.detach().to(torch.promote_types(dtype, torch.float32)).requires_grad_()
    expected = reference.rim_transform(twin, radii)
    found = way.rim_transform(x, radii)
    weights = [noise(v.shape, dtype=dtype, device=way.device) for v in expected]
    for v, w in zip(found, expected, strict=True):
        assert v.dtype == dtype
        torch.testing.assert_close(v.to(w.dtype), w, **closeness(dtype))
    sum((v * w).sum() for v, w in zip(found, weights, strict=True)).backward()
    sum((v * w.to(v.dtype)).sum() for v, w in zip(expected, weights, strict=True)).backward()
    torch.testing.assert_close(x.grad.to(twin.dtype), twin.grad, **closeness(dtype))


def test_a_larger_radius_adds_to_a_smaller_one(way):
    x = noise((1, 2, 12, 13), device=way.device)
    together, _ = way.rim_transform(x, (2, 5, 9))
    for i, radius in enumerate((2, 5, 9)):
        alone, _ = way.rim_transform(x, (radius,))
        torch.testing.assert_close(together[:, :, i], alone[:, :, 0])


@pytest.mark.parametrize(
    "moved",
    [lambda v: v.flip(-2), lambda v: v.flip(-1), lambda v: v.rot90(1, (-2, -1)), lambda v: v.transpose(-2, -1)],
    ids=["flip x", "flip y", "rotate", "transpose"],
)
def test_what_moves_the_image_moves_the_votes(way, moved):
    x = noise((1, 2, 12, 12), device=way.device)
    for v, w in zip(way.rim_transform(x), way.rim_transform(moved(x).contiguous()), strict=True):
        torch.testing.assert_close(moved(v), w)


def test_slices_do_not_see_each_other(way):
    x = noise((1, 2, 9, 8, 5), device=way.device)
    whole, _ = way.rim_transform(x, (3,))
    alone, _ = way.rim_transform(x[..., 2].contiguous(), (3,))
    torch.testing.assert_close(whole[..., 2], alone)


@pytest.mark.parametrize("radius", [4, 8, 12])
def test_the_centre_of_a_ring_collects_its_edge(way, radius):
    _, v_s = way.rim_transform(ring(radius).to(way.device), (radius - 3, radius + 2))
    short, long = v_s[0, 0]
    assert divmod(int(long.argmax()), 33) == (16, 16)
    assert long[16, 16] > 10 * short[16, 16] + 1


def test_the_gradient_is_that_of_fixed_places(way):
    x = noise((1, 1, 4, 5, 2), device=way.device).requires_grad_()
    # Steps of the numerical derivative are too small to change a rounded place.
    assert torch.autograd.gradcheck(lambda x: way.rim_transform(x, (2, 1)), (x,), eps=1e-7, atol=1e-5)


def test_no_gradient_is_infinite_where_the_image_is_flat(way):
    x = torch.zeros(1, 1, 5, 5, device=way.device, requires_grad=True)
    sum(v.sum() for v in way.rim_transform(x, (2,))).backward()
    assert torch.equal(x.grad, torch.full_like(x, 2))


def test_torch_finds_the_operator_sound(device):
    x = noise((1, 2, 5, 6, 2), device=device).requires_grad_()
    torch.library.opcheck(torch.ops.msrim.rim_transform.default, (x, [1, 3], 1e-6))
    grads = [noise((1, 2, 2, 5, 6, 2), device=device) for _ in range(2)]
    torch.library.opcheck(torch.ops.msrim.rim_transform_backward.default, (*grads, x.detach(), [1, 3], 1e-6))


def test_compiles_whole(device):
    x = noise((1, 2, 5, 6, 2), device=device, dtype=torch.float32).requires_grad_()
    compiled = torch.compile(lambda x: torch.cat(rim_transform(2 * x), 2), fullgraph=True, backend="aot_eager")
    found, expected = compiled(x), torch.cat(rim_transform(2 * x), 2)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(v.sum(), x)[0] for v in (found, expected)))


def test_autocast_adds_in_float32(device):
    x = torch.full((1, 1, 2, 2), 1.0, device=device, dtype=torch.bfloat16)
    with torch.autocast(device, torch.bfloat16):
        v_u, _ = rim_transform(x, (257,))
    assert v_u.dtype == torch.float32
    assert v_u.unique().tolist() == [257]


@pytest.mark.parametrize("shape", [(0, 2, 5, 5), (2, 0, 5, 5, 3), (1, 1, 5, 5, 0)], ids=str)
def test_empty(way, shape):
    x = torch.zeros(shape, device=way.device, requires_grad=True)
    v_u, v_s = way.rim_transform(x, (2, 3))
    assert v_u.shape == v_s.shape == (*shape[:2], 2, *shape[2:])
    (v_u.sum() + v_s.sum()).backward()
    assert x.grad.shape == shape


def test_memory_order_does_not_matter(way):
    x = noise((2, 3, 9, 8, 4), device=way.device)
    scattered = x.permute(4, 2, 0, 3, 1).contiguous().permute(2, 4, 1, 3, 0)
    assert not scattered.is_contiguous()
    for v, w in zip(way.rim_transform(scattered, (2, 4)), way.rim_transform(x, (2, 4)), strict=True):
        torch.testing.assert_close(v, w)


def test_the_number_of_threads_changes_no_bit():
    x, threads = noise((3, 3, 40, 30, 9), dtype=torch.float32), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = rim_transform(x)
        torch.set_num_threads(4)
        together = rim_transform(x)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(v, w) for v, w in zip(alone, together, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_deterministic_on_a_gpu():
    x = noise((2, 3, 32, 32, 4), dtype=torch.float32, device="cuda")
    torch.use_deterministic_algorithms(True)
    try:
        first, *others = (rim_transform(x)[0] for _ in range(5))
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize(
    ("x", "radii", "message"),
    [
        (torch.zeros(1, 1, 4, 4, dtype=torch.int32), (2,), "x is torch.int32: .* convert it with .float()"),
        (torch.zeros(1, 4, 4), (2,), r"x has shape \(1, 4, 4\); it must be \(B, C, X, Y\)"),
        (torch.zeros(1, 1, 4, 0), (2,), "planes not empty"),
        (torch.zeros(1, 1, 4, 4), (), r"radii \(\): give positive whole numbers"),
        (torch.zeros(1, 1, 4, 4), (3, 0), r"radii \(3, 0\)"),
    ],
)
def test_what_does_not_fit_is_said(x, radii, message):
    with pytest.raises(ValueError, match=message):
        rim_transform(x, radii)


def test_kernels_are_compiled_where_nothing_can_be_kept_on_the_disk(monkeypatch):
    """In a read-only image, under a number without a home, Numba finds no place for its cache."""
    from numba.core import caching

    from msrim.ops._cpu.threads import compiled

    monkeypatch.setattr(caching.FunctionCache._impl_class, "_locator_classes", [])
    assert compiled(fastmath=True)(lambda number: number + 1)(1) == 2
