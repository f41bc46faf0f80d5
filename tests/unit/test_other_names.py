"""Options by the names of other training scripts."""

import pytest

from openddpm.cli.main import main
from openddpm.cli.options import parse_train_config
from openddpm.config import TrainConfig
from openddpm.errors import UserError
from openddpm.other_names import OTHER_NAMES, answer


def test_every_counterpart_is_an_option() -> None:
    """What the table names with -- is an option of ours, but for a value after it, and no name in it is ours."""
    for name, meant in OTHER_NAMES.items():
        words = [word.strip("(),.:;") for word in meant.split()]
        options = [word.removeprefix("--") for word in words if word.startswith("--")]
        assert [option for option in options if option not in TrainConfig.model_fields] == [], name
        assert name not in TrainConfig.model_fields
        assert answer(name)


def test_all_are_answered_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    """A command line of diffusers' script is answered option by option, with status 2 and no traceback."""
    given = (
        "--dataset_name=x --train-data-dir y --ddpm_num_steps 500 --center_crop --random_flip --local_rank 0 "
        "--learning_rate 1e-4 --frobnicate --learning_rat 3"
    )
    assert main(["train", *given.split()]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "openddpm: --dataset_name is --dataset here"
    assert lines[1] == "--train-data-dir is --dataset here"
    assert lines[2] == "--ddpm_num_steps is --num_train_timesteps here"
    assert lines[3].startswith("--center_crop is no option here: ")
    assert lines[4].startswith("--local_rank is no option here: ")
    assert lines[5].startswith("--frobnicate is no option; ")
    assert lines[6] == "--learning_rat is no option; did you mean 'learning_rate'?"
    assert len(lines) == 8


def test_python_is_answered_too() -> None:
    """TrainConfig answers the same names, and all others with the nearest."""
    with pytest.raises(UserError) as error:
        TrainConfig(dataset_name="x", logger="wandb", learning_rat=1)
    first, second, third = error.value.found.splitlines()
    assert first == "dataset_name: no such option; it is --dataset here"
    assert second == "logger: no such option; it is --report_to here"
    assert third.startswith("learning_rat: no such option; did you mean 'learning_rate'?")


def test_inspect_answers_too(capsys: pytest.CaptureFixture[str]) -> None:
    """inspect, which takes the options of data, answers as train does, and says which options are train's alone."""
    assert main(["inspect", "folder", "--image_size", "32", "--batch_size", "4", "--no_flip", "--random_flop"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "openddpm: --image_size is --resolution here"
    assert lines[1] == "--batch_size is --train_batch_size of openddpm train"
    assert lines[2] == "--no_flip is --no-random_flip of openddpm train"
    assert lines[3].startswith("--random_flop is no option; ") and "random_flip" not in lines[3]


@pytest.mark.parametrize(
    ("name", "ours"),
    [("no_flip", "--no-random_flip"), ("no_ema", "--no-use_ema"), ("no_use_checkpoint", "--no-gradient_checkpointing")],
)
def test_what_was_put_off_stays_put_off(name: str, ours: str) -> None:
    """The negation of another script's flag is answered with the negation of ours, which exists."""
    assert answer(name) == f"is {ours} here"
    assert not getattr(parse_train_config([ours]), ours.removeprefix("--no-"))
