"""Records memory, power and utilisation in a background thread: of all GPUs, or without one of a server's process tree.

What the numbers mean
- Memory: as `machine.gpu` reads it; without a GPU the proportional share of each process (PSS), shared pages counted once.
- Power is no wattmeter: the driver averages it (over about 1 s on most cards since Ampere), and on A100 and H100 only about a
  quarter of the time is measured at all (arXiv 2312.02741). Short peaks are not in it. Energy comes from the card's own counter
  where it has one, else it is power x time.
- PCIe throughput is left out on purpose: that one call blocks for 21 ms.

Does not cover: drawing (`timeline`), the live view (`live`). Used by notebooks 03 to 06.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ..common.errors import GpuUnusable, SettingError
from ..machine.gpu import Device, device_handle, find, problem, visible
from ..machine.nvml import ask, from_thousandths, load_nvml, memory_info, utilisation_of
from .recording import Recording, Track

if TYPE_CHECKING:
    import psutil


MAX_HZ = 5.0
"""Power is an average over about a second: more samples would not be more information."""

RESERVES = {
    "v2": "without the driver's reserve",
    "v1": "with the driver's reserve (NVML v1)",
    "system": "of the memory that the GPU shares with the machine",
}
"""`Device.memory_call` -> what its number counts."""

MIN_CPU_SECONDS = 0.1
"""The kernel counts CPU time in steps of 10 ms: a share of a shorter time would be noise."""


class Sampler:
    """Records in a background thread from `start` (or `with`) to `stop`; the samples so far are a `Recording` at any time.

    `processes` gives the live processes of a server (`Server.processes`); they are what is measured where there is no GPU,
    or with kind="cpu". `gpus` are the UUIDs of the GPUs to record, by default those that this process may use. `hz` is samples per
    second, at most 5. Raises `SettingError` for another rate, or if there is neither a GPU nor `processes`; `GpuUnusable` for a driver
    that fails. The thread ends with
    the program; a sample that fails is left out, never raised.
    """

    def __init__(
        self,
        processes: Callable[[], Sequence[psutil.Process]] | None = None,
        *,
        hz: float = 1.0,
        kind: str = "auto",
        gpus: Sequence[str] | None = None,
    ) -> None:
        if not 0 < hz <= MAX_HZ:
            raise SettingError(f"A sampler cannot run at {hz} samples per second.", f"Use at most {MAX_HZ:g}; 1 is enough.")
        devices = (visible() if gpus is None else find(gpus)) if kind != "cpu" else []
        if not devices and processes is None:
            wrong = problem()
            if wrong:
                raise GpuUnusable(*wrong)
            raise SettingError("There is no GPU here, and no server's processes were given to watch.", "Sampler(server.processes)")
        self.interval = 1 / hz
        self._source: _Gpus | _Tree = _Gpus(devices) if devices or processes is None else _Tree(processes)
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._began = time.monotonic()
        self._recording = self._source.recording()
        self._thread = threading.Thread(target=self._loop, name="labkit-sampler", daemon=True)

    def start(self) -> Self:
        """Take the first sample at once and the others in the background."""
        self._began = time.monotonic()
        self._recording.started = time.time()
        self._take()
        self._thread.start()
        return self

    def stop(self) -> Recording:
        """Take one last sample, end the thread and return the recording. A second call returns it again."""
        if not self._ended.is_set():
            self._ended.set()
            if self._thread.is_alive():
                self._thread.join()
            self._take()
        return self.recording

    def mark(self, text: str) -> None:
        """Note what happens now; pictures show it as a thin line with the text."""
        with self._lock:
            self._recording.marks.append((time.monotonic() - self._began, text))

    @property
    def recording(self) -> Recording:
        """A copy of what has been recorded so far; it does not change any more."""
        with self._lock:
            return copy.deepcopy(self._recording)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _loop(self) -> None:
        due = self._began + self.interval
        while not self._ended.wait(max(0.0, due - time.monotonic())):
            self._take()
            late = max(0, int((time.monotonic() - due) / self.interval))
            due += self.interval * (1 + late)  # on the grid of the start: no drift, and no burst after a stall

    def _take(self) -> None:
        second = time.monotonic() - self._began
        values = self._source.sample()
        with self._lock:
            self._recording.seconds.append(second)
            for track, (memory, power, utilisation, joules) in zip(self._recording.tracks, values, strict=True):
                track.add(memory, power, utilisation)
                track.counter_joules = joules


Sample = tuple[float | None, float | None, float | None, float | None]
"""Memory in bytes, power in watts, utilisation in percent, joules since the start."""


class _Gpus:
    """All devices through NVML: memory, power, utilisation and energy of one H200 together take 4 ms."""

    def __init__(self, gpus: list[Device]) -> None:
        self.gpus = gpus
        self.nvml = load_nvml()
        self.handles = [device_handle(self.nvml, gpu) for gpu in gpus]
        self.joules = [self._energy(handle) for handle in self.handles]

    def recording(self) -> Recording:
        first = self.gpus[0]
        names = f"{len(self.gpus)} x {first.name}" if len(self.gpus) > 1 else first.name
        reserve = RESERVES.get(first.memory_call, "not told by the driver")
        tracks = [Track(f"GPU {one.index}", one.total_bytes, one.power_limit_watts) for one in self.gpus]
        return Recording("gpu", f"{names}, driver {first.driver}", f"in use, {reserve}", 0.0, tracks)

    def sample(self) -> list[Sample]:
        return [self._device(handle, joules) for handle, joules in zip(self.handles, self.joules, strict=True)]

    def _device(self, handle: Any, joules: float | None) -> Sample:
        total, used, _ = memory_info(self.nvml, handle)
        power = from_thousandths(ask(self.nvml, "DeviceGetPowerUsage", handle))
        now = None if joules is None else self._energy(handle)
        spent = None if now is None or joules is None else now - joules
        return (used if total else None), power, utilisation_of(self.nvml, handle), spent

    def _energy(self, handle: Any) -> float | None:
        return from_thousandths(ask(self.nvml, "DeviceGetTotalEnergyConsumption", handle))


class _Tree:
    """A server's process tree: proportional memory (PSS, shared pages counted once) and CPU as a share of the machine."""

    def __init__(self, processes: Callable[[], Sequence[psutil.Process]]) -> None:
        import psutil

        self.processes = processes
        self.cores = psutil.cpu_count() or 1
        self.total = psutil.virtual_memory().total
        self.proportional = all(_pss(process) is not None for process in processes())
        self.cpu = self._cpu_seconds()
        self.at = time.monotonic()

    def recording(self) -> Recording:
        meaning = "PSS: shared pages counted once" if self.proportional else "RSS: shared pages counted in every process"
        return Recording("cpu", f"no GPU: the server's processes on {self.cores} CPU cores", meaning, 0.0, [Track("server", self.total)])

    def sample(self) -> list[Sample]:
        before, then = self.cpu, self.at
        self.cpu, self.at = self._cpu_seconds(), time.monotonic()
        spent = sum(seconds - before.get(process, 0.0) for process, seconds in self.cpu.items())
        elapsed = self.at - then
        share = min(100.0, 100 * spent / (self.cores * elapsed)) if elapsed >= MIN_CPU_SECONDS else None
        memory = sum((_pss(process) if self.proportional else _rss(process)) or 0 for process in self.processes())
        return [(memory, None, share, None)]

    def _cpu_seconds(self) -> dict[psutil.Process, float]:
        import psutil

        seconds = {}
        for process in self.processes():
            try:
                times = process.cpu_times()
            except psutil.Error:
                continue
            seconds[process] = times.user + times.system
        return seconds


def _pss(process: psutil.Process) -> int | None:
    import psutil

    try:
        return int(process.memory_full_info().pss)
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return 0
    except (psutil.Error, OSError, AttributeError):
        return None


def _rss(process: psutil.Process) -> int:
    import psutil

    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0
