"""A real Slurm on this machine: a job that is taken off it goes on by itself when it is started again."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import kill
import programs
import pytest
from programs import RealProgram, wait_until

# One cluster on a machine; the seconds are those of all tests together.
pytestmark = [pytest.mark.slow(200), pytest.mark.xdist_group("slurm")]

CONFIG = """
ClusterName=loop
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5
CredType=cred/munge
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/ctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2
KillWait=15
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=60 State=UP
"""


def free_ports() -> list[int]:
    with socket.socket() as one, socket.socket() as two:
        for each in (one, two):
            each.bind(("127.0.0.1", 0))
        return [one.getsockname()[1], two.getsockname()[1]]


def printed(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    if shutil.which("slurmctld") is None or shutil.which("munged") is None or os.geteuid():
        pytest.skip("Slurm is not installed, or cannot be started by this user")
    host, folder = socket.gethostname().partition(".")[0], tmp_path_factory.mktemp("slurm")
    (folder / "state").mkdir()
    (folder / "spool").mkdir()
    hosts = Path("/etc/hosts").read_text()
    if host not in hosts.split():
        Path("/etc/hosts").write_text(f"{hosts.rstrip()}\n127.0.0.1 {host}\n")
    for directory in ("/run/munge", "/var/log/munge", "/var/lib/munge"):
        Path(directory).mkdir(parents=True, exist_ok=True)
        shutil.chown(directory, "munge", "munge")
    config = folder / "slurm.conf"
    config.write_text(CONFIG.format(host=host, folder=folder, ports=free_ports(), cores=os.cpu_count()))
    os.environ["SLURM_CONF"] = str(config)
    try:
        if subprocess.run(["munge", "-n"], capture_output=True).returncode:
            subprocess.run(["runuser", "-u", "munge", "--", "munged", "--force"], check=True)
        subprocess.run(["slurmctld"], check=True)
        subprocess.run(["slurmd", "-N", host], check=True)
        wait_until(lambda: "idle" in printed("sinfo", "-h", "-o", "%t"), 60)
        yield
    finally:
        for name in ("slurmd", "slurmctld"):
            pid = folder / f"{name}.pid"
            if pid.exists():
                os.kill(int(pid.read_text()), signal.SIGTERM)
        del os.environ["SLURM_CONF"]


OPTIONS = ("device=cpu", "device.threads=1", "network.dropout=0.2", "trainer.max_epochs=60")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a job that is not interrupted."""
    directory = tmp_path_factory.mktemp("reference")
    programs.run(directory, "train", *OPTIONS)
    return next(directory.glob("outputs/default/*"))


@pytest.mark.parametrize("way", ["preempted", "time is up"])
def test_a_job_goes_on_by_itself(slurm: None, reference: Path, tmp_path: Path, way: str) -> None:
    """Preempted, Slurm requeues it; where its time is nearly up, the run asks for it, once it is saved."""
    directory = tmp_path / "job"
    directory.mkdir()
    script = f"#!/bin/bash\n#SBATCH --requeue --open-mode=append --output=out\nexec {sys.executable} -m lamella train "
    (directory / "job.sh").write_text(script + " ".join(OPTIONS) + "\n")
    job = printed("sbatch", "--parsable", f"--chdir={directory}", str(directory / "job.sh")).strip()
    out = directory / "out"
    wait_until(lambda: out.exists() and "epoch  3/60" in out.read_text(), 120)
    command = ["scontrol", "requeue"] if way == "preempted" else ["scancel", "--signal=USR1", "--full"]
    subprocess.run([*command, job], check=True)
    wait_until(lambda: "the job was requeued: going on with outputs/default/" in out.read_text(), 120)
    wait_until(lambda: "curves" in out.read_text(), 120)
    assert out.read_text().count("interrupted; to go on") == 1
    runs = list(directory.glob("outputs/*/*/run.json"))
    assert len(runs) == 1
    assert json.loads(runs[0].read_text())["job"] == job
    assert kill.differences(reference, runs[0].parent) == []


LAUNCHER = ("hydra/launcher=slurm", "hydra.launcher.partition=main", "hydra.launcher.timeout_min=10")


def test_a_sweep_whose_jobs_are_preempted_and_out_of_time_with_two_processes_in_one(
    slurm: None, tmp_path: Path
) -> None:
    options = ["device=cpu", "trainer.max_epochs=25", "network=linear", "device.threads=1"]
    line = ("train", "-m", "trainer.devices=1,2", *options, "sweep.name=s")
    reference, directory = tmp_path / "reference", tmp_path / "cluster"
    programs.run(reference, *line)
    process = RealProgram(directory, *line, *LAUNCHER)
    sweep = directory / "outputs" / "default" / "s"
    told: list[str] = []

    def trained() -> list[str]:
        """Return the members that have trained some epochs, and have not been told to end."""
        enough = [path.parent.name for path in sweep.glob("*/metrics.jsonl") if path.read_text().count("\n") > 2]
        return [name for name in enough if name not in told]

    # Taken off its machine, and warned that its time is nearly up, as Slurm warns a job's steps.
    for command in (["scontrol", "requeue"], ["scancel", "--signal=USR1"]):
        wait_until(trained, 180, process)
        told.append(trained()[0])
        job = json.loads((sweep / told[-1] / "run.json").read_text())["job"]
        subprocess.run([*command, str(job)], check=True)
    assert process.wait(400) == 0, process.out + process.err
    original = reference / "outputs" / "default" / "s"
    members = sorted(path.parent.name for path in original.glob("*/run.json"))
    assert len(members) == 2
    assert sorted(path.parent.name for path in sweep.glob("*/run.json")) == members
    for name in members:
        assert kill.differences(original / name, sweep / name) == []
    for name in told:
        assert "going on after epoch" in (sweep / name / "log.txt").read_text()


def test_ctrl_c_takes_the_jobs_of_a_sweep_off_the_cluster(slurm: None, tmp_path: Path) -> None:
    options = ("device=cpu", "trainer.max_epochs=5000", "sweep.name=s")
    process = RealProgram(tmp_path, "train", "-m", "seed=0,1,2", *options, *LAUNCHER)
    sweep = tmp_path / "outputs" / "default" / "s"
    wait_until(lambda: list(sweep.glob("*/metrics.jsonl")), 120, process)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    assert process.out.endswith("interrupted; to go on: lamella resume outputs/default/s\n")
    begun = [json.loads(path.read_text())["status"] for path in sweep.glob("*/run.json")]
    assert begun
    assert set(begun) == {"interrupted"}
    wait_until(lambda: not printed("squeue", "-h").strip(), 60)
