"""``scripts/torchrun.sh`` and ``scripts/slurm.sbatch``: two processes that each take themselves for a machine.

srun's variables are set by hand, but for one test with a real SLURM, which is skipped where it is not installed.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.callbacks.test_prediction_writer import (
    NUM_USERS,
    assert_same,
    command,
    parts_of,
    predict,
    predictions,
    run_dir,  # noqa: F401  (a fixture)
)
from tests.cli.running import SMALL_DATA, SMALL_MODEL
from tests.test_configs import CONFIGS

pytestmark = pytest.mark.distributed
ROOT = Path(__file__).parents[2]
TORCHRUN, SBATCH = (ROOT / "scripts" / name for name in ("torchrun.sh", "slurm.sbatch"))
TIMEOUT = 300
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
Machine = tuple[list[str], dict[str, str]]
"""A command and its variables."""


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def by_torchrun(arguments: list[str]) -> list[Machine]:
    environment = {"NODES": "2", "PROCESSES": "1", "MASTER": f"127.0.0.1:{free_port()}"}
    return [(["bash", str(TORCHRUN), *arguments], environment)] * 2


def by_srun(arguments: list[str]) -> list[Machine]:
    """What srun starts on two machines with one task each: commands and variables as a real one had them."""
    words = [sys.executable, "-m", "atspeed", *arguments, "--trainer.num_nodes", "2", "--trainer.devices", "1"]
    job = {
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NAME": "atspeed",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_NODELIST": "node[1-2]",
        "SLURM_NNODES": "2",
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_LOCALID": "0",
        "MASTER_ADDR": "127.0.0.1",  # node1 has no address here
        "MASTER_PORT": str(free_port()),
    }
    return [(words, {**job, "SLURM_PROCID": str(rank), "SLURM_NODEID": str(rank)}) for rank in range(2)]


LAUNCHERS = {"torchrun": by_torchrun, "srun": by_srun}


def start(machines: list[Machine], folder: Path) -> list[subprocess.Popen]:
    """Start all machines, each in a session of its own; their output goes to ``<folder>/<number>.log``."""
    started = []
    for number, (words, environment) in enumerate(machines):
        with (folder / f"{number}.log").open("w") as log:
            environment = {**os.environ, **ENVIRONMENT, **environment}
            process = subprocess.Popen(words, env=environment, stdout=log, stderr=log, start_new_session=True)
        started.append(process)
    return started


def wait(started: list[subprocess.Popen], folder: Path) -> tuple[list[int], str]:
    """Return the exit codes and the output; leave no process behind."""
    try:
        codes = [process.wait(TIMEOUT) for process in started]
    finally:
        for process in started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    return codes, "\n".join((folder / f"{number}.log").read_text() for number in range(len(started)))


def launch(machines: list[Machine], folder: Path) -> str:
    codes, output = wait(start(machines, folder), folder)
    assert codes == [0, 0], output[-8000:]
    return output


def prediction(run_dir: Path) -> list[str]:  # noqa: F811
    """The options of a prediction; machines and processes are the launcher's affair."""
    words = command(run_dir, processes=1)[3:]
    chosen = words.index("--trainer.devices"), words.index("--trainer.strategy")
    return [word for at, word in enumerate(words) if at not in {at for i in chosen for at in (i, i + 1)}]


def training(run_dir: Path, *more: str) -> list[str]:  # noqa: F811
    settings = ["--trainer.default_root_dir", str(run_dir), "--trainer.accelerator", "cpu", "--data.max_tokens", "256"]
    exact = ["--trainer.precision", "32-true", "--trainer.max_epochs", "2", "--trainer.log_every_n_steps", "1"]
    return ["fit", "--config", str(CONFIGS / "target.yaml"), *SMALL_DATA, *SMALL_MODEL, *settings, *exact, *more]


@pytest.mark.parametrize("script", [TORCHRUN, SBATCH], ids=lambda script: script.name)
def test_scripts_parse(script: Path) -> None:
    assert subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True).stderr == ""


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_machines_predict_what_one_process_does(run_dir: Path, launcher: str) -> None:  # noqa: F811
    expected = predict(run_dir)
    (run_dir / "recommend" / "predictions.jsonl").unlink()
    output = launch(LAUNCHERS[launcher](prediction(run_dir)), run_dir)
    assert output.count(f"wrote {NUM_USERS} recommendations") == 1
    assert_same(predictions(run_dir), expected)


@pytest.mark.nightly
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_killed_process_ends_the_prediction_and_the_command_resumes(run_dir: Path, launcher: str) -> None:  # noqa: F811
    expected = predict(run_dir)
    (run_dir / "recommend" / "predictions.jsonl").unlink()
    started, parts = start(LAUNCHERS[launcher](prediction(run_dir)), run_dir), parts_of(run_dir)
    deadline = time.monotonic() + TIMEOUT
    while len(parts.answered()) < NUM_USERS // 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(worker_of(started[1].pid), signal.SIGKILL)
    codes, output = wait(started, run_dir)
    assert all(codes), output
    assert NUM_USERS // 4 <= len(parts.answered()) < NUM_USERS
    assert "requests are answered already" in launch(LAUNCHERS[launcher](prediction(run_dir)), run_dir)
    assert_same(predictions(run_dir), expected)


