"""Types `all` with weights: the probes come first, and a first submission of them."""

import json
import shutil
from pathlib import Path

import pytest

import run
from tests.competition import QUICK, fingerprint, make_competition
from tests.models.small import save_body


@pytest.fixture(scope="module")
def weighty(tmp_path_factory):
    """What follows `all`: the folder of a tiny competition, and the flags of a quick run that starts from weights."""
    folder = tmp_path_factory.mktemp("weighty")
    weights = save_body(folder / "test_resnet.safetensors")
    flags = [flag for flag in QUICK if flag != "--no-pretrained"]
    return [make_competition(folder / "data"), *flags, "--weights", weights, "--trials", "16"]


@pytest.fixture(scope="module")
def early(weighty, tmp_path_factory):
    """A folder in which `all` was killed between probes and training."""
    folder = tmp_path_factory.mktemp("early")

    def die(*args, **kwargs):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        patched.setattr("models.commands.Training.__iter__", die)
        with pytest.raises(KeyboardInterrupt):
            run.main(["all", *map(str, weighty)])
    return folder


def test_the_whole_way_probes_first_and_submits_the_probes_before_it_trains(weighty, typed):
    out = typed("all", *weighty, "--head", "probe").out
    said = [
        "test_resnet-probe: test_resnet.r160_in1k, frozen",
        "test_resnet-probe-knn fold 0: OOF top-3 error ",
        "work/submissions/probe.csv: 6 rows, valid\nexpected top-3 error 0.",
        "that is a first submission, of test_resnet-probe, test_resnet-probe-knn alone; training comes next\n",
        "head from its probe",
        "work/submissions/blend.csv: 6 rows, valid",
    ]
    places = [out.index(one) for one in said]
    assert places == sorted(places)
    early = json.loads(Path("work/submissions/probe.json").read_text())
    assert early["is_early"] is True
    assert list(early["weights"]) == ["test_resnet-probe", "test_resnet-probe-knn"]
    whole = json.loads(Path("work/submissions/blend.json").read_text())
    assert sorted(whole["weights"]) == ["test_resnet", "test_resnet-probe", "test_resnet-probe-knn"]
    assert "is_early" not in whole
    assert typed("check", "work/submissions/probe.csv").out == "work/submissions/probe.csv: 6 rows, valid\n"
    assert len(list(Path("work/models/_features").glob("*.npy"))) == 4  # two views of training and test images

    def made():
        return fingerprint(Path("work/models")), fingerprint(Path("work/submissions"))["probe.csv"]

    before = made()
    out = typed("all", *weighty, "--head", "probe").out
    assert out.count("was done before") == 6
    assert "probe.csv" not in out
    assert made() == before
    assert "nothing is missing\nnext: python run.py check work/submissions/blend.csv" in typed("status").out


def test_without_a_probe_training_begins_at_once_and_other_settings_are_refused_before_a_probe(weighty, typed):
    whole_way = ["all", *weighty, "--seed", "3"]
    Path("kit.toml").write_text("[first]\nprobe = false\n")
    out = typed(*whole_way).out
    assert "probe" not in out.replace("head from its probe", "")
    assert not Path("work/submissions/probe.csv").exists()
    for place in ("folds/folds.json", "models/test_resnet/fold0/settings.json", "ensemble/blend.json"):
        assert json.loads(Path("work", place).read_text())["seed"] == 3, place
    Path("kit.toml").unlink()
    typed(*whole_way, "--no-probe")
    err = typed(*whole_way, "--label-smoothing", "0.1", code=2).err
    assert err.startswith("error: the run test_resnet was begun with other settings: label_smoothing 0.0 -> 0.1")
    assert not Path("work/models/test_resnet-probe").exists()


def test_runs_that_share_backbone_weights_and_size_are_probed_once(weighty, typed):
    tables = "".join(f"[run.{name}]\nlr = {lr}\n" for name, lr in (("a", 1e-3), ("b", 1e-4)))
    Path("kit.toml").write_text(f"[train]\nbackbone = ['test_resnet']\n{tables}")
    out = typed("all", weighty[0], *weighty[weighty.index("--image-size") :]).out
    assert "a-probe fold 0" in out
    assert not Path("work/models/b-probe").exists()
    verdict = json.loads(Path("work/models/b/fold0/done.json").read_text())["verdict"]
    assert verdict["against_probe"]["probe"] == "a-probe"


def test_a_kill_between_probes_and_training_leaves_a_csv_and_status_and_submit_know_what_it_is(weighty, early, typed):
    shutil.copytree(early / "work", "work")
    before = fingerprint(Path("work/submissions"))
    assert "test_resnet lacks folds 0, 1" in typed("status").out
    typed("report")
    page = json.loads(Path("work/report/report.json").read_text())
    submission = page["scores"]["submission"]
    assert (submission["path"], submission["is_early"]) == ("submissions/probe.csv", True)
    assert "work/ensemble/blend.json does not exist" in typed("submit", code=2).err
    typed("train", *weighty[1 : weighty.index("--store-size")], *weighty[weighty.index("--weights") :][:2])
    typed("blend", "--trials", "16")
    out = typed("status").out
    assert "the only submission is work/submissions/probe.csv, made from the probes alone" in out
    assert "next: python run.py submit" in out
    typed("all", *weighty)
    after = fingerprint(Path("work/submissions"))
    assert {name: after[name] for name in before} == before


def test_an_early_csv_that_is_there_is_not_made_again_but_named(weighty, early, typed, monkeypatch):
    shutil.copytree(early / "work", "work")
    monkeypatch.setattr("models.commands.Training.__iter__", lambda training: iter(()))
    monkeypatch.setattr("submissions.commands.blend_members", lambda *args, **kwargs: [])
    monkeypatch.setattr("submissions.commands.submit", lambda *args, **kwargs: "")
    before = fingerprint(Path("work/submissions")), fingerprint(Path("work/ensemble"))
    out = typed("all", *weighty).out
    assert "work/submissions/probe.csv: was made before, from the same predictions\nexpected top-3 error 0." in out
    assert (fingerprint(Path("work/submissions")), fingerprint(Path("work/ensemble"))) == before


def test_a_probe_that_fails_is_told_and_training_goes_on(weighty, typed, monkeypatch):
    def fail(*args, **kwargs):
        raise AttributeError("'Net' object has no attribute 'forward_head'")

    monkeypatch.setattr("models.probe.bodies.image_features", fail)
    _, out, err = typed("all", *weighty, "--head", "random")
    assert "test_resnet-probe: failed" in out
    assert "error: AttributeError: 'Net' object has no attribute 'forward_head'; training goes on without" in err
    assert "work/submissions/blend.csv: 6 rows, valid" in out
    assert not Path("work/submissions/probe.csv").exists()


def test_the_probe_counts_as_time(weighty, typed):
    _, out, err = typed("all", *weighty, "--max-hours", "0", code=2)
    assert "the time is up" in out
    assert "error: the time was up before any fold was done" in err
    assert not Path("work/models/test_resnet-probe").exists()
