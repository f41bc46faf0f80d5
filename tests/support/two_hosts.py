"""Two hosts on one machine: network namespaces with names and addresses of their own, and a cable that can be cut.

A host shares the machine's file system, as hosts of a cluster share a folder; each can have a folder of its own too.
"""

import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

NAMES = ("host-a", "host-b")
ADDRESSES = ("10.77.0.1", "10.77.0.2")
INTERFACE = "eth0"
PORT = 29500  # as nothing else uses it in these namespaces
DEADLINE_SECONDS = 300.0  # past which something hangs
_CLONE_NEWNS, _CLONE_NEWUTS, _CLONE_NEWNET, _MS_REC, _MS_PRIVATE, _MS_BIND = (
    *(0x00020000, 0x04000000, 0x40000000, 0x4000, 1 << 18, 0x1000),
)  # from Linux's sched.h and mount.h
_ENTER = """set -e
hostname "$1"; mount --bind "$2" /etc/hosts
if [ -n "$3" ]; then mount --bind "$3" "$4"; fi
shift 4; exec "$@"
"""


def why_not() -> str | None:
    """Return what is missing on this machine for two hosts; None if nothing is."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces need Linux and root"
    missing = [tool for tool in ("ip", "unshare", "mount", "hostname") if shutil.which(tool) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    name = f"openddpm-try-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode == 0:
        subprocess.run(["ip", "netns", "del", name], check=True)
    return made.stderr.strip() or None


@dataclass(frozen=True)
class Host:
    """One of the two."""

    index: int
    namespace: str
    hosts_file: Path
    own_folders: tuple[Path, Path] | None = None
    """A folder of this host alone, and where it is seen there."""

    @property
    def name(self) -> str:
        """What it calls itself."""
        return NAMES[self.index]

    def command(self, arguments: Sequence[str]) -> list[str]:
        """Return the command that runs `arguments` on this host."""
        own, seen_as = map(str, self.own_folders or ("", ""))
        enter = ["unshare", "--mount", "--uts", "sh", "-c", _ENTER, "sh", self.name, str(self.hosts_file), own, seen_as]
        return ["ip", "netns", "exec", self.namespace, *enter, *arguments]

    def enter(self) -> None:
        """Move this process, which has one thread, to the host for good."""
        libc = ctypes.CDLL(None, use_errno=True)

        def checked(status: int) -> None:
            assert status == 0, os.strerror(ctypes.get_errno())

        with open(f"/run/netns/{self.namespace}") as file:
            checked(libc.setns(file.fileno(), _CLONE_NEWNET))
        checked(libc.unshare(_CLONE_NEWNS | _CLONE_NEWUTS))
        checked(libc.sethostname(self.name.encode(), len(self.name)))
        checked(libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None))
        checked(libc.mount(str(self.hosts_file).encode(), b"/etc/hosts", None, _MS_BIND, None))
        if self.own_folders:
            own, seen_as = (str(folder).encode() for folder in self.own_folders)
            checked(libc.mount(own, seen_as, None, _MS_BIND, None))

    def pids(self) -> list[int]:
        """Return the processes that run on it."""
        done = subprocess.run(["ip", "netns", "pids", self.namespace], capture_output=True, text=True, check=True)
        return [int(line) for line in done.stdout.split()]

    def kill_everything(self) -> None:
        """Kill all that runs on it at once, as if it had crashed."""
        while pids := self.pids():
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@dataclass(frozen=True)
class TwoHosts:
    """The two, and the switch between them."""

    a: Host
    b: Host
    switch: str
    """Its namespace."""

    @property
    def both(self) -> tuple[Host, Host]:
        """In the order of their names."""
        return self.a, self.b

    def cut(self) -> None:
        """Let nothing through: packets are lost, and no host notices anything of its own."""
        subprocess.run(["ip", "-n", self.switch, "link", "set", NAMES[1], "nomaster"], check=True)

    def mend(self) -> None:
        """Let everything through again."""
        subprocess.run(["ip", "-n", self.switch, "link", "set", NAMES[1], "master", "switch"], check=True)


@contextmanager
def two_hosts(folder: Path, own_folders: dict[int, tuple[Path, Path]] | None = None) -> Iterator[TwoHosts]:
    """Make two hosts; afterwards kill what is left on them, and remove them.

    Args:
        own_folders: by host, 0 or 1: a folder, and where it is seen on this host alone.
    """
    hosts_file = folder / "etc-hosts"
    lines = ["127.0.0.1 localhost", *(f"{address} {name}" for address, name in zip(ADDRESSES, NAMES, strict=True))]
    hosts_file.write_text("\n".join(lines) + "\n")
    spaces = [f"openddpm-{os.getpid()}-{name}" for name in NAMES]
    hosts = [Host(number, space, hosts_file, (own_folders or {}).get(number)) for number, space in enumerate(spaces)]

    def ip(arguments: str) -> None:
        done = subprocess.run(["ip", *arguments.split()], capture_output=True, text=True)
        assert done.returncode == 0, f"ip {arguments}: {done.stderr}"

    switch = f"openddpm-{os.getpid()}-switch"
    made: list[str] = []
    try:
        for space in (switch, *spaces):
            ip(f"netns add {space}")
            made.append(space)
        ip(f"-n {switch} link add switch type bridge")
        ip(f"-n {switch} link set switch up")
        for space, name, address in zip(spaces, NAMES, ADDRESSES, strict=True):
            ip(f"-n {switch} link add {name} type veth peer name {INTERFACE} netns {space}")
            ip(f"-n {switch} link set {name} up master switch")
            ip(f"-n {space} address add {address}/24 dev {INTERFACE}")
            ip(f"-n {space} link set lo up")
            ip(f"-n {space} link set {INTERFACE} up")
        yield TwoHosts(*hosts, switch)
    finally:
        for host in hosts:
            if host.namespace in made:
                host.kill_everything()
        for space in made:
            ip(f"netns del {space}")


@dataclass
class Program:
    """A command that runs on a host, or on the machine itself, with what it says on the terminal."""

    process: subprocess.Popen[bytes]
    log: Path

    def text(self) -> str:
        """Return what it has said so far."""
        return re.sub(r"\x1b\[[0-9;]*m", "", self.log.read_text("utf-8", errors="replace"))

    def wait(self, seconds: float = DEADLINE_SECONDS) -> int:
        """Return its exit status, or minus the signal that ended it; it may take no longer than so many seconds."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still there after {seconds:.0f} s:\n{self.text()[-5000:]}") from None

    def retries_of_tcp(self) -> int:
        """Return how often in a row the network has not taken what processes of its host send, at most."""
        lines = Path(f"/proc/{self.process.pid}/net/tcp").read_text().splitlines()[1:]
        return max((int(line.split()[6], 16) for line in lines), default=0)

    def wait_for(self, text: str) -> None:
        """Return once it has said so."""
        wait_until(lambda: text in self.text() or self.process.poll() is not None, f"'{text}'", self)
        assert text in self.text(), f"it has ended without '{text}':\n{self.text()[-5000:]}"


def run_on(host: Host | None, arguments: Sequence[str], log: Path, **environment: str) -> Program:
    """Start a command on a host, or on the machine itself; what it says goes to the end of `log`."""
    values = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", **environment}
    command = list(arguments) if host is None else host.command(arguments)
    with log.open("ab") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=os.environ | values, start_new_session=True
        )
    return Program(process, log)


def wait_until(is_so: Callable[[], object], what: str, *programs: Program) -> None:
    """Return once something is so; fail after a long time, with what the programs have said."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not is_so():
        said = "\n---\n".join(program.text()[-4000:] for program in programs)
        assert time.monotonic() < deadline, f"not within {DEADLINE_SECONDS:.0f} s: {what}\n{said}"
        time.sleep(0.02)
