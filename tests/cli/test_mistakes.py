"""Types what is wrong, and settings: where each comes from, what is refused and how."""

import re
from pathlib import Path

import pytest

import run
from tests.competition import SCRATCH, make_competition


def test_a_command_in_a_sentence_finds_the_same_work_folder(monkeypatch):
    monkeypatch.setattr(run.KIT, "same_place", " --work w")
    said = run.KIT.placed("first `python run.py lr-find --fold 0`, then `python run.py blend`")
    assert said == "first `python run.py lr-find --work w --fold 0`, then `python run.py blend --work w`"
    assert run.KIT.placed("`python run.py infer PACK PICTURES`") == "`python run.py infer PACK PICTURES`"


def test_a_setting_comes_from_its_default_then_the_file_then_the_flag_in_tables_called_like_a_command_too(typed):
    tables = '[train]\nepochs = 7\nlr = 0.01\nbackbone = ["resnet18"]\n[predict]\nviews = ["centre", "zoom"]\n'
    Path("kit.toml").write_text(f"seed = 3\n{tables}")
    out = typed("settings", "--lr", "0.02").out
    for setting in ("epochs = 7", "seed = 3", 'backbone = ["resnet18"]', 'views = ["centre", "zoom"]'):
        assert f"{setting}  # from kit.toml" in out
    assert "lr = 0.02  # from flag" in out
    assert "batch_size = 64  # from default" in out
    assert 'views = ["whole"]  # from flag' in typed("settings", "--views", "whole").out


def fed_back(typed, settings):
    """The same settings by the file that was printed."""
    Path("kit.toml").write_text(settings)
    return re.sub("# from .*", "", typed("settings").out)


def test_printed_settings_are_a_file_that_says_the_same(typed):
    small = '[run.small]\nbackbone = ["resnet18"]\nepochs = 3\n'
    Path("kit.toml").write_text('[train]\nweights = ["a \\"b\\".pth"]\n' + small)
    first = typed("settings", "--crop-scale", "0.5", "--sample", "ids.csv").out
    assert fed_back(typed, first) == re.sub("# from .*", "", first)


def test_settings_say_what_comes_from_the_family_of_each_backbone_and_can_be_fed_back(typed):
    Path("kit.toml").write_text('[train]\nbackbone = ["resnet50", "no-such-net"]\nlr = 0.01\n')
    first = typed("settings", "--batch-norm", "train").out
    assert "\n# epochs =  # from the backbone's family\n" in first
    assert "\nlr = 0.01  # from kit.toml\n" in first
    assert "\n# no-such-net: there is no backbone `no-such-net`" in first
    remark = next(line for line in first.splitlines() if line.startswith("# resnet50 ("))
    by_images = "epochs = by the number of images, once `split` has counted them"
    assert remark.startswith(f'# resnet50 (ImageNet CNN): {by_images}, head = "pr')
    assert "lr = 0.01" not in remark
    assert "batch_norm" not in remark
    assert fed_back(typed, first) == re.sub("# from .*", "", first)


def test_a_run_table_overrides_train_and_a_flag_overrides_both(typed):
    runs = "[run.a]\nbackbone = ['resnet18']\nepochs = 9\n[run.b]\nbackbone = ['lcnet_050']\n"
    Path("kit.toml").write_text(f"[train]\nepochs = 5\nbatch_size = 16\n{runs}")
    train = run.TrainSettings(epochs=5, batch_size=32)
    typed("settings", "--batch-size", "32")
    plans = {plan.name: plan.settings for plan in run.plans(train)}
    found = {name: (one.epochs, one.batch_size, one.backbone) for name, one in plans.items()}
    assert found == {"a": (9, 32, ("resnet18",)), "b": (5, 32, ("lcnet_050",))}


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
        ("[train]\nlr = 2\n",
         'Invalid value "2.0" for [lr] provided by kit.toml: it must be above 0 and at most 1', "--help"),
        ("[train]\nepochs = 0\n", 'Invalid value "0" for [epochs] provided by kit.toml: it must be >= 1', "--help"),
        ("train = 3\n", "kit.toml: `train` is a table, not a value", "write `[train]` on a line of its own"),
        ("run = 3\n", "kit.toml: `run` is a table, not a value", "write `[run.NAME]` on a line of its own"),
        ("[train\n", "kit.toml is not TOML: ", "`python run.py settings` prints a file that is"),
    ],
)  # fmt: skip
def test_a_wrong_settings_file_is_refused_in_one_sentence(typed, toml, error, hint):
    Path("kit.toml").write_text(toml)
    _, out, err = typed("settings", code=2)
    assert out == ""
    assert err.startswith(f"error: {error}")
    assert hint in err.splitlines()[1]
    assert len(err.splitlines()) == 2


