"""How a split is fed to the network: batches, in an order and with an augmentation that (seed, epoch) decide.

What happens in epoch e depends on (seed, e) alone: every row of a study sees the same batches, and a training that was
cut off goes on as if it had not been.

Shapes: B batch, N images of a split, C colour channels, H W pixels.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from senet_lab.config import Data, RunError
from senet_lab.counting import cores
from senet_lab.training.augment import AUGMENTS, RaggedImages
from senet_lab.training.images import Files
from senet_lab.training.policies import BatchPolicy
from senet_lab.training.sampling import WHOLE, BatchShare, fed_count, mix_seed, order_of
from senet_lab.training.transforms import ManyViews, channels_of, image_transform, in_memory, late_changes, views_of

SMALL, MANY = 64, 2**25  # pixels of a side, and of a batch
ImageKey = tuple[int, int, int]  # epoch, number, and how often the epoch has shown it before


@dataclass(frozen=True)
class Batches:
    """An iterable with a length, which is all that Lightning asks of a loader."""

    make: Callable[[], Iterator[Any]]
    length: int

    def __iter__(self) -> Iterator[Any]:
        return self.make()

    def __len__(self) -> int:
        return self.length


class Epoch(NamedTuple):
    """Which images of a split are loaded, and how they are augmented."""

    seed: int | None  # of their augmentation; None has none
    number: int
    generator: torch.Generator  # of the epoch, as the order of its images has left it
    views: bool  # whether all views of the test are wanted
    share: BatchShare


class Feed:
    """A split of a data set: the labels of its images, and how these are read, augmented and normalised."""

    def __init__(self, labels_N: Tensor, data: Data) -> None:
        self.labels_N = labels_N
        self.data = data

    def __len__(self) -> int:
        return len(self.labels_N)

    def batches(
        self,
        batch_size: int,
        seed: int | None = None,
        epoch: int = 0,
        sampling: str = "uniform",
        views: bool = False,
        share: BatchShare = WHOLE,
    ) -> Batches:
        """The split in its own order, or, with a seed, sampled and augmented for that epoch; of each batch the `share`
        of one process."""

        def make() -> Iterator[Any]:
            generator = torch.Generator().manual_seed(mix_seed(seed or 0, epoch))
            order_N = order_of(self.labels_N, batch_size, seed, generator, sampling)
            indices = torch.split(order_N, batch_size) if len(order_N) else ()
            taken = [share.of(len(index_B)) for index_B in indices]
            made = self.load(indices, [places for places, _ in taken], Epoch(seed, epoch, generator, views, share))
            for batch, index_B, (_, own) in zip(made, indices, taken, strict=True):
                yield batch if share.world == 1 else (*batch, own, len(index_B))

        return Batches(make, -(-fed_count(len(self), batch_size, seed) // batch_size))

    def load(self, indices: Sequence[Tensor], taken: list[list[int]], epoch: Epoch) -> Iterator[Any]:
        """Images and labels, batch by batch: of the images at `indices`, those at the places that are `taken`."""
        raise NotImplementedError

    def test_batches(self, batch_size: int, share: BatchShare = WHOLE) -> Batches:
        """The split in its own order; where the test wants several views of an image, x is (B, V, C, H, W)."""
        return self.batches(batch_size, share=share)

    def evaluation_size(self, batch_size: int) -> int:
        """Images of a batch that validates or tests, where `batch_size` train: no more of them in memory at once."""
        return batch_size

    def close(self) -> None:
        """End the processes that decode, if there are any."""


class TensorFeed(Feed):
    """A split that lies in memory, on the device that trains: bytes (N, C, H, W), or images of any sizes of which
    random resized crops are taken. Whole batches are augmented there at once. Random numbers are drawn on the CPU
    whatever the device is, an epoch's at once, so that batches do not depend on it, and nothing waits for it within an
    epoch."""

    def __init__(self, images: Tensor | RaggedImages, labels_N: Tensor, data: Data, device: str = "cpu") -> None:
        super().__init__(labels_N, data)
        self.parts = images if isinstance(images, RaggedImages) else None
        none = (0, channels_of(data), data.size, data.size)
        self.images_NCHW = torch.empty(none) if isinstance(images, RaggedImages) else images.to(device)
        self.device = device
        self.normalised = in_memory(data, device)
        self.changes = AUGMENTS[data.augment].batch
        self.policy = BatchPolicy(data.policy, data.policy_args or {}) if data.policy != "none" else None
        self.late = late_changes(data)  # of the normalised images

    def evaluation_size(self, batch_size: int) -> int:
        """More where images are small, or a GPU has them and they are not too many."""
        side, larger = self.images_NCHW.shape[-1], 4 * batch_size
        return larger if side <= SMALL or (self.device == "cuda" and larger * side**2 <= MANY) else batch_size

    def load(self, indices: Sequence[Tensor], taken: list[list[int]], epoch: Epoch) -> Iterator[Any]:
        drawn = [self.draw(index_B, epoch.generator) if epoch.seed is not None else [] for index_B in indices]
        if epoch.share.world > 1:  # drawn is for whole batches, so that they do not depend on who takes which part
            pairs = zip(drawn, taken, strict=True)
            drawn = [[each[places] for each in of_batch] for of_batch, places in pairs]
            indices = [index_B[places] for index_B, places in zip(indices, taken, strict=True)]
        order_N, sizes = torch.cat([self.labels_N[:0], *indices]), [len(index_B) for index_B in indices]
        numbers = [torch.split(torch.cat(each).to(self.device), sizes) for each in zip(*drawn, strict=True)]
        on_device = torch.split(order_N.to(self.device), sizes)
        labels = torch.split(self.labels_N[order_N].to(self.device), sizes)
        for at, (index_B, labels_B) in enumerate(zip(on_device, labels, strict=True)):
            yield self.batch(index_B, [each[at] for each in numbers], drawn[at]), labels_B

    def draw(self, index_B: Tensor, generator: torch.Generator) -> list[Tensor]:
        """The random numbers of a batch, (B, …) for each thing that is done to it, in this order."""
        B, (H, W) = len(index_B), self.images_NCHW.shape[2:]
        crops = [self.parts.draw(index_B, generator)] if self.parts else []
        early = [change.draw(B, H, W, generator) for change in self.changes]
        policy = [self.policy.draw(B, generator)] if self.policy else []
        return crops + early + policy + [change.draw(B, H, W, generator) for change in self.late]

    def batch(self, index_B: Tensor, numbers: list[Tensor], drawn: list[Tensor]) -> Tensor:
        """A batch, augmented if there are numbers: those on the feed's device, and the same on the CPU."""
        if self.parts:
            x_BCHW = self.parts.cut(numbers[0], (int(drawn[0][:, 0].max()), int(drawn[0][:, 1].max())))
            numbers, drawn = numbers[1:], drawn[1:]
        else:
            x_BCHW = self.images_NCHW[index_B]
            for change, numbers_Bn in zip(self.changes, numbers, strict=False):  # others follow
                x_BCHW = change.apply(x_BCHW, numbers_Bn)
            numbers, drawn = numbers[len(self.changes) :], drawn[len(self.changes) :]
        if self.policy and drawn:
            x_BCHW = self.policy.apply(x_BCHW.round().to(torch.uint8) if self.parts else x_BCHW, drawn[0])
            numbers = numbers[1:]
        x_BCHW = self.normalised(x_BCHW)
        for change, numbers_Bn in zip(self.late, numbers, strict=False):  # there are none without augmentation
            x_BCHW = change.apply(x_BCHW, numbers_Bn)
        return x_BCHW


