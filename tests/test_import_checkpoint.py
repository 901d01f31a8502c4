"""Official checkpoints become runs, and no file that is loaded can make anything run."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import pickle
import shutil
import subprocess
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nuclr_cli.data.embeddings import load_embeddings
from nuclr_cli.data.sessions import open_sessions
from nuclr_cli.data.store import SourceRecord, write_population
from nuclr_cli.errors import InputError
from nuclr_cli.model import DecoupledContrastiveLoss, Encoder, ModelConfig, VICReg, encoder_from_reference
from nuclr_cli.model.config import LossConfig
from nuclr_cli.model.reference_weights import _official_name
from nuclr_cli.testing.simulate import tiny_population
from nuclr_cli.workflows.checkpoints import load_checkpoint
from nuclr_cli.workflows.embed import EmbedConfig, embed
from nuclr_cli.workflows.import_checkpoint import ImportConfig, ImportRecord, import_checkpoint
from nuclr_cli.workflows.pair_model import initial_model
from nuclr_cli.workflows.probe_provenance import pretraining_knowledge
from nuclr_cli.workflows.runs import RunSession, create_run, open_run

GOLDEN = Path(__file__).parent / "golden"
# Written by torch.save: the fields of the official src/checkpoint.py, a configuration of OmegaConf 2.4.
OFFICIAL = GOLDEN / "official_small.pt"
TARGET = "src.models.nuclr_v2ga_bin.NuclrV2gaBin"


def golden(kind: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{kind}_small.npz") as file:
        return dict(file)


def states(kind: str) -> dict[str, Any]:
    """Parts of a checkpoint with the golden weights, under the names of the official code."""
    numbers = golden(kind)

    def part(prefix: str) -> OrderedDict[str, torch.Tensor]:
        return OrderedDict(
            (name.removeprefix(prefix), torch.from_numpy(numbers[name]))
            for name in numbers
            if name.startswith(prefix)
        )

    made = {"model_state_dict": part("encoder."), "train_step": 50, "epoch": 3, "run_id": "x"}
    if loss := part("loss.projector."):
        made["loss_state_dict"] = OrderedDict((f"projector.{name}", value) for name, value in loss.items())
    return made


def save(path: Path, content: object, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def imported(path: Path, tmp_path: Path, **options: Any) -> ImportRecord:
    return import_checkpoint(ImportConfig(path, tmp_path / "runs", **options))


def refused(path: Path, tmp_path: Path, match: str, **options: Any) -> InputError:
    """The import fails with exit 3 and leaves no run, whole or in part."""
    with pytest.raises(InputError, match=match) as caught:
        imported(path, tmp_path, **options)
    assert caught.value.exit_code == 3
    assert caught.value.fix
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())
    return caught.value


# What comes out


@pytest.mark.parametrize("kind", ["ephys", "calcium"])
def test_the_imported_encoder_has_the_golden_embeddings_and_loss(kind: str, tmp_path: Path) -> None:
    tokens = "counts" if kind == "ephys" else "calcium"
    record = imported(save(tmp_path / "best.pt", states(kind)), tmp_path, tokens=tokens)
    assert (record.heads, record.head_dim, record.dim, record.step) == (2, 16, 32, 50)
    run = open_run(record.run)
    model = initial_model(run.settings).eval()
    model.load_state_dict(load_checkpoint(run.checkpoints).model)
    numbers = golden(kind)
    inputs = torch.from_numpy(numbers["view1.input"].astype(np.float32))
    with torch.no_grad():
        found = model.encoder(inputs, torch.from_numpy(numbers["units_per_sample"])).double().numpy()
    assert np.linalg.norm(found - numbers["view1.embedding"]) < 1e-5 * np.linalg.norm(found)
    projector = model.loss.state_dict()
    assert all(
        np.array_equal(projector[name.removeprefix("loss.")], numbers[name])
        for name in numbers
        if name.startswith("loss.projector.")
    )


def test_embed_equals_the_encoder_of_the_reference_weights(
    nuclr: Callable[..., Any], tiny_data: Path, tmp_path: Path
) -> None:
    file = save(tmp_path / "ephys.pt", states("ephys"))
    done = nuclr(
        "import-checkpoint", file, "--name", "official", "--tokens", "counts", "--json", cwd=tmp_path
    )
    assert done.code == 0, done.err
    assert done.json["tokens"] == "counts"
    assert done.json["unused"] == ["epoch", "run_id"]
    done = nuclr("embed", tiny_data, "--run", "official", "--gpus", "0", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "unknown" in done.out  # whether the subjects were in training
    table = load_embeddings(tmp_path / "nuclr-runs/official/embeddings.parquet")
    numbers = golden("ephys")
    weights = {
        name.removeprefix("encoder."): value for name, value in numbers.items() if name.startswith("encoder.")
    }
    encoder = encoder_from_reference(weights, "counts", heads=2, head_dim=16)
    start = 0
    for session in open_sessions(tiny_data):
        times, seen = session_counts(session), np.zeros(session.n_units)
        sums = np.zeros((session.n_units, 32))
        for counts in times:  # windows of 10 s: (units, 10, 50)
            active = counts.sum((1, 2)) > 0
            with torch.no_grad():
                z = encoder(torch.from_numpy(counts[active]), torch.tensor([int(active.sum())]))
            sums[active] += z.double().numpy()
            seen += active
        rows = slice(start, start + session.n_units)
        start += session.n_units
        assert np.array_equal(table.n_windows[rows], seen)
        expected = sums[seen > 0] / seen[seen > 0, None]
        assert np.abs(table.embedding[rows][seen > 0] - expected).max() < 1e-5
    assert start == table.n_units


def session_counts(session: Any) -> list[np.ndarray]:
    """Counts of 20 ms in windows of 10 s that follow one another, straight from the spikes of a session."""
    (begin, end) = session.intervals[0]
    n_windows = int((end - begin) // 10)
    assert len(session.intervals) == 1
    assert np.isclose((end - begin) % 10, 0)  # no last window that overlaps
    made = []
    for window in range(n_windows):
        counts = np.zeros((session.n_units, 500), dtype=np.float32)
        first = begin + 10.0 * window
        times, units = session.spikes_between(first, first + 10.0)
        np.add.at(counts, (units, np.floor((times - first) / 0.02).astype(int)), 1)
        made.append(counts.reshape(-1, 10, 50))
    return made


def test_a_file_of_the_official_code_tells_its_own_settings(tmp_path: Path) -> None:
    record = imported(OFFICIAL, tmp_path)
    settings = open_run(record.run).settings
    assert (record.name, record.tokens, record.step) == ("official_small", "counts", 1234)
    # Patches of 25 bins of 20 ms, windows of 8 patches: from the shapes, the frequencies and `bin_size`.
    assert (settings.tokens.spikes.patch_s, settings.tokens.spikes.window_s) == (0.5, 4.0)
    assert (settings.loss.tau, settings.model.dropout) == (0.25, 0.1)
    assert record.unused == ("epoch", "git_hash", "optimizer_state_dict", "run_id")
    assert record.missing == ()
    assert record.assumed == ()


def test_spike_events_are_known_by_their_latents(tmp_path: Path) -> None:
    file = save(tmp_path / "events.pt", states("spikes"))
    record = imported(file, tmp_path)
    settings = open_run(record.run).settings
    assert record.tokens == "events"
    assert settings.tokens.spikes.kind == "events"
    assert (settings.tokens.spikes.window_s, settings.tokens.spikes.n_patches) == (10.0, 10)
    assert "cross_attn.to_kv.weight" in record.unused
    assert any("loss" in text for text in record.missing)
    other = tmp_path / "other"
    other.mkdir()
    refused(file, other, r"--tokens counts, but the encoder of .* takes events", tokens="counts")


def test_vicreg_projectors_are_taken_and_unknown_ones_are_named(tmp_path: Path) -> None:
    content = states("ephys")
    loss = VICReg(32, LossConfig(name="vicreg")).state_dict()
    file = save(tmp_path / "v.pt", {**content, "loss_state_dict": loss})
    run = open_run(imported(file, tmp_path, tokens="counts").run)
    assert run.settings.loss.name == "vicreg"
    weights = load_checkpoint(run.checkpoints).model
    assert all(torch.equal(weights[f"loss.{name}"], value) for name, value in loss.items())
    file = save(tmp_path / "w.pt", {**content, "loss_state_dict": {"head.weight": torch.ones(3)}})
    record = imported(file, tmp_path, tokens="counts")
    assert "loss_state_dict.head.weight" in record.unused
    assert "projector is new" in record.missing[-1]


def test_what_the_weights_tell_cannot_be_set_and_what_they_do_not_can(tmp_path: Path) -> None:
    file = save(tmp_path / "a.pt", states("ephys"))
    refused(file, tmp_path, "does not tell whether its encoder takes spike counts or calcium")
    changes = {"model.heads": "4"}
    error = refused(file, tmp_path, "heads is 2 in the weights, 4 by", tokens="counts", changes=changes)
    assert "counts_patches" not in error.what
    changes = {"tokens.spikes.window_s": "5"}
    refused(file, tmp_path, "counts_patches is 10 in the weights, 5", tokens="counts", changes=changes)
    refused(file, tmp_path, "Unknown setting", tokens="counts", changes={"model.headz": "2"})
    record = imported(file, tmp_path, tokens="counts", changes={"tokens.spikes.bin_s": "0.03"})
    spikes = open_run(record.run).settings.tokens.spikes
    assert (spikes.bin_s, spikes.patch_s, spikes.window_s) == (0.03, 1.5, 15.0)
    assert record.assumed == ()
    assert record.missing[0].startswith("cfg")
    with pytest.raises(InputError, match="exists already"):
        imported(file, tmp_path, tokens="counts")


def change(name: str, value: torch.Tensor | None) -> dict[str, Any]:
    content = states("ephys")
    state = content["model_state_dict"]
    state.pop(name, None)
    if value is not None:
        state[name] = value
    return content


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("read_in.bias", None, r"missing: read_in\.bias"),
        ("rotary_emb.omega", None, r"lack rotary_emb\.omega"),
        ("head.weight", torch.ones(4), r"unexpected: head\.weight"),
        ("read_in.weight", torch.ones(64, 50), r"of another shape: .*\(32,\), not \(64,\)"),
        ("t_blocks.0.0.to_qkv.weight", torch.ones(96, 31), r"of another shape: t_blocks\.0\.0\.to_qkv"),
        ("st_blocks.0.0.to_qkv.weight", torch.ones(95, 32), "95 rows"),
        ("rotary_emb.omega", torch.linspace(1, 2, 8), "rotary frequencies"),
        ("read_in.bias", torch.full((32,), torch.nan), r"not finite, in read_in\.bias"),
        ("read_in.bias", torch.ones(32, dtype=torch.int64), "no tensor of plain numbers"),
        ("read_in.bias", torch.ones(32).to_sparse(), "asks for torch"),
        ("read_in.weight", torch.ones(400_000, 1), "of another shape"),  # 640 GB of attention
        ("read_in.weight", torch.ones(1).expand(10**12, 50), "promise 2000000"),
    ],
)
def test_another_architecture_is_refused_by_name(
    name: str, value: torch.Tensor | None, match: str, tmp_path: Path
) -> None:
    refused(save(tmp_path / "a.pt", change(name, value)), tmp_path, match, tokens="counts")


def test_other_widths_and_depths_are_read_off_the_weights(tmp_path: Path) -> None:
    config = ModelConfig(
        dim=24, heads=3, head_dim=8, temporal_layers=3, spatiotemporal_layers=1, ffn_mult=2, counts_patches=20
    )
    encoder = Encoder(config)
    state = {_official_name(name): value for name, value in encoder.state_dict().items()}
    loss = DecoupledContrastiveLoss(24).state_dict()
    content = {"model_state_dict": state, "loss_state_dict": loss, "cfg": {"model": {"_target_": TARGET}}}
    record = imported(save(tmp_path / "wide.pt", content), tmp_path)
    run = open_run(record.run)
    assert run.settings.model == dataclasses.replace(config, events_latents=20, events_window_s=20.0)
    weights = load_checkpoint(run.checkpoints).model
    assert all(torch.equal(weights[f"encoder.{name}"], value) for name, value in encoder.state_dict().items())
    assert record.missing == ("train_step (taken as 0)",)


# What probes may say


@pytest.fixture(scope="module")
def four_days(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("days") / "data"
    folder.mkdir()
    for i in range(3):
        population = tiny_population(i, n_units=14, minutes=0.5, subject=f"s{i}", session="day")
        write_population(population, folder / f"s{i}.h5", source=SourceRecord(f"s{i}", "test", ""))
    return folder


def said(run: Path, tested: str) -> tuple[str, str]:
    """What a probe of the run's embeddings says that it knows of one subject."""
    opened = open_run(run)
    return pretraining_knowledge(
        load_embeddings(opened.embeddings).metadata, opened, (tested,), [(tested, "day", "0")]
    )


