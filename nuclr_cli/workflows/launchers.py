"""What has started this process (nothing, Fabric, torchrun or srun), and how many there are."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from nuclr_cli.errors import InputError

Launcher = Literal["", "torchrun", "srun"]


@dataclass(frozen=True)
class Layout:
    """How the processes lie on machines.

    Attributes:
        per_machine: Processes on each.
        machines: How many.
        launcher: What has started them; empty where Fabric does, or there is one.
    """

    per_machine: int
    machines: int
    launcher: Launcher = ""

    @property
    def world(self) -> int:
        return self.per_machine * self.machines


def layout_of(gpus: int | None, machines: int | None, environ: Mapping[str, str] = os.environ) -> Layout:
    """How many processes there will be: what a launcher has started, else what the user asked for.

    Args:
        gpus: ``--gpus`` as given, processes a machine.
        machines: ``--nodes`` as given.
        environ: Environment variables, where torchrun and srun say what they have started.

    Raises:
        InputError: The launcher and the options contradict one another, or machines have no launcher.
    """
    found = _launched(environ)
    if found is None or (found.launcher == "srun" and found.world == 1):
        wanted = Layout(max(gpus or 1, 1), 1 if machines is None else machines)
        if wanted.machines < 1:
            raise InputError(
                f"--nodes {machines} is not a number of machines.", "--nodes 1 is this one alone"
            )
        absent = [name for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK") if name not in environ]
        if wanted.machines > 1 and absent:
            raise InputError(
                f"--nodes {machines}: nothing says how the machines find one another "
                f"({', '.join(absent)} not set).",
                "Start the command with srun or torchrun, which say so (--nodes is not needed then)",
            )
        return wanted
    given = {"--gpus": (gpus or None, found.per_machine), "--nodes": (machines, found.machines)}
    for option, (value, there) in given.items():
        if value is not None and value != there:
            raise InputError(
                f"{option} {value}, but {found.launcher} has started {found.per_machine} processes on each "
                f"of {found.machines} machines.",
                f"Leave {option} away under {found.launcher}",
            )
    return found


def may_be_restart(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this may take the place of processes that did not end well and may be ending still.

    torchrun does not tell a restart after another machine's loss from a first start, so where it may restart
    every start counts.
    """
    told = (environ.get("TORCHELASTIC_MAX_RESTARTS", "0"), environ.get("SLURM_RESTART_COUNT", "0"))
    return any(count not in ("", "0") for count in told)


def refuse_several(command: str, environ: Mapping[str, str] = os.environ) -> None:
    """Raise InputError where a launcher has started several processes of a command that is one."""
    found = _launched(environ)
    if found is not None and found.world > 1:
        raise InputError(
            f"{found.launcher} has started {found.world} processes of {command}, which is one: each would "
            "write the same files.",
            f"Start {command} by itself; pretrain and embed share their work among processes",
        )


def _launched(environ: Mapping[str, str]) -> Layout | None:
    """What a launcher has started; None without one."""
    try:
        if "TORCHELASTIC_RUN_ID" in environ:
            local, world = int(environ["LOCAL_WORLD_SIZE"]), int(environ["WORLD_SIZE"])
            if world % local:
                raise InputError(
                    f"torchrun has started {local} of {world} processes here: not as many on each machine.",
                    "Give every machine the same --nproc-per-node",
                )
            return Layout(local, world // local, "torchrun")
        if "SLURM_STEP_ID" in environ and environ.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
            world, nodes = int(environ["SLURM_NTASKS"]), int(environ.get("SLURM_NNODES", "1"))
            if world > 1 and environ.get("SLURM_NTASKS_PER_NODE") != str(world / nodes).removesuffix(".0"):
                raise InputError(
                    f"srun has started {world} processes on {nodes} machines, not saying how many on each.",
                    "Ask for --ntasks-per-node=N instead of --ntasks",
                )
            return Layout(world // nodes, nodes, "srun")
    except (KeyError, ValueError) as error:
        raise InputError(f"The launcher's environment cannot be read: {error}.", "Start it again") from None
    return None


def is_first_process(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is the one that speaks, known before anything is joined."""
    if "TORCHELASTIC_RUN_ID" in environ:
        return environ.get("RANK", "0") == "0"
    if "SLURM_STEP_ID" in environ and environ.get("SLURM_NTASKS", "1") != "1":
        return environ.get("SLURM_PROCID", "0") == "0"
    if environ.get("WORLD_SIZE", "1") != "1":  # Fabric has started it, for --gpus N
        return environ.get("LOCAL_RANK", "0") == "0" and environ.get("NODE_RANK", "0") == "0"
    return True
