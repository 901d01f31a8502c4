"""A Dask cluster that works for a command: reached, checked, given tasks, and asked for what they give.

Tasks go to `distributed` itself. joblib's Dask backend waits without end for a task that ended its worker as
often as Dask allows, and takes an array that was lost with its worker for a result.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import secrets
import sys
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from nuclr_cli import __version__
from nuclr_cli.errors import InputError, MissingPackageError, NuclrError
from nuclr_cli.wording import counted

Result = TypeVar("Result")

_CONNECT_S = 30
_LOOK_S = 0.02
_COUNT_WORKERS_S = 2.0
_WARN_S, _GIVE_UP_S = 60.0, 600.0
"""Without a worker."""
_SCHEDULER_GONE = frozenset(
    {"CancelledError", "FutureCancelledError", "FuturesCancelledError", "CommClosedError"}
)
"""Errors of distributed when it loses its scheduler; an OSError of a task is something else."""

# Said as text to a function that every Python has: a worker without nuclr can be asked, too.
_VERSIONS = "(__import__('nuclr_cli').__version__, __import__('sys').version_info[:2])"

_alone = threading.Lock()


def check_place(jobs: int | None, dask: str | None) -> None:
    """Refuse ``--jobs`` that are none, or that come with ``--dask``.

    Raises:
        InputError: Says which.
    """
    if jobs is not None and jobs < 1:
        raise InputError(f"--jobs {jobs} is below 1.", "Use --jobs 1 or more")
    if jobs is not None and dask is not None:
        raise InputError(
            "--jobs counts what runs at once on this machine, and --dask runs it on a cluster.",
            "Leave one of them out; how much runs at once on a cluster is up to its workers",
        )


class Cluster:
    """A cluster whose workers run the nuclr of this process. Made by `connect`.

    Attributes:
        address: Of its scheduler.
    """

    def __init__(self, address: str, client: Any, warn: Callable[[str], None]) -> None:
        self.address = address
        self._warn = warn
        self._client = client
        self._distributed: Any = importlib.import_module("distributed")

    def threads(self) -> list[int]:
        """Threads of each worker that is there now.

        Raises:
            InputError: The scheduler is gone.
        """
        try:
            return [int(n) for n in self._client.nthreads().values()]
        except OSError as error:
            raise _scheduler_gone(error) from error

    def require_shared(self, folder: Path, others: Sequence[Path] = ()) -> None:
        """Make sure that every worker sees the same files as this process.

        Args:
            folder: Where all of them write; a file is put there for a moment.
            others: What must be there, too.

        Raises:
            InputError: Names a worker, and what it does not see.
        """
        mark, said = folder.resolve() / f".dask-{secrets.token_hex(8)}", secrets.token_hex(8)
        try:
            mark.write_text(said)
        except OSError as error:
            raise InputError(
                f"{folder} cannot be written: {error.strerror or error}.", "Choose another folder: -o"
            ) from None
        try:
            found = self._ask(_unseen, str(mark), said, [str(path.resolve()) for path in others])
        finally:
            mark.unlink(missing_ok=True)
        for worker, unseen in found.items():
            if isinstance(unseen, BaseException):
                raise _went_wrong(unseen) from unseen
            if unseen:
                lacks = str(folder.resolve()) if unseen == str(mark) else unseen
                raise InputError(
                    f"The Dask worker {worker} does not see {lacks} as this machine does.",
                    "All workers need the data and the output under the same paths: a shared file system",
                )

    def keep(self, value: object, name: str) -> Any:
        """Send a value once, for tasks that get what this returns in its place.

        A worker hands it to another one. It comes back when the workers that had it are lost, which scattered
        data would not: the scheduler keeps it.
        """
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sending large graph", UserWarning)
            return self._client.submit(_same, value, key=f"nuclr-{name}-{secrets.token_hex(6)}")

    def results(
        self,
        function: Callable[..., Result],
        tasks: Sequence[tuple[Any, ...]],
        *,
        alone: bool,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Generator[tuple[int, Result], None, None]:
        """Call `function` with the arguments of every task; results as they come, with the task's number.

        A task whose worker is lost is begun again on another. On leaving, tasks not begun are dropped. After
        a minute without any worker there is a warning, after ten an error.

        Args:
            function: Importable.
            tasks: Arguments, also in lists, may be what `keep` returned.
            alone: One such task at a time in each process of a worker, however many threads it has.
            stopped: Where it says so and there is no worker that could hear of it, this ends early.

        Raises:
            InputError: Of a task; or a worker, or the cluster, could not do one; or all workers are gone.
        """
        series = secrets.token_hex(6)
        number = {
            self._client.submit(
                _on_worker, __version__, alone, function, list(task), key=f"nuclr-task-{series}-{n}"
            ): n
            for n, task in enumerate(tasks)
        }
        try:
            for future in self._ended(list(number), stopped):
                try:
                    result: Result = future.result()
                except Exception as error:
                    raise _went_wrong(error) from error
                yield number.pop(future), result
        finally:
            self._client.cancel(list(number))

    def _ended(self, futures: Sequence[Any], stopped: Callable[[], bool]) -> Iterator[Any]:
        """Futures as they end; looks meanwhile whether there is anybody to do them."""
        ended = self._distributed.as_completed(futures, loop=self._client.loop)
        last_seen = counted_at = time.monotonic()
        warned = False
        while not ended.is_empty():
            if ended.has_ready():
                yield next(ended)
                last_seen = time.monotonic()
                continue
            time.sleep(_LOOK_S)
            now = time.monotonic()
            if now - counted_at < _COUNT_WORKERS_S:
                continue
            counted_at = now
            with contextlib.suppress(InputError):  # a scheduler that is gone ends the futures, too
                if self.threads():
                    last_seen, warned = now, False
                elif stopped():
                    return
            if now - last_seen > _GIVE_UP_S:
                raise InputError(
                    f"The Dask scheduler at {self.address} has had no worker for {now - last_seen:.0f} s.",
                    f"Start some: dask worker {self.address}; the same command does what is left",
                )
            if now - last_seen > _WARN_S and not warned:
                warned = True
                self._warn(
                    f"the Dask scheduler at {self.address} has had no worker for {now - last_seen:.0f} s; "
                    f"start some (dask worker {self.address}), or this ends after {_GIVE_UP_S:.0f} s"
                )

    def _ask(self, function: Callable[..., Any], *args: object) -> Mapping[str, Any]:
        try:
            found: Mapping[str, Any] = self._client.run(function, *args, on_error="return")
        except Exception as error:
            raise _went_wrong(error) from error
        return found


def _on_standard_error(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)


@contextmanager
def connect(address: str, warn: Callable[[str], None] = _on_standard_error) -> Iterator[Cluster]:
    """Reach a cluster.

    Args:
        address: Of the scheduler, such as ``tcp://10.0.0.1:8786``.
        warn: Told when no worker is left.

    Raises:
        MissingPackageError: distributed is not installed.
        InputError: Nobody answers, there are no workers, or one of them runs another nuclr or Python.
    """
    try:
        distributed: Any = importlib.import_module("distributed")
    except ModuleNotFoundError:
        raise MissingPackageError("distributed", "--dask") from None
    try:
        with ThreadPoolExecutor(1) as own:  # a loop may run in this thread: a notebook's
            own.submit(asyncio.run, _require_scheduler(distributed, address)).result()
        client = distributed.Client(address, timeout=_CONNECT_S, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        why = str(error) or f"nothing came within {_CONNECT_S} s"
        raise InputError(
            f"No Dask scheduler answers at {address}: {why}.",
            "Start one with `dask scheduler` and workers with `dask worker ADDRESS`, and name its address",
        ) from None
    with _without_tracebacks(), client:
        try:
            client.wait_for_workers(1, timeout=_CONNECT_S)
        except TimeoutError:
            raise InputError(
                f"The Dask scheduler at {address} has no workers.", f"Start some: dask worker {address}"
            ) from None
        cluster = Cluster(address, client, warn)
        _require_same_versions(cluster._ask(eval, _VERSIONS))
        yield cluster


@contextmanager
def _without_tracebacks() -> Iterator[None]:
    """What the client's log has to say becomes an error with a message, or is mended by Dask itself."""
    log = logging.getLogger("distributed.client")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)


