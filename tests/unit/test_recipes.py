import pytest

from openddpm.config import TrainConfig
from openddpm.recipes import RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_whole_configs(name: str) -> None:
    """Each recipe is valid by itself, is taken over in full, and has data and an output folder of its own."""
    config = TrainConfig(recipe=name).model_dump()
    assert {option: config[option] for option in RECIPES[name]} == RECIPES[name]
    assert config["dataset"]
    assert config["output_dir"] == f"runs/{name}"


def test_no_recipe_acts_on_its_own() -> None:
    """No recipe removes an earlier run, resumes one or uploads anything unless told."""
    acting = {"overwrite_output_dir", "resume_from_checkpoint", "push_to_hub"}
    assert acting <= set(TrainConfig.model_fields)
    assert not any(acting & set(options) for options in RECIPES.values())
