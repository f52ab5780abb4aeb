"""What only a GPU takes, without one: fake tensors that say they lie on a GPU (`FakeTensorMode`) go through the code as
real ones would, with shapes, types and devices but no numbers. Two devices in one operator are an error here as there,
and whoever asks for a number, for which a GPU would have to be waited for, is told that there is none.

Not gone through: the backward pass of a whole network (PyTorch's engine wants a real GPU's streams for it) and whatever
asks the driver, such as CUDA graphs, pinned memory and how much is free.
"""

from __future__ import annotations

import copy
import types
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from senet_lab.config import SE, Data, Recipe
from senet_lab.training.augment import RaggedImages
from senet_lab.training.feeds import TensorFeed
from senet_lab.training.lit import SENet
from senet_lab.training.spec import Step
from senet_lab.training.step import prepare

CIFAR = Data(name="cifar10", size=32, augment="cifar", cutout=16)
TREE = Data(name="folder", size=32, augment="imagenet")
COUNT, BATCH = 20, 8  # two batches and a half


class Copies(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operators that bring numbers from one kind of device to another."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            source = args[1] if func is torch.ops.aten.copy_.default else args[0]
            if source.device.type != out.device.type:
                self.found[f"{source.device.type} to {out.device.type}"] += 1
        return out


@pytest.fixture
def modes() -> Iterator[tuple[FakeTensorMode, Copies]]:
    with FakeTensorMode() as fake, Copies() as copies:
        yield fake, copies


def on_gpu(module: SENet) -> SENet:
    """A copy with fake weights on a fake GPU."""
    memo: dict[int, Any] = {}
    for tensor in [*module.parameters(), *module.buffers()]:
        there = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cuda")
        memo[id(tensor)] = nn.Parameter(there) if isinstance(tensor, nn.Parameter) else there
    return copy.deepcopy(module, memo)


@contextmanager
def autocast() -> Iterator[None]:
    """`torch.autocast("cuda", torch.bfloat16)`, which does nothing where there is no GPU."""
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    torch.set_autocast_enabled("cuda", True)
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", False)
        torch.clear_autocast_cache()


def feed_of(data: Data) -> TensorFeed:
    labels_N = torch.arange(COUNT) % 10
    if data.augment != "imagenet":
        return TensorFeed(torch.zeros(COUNT, 3, 32, 32, dtype=torch.uint8), labels_N, data, "cuda")
    images = [torch.zeros(40 + number, 50, 3, dtype=torch.uint8) for number in range(COUNT)]
    return TensorFeed(RaggedImages(images, data.size, "cuda"), labels_N, data, "cuda")


def test_a_fake_gpu_tells_two_devices_from_one(modes: tuple[FakeTensorMode, Copies]) -> None:
    """The oracle itself: what these tests would show."""
    _, copies = modes
    here, there = torch.zeros(2), torch.zeros(2, device="cuda")
    with pytest.raises(RuntimeError, match=r"two (different )?devices"):
        there + here
    with pytest.raises(DataDependentOutputException):
        there[0].item()
    here.to("cuda")
    assert copies.found == {"cpu to cuda": 1}


def test_an_epoch_goes_to_the_gpu_in_three_copies(modes: tuple[FakeTensorMode, Copies]) -> None:
    """Numbers of each change, order and labels: all before the first batch, and nothing is waited for after it."""
    _, copies = modes
    feed = feed_of(CIFAR)
    copies.found.clear()
    batches = iter(feed.batches(BATCH, seed=0))
    shapes = []
    for number, (x_BCHW, y_B) in enumerate(batches):
        if number == 0:
            first = dict(copies.found)
        shapes.append(tuple(x_BCHW.shape))
        assert x_BCHW.device.type == y_B.device.type == "cuda"
        assert x_BCHW.dtype == torch.float32
    assert shapes == [(8, 3, 32, 32), (8, 3, 32, 32), (4, 3, 32, 32)]
    assert copies.found == first == {"cpu to cuda": 3 + 2}  # flip, crop, cutout; order and labels


def test_random_resized_crops_are_cut_on_the_gpu(modes: tuple[FakeTensorMode, Copies]) -> None:
    _, copies = modes
    feed = feed_of(TREE)
    assert feed.parts is not None
    numbers_B5 = torch.zeros(BATCH, 5, dtype=torch.long, device="cuda")
    copies.found.clear()
    x_BCHW = feed.normalised(feed.parts.cut(numbers_B5, (37, 45)))
    assert (x_BCHW.device.type, tuple(x_BCHW.shape)) == ("cuda", (BATCH, 3, 32, 32))
    assert not copies.found


def test_a_training_step_waits_for_nothing() -> None:
    """ResNet-20 with SE in bfloat16 and channels_last, its sums and its optimiser; gradients are made up."""
    step = Step(layout="channels_last")  # the optimiser's kernel knows no fakes
    made = SENet("resnet20", SE(reduction=4), recipe=Recipe(batch_size=BATCH, label_smoothing=0.1), step=step)
    prepare(made.net, made.step, "")
    with FakeTensorMode(), Copies() as copies:
        module = on_gpu(made)
        module._trainer = types.SimpleNamespace(estimated_stepping_batches=10)  # type: ignore[assignment]
        optimizer = module.configure_optimizers()["optimizer"]
        batches = list(feed_of(CIFAR).batches(BATCH, seed=0))
        logits: list[Tensor] = []
        module.net.register_forward_hook(lambda net, given, out: logits.append(out))
        copies.found.clear()
        for index, batch in enumerate(batches):
            with autocast():
                loss = module.training_step(batch, index)
            assert (loss.dtype, loss.device.type) == (torch.float32, "cuda")
            assert logits[-1].dtype == torch.bfloat16
            for weight in module.parameters():
                weight.grad = torch.empty_like(weight)
            optimizer.step()
        assert not copies.found
        with pytest.raises(DataDependentOutputException):
            module.means("train")  # once, at the end of the epoch
