"""Keys from content: what they are made of is told apart."""

from transforms.core.hashing import content_hash


def test_texts_that_are_cut_elsewhere_have_another_hash():
    cut = [('ab', 'c'), ('a', 'bc'), ('abc',), ('abc', ''), ('', 'abc')]
    assert len({content_hash(*texts) for texts in cut}) == len(cut)
