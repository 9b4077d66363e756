"""Has jobs done on Ray, on this machine and on a cluster of three nodes whose processes are killed."""

import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from folds.base.errors import UserError
from folds.base.locks import holders
from folds.base.progress import silently
from folds.base.workspace import is_alive
from folds.split.assign import load_folds
from models.jobs.plan import job_cost, plan_run, train_runs
from models.jobs.ray import run_tasks
from models.jobs.ray_cluster import on_ray
from models.jobs.ray_worker import Queue
from models.probe.probe import probe_run, probe_tasks
from models.runs import RunPlan, done_folds, plan_runs
from models.settings import EngineSettings
from models.watch.events import FoldDone, FoldFailed, JobEvent
from tests.competition import make_competition
from tests.faults.whole import KIT, differing, left_over, made_in
from tests.models.small import SETTINGS, VIEWS, prepared, train

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="needs Ray, which takes seconds to import")
ROOT = Path(__file__).parents[3]
STORE_BYTES = 100 * 2**20
JOBS, EPOCHS, LONGEST = 12, 30, 40  # a job takes some seconds, so that there is a middle of it


def run(words: list[str], *, folder: Path) -> str:
    with start(words, folder=folder) as process:
        out, _ = process.communicate(timeout=400)
    assert process.returncode == 0, out
    return out


def start(words: list[str], *, folder: Path) -> subprocess.Popen[str]:
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    return subprocess.Popen(
        [sys.executable, str(ROOT / "run.py"), *words],
        cwd=folder,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # as of a shell of its own: no signal of the tests' terminal comes here
    )


@contextmanager
def cluster(*, nodes: int) -> Iterator[Any]:
    """A Ray cluster of so many nodes with a core each; `address` is for `--address`."""
    from ray.cluster_utils import Cluster

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    node = {"num_cpus": 1, "object_store_memory": STORE_BYTES, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=node, shutdown_at_exit=True)
    try:
        for _ in range(nodes - 1):
            made.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
        made.wait_for_nodes()
        yield made
    finally:
        made.shutdown()


def wait_for(what: Callable[[], Any], *, seconds: float = 120.0) -> Any:
    """What the function says, once that is true."""
    until = time.monotonic() + seconds
    while not (answer := what()):
        assert time.monotonic() < until, f"waited {seconds} s in vain"
        time.sleep(0.05)
    return answer


def workers(folder: Path) -> dict[str, int]:
    """The live processes that are at work on folds, by the lock's name."""
    return {name: holder.pid for name, holder in holders(folder / "work/locks") if ".fold" in name and holder.pid}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A place with 12 small jobs, of which those of run c take the longest, all done without Ray; and before any."""
    folder, before = tmp_path_factory.mktemp("alone"), tmp_path_factory.mktemp("before")
    make_competition(folder / "data")
    longer = f"[run.c]\nlr = 0.001\nepochs = {LONGEST}"
    (folder / "kit.toml").write_text(KIT.format(epochs=EPOCHS, n_folds=4, more=longer))
    for words in (["prepare", "data"], ["split"]):
        run(words, folder=folder)
    shutil.copytree(folder, before, dirs_exist_ok=True, copy_function=shutil.copy2)
    run(["train"], folder=folder)
    return folder, before


@pytest.fixture
def place(tmp_path, alone):
    """The same before any training."""
    shutil.copytree(alone[1], tmp_path, dirs_exist_ok=True, copy_function=shutil.copy2)
    return tmp_path


def trained(out):
    return re.findall(r"^(\w fold \d) on .* \| .*done in", out, flags=re.M)


def rows(out):
    return re.findall(r"^(\w fold \d) on .* \| +(\d+)  \d\.\de-\d\d", out, flags=re.M)


def assert_as_alone(place, alone):
    assert differing(made_in(place / "work"), made_in(alone[0] / "work")) == []
    assert left_over(place / "work") == []


def no_processes_of(session):
    return subprocess.run(["ps", "-o", "pid=", "-s", str(session)], capture_output=True, text=True).stdout.split() == []


@pytest.fixture
def threads():
    """The number of torch's threads, which a test may change."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.ray
