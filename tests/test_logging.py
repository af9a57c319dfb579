"""What is shown, for how long, and that everything is given back."""

import io
import logging
import subprocess
import sys
import threading
import warnings

import pytest
import torch

import bridge
import bridge.logging as messages

CHILD = """
import logging, bridge.logging as messages
log = logging.getLogger("bridge.somewhere")
log.info("before")
with messages.info():
    for _ in range(38):
        log.info("same")
    log.debug("hidden")
    logging.getLogger("rewrites").info("other")
with messages.quiet():
    log.warning("unseen")
log.info("after")
log.warning("seen")
messages.set_level("info")
log.info("from now on")
with messages.errors():
    log.info("not now")
messages.set_level("warning")
log.info("no more")
assert not logging.getLogger().handlers
"""


def test_a_plain_program_sees_what_it_asked_for() -> None:
    ran = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True)
    assert ran.stderr.splitlines() == [
        "INFO bridge.somewhere: same",
        "INFO rewrites: other",
        "INFO bridge.somewhere: same (repeated 37 times)",
        "seen",
        "INFO bridge.somewhere: from now on",
    ]


LEVELS = [
    (messages.graphs, 5), (messages.debug, 10), (messages.info, 20), (messages.warnings, 30), (messages.errors, 40),
    (messages.quiet, 40), (messages.internal_errors, 50),
]  # fmt: skip


@pytest.mark.parametrize(("context", "level"), LEVELS)
def test_levels_come_back_also_after_an_error(context, level) -> None:  # type: ignore[no-untyped-def]
    before = logging.getLogger("bridge").level
    with pytest.raises(KeyError), context():
        assert logging.getLogger("bridge.backends").getEffectiveLevel() == level
        assert logging.getLogger("rewrites").level == level
        raise KeyError
    assert logging.getLogger("bridge").level == before


def test_contexts_that_overlap_in_threads_give_back_what_they_found() -> None:
    before = logging.getLogger("bridge").level
    first, second, entered = messages.debug(), messages.info(), threading.Event()

    def other() -> None:
        with second:
            entered.set()
            leave.wait(10)

    leave, thread = threading.Event(), threading.Thread(target=other)
    with first:
        thread.start()
        entered.wait(10)
        assert logging.getLogger("bridge").level == logging.INFO
    assert logging.getLogger("bridge").level == logging.INFO  # the thread's is still entered
    leave.set()
    thread.join()
    assert logging.getLogger("bridge").level == before


def test_a_configured_program_keeps_its_own_handlers(caplog: pytest.LogCaptureFixture) -> None:
    with messages.debug():
        assert not logging.getLogger("bridge").handlers
        logging.getLogger("bridge.x").debug("told")
    assert "told" in caplog.text


def test_folding_is_by_logger_level_and_text() -> None:
    told: list[str] = []
    fold = messages.FoldingHandler(lambda record: told.append(record.getMessage()))

    def say(text: str, level: int = logging.INFO, name: str = "n") -> None:
        fold.handle(logging.LogRecord(name, level, "f", 1, text, None, None))

    for _ in range(3):
        say("a")
        say("b")
    say("a", logging.ERROR)
    say("a", name="m")
    assert told == ["a", "b", "a", "a"]
    fold.close()
    assert sorted(told[4:]) == ["a (repeated 2 times)", "b (repeated 2 times)"]


def test_folding_counts_every_thread_once() -> None:
    told: list[str] = []
    fold = messages.FoldingHandler(lambda record: told.append(record.getMessage()))
    record = logging.LogRecord("n", logging.INFO, "f", 1, "again", None, None)
    threads = [threading.Thread(target=lambda: [fold.handle(record) for _ in range(100)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    fold.close()
    assert told == ["again", "again (repeated 799 times)"]


def test_what_was_said_long_ago_is_counted_and_said_again() -> None:
    told: list[str] = []
    fold = messages.FoldingHandler(lambda record: told.append(record.getMessage()))
    for text in ("a", "a", *map(str, range(32)), "a"):
        fold.handle(logging.LogRecord("n", logging.INFO, "f", 1, text, None, None))
    assert told.count("a") == 2 and told.count("a (repeated 1 time)") == 1


def test_recording_keeps_all_and_shows_no_more_than_before(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("bridge.somewhere")
    with messages.recorded() as lines:
        log.debug("detail")
        log.warning("warning")
        messages.show_graph(log, "title", lambda: pytest.fail("nobody asked"))
    assert lines == ["DEBUG bridge.somewhere: detail", "WARNING bridge.somewhere: warning"]
    assert [record.message for record in caplog.records] == ["warning"]
    assert logging.getLogger("bridge").propagate


def test_graphs_are_shown_at_every_station(caplog: pytest.LogCaptureFixture) -> None:
    module = torch.jit.script(torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Tanh()).eval())
    with messages.graphs():
        bridge.compile(module, [(2, 4)], backend="onnxruntime")
    shown = [record.message for record in caplog.records if record.levelno == messages.GRAPHS]
    assert len(shown) == 4
    assert "aten::tanh" in shown[0] and "Gemm" in shown[1] and "Gemm" in shown[2] and "execute_engine" in shown[3]


@pytest.mark.parametrize("level", ["loud", None, True, -1, ""])
def test_levels_that_do_not_exist(level: object) -> None:
    with pytest.raises(bridge.SpecError, match=r"there is no level (.|\n)*debug"):
        messages.set_level(level)  # type: ignore[arg-type]


def test_polygraphy_speaks_through_our_logger(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    module = torch.jit.script(torch.nn.Linear(4, 4).eval())
    with messages.debug():
        bridge.compare(module, module, (torch.ones(2, 4),))
    assert any(record.name == "bridge.polygraphy" for record in caplog.records)
    assert capsys.readouterr().out == ""
    caplog.clear()
    bridge.compare(module, module, (torch.ones(2, 4),))
    assert not caplog.records and capsys.readouterr().out == ""


class Repeats(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x] * x.shape[0])  # the exporter has no lists of unknown length


def test_the_exporter_writes_nothing_to_the_output(capfd: pytest.CaptureFixture[str]) -> None:
    """After any torch.onnx.export a graph is written where an operator fails; commands print JSON there."""
    torch.onnx.export(torch.nn.ReLU(), (torch.ones(2),), io.BytesIO(), dynamo=False, verbose=False)
    capfd.readouterr()
    rows = bridge.Input(("n", 4), min_shape=(1, 4), opt_shape=(2, 4), max_shape=(8, 4))
    compiled = bridge.compile(torch.jit.script(Repeats().eval()), [rows], backend="onnxruntime")
    assert compiled(torch.ones(3, 4)).shape == (9, 4)
    assert capfd.readouterr().out == ""


def test_quiet_exporter_hides_deprecations_only() -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with messages.quiet_exporter():
            assert not logging.getLogger("torch.onnx").isEnabledFor(logging.WARNING)
            warnings.warn("`torch.jit.script` is deprecated. Please switch", DeprecationWarning, stacklevel=1)
            warnings.warn("a finding", RuntimeWarning, stacklevel=1)
    assert [str(one.message) for one in seen] == ["a finding"]
