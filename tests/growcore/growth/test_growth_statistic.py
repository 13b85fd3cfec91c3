import pytest
import torch

from growcore.growth import TensorStatistic


def test_the_mean_is_over_all_samples_and_a_batch_counts_once():
    statistic = TensorStatistic((2,), lambda data: (data.sum(0), len(data)), name="mean")
    for data in (torch.ones(3, 2), 5 * torch.ones(1, 2)):
        statistic.updated = False
        assert statistic.update(data=data) is not None
        assert statistic.update(data=data) is None
    torch.testing.assert_close(statistic(), torch.tensor([2.0, 2.0]))
    assert statistic.samples == 4


def test_the_first_update_is_not_changed_by_the_second():
    first = torch.ones(2)
    statistic = TensorStatistic(None, lambda data: (data, 1))
    for data in (first, torch.ones(2)):
        statistic.updated = False
        statistic.update(data=data)
    torch.testing.assert_close(first, torch.ones(2))


def test_an_empty_statistic_and_one_of_another_shape_are_refused():
    statistic = TensorStatistic((2,), lambda: (torch.ones(3), 1), name="S of layer 1")
    with pytest.raises(ValueError, match=r"S of layer 1 has seen no sample"):
        statistic()
    statistic.updated = False
    with pytest.raises(ValueError, match=r"got \(3,\) after \(2,\)"):
        statistic.update()
    statistic.reset()
    assert statistic.samples == 0
