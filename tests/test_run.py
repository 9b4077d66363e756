"""Types commands: the whole way on a tiny competition, where settings come from, what is refused and how."""

import csv
import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import run
from tests.competition import fingerprint, make_competition

ROOT = Path(run.__file__).parent
SCRATCH = ["--backbone", "test_resnet", "--no-pretrained", "--image-size", "32", "--batch-size", "8"]
TRAIN = [*SCRATCH, "--precision", "fp32", "--device", "cpu"]
QUICK = [*TRAIN, "--epochs", "1", "--store-size", "32", "--n-folds", "2"]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def typed(capsys):
    """Type a command; returns (exit code, stdout, stderr)."""

    def type_(*words):
        code = run.main([str(word) for word in words])
        out, err = capsys.readouterr()
        return code, out, err

    return type_


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A tiny competition that has gone the whole way: (data folder, work folder, fingerprint of the data before)."""
    folder = tmp_path_factory.mktemp("tiny")
    data = make_competition(folder / "data")
    (data / "TrainVal" / "1" / "1-0.jpg").write_bytes(b"")
    (data / "Public" / "002.jpg").write_bytes(b"no image")
    before = fingerprint(data)
    assert run.main(["all", str(data), "--work", str(folder / "work"), *QUICK]) == 0
    return data, folder / "work", before


def test_the_whole_way_ends_in_a_valid_csv_in_the_order_of_the_sample(finished, typed):
    _, work, _ = finished
    with open(work / "submissions" / "blend.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["id", "predicted"]
    assert [row[0] for row in rows[1:]] == ["005", "004", "003", "002", "001", "000"]
    assert all(len(set(row[1].split(" ")) & {"0", "1", "2", "10"}) == 3 for row in rows[1:])
    code, out, _ = typed("check", work / "submissions" / "blend.csv", "--work", work)
    assert (code, out) == (0, f"{work}/submissions/blend.csv: 6 rows, valid\n")


def test_the_whole_way_leaves_the_data_as_it_was(finished):
    data, _, before = finished
    assert fingerprint(data) == before


def test_an_unreadable_test_image_gets_the_most_frequent_classes_and_is_counted(finished):
    _, work, _ = finished
    assert "002,0 2 10" in (work / "submissions" / "blend.csv").read_text()  # 8 usable images each, but 7 of class 1
    assert json.loads((work / "submissions" / "blend.json").read_text())["unreadable_test_images"] == ["002"]


def test_the_same_command_again_trains_nothing_and_changes_nothing(finished, typed):
    data, work, _ = finished
    before = fingerprint(work / "models")
    code, out, _ = typed("all", data, "--work", work, *QUICK)
    assert code == 0
    assert out.count("was done before") == 2
    assert "epoch" not in out
    assert fingerprint(work / "models") == before


def test_one_seed_reaches_folds_training_and_blend(typed, tmp_path):
    data = make_competition(tmp_path / "data")
    assert typed("all", data, *QUICK, "--seed", "3")[0] == 0
    work = tmp_path / "work"
    for place in ("folds/folds.json", "models/test_resnet/fold0/settings.json", "ensemble/blend.json"):
        assert json.loads((work / place).read_text())["seed"] == 3, place


def test_other_settings_under_the_same_name_are_refused_with_two_ways_out(finished, typed):
    _, work, _ = finished
    code, _, err = typed("train", "--work", work, *TRAIN, "--epochs", "2")
    assert code == 2
    assert err == (
        "error: the run test_resnet was begun with other settings: epochs 1 -> 2\n"
        f"hint: `--run NEW-NAME` for a second run beside it, or remove {work}/models/test_resnet to begin again\n"
    )


def test_predict_gives_the_same_probabilities_again_and_other_views_on_request(finished, typed):
    _, work, _ = finished
    folder = work / "models" / "test_resnet" / "fold0"
    before = (folder / "oof.npz").read_bytes(), (folder / "done.json").read_bytes()
    assert typed("predict", "--work", work)[0] == 0
    assert ((folder / "oof.npz").read_bytes(), (folder / "done.json").read_bytes()) == before
    code, out, _ = typed("predict", "--work", work, "--views", "centre,whole,zoom")
    assert code == 0
    assert "over centre, whole, zoom" in out
    assert typed("predict", "--work", work)[0] == 0  # as the others need it


def test_a_single_run_can_be_submitted(finished, typed):
    _, work, _ = finished
    code, out, _ = typed("submit", "--run", "test_resnet", "--work", work)
    assert code == 0
    assert "test_resnet.csv: 6 rows, valid" in out


def test_predictions_of_another_tool_are_added_and_blended(finished, typed, tmp_path):
    _, work, _ = finished
    ids = {"oof": [], "test": [f"{i:03d}" for i in range(6)]}
    with open(work / "folds" / "folds.csv", newline="") as file:
        truth = {row["image_id"]: row["label"] for row in csv.DictReader(file)}
    ids["oof"] = sorted(truth, reverse=True)
    for part, names in ids.items():
        rows = [[name, *("0.7" if truth.get(name) == label else "0.1" for label in "012"), "0.1"] for name in names]
        rows = [[name, *(str(float(p) / sum(map(float, row))) for p in row)] for name, *row in rows]
        with open(tmp_path / f"{part}.csv", "w", newline="") as file:
            csv.writer(file).writerows([["id", "0", "1", "2", "10"], *rows])
    code, out, _ = typed("add", "friend", "--oof", "oof.csv", "--test", "test.csv", "--trust-folds", "--work", work)
    assert code == 0
    assert "friend: 31 out-of-fold and 5 test images" in out
    code, out, _ = typed("blend", "--members", "friend,test_resnet", "--work", work, "--trials", "16")
    assert code == 0
    assert "friend" in out
    assert typed("blend", "--members", "test_resnet", "--work", work)[0] == 0  # as the others need it


def test_files_alone_are_blended_without_a_work_folder(typed, tmp_path):
    labels = ["id,label"] + [f"a{i},{'xyz'[i % 3]}" for i in range(60)]
    Path("labels.csv").write_text("\n".join(labels) + "\n")
    for name, sure in (("one", 0.8), ("two", 0.6)):
        for part, n in (("", 60), ("_test", 6)):
            rows = [[sure if i % 3 == c else (1 - sure) / 2 for c in range(3)] for i in range(n)]
            lines = [f"a{i},{','.join(map(str, row))}" for i, row in enumerate(rows)]
            Path(f"{name}{part}.csv").write_text("\n".join(["id,x,y,z", *lines]) + "\n")
    members = ("--member", "one.csv:one_test.csv", "--member", "two.csv:two_test.csv")
    code, out, _ = typed("blend", "--labels", "labels.csv", *members, "--trials", "16", "--metric", "accuracy")
    assert code == 0
    assert "submission.csv: 6 rows, valid" in out
    assert Path("submission.csv").read_text().splitlines()[1] == "a0,x y z"
    assert not Path("work").exists()


def test_status_shows_scores_and_the_next_command(finished, typed):
    _, work, _ = finished
    code, out, _ = typed("status", "--work", work, "--backbone", "test_resnet,test_vit", "--no-pretrained")
    assert code == 0
    assert "test_vit lacks folds 0, 1" in out
    assert f"next: python run.py train --work {work}" in out


def test_status_as_json_is_one_object_with_the_same_scores_and_nothing_around_it(finished, typed):
    _, work, _ = finished
    code, out, err = typed("status", "--json", "--work", work, "--backbone", "test_resnet,test_vit", "--no-pretrained")
    said = json.loads(out)
    assert (code, err, said["version"], said["n_folds"]) == (0, "", 1, 2)
    assert said["missing"] == ["test_vit lacks folds 0, 1"]
    assert said["next"] == f"python run.py train --work {work}"
    resnet, vit = said["runs"]
    errors = [fold["oof_top3_error"] for fold in resnet["folds"]]
    assert [fold["state"] for fold in resnet["folds"] + vit["folds"]] == ["done", "done", "lacking", "lacking"]
    assert resnet["oof_top3_error"] == sum(errors) / 2
    assert vit["oof_top3_error"] is None
    assert resnet["refit"]["state"] == "lacking"


def test_status_as_json_of_a_folder_that_is_not_there_says_what_to_do(typed):
    code, out, _ = typed("status", "--json", "--work", "nowhere")
    said = json.loads(out)
    assert (code, said["n_folds"], said["next"]) == (0, None, "python run.py prepare DATA --work nowhere")


def test_a_spoilt_csv_is_refused_by_check(finished, typed, tmp_path):
    _, work, _ = finished
    text = (work / "submissions" / "blend.csv").read_text()
    (tmp_path / "spoilt.csv").write_text(text.replace("005,", "055,"))
    code, _, err = typed("check", "spoilt.csv", "--work", work)
    assert code == 2
    assert err.startswith("error: spoilt.csv is not valid: ")
    assert "005" in err


def test_score_counts_first_and_third_places(finished, typed, tmp_path):
    _, work, _ = finished
    rows = [line.split(",") for line in (work / "submissions" / "blend.csv").read_text().splitlines()[1:]]
    labels = [f"{name},{guesses.split(' ')[2]}" for name, guesses in rows[:3]]  # hits, but only as third guess
    Path("labels.csv").write_text("\n".join(["id,label", *labels]) + "\n")
    code, out, _ = typed("score", work / "submissions" / "blend.csv", "--labels", "labels.csv", "--work", work)
    assert code == 0
    assert "on the true labels of 3 images: top-1 error 1.0000, top-3 error 0.0000" in out


def test_a_setting_counts_that_is_called_like_a_command(typed):
    Path("kit.toml").write_text('[predict]\nviews = ["centre", "zoom"]\n')
    assert 'views = ["centre", "zoom"]  # from kit.toml' in typed("settings")[1]
    assert 'views = ["whole"]  # from flag' in typed("settings", "--views", "whole")[1]


def test_a_setting_comes_from_its_default_then_the_file_then_the_flag(typed):
    Path("kit.toml").write_text('seed = 3\n[train]\nepochs = 7\nlr = 0.01\nbackbone = ["resnet18"]\n')
    _, out, _ = typed("settings", "--lr", "0.02")
    assert "epochs = 7  # from kit.toml" in out
    assert "lr = 0.02  # from flag" in out
    assert "batch_size = 64  # from default" in out
    assert "seed = 3  # from kit.toml" in out
    assert 'backbone = ["resnet18"]  # from kit.toml' in out


def test_printed_settings_are_a_file_that_says_the_same(typed):
    Path("kit.toml").write_text(
        '[train]\nweights = ["a \\"b\\".pth"]\n[run.small]\nbackbone = ["resnet18"]\nepochs = 3\n'
    )
    _, first, _ = typed("settings", "--crop-scale", "0.5", "--sample", "ids.csv")
    Path("kit.toml").write_text(first)
    code, second, _ = typed("settings")
    assert code == 0
    assert re.sub("# from .*", "", second) == re.sub("# from .*", "", first)


def test_settings_say_what_comes_from_the_family_of_each_backbone_and_can_be_fed_back(typed):
    Path("kit.toml").write_text('[train]\nbackbone = ["resnet50", "no-such-net"]\nlr = 0.01\n')
    code, first, _ = typed("settings", "--batch-norm", "train")
    assert code == 0
    assert "\n# epochs =  # from the backbone's family\n" in first
    assert "\nlr = 0.01  # from kit.toml\n" in first
    assert (
        '# resnet50 (ImageNet CNN): epochs = by the number of images, once `split` has counted them, head = "pr'
        in first
    )
    assert "\n# no-such-net: there is no backbone `no-such-net`" in first
    remark = next(line for line in first.splitlines() if line.startswith("# resnet50 ("))
    assert "lr = 0.01" not in remark
    assert "batch_norm" not in remark
    Path("kit.toml").write_text(first)
    code, second, _ = typed("settings")
    assert code == 0
    assert re.sub("# from .*", "", second) == re.sub("# from .*", "", first)


def test_a_run_table_overrides_train_and_a_flag_overrides_both(typed):
    runs = "[run.a]\nbackbone = ['resnet18']\nepochs = 9\n[run.b]\nbackbone = ['lcnet_050']\n"
    Path("kit.toml").write_text(f"[train]\nepochs = 5\nbatch_size = 16\n{runs}")
    train = run.TrainSettings(epochs=5, batch_size=32)
    typed("settings", "--batch-size", "32")
    plans = {plan.name: plan.settings for plan in run.plans(train)}
    assert {name: (one.epochs, one.batch_size, one.backbone) for name, one in plans.items()} == {
        "a": (9, 32, ("resnet18",)),
        "b": (5, 32, ("lcnet_050",)),
    }


@pytest.mark.parametrize(
    ("toml", "error", "hint"),
    [
        ("[train]\nepocs = 3\n", "kit.toml: [train] there is no setting `epocs`", "did you mean `epochs`?"),
        ("[trian]\nepochs = 3\n", "kit.toml: there is no setting `trian`", "did you mean `train`?"),
        ("[run.a]\nepocs = 3\n", "kit.toml: [run.a] there is no setting `epocs`", "did you mean `epochs`?"),
        ("[train]\nepochs = 2.5\n", "kit.toml: [train] epochs = 2.5 is not a whole number", "`python run.py settings`"),
        ('[train]\nepochs = "3"\n', "kit.toml: [train] epochs = '3' is not a whole number", "`python run.py settings`"),
        ("[train]\nmirror = 1\n", "kit.toml: [train] mirror = 1 is not true or false", "`python run.py settings`"),
        ("[train]\nlr = true\n", "kit.toml: [train] lr = True is not a number or `find`", "`python run.py settings`"),
        (
            "[train]\nlr = 2\n",
            'Invalid value "2.0" for [lr] provided by kit.toml: it must be above 0 and at most 1',
            "--help",
        ),
        ("[train]\nepochs = 0\n", 'Invalid value "0" for [epochs] provided by kit.toml: it must be >= 1', "--help"),
        ("train = 3\n", "kit.toml: `train` is a table, not a value", "write `[train]` on a line of its own"),
        ("run = 3\n", "kit.toml: `run` is a table, not a value", "write `[run.NAME]` on a line of its own"),
        ("[train\n", "kit.toml is not TOML: ", "`python run.py settings` prints a file that is"),
    ],
)
def test_a_wrong_settings_file_is_refused_in_one_sentence(typed, toml, error, hint):
    Path("kit.toml").write_text(toml)
    code, out, err = typed("settings")
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {error}")
    assert hint in err.splitlines()[1]
    assert len(err.splitlines()) == 2


@pytest.mark.parametrize(
    ("words", "error", "hint"),
    [
        (["prepare", "nowhere"], "there is no folder nowhere", ""),
        (["train", "--epocs", "3"], "Unknown option: --epocs", "did you mean --epochs?"),
        (["train", "--restore-prior", "oof"], "'oof' is neither a flag nor the value of one", "`python run.py --help`"),
        (["trian"], 'Unknown command "trian"', 'did you mean "train"?'),
        (["train", "--epochs", "0"], 'Invalid value "0" for --epochs: it must be >= 1', "--help"),
        (["train", "--epochs", "x"], 'Invalid value for --epochs: unable to convert "x" into int', "--help"),
        (["train", "--precision", "half"], 'Invalid value "half" for --precision: choose from: "auto"', "--help"),
        (
            ["settings", "--config", "none.toml"],
            "the settings file none.toml does not exist",
            "run.py settings > none.toml",
        ),
        (["split"], "work/folds/manifest.csv does not exist", "python run.py prepare DATA"),
        (["train"], "work/folds/folds.json does not exist", "python run.py split"),
        (["train", "--backbone", ","], "there is no backbone to train", "`--backbone resnet50`"),
        (["train", "--fold", "x"], "`--fold x` is no list of folds: `x` is neither a number nor `all`", "`--fold 0,2`"),
        (["predict"], "work/models holds no run", "`python run.py train`"),
        (["submit"], "work/ensemble/blend.json does not exist", "python run.py blend"),
        (["submit", "--blend", "x", "--run", "y"], "`--blend` and `--run` exclude each other", "--run NAME"),
    ],
)
def test_a_mistake_is_answered_with_one_sentence_and_the_next_command(typed, words, error, hint):
    code, out, err = typed(*words)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {error}")
    assert hint in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["train", "--fold", "7", *SCRATCH], "there is no fold 7: there are 2, 0 to 1"),
        (["train", "--backbone", "resnet5O"], "there is no backbone `resnet5O`, neither here nor in timm"),
        (["train", "--views", "center"], "there is no view `center`; there are centre"),
        (
            ["train", "--backbone", "test_resnet,test_vit", "--run", "x"],
            "`--run x` names a run of one backbone, but there are 2",
        ),
        (["train", "--backbone", "test_resnet", "--weights", "no.pth"], "the weights file no.pth cannot be read"),
        (["train", "--backbone", "test_resnet", "--run", "../x"], "`../x` is no name for a run"),
        (["blend", "--members", "nobody"], "there is no finished run nobody\n"),
        (["submit", "--run", "nobody"], "there is no finished fold of a run nobody\n"),
    ],
)
def test_a_mistake_in_a_prepared_work_folder_is_refused_too(finished, typed, words, error):
    _, work, _ = finished
    code, _, err = typed(*words, "--work", work)
    assert code == 2
    assert err.startswith(f"error: {error}")
    assert "Traceback" not in err


def test_a_work_folder_of_other_data_is_refused(finished, typed, tmp_path):
    _, work, _ = finished
    other = make_competition(tmp_path / "other", seed=9)
    for path in sorted((other / "TrainVal").rglob("*.jpg")):
        path.rename(path.with_name(f"other-{path.name}"))
    code, _, err = typed("prepare", other, "--work", work, "--store-size", "32")
    assert code == 2
    assert "--work" in err


def test_weights_that_are_not_here_stop_the_whole_way_before_it_begins(typed, tmp_path):
    data = make_competition(tmp_path / "data")
    code, _, err = typed("all", data, "--backbone", "test_resnet", "--weights", "none.pth")
    assert code == 2
    assert err.startswith("error: the weights file none.pth cannot be read")
    assert not Path("work").exists()


def test_blend_before_train_says_so(typed, tmp_path):
    data = make_competition(tmp_path / "data")
    assert typed("prepare", data, "--store-size", "32")[0] == 0
    assert typed("split", "--n-folds", "2")[0] == 0
    code, _, err = typed("blend")
    assert code == 2
    assert "`python run.py train" in err.splitlines()[1]


def test_a_work_folder_that_cannot_be_written_is_refused(typed, tmp_path):
    data = make_competition(tmp_path / "data")
    Path("occupied").write_text("a file where a folder is needed")
    code, _, err = typed("prepare", data, "--work", "occupied/work", "--store-size", "32")
    assert code == 2
    assert err.startswith("error: cannot write occupied/work")


def test_a_loss_that_is_not_finite_stops_the_fold_with_step_rate_and_advice(finished, typed):
    _, work, _ = finished
    words = [
        *TRAIN,
        "--lr",
        "1",
        "--head-lr-scale",
        "1e30",
        "--clip-norm",
        "0",
        "--warmup-epochs",
        "0",
        "--run",
        "wild",
    ]
    code, _, err = typed("train", "--work", work, *words, "--epochs", "3")
    assert code == 2
    assert re.match(r"error: the loss of fold 0 is no longer finite at step \d+, at a rate of ", err)
    assert err.splitlines()[2].startswith("error: the loss of fold 1 is no longer finite")  # the others go on
    assert err.splitlines()[-2] == "error: wild fold 0, wild fold 1 failed"
    assert "`--lr 0.3`" in err


def test_an_id_with_a_leading_zero_stays_text(finished):
    _, work, _ = finished
    assert "\n000," in (work / "submissions" / "blend.csv").read_text()


def test_ctrl_c_ends_with_130_and_says_how_to_go_on(finished):
    _, work, _ = finished
    words = [sys.executable, ROOT / "run.py", "train", "--work", work, "--run", "stopped", *TRAIN, "--epochs", "500"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert "stopped fold 0" in process.stdout.readline()  # training has begun
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    said, hint = err.splitlines()
    place = r"; stopped fold 0 goes on after epoch \d+ of 500; 0:\d\d of work are lost"  # unless no epoch is under way
    assert re.fullmatch(f"error: stopped by Ctrl-C({place})?", said)
    assert hint == "hint: the same command goes on where it was stopped"
    shutil.rmtree(work / "models" / "stopped")


def test_lr_find_says_the_rate_and_how_to_train_with_it(finished, typed, tmp_path):
    _, work, _ = finished
    shutil.copytree(work / "folds", tmp_path / "work" / "folds")
    flags = ("--backbone", "test_resnet", "--no-pretrained", "--image-size", "32", "--batch-size", "4")
    code, out, _ = typed("lr-find", *flags, "--fold", "1", "--work", tmp_path / "work")
    assert code == 0
    rate = re.search(r"test_resnet: --lr (\S+) ", out)[1]
    assert f"next: python run.py train {' '.join(flags)} --lr {rate} --work" in out
    assert (tmp_path / "work" / "models" / "test_resnet" / "lr-find.png").is_file()
    assert not (tmp_path / "work" / "models" / "test_resnet" / "fold1").exists()


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


def test_the_whole_way_probes_first_and_submits_the_probes_before_it_trains(weighty, typed):
    data, weights = weighty
    code, out, _ = typed("all", data, *pretrained(weights), "--head", "probe")
    assert code == 0
    said = [
        "test_resnet-probe: test_resnet.r160_in1k, frozen",
        "work/submissions/probe.csv: 6 rows, valid\nexpected top-3 error 0.",
        "that is a first submission, of test_resnet-probe alone; training comes next\n",
        "head from its probe",
        "work/submissions/blend.csv: 6 rows, valid",
    ]
    places = [out.index(one) for one in said]
    assert places == sorted(places)
    early = json.loads(Path("work/submissions/probe.json").read_text())
    assert early["is_early"] is True
    assert list(early["weights"]) == ["test_resnet-probe"]
    whole = json.loads(Path("work/submissions/blend.json").read_text())
    assert sorted(whole["weights"]) == ["test_resnet", "test_resnet-probe"]
    assert "is_early" not in whole
    code, out, _ = typed("check", "work/submissions/probe.csv")
    assert (code, out) == (0, "work/submissions/probe.csv: 6 rows, valid\n")
    assert len(list(Path("work/models/_features").glob("*.safetensors"))) == 1  # training took the heads of the probe
    assert len(list(Path("work/models/_features").glob("*.npy"))) == 4  # two views of training and test images

    before = fingerprint(Path("work/models")), fingerprint(Path("work/submissions"))["probe.csv"]
    code, out, _ = typed("all", data, *pretrained(weights), "--head", "probe")
    assert code == 0
    assert out.count("was done before") == 4
    assert "probe.csv" not in out
    assert (fingerprint(Path("work/models")), fingerprint(Path("work/submissions"))["probe.csv"]) == before
    code, out, _ = typed("status")
    assert "nothing is missing\nnext: python run.py check work/submissions/blend.csv" in out


def test_without_a_probe_training_begins_at_once(weighty, typed):
    data, weights = weighty
    Path("kit.toml").write_text("[first]\nprobe = false\n")
    code, out, _ = typed("all", data, *pretrained(weights))
    assert code == 0
    assert "probe" not in out.replace("head from its probe", "")
    assert not Path("work/submissions/probe.csv").exists()
    Path("kit.toml").unlink()
    assert typed("all", data, *pretrained(weights), "--no-probe")[0] == 0
    assert not Path("work/models/test_resnet-probe").exists()


def test_random_weights_are_not_probed(finished):
    _, work, _ = finished
    assert not (work / "submissions" / "probe.csv").exists()
    assert not (work / "models" / "test_resnet-probe").exists()


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


def test_a_kill_between_probes_and_training_leaves_a_csv_and_status_and_submit_know_what_it_is(
    weighty, typed, monkeypatch
):
    data, weights = weighty

    def die(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("models.commands.Training.__iter__", die)
        with pytest.raises(KeyboardInterrupt):
            typed("all", data, *pretrained(weights))
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
    assert "there is no submission but work/submissions/probe.csv, which is of the probes alone" in out
    assert "next: python run.py submit" in out
    assert typed("all", data, *pretrained(weights))[0] == 0
    after = fingerprint(Path("work/submissions"))
    assert {name: after[name] for name in before} == before


def test_an_early_csv_that_is_there_is_not_made_again_but_named(weighty, typed, monkeypatch):
    data, weights = weighty
    monkeypatch.setattr("models.commands.Training.__iter__", lambda training: iter(()))
    monkeypatch.setattr("submissions.commands.blend_members", lambda *args, **kwargs: [])
    monkeypatch.setattr("submissions.commands.submit", lambda *args, **kwargs: "")
    assert typed("all", data, *pretrained(weights))[0] == 0
    before = fingerprint(Path("work/submissions")), fingerprint(Path("work/ensemble"))
    _, out, _ = typed("all", data, *pretrained(weights))
    assert "work/submissions/probe.csv: was there before\nexpected top-3 error 0." in out
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


def test_settings_that_training_would_refuse_are_refused_before_the_probe(weighty, typed):
    data, weights = weighty
    assert typed("all", data, *pretrained(weights), "--no-probe")[0] == 0
    code, _, err = typed("all", data, *pretrained(weights), "--label-smoothing", "0.1")
    assert code == 2
    assert err.startswith("error: the run test_resnet was begun with other settings: label_smoothing 0.0 -> 0.1")
    assert not Path("work/models/test_resnet-probe").exists()
