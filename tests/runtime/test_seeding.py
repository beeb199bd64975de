import numpy as np
import pytest
import torch

from meta_train.runtime.seeding import derive_seed, seeded_cpu


def test_seeds_depend_on_their_path_only():
    assert derive_seed("a", 1) == derive_seed("a", 1)
    paths = [("a", 1), ("a", "1"), ("a", 2), (1, "a"), ("a/1",), ("a",), ()]
    seeds = {derive_seed(*path) for path in paths}
    assert len(seeds) == len(paths)
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize("one", [np.int64(1), np.uint8(1), np.array(1), 1.0, np.float32(1)])
def test_a_whole_number_of_any_type_is_the_same_seed(one):
    assert derive_seed("evaluate", one) == derive_seed("evaluate", 1) == 6047216476354618892
    assert derive_seed("evaluate", torch.tensor(one)) == derive_seed("evaluate", 1)
    assert derive_seed(np.str_("evaluate"), one) == derive_seed("evaluate", 1)


def test_a_seed_that_is_not_whole_is_refused():
    with pytest.raises(ValueError, match="whole number, got 0.5"):
        derive_seed("evaluate", 0.5)


def test_a_seeded_block_draws_the_same_and_leaves_the_global_generator_as_it_was():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    drawn = []
    for _ in range(2):
        with seeded_cpu(5):
            drawn.append(torch.rand(2))
    assert torch.equal(*drawn) and torch.equal(drawn[0], torch.rand(2, generator=fresh(5)))
    assert torch.equal(torch.rand(3), expected)


def fresh(seed):
    return torch.Generator().manual_seed(seed)
