"""Selection over several arrays: as by sorting all of them together."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tfprune.sparsity import selection
from tfprune.sparsity.masks import update_masks
from tfprune.sparsity.patterns import WEIGHTS, Blocks, Channels
from tfprune.sparsity.selection import keep_largest

pytestmark = pytest.mark.one_backend

# Ties are the rule; both zeros, the smallest and the largest numbers, and neighbours in their last bits.
VALUES = [0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 3e38, -3e38, 0.1, np.nextafter(np.float32(0.1), np.float32(1))]


def arrays(dtype):
    elements = st.one_of(st.sampled_from([float(dtype(v)) for v in VALUES]), st.floats(-100, 100, width=32))
    return st.lists(hnp.arrays(dtype, st.integers(1, 12), elements=elements), min_size=1, max_size=4)


def best(scores, sizes, total):
    """Marks the largest, as few as have `total` weights: sorted all together, ties by position."""
    order = np.argsort(-scores, kind="stable")
    count = np.searchsorted(np.cumsum(sizes[order]), total) + 1
    keep = np.zeros(scores.size, bool)
    keep[order[:count]] = True
    return keep


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [3, 1 << 18])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(data=st.data())
def test_as_by_sorting_all_together(dtype, chunk, data):
    scores = data.draw(arrays(dtype))
    sized = data.draw(st.booleans())
    sizes = [
        data.draw(hnp.arrays(np.int64, s.shape, elements=st.integers(1, 5))) if sized else None
        for s in scores
    ]
    all_sizes = np.concatenate(
        [np.ones(s.size) if n is None else n for s, n in zip(scores, sizes, strict=True)]
    )
    total = data.draw(st.integers(1, int(all_sizes.sum())))
    read = []

    def groups():
        for pair in zip(scores, sizes, strict=True):
            read.append(True)
            yield pair

    before, selection._CHUNK = selection._CHUNK, chunk
    try:
        threshold = selection.CommonThreshold(groups, total)
    finally:
        selection._CHUNK = before
    keep = np.concatenate([threshold.keep(*pair) for pair in zip(scores, sizes, strict=True)])
    np.testing.assert_array_equal(keep, best(np.concatenate(scores), all_sizes, total))
    # A pass for every 16 bits.
    assert len(read) == len(scores) * np.dtype(dtype).itemsize // 2


def reference(scores, masks, sparsity, patterns):
    """The global scope, with all candidates in one array."""
    candidates = [p.candidates(s, m) for p, s, m in zip(patterns, scores, masks, strict=True)]
    flat = [candidate.ravel() for candidate in candidates]
    for candidate in flat:
        candidate[np.argmax(candidate)] = np.inf
    sizes = np.concatenate([p.sizes(m).ravel().astype(int) for p, m in zip(patterns, masks, strict=True)])
    n = sum(mask.size for mask in masks)
    total = min(max(n - round(sparsity * n), len(masks)), sum(np.count_nonzero(m) for m in masks))
    together = np.split(best(np.concatenate(flat), sizes, total), np.cumsum([c.size for c in flat])[:-1])
    return [
        mask & pattern.spread(keep.reshape(candidate.shape), mask.shape)
        for pattern, keep, candidate, mask in zip(patterns, together, candidates, masks, strict=True)
    ]


PATTERNS = st.sampled_from([WEIGHTS, Blocks((2, 1), "AVG"), Blocks((2, 3), "MAX"), Channels((-1,), 2)])


@pytest.mark.slow
@given(data=st.data(), sparsities=st.lists(st.floats(0, 0.99), min_size=1, max_size=3))
def test_the_global_scope_as_with_all_tensors_in_one_array(data, sparsities):
    shape = hnp.array_shapes(min_dims=2, max_dims=3, max_side=5)
    elements = st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 100, width=32))
    scores = data.draw(st.lists(hnp.arrays(np.float32, shape, elements=elements), min_size=1, max_size=4))
    patterns = [data.draw(PATTERNS) for _ in scores]
    masks = [np.ones(s.shape, bool) for s in scores]
    for sparsity in sparsities:
        expected = reference(scores, masks, sparsity, patterns)
        masks = update_masks(scores, masks, sparsity, "global", patterns=patterns)
        for found, wanted in zip(masks, expected, strict=True):
            np.testing.assert_array_equal(found, wanted)
        scores = [data.draw(st.permutations(list(s.ravel()))) for s in scores]
        scores = [np.array(s, np.float32).reshape(m.shape) for s, m in zip(scores, masks, strict=True)]


@pytest.mark.parametrize("removed", [0.0, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("values", ["different", "equal", "few", "sorted", "at the sampled places"])
def test_a_large_array_with_removed_weights_is_selected_from_exactly(values, removed):
    """As sorting by score, then by index, does; the sample may mislead."""
    rng = np.random.default_rng(0)
    size = 20_000
    scores = np.abs(rng.normal(size=size)).astype(np.float32)
    if values == "equal":
        scores[:] = 1.0
    elif values == "few":
        scores = np.round(scores, 1)
    elif values == "sorted":
        scores.sort()
    elif values == "at the sampled places":
        scores[:: size // 1024] = 100.0
    mask = np.ones(size, bool)
    mask[rng.permutation(size)[: round(removed * size)]] = False
    left = np.count_nonzero(mask)
    order = np.lexsort((np.arange(size), -np.where(mask, scores, -np.inf).astype(np.float64)))
    for count in {1, 2, left // 2, left - 1, max(left - 20, 1), max(left - 1000, 1), left, left + 5}:
        expected = np.zeros(size, bool)
        expected[order[: min(count, left)]] = True
        assert np.array_equal(keep_largest(scores, count, mask), expected), count
        if not removed:
            assert np.array_equal(keep_largest(scores, count), expected), count
