"""Sortings with code in them, where loaders would run it and where nobody has a reason to look."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np

from bad_input.frame import (
    PAYLOADS,
    BadInput,
    Maker,
    at,
    copy_tree,
    creating,
    marker,
    touching,
)
from bad_input.rules import Rule
from bad_input.sortings import (
    HOW,
    NPZ,
    NUMPY,
    PHY,
    PHY_PARTS,
    POINTER,
    SI,
    WITH_PROPERTIES,
    ZARR,
    Kept,
    copier,
    edit_json,
    edit_npz,
    put_zarr,
    read_json,
    rewrite_npz,
)


def save_pickle(path: Path, content: Any, protocol: int = 4) -> None:
    """An object ``.npy``."""
    shape = content.shape if isinstance(content, np.ndarray) else ()
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": shape})
        pickle.dump(content, file, protocol=protocol)


def objects(values: Sequence[Any]) -> Any:
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


def planting(kept: Kept, plant: Callable[[Path, Path], Any]) -> Maker:
    """Maker of a copy in which `plant` (given source and marker) hides something."""

    def make(folder: Path) -> Path:
        source = kept.copy(folder)
        plant(source, marker(folder))
        return source

    return make


def pickled_zarr(folder: Path, name: str, values: Sequence[Any]) -> None:
    put_zarr(folder, name, objects(values), dtype=object, object_codec=numcodecs.Pickle())


class FromBuffer:
    """Pickles as a call of the allowed ``numpy._core.numeric._frombuffer``, with a shape that is a lie."""

    def __reduce__(self) -> Any:
        from numpy._core.numeric import _frombuffer

        return _frombuffer, (b"12345678", np.dtype("<i8"), (1 << 60,), "C")


def pickle_cases() -> Iterator[BadInput]:
    for name, kept in HOW.items():
        n_units = 7 if name == "sorter_folder" else 8
        inside = Path(kept.sorting)
        prefix = f"{kept.sorting}/" if kept.sorting else ""
        for what, (rule, payload) in PAYLOADS.items():
            if name in WITH_PROPERTIES:

                def as_property(
                    source: Path, mark: Path, inside: Path = inside, p: Any = payload, n: int = n_units
                ) -> None:
                    (source / inside / "properties").mkdir(exist_ok=True)
                    save_pickle(
                        source / inside / "properties" / "evil.npy", objects([p(mark)] + [None] * (n - 1))
                    )

                yield BadInput(
                    rule,
                    name,
                    f"property {what}",
                    planting(kept, as_property),
                    (r"properties/evil\.npy", "asks for .*(open|eval|runstring)", "could run code"),
                    trust=True,
                    runs_trusted=True,
                )
            if name in NPZ:
                edit = partial(at, POINTER) if name == "npz_folder" else lambda change: change

                def as_ids(source: Path, mark: Path, edit: Any = edit, p: Any = payload) -> None:
                    edit(lambda path: edit_npz(path, unit_ids=objects([p(mark)] * 8)))(source)

                yield BadInput(
                    rule,
                    name,
                    f"unit_ids {what}",
                    planting(kept, as_ids),
                    (kept.spikes, "unit_ids", "could run code"),
                )
            if name in ZARR:
                yield BadInput(
                    rule,
                    name,
                    f"unit_ids {what}",
                    planting(
                        kept, lambda s, m, p=payload, x=prefix: pickled_zarr(s, f"{x}unit_ids", [p(m)] * 8)
                    ),
                    ("unit_ids", "pickle", "could run code"),
                )
                yield BadInput(
                    rule,
                    name,
                    f"property {what}",
                    planting(
                        kept,
                        lambda s, m, p=payload, x=prefix: pickled_zarr(s, f"{x}properties/evil", [p(m)] * 8),
                    ),
                    harmless=kept.copy,
                )
            if name in PHY:
                for file in ("spike_times.npy", "spike_clusters.npy"):
                    yield BadInput(
                        rule,
                        name,
                        f"{file} {what}",
                        planting(
                            kept, lambda s, m, p=payload, f=file: save_pickle(s / f, objects([p(m)] * 2435))
                        ),
                        (file.replace(".", r"\."), "could run code"),
                    )
        if name in WITH_PROPERTIES:

            def plain_arrays(source: Path, _: Path, inside: Path = inside, n: int = n_units) -> None:
                (source / inside / "properties").mkdir(exist_ok=True)
                column = objects([np.arange(3.0)] * n)
                save_pickle(source / inside / "properties" / "waves.npy", column, protocol=5)

            def lie(source: Path, _: Path, inside: Path = inside, n: int = n_units) -> None:
                (source / inside / "properties").mkdir(exist_ok=True)
                save_pickle(source / inside / "properties" / "evil.npy", objects([FromBuffer()] * n))

            yield BadInput(
                Rule.PICKLE,
                name,
                "frombuffer is allowed",
                planting(kept, plain_arrays),
                harmless=kept.copy,
                adds=("waves",),
                only_untrusted=name == "sorter_folder",
            )
            yield BadInput(
                Rule.PICKLE,
                name,
                "frombuffer of an absurd shape",
                planting(kept, lie),
                (r"properties/evil\.npy", "damaged pickle"),
            )
            bare = planting(
                kept,
                lambda s, m, i=inside: (
                    (s / i / "properties").mkdir(exist_ok=True),
                    (s / i / "properties" / "evil.npy").write_bytes(pickle.dumps(PAYLOADS["os.open"][1](m))),
                ),
            )
            yield BadInput(Rule.PICKLE, name, "no npy header", bare, (r"properties/evil\.npy", "damaged"))


def object_array_cases() -> Iterator[BadInput]:
    """Arrays of numbers have no reason to be pickles, trusted or not."""
    payload = PAYLOADS["os.open"][1]
    for name in NUMPY:
        kept = HOW[name]
        yield BadInput(
            Rule.OBJECT_ARRAY,
            name,
            "spikes",
            planting(
                kept,
                lambda s, m, k=kept: save_pickle(s / k.sorting / "spikes.npy", objects([payload(m)] * 9)),
            ),
            (kept.spikes, "could run code"),
            only_untrusted=name == "sorter_folder",
        )
    for name in NPZ:
        kept = HOW[name]
        edit = partial(at, POINTER) if name == "npz_folder" else lambda change: change
        for array in ("spike_indexes_seg0", "spike_labels_seg0", "sampling_frequency", "num_segment"):

            def plant(source: Path, mark: Path, edit: Any = edit, array: str = array) -> None:
                edit(lambda path: edit_npz(path, **{array: objects([payload(mark)])}))(source)

            yield BadInput(
                Rule.OBJECT_ARRAY, name, array, planting(kept, plant), (kept.spikes, array, "could run code")
            )
    for name in ZARR:
        kept = HOW[name]
        prefix = f"{kept.sorting}/" if kept.sorting else ""
        for array in ("sample_index", "unit_index", "segment_slices"):
            yield BadInput(
                Rule.OBJECT_ARRAY,
                name,
                array,
                planting(
                    kept,
                    lambda s, m, x=prefix, a=array: pickled_zarr(s, f"{x}spikes/{a}", [payload(m)] * 4289),
                ),
                (array, "pickle", "could run code"),
            )
    for name in PHY:
        kept = HOW[name]
        yield BadInput(
            Rule.OBJECT_ARRAY,
            name,
            "both",
            planting(
                kept,
                lambda s, m: [
                    save_pickle(s / f"spike_{f}.npy", objects([payload(m)] * 9))
                    for f in ("times", "clusters")
                ],
            ),
            (r"spike_times\.npy", "could run code"),
        )
    extensions = {
        "analyzer": ("templates/average.npy", "unit_locations/unit_locations.npy"),
        "analyzer_zarr": ("quality_metrics/metrics/evil", "unit_locations/unit_locations"),
    }
    for name, arrays in extensions.items():
        for array in arrays:

            def extend(source: Path, mark: Path, name: str = name, array: str = array) -> None:
                if name == "analyzer":
                    save_pickle(source / "extensions" / array, objects([payload(mark)] * 8))
                else:
                    pickled_zarr(source, f"extensions/{array}", [payload(mark)] * 8)

            yield BadInput(
                Rule.OBJECT_ARRAY,
                name,
                array.replace("/", "."),
                planting(HOW[name], extend),
                (array.replace(".", r"\."), "could run code"),
            )


def beside(source: Path, mark: Path, inside: str) -> None:
    """Pickles and class names in every place where SpikeInterface's own loader looks for them."""
    for folder in {source, source / inside, source / "extensions" / "quality_metrics"}:
        if folder.is_dir():
            for name in ("cached.pkl", "recording.pickle", "provenance.pkl", "sorting.pkl", "params.pkl"):
                (folder / name).write_bytes(pickle.dumps(PAYLOADS["os.open"][1](mark)))


