"""What is trained: the tasks, their networks, and the parts of the study."""

from benchmarks.study.variants import ABLATIONS, COMPARED

__all__ = ['PARTS', 'PLAIN', 'SEEDS', 'TASKS', 'networks', 'variants']

PLAIN = 'plain'

# A task is a module of this package; the ablations are of its first network.
TASKS = {'classification': ('R18-DW', 'MobileNetV2'), 'detection': ('R50-DW', 'R50')}

PARTS = ('compared', 'ablations')
SEEDS = 5  # trainings of each variant

# Detectors, which take longest to train, answer what may differ from classifiers: their offsets
# learn for more than three times as many steps, from layers with more channels, and they alone
# have heads.
ABLATED = {
    'classification': [
        name
        for name in ABLATIONS
        if name not in ('DK, not in the head', 'DK, scope 5, taps kept in it')
    ],
    'detection': [
        'DK, scope 5',
        'DK, all stages',
        'DK, not in the head',
        'DK, offsets learn 100 times slower',
        'DK, offsets held at zero',
        'DK, taps kept in the scope',
        # Chosen after the others: each of the two looked better, on the same images.
        'DK, scope 5, taps kept in it',
    ],
}


def networks(task: str, part: str) -> tuple[str, ...]:
    return TASKS[task] if part == 'compared' else TASKS[task][:1]


def variants(task: str, part: str) -> list[str]:
    """The rows of a table; the others are compared with the first."""
    return list(COMPARED) if part == 'compared' else ['DK', *ABLATED[task]]
