"""What is trained: the tasks, their networks, and the parts of the study."""

from benchmarks.study.variants import ABLATIONS, COMPARED

__all__ = ['PARTS', 'PLAIN', 'TASKS', 'networks']

PLAIN = 'plain'

# A task is a module of this package; the ablations are of its first network.
TASKS = {'classification': ('R18-DW', 'MobileNetV2'), 'detection': ('R50-DW', 'R50')}

# The rows of a table; the others are compared with the first.
PARTS = {'compared': list(COMPARED), 'ablations': ['DK', *ABLATIONS]}


def networks(task: str, part: str) -> tuple[str, ...]:
    return TASKS[task] if part == 'compared' else TASKS[task][:1]
