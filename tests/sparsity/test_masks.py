import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tfprune.sparsity import masks, scores

pytestmark = pytest.mark.one_backend


def update(score, sparsity, mask=None, **options):
    score = np.asarray(score, np.float32)
    mask = np.ones(score.shape, bool) if mask is None else np.asarray(mask, bool)
    return masks.update_masks([score], [mask], sparsity, **options)[0].astype(int).tolist()


@pytest.mark.parametrize(
    "score, sparsity, expected",
    [
        ([1, 2, 3, 4], 0.0, [1, 1, 1, 1]),
        ([1, 2, 3, 4], 0.5, [0, 0, 1, 1]),
        ([4, 1, 3, 2], 0.25, [1, 0, 1, 1]),
        ([4, 1, 3, 2], 0.75, [1, 0, 0, 0]),
        ([4, 1, 3, 2], 0.99, [1, 0, 0, 0]),  # At least one stays.
        ([5, 5, 5, 5], 0.5, [1, 1, 0, 0]),  # Ties to the lower index.
        ([1, 5, 5, 5, 9], 0.4, [0, 1, 1, 0, 1]),
        ([0, 0, 0, 0], 0.75, [1, 0, 0, 0]),
        ([7], 0.99, [1]),
        ([1, 2, 3, 4, 5], 0.5, [0, 0, 1, 1, 1]),  # round(2.5) is 2.
        ([1, 2, 3, 4, 5], 0.3, [0, 0, 1, 1, 1]),  # round(1.5) is 2.
    ],
)
def test_one_tensor(score, sparsity, expected):
    assert update(score, sparsity) == expected
    assert update(score, sparsity, scope="global") == expected


def test_ties_are_broken_in_flat_order_of_a_matrix():
    assert update([[3, 1, 3], [3, 3, 1]], 0.5) == [[1, 0, 1], [1, 0, 0]]


def test_a_removed_weight_never_returns_whatever_its_score():
    assert update([9, 1, 8, 2], 0.5, mask=[0, 1, 1, 1]) == [0, 0, 1, 1]
    assert update([9, 1, 8, 2], 0.0, mask=[0, 1, 0, 1]) == [0, 1, 0, 1]
    assert update([9, 9, 1, 1], 0.5, mask=[0, 0, 1, 1], scope="global") == [0, 0, 1, 1]


def test_layer_scope_prunes_each_tensor_by_itself():
    small, large = np.array([1, 2, 3, 4.0]), np.array([[10, 20], [30, 40.0]])
    ones = [np.ones(4, bool), np.ones((2, 2), bool)]
    new = masks.update_masks([small, large], ones, 0.5, "layer")
    assert new[0].astype(int).tolist() == [0, 0, 1, 1]
    assert new[1].astype(int).tolist() == [[0, 0], [1, 1]]


def test_global_scope_ranks_all_tensors_together():
    small, large = np.array([1, 2, 3, 4.0]), np.array([[10, 20], [30, 3.5]])
    ones = [np.ones(4, bool), np.ones((2, 2), bool)]
    new = masks.update_masks([small, large], ones, 0.5, "global")
    assert new[0].astype(int).tolist() == [0, 0, 0, 1]
    assert new[1].astype(int).tolist() == [[1, 1], [1, 0]]


def test_global_ties_go_to_the_earlier_tensor():
    ones = [np.ones(2, bool), np.ones(4, bool)]
    new = masks.update_masks([np.ones(2), np.ones(4)], ones, 0.5, "global")
    assert [m.astype(int).tolist() for m in new] == [[1, 1], [1, 0, 0, 0]]


def test_global_scope_leaves_every_tensor_its_largest():
    tiny, large = np.array([1e-6, 3e-6, 2e-6]), np.arange(10, 20.0)
    new = masks.update_masks([tiny, large], [np.ones(3, bool), np.ones(10, bool)], 9 / 13, "global")
    assert new[0].astype(int).tolist() == [0, 1, 0]
    assert np.flatnonzero(new[1]).tolist() == [7, 8, 9]
    new = masks.update_masks([tiny, large], [np.ones(3, bool), np.ones(10, bool)], 0.99, "global")
    assert [np.flatnonzero(m).tolist() for m in new] == [[1], [9]]


def test_kept_count_is_exact():
    assert masks.kept_count(100, 0.95) == 5
    assert masks.kept_count(3, 0.5) == 1
    assert masks.kept_count(1, 0.9) == 1
    assert masks.kept_count(10, 0.99, at_least=2) == 2


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("scope", masks.SCOPES)
def test_scores_that_are_not_finite_are_an_error_that_names_the_tensor(bad, scope):
    arrays = [np.ones(3), np.array([1.0, bad])]
    ones = [np.ones(3, bool), np.ones(2, bool)]
    with pytest.raises(ValueError, match="finite.*conv_7"):
        masks.update_masks(arrays, ones, 0.5, scope, ["conv_3", "conv_7"])
    with pytest.raises(ValueError, match="tensor 1"):
        masks.update_masks(arrays, ones, 0.5, scope)


