"""How a training step is carried out on a kind of device: what `auto` stands for in the keys `training.…`.

The plain way is PyTorch's default: contiguous tensors, an optimiser in Python, no compiler, and a tree of images read
from its files. A CPU trains in the plain way, because a compiler would take longer than a small training; only the
tensors of some networks are channels-last there, which trains them sooner (`CHANNELS_LAST`). A GPU gets channels-last
tensors, which its tensor cores need, a fused optimiser, and a tree of images in its memory if it fits. `auto` compiles
nothing: compilation takes minutes for each network, which only a long training earns back.

Whatever is not plain may change the last digits of a result, and so is part of a trial's id.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from senet_lab.config import Data, Training, UserError
from senet_lab.training.memory import size_in_memory
from senet_lab.training.spec import Step

ROOM = (
    8 * 2**30
)  # bytes of a tree of images that `auto` puts into GPU memory for each worker; fixed, as it bears on ids
GRAPHS = "graphs"
VARIANTS = 256  # versions of one block that may be compiled, for all widths and designs


PLAIN = Step()
FAST = {"cpu": PLAIN, "cuda": Step(feed="memory", layout="channels_last", fused=True)}


# Networks that a CPU trains sooner in channels-last → from how many pixels a side of their images on
# (results/benchmarks/train.md). As a layout bears on ids, a network is added here, and never taken away.
CHANNELS_LAST = dict.fromkeys(("resnet8", "resnet20", "resnet32", "resnet56", "resnet110", "wrn16_4", "wrn16_8"), 32)
CHANNELS_LAST |= dict.fromkeys(("mobilenet_025", "mobilenet_050", "mobilenet_075", "mobilenet"), 96)


def choose_step(training: Training, data: Data, device: str, backbone: str) -> Step:
    """The step that the keys `training.…` ask for, for a network and a data set on a kind of device.

    Raises:
        UserError: for settings that the device does not support or that exclude each other.
    """
    if training.compile == GRAPHS and device != "cuda":
        raise UserError("training.compile=graphs needs a GPU; on a CPU there are off, blocks and whole")
    if training.compile == GRAPHS and training.devices > 1:
        raise UserError(f"training.compile=graphs is for one device; training.devices={training.devices} was asked for")
    if training.sync_batchnorm and device != "cuda":
        raise UserError("training.sync_batchnorm=true needs GPUs: PyTorch's SyncBatchNorm does not run on a CPU")
    if training.sync_batchnorm and training.devices == 1:
        raise UserError("training.sync_batchnorm=true needs a training.devices of at least 2: one has nothing to share")
    auto = PLAIN if training.path == "plain" else FAST[device]
    return Step(
        feed=feed_of(training.feed, data, auto),
        layout=layout_of(training, data, device, backbone),
        fused=auto.fused if training.optimiser == "auto" else training.optimiser == "fused",
        compile=auto.compile if training.compile == "auto" else training.compile,
        devices=training.devices,
        sync_batchnorm=training.sync_batchnorm,
        freeze=" ".join(sorted({*training.freeze})),
    )


def layout_of(training: Training, data: Data, device: str, backbone: str) -> str:
    """The layout of the tensors: `auto` is fixed for each network, size of images and kind of device."""
    if training.layout != "auto":
        return training.layout
    if training.path == "plain" or (device == "cpu" and data.size < CHANNELS_LAST.get(backbone, math.inf)):
        return PLAIN.layout
    return "channels_last"


def feed_of(word: str, data: Data, auto: Step) -> str:
    """`files` or `memory` for a tree of images. Other data sets always lie in memory, for which the plain value
    stands."""
    if data.name != "folder":
        if word == "files":
            raise UserError(f"training.feed=files: {data.name} is no tree of images; it always lies in memory")
        return PLAIN.feed
    if word != "auto":
        return word
    return "memory" if auto.feed == "memory" and size_in_memory(data) <= ROOM else "files"


def precision_of(word: str, device: str) -> str:
    """Lightning's word; `auto` is mixed precision in bfloat16 on a GPU that computes in it."""
    if word != "auto":
        return word
    return "bf16-mixed" if device == "cuda" and torch.cuda.is_bf16_supported(False) else "32-true"


def room(device: str) -> float:
    """Free memory of the device in bytes; infinite if the system does not say."""
    if device == "cuda":  # a cluster may have GPUs where there is none here
        return float(torch.cuda.mem_get_info()[0]) if torch.cuda.is_available() else math.inf
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return math.inf


# --------------------------------------------------------------------------------------------------------------------
# In a worker

COMPILED: list[str] = []  # fingerprint of the network that this process compiled last


def prepare(net: nn.Module, step: Step, network: str, backend: str = "inductor") -> None:
    """Convert a network to the layout of the step, and have its parts compiled when they are first called. Parameters
    keep their names.

    Args:
        network: structural fingerprint; code compiled for another one is discarded.
        backend: of torch.compile.
    """
    if step.layout == "channels_last":
        net.to(memory_format=torch.channels_last)
    if step.compile == "off":
        return
    if [network] != COMPILED:
        torch.compiler.reset()
        COMPILED[:] = [network]
    torch._dynamo.config.recompile_limit = VARIANTS  # PyTorch silently leaves further versions uncompiled
    parts = list(compiled_blocks(net)) if step.compile == "blocks" else []
    for part in parts or [net]:
        how = {"mode": "reduce-overhead"} if step.compile == GRAPHS else {}
        part.compile(backend=backend, dynamic=False, **how)


def compiled_blocks(net: nn.Module) -> Iterator[nn.Module]:
    """The blocks of a network: the outermost modules in a Sequential that have children and hold convolutions."""
    for part in net.children():
        whole = not isinstance(part, (nn.Sequential, nn.ModuleList)) and len(list(part.children())) > 0
        if isinstance(net, nn.Sequential) and whole and any(isinstance(each, nn.Conv2d) for each in part.modules()):
            yield part
        else:
            yield from compiled_blocks(part)


def compiled(step: Step, full: bool) -> AbstractContextManager[Any]:
    """Run compiled code in the body if the batch is a full one of training. Other batches run uncompiled: each size
    would be compiled anew, to be used once."""
    if step.compile == "off":
        return nullcontext()
    if not full:
        eager: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
        return eager
    if step.compile == GRAPHS:
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]  # the last step's memory is free
    return nullcontext()


def to_layout(x_BCHW: Tensor, step: Step) -> Tensor:
    """A batch in the layout of the step."""
    channels_last = step.layout == "channels_last"
    return x_BCHW.contiguous(memory_format=torch.channels_last) if channels_last else x_BCHW
