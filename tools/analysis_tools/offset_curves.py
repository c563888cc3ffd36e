"""Draws how offsets changed while a model was trained with OffsetHook.

For example, of a training with `custom_hooks = [dict(type='OffsetHook')]` in its config:

    python tools/analysis_tools/offset_curves.py work_dirs/my_config

It writes a picture and, with the same name, a JSON file of the numbers in it. Any model will do,
not only detectors.
"""

import argparse
from pathlib import Path

from mmdk.analysis import plot_offset_curves, read_offset_curves
from mmdk.analysis.command_line import (
    add_picture_arguments,
    check_output,
    errors_for_people,
    save,
)


def main() -> None:
    args = parse_args()
    with errors_for_people('offset_curves'):
        check_output(args)
        curves = read_offset_curves(args.work_dir)
        save(
            args, plot_offset_curves(curves), {'/'.join(key): each for key, each in curves.items()}
        )


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('work_dir', type=Path, help='what train.py was given as its --work-dir')
    add_picture_arguments(parser, 'offset_curves.png')
    return parser.parse_args()


if __name__ == '__main__':
    main()