def class_names(source: Path, mark: Path, inside: str) -> None:
    evil = touching(mark)
    for folder in {source, source / inside}:
        for name in ("provenance.json", "spikeinterface_recording.json", "recording.json", "cached.json"):
            (folder / name).write_text(json.dumps(evil))
        for name in ("si_folder.json", "npz.json", "annotations.json", "spikeinterface_params.json"):
            if (folder / name).is_file():
                kept = read_json(folder / name)
                named = {key: evil[key] for key in ("class", "module", "version")}
                (folder / name).write_text(
                    json.dumps(kept | named | {"kwargs": kept.get("kwargs", {}) | evil["kwargs"]})
                )
        if (folder / ".zattrs").is_file():
            edit_json(folder / ".zattrs", zarr_class_info=evil, provenance=evil, **{"class": evil["class"]})
    for path in source.glob("extensions/*/*info.json"):
        path.write_text(json.dumps(evil))


def hidden_cases() -> Iterator[BadInput]:
    """Payloads where no reader has a reason to look: the source reads as if they were not there."""
    for name, kept in HOW.items():
        if name == "npz":

            def member(source: Path, mark: Path) -> None:
                data = pickle.dumps(PAYLOADS["os.open"][1](mark))
                rewrite_npz(source, lambda members: members.update({"evil.pkl": data, "evil.npy": data}))

            yield BadInput(Rule.PICKLE_BESIDE, name, "members", planting(kept, member), harmless=kept.copy)
            continue
        for rule, what, plant in (
            (Rule.PICKLE_BESIDE, "pickles", beside),
            (Rule.CLASS_NAME, "popen", class_names),
        ):
            yield BadInput(
                rule,
                name,
                what,
                planting(kept, lambda s, m, p=plant, i=kept.sorting: p(s, m, i)),
                harmless=kept.copy,
                only_untrusted=name == "sorter_folder",
            )


