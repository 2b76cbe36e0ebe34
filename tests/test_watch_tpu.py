"""`launch_tpu.sh watch`: what it does about preemption, lost peers, bad settings and bad luck."""

import shlex

import pytest
import tpu_cloud
from tpu_cloud import printed, wait_for

WORDS = ["--config.batch_size=2048", "--config.data.vocab=my files/it's.txt"]


@pytest.fixture
def cloud(tmp_path):
    yield from tpu_cloud.opened(tmp_path)


@pytest.mark.parametrize("create", ["spot", "queued-spot"])
def test_a_preempted_slice_is_recreated_set_up_and_trains_on_until_it_is_finished(cloud, create):
    cloud.play(preempt=1, runs=["wait", "finish"])
    plan = cloud.launch("--dry-run", "watch", *WORDS, TPU_CREATE=create)

    watched = cloud.launch("watch", *WORDS, TPU_CREATE=create)

    assert watched.returncode == 0, watched.stderr
    once = ["create", "install", "train"]
    assert cloud.verbs() == [*once, "delete", *once]
    assert "PREEMPTED: deleting it and creating it anew" in watched.stderr
    assert "finished is there" in watched.stderr
    first, *others = cloud.runs().values()
    assert first[-2:] == WORDS
    assert others == [first] * 3  # the same command again is what resumes
    assert {shlex.join(call) for call in printed(plan.stdout)} == {
        shlex.join(call) for call in cloud.calls()
    }


def test_one_preempted_slice_of_several_brings_all_of_them_anew(cloud):
    cloud.play(preempted_node="xclip-1", runs=["finish"])
    slices = {"TPU_CREATE": "queued-spot", "TPU_SLICES": "3"}
    cloud.launch("create", **slices)
    (cloud.folder / "gone").touch()

    watched = cloud.launch("watch", **slices)

    assert watched.returncode == 0, watched.stderr
    assert cloud.verbs() == ["create", "delete", "create", "install", "train"]
    assert next(call for call in cloud.calls() if "delete" in call)[4:6] == ["xclip", "--force"]
    assert len(cloud.runs()) == 3 * 2


def test_a_run_that_lost_a_process_is_started_again_on_the_same_slice(cloud):
    cloud.play(runs=[3, "finish"])

    assert cloud.launch("watch").returncode == 0
    assert cloud.verbs() == ["create", "install", "train", "train"]


def test_a_run_that_refuses_its_settings_is_started_again_by_another_watch_only(cloud):
    cloud.play(runs=[2, "finish"])

    watched = cloud.launch("watch")

    assert watched.returncode == 1
    assert watched.stdout.endswith("training\n")  # the log
    assert "ended with code 2" in watched.stderr
    assert cloud.verbs() == ["create", "install", "train"]

    assert cloud.launch("watch", "--config.seed=1").returncode == 0
    assert cloud.verbs() == ["create", "install", "train", "train"]


@pytest.mark.parametrize("statuses", [[75, 3], [3, 75], [75, 2]], ids=str)
def test_a_run_that_a_bucket_did_not_answer_is_started_again(cloud, statuses):
    cloud.play(runs=[statuses, "finish"])

    watched = cloud.launch("watch")

    assert watched.returncode == 0, watched.stderr
    assert cloud.verbs() == ["create", "install", "train", "train"]


def test_a_wrong_setting_on_one_worker_ends_the_watch_whatever_it_costs_the_others(cloud):
    cloud.play(runs=[[3, 2], "finish"])

    assert cloud.launch("watch").returncode == 1
    assert cloud.verbs() == ["create", "install", "train"]


def test_half_written_checkpoints_do_not_pay_for_attempts(cloud):
    cloud.play(runs=[75], checkpoints="half")

    watched = cloud.launch("watch", WATCH_TRIES="3")

    assert watched.returncode == 1
    assert "gave up after 3 attempts" in watched.stderr
    assert cloud.verbs().count("train") == 3


def test_a_run_that_never_gets_to_a_checkpoint_is_given_up(cloud):
    cloud.play(runs=[3])

    watched = cloud.launch("watch", WATCH_TRIES="3")

    assert watched.returncode == 1
    assert "gave up after 3 attempts" in watched.stderr
    assert cloud.verbs() == ["create", "install", "train", "train", "train"]


def test_checkpoints_pay_for_the_attempts_before_them(cloud):
    cloud.play(runs=[1, 3, 1, 3, "finish"], checkpoints=True)

    watched = cloud.launch("watch", WATCH_TRIES="2", CRASH_TRIES="2")

    assert watched.returncode == 0, watched.stderr
    assert cloud.verbs().count("train") == 5


