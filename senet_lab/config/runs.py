"""Where and how trainings run."""

from __future__ import annotations

from dataclasses import dataclass

from senet_lab.config.keys import ENDLESS, RUN, STUDY, TINY, key


@dataclass
class Training:
    """Where and how a training runs, and what it leaves behind.

    What is `auto` is plain on a CPU, but for the layout of some networks, and the fast way on a GPU. What is not plain
    may change last digits, and is a part of a trial's name.
    """

    device: str = key("auto", "`auto` (a GPU if there is one), `cpu` or `cuda`", decides=RUN)
    precision: str = key(
        "32-true",
        "Lightning's word for it",
        choices={
            "32-true": "",
            "bf16-mixed": "",
            "16-mixed": "",
            "auto": "`bf16-mixed` on a GPU that computes in bfloat16, and `32-true` elsewhere",
        },
    )
    path: str = key(
        "auto",
        "whether all below that is `auto` is the plain way on a GPU, too",
        choices={"auto": "it is not", "plain": "it is"},
    )
    feed: str = key(
        "auto",
        "how a tree of images is read. All other data sets always lie in the device's memory",
        choices={
            "auto": "on a GPU, memory up to 8 GiB",
            "memory": "decoded once into the memory of the device, and augmented there in whole batches",
            "files": "by the DataLoader, each image when it is needed (plain)",
        },
    )
    layout: str = key(
        "auto",
        "of the tensors",
        choices={
            "auto": "channels_last on a GPU, and on a CPU for CIFAR's ResNets from 32 pixels and MobileNets from 96 on",
            "contiguous": "plain",
            "channels_last": "",
        },
    )
    optimiser: str = key(
        "auto", "how it computes", choices={"auto": "fused on a GPU", "plain": "", "fused": "into one kernel"}
    )
    compile: str = key(
        "auto",
        "by torch.compile",
        choices={
            "auto": "off",
            "off": "plain",
            "blocks": "each block, those alike once",
            "whole": "",
            "graphs": "whole, launched as CUDA graphs; a GPU only",
        },
    )
    devices: int = key(
        1,
        "GPUs (or processes, on a CPU) that train each trial together. Each takes its part of every batch of "
        "`recipe.batch_size` images, so that the learning rate stays right; batch norms have the statistics of their "
        "own part, as in the paper's training",
        bounds=(1, 64),
        decides=STUDY,
    )
    sync_batchnorm: bool = key(False, "whether they have those of the whole batch (PyTorch's SyncBatchNorm; GPUs only)")
    freeze: list[str] = key(
        list,
        "parts of the network that do not train, by patterns of names: `[conv1,layer1]`, `[features.*]` "
        "(docs/recipes.md). Their norms stay in evaluation mode, statistics included",
    )
    keep: str = key(
        "none",
        "what of a trial's weights is kept",
        choices={"none": "", "last": "its final weights, under `<results>/checkpoints/`"},
        decides=RUN,
    )
    outputs: str = key(
        "on",
        "whether each trial's outputs for the test images are kept beside its record (right or wrong, and "
        "−log p of the right class: some 21 kB for 10,000 images). Changes no result",
        choices=("on", "off"),
        decides=RUN,
    )


@dataclass
class Executor:
    """Where trials are trained. Changes no result, but for the `threads`."""

    name: str = key(
        "local",
        "where trials are trained: `local`, processes on this machine, or `ray`, a cluster (needs the extra `ray`)",
    )
    workers: int = key(
        0,
        "trials that are trained side by side; 0 takes one a core, or `per_gpu` a GPU (with `training.devices`, that "
        "many fewer); on Ray, as many as there is room for, also on nodes that join later",
        bounds=(0, 1_000),
    )
    per_gpu: int = key(
        1,
        "trials that share each GPU of this machine, where `workers` does not say how many there are in all (on Ray, "
        "see `gpus_per_trial`). 1, because a network that fills a GPU is not trained faster beside another, and two "
        "may not fit; small networks on small images leave most of a GPU idle",
        bounds=(1, 1_000),
    )
    threads: int = key(
        1,
        "CPU threads of each local process; a trial on Ray has as many as CPUs, at least one. More than one add up in "
        "another order, which changes last digits: on a CPU, they are a part of a trial's name. On a GPU they only "
        "decode images, and change no result",
        bounds=(1, 1_000),
    )
    address: str = key(
        "",
        "of a Ray cluster that this machine is a node of, `host:port` or `auto`; empty has Ray start an instance of "
        "its own here, which ends with the study. Every node needs the lab's libraries (its code is sent along, and "
        "so is the working directory where a network, gate, loss or data set is your own), and the data set where this "
        "machine has it. Checkpoints go to `results` where a node shares that folder; elsewhere a trial whose node is "
        "lost starts again",
    )
    cpus_per_trial: float = key(
        1.0,
        "CPUs that Ray sets aside for a trial; fewer than one share it",
        bounds=(0.01, 1_000),
    )
    gpus_per_trial: float | None = key(
        None,
        "GPUs likewise, 0 to 1: 0.25 has four trials share one. Above 0 trials are trained on GPUs, also where this "
        "machine has none; null takes 1 if this machine has a GPU, else 0",
        bounds=(0, 1),
    )
    time_limit: float | None = key(
        None,
        "minutes that a trial may train; null is without limit. One that takes longer is ended, even if it hangs, and "
        "recorded as failed; the study goes on. Each attempt has its own clock, which starts when the worker has "
        "imported its libraries: what was trained before an interruption does not count",
        bounds=(TINY, ENDLESS),
    )
    memory_limit: float | None = key(
        None,
        "GiB of this machine's, or its node's, memory that each of a trial's processes may have at any moment; "
        "likewise. With the libraries alone one has about 0.9",
        bounds=(TINY, ENDLESS),
    )

    @property
    def threads_of_a_trial(self) -> int:
        """CPU threads that a trial has, wherever it is trained."""
        return max(1, int(self.cpus_per_trial)) if self.name == "ray" else self.threads