def test_two_jobs_on_a_ray_of_this_machine_make_the_bytes_of_one_process(tmp_path, threads):
    workspace = prepared(tmp_path)
    engine = EngineSettings(engine="ray", cpus_per_job=1)
    events = [
        one
        for one in train_runs(workspace, plan_runs(SETTINGS, {}), VIEWS, seed=0, engine=engine)
        if isinstance(one, JobEvent)
    ]
    done = [one for one in events if isinstance(one.event, FoldDone)]
    assert sorted((one.key.fold, one.event.trained) for one in done) == [(0, True), (1, True)]
    assert all(one.place for one in done)
    made = made_in(workspace.root)
    shutil.rmtree(workspace.models)
    train(workspace, engine=EngineSettings(cpus_per_job=1))
    assert differing(made_in(workspace.root), made) == []


@pytest.mark.ray
def test_probes_on_ray_go_on_where_one_is_refused(tmp_path, threads):
    workspace, begun = prepared(tmp_path), plan_runs(SETTINGS, {})
    list(probe_run(workspace, begun[0], VIEWS))
    names = ("test_resnet", "test_convnext")
    plans = plan_runs(dataclasses.replace(SETTINGS, backbone=names, image_size=48), {})
    engine = EngineSettings(engine="ray", cpus_per_job=1)
    said = [
        one.event
        for one in run_tasks(probe_tasks(workspace, plans, VIEWS, engine), engine, silently)
        if isinstance(one, JobEvent)
    ]
    failed = [one for one in said if isinstance(one, FoldFailed)]
    assert [one.name for one in failed] == ["test_resnet-probe"], said
    assert "begun with other settings: image_size 32 -> 48" in failed[0].why
    assert done_folds(workspace, "test_convnext-probe").keys() == {0, 1}


def test_more_epochs_and_larger_images_cost_more(tmp_path):
    workspace = prepared(tmp_path)
    folds = load_folds(workspace)

    def cost(**settings):
        plan = RunPlan("a", "test_resnet", None, dataclasses.replace(SETTINGS, **settings))
        return job_cost(plan_run(workspace, plan, folds, [0], seed=0)[0])

    assert cost(epochs=4) == 2 * cost(epochs=2)
    assert cost(epochs=2, image_size=64) == 4 * cost(epochs=2)


@pytest.mark.ray
def test_twelve_jobs_on_three_nodes_are_done_once_and_the_longest_begin_first(place, alone):
    with cluster(nodes=3) as nodes:
        out = run(["train", "--address", nodes.address], folder=place)
    assert len(trained(out)) == len(set(trained(out))) == JOBS
    assert len(rows(out)) == len(set(rows(out))) == 8 * EPOCHS + 4 * LONGEST
    begun = re.findall(r"^(\w) fold \d on .* \| test_resnet", out, flags=re.M)
    assert begun[:4] == ["c"] * 4
    assert_as_alone(place, alone)


@pytest.mark.ray
def test_a_node_that_goes_and_a_worker_that_is_killed_cost_no_fold(place, alone):
    with cluster(nodes=1) as nodes:
        others = [nodes.add_node(num_cpus=1, object_store_memory=100 * 2**20) for _ in range(2)]
        driver = start(["train", "--address", nodes.address], folder=place)
        wait_for(lambda: len(workers(place)) == 3)
        wait_for(lambda: any(place.rglob("checkpoint.safetensors")))
        nodes.remove_node(others[0], allow_graceful=False)
        time.sleep(1)
        wait_for(lambda: len(workers(place)) == 2)
        os.kill(next(iter(workers(place).values())), signal.SIGKILL)
        out, _ = driver.communicate(timeout=300)
    assert driver.returncode == 0, out
    assert len(re.findall(r"begun again from its last checkpoint", out)) == 2
    assert len(trained(out)) == len(set(trained(out))) == JOBS
    assert_as_alone(place, alone)


@pytest.mark.ray
def test_a_driver_that_is_killed_takes_its_jobs_along_and_the_next_one_ends_them(place, alone):
    with cluster(nodes=3) as nodes:
        driver = start(["train", "--address", nodes.address], folder=place)
        wait_for(lambda: len(workers(place)) == 3)
        wait_for(lambda: any(place.rglob("checkpoint.safetensors")))
        driver.kill()
        before, _ = driver.communicate(timeout=60)
        wait_for(lambda: not workers(place), seconds=30)
        status = run(["status"], folder=place)
        assert "held by" not in status
        out = run(["train", "--address", nodes.address], folder=place)
    assert "goes on after epoch" in out
    assert len(set(trained(before)) & set(trained(out))) == 0
    assert len(trained(out)) + out.count("was done before") == JOBS
    assert_as_alone(place, alone)


