"""Types the commands of the whole way on a tiny competition; with weights, the probes come first."""

import csv
import json
import re
import shutil
from pathlib import Path

import pytest

import run
from tests.competition import QUICK, TRAIN, fingerprint, make_competition
from tests.ensemble.small import change_json
from tests.models.small import save_body


def test_the_whole_way_ends_in_a_valid_csv_in_the_order_of_the_sample_with_the_most_frequent_classes(work, typed):
    with open(work / "submissions" / "blend.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["id", "predicted"]
    assert [row[0] for row in rows[1:]] == ["005", "004", "003", "002", "001", "000"]
    assert all(len(set(row[1].split(" ")) & {"0", "1", "2", "10"}) == 3 for row in rows[1:])
    assert ["002", "0 2 10"] in rows  # it is unreadable: 8 usable images each, but 7 of class 1
    assert json.loads((work / "submissions" / "blend.json").read_text())["unreadable_test_images"] == ["002"]
    out = typed("check", work / "submissions" / "blend.csv", "--work", work).out
    assert out == f"{work}/submissions/blend.csv: 6 rows, valid\n"


def test_the_whole_way_leaves_the_data_as_it_was_and_probes_no_random_weights(finished):
    data, work, before = finished
    assert fingerprint(data) == before
    assert not (work / "submissions" / "probe.csv").exists()
    assert not (work / "models" / "test_resnet-probe").exists()


def test_other_settings_under_the_same_name_are_refused_with_two_ways_out(work, typed):
    err = typed("train", "--work", work, *TRAIN, "--epochs", "2", code=2).err
    assert err == (
        "error: the run test_resnet was begun with other settings: epochs 1 -> 2\n"
        "hint: type the settings that it was begun with, or train a second run beside it (`--run NEW-NAME`, or a table "
        f"`[run.NEW-NAME]` in kit.toml), or remove {work}/models/test_resnet to begin again\n"
    )


def test_status_names_the_settings_that_a_run_was_not_begun_with_where_folds_of_it_lack(work, typed, tmp_path):
    copy = shutil.copytree(work, tmp_path / "work")
    shutil.rmtree(copy / "models" / "test_resnet" / "fold1")
    lacking, changed = "test_resnet lacks fold 1", "test_resnet was begun with other settings: "
    same = typed("status", "--work", copy, *TRAIN, "--epochs", "1").out
    assert (lacking in same, changed in same) == (True, False)
    other = typed("status", "--work", copy, *TRAIN, "--epochs", "2", "--mixup", "0.2").out
    assert f"{changed}epochs 1 -> 2, mixup 0.0 -> 0.2; `train` refuses these and says what to do" in other
    assert (
        f"{changed}epochs 1 -> 2"
        in json.loads(typed("status", "--json", "--work", copy, *TRAIN, "--epochs", "2").out)["missing"][1]
    )


def test_status_said_that_nothing_is_missing_where_kit_toml_asks_for_other_folds(work, typed):
    Path("kit.toml").write_text("[split]\nn_folds = 2\n")
    assert "were assigned with" not in typed("status", "--work", work).out
    Path("kit.toml").write_text('[split]\nn_folds = 3\ngroup_regex = "(.)"\n')
    refused, hint = typed("split", "--work", work, code=2).err.removeprefix("error: ").splitlines()
    assert refused.endswith("with 2 folds and seed 0, not 3 folds and seed 0 and group regex (.)")
    out = typed("status", "--work", work).out
    assert f"\n{refused}; {hint.removeprefix('hint: ')}\nnext: python run.py split --work {work}\n" in out
    said = json.loads(typed("status", "--json", "--work", work).out)
    assert said["missing"][0].startswith(refused)


def test_predict_gives_the_same_probabilities_again_and_other_views_on_request(work, typed):
    files = [work / "models" / "test_resnet" / "fold0" / name for name in ("oof.npz", "done.json")]
    before = [path.read_bytes() for path in files]
    typed("predict", "--work", work)
    assert [path.read_bytes() for path in files] == before
    assert "over whole, zoom" in typed("predict", "--work", work, "--views", "whole,zoom").out
    proposed = f"`python run.py predict --work {work} --run test_resnet --views whole,zoom,centre"
    assert proposed in typed("views", "--work", work).out
    assert "over whole, zoom" in typed("predict", "--work", work).out  # the views that the run has
    typed("predict", "--work", work, "--views", "centre,mirror")  # from the networks: neither was there any more
    assert [path.read_bytes() for path in files] == before


def test_predict_refused_everything_while_a_run_was_merely_begun(work, typed):
    begun = work / "models" / "begun" / "fold0"
    begun.mkdir(parents=True)
    shutil.copy(work / "models" / "test_resnet" / "fold0" / "settings.json", begun)
    change_json(begun / "settings.json", run="begun")
    assert "test_resnet fold 0: predicted again" in typed("predict", "--work", work).out
    shutil.rmtree(begun.parent)


def test_status_as_text_or_as_one_json_object_says_the_scores_and_the_next_command(work, typed):
    words = "status", "--work", work, "--backbone", "test_resnet,test_vit", "--no-pretrained"
    text = typed(*words).out
    assert "test_vit lacks folds 0, 1" in text
    assert f"next: python run.py train --work {work}" in text
    _, out, err = typed(*words, "--json")
    said = json.loads(out)
    assert (err, said["version"], said["n_folds"]) == ("", 1, 2)
    assert said["missing"] == ["test_vit lacks folds 0, 1"]
    assert said["next"] == f"python run.py train --work {work}"
    resnet, vit = said["runs"]
    errors = [fold["oof_top3_error"] for fold in resnet["folds"]]
    assert [fold["state"] for fold in resnet["folds"] + vit["folds"]] == ["done", "done", "lacking", "lacking"]
    assert resnet["oof_top3_error"] == sum(errors) / 2
    assert vit["oof_top3_error"] is None
    assert resnet["refit"]["state"] == "lacking"


def test_status_as_json_of_a_folder_that_is_not_there_says_what_to_do(typed):
    said = json.loads(typed("status", "--json", "--work", "nowhere").out)
    assert (said["n_folds"], said["next"]) == (None, "python run.py prepare DATA --work nowhere")


def test_lr_find_says_the_rate_and_how_to_train_with_it(work, typed, tmp_path):
    shutil.copytree(work / "folds", tmp_path / "work" / "folds")
    flags = ("--backbone", "test_resnet", "--no-pretrained", "--image-size", "32", "--batch-size", "4")
    out = typed("lr-find", *flags, "--fold", "1", "--work", tmp_path / "work").out
    rate = re.search(r"test_resnet: --lr (\S+) ", out)[1]
    assert f"next: python run.py train {' '.join(flags)} --lr {rate} --work" in out
    assert (tmp_path / "work" / "models" / "test_resnet" / "lr-find.png").is_file()
    assert not (tmp_path / "work" / "models" / "test_resnet" / "fold1").exists()
    (tmp_path / "work" / "models" / "test_resnet" / "fold0").mkdir()
    out = typed("lr-find", *flags, "--fold", "1", "--work", tmp_path / "work").out
    assert "test_resnet was begun, and another rate needs another name: `--run NEW-NAME`" in out
    assert "next: python run.py train --work" in out


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
        "test_resnet-probe: test_resnet.r160_in1k, frozen, 32 training and 6 test images, 32 pixels, float32",
        "heads of 2 folds in 0:0",
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
    assert "epoch" not in out
    assert "probe.csv" not in out
    assert made() == before
    assert "nothing is missing\nnext: python run.py check work/submissions/blend.csv" in typed("status").out
    typed("predict")  # goes past the probes


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
    assert "warning: AttributeError: 'Net' object has no attribute 'forward_head'; training goes on without" in err
    assert "work/submissions/blend.csv: 6 rows, valid" in out
    assert not Path("work/submissions/probe.csv").exists()


def test_the_probe_counts_as_time(weighty, typed):
    _, out, err = typed("all", *weighty, "--max-hours", "0", code=2)
    assert "the time is up" in out
    assert err.endswith(
        f"error: the time was up before any fold was done\nhint: `python run.py all {weighty[0]}` goes on\n"
    )
    assert not Path("work/models/test_resnet-probe").exists()