def test_unknown_scope_lists_the_valid_ones():
    with pytest.raises(ValueError, match=r"\['layer', 'global', 'erk'\].*'model'"):
        masks.update_masks([np.ones(2)], [np.ones(2, bool)], 0.5, "model")


def test_unknown_score_lists_the_valid_ones():
    with pytest.raises(ValueError, match=r"one of \[.*\].* Received: score='l3'") as error:
        scores.get("l3")
    # There may be more: others' tests register their own.
    assert all(
        f"{name!r}" in str(error.value)
        for name in ("fisher", "gathered", "lamp", "magnitude", "random", "taylor")
    )


def test_magnitude_ranks_by_absolute_value():
    assert scores.get("magnitude")(scores.Tensor("kernel", np.array([-3.0, 1.0, 0.0]))).tolist() == [
        3.0,
        1.0,
        0.0,
    ]


# Few distinct values, so that ties are the rule; several dtypes; up to three dimensions.
TENSORS = st.sampled_from([np.float16, np.float32]).flatmap(
    lambda dtype: hnp.arrays(
        dtype,
        hnp.array_shapes(max_dims=3, max_side=5),
        elements=st.one_of(
            st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 100, width=16), st.just(np.float16(6e-8).item())
        ),
    )
)
SPARSITY = st.floats(0, 1, exclude_max=True)


def full(tensors):
    return [np.ones(t.shape, bool) for t in tensors]


@given(tensors=st.lists(TENSORS, min_size=1, max_size=4), sparsity=SPARSITY)
def test_layer_scope_keeps_exactly_the_count_and_the_largest(tensors, sparsity):
    for tensor, mask in zip(tensors, masks.update_masks(tensors, full(tensors), sparsity), strict=True):
        n = tensor.size
        count = max(n - round(sparsity * n), 1)
        assert np.count_nonzero(mask) == count
        # A stable sort is the plain statement of "largest first, ties to the lower flat index".
        best = np.argsort(-tensor.astype(np.float32).ravel(), kind="stable")[:count]
        assert set(np.flatnonzero(mask)) == set(best)


@given(tensors=st.lists(TENSORS, min_size=1, max_size=4), sparsity=SPARSITY)
def test_global_scope_keeps_exactly_the_count_and_one_in_each(tensors, sparsity):
    new = masks.update_masks(tensors, full(tensors), sparsity, "global")
    n = sum(t.size for t in tensors)
    assert sum(np.count_nonzero(m) for m in new) == max(n - round(sparsity * n), len(tensors))
    assert all(m.any() for m in new)
    # But for each tensor's largest, nothing removed is larger than anything kept.
    removed = np.concatenate([t[~m] for t, m in zip(tensors, new, strict=True)])
    others = np.concatenate(
        [np.sort(t[m].astype(np.float32))[:-1] for t, m in zip(tensors, new, strict=True)]
    )
    if removed.size and others.size:
        assert removed.max() <= others.min()


@given(
    tensors=st.lists(TENSORS, min_size=1, max_size=3),
    sparsities=st.lists(SPARSITY, min_size=2, max_size=4),
    scope=st.sampled_from(masks.SCOPES),
    seed=st.integers(0, 100),
)
def test_masks_are_nested_though_scores_change_and_sparsity_falls(tensors, sparsities, scope, seed):
    rng = np.random.default_rng(seed)
    old = full(tensors)
    for sparsity in sparsities:
        tensors = [rng.permutation(t.ravel()).reshape(t.shape) for t in tensors]
        new = masks.update_masks(tensors, old, sparsity, scope)
        assert all((n <= o).all() for n, o in zip(new, old, strict=True))
        total = sum(m.size for m in old)
        if scope == "global":
            target = max(total - round(sparsity * total), len(old))
            reached = min(target, sum(np.count_nonzero(m) for m in old))
            assert sum(np.count_nonzero(m) for m in new) == reached
        elif scope == "layer":
            for n, o in zip(new, old, strict=True):
                target = max(n.size - round(sparsity * n.size), 1)
                assert np.count_nonzero(n) == min(target, np.count_nonzero(o))
        old = new


@given(size=st.integers(1, 200), value=st.floats(0, 1e30), sparsity=SPARSITY)
def test_a_constant_tensor_is_pruned_from_its_end(size, value, sparsity):
    mask = masks.update_masks([np.full(size, value)], [np.ones(size, bool)], sparsity)[0]
    count = max(size - round(sparsity * size), 1)
    assert mask[:count].all() and not mask[count:].any()


@given(shape=hnp.array_shapes(), value=st.floats(0, 100), sparsity=SPARSITY)
def test_a_one_element_tensor_always_keeps_it(shape, value, sparsity):
    tensor = np.full((1,) * len(shape), value)
    for scope in masks.SCOPES:
        assert masks.update_masks([tensor], full([tensor]), sparsity, scope)[0].all()
