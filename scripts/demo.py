"""From a module to an engine and back, on real data: LeNet on scikit-learn's digits, ResNet-18 on a photograph.

Each module is compiled and saved; a fresh process, which imports nothing but torch and bridge, loads it and runs it;
what it gives is compared with what the module gave before.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

import bridge
from bridge.report import amount, seconds
from bridge.report.terminal import grid, to_text

FRESH_PROCESS = """
import sys, statistics, time, torch, bridge
model, inputs, outputs, device = sys.argv[1:]
module, x = torch.jit.load(model).to(device), torch.load(inputs).to(device)
def call():
    start = time.perf_counter()
    y = module(x)
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, y
times = [call()[0] for _ in range(6)]
torch.save((call()[1].cpu(), statistics.median(times[1:])), outputs)
"""


class LeNet(nn.Module):
    """LeNet-5 for one-channel images of 32 x 32."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc1(torch.flatten(x, 1)))
        return self.fc3(F.relu(self.fc2(x)))


def digits() -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """(images, labels) to train with and to test with; images are (n, 1, 32, 32), from 0 to 1."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    small = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    images = F.interpolate(small, size=(32, 32), mode="bilinear")
    train, test = train_test_split(range(len(images)), test_size=0.2, random_state=0, stratify=labels)
    answers = torch.tensor(labels)
    return (images[train], answers[train]), (images[test], answers[test])


def photograph() -> torch.Tensor:
    """A real photograph, (1, 3, 224, 224), normalised as ImageNet's models want it."""
    from sklearn.datasets import load_sample_image

    picture = torch.tensor(load_sample_image("china.jpg")).permute(2, 0, 1)[None].float() / 255
    small = F.interpolate(picture, size=(224, 224), mode="bilinear", antialias=True)
    mean, spread = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (small - mean.view(1, 3, 1, 1)) / spread.view(1, 3, 1, 1)


def train(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, epochs: int = 8) -> float:
    """Trains in place; gives back the seconds it took."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    start = time.perf_counter()
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    model.eval()
    return time.perf_counter() - start


def accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of right answers."""
    return (logits.argmax(1) == labels).float().mean().item()


def median_time(module: nn.Module, x: torch.Tensor) -> float:
    """Seconds a call."""
    times = []
    for _ in range(6):
        start = time.perf_counter()
        module(x)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


class Trial:
    """One module, compiled and saved, with what became of it."""

    def __init__(self, name: str, module: torch.jit.ScriptModule, inputs: list[bridge.Input], folder: Path) -> None:
        self.name, self.module, self.folder = name, module, folder
        start = time.perf_counter()
        compiled = bridge.compile(module, inputs=inputs)
        self.build_time = time.perf_counter() - start
        self.file = folder / "model_trt.ts"
        torch.jit.save(compiled, str(self.file))
        headers = [engine.header for engine in bridge.inspect(compiled, layers=False).engines]
        self.backend = headers[0].backend if headers else "pytorch"
        self.made = f"{headers[0].backend} {headers[0].version}" if headers else "PyTorch only"

    def run_in_a_fresh_process(self, x: torch.Tensor) -> tuple[torch.Tensor, float]:
        """(outputs, seconds a call) of the saved module."""
        inputs, outputs = self.folder / "inputs.pt", self.folder / "outputs.pt"
        torch.save(x, inputs)
        device = "cuda" if self.backend.startswith("tensorrt") else "cpu"
        words = [sys.executable, "-W", "ignore", "-c", FRESH_PROCESS, self.file, inputs, outputs, device]
        subprocess.run(list(map(str, words)), check=True)
        result: tuple[torch.Tensor, float] = torch.load(outputs)
        return result

    def compare(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, list[object]]:
        """The outputs before and after, and the figures of the table."""
        with torch.no_grad():
            before, time_before = self.module(x), median_time(self.module, x)
        after, time_after = self.run_in_a_fresh_process(x)
        difference = (before - after).abs().max().item()
        assert difference < 1e-2 * (1 + before.abs().max().item()), f"{self.name}: the outputs differ by {difference}"
        return before, after, [f"{difference:.2g}", seconds(time_before), seconds(time_after)]


def captured(model: nn.Module, example: torch.Tensor) -> dict[str, torch.jit.ScriptModule]:
    """The module traced and scripted."""
    return {"traced": torch.jit.trace(model, example), "scripted": torch.jit.script(model)}


def lenet(folder: Path) -> str:
    """Trains LeNet, compiles it twice, and tells how it went on the digits that it was not trained with."""
    (images, labels), (unseen, answers) = digits()
    model = LeNet()
    took = train(model, images, labels)
    print(f"LeNet: trained on {len(images):,} digits in {seconds(took)}")
    shapes = {"min_shape": (1, 1, 32, 32), "opt_shape": (64, 1, 32, 32), "max_shape": (len(unseen), 1, 32, 32)}
    rows = []
    for kind, module in captured(model, unseen[:2]).items():
        trial = Trial(f"LeNet, {kind}", module, [bridge.Input(("batch", 1, 32, 32), **shapes)], folder)
        before, after, figures = trial.compare(unseen)
        right = [f"{accuracy(logits, answers):.2%}" for logits in (before, after)]
        rows.append(
            [trial.name, trial.made, seconds(trial.build_time), amount(trial.file.stat().st_size), *right, *figures]
        )
    headers = ["accuracy", "after", "largest difference", f"{len(unseen)} images", "after"]
    return to_text(grid("", ["module", "backend", "compiled in", "file", *headers], rows))


def resnet(folder: Path) -> str:
    """Compiles ResNet-18 for a dynamic batch and calls it with a photograph at several batch sizes."""
    from torchvision.models import resnet18

    picture = photograph()
    shapes = {"min_shape": (1, 3, 224, 224), "opt_shape": (4, 3, 224, 224), "max_shape": (8, 3, 224, 224)}
    wanted = bridge.Input(("batch", 3, 224, 224), **shapes, example=picture.repeat(4, 1, 1, 1))
    rows = []
    for kind, module in captured(resnet18().eval(), picture).items():
        trial = Trial(f"ResNet-18, {kind}", module, [wanted], folder)
        for batch in (1, 4):
            before, after, figures = trial.compare(torch.stack([picture[0].roll(shift, -1) for shift in range(batch)]))
            same = f"{(before.argmax(1) == after.argmax(1)).float().mean().item():.0%}"
            rows.append([trial.name, trial.made, seconds(trial.build_time), str(batch), same, *figures])
    headers = ["batch", "same class", "largest difference", "a call", "after"]
    return to_text(grid("", ["module", "backend", "compiled in", *headers], rows))


def main() -> None:
    """Runs both."""
    warnings.filterwarnings("ignore", message=".*torch.jit.*")  # PyTorch's deprecation notices
    torch.manual_seed(0)
    if not torch.cuda.is_available():
        print("No NVIDIA GPU here: ONNX Runtime runs, on the CPU, the very graphs that TensorRT would get.\n")
    with tempfile.TemporaryDirectory() as name:
        print(lenet(Path(name)))
        print("\nResNet-18 on a photograph (random weights; the batch size is dynamic)")
        print(resnet(Path(name)))
    print("\nNext: README.md has ten lines of use; docs/guide.md the rest.")


if __name__ == "__main__":
    main()
