import pytest

from growcore.config import TrialConfig
from growcore.networks import models
from growcore.training import Training


@pytest.mark.parametrize("num_left_over", [1, 2, 3])
@pytest.mark.parametrize("strength", ["correlation", "pooled_correlation"])
def test_an_epoch_never_ends_with_a_batch_too_small_to_correlate(strength, num_left_over):
    config = TrialConfig.from_dict(
        {
            "data": {"name": "digits", "num_train": 64 + num_left_over},
            "model": {"name": "mlp", "widths": [4, 4]},
            "pruning": {"method": "hebbian", "strength": strength, "update_interval": 1},
            "training": {"num_epochs": 1, "batch_size": 32},
            "preflight": "off",
        }
    )
    training = Training(config)
    (report,) = training
    assert report.step == (3 if num_left_over == 3 else 2)
    for layer in models.sparse_layers(training.model).values():
        assert layer.num_measurements == report.step
        assert layer.connections_tensor.isfinite().all()
