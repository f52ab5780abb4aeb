"""A norm and the gate behind it computed together on a CPU, where the cost of SE is its passes over memory.

Batch norm is one affine map a channel, u = a (x − μ) + β with a = γ / √(σ² + ε), so that the squeeze of its output is
that map of the squeeze of its input, and the gate s is known before the norm is applied. And s u is affine as well, for
each channel of each image: PyTorch's own batch norm applies it, with each of these taken for a channel. The map that
the gate would read and write again is never made, nor kept for backward; what SE adds is one reading, for the mean.

In training the letters and their derivation are those of docs/speed.md, without its addition and ReLU:

    m_bc = mean_p x;  μ, σ² by the norm's own kernel;  z = a (m − μ) + β;  s = gate(z);  y = s a (x − m) + s z
    G_bc = Σ_p dy;  R_bc = Σ_p dy (x − m);  ds = a R + z G;  dz and the gate's weights from ds;  dβ = Σ_b (s G + dz)
    dγ = r Σ_b (s R + (m − μ) (s G + dz));  dx = [a s] dy + [a (dz / N − dβ / M) + d (m − μ)] + [d] (x − m)

It gives what the modules give but for rounding; in evaluation, for gates of 1, what the norm gives, bit for bit.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._C import _are_functorch_transforms_active, _is_any_autocast_enabled, _is_tracing
from torch.autograd import forward_ad
from torch.compiler import is_compiling

from senet_lab.models.gates import Descriptors, SEBlock, average

# In training, from how large a map on (in elements) the passes that are saved take longer than the calls that are made.
PAYS = 2**19
# What is passed by, as it was declared.
CALL = nn.Module.__call__
METHODS: dict[type[nn.Module], dict[str, Any]] = {
    kind: {name: getattr(kind, name) for name in names}
    for kind, *names in (
        (nn.BatchNorm2d, "forward"),
        (SEBlock, "forward", "gate", "excite"),
        (Descriptors, "forward"),
    )
}


def folded(norm: nn.Module, se: nn.Module, x_BCHW: Tensor) -> Tensor | None:
    """se(norm(x)) computed together; None if that is slower, or if the modules themselves must run.

    The modules must run if they have hooks or replaced methods (`is_plain`), if the network is traced, compiled,
    exported (other runtimes need the norm's weights as constants) or transformed by torch.func, and if a norm in
    evaluation mode is to be differentiated. GPUs use the modules, because the fold was never measured there.
    """
    if is_traced() or type(x_BCHW) is not Tensor or not x_BCHW.is_cpu or not x_BCHW.is_contiguous():
        return None
    if x_BCHW.numel() < PAYS if norm.training else torch.is_grad_enabled() or x_BCHW.numel() == 0:
        return None
    if not (is_plain(norm, nn.BatchNorm2d) and is_plain(se, SEBlock) and se.pool is average):
        return None
    if not (is_plain(se.fc1, Descriptors) and is_plain(se.fc2, Descriptors)):
        return None
    assert isinstance(norm, nn.BatchNorm2d)
    assert isinstance(se, SEBlock)
    if norm.weight is None or norm.bias is None or norm.running_mean is None or norm.running_var is None:
        return None
    if x_BCHW.dtype != norm.weight.dtype:
        return None
    if not norm.training:
        return in_evaluation(norm, se, x_BCHW)
    several = x_BCHW.numel() > x_BCHW.shape[1]  # values a channel; the module refuses to take the variance of one
    if norm.num_batches_tracked is None or not norm.track_running_stats or norm.momentum is None or not several:
        return None
    return in_training(norm, se, x_BCHW) if x_BCHW.dtype in (torch.float32, torch.float64) else None


def is_plain(module: object, kind: type[nn.Module]) -> bool:
    """Whether calling a module runs the code of its class and nothing else: it has no hooks, and no method was replaced
    on it (as accelerate does) or on its class (as profilers do)."""
    own = vars(module)
    if type(module) is not kind or "_call_impl" in own or own["_forward_hooks"] or own["_forward_pre_hooks"]:
        return False
    if own["_backward_hooks"] or own["_backward_pre_hooks"]:
        return False
    for name, method in METHODS[kind].items():  # noqa: SIM110  # half the time of `all`: it is asked before every gate
        if name in own or getattr(kind, name) is not method:
            return False
    return True


def is_traced() -> bool:
    """Whether something besides plain autograd observes the computation: tracing, compiling, exporting, torch.func, or
    global hooks."""
    if is_compiling() or _is_tracing() or _is_any_autocast_enabled():
        return True
    if _are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return True
    return nn.Module.__call__ is not CALL or bool(nn.modules.module._has_any_global_hook())  # type: ignore[no-untyped-call]


def in_evaluation(norm: nn.BatchNorm2d, se: SEBlock, x_BCHW: Tensor) -> Tensor:
    """In evaluation the norm is an affine map of each channel; so the gate is multiplied into its weight and bias, once
    for each image.

    A large map fills the caches. So attributes are read before its mean is taken, and the code after that is written
    without further calls.
    """
    B, C, H, W = x_BCHW.shape
    mean_C, var_C, gamma_C, beta_C, eps = norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps
    w1_KC, b1_K, w2_CK, b2_C = se.fc1.weight.view(-1, C), se.fc1.bias, se.fc2.weight.view(C, -1), se.fc2.bias
    sigma = se.sigma
    assert mean_C is not None
    assert var_C is not None
    z_BC = normed(means(x_BCHW), mean_C, var_C, gamma_C, beta_C, eps)
    s_BC = sigma(F.linear(torch.relu(F.linear(z_BC, w1_KC, b1_K)), w2_CK, b2_C))
    gamma_D, beta_D = (s_BC * gamma_C).view(-1), (s_BC * beta_C).view(-1)
    if B > 1:  # each channel of each image for a channel
        mean_C, var_C = mean_C.repeat(B), var_C.repeat(B)
    return normed(x_BCHW.view(1, B * C, H, W), mean_C, var_C, gamma_D, beta_D, eps).view(B, C, H, W)


def in_training(norm: nn.BatchNorm2d, se: SEBlock, x_BCHW: Tensor) -> Tensor:
    """In training: with the batch's statistics, which also update the running ones."""
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    y_BCHW: Tensor = Folded.apply(norm, se, x_BCHW, norm.weight, norm.bias, *se.parameters())
    return y_BCHW


def descriptor_gates(se: SEBlock, z_BC: Tensor) -> Tensor:
    """The gates of descriptors, B × C: as `SEBlock.excite`, in fewer calls."""
    h_BK = torch.relu(F.linear(z_BC, se.fc1.weight.flatten(1), se.fc1.bias))
    return se.sigma(F.linear(h_BK, se.fc2.weight.flatten(1), se.fc2.bias))


class Folded(torch.autograd.Function):
    """y of x, the norm's weight and bias, and the gate's weights. The gate itself is differentiated by autograd."""

    @staticmethod
    def forward(
        ctx: Any, norm: nn.BatchNorm2d, se: SEBlock, x_BCHW: Tensor, gamma_C: Tensor, beta_C: Tensor, *weights: Tensor
    ) -> Tensor:
        assert norm.momentum is not None
        mu_C, var_C = torch.batch_norm_update_stats(x_BCHW, norm.running_mean, norm.running_var, norm.momentum)
        m_BC = means(x_BCHW)
        r_C = (var_C + norm.eps).rsqrt()
        a_C = gamma_C * r_C
        off_BC = m_BC - mu_C
        z_BC = torch.addcmul(beta_C, a_C, off_BC)
        with torch.enable_grad():
            gates_BC = descriptor_gates(se, z_BC.requires_grad_())
        s_BC = gates_BC.detach()
        scale_BC = a_C * s_BC
        ctx.save_for_backward(x_BCHW, gamma_C, beta_C, *weights, m_BC, off_BC, r_C, a_C, scale_BC)
        ctx.se, ctx.eps, ctx.z_BC, ctx.gates_BC = se, norm.eps, z_BC, gates_BC
        return affine(x_BCHW, m_BC, scale_BC, s_BC * z_BC.detach())

    @staticmethod
    def backward(ctx: Any, dy_BCHW: Tensor) -> tuple[Tensor | None, ...]:
        x_BCHW, gamma_C, beta_C, *weights, m_BC, off_BC, r_C, a_C, scale_BC = ctx.saved_tensors
        if torch.is_grad_enabled():
            return None, None, *once_more(ctx, dy_BCHW, x_BCHW, gamma_C, beta_C, *weights)
        z_BC, s_BC = ctx.z_BC.detach(), ctx.gates_BC.detach()
        N, M = x_BCHW[0, 0].numel(), x_BCHW[:, 0].numel()
        dy_BCHW = dy_BCHW.contiguous()
        G_BC, R_BC = sums(dy_BCHW, x_BCHW, m_BC)
        dz_BC, *dweights = slopes(ctx.gates_BC, [ctx.z_BC, *weights], torch.addcmul(a_C * R_BC, z_BC, G_BC))
        assert dz_BC is not None
        du_BC = torch.addcmul(dz_BC, s_BC, G_BC)  # summed over the pixels
        dbeta_C = du_BC.sum(0)
        dgamma_C = r_C * torch.addcmul(s_BC * R_BC, off_BC, du_BC).sum(0)
        dx_BCHW = None
        if ctx.needs_input_grad[2]:
            slope_BC = (a_C * r_C * dgamma_C) * off_BC.new_full(off_BC.shape, -1 / M)
            shift_BC = torch.addcmul(slope_BC * off_BC, a_C, dbeta_C, value=-1 / M).addcmul_(a_C, dz_BC, value=1 / N)
            dx_BCHW = affine(x_BCHW, m_BC, slope_BC, shift_BC).addcmul_(dy_BCHW, scale_BC[:, :, None, None])
        return None, None, dx_BCHW, dgamma_C, dbeta_C, *dweights


def once_more(ctx: Any, dy_BCHW: Tensor, *inputs: Tensor) -> list[Tensor | None]:
    """The gradients of `Folded`'s tensors by autograd, so that they can be differentiated again."""
    x_BCHW, gamma_C, beta_C, *weights = inputs
    u_BCHW = F.batch_norm(x_BCHW, None, None, gamma_C, beta_C, training=True, eps=ctx.eps)
    names = [name for name, _ in ctx.se.named_parameters()]
    y_BCHW = torch.func.functional_call(ctx.se, dict(zip(names, weights, strict=True)), (u_BCHW,))
    return slopes(y_BCHW, inputs, dy_BCHW, create_graph=True)


def slopes(y: Tensor, inputs: Sequence[Tensor], dy: Tensor, *, create_graph: bool = False) -> list[Tensor | None]:
    """The gradients of inputs; None for inputs that require none."""
    wanted = [tensor for tensor in inputs if tensor.requires_grad]
    gradients = iter(torch.autograd.grad(y, wanted, dy, retain_graph=True, create_graph=create_graph))
    return [next(gradients) if tensor.requires_grad else None for tensor in inputs]


def normed(x: Tensor, mean_C: Tensor, var_C: Tensor, gamma_C: Tensor, beta_C: Tensor, eps: float) -> Tensor:
    """What batch norm's kernel gives for these statistics, B × C (× H × W)."""
    return torch.batch_norm(x, gamma_C, beta_C, mean_C, var_C, False, 0.0, eps, False)


def means(x_BCHW: Tensor) -> Tensor:
    """B × C, over the pixels: in single and double precision as a product with a vector, which takes less time."""
    B, C, H, W = x_BCHW.shape
    if x_BCHW.dtype not in (torch.float32, torch.float64):
        return x_BCHW.mean((2, 3))
    return torch.mv(x_BCHW.view(B * C, H * W), shares(H * W, x_BCHW.dtype)).view(B, C)


@functools.lru_cache(maxsize=32)
def shares(pixels: int, dtype: torch.dtype) -> Tensor:
    """The weight of each of so many pixels in their mean."""
    return torch.full((pixels,), 1 / pixels, dtype=dtype, device="cpu")


def affine(x_BCHW: Tensor, mean_BC: Tensor, scale_BC: Tensor, shift_BC: Tensor) -> Tensor:
    """scale (x − mean) + shift, by batch norm's kernel."""
    B, C, H, W = x_BCHW.shape
    arguments = x_BCHW.view(1, B * C, H, W), mean_BC.flatten(), mean_BC.new_ones(B * C)
    y_1DHW = normed(*arguments, scale_BC.flatten(), shift_BC.flatten(), 0.0)
    y_BCHW: Tensor = torch.ops.aten._unsafe_view(y_1DHW, x_BCHW.shape)  # not a view, as blocks write into it
    return y_BCHW


def sums(dy_BCHW: Tensor, x_BCHW: Tensor, mean_BC: Tensor) -> tuple[Tensor, Tensor]:
    """Over the pixels dy, and dy times x − mean, by the kernel of batch norm's backward: the gradients of its bias and,
    where the deviation is 1, its weight."""
    B, C, H, W = x_BCHW.shape
    ones_D = mean_BC.new_ones(B * C)
    maps = [map_BCHW.view(1, B * C, H, W) for map_BCHW in (dy_BCHW, x_BCHW)]
    _, R_D, G_D = torch.ops.aten.native_batch_norm_backward(
        *maps, ones_D, None, None, mean_BC.flatten(), ones_D, True, 0, [False, True, True]
    )
    return G_D.view(B, C), R_D.view(B, C)