async def _require_scheduler(distributed: Any, address: str) -> None:
    """A client would wait without end for something else that listens, such as the dashboard's port.

    Raises:
        OSError: Nobody answers, or no scheduler does.
    """
    security = distributed.Security().get_connection_args("client")
    scheduler = distributed.rpc(address, timeout=_CONNECT_S, connection_args=security)
    try:
        about = await asyncio.wait_for(scheduler.identity(), _CONNECT_S)
    finally:
        scheduler.close_comms()
    if about["type"] != "Scheduler":
        raise OSError(f"it is the address of a {about['type']}")


def _require_same_versions(found: Mapping[str, Any]) -> None:
    """Functions travel as bytecode, and numbers are to be those of this nuclr."""
    own = (__version__, tuple(sys.version_info[:2]))
    for worker, theirs in found.items():
        if theirs == own:
            continue
        if isinstance(theirs, BaseException):
            raise InputError(
                f"The Dask worker {worker} cannot load nuclr: {type(theirs).__name__}: {theirs}.",
                f"Start the workers in the Python environment of this command, with nuclr {__version__}",
            )
        raise InputError(
            f"The Dask worker {worker} runs {_named(*theirs)}; here it is {_named(*own)}.",
            "Start the workers in the Python environment of this command",
        )


def _named(version: str, python: Sequence[int]) -> str:
    return f"nuclr {version} on Python {'.'.join(map(str, python))}"


