"""Checks by a run on random weights that a gate in a residual block multiplies what the trace of the block says."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from senet_lab.config import first_line
from senet_lab.models.copies import copy_tensors
from senet_lab.models.gated import Inserted, put

PIXELS = 8  # side of the image that a block is tried on


class Slot(NamedTuple):
    """A place for a gate: which child of the block is wrapped (`""` is the block itself), and on which side of it."""

    child: str
    side: str  # "before" or "after"


class Site(NamedTuple):
    """A slot, and what a gate in it multiplies: the value of `source` on its way into `user`."""

    slot: Slot
    source: fx.Node
    user: fx.Node


class FixedGate(nn.Module):
    """A gate that is the same for every image."""

    def __init__(self, gate_BC11: Tensor) -> None:
        super().__init__()
        self.gate_BC11 = gate_BC11

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW * self.gate_BC11


class TracedBlock(fx.Interpreter):
    """Runs a traced block with random gates at a site; they are kept as `gate_BC11`."""

    def __init__(self, block: nn.Module, site: Site, dice: torch.Generator) -> None:
        super().__init__(block, graph=site.user.graph)
        self.site = site
        self.dice = dice
        self.gate_BC11: Tensor | None = None

    def fetch_args_kwargs_from_env(self, n: fx.Node) -> Any:
        if n is not self.site.user:
            return super().fetch_args_kwargs_from_env(n)

        def value(node: fx.Node) -> Any:
            if node is not self.site.source:
                return self.env[node]
            x_BCHW = self.env[node]
            self.gate_BC11 = torch.rand(*x_BCHW.shape[:2], 1, 1, generator=self.dice, dtype=x_BCHW.dtype) + 0.5
            return x_BCHW * self.gate_BC11

        return fx.node.map_arg(n.args, value), fx.node.map_arg(n.kwargs, value)


def checked_width(block: nn.Module, site: Site, width: int) -> int:
    """How many channels a gate at a site has, after a check that it multiplies what it should.

    Args:
        block: the block; its weights do not matter, and may be none.
        site: of a trace of it.
        width: channels of its input.

    Raises:
        ValueError: if the gated block computes something else; the message completes "it …".
    """
    dice = torch.Generator("cpu").manual_seed(0)
    with torch.device("cpu"), torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            twin = copy_tensors(block, lambda tensor: random_values(tensor, dice)).eval()
            x_BCHW = torch.randn(1, width, PIXELS, PIXELS, generator=dice, dtype=torch.float64)
            plain = twin(x_BCHW.clone())
            formula = TracedBlock(twin, site, dice)
            expected = formula.run(x_BCHW.clone())
            gate_BC11 = formula.gate_BC11
            assert gate_BC11 is not None
            ones = gated_copy(twin, site.slot, torch.ones_like(gate_BC11))(x_BCHW.clone())
            ours = gated_copy(twin, site.slot, gate_BC11)(x_BCHW.clone())
            untouched = torch.equal(ones, plain)
            right = torch.allclose(ours, expected, rtol=1e-9, atol=1e-9) and not torch.allclose(ours, plain)
        except Exception as error:  # whatever a block makes of an image of this size, or of a child that is wrapped
            raise ValueError(f"cannot be tried: {first_line(error)}") from error
    if not untouched:
        raise ValueError("computes something else once a gate is in it, even a gate of 1")
    if not right:
        raise ValueError("does not compute with a gate what its formula says")
    return gate_BC11.shape[1]


def gated_copy(block: nn.Module, slot: Slot, gate_BC11: Tensor) -> nn.Module:
    """A copy of a block, of the same weights, with given gates in a slot."""
    holder = nn.ModuleDict({"block": copy_tensors(block, lambda tensor: tensor)})
    path = f"block.{slot.child}".rstrip(".")
    put(holder, [(Inserted(path, slot.side, None, gate_BC11.shape[1], 0), FixedGate(gate_BC11))], alone=())
    return holder["block"]


def random_values(tensor: Tensor, dice: torch.Generator) -> Tensor:
    """Random values for a tensor without values: about 1 in vectors, so that norms have positive variances and no
    branch is 0; in filters scaled by the number of inputs. Whole numbers become 0."""
    if not tensor.is_floating_point():
        return torch.zeros(tensor.shape, dtype=tensor.dtype)
    if tensor.dim() < 2:
        return torch.rand(tensor.shape, generator=dice, dtype=torch.float64) + 0.5
    values = torch.randn(tensor.shape, generator=dice, dtype=torch.float64)
    scale: float = max(1, tensor[0].numel()) ** 0.5
    return values / scale
