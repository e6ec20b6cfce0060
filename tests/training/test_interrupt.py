"""Ctrl-C is raised between steps, where nothing can swallow it."""

import os
import signal
import threading

import pytest

from skreg.training.interrupt import Terminated, interrupt_between_steps


@pytest.fixture(autouse=True)
def python_s_own_handler():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    yield
    signal.signal(signal.SIGINT, before)


def press():
    os.kill(os.getpid(), signal.SIGINT)


def test_it_waits_for_the_check():
    done = []
    with pytest.raises(KeyboardInterrupt), interrupt_between_steps() as check:
        check()
        press()
        done.append("the step goes on")
        check()
        done.append("never")
    assert done == ["the step goes on"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_it_is_not_lost_in_a_destructor():
    class Pressed:
        def __del__(self):
            press()

    with pytest.raises(KeyboardInterrupt), interrupt_between_steps() as check:
        Pressed()
        check()


def test_a_second_one_does_not_wait():
    with pytest.raises(KeyboardInterrupt), interrupt_between_steps():
        press()
        press()
        pytest.fail("the second one was held back")


def test_a_program_s_own_handler_and_other_threads_are_left_alone():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupt_between_steps() as check:
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            check()
    finally:
        signal.signal(signal.SIGINT, before)
    inside = []

    def run():
        with interrupt_between_steps():
            inside.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert inside == [signal.default_int_handler]


def test_sigterm_waits_too_and_says_what_it_was():
    with pytest.raises(Terminated), interrupt_between_steps() as check:
        os.kill(os.getpid(), signal.SIGTERM)
        check()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
