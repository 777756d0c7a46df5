"""The micro world's concepts, captions and photographs."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from rag_clip.demo.captions import KINDS, ORDINARY, anonymous_caption, caption, describe, noise_caption
from rag_clip.demo.concepts import BANDS, ORDINARY_NAMES, concepts
from rag_clip.demo.designs import COLOURS, FAMILIES, Design, is_valid, sample_design, vary_design
from rag_clip.demo.draw import draw_design
from rag_clip.demo.pen import TEXTURE
from rag_clip.demo.photograph import photograph


def draw(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def textures(count: int) -> torch.Tensor:
    drawn = np.stack([draw_design(concept.design) for concept in concepts()[:count]])
    return torch.from_numpy(drawn).permute(0, 3, 1, 2)


def test_there_are_thirty_concepts_in_each_of_twelve_groups_a_third_in_each_band() -> None:
    counts = Counter((concept.group, concept.band) for concept in concepts())
    assert counts == {(family, band): 10 for family in FAMILIES for band in BANDS}


def test_names_and_designs_are_all_different() -> None:
    assert len({concept.name for concept in concepts()}) == 360
    assert len({concept.design for concept in concepts()}) == 360


def test_many_pairs_differ_in_one_attribute_only() -> None:
    designs = [concept.design for concept in concepts()]
    pairs = [
        (one, other)
        for row, one in enumerate(designs)
        for other in designs[:row]
        if one.family == other.family and sum(a != b for a, b in zip(one.values, other.values, strict=True)) == 1
    ]
    assert len(pairs) >= 100


def test_training_speaks_of_the_head_far_more_than_of_the_tail_and_never_of_the_unseen() -> None:
    shares = {band: sum(c.frequency for c in concepts() if c.band == band) for band in BANDS}
    assert shares == pytest.approx({"head": 0.93, "tail": 0.07, "unseen": 0.0})
    head = sorted((c.frequency for c in concepts() if c.band == "head"), reverse=True)
    assert head[0] / head[99] == pytest.approx((109 / 10) ** 0.8)


def test_some_names_are_ordinary_words_and_some_synonyms_are_another_concepts_name() -> None:
    names = {concept.name for concept in concepts()}
    shared = [(c.name, other) for c in concepts() for other in c.synonyms if other in names]
    assert {word.lower() for word in ORDINARY_NAMES} == set(ORDINARY)
    assert set(ORDINARY_NAMES) <= names
    assert len(shared) >= 4
    assert all(mine != theirs for mine, theirs in shared)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_draws_and_describes_each_of_its_values(family: str) -> None:
    generator = draw()
    for _ in range(60):
        design = sample_design(family, generator)
        texture, text = draw_design(design), describe(design, generator)
        assert texture.shape == (TEXTURE, TEXTURE, 4)
        assert texture[..., 3].max() == 255
        assert "{" not in text


def test_a_varied_design_differs_in_one_value_and_stays_valid() -> None:
    design = sample_design("shield", draw())
    varied = vary_design(design, draw(1))
    assert sum(a != b for a, b in zip(design.values, varied.values, strict=True)) == 1
    assert is_valid(varied)


def test_colours_that_must_differ_are_far_apart() -> None:
    assert not is_valid(Design("die", ("one", "round", "black", "navy")))
    assert is_valid(Design("die", ("one", "round", "black", "white")))


def test_mirrored_layouts_are_mirror_images() -> None:
    rising, falling = (
        draw_design(Design("tricolour", (way, "red", "white", "blue"))).astype(int) for way in ("rising", "falling")
    )
    assert np.abs(rising[:, ::-1] - falling).mean() < 3


def test_a_flag_shows_its_colours_where_the_design_says() -> None:
    texture = draw_design(Design("tricolour", ("horizontal", "red", "white", "blue")))
    rows = [texture[int(TEXTURE * y), TEXTURE // 2, :3].tolist() for y in (0.3, 0.5, 0.7)]
    assert rows == [list(COLOURS[colour]) for colour in ("red", "white", "blue")]


def test_captions_name_describe_or_do_both() -> None:
    concept = next(c for c in concepts() if not c.synonyms and c.group == "die")
    written = {kind: [caption(concept, kind, draw(seed)).lower() for seed in range(40)] for kind in KINDS}
    name, colour = concept.name.lower(), concept.design.as_dict()["pip"]
    assert all(name in text for text in written["name"] + written["both"])
    assert not any(name in text for text in written["description"])
    assert all(colour in text for text in written["description"] + written["both"])


def test_synonyms_stand_in_for_the_name_as_often_as_the_concept_says() -> None:
    concept = next(c for c in concepts() if len(c.synonyms) == 1 and c.name_share == 0.3)
    generator = draw()
    named = sum(concept.name.lower() in caption(concept, "name", generator).lower() for _ in range(1000))
    assert 240 <= named <= 360


def test_anonymous_captions_and_noise_name_no_concept() -> None:
    names = {concept.name.lower() for concept in concepts()} - set(ORDINARY)
    generator = draw()
    texts = [anonymous_caption(sample_design("card", generator), generator).lower() for _ in range(100)]
    texts += [noise_caption(generator)[0].lower() for _ in range(100)]
    assert [text for text in texts for name in names if f" {name} " in f" {text} "] == []


def test_a_seed_decides_a_photograph() -> None:
    first, again, other = (photograph(textures(6), seed=seed) for seed in (5, 5, 6))
    assert first.shape == (6, 3, 64, 64)
    assert first.dtype == torch.uint8
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_photographs_of_one_design_differ_from_each_other() -> None:
    shown = photograph(textures(1).repeat(4, 1, 1, 1), seed=0).float()
    distances = [(shown[a] - shown[b]).abs().mean() for a in range(4) for b in range(a)]
    assert min(distances) > 5
