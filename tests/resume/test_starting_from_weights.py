"""Runs that start from weights, and go on without them."""

import shutil
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DModel

from openddpm import UserError, train
from openddpm.api import resume
from openddpm.record.reader import read_run_record
from openddpm.training.setup import prepare
from tiny import TINY_UNET, tiny_config, write_tiny_folder


def test_a_run_goes_on_without_the_weights_it_started_from(tmp_path: Path) -> None:
    """Training begins at the weights of --init_from; from a checkpoint it goes on without them."""
    start = tmp_path / "start"
    unet = UNet2DModel(**{**TINY_UNET, "sample_size": 16})
    unet.save_pretrained(start)
    images = str(write_tiny_folder(tmp_path / "images"))
    config = tiny_config(tmp_path, dataset=images, model="default", init_from=str(start), max_train_steps=2)
    training = prepare(config)
    begun = training.state.unet.state_dict()
    assert all(torch.equal(value, begun[name]) for name, value in unet.state_dict().items())
    training.close()
    folder = train(config.model_copy(update={"overwrite_output_dir": True})).folder
    shutil.rmtree(start)
    assert resume(folder, accept_changes=True, max_train_steps=3).status == "finished"
    later = config.model_copy(update={"init_from": None, "resume_from_checkpoint": "latest"})
    assert train(later.model_copy(update={"max_train_steps": 4, "accept_changes": True})).status == "finished"
    record = read_run_record(folder)
    assert record.model.init_from is not None
    assert record.config["init_from"] == str(start)
    assert [change for entry in record.resumptions for change in entry.changes if "init_from" in change] == []


def test_weights_that_have_changed_before_the_first_checkpoint(tmp_path: Path) -> None:
    """A run without a checkpoint starts anew from its weights only if they are the same file still."""
    start = tmp_path / "start"
    UNet2DModel(**{**TINY_UNET, "sample_size": 8}).save_pretrained(start)
    images = str(write_tiny_folder(tmp_path / "images"))
    config = tiny_config(tmp_path, dataset=images, model="default", init_from=str(start), max_train_steps=2)
    training = prepare(config)
    training.close()
    again = config.model_copy(update={"resume_from_checkpoint": "latest"})
    prepare(again).close()
    UNet2DModel(**{**TINY_UNET, "sample_size": 8}).save_pretrained(start)
    with pytest.raises(UserError, match="does not hold the weights that it started from"):
        prepare(again)
