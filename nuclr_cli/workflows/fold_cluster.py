"""Folds, repeats and labellings of a probe on the workers of a Dask cluster: the numbers of this machine."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from nuclr_cli.evaluation.fold_workers import fitted_by, work_of_others
from nuclr_cli.workflows.dask_cluster import Cluster, check_place, connect

LARGE_BYTES = 2**16
"""Arrays from this size on are sent once, and not again with what comes later."""
KEPT_BYTES = 2**31
"""Arrays that the cluster keeps for later calls, at most."""


@contextmanager
def folds_fitted(jobs: int | None, dask: str | None) -> Iterator[None]:
    """Inside the block, probes fit so many folds at once here, or on a cluster.

    Args:
        jobs: Folds at once; None = as many as there are cores.
        dask: Address of a scheduler, or None.

    Raises:
        InputError: Both are given, `jobs` is below 1, or the cluster cannot be used.
        MissingPackageError: `dask` is given and distributed is not installed.
    """
    check_place(jobs, dask)
    if dask is None:
        with fitted_by(jobs=jobs):
            yield
        return
    with connect(dask) as cluster, fitted_by(elsewhere=FoldCluster(cluster)):
        yield


class Travelling:
    """An array that lies in memory after a journey as numpy would have put it.

    Dask leaves what it received where it lies in the message, often at an odd address, and numpy sums in
    another order there.
    """

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self.array = array

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrived, (self.array,)

    def __sizeof__(self) -> int:  # what Dask takes for its memory
        return self.array.nbytes


def _arrived(array: np.ndarray[Any, Any]) -> Travelling:
    return Travelling(np.array(array, copy=True, order="K"))


class FoldCluster:
    """Does the work of folds on a cluster.

    Large arrays are known by their bytes and sent once, however many calls need them. The rest of what folds
    need goes once for each call, and a task is only the numbers of its folds.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._sent: OrderedDict[str, tuple[int, Any]] = OrderedDict()

    def at_once(self) -> int:
        return max(1, sum(self._cluster.threads()))

    def __call__(
        self, work: Callable[[Any], Any], items: Sequence[Any], bytes_each: int
    ) -> list[tuple[Any, tuple[str, ...]]]:
        packed, arrays = _pack((work, list(items)))
        there = {digest: self._keep(digest, array) for digest, array in arrays.items()}
        names, futures = list(there), list(there.values())
        call = self._cluster.keep(packed, "call")
        parts = self._parts(len(items))
        found: dict[int, Any] = {}
        tasks = [(call, names, futures, part, bytes_each) for part in parts]
        results = self._cluster.results(fit_part, tasks, alone=True)
        with contextlib.closing(results):
            for number, part_results in results:
                found.update(zip(parts[number], pickle.loads(part_results), strict=True))
        self._forget(keep=set(names))
        return [found[place] for place in range(len(items))]

    def _parts(self, n_items: int) -> list[range]:
        """Items of each task: one, or as many as a worker with several threads can do at once."""
        threads = self._cluster.threads() or [1]
        size = max(1, min(max(threads), -(-n_items // len(threads))))
        return [range(first, min(first + size, n_items)) for first in range(0, n_items, size)]

    def _keep(self, digest: str, array: np.ndarray[Any, Any]) -> Any:
        if digest not in self._sent:
            self._sent[digest] = (array.nbytes, self._cluster.keep(Travelling(array), f"array-{digest}"))
        self._sent.move_to_end(digest)
        return self._sent[digest][1]

    def _forget(self, keep: set[str]) -> None:
        """Let go of the arrays that were not needed for longest."""
        total = sum(size for size, _ in self._sent.values())
        for digest in list(self._sent):
            if total <= KEPT_BYTES or digest in keep:
                return
            total -= self._sent.pop(digest)[0]


def fit_part(
    packed: bytes, names: Sequence[str], arrays: Sequence[Travelling], part: Sequence[int], bytes_each: int
) -> bytes:
    """On a worker: the results of the items with these numbers, pickled."""
    cloudpickle: Any = importlib.import_module("cloudpickle")
    distributed: Any = importlib.import_module("distributed")
    work, items = _unpack(packed, {name: one.array for name, one in zip(names, arrays, strict=True)})
    threads = int(distributed.get_worker().state.nthreads)
    results = work_of_others(work, [items[place] for place in part], bytes_each, threads)
    packed_results: bytes = cloudpickle.dumps(results)  # in one piece: see `Travelling`
    return packed_results


def _pack(value: object) -> tuple[bytes, dict[str, np.ndarray[Any, Any]]]:
    """`value` without its large arrays, and these by a digest of their bytes."""
    cloudpickle: Any = importlib.import_module("cloudpickle")  # comes with distributed; knows inner functions
    arrays: dict[str, np.ndarray[Any, Any]] = {}

    class Packer(cloudpickle.Pickler):  # type: ignore[misc]
        def persistent_id(self, one: object) -> str | None:
            if type(one) is not np.ndarray or one.nbytes < LARGE_BYTES or one.dtype.hasobject:
                return None
            digest = _digest(one)
            arrays[digest] = one
            return digest

    file = io.BytesIO()
    Packer(file, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
    return file.getvalue(), arrays


def _unpack(packed: bytes, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Any:
    class Unpacker(pickle.Unpickler):
        def persistent_load(self, digest: str) -> np.ndarray[Any, Any]:
            return arrays[digest]

    return Unpacker(io.BytesIO(packed)).load()


def _digest(array: np.ndarray[Any, Any]) -> str:
    """Of bytes, shape and layout: a matrix product can depend on the layout in its last digits."""
    by_columns = array.flags.f_contiguous and not array.flags.c_contiguous
    about = f"{array.dtype.str} {array.shape} {by_columns}"
    digest = hashlib.blake2b(about.encode(), digest_size=16)
    ordered = np.ascontiguousarray(array.T if by_columns else array)
    digest.update(ordered.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
