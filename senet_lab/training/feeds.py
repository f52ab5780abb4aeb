"""How a split is fed to the network: batches, in an order and with an augmentation that (seed, epoch) decide.

What happens in epoch e depends on (seed, e) alone: every row of a study sees the same batches, and a training that was
cut off goes on as if it had not been.

Shapes: B batch, N images of a split, C colour channels, H W pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import default_collate

from senet_lab.config import Data, RunError
from senet_lab.training.transforms import STATISTICS, ManyViews, Normalised, channels_of, cut_out, image_transform


def mixed(*numbers: int) -> int:
    """One seed from several numbers, the same on every machine (Python's and NumPy's hashes are not meant for it)."""
    digest = hashlib.sha256(",".join(map(str, numbers)).encode()).digest()
    return int.from_bytes(digest[:7], "big")


class TensorFeed:
    """A split that lies in memory as one tensor; whole batches are augmented at once."""

    def __init__(self, images_NCHW: Tensor, labels_N: Tensor, data: Data) -> None:
        self.images_NCHW = images_NCHW  # uint8
        self.labels_N = labels_N
        self.normalised = Normalised(*STATISTICS[data.name])
        self.augment = data.augment
        self.cutout = data.cutout

    def __len__(self) -> int:
        return len(self.labels_N)

    def batches(self, batch_size: int, seed: int | None = None, epoch: int = 0, sampling: str = "uniform") -> Batches:
        """The split in its own order, or, with a seed, sampled and augmented as that epoch wants it."""

        def make() -> Iterator[tuple[Tensor, Tensor]]:
            generator = torch.Generator().manual_seed(mixed(seed or 0, epoch))
            for index_B in torch.split(order_of(self.labels_N, batch_size, seed, generator, sampling), batch_size):
                x_BCHW = self.images_NCHW[index_B]
                for change in AUGMENTS[self.augment] if seed is not None else ():
                    x_BCHW = change(x_BCHW, generator)
                x_BCHW = self.normalised(x_BCHW)
                if self.cutout and seed is not None:
                    x_BCHW = cut_out(x_BCHW, self.cutout, generator)
                yield x_BCHW, self.labels_N[index_B]

        return Batches(make, -(-fed(len(self), batch_size, seed) // batch_size))

    def test_batches(self, batch_size: int) -> Batches:
        """The split in its own order."""
        return self.batches(batch_size)


class FolderFeed:
    """A split that lies on disk as one image a file; every image is decoded and augmented by itself."""

    def __init__(self, files: list[tuple[str, int]], data: Data) -> None:
        self.files = files
        self.data = data

    def __len__(self) -> int:
        return len(self.files)

    def batches(self, batch_size: int, seed: int | None = None, epoch: int = 0, sampling: str = "uniform") -> Batches:
        """The split in its own order, or, with a seed, sampled and augmented as that epoch wants it."""
        transform = image_transform(self.data, training=seed is not None)
        return self.decoded(transform, batch_size, seed, epoch, sampling)

    def test_batches(self, batch_size: int) -> Batches:
        """The split in its own order; where the test wants several views of an image, x is (B, V, C, H, W)."""
        if self.data.crops == 1 and not self.data.scales:
            return self.batches(batch_size)
        views = self.data.crops * max(1, len(self.data.scales))
        return self.decoded(ManyViews(self.data), max(1, batch_size // views))

    def decoded(
        self, transform: Any, batch_size: int, seed: int | None = None, epoch: int = 0, sampling: str = "uniform"
    ) -> Batches:
        """Batches of the images as a transform makes them."""
        from torch.utils.data import DataLoader

        generator = torch.Generator().manual_seed(mixed(seed or 0, epoch))
        labels_N = torch.tensor([label for _, label in self.files])
        order = order_of(labels_N, batch_size, seed, generator, sampling)
        images = DecodedImages(self.files, transform, seed, epoch, mode="L" if channels_of(self.data) == 1 else "RGB")
        loader: DataLoader[Any] = DataLoader(
            images,
            batch_size=batch_size,
            sampler=order.tolist(),
            num_workers=self.data.workers,
            generator=generator,
            collate_fn=collate,
        )

        def make() -> Iterator[Any]:
            for batch in loader:
                if isinstance(batch, RunError):
                    raise batch
                yield batch

        return Batches(make, len(loader))


def order_of(labels_N: Tensor, batch_size: int, seed: int | None, generator: torch.Generator, sampling: str) -> Tensor:
    """Indices of a split's images in the order in which they are fed: their own, or, with a seed, a random one."""
    count = len(labels_N)
    if seed is None:
        order_N = torch.arange(count)
    elif sampling == "balanced":
        order_N = class_aware(labels_N, generator)
    else:
        order_N = torch.randperm(count, generator=generator)
    return order_N[: fed(count, batch_size, seed)]