@pytest.mark.ray
def test_an_object_store_that_somebody_fills_does_not_matter(place, alone):
    code = (
        "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False)\n"
        "kept = [ray.put(bytes(10 * 2**20)) for _ in range(9)]\n"
        "print('full', flush=True); sys.stdin.read()\n"
    )
    with cluster(nodes=2) as nodes:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        other = subprocess.Popen([sys.executable, "-c", code, nodes.address], **pipes, text=True)
        wait_for(lambda: "full" in other.stdout.readline())
        out = run(["train", "--address", nodes.address], folder=place)
        other.communicate("", timeout=60)
    assert len(trained(out)) == JOBS
    assert_as_alone(place, alone)


@pytest.mark.ray
def test_a_job_whose_process_dies_again_and_again_fails_and_the_others_are_done(place):
    killed = []
    with cluster(nodes=1) as nodes:
        driver = start(["train", "--address", nodes.address, "--run", "b", "--fold", "0,1"], folder=place)
        while driver.poll() is None:
            pid = workers(place).get("b.fold0")
            if pid is not None and pid not in killed:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
            time.sleep(0.02)
        out, _ = driver.communicate()
    assert driver.returncode == 2
    assert len(killed) == 4
    assert trained(out) == ["b fold 1"]
    assert "error: b fold 0 failed\n" in out


@pytest.mark.ray
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_to_a_driver_with_a_ray_of_its_own_leaves_no_process_behind(place, number):
    driver = start(["train", "--engine", "ray", "--epochs", "5000"], folder=place)
    wait_for(lambda: len(list(place.rglob("checkpoint.safetensors"))) >= 2)
    pids = list(workers(place).values())
    driver.send_signal(number)
    out, _ = driver.communicate(timeout=60)
    wait_for(lambda: pids and not any(map(is_alive, pids)), seconds=15)
    if number == signal.SIGKILL:
        return  # two helpers of Ray's own end only after 80 seconds
    wait_for(lambda: no_processes_of(driver.pid), seconds=15)  # helpers of Ray need a moment
    assert driver.returncode == 128 + number
    assert out.endswith("hint: the same command goes on where it was stopped\n")
    assert len(re.findall(r"; \w fold \d goes on after epoch \d+ of 5000; 0:\d\d of work are lost", out)) == len(pids)
    assert [path for path in left_over(place / "work") if not path.name.startswith("checkpoint")] == []


@pytest.mark.ray
def test_when_the_time_is_up_the_jobs_stop_and_the_submission_is_made_of_what_is_done(place, alone):
    for name in ("a", "b"):
        shutil.copytree(alone[0] / "work/models" / name, place / "work/models" / name)
    settings = (place / "kit.toml").read_text()
    (place / "kit.toml").write_text(settings.replace(f"epochs = {LONGEST}", "epochs = 5000"))
    out = run(["all", "data", "--engine", "ray", "--max-hours", "0.03"], folder=place)
    assert re.search(r"the time is up; c fold \d goes on after epoch \d+ of 5000", out)
    assert (place / "work/submissions/blend.csv").is_file()
    assert out.endswith("next: python run.py all data\n")


@pytest.mark.ray
def test_what_a_process_says_is_taken_in_its_order():
    """Of 2,000 calls to Ray's own queue about a hundred overtook others."""

    def talk(queue):
        import ray

        ray.get([queue.put.remote(7, i) for i in range(2000)])

    with on_ray(EngineSettings(engine="ray")) as ray:
        queue = ray.remote(Queue).options(num_cpus=0).remote()
        ray.get(ray.remote(talk).remote(queue))
        said = ray.get(queue.take.remote(1500)) + ray.get(queue.take.remote(1500))
    assert said == [(7, i) for i in range(2000)]


@pytest.mark.parametrize(
    ("address", "message"),
    [("cluster", "`--address cluster` is no HOST:PORT"), ("127.0.0.1:9", "nothing answers at 127.0.0.1:9: ")],
)
def test_an_address_where_no_ray_is_is_refused_at_once(address, message):
    with pytest.raises(UserError, match=f"^{re.escape(message)}"), on_ray(EngineSettings(address=address)):
        pass
