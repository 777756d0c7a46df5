import pytest

from inputs.folders import SHARED
from rag_clip.data import LabelSet, Prompts, PromptText
from rag_clip.prompts.described import Described, described_texts
from rag_clip.prompts.knowledge.names import NameMatch
from rag_clip.prompts.knowledge.sentences import Sentences, read_sentences
from rag_clip.prompts.mixed import mix
from rag_clip.prompts.templates import template_prompts
from rag_clip.testing import check_prompts

REAL = SHARED / "data/knowledge"
LABELS = LabelSet(("River", "sea_lake", "forest"), synonyms=((), ("sea",), ()))
CUPL = Sentences(
    "cupl", {"river": ("A river flows.", "A river is wet.", "A river flows."), "road": ("A road.",)}, "c:f"
)
DCLIP = Sentences("dclip", {"sea": ("waves", "usually blue", "a mass of water", "antlers")}, "d:f")


def context(text: str, weight: float, source: str, evidence: str) -> PromptText:
    return PromptText(text, pytest.approx(weight), "context", source, evidence)  # type: ignore[arg-type]


def test_descriptions_become_sentences_that_share_the_weight_of_their_class():
    assert described_texts(LABELS, [CUPL, DCLIP], weight=0.6) == Described(
        (
            (
                context("A river flows.", 0.4, "c:f", "c:f#river#1"),
                context("A river is wet.", 0.2, "c:f", "c:f#river#2"),
            ),
            (
                context("sea_lake, which has waves", 0.15, "d:f", "d:f#sea#1"),
                context("sea_lake, which is usually blue", 0.15, "d:f", "d:f#sea#2"),
                context("sea_lake, which is a mass of water", 0.15, "d:f", "d:f#sea#3"),
                context("sea_lake, which has antlers", 0.15, "d:f", "d:f#sea#4"),
            ),
            (),
        ),
        (
            NameMatch({"river": 0}, ("road",), ("sea_lake", "forest")),
            NameMatch({"sea": 1}, (), ("River", "forest")),
        ),
    )


def test_elevaters_knowledge_follows_every_template_with_spaces_around_punctuation():
    gpt3 = Sentences("elevater gpt3", {"river": ("a stream (not a creek), low-lying",), "forest": ()}, "g:f")
    described = described_texts(LABELS, [gpt3], weight=1, templates=["a photo of a {}.", "the {}"])
    assert described.texts == (
        (
            context("a photo of a River. ; River , a stream ( not a creek ) , low-lying", 0.5, "g:f", "g:f#river#1"),
            context("the River ; River , a stream ( not a creek ) , low-lying", 0.5, "g:f", "g:f#river#2"),
        ),
        (),
        (),
    )


@pytest.mark.parametrize(
    ("descriptor", "text"),
    [
        ("may be winding", "River, which may be winding"),
        ("typically have fish", "River, which typically have fish"),
        ("used for boats", "River, which is used for boats"),
        ("often", "River, which is often"),
        ("Banks", "River, which has Banks"),
    ],
)
def test_a_descriptor_is_linked_by_its_first_words(descriptor: str, text: str):
    file = Sentences("dclip", {"River": (descriptor,)}, "d:f")
    assert described_texts(LABELS, [file], weight=0.5).texts[0] == (context(text, 0.5, "d:f", "d:f#River#1"),)


def test_concepts_of_labo_stand_alone():
    file = Sentences("labo", {"river": ("sandy banks",)}, "l:f")
    assert described_texts(LABELS, [file], weight=0.5).texts[0] == (context("sandy banks", 0.5, "l:f", "l:f#river#1"),)


def test_the_same_text_of_two_files_is_one_text_of_twice_the_weight():
    again = Sentences("cupl", {"River": ("A river is wet.",)}, "c:g")
    assert described_texts(LABELS, [CUPL, again], weight=1).texts[0] == (
        context("A river flows.", 0.5, "c:f", "c:f#river#1"),
        context("A river is wet.", 0.5, "c:f", "c:f#river#2"),
    )


def test_descriptions_mixed_into_templates_keep_the_contract_of_a_prompt_method():
    def make(labels: LabelSet) -> Prompts:
        return mix(template_prompts(labels), described_texts(labels, [CUPL, DCLIP], weight=0.6).texts)

    check_prompts(make, LABELS)


@pytest.mark.parametrize("weight", [0, -0.1, 1.1, float("nan")])
def test_a_weight_outside_the_range_is_refused(weight: float):
    with pytest.raises(ValueError, match=f"the weight of the descriptions is {weight}; give a number above 0, up to 1"):
        described_texts(LABELS, [CUPL], weight=weight)


def test_no_file_is_refused():
    with pytest.raises(ValueError, match="there is no file of descriptions; give at least one"):
        described_texts(LABELS, [], weight=0.5)


def test_a_name_that_fits_two_classes_is_refused_with_its_file():
    labels = LabelSet(("bird", "machine"), synonyms=(("crane",), ("crane",)))
    file = Sentences("cupl", {"crane": ("A crane.",)}, "cupl:cranes.json")
    with pytest.raises(ValueError, match=r"cupl:cranes.json: 'crane' is a synonym of both 'bird' and 'machine'"):
        described_texts(labels, [file], weight=0.5)


def test_a_file_that_describes_no_class_is_refused_with_the_nearest_names():
    file = Sentences("cupl", {"riverr": ("A river.",), "xyz": ("A zebra.",)}, "cupl:other.json")
    with pytest.raises(
        ValueError, match=r"cupl:other.json has none of the .* classes; it has 'riverr', 'xyz' \('riverr' is"
    ):
        described_texts(LABELS, [CUPL, file], weight=0.5)


@pytest.mark.skipif(not REAL.is_dir(), reason="needs ../shared")
def test_published_descriptions_reach_the_label_sets_they_were_written_for():
    names = ("annual crop land", "forest", "highway or road", "Herbaceous_Vegetation_Land")
    labels = LabelSet(names, synonyms=((), (), (), ("brushland or shrubland",)))
    files = ("CuPL_prompts_eurosat.json", "dclip_eurosat.json", "elevater_eurosat_gpt3.tsv")
    read = [read_sentences(REAL / name) for name in files]
    described = described_texts(labels, read, weight=0.25)
    assert [match.unmatched_labels for match in described.matches] == [(), (), ()]
    assert [sum(text.source == file.source for text in described.texts[3]) for file in read] == [
        19,
        3,
        5,
    ]  # one sentence stands twice in the file
    assert described.texts[1][-1].text.startswith("a photo of a forest. ; forest , ")
    assert [sum(text.weight for text in group) for group in described.texts] == pytest.approx([0.25] * 4)
