"""SE's two layers as functions of their weights, and their derivative by hand: fewer calls than autograd makes.

Shapes: B images, C channels, K hidden width. All is computed in the type of the descriptors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from senet_lab.models.se import EXCITATIONS, FROM_ONE, SEBlock

# s = σ(y) and ds → dy, where it takes no more than s: less time than autograd, which does it for all others.
SLOPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sigmoid": lambda s_BC, ds_BC: torch.ops.aten.sigmoid_backward(ds_BC, s_BC),
    "softmax": lambda s_BC, ds_BC: s_BC * (ds_BC - (s_BC * ds_BC).sum(1, keepdim=True)),
    "tanh": lambda s_BC, ds_BC: torch.ops.aten.tanh_backward(ds_BC, s_BC),
    "relu": lambda s_BC, ds_BC: torch.ops.aten.threshold_backward(ds_BC, s_BC, 0),
}


class Layers(NamedTuple):
    """What SE's layers compute, apart from their weights.

    Attributes:
        excitation: a key of `EXCITATIONS`.
        from_one: whether it is that of `FROM_ONE`.
    """

    excitation: str
    from_one: bool

    @property
    def sigma(self) -> Callable[[Tensor], Tensor]:
        return (FROM_ONE if self.from_one else EXCITATIONS)[self.excitation]

    def gate(self, z_BC: Tensor, weights: Sequence[Tensor | None]) -> tuple[Tensor, Tensor]:
        """The gates of descriptors z, and what is between the layers."""
        w1, b1_K, w2, b2_C = weights
        h_BK = F.relu(linear(z_BC, w1, b1_K))
        return self.sigma(linear(h_BK, w2, b2_C)), h_BK

    def back(
        self, z_BC: Tensor, h_BK: Tensor, s_BC: Tensor, weights: Sequence[Tensor | None], ds_BC: Tensor
    ) -> tuple[Tensor, list[Tensor | None]]:
        """The gradients of descriptors and weights, from that of the gates; with what `gate` gave."""
        w1, b1_K, w2, b2_C = weights
        if self.excitation in SLOPES and not self.from_one:
            dy_BC = SLOPES[self.excitation](s_BC, ds_BC)
        else:
            dy_BC = torch.func.vjp(self.sigma, linear(h_BK, w2, b2_C))[1](ds_BC)[0]
        dh_BK = torch.ops.aten.threshold_backward(dy_BC @ matrix(w2, dy_BC), h_BK, 0)
        dz_BC = dh_BK @ matrix(w1, dh_BK)
        return dz_BC, [*linear_back(dh_BK, z_BC, w1, b1_K), *linear_back(dy_BC, h_BK, w2, b2_C)]


def layers_of(se: SEBlock) -> tuple[Layers, tuple[Tensor | None, ...]]:
    """What an SE block's layers compute, and their weights and biases in turn; None for a bias that is not there."""
    return Layers(se.excitation, se.from_one), (se.fc1.weight, se.fc1.bias, se.fc2.weight, se.fc2.bias)


def linear(z_BC: Tensor, w: Tensor | None, b_K: Tensor | None) -> Tensor:
    """A layer, in the type of its input."""
    return F.linear(z_BC, matrix(w, z_BC), None if b_K is None else b_K.to(z_BC.dtype))


def linear_back(dy_BK: Tensor, z_BC: Tensor, w: Tensor | None, b_K: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The gradients of a layer's weight and bias."""
    assert w is not None
    return (dy_BK.T @ z_BC).view(w.shape), None if b_K is None else dy_BK.sum(0)


def matrix(w: Tensor | None, z_BC: Tensor) -> Tensor:
    """The weight of a 1×1 convolution as K × C, in the type of what it is multiplied with."""
    assert w is not None
    return w.flatten(1).to(z_BC.dtype)
