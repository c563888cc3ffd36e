"""Converts a checkpoint to one of a model with deformable layers.

The file to read holds the weights of
- the model with plain convolutions: they are lifted, and the converted model first computes what
  the plain one does. init_cfg and load_from do the same while they load; a converted file also
  loads where names and shapes have to fit exactly;
- or a network with the modules of the paper's released code, hangg7/deformable-kernels: they are
  renamed and reordered, and the output stays.

Its `meta` is kept; what belongs to the run that wrote it, such as the optimizer's state, is not.
Where that run averaged weights (EMAHook), the averages are converted: MMEngine saves them as the
model's.
Nothing is written unless every entry finds its place in the model and every place its entry; only
the last layers of an image classifier may be left over.

For example, a detector; a classifier, for the backbone; and the backbone of a detector:
    convert_checkpoint.py my_config.py retinanet.pth retinanet-dk.pth
    convert_checkpoint.py my_config.py resnet50.pth resnet50-dk.pth --part backbone
    convert_checkpoint.py my_config.py retinanet.pth r50-dk.pth --part backbone --prefix backbone.
"""

import argparse
import difflib
import sys

from mmengine.config import Config, DictAction
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, init_default_scope
from torch import nn

import mmdk  # noqa: F401  (registers the layers)
from mmdk.checkpoints import check_target, convert_state_dict, read_checkpoint, write_checkpoint


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config of the model with deformable layers')
    parser.add_argument('source', help='checkpoint to read')
    parser.add_argument('target', help='checkpoint to write; never a file that is read')
    parser.add_argument(
        '--part',
        default='',
        metavar='NAME',
        help='convert for this part of the model alone, such as backbone; the file that is '
        "written then has the part's own names, as init_cfg of the part reads them",
    )
    parser.add_argument(
        '--prefix',
        default='',
        help='read only the entries whose names begin with it, such as backbone.',
    )
    parser.add_argument(
        '--leave-out',
        action='append',
        default=[],
        metavar='REGEX',
        help='entries, of the file and of the model, not to convert; the whole name has to match. '
        'What the model then lacks is not written. Can be given several times',
    )
    parser.add_argument(
        '--overwrite', action='store_true', help='replace the file to write if it exists'
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help="change settings of the config, as in MMDetection's train.py",
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    # The report says what was lifted; a line of the log for each layer would say it twice.
    MMLogger.get_current_instance().setLevel('WARNING')
    try:
        convert(args)
    except (OSError, ValueError) as error:
        sys.exit(f'convert_checkpoint: {error}')


def convert(args: argparse.Namespace) -> None:
    checkpoint = read_checkpoint(args.source)
    check_target(args.target, args.source, args.overwrite)
    model = build_part(args.config, args.cfg_options, args.part)
    check_target(args.target, args.config, args.overwrite)
    conversion = convert_state_dict(checkpoint['state_dict'], model, args.prefix, args.leave_out)
    converted = {key: checkpoint[key] for key in ('meta',) if key in checkpoint}
    converted['state_dict'] = conversion.state_dict
    write_checkpoint(converted, args.target, args.source, args.overwrite)
    print(conversion.report())
    dropped = [str(key) for key in checkpoint if key not in converted]
    if dropped:
        print(f'dropped, of the run that wrote {args.source}: {", ".join(dropped)}')
    print(f'wrote {args.target}')


def build_part(config: str, options: dict | None, part: str) -> nn.Module:
    model = build_model(config, options)
    try:
        return model.get_submodule(part)
    except AttributeError as error:
        names = [name for name, _ in model.named_modules() if name]
        close = difflib.get_close_matches(part, names, n=3) or list(dict(model.named_children()))
        raise ValueError(f'The model has no part {part!r}. Closest: {", ".join(close)}.') from error


def build_model(path: str, options: dict | None) -> nn.Module:
    """The model of a config, with weights that do not matter."""
    try:
        config = Config.fromfile(path)
        config.merge_from_dict(options or {})
    except Exception as error:  # a config is a program
        raise ValueError(f'The config {path} cannot be read: {error}') from error
    if 'model' not in config:
        raise ValueError(f'The config {path} has no model; it has {", ".join(config)}.')
    init_default_scope(config.get('default_scope', 'mmengine'))
    try:
        return MODELS.build(config.model)
    except Exception as error:  # as is a model
        raise ValueError(f'The model of {path} cannot be built: {error}') from error


if __name__ == '__main__':
    main()
