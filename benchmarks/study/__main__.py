"""Trains what is missing of the study, and keeps every result as soon as it is there.

It may be interrupted at any time; the same command goes on. One run takes minutes, and the whole
study hours:

    python -m benchmarks.study --task classification --part compared --seeds 5
"""

import argparse
import itertools
import os
import subprocess
import sys

from benchmarks.study.plan import PARTS, SEEDS, TASKS, networks, variants
from benchmarks.study.runs import Run, carry_out, results_of

NETWORKS = list(itertools.chain.from_iterable(TASKS.values()))


def main() -> None:
    args = parse_args()
    for part, task in itertools.product(args.part, args.task):
        # Seed by seed, so that what an interruption leaves is a study of fewer seeds.
        runs = [
            Run(task, network, variant, seed)
            for seed, network, variant in itertools.product(
                range(args.seeds), networks(task, part), variants(task, part)
            )
            if network in args.network
        ]
        try:
            carry_out(runs, results_of(task), args.jobs)
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
    parser.add_argument('--part', nargs='+', choices=PARTS, default=PARTS)
    parser.add_argument('--network', nargs='+', choices=NETWORKS, default=NETWORKS)
    parser.add_argument('--seeds', type=int, default=SEEDS, help='trainings each [%(default)s]')
    parser.add_argument(
        '--jobs', type=int, default=os.cpu_count(), help='trainings at a time [%(default)s]'
    )
    return parser.parse_args()


if __name__ == '__main__':
    main()
