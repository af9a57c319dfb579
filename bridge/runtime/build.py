"""``python -m bridge.runtime.build``: compiles the operator's C++ implementation for the PyTorch that is installed.

It takes a C++20 compiler and the headers of TensorRT 10.1 or newer, which come with TensorRT's archive and Debian
packages, or from ``include/`` of github.com/NVIDIA/TensorRT at the tag of the version in use: PyPI's packages have the
libraries only. CUDA's headers are those of the toolkit, or of the packages that PyTorch brings.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch.utils import cpp_extension

from bridge.errors import BridgeError
from bridge.runtime.native import BUILD, SOURCES, default_path

_FLAGS = ("-std=c++20", "-O2", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wno-deprecated-declarations")
_LIBRARIES = ("-ltorch_cuda", "-ltorch_cpu", "-lc10_cuda", "-lc10")
_SYSTEM = (Path("/usr/include"), Path("/usr/include/x86_64-linux-gnu"), Path("/usr/include/aarch64-linux-gnu"))


def build(output: Path | None = None, tensorrt: Path | None = None, cuda: Path | None = None) -> Path:
    """Compiles the library.

    Args:
        output: the file to write; None: where `import bridge` finds it.
        tensorrt: directory with TensorRT's ``include``; None: ``TENSORRT_ROOT``, or the system's headers.
        cuda: directory with CUDA's ``include``; None: the toolkit's, or those beside PyTorch.

    Returns:
        The library's path.

    Raises:
        BridgeError: headers or the compiler are missing, or it refused; with its own words.
    """
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        raise BridgeError("there is no C++ compiler here", hint="install g++ 10 or newer, or set CXX")
    includes = [*map(Path, cpp_extension.include_paths()), *_cuda_headers(cuda), _tensorrt_headers(tensorrt)]
    target = default_path() if output is None else output
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = _compile(compiler, includes, Path(folder))
        made.replace(target)  # at once: a process that starts meanwhile finds the whole file or none
    return target


def _compile(compiler: str, includes: Iterable[Path], folder: Path) -> Path:
    flags = [*_FLAGS, *(part for path in includes for part in ("-isystem", str(path)))]
    sources = sorted(SOURCES.glob("*.cpp"))
    objects = [folder / f"{source.stem}.o" for source in sources]
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        commands = [
            [compiler, "-c", *flags, str(source), "-o", str(out)] for source, out in zip(sources, objects, strict=True)
        ]
        list(pool.map(_run, commands))
    libraries = Path(torch.__file__).parent / "lib"
    made = folder / "library.so"
    search = [f"-L{libraries}", f"-Wl,-rpath,{libraries}"]
    _run([compiler, "-shared", *map(str, objects), *search, *_LIBRARIES, "-ldl", "-o", str(made)])
    return made


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BridgeError(f"{command[0]} failed on {command[2]}", why=done.stderr.strip() or None)


def _tensorrt_headers(root: Path | None) -> Path:
    named = root or (Path(os.environ["TENSORRT_ROOT"]) if "TENSORRT_ROOT" in os.environ else None)
    places = [*_SYSTEM] if named is None else [named / "include", named]
    for place in places:
        if (place / "NvInferRuntime.h").is_file():
            return place
    raise BridgeError(
        "TensorRT's headers are not found",
        why=f"there is no NvInferRuntime.h in {', '.join(map(str, places))}",
        hint="--tensorrt-root DIR, or TENSORRT_ROOT: a directory whose include/ has the headers of the TensorRT in use",
    )


def _cuda_headers(root: Path | None) -> list[Path]:
    """The toolkit's; else those of PyTorch's CUDA packages, and for what these leave out, of Triton's."""
    toolkit = root or (Path(cpp_extension.CUDA_HOME) if cpp_extension.CUDA_HOME else None)
    if toolkit is not None and (toolkit / "include" / "cuda_runtime_api.h").is_file():
        return [toolkit / "include"]
    packages = Path(torch.__file__).parent.parent
    places = [*packages.glob("nvidia/*/include"), packages / "triton" / "backends" / "nvidia" / "include"]
    if not any((place / "cuda_runtime_api.h").is_file() for place in places):
        raise BridgeError("CUDA's headers are not found", hint="--cuda-root DIR, or CUDA_HOME: the CUDA toolkit")
    return places


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 when the library is built."""
    parser = argparse.ArgumentParser(prog=BUILD, description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tensorrt-root", type=Path, help="directory with TensorRT's include/ (or TENSORRT_ROOT)")
    parser.add_argument("--cuda-root", type=Path, help="directory of the CUDA toolkit (or CUDA_HOME)")
    parser.add_argument("--output", type=Path, help="the file to write, instead of where bridge looks for it")
    chosen = parser.parse_args(arguments)
    try:
        print(build(chosen.output, chosen.tensorrt_root, chosen.cuda_root))
    except BridgeError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
