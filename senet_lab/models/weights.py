"""Weights of torchvision and timm in our networks, and ours under timm's names.

torchvision's ResNets have our names. timm's SE-ResNets have them too, but keep the gate beside the norm that it follows
(`layer1.0.se`; ours is in its wrapper, `layer1.0.bn3.se`). timm's `legacy_` networks are the paper's released models:
they have Caffe's names, stride and stem pool, and in their basic blocks a ReLU between the last norm and the gate. All
of timm's gates have biases, which the paper's section 6, and so our default, leaves out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision.models
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from senet_lab.config import SE
from senet_lab.models.backbones import create
from senet_lab.models.gates import SEBlock, check_known
from senet_lab.models.insert import add_se
from senet_lab.models.library_weights import published, read_published
from senet_lab.models.state_dicts import state_dict_in, without_prefixes
from senet_lab.models.tracing import NoBlockError, is_layer, trace
from senet_lab.models.weight_names import key_mapping


@dataclass(frozen=True)
class LibraryNetwork:
    """What a network of timm or torchvision is, in our words.

    Attributes:
        backbone: its plain network, a key of `BACKBONES`.
        reduction: r of its SE, one number or by stage; None for a plain network.
        legacy: whether it has the names, the stride and the stem pool of the released models.
    """

    backbone: str
    reduction: int | Mapping[int, int] | None = None
    legacy: bool = False


PLAIN = {name: name for name in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")}
PLAIN |= {"resnext50_32x4d": "resnext50", "resnext101_32x4d": "resnext101"}
# timm rounds hidden widths to multiples of 8, which here matters to 64 channels only: 8 hidden units instead of 4.
ROUNDED = {2: 8, 3: 16, 4: 16, 5: 16}

# Name in timm, and for plain networks in torchvision → what it is.
SOURCES = {name: LibraryNetwork(ours) for name, ours in PLAIN.items()}
SOURCES |= {f"se{name}": LibraryNetwork(ours, 16) for name, ours in PLAIN.items()}
SOURCES |= {f"se{name}": LibraryNetwork(name, ROUNDED) for name in ("resnet18", "resnet34")}
SOURCES |= {"senet154": LibraryNetwork("senet154", 16)}
SOURCES |= {f"legacy_se{name}": LibraryNetwork(ours, 16, legacy=True) for name, ours in PLAIN.items()}
SOURCES |= {"legacy_senet154": LibraryNetwork("senet154", 16, legacy=True)}

LIBRARIES = {
    "timm": list(SOURCES),
    "torchvision": [name for name in PLAIN if name in torchvision.models.list_models()],
}


def pretrained(
    name: str,
    weights: Mapping[str, Any] | str | Path | None = None,
    *,
    library: str = "timm",
    num_classes: int = 1000,
    classifier: bool = True,
    seed: int | None = None,
) -> nn.Module:
    """Our network that computes what timm's or torchvision's network of that name does, with its weights.

    In training, SENet-154 has the paper's dropout of 0.2, which timm's has on request, and no other network has any.

    Args:
        name: a key of `SOURCES`; timm's may be followed by a tag, as in `seresnet50.ra2_in1k`.
        weights: a state dict or a file of one, as `load_weights` takes; None lets the library fetch its own.
        library: whose they are, `timm` or `torchvision`. It matters only if they are to be fetched.
        num_classes: width of the classifier.
        classifier: whether the classifier's weights are taken over, too; if not, they are drawn, for fine-tuning.
        seed: what they are drawn from; None takes the global generator.

    Raises:
        ValueError: for an unknown library or name, where there are no weights to fetch, and as `load_weights`.
    """
    check_known("library", library, LIBRARIES)
    base = name.partition(".")[0] if library == "timm" else name
    check_known("weights", base, LIBRARIES[library])
    if weights is None:
        weights = read_published(published(library, name, "weights"), download=True, key="weights")
    net = build_like(base, num_classes=num_classes, seed=seed)
    load_weights(net, weights, classifier=classifier)
    return net


def build_like(
    name: str, num_classes: int = 1000, in_channels: int = 3, *, bias: bool = True, seed: int | None = None
) -> nn.Module:
    """Our network with the structure of `SOURCES[name]`; without `bias` its gates have none, unlike timm's."""
    source = SOURCES[name]
    stride, pool = ("paper", "ceil") if source.legacy else ("torchvision", "padded")
    net = create(source.backbone, None, num_classes, in_channels=in_channels, stride=stride, pool=pool, seed=seed)
    if source.legacy:
        from timm.layers.norm_act import BatchNormAct2d

        for block in net.modules():
            if isinstance(block, BasicBlock):  # the ReLU of the released models between this norm and the gate
                block.bn2 = BatchNormAct2d(block.bn2.num_features)
    if source.reduction is not None:
        add_se(net, SE(source.reduction, bias=bias))
    return net