def _went_wrong(error: BaseException) -> NuclrError:
    if isinstance(error, NuclrError):
        return error
    name = type(error).__name__
    if name == "KilledWorker":
        return InputError(
            "A task ended the Dask worker that ran it, again and again, most likely because memory ran out. "
            "Dask counts a lost worker against every task that was waiting on it, too.",
            "Give the workers more memory, or have fewer of them; where workers come and go, start them with "
            "--lifetime and the scheduler with a higher distributed.scheduler.allowed-failures; the same "
            "command does what is left",
        )
    if name in _SCHEDULER_GONE:
        return _scheduler_gone(error)
    if isinstance(error, OSError):
        name = error.strerror or name
        where = next((f": {one}" for one in (error.filename, error.filename2) if one), "")
        said = where or (f": {error}" if error.strerror is None else "")
        return InputError(
            f"A Dask worker could not do a task: {name}{said}.",
            "Mend that on the machines of the workers; the same command does what is left",
        )
    return InputError(
        f"A Dask worker could not do a task: {name}: {error}.",
        "Start the workers in the Python environment of this command; the same command does what is left",
    )


def _scheduler_gone(error: BaseException) -> InputError:
    return InputError(
        f"The Dask scheduler went away ({type(error).__name__}).",
        "Start the cluster again; the same command does what is left",
    )


def _on_worker(version: str, alone: bool, function: Callable[..., Result], args: Sequence[Any]) -> Result:
    """What a worker does. It may have joined after the others were asked for their version."""
    if version != __version__:
        raise InputError(
            f"A Dask worker runs nuclr {__version__}; the command is that of {version}.",
            "Start the workers in the Python environment of the command",
        )
    if not alone:
        return function(*args)
    with _alone:
        return function(*args)


def _same(value: Result) -> Result:
    return value


def _unseen(mark: str, said: str, others: Sequence[str]) -> str:
    """On a worker: the first path that is not there, or ``""``."""
    try:
        if Path(mark).read_text() != said:
            return mark
    except OSError:
        return mark
    return next((path for path in others if not Path(path).exists()), "")


def one_thread_each(cluster: Cluster) -> str:
    """What to say of workers whose further threads have nothing to do; ``""`` when there are none."""
    threads = cluster.threads()
    idle = sum(threads) - len(threads)
    if not idle:
        return ""
    return (
        f"{counted(idle, 'thread')} of {counted(len(threads), 'Dask worker')} will be idle, since each "
        "process does one task at a time; start workers with --nworkers N --nthreads 1"
    )
