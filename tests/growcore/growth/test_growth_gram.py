import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from growcore.growth.statistics.gram import cross_gram, gram, weighted_gram
from growcore.growth.statistics.patches import Patches, hits, output_size

pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
pads = st.tuples(st.integers(0, 3), st.integers(0, 3))


def written_out(left: Patches, right: Patches, left_ones: bool, right_ones: bool) -> torch.Tensor:
    sides = []
    for patches, ones in ((left, left_ones), (right, right_ones)):
        u = patches.columns()
        sides.append(torch.cat([u, torch.ones_like(u[:, :1])], dim=1) if ones else u)
    return torch.einsum("nap,nbp->ab", *sides)


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@settings(max_examples=80, deadline=None)
@given(
    size=st.tuples(st.integers(3, 16), st.integers(3, 16)), kernel=pair, dilation=pair,
    stride=st.integers(1, 2), before=pads, behind=pads, with_ones=st.booleans(),
)  # fmt: skip
def test_second_moments_are_those_of_all_patches_written_out(
    size, kernel, dilation, stride, before, behind, with_ones
):
    patches = Patches(normal(3, 2, *size), kernel, (stride, stride), dilation, before, behind)
    assume(min(patches.counts) >= 1)
    expected = written_out(patches, patches, with_ones, with_ones)
    torch.testing.assert_close(gram(patches, with_ones), expected)


@settings(max_examples=80, deadline=None)
@given(
    counts=st.tuples(st.integers(1, 16), st.integers(1, 16)), kernels=st.tuples(pair, pair),
    dilations=st.tuples(pair, pair), before=st.tuples(pads, pads),
    ones=st.tuples(st.booleans(), st.booleans()),
)  # fmt: skip
def test_moments_between_different_maps_and_kernels_are_those_written_out(
    counts, kernels, dilations, before, ones
):
    sides = []
    for kernel, dilation, zeros, channels in zip(kernels, dilations, before, (2, 3), strict=True):
        size = [c + d * (k - 1) - z for c, d, k, z in zip(counts, dilation, kernel, zeros, strict=True)]
        assume(min(size) >= 1)
        sides.append(Patches(normal(3, channels, *size), kernel, (1, 1), dilation, zeros, (0, 0)))
    assert sides[0].counts == sides[1].counts == counts
    torch.testing.assert_close(cross_gram(*sides, *ones), written_out(*sides, *ones))


@pytest.mark.parametrize("size", [(5, 6), (14, 12)])
@pytest.mark.parametrize("geometry", [
    {"padding": 1}, {"padding": 0}, {"padding": 2, "stride": 2}, {"padding": 2, "dilation": 2},
])  # fmt: skip
def test_a_point_of_the_map_weighs_as_often_as_it_is_read(size, geometry):
    layer = nn.Conv2d(1, 1, 3, **geometry)
    rows, columns = hits(layer, size)
    ones = torch.ones(1, 1, *output_size(layer, size))
    weight = torch.ones(1, 1, 3, 3)
    read = torch.nn.grad.conv2d_input((1, 1, *size), weight, ones, **geometry)
    torch.testing.assert_close(torch.outer(rows, columns), read[0, 0])

    patches = Patches(normal(3, 2, *size), (3, 3), (1, 1), (1, 1), (1, 1), (1, 1))
    u = torch.cat([patches.columns(), torch.ones(3, 1, size[0] * size[1], dtype=torch.float64)], dim=1)
    expected = torch.einsum("nap,nbp,p->ab", u, u, read.double().flatten())
    torch.testing.assert_close(weighted_gram(patches, rows, columns, True), expected)
