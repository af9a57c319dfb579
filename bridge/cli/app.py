"""All commands under one roof: their errors, their exit codes.

Exit codes: 0 done; 1 it could not be done, or a comparison failed; 2 the command line is wrong; 70 a bug in bridge.
"""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Annotated

import typer

from bridge._about import DISTRIBUTION, __version__

FAILED, MISUSED, INTERRUPTED, BUG = 1, 2, 130, 70

_HELP = "Compiles PyTorch models to TensorRT engines, runs and inspects them."


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"{DISTRIBUTION} {__version__}")
        raise typer.Exit


def _options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say what is being done, a line a step.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Say everything; show tracebacks of errors.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which.")] = False,
) -> None:
    """The options of every command; `main` has taken out the first two already, wherever they stood."""


def make_app() -> typer.Typer:
    """The application with all its commands."""
    from bridge.cli.bench import bench_module
    from bridge.cli.check import check_module
    from bridge.cli.compare import compare_files
    from bridge.cli.compile import compile_module
    from bridge.cli.debug import debug_module
    from bridge.cli.diff import diff_files
    from bridge.cli.engine import build_engine
    from bridge.cli.inspect import inspect_file
    from bridge.cli.profile import profile_module
    from bridge.cli.report import write_report
    from bridge.cli.run import run_module

    app = typer.Typer(
        help=_HELP,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    for name, command in (
        ("compile", compile_module),
        ("engine", build_engine),
        ("check", check_module),
        ("run", run_module),
        ("bench", bench_module),
        ("profile", profile_module),
        ("compare", compare_files),
        ("diff", diff_files),
        ("debug", debug_module),
        ("inspect", inspect_file),
        ("report", write_report),
    ):
        app.command(name, no_args_is_help=True)(command)
    if find_spec("bridge.cli.rules"):
        app.add_typer(import_module("bridge.cli.rules").app, name="rules")
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and ends the process."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    verbose = bool({"-v", "--verbose"} & set(given))
    rest = [word for word in given if word not in ("--debug", "--verbose", "-v")]
    sys.exit(_run(rest, verbose=verbose, debug=debug))


def _run(arguments: list[str], *, verbose: bool, debug: bool) -> int:
    from bridge import logging

    level = logging.debug() if debug else logging.info() if verbose else contextlib.nullcontext()
    try:
        with level:
            make_app()(arguments, prog_name="bridge", standalone_mode=True)
    except SystemExit as ended:
        return int(ended.code or 0)
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        return _failed(error, debug)
    return 0


def _failed(error: Exception, debug: bool) -> int:
    from bridge.errors import BridgeError, SpecError
    from rewrites import RewriteError

    if debug:
        traceback.print_exception(error)
    expected = isinstance(error, BridgeError | RewriteError | OSError)
    text = str(error) if expected else f"{type(error).__name__}: {error}\n  this is a bug; --debug shows where"
    typer.secho(f"error: {text}", err=True, fg=None if debug else typer.colors.RED)
    if not expected:
        return BUG
    return MISUSED if isinstance(error, SpecError) else FAILED