def load_weights(
    net: nn.Module,
    weights: Mapping[str, Any] | str | Path,
    *,
    classifier: bool | str = True,
    averaged: bool = False,
) -> str:
    """Put weights under our names, torchvision's or timm's into `net`; their keys say which these are.

    Keys and shapes say neither where the stride is nor how the stem's pool meets the border: torchvision's ResNet-50
    fits `create("resnet50", None)`, and computes something else there. `pretrained` builds what belongs to a name.

    Args:
        net: any network of ours, plain or with SE.
        weights: a state dict; or a checkpoint's dict with one under `state_dict`, `model`, …; or a file of either,
            written by `torch.save` or in safetensors' format. Nothing in a file is executed. Prefixes that all keys
            share, of what wraps a network while it is trained (`module.`, `_orig_mod.`, …), are taken off.
        classifier: whether the weights of the classifier are taken over. If not, those in `net` stay, and those in
            `weights` may be absent or of another shape. It is the layer whose width differs, or else the last one; a
            path (`classifier="head"`) names it, and leaves it out.
        averaged: whether to take the averaged weights that a checkpoint has beside the others (`state_dict_ema`, …).

    Returns:
        The entry of the checkpoint that was taken, such as `state_dict_ema`; empty for a bare state dict.

    Raises:
        ValueError: if keys are missing or left over or shapes differ (the message counts and names them), or there is
            no such file, or it holds something else, or no averaged weights. `net` is then unchanged.
    """
    own = net.state_dict()
    held, taken = state_dict_in(weights, averaged)
    given = without_prefixes(held, [name for names in key_mapping(own) for name in names.values()])
    names = max(key_mapping(own), key=lambda names: len(given.keys() & names.values()))
    if classifier is not True:
        head = head_of(net, names, given) if classifier is False else classifier
        if not any(ours.startswith(f"{head}.") for ours in own):
            raise ValueError(f"weights: the network has no layer {head} to leave out")
        left_out = {theirs for ours, theirs in names.items() if ours.startswith(f"{head}.")}
        names = {ours: theirs for ours, theirs in names.items() if theirs not in left_out}
        given = {key: tensor for key, tensor in given.items() if key not in left_out}
    # Files from before torch 0.4.1 do not count batches, and no norm of ours uses the count.
    counts = {ours for ours, theirs in names.items() if ours.endswith(".num_batches_tracked") and theirs not in given}
    names = {ours: theirs for ours, theirs in names.items() if ours not in counts}
    shapes = {
        theirs: f"{theirs} ({tuple(given[theirs].shape)} for {tuple(own[ours].shape)})"
        for ours, theirs in names.items()
        if theirs in given and given[theirs].shape != own[ours].shape
    }
    faults = [
        fault_text("missing", [theirs for theirs in names.values() if theirs not in given]),
        fault_text("left over", given.keys() - names.values()),
        fault_text("of another shape", shapes.values()),
    ]
    if any(faults):
        raise ValueError(f"weights: they do not fit the network: {'; '.join(filter(None, faults))}")
    net.load_state_dict({ours: given[theirs] for ours, theirs in names.items()}, strict=False)
    return taken


