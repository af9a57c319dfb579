"""Lanes: the steps of one GPU, one at a time, each in a process of its own, made ready while the one before runs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import torch

Row = dict[str, Any]
_LEAST = 5.0
_alive: weakref.WeakSet[_Process] = weakref.WeakSet()


@dataclass(frozen=True)
class Job:
    """A step: ``build`` (by one compiler), ``time`` (all that is built of a model), ``peer`` (torch.compile).

    Attributes:
        build: the first build's number.
        builds: how many follow one another in one process.
    """

    model: str
    step: str
    compiler: str | None
    build: int | None
    builds: int = 1

    def told(self) -> Row:
        """Its row's key; torch.compile's figures are rows like others."""
        step = "time" if self.step == "peer" else self.step
        return {"model": self.model, "step": step, "compiler": self.compiler, "build": self.build}

    def __str__(self) -> str:
        return ".".join(str(part) for part in (self.model, self.step, self.compiler, self.build) if part is not None)


class Work(Protocol):
    """What a lane asks of the benchmark."""

    arguments: Any
    folder: Path
    end: float

    def next_package(self) -> list[Job]: ...
    def keep(self, rows: list[Row]) -> None: ...


def visible_gpus() -> list[str]:
    """The names under which CUDA shows the GPUs; one empty name where there is none."""
    told = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return told or [str(index) for index in range(torch.cuda.device_count())] or [""]


class Lane:
    """One GPU. A failure or a crash is a row; the jobs after it go on."""

    def __init__(self, gpu: str, lanes: int, work: Work) -> None:
        self.gpu, self.work = gpu, work
        cores = max(1, (os.cpu_count() or 1) // lanes)
        folders = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, folders)),
            "CUDA_VISIBLE_DEVICES": gpu,
            "OMP_NUM_THREADS": str(max(1, cores // 2)),
            "TORCHINDUCTOR_COMPILE_THREADS": str(cores),
            "TORCHINDUCTOR_CACHE_DIR": str(work.folder / "inductor"),
        }

    def run(self) -> None:
        jobs = self._jobs()
        job = next(jobs, None)
        process = self._start(job) if job else None
        while job and process:
            following = next(jobs, None)
            made_ready = self._start(following) if following else None
            self.work.keep(self._finished(job, process))
            job, process = following, made_ready

    def _jobs(self) -> Iterator[Job]:
        while self.work.end - time.monotonic() > _LEAST and (package := self.work.next_package()):
            yield from package

    def _start(self, job: Job) -> _Process:
        words = ["-W", "ignore", "-m", "gpu_bench.steps", job.step, job.model, str(job.compiler), f"{job.build}"]
        given = [str(job.builds), str(self.work.arguments.seconds), str(self.work.folder)]
        return _Process([sys.executable, *words, *given], self.environment, self.work.folder / f"{job}.log")

    def _finished(self, job: Job, process: _Process) -> list[Row]:
        """Lets the job's process go on, waits for it, and gives the rows that it wrote."""
        arguments, left = self.work.arguments, self.work.end - time.monotonic()
        own = left - arguments.reserve if job.step == "build" else left
        seconds = min(arguments.cap, own)
        failed = process.run(seconds) if seconds > _LEAST else process.end()
        found = self.work.folder / f"{job}.jsonl"
        rows = [json.loads(line) for line in found.read_text().splitlines()] if found.exists() else []
        found.unlink(missing_ok=True)
        out_of_time = seconds < arguments.cap and process.ran_out
        if failed and not out_of_time:
            rows.append({**job.told(), "failed": failed})
        return [{**row, "gpu": self.gpu} for row in rows]


class _Process:
    """A step that makes itself ready, and begins when it is told to."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path) -> None:
        self.log, self.ran_out = log, False
        self._words: IO[bytes] = log.open("wb")
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=self._words,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        _alive.add(self)

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def run(self, seconds: float) -> str | None:
        """Why it failed, None when it did not."""
        try:
            self._process.communicate(b"go\n", timeout=seconds)
        except subprocess.TimeoutExpired:
            self.end()
            return f"not done after {seconds:.0f} s"
        self._words.close()
        if self._process.returncode == 0:
            return None
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return " | ".join(lines[-3:])[-600:] or f"it ended with {self._process.returncode}"

    def end(self) -> None:
        """Ends it, and what it has started."""
        self.ran_out = True
        self.kill()
        self._process.wait()
        self._words.close()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


def end_all(*_: object) -> None:
    """Ends every step and this process: for signals."""
    for process in list(_alive):
        if process.is_running:
            process.kill()
    os._exit(143)
