"""The smallest module of two inputs, for tests of everything around compiling."""

import torch


class Scaled(torch.nn.Module):
    """``relu(x W + b) * scale`` for ``x`` of shape (n, 4) and a ``scale`` that broadcasts to (n, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 3)

    def forward(self, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.linear(x)) * scale
