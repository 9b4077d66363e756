"""Types `all` with weights: the probes come first, and a first submission of them."""

import json
import shutil
from pathlib import Path

import pytest

import run
from tests.competition import QUICK, fingerprint, make_competition


@pytest.fixture(scope="module")
def weighty(tmp_path_factory):
    """A tiny competition, and a weights file for its backbone: (data folder, weights file)."""
    import torch
    from safetensors.torch import save_file

    from models.backbones import build_network, resolve_backbone

    folder = tmp_path_factory.mktemp("weighty")
    torch.manual_seed(3)
    path = folder / "test_resnet.safetensors"
    save_file(build_network(resolve_backbone("test_resnet"), 7, size=32).state_dict(), path)
    return make_competition(folder / "data"), path


def pretrained(weights):
    """The flags of a quick run that starts from weights."""
    flags = [flag for flag in QUICK if flag != "--no-pretrained"]
    return [*flags, "--weights", weights, "--trials", "16"]


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
            run.main(["all", *map(str, (weighty[0], *pretrained(weighty[1])))])
    return folder


def test_the_whole_way_probes_first_and_submits_the_probes_before_it_trains(weighty, typed):
    data, weights = weighty
    code, out, _ = typed("all", data, *pretrained(weights), "--head", "probe")
    assert code == 0
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
    code, out, _ = typed("check", "work/submissions/probe.csv")
    assert (code, out) == (0, "work/submissions/probe.csv: 6 rows, valid\n")
    assert len(list(Path("work/models/_features").glob("*.npy"))) == 4  # two views of training and test images

    before = fingerprint(Path("work/models")), fingerprint(Path("work/submissions"))["probe.csv"]
    code, out, _ = typed("all", data, *pretrained(weights), "--head", "probe")
    assert code == 0
    assert out.count("was done before") == 6
    assert "probe.csv" not in out
    assert (fingerprint(Path("work/models")), fingerprint(Path("work/submissions"))["probe.csv"]) == before
    code, out, _ = typed("status")
    assert "nothing is missing\nnext: python run.py check work/submissions/blend.csv" in out


def test_without_a_probe_training_begins_at_once_and_other_settings_are_refused_before_a_probe(weighty, typed):
    data, weights = weighty
    Path("kit.toml").write_text("[first]\nprobe = false\n")
    code, out, _ = typed("all", data, *pretrained(weights))
    assert code == 0
    assert "probe" not in out.replace("head from its probe", "")
    assert not Path("work/submissions/probe.csv").exists()
    Path("kit.toml").unlink()
    assert typed("all", data, *pretrained(weights), "--no-probe")[0] == 0
    code, _, err = typed("all", data, *pretrained(weights), "--label-smoothing", "0.1")
    assert code == 2
    assert err.startswith("error: the run test_resnet was begun with other settings: label_smoothing 0.0 -> 0.1")
    assert not Path("work/models/test_resnet-probe").exists()


def test_runs_that_share_backbone_weights_and_size_are_probed_once(weighty, typed):
    data, weights = weighty
    tables = "".join(f"[run.{name}]\nlr = {lr}\n" for name, lr in (("a", 1e-3), ("b", 1e-4)))
    Path("kit.toml").write_text(f"[train]\nbackbone = ['test_resnet']\n{tables}")
    flags = pretrained(weights)
    code, out, _ = typed("all", data, *flags[flags.index("--image-size") :])
    assert code == 0
    assert "a-probe fold 0" in out
    assert not Path("work/models/b-probe").exists()
    verdict = json.loads(Path("work/models/b/fold0/done.json").read_text())["verdict"]
    assert verdict["against_probe"]["probe"] == "a-probe"


def test_a_kill_between_probes_and_training_leaves_a_csv_and_status_and_submit_know_what_it_is(weighty, early, typed):
    data, weights = weighty
    shutil.copytree(early / "work", "work")
    before = fingerprint(Path("work/submissions"))
    _, out, _ = typed("status")
    assert "test_resnet lacks folds 0, 1" in out
    _, out, _ = typed("report")
    page = json.loads(Path("work/report/report.json").read_text())
    submission = page["scores"]["submission"]
    assert (submission["path"], submission["is_early"]) == ("submissions/probe.csv", True)
    code, _, err = typed("submit")
    assert code == 2
    assert "work/ensemble/blend.json does not exist" in err
    flags = pretrained(weights)
    train = flags[: flags.index("--store-size")]
    assert typed("train", *train, "--weights", weights)[0] == 0
    assert typed("blend", "--trials", "16")[0] == 0
    _, out, _ = typed("status")
    assert "the only submission is work/submissions/probe.csv, made from the probes alone" in out
    assert "next: python run.py submit" in out
    assert typed("all", data, *pretrained(weights))[0] == 0
    after = fingerprint(Path("work/submissions"))
    assert {name: after[name] for name in before} == before


def test_an_early_csv_that_is_there_is_not_made_again_but_named(weighty, early, typed, monkeypatch):
    data, weights = weighty
    shutil.copytree(early / "work", "work")
    monkeypatch.setattr("models.commands.Training.__iter__", lambda training: iter(()))
    monkeypatch.setattr("submissions.commands.blend_members", lambda *args, **kwargs: [])
    monkeypatch.setattr("submissions.commands.submit", lambda *args, **kwargs: "")
    before = fingerprint(Path("work/submissions")), fingerprint(Path("work/ensemble"))
    _, out, _ = typed("all", data, *pretrained(weights))
    assert "work/submissions/probe.csv: was made before, from the same predictions\nexpected top-3 error 0." in out
    assert (fingerprint(Path("work/submissions")), fingerprint(Path("work/ensemble"))) == before


def test_a_probe_that_fails_is_told_and_training_goes_on(weighty, typed, monkeypatch):
    import models.probe.probe

    data, weights = weighty

    def fail(*args, **kwargs):
        raise AttributeError("'Net' object has no attribute 'forward_head'")

    monkeypatch.setattr(models.probe.probe, "image_features", fail)
    code, out, err = typed("all", data, *pretrained(weights), "--head", "random")
    assert code == 0
    assert "test_resnet-probe: failed" in out
    assert "error: AttributeError: 'Net' object has no attribute 'forward_head'; training goes on without" in err
    assert "work/submissions/blend.csv: 6 rows, valid" in out
    assert not Path("work/submissions/probe.csv").exists()


def test_the_probe_counts_as_time(weighty, typed):
    data, weights = weighty
    code, out, err = typed("all", data, *pretrained(weights), "--max-hours", "0")
    assert code == 2
    assert "the time is up" in out
    assert "error: the time was up before any fold was done" in err
    assert not Path("work/models/test_resnet-probe").exists()
