"""The one error family of the kit: every error names a cause and a fix.

Used everywhere below the notebooks. An error that a student can do nothing about is a bug of ours; everything else is a
`LabError` with two sentences: what happened (naming the file, port, process or setting) and what to do about it.
"""

from __future__ import annotations


class LabError(Exception):
    """Something the reader can put right. `cause` says what happened, `fix` what to do ("" only where no advice can help).

    In a notebook it is shown without a traceback: the two sentences are the message, and the stack of the kit's own
    functions would only hide them. Scripts catch `LabError` or one of its named children.
    """

    def __init__(self, cause: str, fix: str) -> None:
        self.cause = cause.strip()
        self.fix = fix.strip()
        super().__init__(self.cause + (f"\nFix: {self.fix}" if self.fix else ""))

    def _render_traceback_(self) -> list[str]:
        """IPython's hook for exceptions that know how to show themselves."""
        return [f"{type(self).__name__}: {self}"]


class SettingError(LabError):
    """A setting, flag or argument that cannot be used, found before anything was started or written."""


class ProfileError(LabError):
    """An unknown model profile, or one that this machine cannot hold."""


class InstallError(LabError):
    """An environment that could not be made or that does not import."""


class DownloadError(LabError):
    """A download that did not arrive. What had arrived whole is kept, and the next call goes on from there."""


class NoSpace(DownloadError):
    """A file system without the room; raised before the first byte where the size is known."""


class VerificationError(DownloadError):
    """A file whose size, hash or content is not what the hub says it is."""


class PortInUse(LabError):
    """Somebody else listens on the port. They are named and left alone."""


class AlreadyRunning(LabError):
    """A server of that name runs, and is not the one that was asked for."""


class GpuUnusable(LabError):
    """A GPU that is there and cannot be used: its driver fails, or CUDA_VISIBLE_DEVICES names none."""


class GpuInUse(LabError):
    """A GPU that another server of the kit uses. It is named and left alone."""


class MemoryHeld(LabError):
    """Device memory that an earlier server did not give back, or that somebody else holds."""


class StartFailed(LabError):
    """An engine that exited, or never answered, while starting. `line` is the log line that matters, `log` the file with all of them."""

    def __init__(self, cause: str, fix: str, *, line: str = "", log: str = "") -> None:
        self.line = line
        self.log = log
        parts = [cause] + ([f"Log line: {line}"] if line else []) + ([f"Whole log: {log}"] if log else [])
        super().__init__("\n".join(parts), fix)


class AdapterError(LabError):
    """An adapter that a server cannot take, or does not have."""


class UnknownTenant(LabError):
    """Somebody asks who has no entry in the table of tenants. Nobody else's adapter answers in its place."""


class NotRunning(LabError):
    """There is no such server, or it is gone."""


class SignInFailed(LabError):
    """Open-WebUI does not take the account or the password."""


class ConnectionFailed(LabError):
    """Open-WebUI cannot use an engine: it is down, the key is wrong, or the base URL is."""
