"""The linear layer that weighs experts or predicts offsets from one vector for each image."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ['ZeroLinear']


class ZeroLinear(nn.Module):
    """A linear layer with bias that starts at zero: (N, C_in) -> (N, C_out).

    It must still be zero when a stock model has initialised itself, so it is no nn.Linear, nor
    called so; see :class:`mmdk.layers.offset_generator.OffsetGenerator`.

    Args:
        in_features: C_in.
        out_features: C_out.
        device: Of the parameters.
        dtype: Of the parameters.

    Example:
        >>> import torch
        >>> ZeroLinear(4, 2)(torch.randn(1, 4)).tolist()
        [[0.0, 0.0]]
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        shape = (out_features, in_features)
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(out_features, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Back to zero."""
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        out_features, in_features = self.weight.shape
        return f'{in_features}, {out_features}'
