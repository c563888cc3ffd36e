"""Counts parameters and FLOPs of the ImageNet recipes and writes them where a reader looks.

Into configs/imagenet: one entry for each recipe in metafile.yml, and from these the table in
README.md, between two markers. A multiply-add of a convolution, a matrix product or a deformable
kernel is one FLOP; it is the whole classifier's, on one image. Needs MMPretrain: `make
imagenet-tables` runs it where that is.
"""

from pathlib import Path

import torch
import yaml
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import mmdk  # noqa: F401  (registers what recipes name, and its FLOP formulas)
from tools import recipe_files
from tools.recipe_files import ROOT

FOLDER = ROOT / 'configs' / 'imagenet'
METAFILE = FOLDER / 'metafile.yml'
README = FOLDER / 'README.md'

TARGET = 'imagenet-tables'
SIZE = 224


def main():
    metafile = yaml.safe_load(METAFILE.read_text())
    collection = metafile['Collections'][0]['Name']
    metafile['Models'] = [entry(path, collection) for path in recipes()]
    METAFILE.write_text(recipe_files.metafile_text(metafile))
    README.write_text(with_table(README.read_text(), metafile['Models']))


def recipes() -> list[Path]:
    return sorted(FOLDER.glob('*_in1k.py'))


def build(config: Config) -> nn.Module:
    init_default_scope(config.default_scope)
    return MODELS.build(config.model)


def entry(path: Path, collection: str) -> dict:
    """What metafile.yml says of a recipe that has not been trained."""
    config = Config.fromfile(path)
    return {
        'Name': path.stem,
        'In Collection': collection,
        'Config': path.relative_to(ROOT).as_posix(),
        'Metadata': {
            'Epochs': config.train_cfg.max_epochs,
            **cost(build(config)),
            'Input Size': f'{SIZE}x{SIZE}',
        },
    }


@torch.no_grad()
def cost(model: nn.Module) -> dict[str, int]:
    with FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, 3, SIZE, SIZE))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    # PyTorch counts a multiply-add as two.
    return {'Parameters': parameters, 'FLOPs': counter.get_total_flops() // 2}


def with_table(text: str, entries: list[dict]) -> str:
    """README.md with the table for these entries."""
    rows = [
        recipe_files.row(
            f'[{entry["Name"]}]({entry["Name"]}.py)', entry['Metadata'], 'not trained here'
        )
        for entry in entries
    ]
    return recipe_files.with_table(text, TARGET, rows)


if __name__ == '__main__':
    main()
