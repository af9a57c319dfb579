"""What is shown, for how long, and that everything is given back."""

import logging
import subprocess
import sys
import warnings

import pytest

import bridge.logging as messages

CHILD = """
import logging, bridge.logging as messages
log = logging.getLogger("bridge.somewhere")
log.info("before")
with messages.info():
    for _ in range(3):
        log.info("same")
    log.debug("hidden")
    logging.getLogger("rewrites").info("other")
with messages.quiet():
    log.warning("unseen")
log.info("after")
log.warning("seen")
"""


def test_a_plain_program_sees_what_it_asked_for() -> None:
    ran = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True)
    assert ran.stderr.splitlines() == [
        "INFO bridge.somewhere: same",
        "INFO rewrites: other (the message before came 3 times)",
        "seen",
    ]


@pytest.mark.parametrize(("context", "level"), [(messages.debug, 10), (messages.info, 20), (messages.quiet, 40)])
def test_levels_come_back_also_after_an_error(context, level) -> None:  # type: ignore[no-untyped-def]
    before = logging.getLogger("bridge").level
    with pytest.raises(KeyError), context():
        assert logging.getLogger("bridge.backends").getEffectiveLevel() == level
        assert logging.getLogger("rewrites").level == level
        raise KeyError
    assert logging.getLogger("bridge").level == before


def test_a_configured_program_keeps_its_own_handlers(caplog: pytest.LogCaptureFixture) -> None:
    with messages.debug():
        assert not logging.getLogger("bridge").handlers
        logging.getLogger("bridge.x").debug("told")
    assert "told" in caplog.text


def test_folding_is_by_message_and_level() -> None:
    fold = messages.FoldDuplicates()

    def passes(text: str, level: int = logging.INFO) -> bool:
        return fold.filter(logging.LogRecord("n", level, "f", 1, text, None, None))

    assert [passes("a"), passes("a"), passes("b"), passes("b", logging.ERROR)] == [True, False, True, True]


def test_quiet_exporter_hides_deprecations_only() -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with messages.quiet_exporter():
            assert not logging.getLogger("torch.onnx").isEnabledFor(logging.WARNING)
            warnings.warn("`torch.jit.script` is deprecated. Please switch", DeprecationWarning, stacklevel=1)
            warnings.warn("a finding", RuntimeWarning, stacklevel=1)
    assert [str(one.message) for one in seen] == ["a finding"]