def test_workers_that_cannot_be_reached_are_tried_ever_more_rarely_and_never_deleted(cloud):
    cloud.launch("create")
    cloud.play(ssh_fails=True)
    sleep = cloud.folder.parent / "bin" / "sleep"
    sleep.write_text(f"#!/bin/sh\necho $1 >>{shlex.quote(str(cloud.folder / 'slept'))}\n")
    sleep.chmod(0o755)

    watched = cloud.launch("watch", POLL_SECONDS="60", WATCH_TRIES="7")

    assert watched.returncode == 1
    assert "return code [255]" in watched.stderr
    waits = (cloud.folder / "slept").read_text().split()
    assert waits == ["120", "240", "480", "960", "1920", "1920", "1920"]
    assert cloud.verbs() == ["create"]


@pytest.mark.parametrize(
    "error",
    ["PERMISSION_DENIED: Permission denied on 'locations/z'", "NOT_FOUND: project p not there"],
    ids=["permission", "project"],
)
def test_a_slice_that_gcloud_cannot_tell_about_is_not_taken_for_absent(cloud, error):
    cloud.play(describe_fails=error)

    watched = cloud.launch("watch", WATCH_TRIES="2")

    assert watched.returncode == 1
    assert watched.stderr.count(error) == 3
    assert not cloud.verbs()


def test_a_bucket_that_cannot_be_looked_into_ends_the_watch_before_it_rents(cloud):
    cloud.play(storage_fails="You do not currently have an active account selected.")

    watched = cloud.launch("watch")

    assert watched.returncode == 1 and not cloud.verbs()
    said = watched.stderr.splitlines()
    assert "active account" in said[-2] and "cannot look into gs://b/runs/one" in said[-1]


def test_stopping_the_run_ends_the_watch_and_another_watch_goes_on(cloud):
    cloud.play(runs=["wait", "finish"])
    watch = cloud.start("watch")
    wait_for(lambda: len(cloud.runs()) == 2)

    assert cloud.launch("stop").returncode == 0

    _, said = watch.communicate(timeout=30)
    assert watch.returncode == 1  # `watch && delete` keeps what is not finished
    assert "stopped by `stop`" in said
    assert cloud.launch("watch").returncode == 0
    assert cloud.verbs() == ["create", "install", "train", "stop", "train"]


def test_a_run_that_crashes_is_given_up_long_before_one_that_loses_processes(cloud):
    cloud.play(runs=[1])

    watched = cloud.launch("watch")

    assert watched.returncode == 1
    assert "the run crashed 3 times without a new checkpoint" in watched.stderr
    assert watched.stdout.endswith("training\n")  # the log
    assert cloud.verbs() == ["create", "install", "train", "train", "train"]


@pytest.mark.parametrize(
    ("runs", "variables", "status"),
    [
        (["finish"], {}, 0),
        ([3, "finish"], {"TPU_CREATE": "queued-spot"}, 0),
        ([2], {}, 1),
        ([1], {"CRASH_TRIES": "1"}, 1),
        ([3], {"WATCH_TRIES": "2"}, 1),
    ],
    ids=["finished", "lost and finished", "settings", "crashed", "given up"],
)
def test_a_watch_that_deletes_gives_the_slice_back_once_nobody_trains_on_it(
    cloud, runs, variables, status
):
    cloud.play(runs=runs, delete_fails=2)
    plan = cloud.launch("--dry-run", "watch", "--delete", **variables)

    watched = cloud.launch("watch", "--delete", **variables)

    assert watched.returncode == status, watched.stderr
    assert not list(cloud.folder.glob("slice/*"))
    assert cloud.verbs()[-3:] == ["delete"] * 3  # the first two failed
    assert cloud.verbs().count("delete") == 3
    assert cloud.calls()[-1] in printed(plan.stdout)


def test_a_slice_that_cannot_be_given_back_is_said_to_cost(cloud):
    cloud.play(runs=["finish"], delete_fails=99)

    kept = cloud.launch("watch", "--delete")

    assert kept.returncode == 1
    assert "xclip could not be deleted and may cost on" in kept.stderr


def test_stopping_or_interrupting_a_watch_that_deletes_leaves_the_slice(cloud):
    watch = cloud.start("watch", "--delete")
    wait_for(lambda: len(cloud.runs()) == 2)
    assert cloud.launch("stop").returncode == 0
    watch.communicate(timeout=30)
    assert watch.returncode == 1

    again = cloud.start("watch", "--delete", POLL_SECONDS="1")
    wait_for(lambda: len(cloud.runs()) == 4)
    again.terminate()

    _, said = again.communicate(timeout=30)
    assert again.returncode == 130
    assert "interrupted: xclip, if it is there, stays and costs" in said
    assert "delete" not in cloud.verbs()
    assert "--delete goes with watch" in cloud.launch("train", "--delete").stderr