def worker_of(pid: int) -> int:
    """The process that decodes: the last of a chain of children, without those of one that is asked to do so."""
    children = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    trained = [child for child in children if b"atspeed" in Path(f"/proc/{child}/cmdline").read_bytes()]
    return worker_of(trained[0]) if trained else pid


@pytest.mark.nightly
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_machines_train_what_two_devices_do(tmp_path: Path, launcher: str) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    devices = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
    alone = [([sys.executable, "-m", "atspeed", *training(one, *devices)], {})]
    codes, output = wait(start(alone, tmp_path), tmp_path)
    assert codes == [0], output[-8000:]
    launch(LAUNCHERS[launcher](training(two)), tmp_path)
    expected, found = (load_file(folder / "target" / "model" / "model.safetensors") for folder in (one, two))
    assert found.keys() == expected.keys()
    assert all(found[name].sub(weight).abs().max() <= 1e-6 for name, weight in expected.items())


@pytest.mark.nightly
def test_machines_that_share_no_run_folder_are_refused(tmp_path: Path) -> None:
    machines = by_srun([])
    machines = [
        ([*words[:3], *training(tmp_path / str(rank)), *words[3:]], environment)
        for rank, (words, environment) in enumerate(machines)
    ]
    codes, output = wait(start(machines, tmp_path), tmp_path)
    assert all(codes)
    assert "does not see what process 0 writes; name a folder that all machines share" in output


SLURM_CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/controller.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/controller.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
KillWait=2
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={first}
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={second}
PartitionName=main Nodes=ALL Default=YES State=UP
"""


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A SLURM of two nodes, both this machine; the variables with which its commands find it."""
    if not all(shutil.which(name) for name in ("sbatch", "srun", "slurmctld", "slurmd")) or os.getuid():
        pytest.skip("needs SLURM (Debian: slurmctld, slurmd, slurm-client), and to be root")
    folder = tmp_path / "slurm"
    (folder / "state").mkdir(parents=True)
    controller, first, second = (free_port() for _ in range(3))
    host = socket.gethostname()
    values = {"host": host, "controller": controller, "first": first, "second": second, "folder": folder}
    (folder / "slurm.conf").write_text(SLURM_CONF.format(**values))
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    daemons = [["slurmctld", "-D"], ["slurmd", "-D", "-N", "node1"], ["slurmd", "-D", "-N", "node2"]]
    started = [subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL) for words in daemons]
    yield {"SLURM_CONF": str(folder / "slurm.conf"), "MASTER_ADDR": "127.0.0.1"}  # node1 has no address here
    for process in reversed(started):
        process.terminate()
        process.wait(60)


def submit(arguments: list[str], log: Path) -> list[str]:
    here = ["--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=0", f"--output={log}", "--export=ALL"]
    return ["sbatch", "--parsable", *here, str(SBATCH), *arguments]


def queue_again(job: str, environment: dict[str, str]) -> None:
    """Send the signal that precedes the time limit, and spare the two minutes that SLURM waits then."""
    subprocess.run(["scancel", "--batch", "--signal=USR1", job], env=environment, check=True)
    deadline = time.monotonic() + TIMEOUT
    show, state = ["scontrol", "show", "job", job], ""
    while not ("JobState=PENDING" in state and "Restarts=1" in state):
        assert time.monotonic() < deadline, state
        time.sleep(0.5)
        state = subprocess.run(show, env=environment, check=True, capture_output=True, text=True).stdout
    subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], env=environment, check=True)


@pytest.mark.nightly
def test_a_slurm_job_that_is_queued_again_resumes(run_dir: Path, slurm: dict[str, str]) -> None:  # noqa: F811
    """A prediction whose job is queued again half-way by the signal that precedes the time limit; then a fit."""
    expected = predict(run_dir)
    (run_dir / "recommend" / "predictions.jsonl").unlink()
    environment, parts, log = {**os.environ, **ENVIRONMENT, **slurm}, parts_of(run_dir), run_dir / "job.log"
    words = submit(prediction(run_dir), log)
    job = subprocess.run(words, env=environment, check=True, capture_output=True, text=True).stdout.strip()
    deadline = time.monotonic() + TIMEOUT
    while len(parts.answered()) < NUM_USERS // 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    queue_again(job, environment)
    done = run_dir / "recommend" / "predictions.jsonl"
    while not done.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert "requests are answered already" in log.read_text()
    assert_same(predictions(run_dir), expected)
    last = run_dir / "target" / "checkpoints" / "last.ckpt"
    log = run_dir / "fit.log"
    steps = ["--trainer.max_epochs", "60", "--trainer.callbacks+", "ModelCheckpoint"]
    steps += ["--trainer.callbacks.save_last", "true", "--trainer.callbacks.every_n_train_steps", "5"]
    words = submit(training(run_dir, *steps), log)
    job = subprocess.run(words, env=environment, check=True, capture_output=True, text=True).stdout.strip()
    while not last.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    queue_again(job, environment)
    while "exported the target" not in log.read_text() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert "exported the target" in log.read_text()
    assert not list(run_dir.glob("hpc_ckpt*")), "which every later command of the run would load"
