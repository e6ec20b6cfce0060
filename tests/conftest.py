"""What all tests share: hypothesis without a clock, and one thread, because tiny operations only compete for more."""

import pytest
import torch
from hypothesis import HealthCheck, settings

# No limits of time: machines are shared, and a slow one fails nothing.
settings.register_profile(
    "skreg", deadline=None, derandomize=True, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("skreg")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
