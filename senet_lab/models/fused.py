"""The end of a residual block as one operator: norm, squeeze-and-excitation, addition and ReLU.

On paper SE costs no pass over memory. Batch norm reads its input for its statistics anyway, and the sums that the
squeeze wants fall out of the same pass, because the mean of an affine map is the affine map of the mean; the gate then
rides on the pass that applies the norm, adds the shortcut and clips. Backward it is the same: the gate's gradient comes
from the two sums an image and channel that batch norm's backward reduces as well. So there are two passes forward and
two backward, as many as without SE. What runs between them is as small as B × C.

Shapes: B images, C channels, K hidden width, H × W space, N = H W pixels, M = B N. Here x is what the branch's last
convolution gives, h the shortcut, μ, σ² and ε the norm's mean, variance and epsilon, r = (σ² + ε)^-½, γ and β its
weight and bias, a = γ r; `gate` is SE's two layers and their non-linearities, B × C → B × C. Indices: b, c, and p for a
pixel; a sum over p alone is one number an image and channel.

Forward:

    pass 1   m_bc = mean_p x;  q_bc = Σ_p (x − m_bc)²                                     reads x
             μ_c = mean_b m;  σ²_c = (Σ_b q + N Σ_b (m − μ)²) / M                         (Chan et al. 1983)
             z_bc = a (m − μ) + β,  the mean over p of u = a (x − μ) + β;  s_bc = gate(z)
    pass 2   y = relu(s u + h) = relu(s a (x − m) + s z + h)                              reads x, h; writes y

Both are centred at m_bc, so that nothing cancels where a channel's mean is large beside its spread. In evaluation μ and
σ² are the running ones, and pass 1 is the squeeze alone.

Backward, with dy given:

    pass 1   g = dy where y > 0, else 0: it is dh, too;  G_bc = Σ_p g;  R_bc = Σ_p g (x − m)
                                                                                          reads dy, y, x; writes g
             ds = Σ_p g u = a R + z G;  dz and the gate's weights by its own derivative from ds
             u gets s g from the product and dz / N from the squeeze:  du = s g + dz / N
             dβ = Σ_b,p du = Σ_b (s G + dz)
             dγ = Σ_b,p du (u − β) / γ = r Σ_b (s R + (m − μ) (s G + dz)),  since Σ_p (x − μ) = N (m − μ)
    pass 2   dx = a (du − dβ / M − (x − μ) r dγ / M)                                      reads g, x; writes dx
                = [a s] g + [a (dz / N − dβ / M) + d (m − μ)] + [d] (x − m),  d = −a r dγ / M
             in evaluation μ and r are constants: dx = [a s] g + [a dz / N]               reads g; writes dx

That is 4 times the size of a map forward and 7 backward (`benchmarks/fused.py` counts it for each network).

The four passes are Triton kernels on a GPU (`fused_kernels.py`) and plain PyTorch for reference, here; what is between
them is the same for both. Sums, statistics and gates are in single precision, in double for inputs in double, whatever
autocast says. One gradient can be taken, not a gradient of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from senet_lab.models.se import EXCITATIONS, FROM_ONE, SEBlock, check_known


class Passes(NamedTuple):
    """The passes over memory. All full-size tensors of a call have one shape, type and memory format; the others are
    B × C in the type that is summed in."""

    moments: Callable[[Tensor], tuple[Tensor, Tensor]]  # x → m, q
    finish: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]  # x, h, m, s a, s z → y
    sums: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]  # dy, y, x, m → g, G, R
    spread: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None], Tensor]  # g, x, m, three factors → dx


def summed_in(dtype: torch.dtype) -> torch.dtype:
    """The type in which maps of a type are summed."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def moments(x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """m, q: mean over the pixels, and summed squares of what differs from it."""
    x_BCHW = x_BCHW.to(summed_in(x_BCHW.dtype))
    mean_BC = x_BCHW.mean((2, 3))
    return mean_BC, (x_BCHW - mean_BC[:, :, None, None]).square().sum((2, 3))


def finish(x_BCHW: Tensor, shortcut_BCHW: Tensor, mean_BC: Tensor, scale_BC: Tensor, shift_BC: Tensor) -> Tensor:
    """relu(scale (x − m) + shift + h)"""
    wide_BCHW = (x_BCHW - mean_BC[:, :, None, None]) * scale_BC[:, :, None, None] + shift_BC[:, :, None, None]
    return F.relu(wide_BCHW + shortcut_BCHW).to(x_BCHW.dtype)


def sums(dy_BCHW: Tensor, y_BCHW: Tensor, x_BCHW: Tensor, mean_BC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """g, and its sum and its sum times x − m over the pixels."""
    g_BCHW = torch.where(y_BCHW <= 0, 0, dy_BCHW)  # so that a NaN in y goes on, as it does in PyTorch's ReLU
    wide_BCHW = g_BCHW.to(mean_BC.dtype)
    return g_BCHW, wide_BCHW.sum((2, 3)), (wide_BCHW * (x_BCHW - mean_BC[:, :, None, None])).sum((2, 3))


def spread(
    g_BCHW: Tensor, x_BCHW: Tensor, mean_BC: Tensor, scale_BC: Tensor, shift_BC: Tensor, slope_BC: Tensor | None
) -> Tensor:
    """scale g + shift + slope (x − m); x is not read without a slope."""
    dx_BCHW = g_BCHW * scale_BC[:, :, None, None] + shift_BC[:, :, None, None]
    if slope_BC is not None:
        dx_BCHW = dx_BCHW + slope_BC[:, :, None, None] * (x_BCHW - mean_BC[:, :, None, None])
    return dx_BCHW.to(x_BCHW.dtype)


REFERENCE = Passes(moments, finish, sums, spread)
PASSES = ("reference", "triton")


def passes_of(name: str) -> Passes:
    """The passes by their name in `PASSES`; an ImportError for `triton` where it is not installed."""
    if name == "reference":
        return REFERENCE
    from senet_lab.models import fused_kernels as kernels

    return Passes(kernels.moments, kernels.finish, kernels.sums, kernels.spread)


# s = σ(y) and ds → dy, where it takes no more than s: less time than autograd, which does it for all others.
SLOPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sigmoid": lambda s_BC, ds_BC: torch.ops.aten.sigmoid_backward(ds_BC, s_BC),
    "softmax": lambda s_BC, ds_BC: s_BC * (ds_BC - (s_BC * ds_BC).sum(1, keepdim=True)),
    "tanh": lambda s_BC, ds_BC: torch.ops.aten.tanh_backward(ds_BC, s_BC),
    "relu": lambda s_BC, ds_BC: torch.ops.aten.threshold_backward(ds_BC, s_BC, 0),
}


class Gate(NamedTuple):
    """SE's gate apart from its weights.

    Attributes:
        excitation: a key of `EXCITATIONS`.
        from_one: whether it is that of `FROM_ONE`.
    """

    excitation: str
    from_one: bool

    @property
    def sigma(self) -> Callable[[Tensor], Tensor]:
        return (FROM_ONE if self.from_one else EXCITATIONS)[self.excitation]

    def of(self, z_BC: Tensor, weights: Sequence[Tensor | None]) -> tuple[Tensor, Tensor | None]:
        """The gates of descriptors z, and what is between the layers; 1 and nothing where there are no weights."""
        w1, b1_K, w2, b2_C = weights
        if w1 is None or w2 is None:
            return torch.ones_like(z_BC), None
        h_BK = F.relu(linear(z_BC, w1, b1_K))
        return self.sigma(linear(h_BK, w2, b2_C)), h_BK

    def back(
        self, z_BC: Tensor, h_BK: Tensor | None, s_BC: Tensor, weights: Sequence[Tensor | None], ds_BC: Tensor
    ) -> tuple[Tensor, list[Tensor | None]]:
        """The gradients of descriptors and weights, from that of the gates; with what `of` gave."""
        w1, b1_K, w2, b2_C = weights
        if w1 is None or w2 is None or h_BK is None:
            return torch.zeros_like(z_BC), [None] * 4
        if self.excitation in SLOPES and not self.from_one:
            dy_BC = SLOPES[self.excitation](s_BC, ds_BC)
        else:
            dy_BC = torch.func.vjp(self.sigma, linear(h_BK, w2, b2_C))[1](ds_BC)[0]
        dh_BK = torch.ops.aten.threshold_backward(dy_BC @ matrix(w2, dy_BC), h_BK, 0)
        dz_BC = dh_BK @ matrix(w1, dh_BK)
        return dz_BC, [*linear_back(dh_BK, z_BC, w1, b1_K), *linear_back(dy_BC, h_BK, w2, b2_C)]


def linear(z_BC: Tensor, w: Tensor, b_K: Tensor | None) -> Tensor:
    """A layer of the gate, in the type of its input."""
    return F.linear(z_BC, matrix(w, z_BC), None if b_K is None else b_K.to(z_BC.dtype))


def linear_back(dy_BK: Tensor, z_BC: Tensor, w: Tensor, b_K: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The gradients of a layer's weight and bias."""
    return (dy_BK.T @ z_BC).view(w.shape), None if b_K is None else dy_BK.sum(0)


