"""The errors a user can meet, each with the exit status the command line returns for it.

Exit statuses: 0 ok, 1 error, 2 bad input, 3 blow-up, 4 gate failed, 130 interrupted (143 after SIGTERM).
"""

from __future__ import annotations


class MdistillError(Exception):
    """Something failed that is not the input's fault (exit status 1)."""

    exit_status = 1


class BadInput(MdistillError, ValueError):
    """A file or a setting that cannot be used (exit status 2).

    Args:
        subject: The file or setting that is wrong.
        problem: What is wrong with it, with the value.
        allowed: What is accepted.
        fix: What to type or change next.
    """

    exit_status = 2

    def __init__(self, subject: object, problem: str, *, allowed: str, fix: str) -> None:
        self.subject = str(subject)
        self.problem = problem
        self.allowed = allowed
        self.fix = fix
        super().__init__(f"{self.subject}: {problem}\n  allowed: {allowed}\n  fix: {fix}")


class MissingPackage(MdistillError, ImportError):
    """An optional package is not installed; the message names the pip line (exit status 2)."""

    exit_status = 2

    def __init__(self, package: str, pip_line: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the package {package!r}, which is not installed.\n  fix: {pip_line}")


class BlowUp(MdistillError):
    """A simulation left the physical range and was stopped by the guard (exit status 3)."""

    exit_status = 3

    def __init__(self, step: int, reason: str, kept: str = "") -> None:
        self.step = step
        self.reason = reason
        self.kept = kept
        when = f"at step {step}" if step >= 0 else f"during equilibration, {-step} steps before its end"
        fix = (
            "relax the structure first, and check its cell and units"
            if step == 0
            else "a shorter time step, a lower temperature, or a student with more labels of such structures"
        )
        super().__init__(f"simulation stopped {when}: {reason}" + (f"\n  kept: {kept}" if kept else "") + f"\n  fix: {fix}")


class Interrupted(MdistillError):
    """Stopped by a signal after saving; the message names the command that resumes (exit status 130 or 143)."""

    def __init__(self, message: str, *, signal_number: int = 2) -> None:
        self.exit_status = 128 + signal_number
        super().__init__(message)


class MdistillNotice(UserWarning):
    """A fact that the user should know although nothing failed, such as a slower code path (`mdistill.notices`)."""
