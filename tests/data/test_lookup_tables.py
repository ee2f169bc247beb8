import numpy as np

from tfprune.data import lookup_tables


def test_histogram_counts_each_channel(photographs):
    image = photographs["china 57x33"]
    counted = lookup_tables.image_histogram(image)
    for channel in range(3):
        expected = np.bincount(image[..., channel].ravel(), minlength=256)
        np.testing.assert_array_equal(counted[:, channel], expected)


def test_histogram_of_an_image_too_large_for_float32_counts(photographs, monkeypatch):
    image = photographs["china 57x33"]
    expected = lookup_tables.image_histogram(image)
    monkeypatch.setattr(lookup_tables, "_LARGEST_EXACT_COUNT", 0)
    np.testing.assert_array_equal(lookup_tables.image_histogram(image), expected)


def test_mapped_histogram_is_that_of_the_mapped_image(photographs):
    image = photographs["flower 32x32"]
    shared = lookup_tables.solarize_table(100.0)
    own = np.stack([shared, shared[::-1], np.roll(shared, 7)], axis=-1)
    for table in (shared, own):
        mapped = lookup_tables.mapped_histogram(lookup_tables.image_histogram(image), table)
        expected = lookup_tables.image_histogram(lookup_tables.apply_table(image, table))
        np.testing.assert_array_equal(mapped, expected)


def test_composed_tables_map_first_then_second(photographs):
    image = photographs["flower 32x32"]
    shared = lookup_tables.solarize_table(100.0)
    own = np.stack([shared, shared[::-1], np.roll(shared, 7)], axis=-1)
    other = np.roll(own, 31, axis=0)
    for first, second in ((shared, own), (own, shared), (own, other), (shared, shared[::-1])):
        np.testing.assert_array_equal(
            lookup_tables.apply_table(image, lookup_tables.compose_tables(first, second)),
            lookup_tables.apply_table(lookup_tables.apply_table(image, first), second),
        )


def test_equalize_by_hand():
    # 510 pixels of 10, 255 of 20, 255 of 30: the step is (1020 - 255) // 255 = 3.
    histogram = np.zeros((256, 3), np.int64)
    histogram[[10, 20, 30]] = [[510], [255], [255]]
    table = lookup_tables.equalize_table(histogram)
    assert table[[10, 20, 30], 0].tolist() == [0, (1 + 510) // 3, 255]


def test_autocontrast_by_hand():
    table = lookup_tables.autocontrast_table(np.array([50, 0, 7]), np.array([101, 255, 7]))
    assert table[[49, 50, 60, 101, 102], 0].tolist() == [0, 0, 50, 255, 255]
    np.testing.assert_array_equal(table[:, 1], np.arange(256))
    np.testing.assert_array_equal(table[:, 2], np.arange(256))


def test_extremes_of_a_chain_are_those_of_its_image(photographs):
    for image in photographs.values():
        for tables in ([], [lookup_tables.solarize_table(100.0)]):
            chain = lookup_tables.TableChain(image)
            for table in tables:
                chain.append(table)
            low, high = chain.extremes()
            result = chain.image().reshape(-1, 3)
            np.testing.assert_array_equal(low, result.min(axis=0))
            np.testing.assert_array_equal(high, result.max(axis=0))
