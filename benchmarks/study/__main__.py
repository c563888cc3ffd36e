"""Trains what is missing of the study, and keeps every result as soon as it is there.

It may be interrupted at any time; the same command goes on. One run takes minutes, and the whole
study hours:

    python -m benchmarks.study --task classification --part compared --seeds 5
"""

import argparse
import importlib
import itertools
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.study.runs import Results, Run, carry_out
from benchmarks.study.variants import ABLATIONS, COMPARED

RESULTS = Path(__file__).parents[1] / 'results'
TASKS = {'classification': ('R18-DW', 'MobileNetV2'), 'detection': ('R50-DW', 'R50')}
PARTS = {'compared': COMPARED, 'ablations': ABLATIONS}


def main() -> None:
    args = parse_args()
    for part, task in itertools.product(args.part, args.task):
        settings = importlib.import_module(f'benchmarks.study.{task}').SETTINGS
        results = Results(RESULTS / f'study_{task}.json', settings)
        networks = TASKS[task] if part == 'compared' else TASKS[task][:1]
        # Seed by seed, so that what an interruption leaves is a study of fewer seeds.
        runs = [
            Run(task, network, variant, seed)
            for seed, network, variant in itertools.product(
                range(args.seeds), networks, PARTS[part]
            )
        ]
        try:
            carry_out(runs, results, args.jobs)
        except KeyboardInterrupt:
            sys.exit('\nInterrupted; the same command goes on.')
        except subprocess.CalledProcessError:
            sys.exit('study: a training failed; its own message is above.')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='python -m benchmarks.study',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--task', nargs='+', choices=TASKS, default=list(TASKS))
    parser.add_argument('--part', nargs='+', choices=PARTS, default=list(PARTS))
    parser.add_argument('--seeds', type=int, default=5, help='trainings each [%(default)s]')
    parser.add_argument(
        '--jobs', type=int, default=os.cpu_count(), help='trainings at a time [%(default)s]'
    )
    return parser.parse_args()


if __name__ == '__main__':
    main()
