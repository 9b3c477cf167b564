"""The program on several ranks: the same result, and what happens when one of them fails."""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
import rank_processes
from rank_processes import CLEAN, free_port, start, told

FOLDER = pathlib.Path(sys.executable).parent
PROGRAM = FOLDER / "ptyle"
pytestmark = [
    pytest.mark.skipif(not PROGRAM.exists(), reason=f"{PROGRAM} is not built"),
    pytest.mark.timeout(120),
]


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    folder = tmp_path_factory.mktemp("film")
    options = ["--scan", "9", "10", "--window", "32", "--slices", "2", "--thickness-nm", "4"]
    subprocess.run(
        [PROGRAM, "simulate", "PbTiO3", "-o", "film.h5", *options],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    return folder


def settings(**values):
    return [text for key, value in values.items() for text in ("--set", f"{key}={value}")]


def options_of(out, iterations=4, **values):
    values = {
        "output.folder": out,
        "output.png": "false",
        "reconstruct.iterations": iterations,
        "reconstruct.batches": 8,
        "tiles.grid": "[3,3]",
        "tiles.timeout_s": 6,
    } | values
    return settings(**values)


def begin(film, ranks, options, change=None, kernels=(), **values):
    """Processes of `ranks` ranks; `change` is more options for one of them: (rank, options);
    `kernels` is what PTYLE_ISA is for the first ones."""
    return start(
        [PROGRAM, "run", "film.toml", *options],
        ranks,
        cwd=film,
        more=lambda rank: change[1] if change and change[0] == rank else [],
        env=lambda rank: {"PTYLE_ISA": kernels[rank]} if rank < len(kernels) else {},
        **values,
    )


def finish(processes, timeout=60):
    """(exit code, standard error) of each."""
    return [(code, said) for code, _, said in rank_processes.finish(processes, timeout)]


def run(film, ranks, out, **values):
    ends = finish(begin(film, ranks, options_of(out, **values)))
    assert [code for code, _ in ends] == [0] * ranks, ends
    return film / out


def arrays(folder):
    with h5py.File(folder / "result.h5") as file:
        return {
            name: file[name][()]
            for name in ("object", "probe", "history/loss", "history/amplitude_error")
        }


def same_bits(a, b):
    a, b = arrays(a), arrays(b)
    return all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("exchange", ["direct", "passes", "voxels"])
def test_results_have_the_same_bits_on_any_number_of_ranks(film, exchange):
    one = run(film, 1, f"{exchange}1", **{"tiles.exchange": exchange})
    for ranks in (2, 4):
        several = run(film, ranks, f"{exchange}{ranks}", **{"tiles.exchange": exchange})
        assert same_bits(one, several)
    line = json.loads((several / "metrics.jsonl").read_text().splitlines()[-1])
    assert line["bytes_sent"] > 0 and line["messages_sent"] > 0 and line["wait_seconds"] >= 0
    assert line["compute_seconds"] > 0


def test_ranks_take_the_kernels_of_the_slowest(film):
    alone = finish(begin(film, 1, options_of("base1"), kernels=["base"]))
    mixed = finish(begin(film, 2, options_of("mixed"), kernels=["", "base"]))
    assert [code for code, _ in alone + mixed] == [0, 0, 0]
    assert same_bits(film / "base1", film / "mixed")
    if "fused base" not in mixed[0][1]:
        pytest.skip("this processor has no better kernels than base")


# What differs is the order of sums alone: it shrinks with the precision as rounding does.
@pytest.mark.parametrize(("precision", "limit"), [("single", 3e-4), ("double", 2e-12)])
def test_allreduce_agrees_to_rounding(film, precision, limit):
    values = {"tiles.exchange": "allreduce", "reconstruct.precision": precision}
    one = arrays(run(film, 1, f"all1{precision}", **values))
    three = arrays(run(film, 3, f"all3{precision}", **values))
    for name in one:
        np.testing.assert_allclose(
            three[name], one[name], rtol=0, atol=limit * abs(one[name]).max()
        )


def test_a_checkpoint_goes_on_with_another_number_of_ranks(film):
    whole = run(film, 2, "whole", iterations=6, **{"reconstruct.optimizer": "adam"})
    run(film, 3, "parts", iterations=3, **{"reconstruct.optimizer": "adam"})
    again = options_of("parts", iterations=6, **{"reconstruct.optimizer": "adam"})
    assert [code for code, _ in finish(begin(film, 2, [*again, "--resume"]))] == [0, 0]
    assert same_bits(whole, film / "parts")


def test_auto_is_a_tile_a_rank_and_a_restart_keeps_it(film):
    auto = {"tiles.grid": "auto"}
    run(film, 4, "auto", iterations=2, **auto)
    resolved = (film / "auto" / "config.toml").read_text().replace(" ", "")
    assert "grid=[2,2]" in resolved
    again = options_of("auto", iterations=3, **auto)
    ends = finish(begin(film, 1, [*again, "--resume"]))
    assert ends[0][0] == 0 and "2 x 2 tiles on 1 rank" in ends[0][1]


def test_torchrun_starts_ranks(film):
    result = subprocess.run(
        [
            FOLDER / "torchrun",
            "--no-python",
            "--nproc-per-node=2",
            f"--master-port={free_port()}",
            PROGRAM,
            "run",
            "film.toml",
            *options_of("torchrun"),
        ],
        cwd=film,
        env=CLEAN,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert result.returncode == 0, result.stderr
    assert "torchrun's store" in result.stderr
    assert same_bits(film / "torchrun", run(film, 1, "no_torchrun"))


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="no mpirun is installed")
def test_mpirun_starts_ranks(film):
    command = ["mpirun", "--oversubscribe", "-np", "2"]
    environment = CLEAN | {
        "OMP_NUM_THREADS": "1",
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    }
    result = subprocess.run(
        [*command, PROGRAM, "run", "film.toml", *options_of("mpirun")],
        cwd=film,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert result.returncode == 0, result.stderr
    assert "rank 1 of 2" in result.stderr and "Open MPI" in result.stderr
    assert same_bits(film / "mpirun", run(film, 1, "no_mpirun"))


def test_a_trace_shows_every_rank(film):
    options = [*options_of("traced", iterations=2), "--trace", "trace.json"]
    assert [code for code, _ in finish(begin(film, 2, options))] == [0, 0]
    events = json.loads((film / "trace.json").read_text())["traceEvents"]
    boxes = [e for e in events if e["ph"] == "X"]
    assert {e["pid"] for e in boxes} == {0, 1}
    names = {e["name"] for e in boxes}
    assert {"positions that need no halo", "boundary positions", "wait for voxels"} <= names
    for rank in (0, 1):  # gradients are sent before, and waited for after, positions without a halo
        order = [e["name"] for e in sorted(boxes, key=lambda e: e["ts"]) if e["pid"] == rank]
        sent = order.index("send gradients")
        assert order[sent + 1] == "positions that need no halo"
        assert "wait for gradients, add" in order[sent:]


def test_rare_exchanges_of_voxels_and_passes(film):
    for exchange in ("passes", "voxels"):
        values = {"tiles.exchange": exchange, "tiles.exchange_every": 3}
        one = run(film, 1, f"rare1{exchange}", **values)
        assert same_bits(one, run(film, 3, f"rare3{exchange}", **values))
    ends = finish(begin(film, 1, options_of("rare", **{"tiles.exchange_every": 3})))
    assert ends[0][0] == 2 and "tiles.exchange_every" in ends[0][1]


@pytest.fixture
def hosts():
    """Four hosts: network namespaces on a bridge; delay and loss where the kernel has netem."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and ip")
    tag = f"pt{os.getpid() % 10000}"
    made, bridge = [], f"{tag}b"

    def ip(*arguments, check=True):
        done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
        if check and done.returncode != 0:
            raise RuntimeError(done.stderr)

    try:
        try:
            ip("link", "add", bridge, "type", "bridge")
            ip("link", "set", bridge, "up")
            for host in range(4):
                name = f"{tag}h{host}"
                ip("netns", "add", name)
                made.append(name)
                inside = ("netns", "exec", name, "ip")
                end = f"{tag}v{host}"
                peer = ("peer", "name", "eth0", "netns", name)
                ip("link", "add", end, "type", "veth", *peer)
                ip("link", "set", end, "master", bridge, "up")
                ip(*inside, "addr", "add", f"10.77.0.{host + 1}/24", "dev", "eth0")
                ip(*inside, "link", "set", "eth0", "up")
                ip(*inside, "link", "set", "lo", "up")
        except RuntimeError as error:
            pytest.skip(f"no network namespaces here: {error}")
        for name in made:
            netem = "tc qdisc add dev eth0 root netem delay 2ms loss 1%".split()
            slow = subprocess.run(["ip", "netns", "exec", name, *netem], capture_output=True)
            if slow.returncode != 0:
                print("this kernel has no netem: hosts without delay and loss")
                break
        yield made
    finally:
        for name in made:
            ip("netns", "delete", name, check=False)
        ip("link", "delete", bridge, check=False)


def test_four_hosts_on_a_network_give_the_same_bits(film, hosts):
    processes = []
    for rank, host in enumerate(hosts):
        processes.append(
            subprocess.Popen(
                ["ip", "netns", "exec", host, PROGRAM, "run", "film.toml", *options_of("hosts")],
                cwd=film,
                env=told(rank, 4, 29555, "10.77.0.1"),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    ends = finish(processes)
    assert [code for code, _ in ends] == [0] * 4, ends
    assert same_bits(film / "hosts", run(film, 1, "no_hosts"))


def until_iterating(film, out):
    """Waits for the first line of metrics."""
    for _ in range(300):
        metrics = film / out / "metrics.jsonl"
        if metrics.exists() and metrics.read_text():
            return
        time.sleep(0.1)
    pytest.fail("no iteration within 30 s")


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGSTOP])
def test_a_rank_that_is_gone_is_named_by_the_others(film, victim, kind):
    out = f"fault{victim}{kind.name}"
    processes = begin(film, 3, options_of(out, iterations=1000000))
    try:
        until_iterating(film, out)
        processes[victim].send_signal(kind)
        begin_time = time.monotonic()
        others = [p for rank, p in enumerate(processes) if rank != victim]
        ends = []
        for process in others:
            _, stderr = process.communicate(timeout=40)
            ends.append((process.returncode, stderr.splitlines()[-1]))
        assert time.monotonic() - begin_time < 25
    finally:
        for process in processes:
            process.kill()
            process.wait()
    for code, message in ends:
        assert code == 75, ends
        assert f"rank {victim}" in message, ends


def test_ctrl_c_on_one_rank_saves_everything_on_all(film):
    processes = begin(film, 2, options_of("interrupted", iterations=1000000))
    until_iterating(film, "interrupted")
    processes[1].send_signal(signal.SIGINT)
    ends = finish(processes)
    assert [code for code, _ in ends] == [130, 130], ends
    assert [said.count("--resume goes on") for _, said in ends] == [1, 0], ends
    with h5py.File(film / "interrupted" / "result.h5") as file:
        assert np.isfinite(file["object"][()]).all()


def test_ranks_with_another_config_refuse_and_name_the_key(film):
    change = (1, ["--set", "reconstruct.step=0.5"])
    ends = finish(begin(film, 2, options_of("differ"), change))
    assert [code for code, _ in ends] == [2, 2], ends
    for _, message in ends:
        assert "reconstruct.step" in message and "0.5" in message
    assert not (film / "differ").exists()


def test_a_rank_that_comes_late_to_a_refusal_reads_it(film):
    port = free_port()
    options = options_of("late", **{"tiles.timeout_s": 12})
    change = (1, ["--set", "reconstruct.step=0.5"])
    early = begin(film, 2, options, change, world=3, port=port)
    time.sleep(3)
    late = begin(film, 3, options, world=3, port=port, first=2)
    ends = finish([*early, *late])
    assert [code for code, _ in ends] == [2, 2, 2], ends
    assert all("reconstruct.step" in message for _, message in ends)


def test_bad_data_on_one_rank_ends_all(film):
    with h5py.File(film / "film.h5") as good, h5py.File(film / "bad.h5", "w") as bad:
        for name in good:
            if isinstance(good[name], h5py.Dataset):
                bad[name] = good[name][()]
        patterns = bad["data"][()].astype(np.float32)
        patterns[-1, 3, 4] = np.nan  # read by the last rank alone
        del bad["data"]
        bad["data"] = patterns
    ends = finish(begin(film, 2, [*options_of("bad"), "--set", "data.file=bad.h5"]))
    assert [code for code, _ in ends] == [75, 3], ends
    assert "must be finite, got nan" in ends[1][1]
    assert "rank 1 failed before the start" in ends[0][1] and "got nan" in ends[0][1]
    assert not (film / "bad").exists()


def test_ranks_that_do_not_come_are_named(film):
    ends = finish(begin(film, 2, options_of("missing"), world=3))
    assert [code for code, _ in ends] == [75, 75], ends
    assert "rank 2 did" in ends[0][1] and "WORLD_SIZE" in ends[0][1]


# Rank 1 as far as the agreement, and not a step farther.
ENDS_AFTER_THE_AGREEMENT = """
import os
from datetime import timedelta
from torch.distributed import PrefixStore, TCPStore

port, patience = int(os.environ["MASTER_PORT"]), timedelta(seconds=30)
store = PrefixStore("/ptyle", TCPStore("127.0.0.1", port, is_master=False, timeout=patience))
store.add("came/1", 1)
store.set("here/1", "1")
store.get("agreement")
store.add("agreed", 1)
os._exit(9)
"""


def test_a_rank_that_ends_before_all_are_connected_is_named(film):
    port = free_port()
    real = begin(film, 1, options_of("connecting"), world=2, port=port)
    fake = start([sys.executable, "-c", ENDS_AFTER_THE_AGREEMENT], 2, first=1, port=port)
    (code, message), (killed, said) = finish([*real, *fake])
    assert killed == 9, said
    assert code == 75 and "rank 1" in message.splitlines()[-1], message


def test_a_master_that_is_not_there_is_named(film):
    ((code, message),) = finish(begin(film, 2, options_of("alone"), first=1))
    assert code == 75 and "rank 0 must be reached at 127.0.0.1:" in message


def test_a_port_in_use_is_named(film):
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        processes = begin(film, 1, options_of("port"), world=2, port=port)
        ((code, message),) = finish(processes)
    assert code == 1 and "MASTER_PORT: must be a free port" in message


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        (dict(RANK="0"), ["WORLD_SIZE", "must be set"]),
        (dict(RANK="2", WORLD_SIZE="2"), ["RANK", "0 to 1", '"2"']),
        (dict(RANK="0", WORLD_SIZE="many"), ["WORLD_SIZE", '"many"']),
        (dict(RANK="0", WORLD_SIZE="2"), ["MASTER_ADDR", "rank 0 of 2"]),
        (dict(RANK="0", WORLD_SIZE="2", MASTER_ADDR="x", MASTER_PORT="99999"), ["MASTER_PORT"]),
    ],
)
def test_a_wrong_environment_is_said_in_one_sentence(film, environment, words):
    result = subprocess.run(
        [PROGRAM, "run", "film.toml", *options_of("wrong")],
        cwd=film,
        env=CLEAN | environment,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert result.returncode == 2, result.stderr
    (line,) = [line for line in result.stderr.splitlines() if "error" in line]
    assert all(word in line for word in words), line


def test_a_rank_that_comes_twice_leaves_the_job_alone(film):
    port = free_port()
    job = begin(film, 2, options_of("twice", iterations=300), port=port)
    until_iterating(film, "twice")
    stray = begin(film, 2, options_of("stray", iterations=3000), port=port, first=1)
    code, stderr = finish(stray)[0]
    assert code == 2 and "RANK: must be another one for every process of a job" in stderr
    assert [code for code, _ in finish(job)] == [0, 0]


def test_a_failure_before_the_meeting_is_not_waited_for(film):
    began = time.monotonic()
    change = (1, settings(**{"data.file": "/nonexistent.h5"}))
    ends = finish(begin(film, 2, options_of("early", **{"tiles.timeout_s": 60}), change))
    assert [code for code, _ in ends] == [75, 2], ends
    assert "rank 1 failed before the start" in ends[0][1]
    assert time.monotonic() - began < 30


def test_two_runs_in_one_folder_are_refused(film):
    first = begin(film, 1, options_of("shared", iterations=1000000))
    until_iterating(film, "shared")
    second = begin(film, 1, [*options_of("shared"), "--overwrite"])
    code, stderr = finish(second)[0]
    assert code == 2 and "must not be that of a run under way" in stderr
    first[0].send_signal(signal.SIGINT)
    assert finish(first)[0][0] == 130


def test_a_trace_that_cannot_be_written_is_refused_at_once(film):
    for name in ("/nonexistent/trace.json", "/dev/full"):
        code, stderr = finish(begin(film, 1, [*options_of("untraced"), "--trace", name]))[0]
        assert code == 2 and "--trace: must" in stderr and name in stderr
    assert pathlib.Path("/dev/full").is_char_device()


def test_more_ranks_than_tiles_are_refused(film):
    ends = finish(begin(film, 2, options_of("few", **{"tiles.grid": "[1,1]"})))
    assert [code for code, _ in ends] == [2, 2]
    words = 'must have a tile for each of the 2 ranks (tiles.grid = "auto" makes one for each)'
    for rank, (_, stderr) in enumerate(ends):
        assert f" rank {rank}] error: tiles.grid: {words}, got 1 x 1" in stderr, stderr


def test_doubts_and_the_judgement_of_the_fit_do_not_depend_on_the_ranks(film):
    found = {}
    options = {"detector.center": "[16.7,15]", "probe.power": 1e4}
    options |= {"reconstruct.step": 0.3, "refine.probe.step": 0.3}
    for ranks in (1, 3):
        out = f"doubts{ranks}"
        ends = finish(begin(film, ranks, options_of(out, **options)))
        assert [code for code, _ in ends] == [0] * ranks, ends
        with h5py.File(film / out / "result.h5") as file:
            found[ranks] = dict(file.attrs)
        lines = found[ranks]["doubts"].decode().splitlines()
        assert any("detector.center" in line for line in lines) and len(lines) > 1
        for line in lines:  # by rank 0, once
            assert [said.count(line) for _, said in ends] == [1] + [0] * (ranks - 1)
    for name in ("doubts", "amplitude_error", "expected_amplitude_error", "loss_per_pixel"):
        assert found[1][name] == found[3][name], name


def test_all_ranks_of_a_diverged_run_fail_and_its_last_good_state_is_kept(film):
    grid = {"tiles.grid": "[2,1]"}
    ends = finish(begin(film, 2, options_of("diverged", 4, **grid)))
    assert [code for code, _ in ends] == [0, 0], ends
    adam = {"reconstruct.optimizer": "adam", "reconstruct.learning_rate": 20}
    ends = finish(begin(film, 2, [*options_of("diverged", 60, **grid, **adam), "--resume"]))
    assert [code for code, _ in ends] == [1, 1], ends
    # By rank 0, once: all ranks find the same.
    assert [said.count("the run diverged") for _, said in ends] == [1, 0]
    assert "reconstruct.learning_rate" in ends[0][1] and "keeps the result" in ends[0][1]
    assert "error:" not in ends[1][1]
    with h5py.File(film / "diverged/result.h5") as file:
        assert np.isfinite(file["object"][()]).all()
        kept = file["history/amplitude_error"][()]
    rows = (film / "diverged/metrics.jsonl").read_text().splitlines()
    errors = [json.loads(row)["amplitude_error"] for row in rows]
    assert kept.tolist() == errors[: len(kept)] and kept[-1] < 2 * min(errors)
