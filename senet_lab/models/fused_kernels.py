"""The passes of `fused.py` as Triton kernels, one for each, for maps in either memory format.

Every map is read as B matrices of C channels by N pixels. A program takes a tile of some channels of one image; the two
passes that reduce go over its pixels in a loop, the other two take one tile each. Pixels lie side by side in the
contiguous format, channels in channels_last: strides of 1 are compiled in, so that both are read 16 bytes at a time. No
sum is made by atomic additions: the same input gives the same bits.

Each is an operator of its own (`torch.library`) with a shape function, so that torch.compile takes it into its graph.
With TRITON_INTERPRET=1, set before this is imported, the kernels run on a CPU, slowly.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from senet_lab.models.fused import summed_in

TILE = 2048  # elements of a tile: 16 for each thread of 4 warps
CHANNELS = 64  # of a tile in channels_last: 128 bytes in half precision


@triton.jit
def moments_kernel(
    x: tl.tensor,
    mean: tl.tensor,
    squares: tl.tensor,
    C: tl.tensor,
    N: tl.tensor,
    stride_c: tl.tensor,
    stride_n: tl.tensor,
    SUM: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_N: tl.constexpr,
) -> None:
    """Every lane keeps the mean and the squared deviations of its own pixels (Welford 1962); they are joined at the end
    (Chan et al. 1983)."""
    blocks = tl.cdiv(C, BLOCK_C)
    image = tl.program_id(0) // blocks
    c = (tl.program_id(0) % blocks) * BLOCK_C + tl.arange(0, BLOCK_C)
    lane = tl.arange(0, BLOCK_N)
    start = image.to(tl.int64) * C * N
    means = tl.zeros((BLOCK_C, BLOCK_N), SUM)
    deviations = tl.zeros((BLOCK_C, BLOCK_N), SUM)
    for first in range(0, N, BLOCK_N):
        n = first + lane
        mask = (c < C)[:, None] & (n < N)[None, :]
        value = tl.load(x + start + c[:, None] * stride_c + n[None, :] * stride_n, mask=mask, other=0).to(SUM)
        off = tl.where(mask, value - means, 0)
        means += off * (tl.full((), 1, SUM) / (first // BLOCK_N + 1))
        deviations += off * (value - means)
    pixels = tl.maximum((N - lane + BLOCK_N - 1) // BLOCK_N, 0).to(SUM)[None, :]
    near = tl.sum(tl.where(lane[None, :] == 0, means, 0), 1)  # sums of what is left are small where the means are not
    whole = near + tl.sum((means - near[:, None]) * pixels, 1) / N
    off = means - whole[:, None]
    tl.store(mean + image * C + c, whole, mask=c < C)
    tl.store(squares + image * C + c, tl.sum(deviations + pixels * off * off, 1), mask=c < C)


@triton.jit
def finish_kernel(
    x: tl.tensor,
    shortcut: tl.tensor,
    mean: tl.tensor,
    scale: tl.tensor,
    shift: tl.tensor,
    y: tl.tensor,
    C: tl.tensor,
    N: tl.tensor,
    stride_c: tl.tensor,
    stride_n: tl.tensor,
    SUM: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_N: tl.constexpr,
) -> None:
    blocks = tl.cdiv(C, BLOCK_C)
    image = tl.program_id(0) // blocks
    c = (tl.program_id(0) % blocks) * BLOCK_C + tl.arange(0, BLOCK_C)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    mask = (c < C)[:, None] & (n < N)[None, :]
    place = image.to(tl.int64) * C * N + c[:, None] * stride_c + n[None, :] * stride_n
    m = tl.load(mean + image * C + c, mask=c < C, other=0)[:, None]
    a = tl.load(scale + image * C + c, mask=c < C, other=0)[:, None]
    b = tl.load(shift + image * C + c, mask=c < C, other=0)[:, None]
    value = tl.load(x + place, mask=mask, other=0).to(SUM)
    value = a * (value - m) + b + tl.load(shortcut + place, mask=mask, other=0).to(SUM)
    tl.store(y + place, tl.where(value <= 0, 0, value), mask=mask)  # unlike a maximum lets a NaN through


@triton.jit
def sums_kernel(
    dy: tl.tensor,
    y: tl.tensor,
    x: tl.tensor,
    mean: tl.tensor,
    g: tl.tensor,
    plain: tl.tensor,
    centred: tl.tensor,
    C: tl.tensor,
    N: tl.tensor,
    stride_c: tl.tensor,
    stride_n: tl.tensor,
    SUM: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_N: tl.constexpr,
) -> None:
    blocks = tl.cdiv(C, BLOCK_C)
    image = tl.program_id(0) // blocks
    c = (tl.program_id(0) % blocks) * BLOCK_C + tl.arange(0, BLOCK_C)
    start = image.to(tl.int64) * C * N
    m = tl.load(mean + image * C + c, mask=c < C, other=0)[:, None]
    sum_g = tl.zeros((BLOCK_C, BLOCK_N), SUM)
    sum_gx = tl.zeros((BLOCK_C, BLOCK_N), SUM)
    for first in range(0, N, BLOCK_N):
        n = first + tl.arange(0, BLOCK_N)
        mask = (c < C)[:, None] & (n < N)[None, :]
        place = start + c[:, None] * stride_c + n[None, :] * stride_n
        given = tl.load(dy + place, mask=mask, other=0)
        kept = tl.where(tl.load(y + place, mask=mask, other=0) <= 0, 0, given)
        tl.store(g + place, kept, mask=mask)
        wide = kept.to(SUM)
        sum_g += wide
        sum_gx += wide * (tl.load(x + place, mask=mask, other=0).to(SUM) - m)
    tl.store(plain + image * C + c, tl.sum(sum_g, 1), mask=c < C)
    tl.store(centred + image * C + c, tl.sum(sum_gx, 1), mask=c < C)


@triton.jit
def spread_kernel(
    g: tl.tensor,
    x: tl.tensor,
    mean: tl.tensor,
    scale: tl.tensor,
    shift: tl.tensor,
    slope: tl.tensor,
    dx: tl.tensor,
    C: tl.tensor,
    N: tl.tensor,
    stride_c: tl.tensor,
    stride_n: tl.tensor,
    SLOPE: tl.constexpr,
    SUM: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_N: tl.constexpr,
) -> None:
    blocks = tl.cdiv(C, BLOCK_C)
    image = tl.program_id(0) // blocks
    c = (tl.program_id(0) % blocks) * BLOCK_C + tl.arange(0, BLOCK_C)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    mask = (c < C)[:, None] & (n < N)[None, :]
    place = image.to(tl.int64) * C * N + c[:, None] * stride_c + n[None, :] * stride_n
    a = tl.load(scale + image * C + c, mask=c < C, other=0)[:, None]
    b = tl.load(shift + image * C + c, mask=c < C, other=0)[:, None]
    value = a * tl.load(g + place, mask=mask, other=0).to(SUM) + b
    if SLOPE:
        m = tl.load(mean + image * C + c, mask=c < C, other=0)[:, None]
        d = tl.load(slope + image * C + c, mask=c < C, other=0)[:, None]
        value += d * (tl.load(x + place, mask=mask, other=0).to(SUM) - m)
    tl.store(dx + place, value, mask=mask)


# ---------------------------------------------------------------------------------------------------------------------
# The operators. All full-size tensors of a call have one shape, type and memory format.


def sizes(x_BCHW: Tensor) -> dict[str, Any]:
    """What all kernels are told of a map: its sizes, its strides and how it is cut into tiles."""
    _, C, H, W = x_BCHW.shape
    N = H * W
    pixels_first = x_BCHW.is_contiguous()
    if pixels_first:
        block_n = min(TILE // 2, triton.next_power_of_2(N))
        block_c = min(TILE // block_n, triton.next_power_of_2(C))
    else:
        block_c = min(CHANNELS, triton.next_power_of_2(C))
        block_n = min(TILE // block_c, triton.next_power_of_2(N))
    return {
        "C": C,
        "N": N,
        "stride_c": N if pixels_first else 1,
        "stride_n": 1 if pixels_first else C,
        "SUM": tl.float64 if x_BCHW.dtype == torch.float64 else tl.float32,
        "BLOCK_C": block_c,
        "BLOCK_N": block_n,
        "enable_fp_fusion": True,  # multiply and add in one rounding; said because Triton is to change its default
    }


def programs(x_BCHW: Tensor, cut: dict[str, Any], pixels: bool) -> tuple[int, int]:
    """How many programs run: for images and channels, and for pixels where there is no loop over them."""
    channels = x_BCHW.shape[0] * triton.cdiv(cut["C"], cut["BLOCK_C"])
    return channels, triton.cdiv(cut["N"], cut["BLOCK_N"]) if pixels else 1


def numbers(x_BCHW: Tensor) -> Tensor:
    """Room for one number an image and channel."""
    return x_BCHW.new_empty(x_BCHW.shape[:2], dtype=summed_in(x_BCHW.dtype))


def device_of(x_BCHW: Tensor) -> AbstractContextManager[Any]:
    """Inside, kernels start on the GPU that a map is on."""
    return torch.cuda.device(x_BCHW.device) if x_BCHW.is_cuda else nullcontext()


@torch.library.custom_op("senet_lab::moments", mutates_args=())
def moments(x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    cut, mean_BC, squares_BC = sizes(x_BCHW), numbers(x_BCHW), numbers(x_BCHW)
    with device_of(x_BCHW):
        moments_kernel[programs(x_BCHW, cut, pixels=False)](x_BCHW, mean_BC, squares_BC, **cut)
    return mean_BC, squares_BC


@torch.library.custom_op("senet_lab::finish", mutates_args=())
def finish(x_BCHW: Tensor, shortcut_BCHW: Tensor, mean_BC: Tensor, scale_BC: Tensor, shift_BC: Tensor) -> Tensor:
    cut, y_BCHW = sizes(x_BCHW), torch.empty_like(x_BCHW)
    with device_of(x_BCHW):
        finish_kernel[programs(x_BCHW, cut, pixels=True)](
            x_BCHW, shortcut_BCHW, mean_BC, scale_BC, shift_BC, y_BCHW, **cut
        )
    return y_BCHW


@torch.library.custom_op("senet_lab::sums", mutates_args=())
def sums(dy_BCHW: Tensor, y_BCHW: Tensor, x_BCHW: Tensor, mean_BC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    cut, g_BCHW, plain_BC, centred_BC = sizes(x_BCHW), torch.empty_like(x_BCHW), numbers(x_BCHW), numbers(x_BCHW)
    with device_of(x_BCHW):
        sums_kernel[programs(x_BCHW, cut, pixels=False)](
            dy_BCHW, y_BCHW, x_BCHW, mean_BC, g_BCHW, plain_BC, centred_BC, **cut
        )
    return g_BCHW, plain_BC, centred_BC


@torch.library.custom_op("senet_lab::spread", mutates_args=())
def spread(
    g_BCHW: Tensor, x_BCHW: Tensor, mean_BC: Tensor, scale_BC: Tensor, shift_BC: Tensor, slope_BC: Tensor | None
) -> Tensor:
    cut, dx_BCHW = sizes(x_BCHW), torch.empty_like(x_BCHW)
    with device_of(x_BCHW):
        spread_kernel[programs(x_BCHW, cut, pixels=True)](
            g_BCHW, x_BCHW, mean_BC, scale_BC, shift_BC, slope_BC, dx_BCHW, SLOPE=slope_BC is not None, **cut
        )
    return dx_BCHW


@moments.register_fake
def _(x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    return numbers(x_BCHW), numbers(x_BCHW)


@finish.register_fake
def _(x_BCHW: Tensor, *_: Tensor) -> Tensor:
    return torch.empty_like(x_BCHW)


@sums.register_fake
def _(dy_BCHW: Tensor, y_BCHW: Tensor, x_BCHW: Tensor, mean_BC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x_BCHW), numbers(x_BCHW), numbers(x_BCHW)


@spread.register_fake
def _(g_BCHW: Tensor, x_BCHW: Tensor, *_: Tensor | None) -> Tensor:
    return torch.empty_like(x_BCHW)