def test_probes_of_imported_weights_are_inductive_by_word_only(four_days: Path, tmp_path: Path) -> None:
    def run(name: str, subjects: tuple[str, ...] | None) -> tuple[Path, list[bool | None]]:
        record = imported(OFFICIAL, tmp_path, name=name, trained_subjects=subjects)
        embedded = embed(EmbedConfig(four_days, record.run, gpus=0))
        return record.run, [session.seen_in_training for session in embedded.sessions]

    unknown, seen = run("unknown", None)
    record = open_run(unknown).record
    assert record.imported_from == str(OFFICIAL.resolve())
    assert record.imported_sha256 == hashlib.sha256(OFFICIAL.read_bytes()).hexdigest()
    assert (record.inherited_how, record.seen_digests, record.seen_subjects) == ("unknown", None, ())
    assert seen == [None, None, None]
    status, why = said(unknown, "s0")
    assert status == "unknown"
    assert "trained elsewhere" in why
    assert "official_small.pt" in why

    named, seen = run("named", ("s1", "S-2"))
    assert seen == [False, True, False]
    status, why = said(named, "s0")
    assert status == "inductive"
    assert "--trained-subjects" in why
    assert said(named, "s1")[0] == "transductive"
    nobody, _ = run("nobody", ())
    assert said(nobody, "s1")[0] == "inductive"
    assert open_run(nobody).record.seen_digests == ()
    spelled, _ = run("spelled", ("S0",))
    assert said(spelled, "s0")[0] == "unknown"  # may be the same animal


