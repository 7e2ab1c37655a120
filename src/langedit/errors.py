"""Every error that a user can cause. The command line prints the message and exits with 2.

LangEditError
├── ConfigError        a setting is unknown, missing or out of range
├── FactError          a fact or a file of facts cannot be edited as it stands
├── ModelError         a checkpoint cannot be loaded
│   └── StructureError a part of the model cannot be found by structure
├── TokenError         a text position cannot be mapped to tokens
├── MomentsError       second moments are missing, damaged or of another model
├── RecordError        a record of edits is missing, damaged or does not fit what is asked of it
├── OutputError        results cannot be written where they were asked for
├── WorkspaceError     a workspace is damaged, locked, of another version, or cannot be written
├── ProcessError       of several processes one ended, fell silent or has other inputs
└── NumericalError     a value became non-finite or a guarantee does not hold
"""

from __future__ import annotations


class LangEditError(Exception):
    """Base class: says what was expected, what came, and what to do.

    Attributes:
        everywhere: whether every process of a run raises it, so that one may speak for all.
    """

    everywhere: bool = False


class ConfigError(LangEditError):
    """A setting is unknown, missing or out of range."""


class FactError(LangEditError):
    """A fact, or a file of facts, cannot be edited as it stands."""


class ModelError(LangEditError):
    """A checkpoint cannot be loaded or is of a kind that cannot be edited."""


class StructureError(ModelError):
    """A part of the model (layers, projection, norm, head) cannot be found by structure."""


class TokenError(LangEditError):
    """A position in a text cannot be mapped to tokens."""


class MomentsError(LangEditError):
    """Second moments are missing, damaged, or belong to another model."""


class RecordError(LangEditError):
    """A record of edits is missing, damaged, or does not fit what is asked of it."""


class OutputError(LangEditError):
    """Results cannot be written where they were asked for."""


class WorkspaceError(LangEditError):
    """A workspace is damaged, locked, of another version or model, or cannot be written."""


class ProcessError(LangEditError):
    """Of several processes one ended, fell silent, or was given something else."""


class NumericalError(LangEditError):
    """A value became non-finite, or a stated guarantee does not hold."""
