"""Counts parameters and FLOPs of the COCO recipes and writes them where a reader looks.

Each folder of `configs/` with recipes gets a table in its README.md, between two markers, and an
entry for each recipe in its metafile.yml. `--check` writes nothing and fails where they differ.

A multiply-add of a convolution, a matrix product or a deformable kernel is one FLOP, as in
MMDetection's `get_flops.py`, on one image of the size that the recipe tests with, padded as the
detector pads it. `get_flops.py` also counts normalisation and interpolation, 2 % at most.
"""

import argparse
import copy
import difflib
import functools
import re
import sys
from collections.abc import Iterable
from pathlib import Path

import torch
import yaml
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.logging import MMLogger
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode, flop_registry

import mmdk  # noqa: F401  (registers what recipes name, and its FLOP formulas)
from tools import recipe_files
from tools.recipe_files import ROOT

TARGET = 'coco-tables'


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('folders', nargs='*', help='folders inside configs/; default: all')
    parser.add_argument('--check', action='store_true', help='compare only; fail if they differ')
    options = parser.parse_args(args)
    known = folders()
    unknown = sorted(set(options.folders) - {folder.name for folder in known})
    if unknown:
        names = ', '.join(folder.name for folder in known)
        raise SystemExit(f'error: no recipes in configs/{unknown[0]}; there are some in {names}.')
    register_all_modules(init_default_scope=True)
    differ = False
    for folder in known:
        if not options.folders or folder.name in options.folders:
            differ |= update(folder, options.check)
    if differ and options.check:
        raise SystemExit('error: the tables above are not up to date; run `make coco-tables`.')


def folders() -> list[Path]:
    return sorted({path.parent for path in ROOT.glob('configs/*/*_coco.py')})


def recipes(folder: Path) -> list[Path]:
    return sorted(folder.glob('*_coco.py'))


def update(folder: Path, check: bool) -> bool:
    """Write, or with `check` print, what is not up to date; whether anything was not."""
    differ = False
    metafile = folder / 'metafile.yml'
    index = yaml.safe_load(metafile.read_text())
    for path, new in (
        (metafile, metafile_text(folder, index)),
        (folder / 'README.md', readme_text(folder, index)),
    ):
        old = path.read_text()
        differ |= new != old
        if check:
            sys.stdout.writelines(diff(path, old, new))
        else:
            path.write_text(new)
    return differ


def diff(path: Path, old: str, new: str) -> Iterable[str]:
    name = str(path.relative_to(ROOT))
    lines = (old.splitlines(keepends=True), new.splitlines(keepends=True))
    return difflib.unified_diff(*lines, f'{name} as it is', f'{name} as counted')


# What a recipe is


@functools.cache
def load(name: str) -> Config:
    """A config of this project by its path from the root, or MMDetection's as 'mmdet::...'."""
    return get_config(name) if '::' in name else Config.fromfile(ROOT / name)


def baseline(name: str) -> str:
    """The config without deformable kernels that a recipe changes: the first of another folder."""
    path = ROOT / name
    base = re.search(r"^_base_ = '(.+)'$", path.read_text(), re.MULTILINE)
    if base is None:
        raise SystemExit(f"error: {name} has no line `_base_ = '...'` with a single base.")
    if '::' in base[1]:
        return base[1]
    parent = (path.parent / base[1]).resolve()
    parent_name = parent.relative_to(ROOT).as_posix()
    return baseline(parent_name) if parent.parent == path.parent else parent_name


# What it costs


@functools.cache
def cost(name: str) -> dict[str, int | str]:
    """What metafile.yml says of a config."""
    print(f'counting {name}', file=sys.stderr)
    loop = load(name).train_cfg
    schedule = (
        {'Epochs': loop.max_epochs} if 'max_epochs' in loop else {'Iterations': loop.max_iters}
    )
    model, data = tested(name)
    with Skip(), FlopCounterMode(display=False) as counter:
        model(**data)
    height, width = data['inputs'].shape[2:]
    return {
        **schedule,
        'Parameters': sum(parameter.numel() for parameter in model.parameters()),
        # PyTorch counts a multiply-add as two.
        'FLOPs': counter.get_total_flops() // 2,
        'Input Size': f'{width}x{height}',
    }


