"""What a gate of any kind multiplies its map by, and networks whose gates multiply by something else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from senet_lab.models.gated import gates_in
from senet_lab.models.gates import SEBlock

PRODUCTS = (torch.mul, torch.multiply, Tensor.mul, Tensor.mul_, Tensor.__mul__, Tensor.__rmul__, Tensor.__imul__)


class Products(TorchFunctionMode):
    """Notes, of everything that is a map times something, what that is: one product after the other."""

    def __init__(self, x_BCHW: Tensor) -> None:
        super().__init__()
        self.factors: dict[int, Any] = {id(x_BCHW): None}
        self.kept: list[Tensor] = [x_BCHW]  # so that no id is used again

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in PRODUCTS and len(args) == 2:
            own = [place for place in (0, 1) if id(args[place]) in self.factors]
            if len(own) == 1:  # x * x is no map times a factor
                before, factor = self.factors[id(args[own[0]])], args[1 - own[0]]
                self.factors[id(out)] = factor if before is None else factor * before
                self.kept.append(out)
        return out


def gate_factor(gate: nn.Module, x_BCHW: Tensor) -> Tensor:
    """What a gate multiplies a map by: B × C × 1 × 1, or B × C × H × W where it differs by pixel.

    Raises:
        ValueError: for a gate that does something else than multiply, as one that adds.
    """
    with Products(x_BCHW) as products:
        y_BCHW = gate(x_BCHW)
    if products.factors.get(id(y_BCHW)) is None:
        raise ValueError(f"a {type(gate).__name__} does not multiply its map by a factor, which could be replaced")
    factor = torch.as_tensor(products.factors[id(y_BCHW)], dtype=x_BCHW.dtype, device=x_BCHW.device)
    factor = factor.expand(x_BCHW.shape)
    return factor[:, :, :1, :1] if factor.stride()[2:] == (0, 0) or x_BCHW[0, 0].numel() == 1 else factor


class ReplacedGate(nn.Module):
    """A gate that multiplies by `use` instead of its own factor, if that is not None; `own` is its latest factor."""

    def __init__(self, gate: nn.Module) -> None:
        super().__init__()
        self.gate = gate
        self.use: Tensor | None = None
        self.own: Tensor | None = None

    def forward(self, x_BCHW: Tensor) -> Tensor:
        if self.use is not None:
            return x_BCHW * self.use
        self.own = gate_factor(self.gate, x_BCHW)
        return x_BCHW * self.own


def all_gates(net: nn.Module) -> dict[str, nn.Module]:
    """Path → gate, of all that were put into a network and all SE blocks that it has otherwise, in its order."""
    put = gates_in(net)
    return {path: part for path, part in net.named_modules() if path in put or isinstance(part, SEBlock)}


@contextmanager
def replaceable_gates(net: nn.Module) -> Iterator[dict[str, ReplacedGate]]:
    """Path → what stands in place of each gate, inside; afterwards the network is as it was."""
    gates = all_gates(net)
    wrapped = {path: ReplacedGate(gate).train(gate.training) for path, gate in gates.items()}
    for path, gate in wrapped.items():
        put_at(net, path, gate)
    try:
        yield wrapped
    finally:
        for path, own in gates.items():
            put_at(net, path, own)


def put_at(net: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module in the place of the one at a path."""
    parent, _, child = path.rpartition(".")
    setattr(net.get_submodule(parent), child, module)
