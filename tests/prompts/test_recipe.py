from pathlib import Path

import pytest

from rag_clip.prompts.recipe import Described, Recipe, Synonyms, Templates, load_recipe, recipe_names
from rag_clip.prompts.retrieval import Retrieval
from rag_clip.prompts.templates import GENERAL


def write(folder: Path, content: str, name: str = "mine.toml") -> Path:
    path = folder / name
    path.write_text(content)
    return path


def test_the_recipes_that_come_along_are_read():
    assert {"templates", "repe", "default"} <= set(recipe_names())
    assert load_recipe("templates") == Recipe("templates")
    assert load_recipe("repe") == Recipe("repe", retrieved=Retrieval(search="dense"))
    published = Retrieval(search="dense", modality="image", keep="substring")
    assert load_recipe("repe_published") == Recipe("repe_published", retrieved=published)
    assert all(load_recipe(name).name == name for name in recipe_names())


def test_a_recipe_names_its_sources_and_their_files_beside_it(tmp_path: Path):
    (tmp_path / "cupl.json").write_text("{}")
    path = write(
        tmp_path,
        '[templates]\nset = "general"\n[synonyms]\nuse = "ensemble"\nwordnet = "installed"\n'
        '[retrieved]\nweight = 0.5\nwhere = {source = ["wiki", "news"]}\n[described]\nfiles = ["cupl.json"]\n',
    )
    recipe = load_recipe(path)
    assert recipe == Recipe(
        "mine",
        Templates(set="general"),
        Synonyms(use="ensemble", wordnet="installed"),
        Retrieval(weight=0.5, where={"source": ["wiki", "news"]}),
        Described((tmp_path / "cupl.json",), weight=0.5),
    )
    assert recipe.templates.choose() == GENERAL
    assert recipe.document()["described"] == {
        "files": [str(tmp_path / "cupl.json")],
        "weight": 0.5,
        "average": "vectors",
    }


def test_one_file_may_hold_several_recipes(tmp_path: Path):
    path = write(tmp_path, "[light.retrieved]\nweight = 0.1\n[heavy.retrieved]\nweight = 0.9\n")
    assert load_recipe(f"{path}:heavy") == Recipe("heavy", retrieved=Retrieval(weight=0.9))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[templates", "mine.toml is not valid TOML"),
        (
            "[magic]\nweight = 1",
            "unknown source 'magic'; known are templates, synonyms, retrieved, described",
        ),
        ("retrieved = 3", r"retrieved is 3; write a table \[retrieved\]"),
        (
            "[retrieved]\nwieght = 0.3",
            r"retrieved: unknown key 'wieght'; did you mean weight\? known are weight",
        ),
        ("[retrieved]\nweight = 1.5", "retrieved: .*the weight of the captions is 1.5"),
        ("[retrieved]\nweight = nan", "retrieved: .*the weight of the captions is nan"),
        ("[retrieved]\nlimit = 'many'", "retrieved: limit is 'many'; give a whole number"),
        ("[described]\nfiles = ['none.json']", "there is no file .*none.json; paths are relative to the recipe"),
        ("[described]\nfiles = []\nweight = -1", "the weight of the descriptions is -1"),
        ("[described]\nfiles = []\nweight = 0.6\n[retrieved]\nweight = 0.6", "of weight 1.2 together; they may weigh"),
    ],
)
def test_a_recipe_that_cannot_be_followed_is_refused(tmp_path: Path, content: str, message: str):
    with pytest.raises(ValueError, match=message):
        load_recipe(write(tmp_path, content))


def test_a_recipe_that_is_not_there_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"there is no recipe 'magic'; name one of .*default"):
        load_recipe("magic")
    path = write(tmp_path, "[light.retrieved]\n")
    with pytest.raises(ValueError, match="has no recipe 'heavy'; it has light"):
        load_recipe(f"{path}:heavy")


def test_an_unknown_set_of_templates_is_refused():
    with pytest.raises(ValueError, match="general"):
        Templates(set="magic").choose()
