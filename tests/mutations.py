"""Faults that a test must notice: each is put into a copy of the tree, and the tests that must fail are run there.

    make mutations [ARGS="--only WORD --parallel 2"]

It ends with how many were caught, and with each that was not.

Add an entry for a fault of a kind that was passed over once. Code moves: an old text that is not there exactly once is
an error, and the entry wants to be brought up to date.
"""

# ruff: noqa: E501  # old texts are as long as they are

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue

ROOT = Path(__file__).parents[1]
LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "local")

# (fault, file, test files that must fail, old text, new text)
# fmt: off
MUTATIONS: list[tuple[str, str, str, str, str]] = [
    ("studies that settle all at once", "senet_lab/studies/plan.py", "test_settling.py",
     "key=lambda cell: 0 if first.aim.settles else cell.seed", "key=lambda cell: cell.seed"),
    ("a test error of a training that has not ended", "senet_lab/studies/bench.py", "test_bench.py",
     'lines["epoch"] < self.epochs, list(TESTED)', 'lines["epoch"] < 0, list(TESTED)'),
    ("runs written by the W&B service of whoever starts the study", "senet_lab/studies/wandb_client.py", "test_tracking.py",
     '    os.environ.pop("WANDB_SERVICE", None)\n', ""),
    ("a norm's maps of another layout when networks are counted", "senet_lab/models/copies.py", "test_models_cost.py",
     "return torch.empty_like(args[0]), ", "return args[0].new_empty(args[0].shape), "),
    ("a word of all studies given to the one that varies it", "senet_lab/compose.py", "test_rows.py",
     'if word.split("=")[0] not in set_by_rows(study))', "if True)"),
    ("a baseline that brings its rows, though some are named", "senet_lab/selection.py", "test_variants.py",
     "baselines[label] in alone", "baselines[label] in labels"),
    ("a settled study pooled with all its seeds", "senet_lab/reports/pooled.py", "test_reports_pooled.py",
     "    if aim.settles:\n        trials", "    if False:\n        trials"),
    ("the same trainings pooled twice", "senet_lab/reports/pooled.py", "test_reports_pooled.py",
     "if seen & set(row.trainings)", "if seen < set(row.trainings)"),
    ("a prediction without the settings' deviation", "senet_lab/reports/random_effects.py", "test_reports_pooled.py",
     "np.sqrt(np.maximum(taus2, 1e-12 * self.variance_K.min()))", "np.sqrt(np.full(TAU_POINTS, 1e-12 * self.variance_K.min()))"),
    ("normal bounds for a handful of settings", "senet_lab/reports/random_effects.py", "test_reports_pooled.py",
     "-float(special.stdtrit(settings.k - 1, ALPHA / 2)) * error", "1.96 * error"),
    ("the best epoch recorded", "senet_lab/training/trial.py", "test_training_trial.py",
     "last = module.history[-1]", 'last = min(module.history, key=lambda epoch: epoch["val_error"])'),
    ("validation on the test images", "senet_lab/training/trial.py", "test_training_trial.py",
     "validation = self.splits.validation", "validation = self.splits.test"),
    ("validation on training images", "senet_lab/training/trial.py", "test_training_trial.py",
     "validation = self.splits.validation", "validation = self.splits.train"),
    ("the same dropout in every epoch", "senet_lab/training/trial.py", "test_training_trial.py",
     "seed = mix_seed(self.seed, trainer.current_epoch, *mine)",
     "seed = mix_seed(self.seed, 0, *mine)"),
    ("the same dropout for every seed", "senet_lab/training/trial.py", "test_training_trial.py",
     "seed = mix_seed(self.seed, trainer.current_epoch, *mine)",
     "seed = mix_seed(0, trainer.current_epoch, *mine)"),
    ("the last weights tested instead of the averaged ones", "senet_lab/training/ema.py", "test_training_ema.py",
     "    def on_fit_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:\n        module.load_state_dict(self.average)",
     "    def on_fit_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:\n        pass"),
    ("the average begins with zeros", "senet_lab/training/ema.py", "test_training_ema.py",
     "{name: value.to(module.device, copy=True) for name, value in begun.items()}",
     "{name: value.to(module.device, copy=True) * (0 if not self.average else 1) for name, value in begun.items()}"),
    ("the average taken once an epoch", "senet_lab/training/ema.py", "test_training_ema.py",
     "def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any)",
     "def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any)"),
    ("confirming with old seeds", "senet_lab/studies/search.py", "test_search_recorded.py",
     "range(self.seeds, self.seeds + self.asked.confirm)", "range(self.asked.confirm)"),
    ("a training of the confirmation taken for one of the search", "senet_lab/studies/search_tables.py", "test_search_recorded.py",
     '"search" if cell.seed < search.seeds else "confirmation"', '"search"'),
    ("designs near the front not confirmed", "senet_lab/studies/confirmation.py", "test_search_recorded.py",
     "return front + [design for _, _, design in sorted(near)][: max(MOST - len(front), 0)]", "return front"),
    ("a search hears of the best epoch", "senet_lab/studies/search.py", "test_search_recorded.py",
     "[found[-1] for found in epochs if found]",
     '[min(found, key=lambda e: e["val_error"]) for found in epochs if found]'),
    ("a search hears of the first seed", "senet_lab/studies/search_objectives.py", "test_search_recorded.py",
     "fmean(each[OBJECTIVES[name].column] for each in metrics) if", "metrics[0][OBJECTIVES[name].column] if"),
    ("a search hears of the whole training at a rung", "senet_lab/studies/search.py", "test_search_recorded.py",
     'record["epochs"][: job.epochs]', 'record["epochs"]'),
    ("a search selects by test errors", "senet_lab/objectives.py", "test_search_recorded.py",
     '"validation error %", "val_error", trained=True),\n    # The', '"validation error %", "test_error", trained=True),\n    # The'),
    ("chances with other seeds for each design", "senet_lab/reports/pareto.py", "test_reports_front.py",
     "rng.normal(size=(draws, seeds)) @ apart.T", "np.stack([rng.normal(size=(draws, seeds)) @ each for each in apart], 1)"),
    ("failed trials that carry numbers counted", "senet_lab/reports/comparisons.py", "test_reports_tables.py",
     'group[column].where(group["status"] == "done", guess)', "group[column]"),
    ("failed trials that carry numbers counted in a search", "senet_lab/reports/front.py", "test_search_recorded.py",
     'done = group[group["status"] == "done"]', "done = group[group['val_error'].notna()]"),
    ("failed trials that carry numbers counted in a confirmation", "senet_lab/reports/front.py", "test_search_recorded.py",
     'done = trials[~trials["row"].isin(lost)]', "done, lost = trials, {}"),
    ("a printed number of table 5", "senet_lab/reports/paper.yaml", "test_reports_paper.py",
     "SE-ResNet-164: {top1: 21.31}", "SE-ResNet-164: {top1: 21.13}"),
    ("a printed number of table 6", "senet_lab/reports/paper.yaml", "test_reports_paper.py",
     "ResNet-152: {top1: 41.15, top5: 11.61}", "ResNet-152: {top1: 41.51, top5: 11.61}"),
    ("a printed number of table 14", "senet_lab/reports/paper.yaml", "test_reports_paper.py",
     "SE-Identity: {top1: 22.20, top5: 6.15}", "SE-Identity: {top1: 22.20, top5: 6.51}"),
    ("an original's number of table 2", "senet_lab/reports/paper.yaml", "test_reports_paper.py",
     "original_top1: 23.6, original_top5: 7.1", "original_top1: 23.6, original_top5: 7.7"),
    ("Cutout of CIFAR-10 for CIFAR-100", "sweeps/ablation/networks_cifar100.yaml", "test_sweeps.py",
     "data.cutout: 8, se: null, paper: Shake-Even 29 2x4x64d}\n    SE-Shake-Even 29 2x4x64d:\n      backbone: shake29_2x4x64d\n      recipe: shake_cifar100\n      data.cutout: 8",
     "data.cutout: 16, se: null, paper: Shake-Even 29 2x4x64d}\n    SE-Shake-Even 29 2x4x64d:\n      backbone: shake29_2x4x64d\n      recipe: shake_cifar100\n      data.cutout: 16"),
    ("CIFAR-10's recipe for CIFAR-100", "sweeps/ablation/networks_cifar100.yaml", "test_sweeps.py",
     "recipe: wrn, se: null, paper: WRN-16-8}\n    SE-WRN-16-8: {backbone: wrn16_8, recipe: wrn,",
     "recipe: cifar, se: null, paper: WRN-16-8}\n    SE-WRN-16-8: {backbone: wrn16_8, recipe: cifar,"),
    ("another row of the paper beside a row", "sweeps/ablation/position.yaml", "test_sweeps.py",
     "se.position: pre, paper: SE-PRE", "se.position: pre, paper: SE-POST"),
    ("another design than the row says", "sweeps/ablation/ratio.yaml", "test_sweeps.py",
     "r = 8: {se.reduction: 8", "r = 8: {se.reduction: 4"),
    ("another network than the row says", "sweeps/ablation/networks_imagenet.yaml", "test_sweeps.py",
     "ResNet-101: {backbone: resnet101, se: null, paper: ResNet-101}\n    SE-ResNet-101: {backbone: resnet101",
     "ResNet-101: {backbone: resnext101, se: null, paper: ResNet-101}\n    SE-ResNet-101: {backbone: resnext101"),
    ("a longer warm-up of CIFAR's networks", "senet_lab/conf/recipe/cifar.yaml", "test_training_recipes.py",
     "warmup_steps: 400", "warmup_steps: 500"),
    ("a milestone of the mobile recipe by one", "senet_lab/conf/recipe/mobile.yaml", "test_training_recipes.py",
     "[185, 296, 370]", "[185, 296, 369]"),
    ("label smoothing where the paper has none", "senet_lab/conf/recipe/mobile.yaml", "test_training_recipes.py",
     "weight_decay: 4e-5", "weight_decay: 4e-5\nlabel_smoothing: 0.1"),
    ("another momentum", "senet_lab/conf/recipe/wrn.yaml", "test_training_recipes.py",
     "nesterov: true", "nesterov: true\nmomentum: 0.8"),
    ("the crop of 299 pixels from another size", "senet_lab/training/transforms.py", "test_data_feeds.py",
     "299: 352", "299: 342"),
    ("random crops of a quarter of the area at least", "senet_lab/training/augment.py", "test_data_memory.py",
     "AREA = (0.08, 1.0)", "AREA = (0.25, 1.0)"),
    ("CIFAR-100 normalised as CIFAR-10", "senet_lab/training/sources.py", "test_data_feeds.py",
     "((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))", "((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))"),
    ("CIFAR padded by two pixels", "senet_lab/training/augment.py", "test_data_feeds.py",
     '(flip, crop), lambda size: [v2.RandomHorizontalFlip(), v2.RandomCrop(size, padding=size // 8)]',
     '(flip, crop), lambda size: [v2.RandomHorizontalFlip(), v2.RandomCrop(size, padding=size // 16)]'),
    ("the digits validated on a tenth", "senet_lab/conf/data/digits.yaml", "test_data_splits.py",
     "validation: 0.2", "validation: 0.1"),
    ("CIFAR's test images trained on", "senet_lab/training/sources.py", "test_data_files.py",
     "return self.images(data, train=True), self.images(data, train=False)",
     "return self.images(data, train=False), self.images(data, train=True)"),
    ("a folder's test images trained on", "senet_lab/training/folder.py", "test_data_files.py",
     "return trees_files[0], trees_files[1], classes", "return trees_files[1], trees_files[0], classes"),
    ("Shake-Even with shares of Shake-Shake", "senet_lab/models/shake.py", "test_models_shake.py",
     'backward="even"', 'backward="shake"'),
    ("Shake-Shake with shares of Shake-Even", "senet_lab/models/shake.py", "test_models_shake.py",
     'backward="shake"', 'backward="even"'),
    ("SENet-154 without its dropout", "senet_lab/models/backbones.py", "test_models_backbones.py",
     "drop_rate=0.2", "drop_rate=0.0"),
    ("stride on the 3×3 of pre-activation networks", "senet_lab/models/cifar.py", "test_models_insert.py",
     "self.conv1 = conv1x1(in_channels, width, stride)\n        self.bn2 = nn.BatchNorm2d(width)\n        self.conv2 = conv3x3(width, width)",
     "self.conv1 = conv1x1(in_channels, width)\n        self.bn2 = nn.BatchNorm2d(width)\n        self.conv2 = conv3x3(width, width, stride)"),
    ("projection of the raw input in pre-activation networks", "senet_lab/models/cifar.py", "test_models_insert.py",
     "self.downsample(a_BCHW if self.shares_norm else x_BCHW)\n        branch: Tensor = self.conv1(a_BCHW)\n        branch = self.conv2(self.relu(self.bn2(branch)))\n        branch",
     "self.downsample(x_BCHW)\n        branch: Tensor = self.conv1(a_BCHW)\n        branch = self.conv2(self.relu(self.bn2(branch)))\n        branch"),
    ("a pre-activation network without its last norm", "senet_lab/models/cifar.py", "test_models_backbones.py",
     'tail: Named = [("bn", nn.BatchNorm2d(widths[-1])), ("relu", nn.ReLU(inplace=True))]',
     'tail: Named = [("relu", nn.ReLU(inplace=True)), ("bn", nn.BatchNorm2d(widths[-1]))]'),
    ("a stem without its ReLU", "senet_lab/models/cifar.py", "test_models_backbones.py",
     '("bn1", nn.BatchNorm2d(16)),\n        ("relu", nn.ReLU(inplace=True)),', '("bn1", nn.BatchNorm2d(16)),'),
    ("Shake-Even's stem without its ReLU", "senet_lab/models/shake.py", "test_models_backbones.py",
     '("bn1", nn.BatchNorm2d(64)),\n        ("relu", nn.ReLU(inplace=True)),', '("bn1", nn.BatchNorm2d(64)),'),
    ("stages numbered from another first one", "senet_lab/models/stages.py", "test_models_insert.py",
     '(1 if match[1] == "layer" else 2)', '(0 if match[1] == "layer" else 1)'),
    ("stages of timm's names numbered from another first one", "senet_lab/models/stages.py", "test_models_structure.py",
     '(1 if match[1] == "layer" else 2)', '(1 if match[1] == "layer" else 1)'),
    ("VGG's stages numbered from another first one", "senet_lab/models/backbones.py", "test_models_networks.py",
     "stage, channels = 0, 0", "stage, channels = 1, 0"),
    ("MobileNet's stages numbered from another first one", "senet_lab/models/backbones.py", "test_models_networks.py",
     '{number + 1: [f"blocks.{number}"] for number in range(5)}',
     '{number + 2: [f"blocks.{number}"] for number in range(5)}'),
    ("VGG's gates before the ReLU", "senet_lab/models/backbones.py", "test_models_networks.py",
     "        if isinstance(layer, nn.ReLU):\n            places[path] = channels",
     "        if isinstance(layer, nn.BatchNorm2d):\n            places[path] = channels"),
    ("Inception-ResNet-v2's gates after the unit", "senet_lab/models/backbones.py", "test_models_networks.py",
     'f"{path}.conv2d": unit', 'f"{path}": unit'),
    ("MobileNet's gates after the depthwise norm", "senet_lab/models/backbones.py", "test_models_networks.py",
     'f"{path}.bn2": block', 'f"{path}.conv_pw": block'),
    ("ShuffleNet's first unit with three groups", "senet_lab/models/shufflenet.py", "test_models_networks.py",
     "groups=GROUPS if stages else 1", "groups=GROUPS"),
    ("ShuffleNet without its shuffle", "senet_lab/models/shufflenet.py", "test_models_networks.py",
     "            Shuffle(GROUPS),\n", ""),
    ("an average pool for a maximum in BN-Inception", "senet_lab/models/inception.py", "test_models_networks.py",
     '(192, 224), "maximum", 128)', '(192, 224), "average", 128)'),
    ("SE's hidden layer without its ReLU", "senet_lab/models/gates.py", "test_models_se.py",
     "self.fc2(torch.relu(self.fc1(z_BC11)))", "self.fc2(self.fc1(z_BC11))"),
    ("gates drawn alike in every block", "senet_lab/models/insert.py", "test_models_insert.py test_models_se.py",
     'f"{seed} {target.path}"', 'f"{seed}"'),
    ("a verdict at 10%", "senet_lab/reports/statistics.py", "test_reports_statistics.py",
     "ALPHA = 0.05", "ALPHA = 0.10"),
    ("the level of the correction not divided by the rows", "senet_lab/reports/verdicts.py", "test_reports_statistics.py test_reports_tables.py",
     "level = ALPHA / max(1, tests, int(np.sum(~np.isnan(corrected[0]))))", "level = ALPHA"),
    ("better without a look at other images", "senet_lab/reports/verdicts.py", "test_reports_conclusions.py",
     "_difference(c, p_crossed is not None and p_crossed <= ALPHA)", "_difference(c, p_crossed is not None)"),
    ("equivalence at the level of a single row", "senet_lab/reports/verdicts.py", "test_reports_conclusions.py",
     "half_width(c.sd, c.n, 2 * level)", "half_width(c.sd, c.n, 2 * ALPHA)"),
    ("no variance of rounding in the interval", "senet_lab/reports/statistics.py", "test_reports_statistics.py test_reports_tables.py",
     "    sd = float(deviation_of_differences(d, step))", "    sd = float(standard_deviation(d, step))"),
    ("boundaries of looks from a distribution cut short", "senet_lab/reports/sequential.py", "test_reports_sequential.py",
     "for k in range(3 - n % 2, n, 2):", "for k in range(3 - n % 2, n - 2, 2):"),
    ("failures left out of a settle plan", "senet_lab/studies/settle_plan.py", "test_settling.py",
     'SAME = ("metric", "margin", "failures",', 'SAME = ("metric", "margin",'),
    ("seeds beyond a stop in the table", "senet_lab/reports/comparisons.py", "test_reports_conclusions.py",
     'group[group["seed"] <= ends[label]]', "group"),
    ("outputs in another order", "senet_lab/reports/image_outcomes.py", "test_reports_conclusions.py",
     "if digest and outputs.outputs_digest(one.packed()) != digest:", "if False:"),
    ("an interaction that is the sum of its cells", "senet_lab/reports/contrasts.py", "test_reports_grids.py",
     "sign / number", "abs(sign) / number"),
    ("an effect over the seeds of the last verdict", "senet_lab/reports/comparisons.py", "test_reports_grids.py",
     "if last is None or seed <= last", ""),
    ("another difference than the paper's beside ours", "senet_lab/reports/summary.py", "test_reports_tables.py",
     "else row.top1 - baseline.top1", "else baseline.top1 - row.top1"),
    ("top-1 in the column of top-5", "senet_lab/reports/summary.py", "test_reports_tables.py",
     'by_seed(group, "test_top5_error", guessing(study.frame, 5))', 'by_seed(group, "test_error", guessing(study.frame, 5))'),
    ("the validation error in the table", "senet_lab/reports/comparisons.py", "test_reports_tables.py",
     'by_seed(group, "test_error", guessing(self.frame))', 'by_seed(group, "val_error", guessing(self.frame))'),
    ("the worse half goes on", "senet_lab/studies/halving.py", "test_search_halving.py",
     "key=lambda design: (ranks[design], repr(design))", "key=lambda design: (-ranks[design], repr(design))"),
    ("the validation error in the column of the test error", "senet_lab/studies/record_tables.py", "test_search_recorded.py",
     '"test_error": metrics.get("test_error")', '"test_error": metrics.get("val_error")'),
    ("another default momentum", "senet_lab/config/recipe.py", "test_training_recipes.py",
     "momentum: float = key(0.9", "momentum: float = key(0.95"),
    ("the first block of each stage in figure 6", "senet_lab/training/gate_stats.py", "test_excitation.py",
     "if every or number > len(members) - shown:", "if every or number <= shown:"),
    ("seeds counted from 1", "senet_lab/studies/plan.py", "test_plan.py",
     "for seed in seeds for cell", "for seed in [each + 1 for each in seeds] for cell"),
    # --------------------------------------------------------------- caught from the first, so that they stay caught
    ("validation images trained on", "senet_lab/training/images.py", "test_data_splits.py",
     "rest[balanced(train_labels[rest], train)]", "balanced(train_labels, train)"),
    ("the learning rate cut an epoch late", "senet_lab/training/optimizers.py", "test_training_recipes.py",
     "epoch >= milestone", "epoch > milestone"),
    ("no warm-up", "senet_lab/training/optimizers.py", "test_training_recipes.py",
     "if step < recipe.warmup_steps:", "if step < 0:"),
    ("norms decayed though they are to be spared", "senet_lab/training/optimizers.py", "test_training_recipes.py",
     '"weight_decay": 0.0}', '"weight_decay": recipe.weight_decay}'),
    ("no Nesterov", "senet_lab/training/optimizers.py", "test_training_recipes.py",
     '"nesterov": recipe.nesterov}', '"nesterov": False}'),
    ("no Cutout of images in memory", "senet_lab/training/augment.py", "test_data_feeds.py",
     "return Change(squares, blank)", "return Change(squares, lambda x_BCHW, corners_B2: x_BCHW)"),
    ("every image mirrored", "senet_lab/training/augment.py", "test_data_feeds.py",
     "torch.rand(B, generator=generator) < 0.5", "torch.rand(B, generator=generator) < 1.5"),
    ("one share for a whole batch", "senet_lab/models/shake.py", "test_models_shake.py",
     "shape = (2, len(x_BCHW), 1, 1, 1)", "shape = (2, 1, 1, 1, 1)"),
    ("gates drawn by fan-out", "senet_lab/models/gates.py", "test_models_se.py",
     'mode="fan_in"', 'mode="fan_out"'),
    ("gates that ignore the seed", "senet_lab/models/insert.py", "test_models_insert.py",
     'f"{seed} {target.path}"', 'f"{target.path}"'),
    ("a gate after the norm before the 3×3", "senet_lab/models/slots.py", "test_models_insert.py",
     '"conv3x3": Slot("conv2", "before"),', '"conv3x3": Slot("conv1", "after"),'),
    ("statistics of frozen norms go on", "senet_lab/training/parts.py", "test_training_parts.py",
     "            module.eval()\n", "            pass\n"),
    ("gates frozen with their stage", "senet_lab/training/parts.py", "test_training_parts.py",
     "and (of_gates or path not in gates)", "and (of_gates or True)"),
    ("one rate for all parts", "senet_lab/training/optimizers.py", "test_training_parts.py",
     '{"lr": rate * recipe.lr}', '{"lr": recipe.lr}'),
    ("validated at the size of training", "senet_lab/training/data.py", "test_data_test_size.py",
     "zip(split, (data, shown, shown)", "zip(split, (data, data, shown)"),
    ("outputs of two protocols compared", "senet_lab/studies/evaluation.py", "test_evaluation.py",
     "other.protocol != first.protocol", "other.protocol == ''"),
]
# fmt: on


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", metavar="WORD", help="the entries that this word is in")
    parser.add_argument("--parallel", type=int, default=2, metavar="N", help="runs of pytest at once (default: 2)")
    asked = parser.parse_args()
    chosen = [each for each in MUTATIONS if any(asked.only in text for text in each)]
    for fault, file, _, old, _ in chosen:
        if (count := (ROOT / file).read_text().count(old)) != 1:
            sys.exit(f"{fault}: {file} has {count} times, not once: {old}")
    files = sorted({name for _, _, names, *_ in chosen for name in names.split()})
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(asked.parallel) as pool:
        trees: Queue[Path] = Queue()
        for number in range(asked.parallel):
            trees.put(tree := Path(folder, f"tree{number}"))
            shutil.copytree(ROOT, tree, ignore=LEFT_OUT)
        sound = pool.map(lambda name: exit_code(trees, (name,)), files)
        failing = [name for name, code in zip(files, sound, strict=True) if code != 0]
        for name in failing:
            print(f"fails without any fault: {name}", flush=True)
        codes = pool.map(lambda each: exit_code(trees, each[2].split(), each), chosen)
        passed_over = []
        for number, (each, code) in enumerate(zip(chosen, codes, strict=True), start=1):
            result = {0: "SURVIVED", 1: "caught"}.get(code, f"pytest ended with {code}")
            passed_over += [] if code == 1 else [f"{each[0]} ({each[2]}): {result}"]
            print(f"{number}/{len(chosen)} {result}: {each[0]}", flush=True)
    print(f"caught: {len(chosen) - len(passed_over)} of {len(chosen)}", *passed_over, sep="\n  ")
    return 1 if passed_over or failing else 0


def exit_code(trees: Queue[Path], names: Sequence[str], fault: tuple[str, str, str, str, str] | None = None) -> int:
    """The exit code of pytest in a tree that nobody else uses, with the fault put in and taken out again: 0 for passed,
    1 for failed."""
    tree = trees.get()
    text = (tree / fault[1]).read_text() if fault else ""
    if fault:
        (tree / fault[1]).write_text(text.replace(*fault[3:]))
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not slow", *(f"tests/{name}" for name in names)]
    environment = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    environment["PYTEST_DEBUG_TEMPROOT"] = str(tree.parent)  # pytest numbers its folders: not from two runs at once
    try:
        return subprocess.run(command, cwd=tree, env=environment, stdout=subprocess.DEVNULL, check=False).returncode
    finally:
        if fault:
            (tree / fault[1]).write_text(text)
        trees.put(tree)


if __name__ == "__main__":
    sys.exit(main())
