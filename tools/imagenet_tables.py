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

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / 'configs' / 'imagenet'
METAFILE = FOLDER / 'metafile.yml'
README = FOLDER / 'README.md'

BEGIN = '<!-- recipes: written by `make imagenet-tables` -->'
END = '<!-- end of recipes -->'
HEAD = [
    '| config | schedule | input | parameters | FLOPs | state |',
    '| --- | --- | --- | --- | --- | --- |',
]
SIZE = 224


def main():
    metafile = yaml.safe_load(METAFILE.read_text())
    collection = metafile['Collections'][0]['Name']
    metafile['Models'] = [entry(path, collection) for path in recipes()]
    METAFILE.write_text(yaml.dump(metafile, Dumper=IndentedDumper, sort_keys=False, width=100))
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


class IndentedDumper(yaml.SafeDumper):
    """Indents the items of a list, as OpenMMLab's metafiles do."""

    def increase_indent(self, flow=False, indentless=False):
        return super().increase_indent(flow, False)


def with_table(text: str, entries: list[dict]) -> str:
    """README.md with the table for these entries."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return '\n'.join([before + BEGIN, *HEAD, *map(row, entries), END + after])


def row(entry: dict) -> str:
    name, counted = entry['Name'], entry['Metadata']
    cells = [
        f'[{name}]({name}.py)',
        f'{counted["Epochs"]} epochs',
        counted['Input Size'],
        f'{counted["Parameters"] / 1e6:.2f} M',
        f'{counted["FLOPs"] / 1e9:.2f} G',
        'not trained here',
    ]
    return f'| {" | ".join(cells)} |'


if __name__ == '__main__':
    main()
