"""What several tests of containers need."""

import threading

import pytest


@pytest.fixture
def in_thread():
    started = []

    def start(what, *arguments):
        thread = threading.Thread(target=what, args=arguments, daemon=True)
        thread.start()
        started.append(thread)
        return thread

    yield start
    for thread in started:
        thread.join(60)
