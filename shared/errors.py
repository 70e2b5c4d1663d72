"""Every exception that Tacit raises on purpose.

    TacitError
    ├── ConfigError                 wrong before anything ran
    ├── DataError                   the input file, located, never quoted
    │   ├── NothingReceived         no recommender came to this node yet
    │   └── StoreUnavailable        a node's own database is damaged, locked, full; nothing was lost
    ├── PrivacyError
    │   ├── BudgetExceeded          the plan does not fit what the owner allows
    │   ├── EpsilonOutOfReach       no noise of this plan keeps the epsilon asked for
    │   ├── NotProtected            the run is whole and does not protect as planned
    │   ├── UnsupportedMechanism    the accountant does not know this event
    │   └── SensitivityError        non-finite or unclipped value met
    ├── SecureAggregationError
    │   ├── CohortTooSmall
    │   ├── ShareRequestRefused     a peer asked for both shares
    │   └── ProtocolViolation       stage, field, expected type
    ├── PolicyRefused               this node does not run that code, purpose or budget
    ├── OutOfMemory                 not even the smallest batch fits
    └── CheckpointError             saved state that is absent, damaged or of another run

A message has the form `Expected <name> <relation>, got <name>=<value>. <What to do.>`, or says what
happened and what to do. It never holds user ids, items, interactions, weights, seeds or keys, so that
an error may be logged and sent anywhere. `exit_status` is what the command line exits with.
"""


class TacitError(Exception):
    """Base of all errors that Tacit raises on purpose; one clear line for the person who reads it."""

    exit_status: int = 1


class ConfigError(TacitError):
    """A setting was wrong before anything ran."""

    exit_status = 2


class DataError(TacitError):
    """An input file cannot be used; the message locates the fault and never quotes the data."""

    exit_status = 2


class NothingReceived(DataError):  # noqa: N818
    """No recommender came to this node yet; later there may be one."""

    exit_status = 1


class StoreUnavailable(DataError):  # noqa: N818
    """A node's own database cannot be read or written as it is; nothing was changed."""

    exit_status = 1


class PrivacyError(TacitError):
    """A privacy guarantee could not be given; nothing was released."""


class BudgetExceeded(PrivacyError):  # noqa: N818 - the field's own name for it
    """The device's own ledger refused: what was spent and what the plan asks for pass its limit together."""


class EpsilonOutOfReach(PrivacyError):  # noqa: N818
    """No noise makes the plan cost at most the epsilon that was asked for: a setting was wrong before anything ran."""

    exit_status = 2


class NotProtected(PrivacyError):  # noqa: N818
    """The run is whole; the claim that it was planned for rests on an assumption that does not hold."""

    exit_status = 3


class UnsupportedMechanism(PrivacyError):  # noqa: N818
    """The accountant has no valid bound for this combination of mechanism, unit and adversary."""

    exit_status = 2


class SensitivityError(PrivacyError):
    """A contribution was not bounded: non-finite or unclipped."""


class SecureAggregationError(TacitError):
    """Secure aggregation could not finish; nothing was released."""


class CohortTooSmall(SecureAggregationError):  # noqa: N818
    """Fewer clients answered than the plan needs; the round was dropped."""


class ShareRequestRefused(SecureAggregationError):  # noqa: N818
    """A peer asked for shares that together would unmask a client."""


class ProtocolViolation(SecureAggregationError):  # noqa: N818
    """A message was not of the form the protocol allows: stage, field, expected type."""


class PolicyRefused(TacitError):  # noqa: N818
    """This node does not run that code, purpose or budget."""


class OutOfMemory(TacitError):  # noqa: N818
    """Memory ran out where nothing smaller can be tried."""


class CheckpointError(TacitError):
    """Saved state is absent, damaged, or belongs to another run."""

    exit_status = 2