def test_runs_that_start_from_imported_weights_know_no_more_than_those(
    four_days: Path, tmp_path: Path
) -> None:
    """Two steps on, with the tested subject held out of the run's own data."""
    for name, subjects, expected in (
        ("a", None, "unknown"),
        ("b", ("x",), "inductive"),
        ("c", ("s2",), "trans"),
    ):
        run = open_run(imported(OFFICIAL, tmp_path, name=name, trained_subjects=subjects).run)
        digests = {s.key.subject: s.activity_digest for s in open_sessions(four_days)}
        for generation in range(2):
            sessions = [
                RunSession(
                    subject, "day", "0", 14, "train" if subject == "s0" else "held-out", "", False, digest
                )
                for subject, digest in digests.items()
            ]
            new = f"{name}{generation}"
            run = create_run(tmp_path / "runs", new, run.settings, four_days, sessions, run)
        run = open_run(run.folder)
        activity = json.dumps([[subject, "day", "0", digest] for subject, digest in digests.items()])
        status, why = pretraining_knowledge(
            {"run": run.id, "activity": activity}, run, ("s2",), [("s2", "day", "0")]
        )
        assert status.startswith(expected), why


def test_embeddings_of_an_imported_run_are_not_replaced_by_those_of_other_data(
    four_days: Path, tiny_data: Path, tmp_path: Path
) -> None:
    run = imported(OFFICIAL, tmp_path).run
    with pytest.raises(InputError, match=r"imported from .* no data of its own"):
        embed(EmbedConfig(run=run, gpus=0))
    for _ in range(2):  # again is no harm
        embed(EmbedConfig(four_days, run, gpus=0))
    before = (run / "embeddings.parquet").read_bytes()
    with pytest.raises(InputError, match="its embeddings need an own file"):
        embed(EmbedConfig(tiny_data, run, gpus=0))
    assert (run / "embeddings.parquet").read_bytes() == before
    embed(EmbedConfig(tiny_data, run, out=tmp_path / "other.parquet", gpus=0))


