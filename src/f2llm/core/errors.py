"""One tree of errors. Each message says what is wrong, where, and how to mend it; the CLI maps a class to an exit code.

Nothing here is raised for a programming mistake: those stay ordinary exceptions with a traceback.
"""

from __future__ import annotations


class F2LLMError(Exception):
    """A mistake of the input or of the surroundings, told to the user in one sentence."""

    exit_code = 1


class ConfigError(F2LLMError):
    """A recipe or an option is wrong: unknown key, wrong type, impossible shape, missing file."""

    exit_code = 2


class DataError(F2LLMError):
    """A data file cannot be read, or what it holds breaks the format's contract."""

    exit_code = 3


class ModelError(F2LLMError):
    """A model directory is missing, incomplete or inconsistent."""

    exit_code = 4


class StorageError(F2LLMError):
    """The disk is full, not writable, or a stored artifact is damaged."""

    exit_code = 5


class TrainingError(F2LLMError):
    """Training cannot go on: a non-finite loss, or a checkpoint that belongs to another run."""

    exit_code = 6


class MissingDependencyError(F2LLMError):
    """An optional package is needed; the message names the extra that brings it."""

    exit_code = 7


class InterruptedRunError(F2LLMError):
    """The run was asked to stop, has saved its state and can be continued (sysexits EX_TEMPFAIL)."""

    exit_code = 75
