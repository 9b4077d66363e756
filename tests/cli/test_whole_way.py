"""Types the commands of the whole way on a tiny competition."""

import csv
import json
import re
import shutil
from pathlib import Path

from tests.competition import QUICK, TRAIN, fingerprint, make_competition


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
    code, out, _ = typed("predict", "--work", work, "--views", "whole,zoom")
    assert code == 0
    assert "over whole, zoom" in out
    code, out, _ = typed("views", "--work", work)
    assert f"`python run.py predict --work {work} --run test_resnet --views whole,zoom,centre" in out
    assert typed("predict", "--work", work)[0] == 0  # from the networks: no view of before was there any more
    assert ((folder / "oof.npz").read_bytes(), (folder / "done.json").read_bytes()) == before


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


def test_random_weights_are_not_probed(finished):
    _, work, _ = finished
    assert not (work / "submissions" / "probe.csv").exists()
    assert not (work / "models" / "test_resnet-probe").exists()