def hostile_params(mark: Path, rate: str) -> str:
    return (
        f"{creating(mark)}\nimport os\nx = os.system('touch {mark}')\n"
        f"class A:\n    {creating(mark)}\n{rate}\ny = [{creating(mark)} for _ in range(2)]\n"
    )


def sorter_of_phy(folder: Path) -> Path:
    """Sorter folder whose sorter leaves phy's files, as Kilosort does."""
    source = copier("sorter_lupin", ("*.json",))(folder)
    copy_tree(SI / "phy", source / "sorter_output", PHY_PARTS)
    edit_json(source / "recording_attributes.json", num_samples=[600_000])
    edit_json(source / "spikeinterface_log.json", sorter_name="kilosort2_5")
    return source


def params_cases() -> Iterator[BadInput]:
    makers: dict[str, tuple[Maker, str]] = {name: (HOW[name].copy, "params.py") for name in PHY}
    makers["sorter_folder"] = (sorter_of_phy, "sorter_output/params.py")
    rates = {
        "a call": "sample_rate = float(30000)",
        "an open": "sample_rate = open({mark!r}, 'w').close() or 30000.0",
        "an import": "sample_rate = __import__('os').system('touch {mark}') + 30000",
        "no text": "sample_rate = 30000. if open({mark!r}, 'w') else 1",
    }
    for name, (copy, file) in makers.items():

        def write(folder: Path, rate: str, copy: Maker = copy, file: str = file) -> Path:
            source, mark = copy(folder), marker(folder)
            (source / file).write_text(
                hostile_params(mark, rate.replace("{mark!r}", repr(str(mark))).replace("{mark}", str(mark)))
            )
            return source

        for what, rate in rates.items():
            yield BadInput(
                Rule.PARAMS_PY,
                name,
                f"rate is {what}",
                partial(write, rate=rate),
                (r"params\.py", "no sampling rate"),
            )
        yield BadInput(
            Rule.PARAMS_PY,
            name,
            "code around the rate",
            partial(write, rate="sample_rate = 30000."),
            harmless=copy,
        )