def matrix(w: Tensor, z_BC: Tensor) -> Tensor:
    """The weight of a 1×1 convolution as K × C, in the type of what it is multiplied with."""
    return w.flatten(1).to(z_BC.dtype)


class Ending(torch.autograd.Function):
    """y, and the mean and variance that normalised it: the module's formulas, pass by pass."""

    @staticmethod
    def forward(
        ctx: Any,
        x_BCHW: Tensor,
        shortcut_BCHW: Tensor,
        gamma_C: Tensor,
        beta_C: Tensor,
        running_mean_C: Tensor | None,
        running_var_C: Tensor | None,
        eps: float,
        gate: Gate,
        passes: str,
        *weights: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        B, _, H, W = x_BCHW.shape
        N = H * W
        as_x = layout(x_BCHW)
        x_BCHW = x_BCHW.contiguous(memory_format=as_x)
        shortcut_BCHW = shortcut_BCHW.contiguous(memory_format=as_x)
        with no_autocast(x_BCHW):
            m_BC, q_BC = passes_of(passes).moments(x_BCHW)
            if running_mean_C is None or running_var_C is None:
                mu_C = m_BC.mean(0)
                var_C = (q_BC.sum(0) + N * (m_BC - mu_C).square().sum(0)) / (B * N)
            else:
                mu_C, var_C = running_mean_C.to(m_BC.dtype), running_var_C.to(m_BC.dtype)
            r_C = (var_C + eps).rsqrt()
            a_C = gamma_C * r_C
            z_BC = a_C * (m_BC - mu_C) + beta_C
            s_BC, h_BK = gate.of(z_BC, weights)
            y_BCHW = passes_of(passes).finish(x_BCHW, shortcut_BCHW, m_BC, s_BC * a_C, s_BC * z_BC)
        ctx.save_for_backward(x_BCHW, y_BCHW, gamma_C, m_BC, mu_C, r_C, z_BC, h_BK, s_BC, *weights)
        ctx.batch = running_mean_C is None
        ctx.gate = gate
        ctx.passes = passes
        ctx.mark_non_differentiable(mu_C, var_C)
        return y_BCHW, mu_C, var_C

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy_BCHW: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x_BCHW, y_BCHW, gamma_C, m_BC, mu_C, r_C, z_BC, h_BK, s_BC, *weights = ctx.saved_tensors
        B, _, H, W = x_BCHW.shape
        N, M = H * W, B * H * W
        dy_BCHW = dy_BCHW.contiguous(memory_format=layout(x_BCHW))
        a_C = gamma_C * r_C
        off_BC = m_BC - mu_C
        with no_autocast(x_BCHW):
            g_BCHW, G_BC, R_BC = passes_of(ctx.passes).sums(dy_BCHW, y_BCHW, x_BCHW, m_BC)
            dz_BC, dweights = ctx.gate.back(z_BC, h_BK, s_BC, weights, a_C * R_BC + z_BC * G_BC)
            du_BC = s_BC * G_BC + dz_BC  # summed over the pixels
            dbeta_C = du_BC.sum(0)
            dgamma_C = r_C * (s_BC * R_BC + off_BC * du_BC).sum(0)
            shift_BC = a_C * dz_BC / N
            slope_BC = None
            if ctx.batch:
                slope_BC = (-a_C * r_C * dgamma_C / M).expand_as(m_BC).contiguous()
                shift_BC = shift_BC - a_C * dbeta_C / M + slope_BC * off_BC
            dx_BCHW = passes_of(ctx.passes).spread(g_BCHW, x_BCHW, m_BC, a_C * s_BC, shift_BC, slope_BC)
        norm = dgamma_C.to(gamma_C.dtype), dbeta_C.to(gamma_C.dtype)
        return dx_BCHW, g_BCHW, *norm, None, None, None, None, None, *dweights


def layout(x_BCHW: Tensor) -> torch.memory_format:
    """The memory format in which a map is, or is to be brought."""
    last = x_BCHW.is_contiguous(memory_format=torch.channels_last) and not x_BCHW.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def no_autocast(x_BCHW: Tensor) -> AbstractContextManager[Any]:
    """Inside, the gate's layers are computed in the type of their inputs."""
    kind = x_BCHW.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def block_end(
    x_BCHW: Tensor, shortcut_BCHW: Tensor, norm: nn.BatchNorm2d, se: SEBlock | None = None, passes: str = "reference"
) -> Tensor:
    """relu(se(norm(x)) + shortcut), with the norm's running statistics brought forward in training, as the norm does.

    Args:
        x_BCHW: what the branch's last convolution gives.
        shortcut_BCHW: of the same shape, type and device.
        norm: with weight and bias, in the mode that it is in.
        se: with an average squeeze; None is no SE, relu(norm(x) + shortcut).
        passes: a key of `PASSES`.

    Raises:
        ValueError: in training for one value a channel, and for unknown passes.
    """
    check_known("passes", passes, PASSES)
    M = x_BCHW.numel() // x_BCHW.shape[1]
    batch = norm.training or norm.running_mean is None or norm.running_var is None
    if batch and M == 1:
        raise ValueError(f"expected more than 1 value per channel when training, got input size {x_BCHW.shape}")
    mean_C, var_C = (None, None) if batch else (norm.running_mean, norm.running_var)
    gate, weights = parts_of(se)
    y_BCHW: Tensor
    y_BCHW, mean_C, var_C = Ending.apply(
        x_BCHW, shortcut_BCHW, norm.weight, norm.bias, mean_C, var_C, norm.eps, gate, passes, *weights
    )
    if norm.training and norm.track_running_stats:
        track(norm, mean_C, var_C * (M / (M - 1)))
    return y_BCHW


def parts_of(se: SEBlock | None) -> tuple[Gate, tuple[Tensor | None, ...]]:
    """What an SE block computes, and its weights and biases, layer by layer; None for what is not there."""
    if se is None:
        return Gate("sigmoid", from_one=True), (None, None, None, None)
    return Gate(se.excitation, se.from_one), (se.fc1.weight, se.fc1.bias, se.fc2.weight, se.fc2.bias)


@torch.no_grad()
def track(norm: nn.BatchNorm2d, mean_C: Tensor, var_C: Tensor) -> None:
    """Bring running statistics forward by those of a batch; the variance is the unbiased one."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    for running_C, batch_C in ((norm.running_mean, mean_C), (norm.running_var, var_C)):
        if norm.momentum is None:  # the mean over all batches; on the device, where the module would wait for it
            running_C.lerp_(batch_C.to(running_C.dtype), norm.num_batches_tracked.to(running_C.dtype).reciprocal())
        else:
            running_C.lerp_(batch_C.to(running_C.dtype), norm.momentum)
