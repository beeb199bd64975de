from meta_train.runtime.seeding import derive_seed


def test_seeds_depend_on_their_path_only():
    assert derive_seed("a", 1) == derive_seed("a", 1)
    paths = [("a", 1), ("a", "1"), ("a", 2), (1, "a"), ("a/1",), ("a",), ()]
    seeds = {derive_seed(*path) for path in paths}
    assert len(seeds) == len(paths)
    assert all(0 <= seed < 2**63 for seed in seeds)
