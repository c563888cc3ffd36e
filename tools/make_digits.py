"""Makes the `digits` detection set: handwritten digits, warped, on noise, in COCO format.

For example, a harder set:
    python tools/make_digits.py --out data/digits-hard --rotation 90 --scale 2 6 --seed 1
"""

import argparse
import dataclasses
import sys
import time

from mmdk.detection.digits import DigitsOptions, make_digits


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--out', default='data/digits', help='folder to make [data/digits]')
    for field in dataclasses.fields(DigitsOptions):
        add_option(parser, field)
    return parser.parse_args()


def add_option(parser: argparse.ArgumentParser, field: dataclasses.Field) -> None:
    """Adds the command-line option of one field of DigitsOptions."""
    flag = '--' + field.name.replace('_', '-')
    if isinstance(field.default, tuple):
        low, high = field.default
        parser.add_argument(
            flag,
            type=type(low),
            nargs=2,
            default=field.default,
            metavar=('LOW', 'HIGH'),
            help=f'{field.metadata["help"]} [{low} {high}]',
        )
    else:
        parser.add_argument(
            flag,
            type=type(field.default),
            default=field.default,
            metavar='N',
            help=f'{field.metadata["help"]} [{field.default}]',
        )


def options_of(args: argparse.Namespace) -> DigitsOptions:
    values = {field.name: getattr(args, field.name) for field in dataclasses.fields(DigitsOptions)}
    return DigitsOptions(
        **{
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
        }
    )


def main() -> None:
    args = parse_args()
    start = time.perf_counter()
    try:
        written = make_digits(args.out, options_of(args))
    except (ValueError, FileExistsError) as error:
        sys.exit(f'make_digits: {error}')
    if written:
        print(f'Wrote {args.out} in {time.perf_counter() - start:.1f} s.')
    else:
        print(f'{args.out} is there already.')


if __name__ == '__main__':
    main()