def test_none_and_a_list_of_subjects_on_the_command_line(nuclr: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "seen.txt").write_text("m1\nm2\n")
    for name, given, expected in (("a", "none", []), ("b", "seen.txt", ["m1", "m2"])):
        done = nuclr(
            *("import-checkpoint", OFFICIAL, "--name", name, "--trained-subjects", given, "--json"),
            cwd=tmp_path,
        )
        assert done.code == 0, done.err
        assert done.json["trained_subjects"] == expected
        assert open_run(tmp_path / "nuclr-runs" / name).record.seen_subjects == tuple(expected)


# What must never run


class Runs:
    """Unpickled, it makes a file."""

    def __init__(self, call: Callable[..., Any], *arguments: object) -> None:
        self.call = (call, arguments)

    def __reduce__(self) -> Any:
        return self.call


PAYLOADS: dict[str, Callable[[Path], object]] = {
    "os.system": lambda mark: Runs(os.system, f"touch {mark}"),
    "subprocess": lambda mark: Runs(subprocess.check_call, ["touch", str(mark)]),
    "builtins.eval": lambda mark: Runs(eval, f"open({str(mark)!r}, 'w')"),
    "pathlib": lambda mark: Runs(Path.touch, mark),
}


@pytest.mark.parametrize("how", PAYLOADS)
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_checkpoint_that_wants_to_run_something_is_refused(how: str, protocol: int, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    content = {**states("ephys"), "cfg": PAYLOADS[how](mark)}
    file = save(tmp_path / "evil.pt", content, pickle_protocol=protocol)
    with contextlib.suppress(Exception):  # the payload works where nobody looks
        torch.load(file, weights_only=False)
    assert mark.exists()
    mark.unlink()
    error = refused(file, tmp_path, "asks for .*could run code, so it was not loaded", tokens="counts")
    assert how.split(".")[-1] in error.what
    assert not mark.exists()


def test_the_command_refuses_a_payload_and_leaves_nothing(nuclr: Callable[..., Any], tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    save(tmp_path / "evil.pt", {**states("ephys"), "epoch": Runs(os.system, f"touch {mark}")})
    done = nuclr("import-checkpoint", "evil.pt", "--tokens", "counts", cwd=tmp_path)
    assert done.code == 3
    assert "could run code" in done.err
    assert "Traceback" not in done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.pt"]


def test_no_variable_of_the_environment_opens_the_gate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a user has told torch to trust everything, and to allow the function."""
    before = set(torch.serialization.get_safe_globals())
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    mark = tmp_path / "ran"
    file = save(tmp_path / "evil.pt", {**states("ephys"), "cfg": Runs(os.mkdir, str(mark))})
    with torch.serialization.safe_globals([(os.mkdir, "posix.mkdir")]):
        refused(file, tmp_path, "could run code", tokens="counts")
    assert not mark.exists()
    record = imported(OFFICIAL, tmp_path)
    assert record.tokens == "counts"
    assert set(torch.serialization.get_safe_globals()) == before  # nothing stays allowed


def test_classes_of_the_configuration_are_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package called omegaconf that lies in the way is not run either."""
    package = tmp_path / "path" / "omegaconf"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(package.parent))
    assert imported(OFFICIAL, tmp_path).tokens == "counts"


def rewrite(source: Path, target: Path, **options: Any) -> Path:
    """A copy of a zip file, changed: `edit` gets each member's name and bytes."""
    edit = options.pop("edit", lambda name, data: data)
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", **options) as new:
        for member in old.namelist():
            new.writestr(member, edit(member, old.read(member)))
    return target


def test_bombs_and_broken_files_are_refused(tmp_path: Path) -> None:
    good = save(tmp_path / "good.pt", states("ephys"))
    raw = good.read_bytes()
    broken = tmp_path / "broken.pt"

    def check(data: bytes, match: str) -> None:
        broken.write_bytes(data)
        refused(broken, tmp_path, match, tokens="counts")

    check(raw[: len(raw) // 2], "is damaged")
    check(raw[:-1], "is damaged")
    check(b"", "no zip file")
    check(b"hello", "no zip file")
    check(pickle.dumps({"model_state_dict": {}}), "bare pickle, which could run code")
    flipped = bytearray(raw)
    flipped[len(raw) // 2] ^= 1
    check(bytes(flipped), "is damaged: the bytes of .* do not match their checksum")
    refused(tmp_path / "absent.pt", tmp_path, "There is no file")
    refused(tmp_path, tmp_path, "There is no file")

    zeros = lambda name, data: bytes(50 << 20) if "/data/" in name else data  # noqa: E731
    small = save(tmp_path / "small.pt", {"model_state_dict": {"a": torch.ones(3)}})
    bomb = rewrite(small, tmp_path / "bomb.pt", edit=zeros, compression=zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 1 << 20
    refused(bomb, tmp_path, r"promises 524\d+ bytes in a file of \d+ .*is compressed.*; it was not unpacked")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme.txt", "no checkpoint")
    refused(tmp_path / "other.zip", tmp_path, "a zip file, but no checkpoint")
    long = rewrite(small, tmp_path / "long.pt", edit=lambda n, d: d + bytes(17 << 20) if "pkl" in n else d)
    refused(long, tmp_path, "a pickle of 17.* bytes")


def test_a_storage_that_promises_more_than_it_holds_is_no_look_into_memory(tmp_path: Path) -> None:
    good = save(tmp_path / "good.pt", {"model_state_dict": {"a": torch.ones(3)}})

    def larger(name: str, data: bytes) -> bytes:
        # numel of the storage and size of the tensor, both 3, become 2**20 (K = one byte, J = four)
        return data.replace(b"K\x03", b"J\x00\x00\x10\x00") if name.endswith("data.pkl") else data

    lying = rewrite(good, tmp_path / "lying.pt", edit=larger)
    refused(lying, tmp_path, r"torch\.load, which takes weights only, refuses .*(storage|bounds)")


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, {"model_state_dict": 3}, {"state_dict": {}}])
def test_a_file_that_is_no_checkpoint_is_refused(content: object, tmp_path: Path) -> None:
    refused(save(tmp_path / "a.pt", content), tmp_path, "has no model_state_dict")


@pytest.mark.parametrize(
    "content", [{"model_state_dict": {"a": "text"}}, {"model_state_dict": {3: torch.ones(2)}}]
)
def test_a_state_that_is_no_state_is_refused(content: object, tmp_path: Path) -> None:
    refused(save(tmp_path / "a.pt", content), tmp_path, "no tensor of plain numbers")


def test_a_torchscript_program_is_refused(tmp_path: Path) -> None:
    scripted = tmp_path / "scripted.pt"
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), scripted)
    refused(scripted, tmp_path, "TorchScript program")


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("kind", ["pickle", "torch"])
def test_a_pickle_in_a_checkpoint_of_our_own_is_never_unpickled(
    name: str, kind: str, tmp_path: Path, four_days: Path
) -> None:
    """Checksums that fit keep nobody from putting something else there."""
    run = open_run(imported(OFFICIAL, tmp_path).run)
    (folder,) = run.checkpoints.iterdir()
    mark = tmp_path / "ran"
    payload = {"encoder": Runs(os.system, f"touch {mark}")}
    if kind == "pickle":
        (folder / name).write_bytes(pickle.dumps(payload))
    else:
        torch.save(payload, folder / name)
    with pytest.raises(InputError, match=f"the bytes of {name}"):
        load_checkpoint(run.checkpoints)
    sums = json.loads((folder / "checksums.json").read_text())
    sums[name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / "checksums.json").write_text(json.dumps(sums))
    with pytest.raises(InputError, match="not what nuclr writes, though its checksums fit") as caught:
        embed(EmbedConfig(four_days, run.folder, gpus=0))
    assert caught.value.exit_code == 3
    assert not mark.exists()
    assert not run.embeddings.exists()


def test_a_full_disk_leaves_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nuclr_cli.workflows.checkpoints.save_file", full)
    error = refused(OFFICIAL, tmp_path, "No space left")
    assert "--resume" not in error.fix
    shutil.rmtree(tmp_path / "runs")
