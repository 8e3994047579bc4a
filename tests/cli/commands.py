# SPDX-License-Identifier: Apache-2.0
"""What the tests of the commands share: running one to its end, with no options but its own."""
import subprocess

from harness import SANITIZER_WORDS, SLOWNESS, binary, clean_environment

USAGE, DATAERR, NOINPUT, UNAVAILABLE, IOERR, CONFIG, INTERRUPTED = 64, 65, 66, 69, 74, 78, 130

COMMANDS = ["serve", "run", "inspect", "tokenize", "bench", "eval", "calibrate", "pack"]


def lacuna(*words, stdin=b"", environment=None, seconds=120):
    done = subprocess.run([binary(), *map(str, words)], input=stdin, capture_output=True, timeout=seconds * SLOWNESS,
                          env={**clean_environment(), **(environment or {})})
    done.error = done.stderr.decode(errors="replace")
    assert not SANITIZER_WORDS.search(done.error), done.error
    return done


def good(*words, **how):
    """stdout of a run that must end well."""
    done = lacuna(*words, **how)
    assert done.returncode == 0, f"{done.returncode}: {done.error}"
    return done.stdout


def refused(status, *words, **how):
    """stderr of a run that must end with this status, and say why in one line."""
    done = lacuna(*words, **how)
    assert done.returncode == status, f"{done.returncode}: {done.error}"
    assert done.error.startswith("lacuna: ") and done.error.count("\n") == 1, done.error
    assert done.stdout == b""
    return done.error
