"""The benchmark that says where the processor's time goes."""

from __future__ import annotations

import threading
import time

import pytest

from benchmarks.profile import Operation, Profile, print_profile, thread_seconds


def test_time_goes_to_the_thread_that_took_it() -> None:
    measured = threading.Event()
    done = threading.Event()

    def work() -> None:
        while time.thread_time() < 0.1:
            pass
        measured.set()
        done.wait()

    before = thread_seconds().get("encoder", 0.0)
    thread = threading.Thread(target=work, name="encoder")
    thread.start()
    try:
        assert measured.wait(30)
        assert thread_seconds()["encoder"] >= before + 0.08
    finally:
        done.set()
        thread.join()


def test_tables_are_for_a_second_of_speech(capsys: pytest.CaptureFixture[str]) -> None:
    operations = [Operation("small", 1, 0.1), Operation("large", 8, 0.3)]
    print_profile(Profile({"decoder": 1.0, "encoder": 3.0}, operations), heard=20, written=4)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-11:-8] == ["| encoder | 150.0 | 75 % |", "| decoder | 50.0 | 25 % |", "| all | 200.0 |  |"]
    assert lines[-3:] == ["| large | 2 | 75.00 | 75.0 % |", "| small | 0 | 25.00 | 25.0 % |", "| all |  | 100.00 |  |"]
