"""Loads saved modules in a process of its own, and holds their results against those that are saved beside them."""

from __future__ import annotations

import copy
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

import bridge  # noqa: F401
import tests.modules  # noqa: F401  (its own operators)

warnings.simplefilter("ignore")


def outcomes(module: Any, calls: Any) -> list[Any]:
    """What each call gives and leaves in its arguments, twice over: state goes on from call to call."""
    found = []
    for call in [*calls, *calls]:
        arguments = copy.deepcopy(call)
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(11)
            found.append((module(*arguments), arguments))
    return found


def main(folder: Path) -> None:
    """Checks every module in the folder; ends with an error that names those that differ."""
    wrong = []
    for path in sorted(folder.glob("*.ts")):
        calls, expected, tolerance, results_only = torch.load(path.with_suffix(".pt"), weights_only=False)
        try:
            found = outcomes(torch.jit.load(path), calls)
            leaves = pytree.tree_leaves([result for result, _ in found] if results_only else found)
            assert len(leaves) == len(expected)
            for a, b in zip(leaves, expected, strict=True):
                if isinstance(b, torch.Tensor):
                    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)
                else:
                    assert a == b
        except Exception as error:
            wrong.append(f"{path.stem}: {error}")
    sys.exit("\n".join(wrong) if wrong else 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
