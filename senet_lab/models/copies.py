"""Copies of a network to run in its place: without weights, or with other ones."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten


def copy_tensors(module: nn.Module, tensor: Callable[[Tensor], Tensor]) -> nn.Module:
    """A copy of a module with other tensors: deepcopy takes what its memo holds already, so nothing is copied twice.

    Hooks stay behind, as they are for what the module's owner computes; but those by which torch.nn.utils makes weights
    (weight norm, pruning) come along. What they made is an attribute, which deepcopy refuses where autograd knows it.
    """
    memo: dict[int, Any] = {id(p): nn.Parameter(tensor(p.detach()), p.requires_grad) for p in module.parameters()}
    memo |= {id(buffer): tensor(buffer) for buffer in module.buffers()}
    made = [each for part in module.modules() for each in vars(part).values() if isinstance(each, Tensor)]
    memo |= {id(each): tensor(each.detach()) for each in made}
    twin = copy.deepcopy(module, memo)
    for part in twin.modules():
        for hooks in (part._forward_hooks, part._forward_pre_hooks):
            for key, hook in list(hooks.items()):
                if not type(hook).__module__.startswith("torch.nn.utils."):
                    del hooks[key]
    return twin


def shadow_of(module: nn.Module) -> nn.Module:
    """A copy without weights, on the meta device."""
    return copy_tensors(module, lambda tensor: tensor.to("meta"))


class WithoutValues(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A context in which networks on the meta device run, for the shapes of their maps alone."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run_operator(func, args, kwargs or {})


def run_operator(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """What an operator returns. On the meta device PyTorch spells batch norm out in Python, which takes long, so its
    shapes are given here."""
    if func is aten._native_batch_norm_legit_no_training.default and args[0].is_meta:
        return torch.empty_like(args[0]), args[0].new_empty(0), args[0].new_empty(0)
    return func(*args, **kwargs)


Image = Callable[[Sequence[int]], Tensor]


@contextmanager
def without_weights(net: nn.Module) -> Iterator[tuple[nn.Module, Image]]:
    """A copy on the meta device, and what makes an image for it, of channels, height and width."""
    dtype = dtype_of(net)
    yield shadow_of(net), lambda size: torch.empty(1, *size, dtype=dtype, device="meta")


@contextmanager
def with_weights(net: nn.Module) -> Iterator[tuple[nn.Module, Image]]:
    """Likewise on the CPU."""
    with torch.random.fork_rng(devices=[]):
        yield copy_tensors(net, lambda tensor: tensor.cpu().clone()), lambda size: random_image(net, size)


@contextmanager
def attributes_restored(net: nn.Module) -> Iterator[tuple[nn.Module, Image]]:
    """The network itself; its attributes are restored after the body."""
    was = [(module, dict(vars(module))) for module in net.modules()]
    device = next((weight.device for weight in net.parameters()), None)
    try:
        with torch.random.fork_rng(devices=[]):
            yield net, lambda size: random_image(net, size).to(device)
    finally:
        for module, attributes in was:
            vars(module).clear()
            vars(module).update(attributes)


def random_image(net: nn.Module, size: Sequence[int]) -> Tensor:
    return torch.rand(1, *size, generator=torch.Generator().manual_seed(0)).to(dtype_of(net))


def dtype_of(net: nn.Module) -> torch.dtype:
    """Of the first weight, and so of the images."""
    return next((weight.dtype for weight in net.parameters() if weight.is_floating_point()), torch.get_default_dtype())


def is_on_meta(net: nn.Module) -> bool:
    return any(tensor.is_meta for tensor in [*net.parameters(), *net.buffers()])


def has_forward(module: nn.Module) -> bool:
    """Whether a module has a forward of its own, and is no mere container."""
    return isinstance(module, torch.jit.ScriptModule) or type(module).forward is not nn.Module.forward
