"""Norm and gate in one pass over memory: how a branch that ends with both is evaluated on a CPU.

In evaluation batch norm is one affine map a channel, u = a x + b, so that the squeeze of its output is that map of the
squeeze of its input, and the gate s is known before the norm is applied. And s u = (s a) x + s b is affine as well:
PyTorch's own batch norm applies it, with s γ and s β in the place of its weight and bias, and each channel of each
image taken for a channel. The map that the gate would read and write again is never made; what SE adds is one reading.

It gives what the modules give but for rounding, and for gates of 1 what the norm gives by itself, bit for bit.
"""

from __future__ import annotations

from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from senet_lab.models.se import SEBlock, is_heard


def is_affine(norm: nn.Module) -> TypeGuard[nn.BatchNorm2d]:
    """Whether a module is a batch norm with weight and bias, and nothing that only derives from it."""
    return type(norm) is nn.BatchNorm2d and norm.weight is not None and norm.bias is not None


def gates_by_mean(se: nn.Module) -> bool:
    """Whether a module is an SE block whose gate comes from the mean of each channel, and nothing is changed in it."""
    return type(se) is SEBlock and se.squeeze == "avg" and type(se.fc1) is type(se.fc2) is nn.Conv2d


def can_fold(norm: nn.Module, se: nn.Module, x_BCHW: Tensor) -> TypeGuard[nn.BatchNorm2d]:
    """Whether `folded` computes what the modules do, and is what should be run.

    Not where gradients are wanted or somebody listens, nor where the network is being compiled (compilers join what
    they like) or exported (other runtimes want a norm's weights to be constants). On a GPU it was never measured.
    """
    if torch.is_grad_enabled() or norm.training or x_BCHW.device.type != "cpu" or not x_BCHW.is_contiguous():
        return False
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return False
    if not len(x_BCHW):
        return False
    known = is_affine(norm) and norm.running_mean is not None and x_BCHW.dtype == norm.weight.dtype
    return known and gates_by_mean(se) and not is_heard(norm) and not is_heard(se)


def folded(norm: nn.BatchNorm2d, se: SEBlock, x_BCHW: Tensor) -> Tensor:
    """se(norm(x)), where `can_fold` says so."""
    B, C, H, W = x_BCHW.shape
    mean_C, var_C = norm.running_mean, norm.running_var
    assert mean_C is not None
    assert var_C is not None
    gamma_C, beta_C = norm.weight, norm.bias
    z_BC = F.batch_norm(x_BCHW.mean((2, 3)), mean_C, var_C, gamma_C, beta_C, eps=norm.eps)
    s_BC = se.excite(z_BC)
    gamma_BC, beta_BC = s_BC * gamma_C, s_BC * beta_C
    if B > 1:  # each channel of each image for a channel
        mean_C, var_C = mean_C.repeat(B), var_C.repeat(B)
    y_1DHW = F.batch_norm(
        x_BCHW.view(1, B * C, H, W), mean_C, var_C, gamma_BC.flatten(), beta_BC.flatten(), eps=norm.eps
    )
    return y_1DHW.view(B, C, H, W)
