"""Byte-pair merges, by hand and through open_clip's tokenizer."""

from __future__ import annotations

from pathlib import Path

from open_clip.tokenizer import SimpleTokenizer

from rag_clip.demo.bpe import learn_merges, write_merges


def test_the_most_frequent_pair_merges_first_and_ties_go_by_spelling() -> None:
    # "ab" three times and "cb" twice: a+b</w> 3, then c+b</w> 2.
    assert learn_merges(["ab ab cb", "ab cb"], count=5) == [("a", "b</w>"), ("c", "b</w>")]
    assert learn_merges(["xy zy"], count=1) == [("x", "y</w>")]


def test_merges_chain_into_whole_words() -> None:
    assert learn_merges(["red red red"], count=2) == [("e", "d</w>"), ("r", "ed</w>")]


def test_open_clip_reads_the_merges_and_gets_its_text_back(tmp_path: Path) -> None:
    write_merges(learn_merges(["red die red die"], count=10), tmp_path / "bpe.txt.gz")
    tokenizer = SimpleTokenizer(str(tmp_path / "bpe.txt.gz"), context_length=12)
    assert tokenizer.vocab_size == 512 + 4 + 2
    assert tokenizer.decode(tokenizer.encode("red die")) == "red die "
    assert len(tokenizer.encode("red die")) == 2


def test_the_file_has_the_same_bytes_every_time(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_merges([("a", "b</w>")], tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
