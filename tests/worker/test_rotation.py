"""Logs of running processes are moved aside."""

from worker.rotation import rotate


def test_a_small_or_missing_log_stays(tmp_path):
    log = tmp_path / "x.log"
    assert not rotate(log)
    log.write_text("line\n")
    assert not rotate(log, max_bytes=100)
    assert log.read_text() == "line\n"


def test_a_large_log_is_moved_while_its_process_goes_on(tmp_path):
    log = tmp_path / "x.log"
    with log.open("ab", buffering=0) as stream:
        for number in range(4):
            stream.write(b"%d" % number * 10)
            assert rotate(log, max_bytes=5, kept=2)
        stream.write(b"last")

    assert log.read_bytes() == b"last"
    assert (tmp_path / "x.log.1").read_bytes() == b"3" * 10
    assert (tmp_path / "x.log.2").read_bytes() == b"2" * 10
    assert not (tmp_path / "x.log.3").exists()
