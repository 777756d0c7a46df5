import torch
from torch.nn.functional import one_hot

from rag_clip.classifiers.inner_split import judging_rows
from rag_clip.data import SeveralLabels


def rows_of(*classes: set[int], count: int = 3) -> SeveralLabels:
    return SeveralLabels(torch.tensor([[column in each for column in range(count)] for each in classes]))


def test_the_first_fifth_of_each_class_judges_where_others_are_left_to_train():
    classes = torch.tensor([0, 1, 0, 0, 0, 0, 0, 1, 2, -1, -1])
    assert judging_rows(classes).nonzero()[:, 0].tolist() == [0, 1, 2]


def test_rows_of_one_label_each_are_split_alike_in_both_forms():
    classes = torch.tensor([0, 1, 0, 0, 0, 0, 0, 1, 2, 1, 1, 1, 1])
    assert torch.equal(judging_rows(SeveralLabels(one_hot(classes).bool())), judging_rows(classes))


def test_a_row_of_several_classes_judges_for_all_of_them_the_rarest_first():
    # class 2 has two rows and takes row 1, which is enough for classes 0 and 1 as well
    targets = rows_of({0}, {0, 1, 2}, {0, 2}, {0, 1}, {1}, {0})
    assert judging_rows(targets).nonzero()[:, 0].tolist() == [1]


def test_a_row_judges_once_for_each_of_its_classes():
    # row 0 judges for class 1 and is the first of class 0, which needs two of its six rows
    targets = rows_of({0, 1}, {0}, {0}, {0}, {0}, {0}, {1}, count=2)
    assert judging_rows(targets).nonzero()[:, 0].tolist() == [0, 1]


def test_no_class_is_left_without_a_row_to_train_on():
    # row 0 is all there is of class 2, so class 0 takes its next row, and class 1 the next after that
    targets = rows_of({0, 1, 2}, {0}, {0}, {1}, {1}, set())
    assert judging_rows(targets).nonzero()[:, 0].tolist() == [1, 3]