def tested(name: str) -> tuple[nn.Module, dict]:
    """A recipe's model, and what it is called with for an image of the size it tests with."""
    config = load(name)
    # Some detectors write into the config they are built from.
    model = MODELS.build(copy.deepcopy(config.model)).eval()
    image = torch.zeros((3, *tested_size(config)), dtype=torch.uint8)
    sample = DetDataSample(metainfo=dict(img_shape=image.shape[1:], ori_shape=image.shape[1:]))
    return model, model.data_preprocessor(dict(inputs=[image], data_samples=[sample]))


def tested_size(config: Config) -> tuple[int, int]:
    """Height and width of the largest image that the test pipeline makes."""
    (resize,) = (s for s in config.test_dataloader.dataset.pipeline if s.type == 'Resize')
    width, height = resize.scale
    return height, width


class Skip(TorchDispatchMode):
    """Gives zeros for what takes long to compute; its shape is all that a count needs.

    Zeros are no special case where the number of boxes matters: of equal scores and anchors that
    nothing moved, the RPN keeps as many proposals as a recipe allows.
    """

    operators = {*flop_registry, torch.ops.aten.native_batch_norm, torch.ops.aten.grid_sampler_2d}

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if operator.overloadpacket not in self.operators:
            return operator(*args, **kwargs)
        args, kwargs = tree_map_only(torch.Tensor, lambda x: x.to('meta'), (args, kwargs))
        shapes = operator(*args, **kwargs)
        return tree_map_only(torch.Tensor, lambda x: torch.zeros_like(x, device='cpu'), shapes)


# Where a reader looks


def metafile_text(folder: Path, index: dict) -> str:
    """The metafile with one entry for each recipe; entries of other configs stay as they are."""
    entries = {entry['Config']: entry for entry in index['Models']}
    collection = index['Collections'][0]['Name']
    for recipe in recipes(folder):
        name = recipe.relative_to(ROOT).as_posix()
        entry = entries.setdefault(
            name, {'Name': recipe.stem, 'In Collection': collection, 'Config': name}
        )
        entry['Metadata'] = cost(name)
    models = [entries[name] for name in sorted(entries) if (ROOT / name).exists()]
    return recipe_files.metafile_text({**index, 'Models': models})


def readme_text(folder: Path, index: dict) -> str:
    lines = rows(folder, index)
    try:
        return recipe_files.with_table((folder / 'README.md').read_text(), TARGET, lines)
    except ValueError as error:
        raise SystemExit(f'error: {folder.relative_to(ROOT)}/README.md: {error}') from error


def rows(folder: Path, index: dict) -> list[str]:
    """A row for each recipe, below a row for the config that it changes."""
    trained = {entry['Config'] for entry in index['Models'] if 'Results' in entry}
    by_baseline = {}
    for recipe in recipes(folder):
        name = recipe.relative_to(ROOT).as_posix()
        by_baseline.setdefault(baseline(name), []).append(name)
    lines = []
    for plain, names in by_baseline.items():
        lines.append(recipe_files.row(f'*{title(plain, folder)}*', cost(plain), ''))
        for name in names:
            state = 'trained' if name in trained else 'not trained here'
            lines.append(recipe_files.row(title(name, folder), cost(name), state, cost(plain)))
    return lines


def title(name: str, folder: Path) -> str:
    if '::' in name:
        return f'MMDetection: {Path(name.partition("::")[2]).stem}'
    path = ROOT / name
    link = path.name if path.parent == folder else f'../{path.parent.name}/{path.name}'
    return f'[{path.stem}]({link})'


if __name__ == '__main__':
    # What is swapped and lifted is no news here.
    MMLogger.get_instance('coco_tables', log_level='WARNING')
    main()
