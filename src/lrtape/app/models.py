"""Small models to train. Their layers have names, so that layer-wise learning rates can be read."""

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

from torch import Tensor, nn


class MLP(nn.Module):
    """Fully connected layers ``layer1``, ``layer2``, ..., with ReLU between them.

    Args:
        in_features: numbers in one sample, whatever its shape: (batch, ...) is flattened.
        hidden: width of each hidden layer; none makes one linear layer.
        out_features: numbers in one output, of shape (batch, out_features).
    """

    def __init__(self, in_features: int, hidden: Sequence[int], out_features: int) -> None:
        super().__init__()
        widths = [in_features, *hidden, out_features]
        for index, (fan_in, fan_out) in enumerate(pairwise(widths), start=1):
            self.add_module(f"layer{index}", nn.Linear(fan_in, fan_out))

    def forward(self, inputs: Tensor) -> Tensor:
        """(batch, ...) to (batch, out_features)."""
        first, *others = self.children()
        outputs = first(inputs.flatten(start_dim=1))
        for layer in others:
            outputs = layer(outputs.relu())
        return cast("Tensor", outputs)


class CNN(nn.Module):
    """Convolutions ``conv1``, ``conv2``, ..., each followed by ReLU, then one linear ``head`` on a 2 x 2 average.

    Args:
        in_channels: of the pictures, of shape (batch, in_channels, height, width).
        channels: of each convolution.
        out_features: numbers in one output, of shape (batch, out_features).
    """

    def __init__(self, in_channels: int, channels: Sequence[int], out_features: int) -> None:
        super().__init__()
        widths = [in_channels, *channels]
        for index, (before, after) in enumerate(pairwise(widths), start=1):
            self.add_module(f"conv{index}", nn.Conv2d(before, after, kernel_size=3, padding=1))
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.head = nn.Linear(widths[-1] * 4, out_features)

    def forward(self, inputs: Tensor) -> Tensor:
        """(batch, in_channels, height, width) to (batch, out_features)."""
        outputs = inputs
        for name, layer in self.named_children():
            if name.startswith("conv"):
                outputs = layer(outputs).relu()
        return cast("Tensor", self.head(self.pool(outputs).flatten(start_dim=1)))
