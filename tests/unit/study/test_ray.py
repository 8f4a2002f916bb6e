"""A study on a Ray of its own: the same results, byte for byte, with a worker killed on the way."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from tests.support.small_study import Micro, Watch
from tools.kill_study import contents, differences

from prunecast.errors import MissingExtra, UserError
from prunecast.registry import EXECUTORS
from prunecast.stages.job import Job
from prunecast.store import RECORD_FILE, SUMS_FILE, Damaged, Store
from prunecast.study import ray as cluster
from prunecast.study.executor import Outcome
from prunecast.study.ray import RayExecutor, packed, unpack

needs_ray = pytest.mark.skipif(cluster.importlib.util.find_spec("ray") is None, reason="Ray is not installed")


@pytest.fixture(autouse=True)
def own_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """No cluster of the user's, and no trace in the environment of the tests that come after."""
    for name in (cluster.ADDRESS, *cluster._ON_LOOPBACK):
        monkeypatch.setenv(name, "")  # to be restored
        monkeypatch.delenv(name)


def stages_under_way() -> list[psutil.Process]:
    """Returns the worker processes that run a stage now: Ray names them by their task."""
    children = psutil.Process().children(recursive=True)
    return [child for child in children if "_run_stage" in "".join(child.cmdline())]


def listens_beyond_loopback() -> set[str]:
    """Returns the addresses, other than the loopback ones, on which this process or one that it started listens."""
    found: set[str] = set()
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            sockets = [socket for socket in process.net_connections("tcp") if socket.status == psutil.CONN_LISTEN]
            found.update(socket.laddr.ip for socket in sockets)
    return {address for address in found if address.removeprefix("::ffff:") not in ("127.0.0.1", "::1")}


class Killer(Watch):
    """Kills a worker that is at work, once, and looks around while Ray runs."""

    def __init__(self) -> None:
        super().__init__()
        self.killed = 0
        self.beyond_loopback: set[str] = set()

    def done(self, job: Job) -> None:
        super().done(job)
        if self.killed or self.heard.count("done") < 2:
            return
        self.beyond_loopback = listens_beyond_loopback()
        for process in stages_under_way()[:1]:
            process.send_signal(signal.SIGKILL)
            self.killed += 1


@needs_ray
@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX")
def test_a_cluster_gives_what_one_machine_gives(
    micro: Micro, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    watch = Killer()
    outcome = micro.run(tmp_path / "out", watch, executor=RayExecutor, workers=2)
    assert outcome == Outcome(ran=len(micro.jobs))
    assert watch.killed == 1
    assert watch.heard.count("begin") == len(micro.jobs) + 1, "the lost stage began twice"
    assert differences(micro.whole, tmp_path / "out") == []
    assert watch.beyond_loopback == set()
    assert capfd.readouterr().out == "", "a JSON answer must stay one"
    timed = Store(tmp_path / "out" / "store").record(micro.the("measure", role="dense").fingerprint)
    assert timed.environment.machine == micro.the("measure", role="dense").machine
    again = micro.run(tmp_path / "out", executor=RayExecutor)
    assert (again.ran, again.present) == (0, len(micro.jobs)), "without starting a cluster"


def test_without_ray_one_line_says_what_installs_it(
    micro: Micro, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match=r"pip install 'prunecast\[ray\]'"):
        micro.run(tmp_path / "out", executor=EXECUTORS.load("ray"))
    assert not (tmp_path / "out").exists()


def test_a_study_is_run_from_inside_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cluster.ADDRESS, "ray://head:10001")
    monkeypatch.setattr(cluster.importlib.util, "find_spec", lambda _: "found")
    with pytest.raises(UserError, match="on a node of the cluster"):
        RayExecutor.check()


# What a worker does, without a cluster


@pytest.fixture
def sent(micro: Micro, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, bytes]]:
    """What a stage would be sent: the folders of the stages that it needs."""
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "get", lambda folder: folder)
    store = Store(micro.whole / "store")
    return {name: packed(store.checked(name)) for name in micro.the("finetune").needs}


def test_a_stage_needs_nothing_but_what_it_is_sent(micro: Micro, sent: dict[str, dict[str, bytes]]) -> None:
    from prunecast.data.series import load_series
    from prunecast.stages.run import data_section

    job = micro.the("finetune")
    made = cluster._run_stage(job, sent, load_series(data_section(job)))
    own = packed(Store(micro.whole / "store").directory(job.fingerprint))
    assert made.keys() == own.keys()
    assert all(made[name] == own[name] for name in made if name not in (RECORD_FILE, SUMS_FILE))


def test_a_worker_of_another_version_is_refused(
    micro: Micro, sent: dict[str, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from prunecast.stages.job import CODE_VERSIONS

    job = micro.the("finetune")
    assert job.fingerprint
    monkeypatch.setitem(CODE_VERSIONS, "finetune", 99)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="another version of prunecast"):
        cluster._run_stage(job, sent, None)  # type: ignore[arg-type]


def test_folders_travel_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "one" / "deep").mkdir(parents=True)
    (tmp_path / "one" / "deep" / "a.bin").write_bytes(b"\0\1")
    (tmp_path / "one" / "b").write_bytes(b"")
    unpack(packed(tmp_path / "one"), tmp_path / "two")
    assert packed(tmp_path / "two") == {"deep/a.bin": b"\0\1", "b": b""}


def test_what_is_sent_is_checked_first(micro: Micro, tmp_path: Path) -> None:
    out = micro.copied(tmp_path / "out")
    store = Store(out / "store")
    dense = micro.the("train").fingerprint
    (store.directory(dense) / "config.json").write_text("{}")
    with pytest.raises(Damaged):
        store.checked(dense)
    assert contents(micro.whole) != contents(out)
