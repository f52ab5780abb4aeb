"""Weights that a training starts from (`init`): how they are read, what tells them apart, and how they fit a network.

All weights of the network come from them, but for two things that a pretrained network does not have: gates that were
put in, and a classifier for other classes. These begin as they do without `init`.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from senet_lab.models.backbones import STRIDE_ON_FIRST_1X1
from senet_lab.models.gated import Gated, gates_in
from senet_lab.models.library import is_users_code, library_of, taken_out
from senet_lab.models.library_weights import cached, names_and_shapes, published, read_published
from senet_lab.models.state_dicts import read_weights, state_dict_in, without_prefixes
from senet_lab.models.weight_names import key_mapping
from senet_lab.models.weights import SOURCES, fault_text


@dataclass(frozen=True)
class Start:
    """Weights to start from.

    Attributes:
        state: key → tensor.
        digest: of keys and tensors, by which a trial knows them; empty where they were not read.
        stride: of the network that a checkpoint of the lab is of (`create`); empty where that is not known.
    """

    state: Mapping[str, Tensor]
    digest: str
    stride: str = ""


@dataclass(frozen=True)
class Fit:
    """How weights and a network go together.

    Attributes:
        weights: the network's key → the tensor that comes there.
        head: path of the classifier, where it begins anew for another number of classes; else empty.
        classes: how many the network and the weights tell apart, then.
        without: how many tensors are left out, because they are of SE that was taken out of the network.
    """

    weights: Mapping[str, Tensor]
    head: str = ""
    classes: tuple[int, int] = (0, 0)
    without: int = 0


def read_start(word: str, download: bool = False) -> Start:
    """The weights that a word means.

    Args:
        word: `timm:NAME` or `torchvision:NAME`, as `library_weights.published` takes them, or a file.
        download: whether a library may fetch what is not in its cache.

    Raises:
        NotHereError: they would have to be fetched.
        ValueError: there are none of that name, or no such file; or it is damaged, or holds other things than one state
            dict.
    """
    library = library_of(word)
    if library:
        state = read_published(published(library, word.partition(":")[2]), download)
        return Start(state, digest_of(state))
    if not Path(word).is_file():
        fault = f"{word} is a folder" if Path(word).is_dir() else f"there is no file {word}"
        raise ValueError(f"init: {fault}; weights are a file's, timm:NAME.TAG or torchvision:NAME.TAG")
    try:
        held = read_weights(Path(word))
        state, _ = state_dict_in(held)
    except ValueError as error:
        reason = str(error).removeprefix("weights: ").replace("what was given", word)
        raise ValueError(f"init: {reason}") from error
    settings = held.get("hyper_parameters")
    stride = str(settings.get("stride", "")) if isinstance(settings, Mapping) else ""
    return Start(state, digest_of(state), stride)


def start_shapes(word: str, download: bool = False) -> Start:
    """As `read_start`, with tensors that have a shape and no values. A file that has not changed is read once."""
    library = library_of(word)
    path = cached(published(library, word.partition(":")[2])) if library else Path(word)
    stat = path.stat() if path and path.is_file() else None
    return shapes_of(word, download, (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino) if stat else ())


@functools.lru_cache(maxsize=64)
def shapes_of(word: str, download: bool, _state: tuple[int, ...]) -> Start:
    """`_state` stands for the file: another state is another entry of the cache."""
    start = read_start(word, download)
    return replace(start, state={key: tensor.to("meta") for key, tensor in start.state.items()})


def shapes_without_file(word: str) -> Start:
    """As `start_shapes`, for weights of a library that were never fetched; without a digest."""
    return Start(names_and_shapes(published(library_of(word), word.partition(":")[2])), "")


def check_network(word: str, found: Start, backbone: str, stride: str) -> None:
    """A ValueError for weights of another network than the backbone, as far as that is known of them: the keys of two
    networks may be the same though they compute different things (a stride, a pool against aliasing)."""
    library = library_of(word)
    if library and not is_users_code(backbone):
        of = published(library, word.partition(":")[2])
        source = SOURCES.get(of.network)
        own = source.backbone if source and not source.legacy else ""
        if backbone not in (f"{library}:{of.network}", own):
            theirs = f"{library}:{of.network}" + f" or {own}" * bool(own)
            raise ValueError(f"init: {of} is for backbone={theirs}; {backbone} was asked for")
        found = replace(found, stride="torchvision")
    if backbone in STRIDE_ON_FIRST_1X1 and found.stride not in ("", stride):
        raise ValueError(f"init: {word} is of a {backbone} with stride={found.stride}; stride={stride} was asked for")


def digest_of(state: Mapping[str, Tensor]) -> str:
    """Sixteen hexadecimal digits of the SHA-256 of all keys and tensors, in the order of the keys."""
    digest = hashlib.sha256()
    for key in sorted(state):
        tensor = state[key].detach().cpu().contiguous()
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def fit(net: nn.Module, state: Mapping[str, Tensor]) -> Fit:
    """How the weights of `state` go into a network, which may be on the meta device. Their keys are the network's, or
    those of the plain network, torchvision's, timm's or the released models'.

    Raises:
        ValueError: if they do not fit, but for gates that they all lack and a classifier of another width; the message
            counts and names the keys.
    """
    own = net.state_dict()
    mappings = [*key_mapping(own), plain_names(net, own)]
    out = {*taken_out(net)}  # first of all: timm's names for our gates may be those of its own
    known = {name for names in mappings for name in names.values()} | out
    # Also without the names of wrappers: of weights with gates, only the gates are then left over in a plain network.
    states = [state, {key.replace(".body.", "."): tensor for key, tensor in state.items()}]
    givens = [without_prefixes(each, known) for each in states]
    pairs = [(names, given) for given in givens for names in mappings]
    names, given = max(pairs, key=lambda pair: len(({*pair[1]} - out) & {*pair[0].values()}))
    without = len(given.keys() & out)
    given = {key: tensor for key, tensor in given.items() if key not in out}
    missing = {ours for ours, theirs in names.items() if theirs not in given}
    gates = {key for key in own if any(key.startswith(f"{path}.") for path in gates_in(net))}
    if gates <= missing:
        missing -= gates
    other = [ours for ours, theirs in names.items() if theirs in given and given[theirs].shape != own[ours].shape]
    head = classifier_in(other, {key: (own[key], given[names[key]]) for key in other})
    shapes = [f"{names[key]} ({tuple(given[names[key]].shape)} for {tuple(own[key].shape)})" for key in other]
    faults = [
        # Files from before torch 0.4.1 do not count batches, and no norm uses the count.
        fault_text("missing", [names[key] for key in missing if not key.endswith(".num_batches_tracked")]),
        fault_text("left over", given.keys() - names.values()),
        fault_text("of another shape", () if head else shapes),
    ]
    if any(faults):
        raise ValueError(f"init: the weights do not fit the network: {'; '.join(filter(None, faults))}")
    taken = {ours: given[theirs] for ours, theirs in names.items() if theirs in given and ours not in other}
    classes = (len(own[f"{head}.weight"]), len(given[names[f"{head}.weight"]])) if head else (0, 0)
    return Fit(taken, head, classes, without)


def classifier_in(keys: Iterable[str], pairs: Mapping[str, tuple[Tensor, Tensor]]) -> str:
    """The path of the layer that all keys are of, if only its width differs: the classifier, because any other layer
    would have the next one differ, too. Else empty."""
    paths = {key.rpartition(".")[0] for key in keys}
    wider = all(ours.shape[1:] == theirs.shape[1:] for ours, theirs in pairs.values())
    return paths.pop() if len(paths) == 1 and wider and any(key.endswith(".weight") for key in keys) else ""


def plain_names(net: nn.Module, own: Iterable[str]) -> dict[str, str]:
    """Our keys → those that the network has without its gates; the keys of gates as they are."""
    wrapped = [path for path, module in net.named_modules() if isinstance(module, Gated)]
    names = {key: key for key in own}
    for path in wrapped:
        for key in names:
            if key.startswith(f"{path}.body."):
                names[key] = f"{path}.{key.removeprefix(f'{path}.body.')}"
    return names