class FolderFeed(Feed):
    """A split that lies on disk as one image a file; every image is decoded and augmented by itself. Where it is
    `pinned`, batches come in memory that a GPU copies from while it computes."""

    def __init__(self, files: Files, data: Data, pinned: bool = False) -> None:
        super().__init__(torch.from_numpy(files.labels), data)
        self.files = files
        self.pinned = pinned
        self.loaders: dict[tuple[bool, int | None], DataLoader[Any]] = {}  # whose processes go on

    def test_batches(self, batch_size: int, share: BatchShare = WHOLE) -> Batches:
        views = views_of(self.data)
        return self.batches(max(1, batch_size // (views or 1)), views=views > 0, share=share)

    def close(self) -> None:
        self.loaders.clear()

    def load(self, indices: Sequence[Tensor], taken: list[list[int]], epoch: Epoch) -> Iterator[Any]:
        """Processes that decode go on from epoch to epoch: which one it is comes to them with each image's number, and
        so does how often the epoch has shown the image before.

        Raises:
            RunError: an image that cannot be read; the processes ended, which is the machine's fault: it lacks shared
                memory, or memory.
        """
        shown: Counter[int] = Counter()
        batches: list[list[ImageKey]] = []
        for index_B, places in zip(indices, taken, strict=True):
            batch = []
            for number in index_B.tolist():
                batch.append((epoch.number, number, shown[number]))
                shown[number] += 1
            batches.append([batch[place] for place in places])
        key = (epoch.views, epoch.seed)
        loader = self.loaders.get(key) or self.loader(*key)
        if loader.num_workers:
            self.loaders[key] = loader
        assert isinstance(loader.batch_sampler, list)
        loader.batch_sampler[:] = batches
        try:
            for made in loader:
                if isinstance(made, RunError):
                    raise made
                yield made
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            *_, last = str(error).strip().splitlines()  # the others are a traceback
            raise RunError(f"the processes that decode images cannot go on: {last}") from error

    def loader(self, views: bool, seed: int | None) -> DataLoader[Any]:
        """What decodes the images of the batches that are listed in it; there are none yet."""
        transform = ManyViews(self.data) if views else image_transform(self.data, training=seed is not None)
        workers = min(self.data.workers, cores())  # more would wait for one another, and PyTorch warns of them
        return DataLoader(
            DecodedImages(self.files, transform, seed),
            batch_sampler=[],
            num_workers=workers,
            persistent_workers=workers > 0,
            # A trial's process is spawned, and so would these be, each importing torch for seconds. They need no GPU.
            multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
            pin_memory=self.pinned,
            generator=torch.Generator().manual_seed(0),  # so that the global one is left alone; images have their own
            collate_fn=collate,
        )


@dataclass(frozen=True, eq=False)
class DecodedImages(torch.utils.data.Dataset[tuple[Tensor, int] | RunError]):
    """Files as tensors. The augmentation of an image is seeded by (seed, epoch, number), and where the epoch has shown
    it before, by how often; so it does not depend on how many processes decode.

    A file that cannot be decoded is given as the error instead of raised: an exception that leaves a process of the
    DataLoader comes back as text, with a traceback in it.
    """

    files: Files
    transform: Callable[[Any], Tensor]
    seed: int | None

    def __getitem__(self, which: ImageKey) -> tuple[Tensor, int] | RunError:
        epoch, number, shown = which
        try:
            image = self.files.picture(number)
        except RunError as error:
            return error
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(
                mix_seed(self.seed or 0, epoch, number, *([shown] if shown else []))
            )  # not the GPUs'
            return self.transform(image), int(self.files.labels[number])


def collate(items: list[Any]) -> Any:
    """Images and labels as a batch; or the first error among them."""
    return next((item for item in items if isinstance(item, RunError)), None) or default_collate(items)