def head_of(net: nn.Module, names: Mapping[str, str], given: Mapping[str, Tensor]) -> str:
    """The path of the layer that classifies: the one whose width in the weights is another, or else the last one.

    Raises:
        ValueError: if the network has none, or it does not tell which is the last.
    """
    weights = {ours: tensor for ours, tensor in net.state_dict().items() if ours in names and tensor.dim() > 1}
    theirs = {ours: given[names[ours]].shape for ours in weights if names[ours] in given}
    wider = [
        ours
        for ours, shape in theirs.items()
        if shape[:1] != weights[ours].shape[:1] and shape[1:] == weights[ours].shape[1:]
    ]
    if len(wider) == 1:  # any other layer would take the next one along
        return wider[0].rpartition(".")[0]
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    layers: list[str] = [path for path, module in net.named_modules() if isinstance(module, kinds)]
    if not layers:
        raise ValueError(f"weights: the {type(net).__name__} has no layer to classify with")
    try:  # the last one that runs, as the last one that there is need not be it
        steps = trace(net, lambda module, path: is_layer(module)).nodes
        last: str = [path for step in steps for path in layers if step.op == "call_module" and step.target == path][-1]
        return last
    except (NoBlockError, IndexError) as error:
        last = layers[-1]
        if isinstance(net.get_submodule(last), nn.Linear):
            return last
        raise ValueError(
            f"weights: which layer of the {type(net).__name__} classifies is not clear: name it, classifier='head'"
        ) from error


def fault_text(fault: str, keys: Iterable[str]) -> str:
    """`3 missing: a, b, …`, with the first two in the alphabet; empty if there are none."""
    first = sorted(keys)
    return f"{len(first)} {fault}: {', '.join(first[:2])}{', …' if len(first) > 2 else ''}" if first else ""


def timm_state_dict(net: nn.Module, name: str) -> dict[str, Tensor]:
    """The weights of `net` under the names that timm's network `name` has for them, to be loaded there strictly.

    timm's gates have biases; where ours have none, zeros are written.

    Raises:
        ValueError: for an unknown name, and for a network that computes something else than timm's of that name: the
            message names the first module that differs (a stride, a pool, a hidden width, the place of a gate, …).
    """
    check_known("weights", name, SOURCES)
    source = SOURCES[name]
    gates = {path: module for path, module in net.named_modules() if isinstance(module, SEBlock)}
    bias = all(gate.fc1.bias is not None for gate in gates.values())
    num_classes = classifier_of(net)[1].out_features
    in_channels = next((module.in_channels for module in net.modules() if isinstance(module, nn.Conv2d)), 3)
    with torch.device("meta"):
        expected = module_settings(build_like(name, num_classes, in_channels, bias=bias))
    settings = module_settings(net)
    for path in {**expected, **settings}:
        has, wanted = settings.get(path, "not there"), expected.get(path, "not there")
        if has != wanted:
            raise ValueError(f"weights: the network is not timm's {name}: {path or 'it'} is {has}, not {wanted}")
    state = dict(net.state_dict())
    if not bias:
        for path, gate in gates.items():
            for fc in ("fc1", "fc2"):
                weight = getattr(gate, fc).weight
                state[f"{path}.{fc}.bias"] = weight.new_zeros(len(weight))
    _, timms, released = key_mapping(state)
    names = released if source.legacy else timms
    return {names[ours]: tensor for ours, tensor in state.items()}


def module_settings(net: nn.Module) -> dict[str, str]:
    """Path → kind and settings of every module."""
    return {path: f"{type(module).__name__}({module.extra_repr()})" for path, module in net.named_modules()}


def classifier_of(net: nn.Module) -> tuple[str, nn.Linear]:
    """The path of the classifier, which is the last linear layer, and itself; a ValueError if there is none."""
    linears = [(path, module) for path, module in net.named_modules() if isinstance(module, nn.Linear)]
    if not linears:
        raise ValueError(f"weights: the {type(net).__name__} has no linear layer to classify with")
    return linears[-1]
