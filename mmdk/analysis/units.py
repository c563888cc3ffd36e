"""Where the units of a layer lie in the image."""

import math

__all__ = ['nearest_unit']


def nearest_unit(
    point: tuple[float, float], image_size: tuple[int, int], map_size: tuple[int, int]
) -> tuple[int, int]:
    """The unit of a layer's output that lies nearest to a point of the network's input.

    Padded convolutions, whatever their stride, have their centres over the input pixels
    index * stride. The stride is taken to be the ratio of the sizes.

    Args:
        point: (y, x), input pixels; the corner of the first pixel is the origin, as for boxes.
        image_size: Height and width of the network's input.
        map_size: Height and width of the layer's output.

    Returns:
        (y, x), indices inside the map.

    Example:
        >>> nearest_unit((16.0, 31.9), (64, 64), (8, 8))
        (2, 4)
    """
    indices = (
        math.floor((at - 0.5) * units / pixels + 0.5)
        for at, pixels, units in zip(point, image_size, map_size, strict=True)
    )
    return tuple(
        min(max(index, 0), units - 1) for index, units in zip(indices, map_size, strict=True)
    )
