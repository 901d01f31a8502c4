"""Checks of the files that a reader lists, and of reading in another process and without a package."""

from __future__ import annotations

from nuclr_cli.testing.reader_case import (
    CheckFailed,
    CheckSkipped,
    ReaderCase,
    differences,
    digest,
    in_another_process,
)


def lists_its_files(case: ReaderCase) -> str:
    files = case.files
    if not files:
        raise CheckFailed("sources() is empty.", "List every file whose bytes read depends on.")
    wrong = [str(path) for path in files if not path.is_file()]
    if wrong:
        raise CheckFailed(
            f"sources() lists {len(wrong)} paths that are no files: {', '.join(wrong[:5])}.",
            "List files that exist, no folders.",
        )
    if len(set(files)) < len(files):
        raise CheckFailed("sources() lists a file twice.", "List each file once.")
    if tuple(case.reader.sources(case.source)) != files:
        raise CheckFailed("sources() gave another list when asked again.", "Sort it.")
    return f"{len(files)} files"


def files_are_all_it_reads(case: ReaderCase) -> str:
    """A copy that holds only the listed files reads the same, and each of them counts when it changes."""
    copied = case.copy("only-listed")
    try:
        again = case.read(copied)
    except Exception as error:
        what = getattr(error, "what", str(error))
        raise CheckFailed(
            f"A copy that holds only the files of sources() cannot be read: {type(error).__name__}: {what}",
            "List that file in sources(), too.",
        ) from None
    differing = differences(digest(case.populations), digest(again))
    if differing:
        raise CheckFailed(
            f"A copy that holds only the files of sources() reads differently: {', '.join(differing)}.",
            "List every file that read looks at.",
        )
    for path in case.files:
        inside = case.in_copy(path, copied)
        if inside is None:
            continue
        content = inside.read_bytes()
        inside.write_bytes(content + b"\n" if not content else bytes([content[0] ^ 1]) + content[1:])
        listed = inside in case.reader.sources(copied)
        inside.write_bytes(content)
        if not listed:
            raise CheckFailed(
                f"sources() no longer lists {path.name} once its content changed, so that nobody notices.",
                "List files by their names, not by what is in them.",
            )
    return f"{len(case.files)} files suffice"


def reads_alike_elsewhere(case: ReaderCase) -> str:
    """In a process of its own, where preprocess reads; nothing of this one may be needed."""
    answer = in_another_process(case)
    if "digest" not in answer:
        raise CheckFailed(
            f"Reading in another process failed: {answer['error']}: {answer['what']}",
            "Keep nothing between calls.",
        )
    differing = differences(digest(case.populations), answer["digest"])
    if differing:
        raise CheckFailed(
            f"Another process reads something else: {', '.join(differing)}.",
            "Sort what comes from folders, sets and dicts; the order of a set differs between processes.",
        )
    if answer["torch"]:
        raise CheckFailed(
            "Reading imports torch, which takes seconds in every process.", "Do without; numpy reads."
        )
    return "the same arrays in another process"


def names_missing_packages(case: ReaderCase) -> str:
    if not case.needs:
        raise CheckSkipped("no optional package was named")
    for package in case.needs:
        answer = in_another_process(case, blocked=[package])
        if "digest" in answer:
            raise CheckFailed(f"This source is read without {package}, too.", "Take it out of needs.")
        if answer["error"] != "MissingPackageError" or not answer["fix"].startswith("pip install "):
            raise CheckFailed(
                f"Without {package}: {answer['error']}: {answer['what']}",
                "Import it inside read; on ImportError raise MissingPackageError(package, needed_for).",
            )
    return f"says how to install {', '.join(case.needs)}"
