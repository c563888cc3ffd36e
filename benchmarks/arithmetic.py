"""The arithmetic that an operator needs, whatever a kernel spends."""

from math import prod

from benchmarks.cases import Case


def multiply_adds(case: Case) -> int:
    """Multiply-adds of one forward call.

    A bilinear look-up takes 4. With a kernel for every position there are two ways, of which
    the cheaper counts: look every weight up and multiply (depthwise), or spread every tap over the
    scope and multiply with that (dense; see :mod:`mmdk.ops`). With one kernel for all positions it
    is a convolution's K*K.
    """
    batch, channels = case.shape[:2]
    group_channels, taps = channels // case.conv_groups, case.kernel**2
    if case.kernel_offset == 'local':
        sampled = (4 + 1) * taps * group_channels * channels
        resampled = 4 * taps * channels + case.scope**2 * group_channels * channels
        per_position = min(sampled, resampled)
    else:
        per_position = taps * group_channels * channels
    per_position += (4 * case.image_offset + case.mask) * taps * channels
    return batch * prod(case.out_size) * per_position
