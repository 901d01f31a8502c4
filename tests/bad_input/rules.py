"""The rules of the reader specification that an input can break, each in the specification's own words."""

from __future__ import annotations

from enum import Enum, unique


@unique
class Rule(Enum):
    """One rule; the value is the passage of ``readers.md`` it stands for, word for word."""

    # Section 0: what every population obeys, whoever read it.
    NO_UNITS = "N=0"
    DUPLICATE_IDS = "duplicate ids (compare as str)"
    COLUMN_LENGTH = "column length != N"
    LENGTHS_DIFFER = "`len(t)!=len(u)`"
    UNIT_INDEX = "u outside 0..N-1"
    NO_SPIKES = "no spikes"
    TIMES_NOT_FINITE = "NaN/inf times"
    UNSORTED = "unsorted (count inversions"
    OUTSIDE_INTERVALS = "spike before/after the intervals' hull"
    INTERVALS = "intervals non-finite, reversed, overlapping"
    NEGATIVE_TIMES = "Negative times: legal only if the declared interval starts below 0 (NWB)"
    MEDIAN_RATE = (
        'MEDIAN unit rate of a session outside 0.001-200 Hz -> refuse: "wrong sampling rate or time unit?"'
    )
    EPHYS_FS = "fs ephys 1e3-1e6"
    FRAME_RATE = "frames 0.1-1000 Hz"
    TRACE_NOT_FINITE = "trace NaN/inf: reject naming units"

    # Section 1: nothing in a source is run, and no header is believed.
    NO_CODE = "no crash, no code execution"
    DAMAGED = "turns huge/truncated headers into"
    MISSING = "any other folder gives `UnboundLocalError: si_file`"
    OBJECT_ARRAY = "never `si.load()`, `read_phy`, `allow_pickle=True` on user input unless `--trust`"
    PICKLE = "whose `find_class` allows EXACT names only"
    PICKLE_OF_NUMPY = "A `numpy.*` wildcard is NOT safe (`numpy.testing._private.utils.runstring` executed)"
    PICKLE_BESIDE = "analyzer `recording.pickle` and `extensions/*/*.pkl`"
    PARAMS_PY = "`params.py`: `ast.parse` + `literal_eval` of plain assignments"
    CLASS_NAME = '`si_folder.json` with `"class":"subprocess.Popen"` runs it'
    ONLY_TRUSTED = "unless `--trust`"

    # Section 2: SpikeInterface, phy, Kilosort.
    SEGMENT_INDEX = "segment_index out of range"
    FLOAT_SAMPLES = "(integer samples; floats, e.g. seconds, -> reject)"
    MISSING_CHUNK = "missing zarr chunk (silently 0 -> all times 0.0; test `nchunks_initialized==nchunks`)"
    STORED_LENGTH = "only analyzers store it (`num_samples`)"
    ANALYZER_PARTS = "`templates` (units, samples, channels)"
    SORTER_FAILED = 'log has `"error"`'
    LABELS_REPEAT = "error on duplicate ids"
    LABELS_UNKNOWN = "on ids not in the session"

    # Section 3: Suite2p.
    COMBINED = "reject `combined/`"
    PLANE_FRAMES = "Planes may differ by 1 frame (crop), else reject"
    FRAME_TIMES = "`--timestamps file.npy` overrides"
    BAD_FRAMES = "Drop bad frames as interval gaps"
    PLANE_ARRAYS = "`F, Fneu, spks (n,T) f4, iscell (n,2) f8, stat (object)"
    PLANE_SETTINGS = "coefficient from either place"
    NO_FLUORESCENCE = "dF/F=(G-B)/max(B, 5% of mean F)"

    # Section 4: NWB.
    NOT_HDF5 = '"truncated file"/"signature not found"'
    RAGGED_INDEX = "index must be non-decreasing and end at len(st)"
    SHORT_COLUMN = "ConstructError for short columns or a missing index"
    TWO_SERIES = "two series on one PlaneSegmentation -> ask `--series`"
    SERIES_SHAPE = "(T, n_roi) with n=len(rois)"
    PICKLED_REFERENCES = "object references (electrode_group, electrodes) are pickled"

    # Section 5: temporaldata.
    OBJECT_ATTRIBUTE = "every group needs `object`"
    SECOND_INDEX = "`timestamp_indices_1s`=searchsorted"
    GAP_IN_REGULAR = "With a gap it slices silently WRONG"
