"""Options that every command shares, and the one place where an error becomes an exit code."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from nuclr_cli.cli.console import Console
from nuclr_cli.disk_errors import is_full
from nuclr_cli.errors import InputError, MissingPackageError, NuclrError, exit_code_of

ConfigFile = Annotated[
    Path | None, typer.Option("--config", metavar="FILE.toml", help="Settings file; unknown keys fail.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one setting, e.g. train.steps=500. Repeatable."),
]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of every random draw.")]
CacheFolder = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        metavar="FOLDER",
        help="Read sessions through copies here. For a URL by default $NUCLR_CACHE or the platform's folder.",
    ),
]
CacheSize = Annotated[
    float | None,
    typer.Option("--cache-size", metavar="GB", help="Most that the cache may hold. Default: no limit."),
]
WHERE = "Where it runs"
"""Panel of the options that say where, and how much of it at once."""

DaskAddress = Annotated[
    str | None,
    typer.Option(
        "--dask",
        metavar="ADDRESS",
        help="Run on the workers of this Dask scheduler, instead of --jobs here.",
        rich_help_panel=WHERE,
    ),
]

_SHARED: dict[str, Any] = {
    "json_output": Annotated[bool, typer.Option("--json", help="Exactly one JSON document on stdout.")],
    "quiet": Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings, errors and the result.")],
    "verbose": Annotated[bool, typer.Option("--verbose", "-v", help="More details.")],
    "debug": Annotated[bool, typer.Option("--debug", help="Full traceback on errors.")],
}

# Import names whose package has another name.
_PACKAGE_OF = {"sklearn": "scikit-learn", "lightning_fabric": "lightning-fabric"}


def command(
    app: typer.Typer, name: str, *, panel: str | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as a subcommand; its first parameter receives the `Console`.

    ``--json --quiet --verbose --debug`` are added, and errors become exit codes: 3 bad input,
    4 a missing package, 130/143 stopped by a signal, 1 a bug.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(function, eval_str=True)
        own = list(signature.parameters.values())[1:]
        shared = [
            inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation)
            for key, annotation in _SHARED.items()
        ]

        @functools.wraps(function)
        def run(**values: Any) -> None:
            console = Console(**{key: values.pop(key) for key in _SHARED})
            guarded(console, lambda: function(console, **values))

        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own] + shared
        del run.__wrapped__  # typer would follow it to the original signature
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        app.command(name, rich_help_panel=panel)(run)
        return function

    return register


def guarded(console: Console, work: Callable[[], None]) -> None:
    """Run `work`; turn what it raises into a message and an exit code."""
    try:
        work()
    except NuclrError as error:
        if console.debug:
            console.err.print_exception()
        console.error(error)
        raise typer.Exit(error.exit_code) from None
    except ModuleNotFoundError as error:
        if console.debug:
            console.err.print_exception()
        module = (error.name or "").partition(".")[0]
        missing = MissingPackageError(_PACKAGE_OF.get(module, module), "This command")
        console.error(missing)
        raise typer.Exit(exit_code_of(error)) from None
    except KeyboardInterrupt as error:
        console.err.print("stopped")
        raise typer.Exit(exit_code_of(error)) from None
    except (typer.Exit, typer.Abort, typer.BadParameter):
        raise
    except BrokenPipeError:
        raise typer.Exit(0) from None
    except OSError as error:
        if error.filename is None and is_full(error):
            full = InputError(
                f"What the command has to say could not be written: {error.strerror}.",
                "Free space where its output goes, or send it elsewhere, and give the command again.",
            )
            console.error(full)
            raise typer.Exit(full.exit_code) from None
        if error.filename is None:
            _bug(console, error)
        if console.debug:
            console.err.print_exception()
        console.error(
            InputError(f"{error.filename}: {error.strerror}.", "Check that path and its permissions.")
        )
        raise typer.Exit(exit_code_of(error)) from None
    except Exception as error:
        _bug(console, error)


def _bug(console: Console, error: Exception) -> NoReturn:
    if console.debug:
        console.err.print_exception()
    bug = NuclrError(
        f"This is a bug in nuclr: {type(error).__name__}: {error}",
        "" if console.debug else "Run the same command with --debug and report what it prints.",
    )
    bug.exit_code = 1
    console.error(bug)
    raise typer.Exit(1) from None
