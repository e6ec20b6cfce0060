"""What all tests share: hypothesis without a clock, and one thread, because tiny operations only compete for more."""

import pytest
import torch
from hypothesis import settings

settings.register_profile("skreg", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("skreg")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