def class_aware(labels_N: Tensor, generator: torch.Generator) -> Tensor:
    """As many indices as there are images, every class equally often (Shen et al. 2016, arXiv 1512.05830).

    They go through a list of classes, and for each class through a list of its images; a list that is at its end is
    shuffled. Here all lists begin anew with each epoch, so that an epoch does not depend on those before.
    """
    count = len(labels_N)
    members = [(labels_N == label).nonzero()[:, 0] for label in sorted(set(labels_N.tolist()))]
    class_N = rounds(torch.arange(len(members)), count, generator)
    order_N = torch.empty(count, dtype=torch.long)
    for position, images in enumerate(members):
        turns = (class_N == position).nonzero()[:, 0]
        order_N[turns] = rounds(images, len(turns), generator)
    return order_N


def rounds(items: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """The first `count` of the items, shuffled, shuffled again, and so on."""
    shuffled = [items[torch.randperm(len(items), generator=generator)] for _ in range(-(-count // len(items)))]
    return torch.cat([items[:0], *shuffled])[:count]


def fed(count: int, batch_size: int, seed: int | None) -> int:
    """How many of a split's images are fed: all, but that training leaves out a last batch of a single image, in which
    batch norm has no variance to divide by (and which it refuses where H = W = 1)."""
    return count - 1 if seed is not None and count % batch_size == 1 < count else count


class Batches:
    """An iterable with a length, which is all that Lightning asks of a loader."""

    def __init__(self, make: Callable[[], Iterator[Any]], length: int) -> None:
        self.make = make
        self.length = length

    def __iter__(self) -> Iterator[Any]:
        return self.make()

    def __len__(self) -> int:
        return self.length


class DecodedImages(torch.utils.data.Dataset[tuple[Tensor, int] | RunError]):
    """Files as tensors. The augmentation of an image is seeded by (seed, epoch, index), so that it does not depend on
    how many processes decode.

    A file that cannot be decoded is given as the error instead of raised: an exception that leaves a process of the
    DataLoader comes back as text, with a traceback in it.
    """

    def __init__(
        self,
        files: list[tuple[str, int]],
        transform: Callable[[Any], Tensor],
        seed: int | None,
        epoch: int,
        mode: str = "RGB",
    ) -> None:
        self.files = files
        self.transform = transform
        self.seed = seed
        self.epoch = epoch
        self.mode = mode  # PIL's word for the colours

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int] | RunError:
        from PIL import Image

        path, label = self.files[index]
        try:
            with Image.open(path) as file:
                image = file.convert(self.mode)
        except MemoryError:
            raise
        except Exception as error:  # PIL's decoders raise OSError, SyntaxError, struct.error …: no common class
            return RunError(f"the image {path} cannot be read: {error}")
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(mixed(self.seed or 0, self.epoch, index))  # not the GPUs', for dropout
            return self.transform(image), label


def collate(items: list[Any]) -> Any:
    """Images and labels as a batch; or the first error among them."""
    return next((item for item in items if isinstance(item, RunError)), None) or default_collate(items)


def flip(x_BCHW: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror every other image, at random, left to right."""
    flipped_B = torch.rand(len(x_BCHW), generator=generator) < 0.5
    return torch.where(flipped_B.view(-1, 1, 1, 1), x_BCHW.flip(3), x_BCHW)


def crop(x_BCHW: Tensor, generator: torch.Generator) -> Tensor:
    """Zero-pad by an eighth of the width (4 pixels of 32, as in the paper's section 5.1) and cut the size out again,
    at random places."""
    B, _, H, W = x_BCHW.shape
    pad = W // 8
    windows_BCYXHW = F.pad(x_BCHW, (pad, pad, pad, pad)).unfold(2, H, 1).unfold(3, W, 1)  # every crop, none copied yet
    top_B = torch.randint(2 * pad + 1, (B,), generator=generator)
    left_B = torch.randint(2 * pad + 1, (B,), generator=generator)
    cut_BCHW = windows_BCYXHW[torch.arange(B), :, top_B, left_B]
    return cut_BCHW.clone(memory_format=torch.contiguous_format)  # with C = 1 it passes for channels-last otherwise


# Name → what is done, in order, to a batch that lies in memory.
AUGMENTS: dict[str, tuple[Callable[[Tensor, torch.Generator], Tensor], ...]] = {
    "none": (),
    "crop": (crop,),
    "cifar": (flip, crop),
}