@pytest.mark.parametrize(
    ("words", "error", "hint"),
    [
        (["prepare", "nowhere"], "there is no folder nowhere", ""),
        (["train", "--epocs", "3"], "Unknown option: --epocs", "did you mean --epochs?"),
        (["train", "--restore-prior", "oof"], "'oof' is neither a flag nor the value of one", "run.py train --help`"),
        (["train", "--epochs"], "--epochs needs a value", "`python run.py train --help`"),
        (["check"], "`check` needs FILE", "`python run.py check --help`"),
        (["score", "a.csv"], "`score` needs --labels", "`python run.py score --help`"),
        (["trian"], 'Unknown command "trian"', 'did you mean "train"?'),
        (["train", "--epochs", "0"], 'Invalid value "0" for --epochs: it must be >= 1', "--help"),
        (["train", "--epochs", "x"], 'Invalid value for --epochs: unable to convert "x" into int', "--help"),
        (["train", "--precision", "half"], 'Invalid value "half" for --precision: choose from: "auto"', "--help"),
        (["settings", "--config", "none.toml"],
         "the settings file none.toml does not exist", "run.py settings > none.toml"),
        (["split"], "work/folds/manifest.csv does not exist", "python run.py prepare DATA"),
        (["train"], "work/folds/folds.json does not exist", "python run.py split"),
        (["train", "--backbone", ","], "there is no backbone to train", "`--backbone resnet50`"),
        (["train", "--fold", "x"], "`--fold x` is no list of folds: `x` is neither a number nor `all`", "`--fold 0,2`"),
        (["predict"], "work/models holds no run", "`python run.py train`"),
        (["submit"], "work/ensemble/blend.json does not exist", "python run.py blend"),
        (["submit", "--blend", "x", "--run", "y"], "`--blend` and `--run` exclude each other", "--run NAME"),
    ],
)  # fmt: skip
def test_a_mistake_is_answered_with_one_sentence_and_the_next_command(typed, words, error, hint):
    _, out, err = typed(*words, code=2)
    assert out == ""
    assert err.startswith(f"error: {error}")
    assert hint in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["train", "--fold", "7", *SCRATCH], "there is no fold 7: there are 2, 0 to 1"),
        (["train", "--backbone", "test_resnet,test_vit", "--run", "x"],
         "`--run x` names a run of one backbone, but there are 2"),
        (["blend", "--members", "nobody"], "there is no finished run nobody\n"),
        (["submit", "--run", "nobody"], "there is no finished fold of a run nobody\n"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_prepared_work_folder_is_refused_too(work, typed, words, error):
    err = typed(*words, "--work", work, code=2).err
    assert err.startswith(f"error: {error}")
    assert "Traceback" not in err


def test_weights_that_are_not_here_stop_the_whole_way_before_it_begins(typed, tmp_path):
    data = make_competition(tmp_path / "data")
    err = typed("all", data, "--backbone", "test_resnet", "--weights", "none.pth", code=2).err
    assert err.startswith(f"error: the weights file {Path.cwd() / 'none.pth'} cannot be read")
    assert not Path("work").exists()
