"""Images built and run without an engine and without an image registry.

buildah builds in a chroot, and Debian's Python, set up by debootstrap, stands in for
the base under the official image's name. What was downloaded is kept in the user's
cache for the next time. All of it needs root.
"""

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from worker.settings import cache_dir

ROOT = Path(__file__).parents[1]
BASE = "docker.io/library/python:3.11-slim-bookworm"
SUITE = "bookworm"
LEFT_OUT = ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale")
PIP_SETTINGS = ("INDEX_URL", "EXTRA_INDEX_URL", "CERT", "TRUSTED_HOST")
NOTHING_OF_ROOT = (
    *("setpriv", "--reuid", "10001", "--regid", "10001", "--clear-groups"),
    *("--bounding-set=-all", "--no-new-privs"),
)


class Builder:
    """buildah with a storage of its own, which `remove` takes away."""

    def __init__(self):
        self._folder = Path(tempfile.mkdtemp(prefix="sentinode-images-"))
        self._cache = cache_dir() / "images"
        self._cache.mkdir(parents=True, exist_ok=True)

    def __call__(self, *arguments: object, timeout: float = 300) -> str:
        command = [
            *("buildah", "--storage-driver", "vfs"),
            *("--root", self._folder / "storage", "--runroot", self._folder / "run"),
            *arguments,
        ]
        done = subprocess.run(
            list(map(str, command)),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
        return done.stdout.strip()

    def remove(self) -> None:
        self("umount", "--all")
        shutil.rmtree(self._folder)

    def make_base(self) -> None:
        """Commit Debian's Python under the name of the official image."""
        tarball = self._cache / f"{SUITE}.tar"
        if not tarball.exists():
            debootstrap(tarball, self._folder)
        container = self("from", "scratch")
        self("add", "--quiet", container, tarball, "/")
        self("commit", "--quiet", "--format", "docker", container, BASE)
        self("rm", container)

    def wheels(self, *locks: Path) -> Path:
        """Return a folder with what the locks name, as the base's own pip finds it."""
        digest = hashlib.sha256(b"".join(lock.read_bytes() for lock in locks))
        folder = self._cache / f"wheels-{digest.hexdigest()[:16]}"
        if folder.exists():
            return folder
        draft = Path(tempfile.mkdtemp(dir=self._cache))
        container = self("from", "--pull-never", BASE)
        read = [option for lock in locks for option in ("-r", f"/locks/{lock.name}")]
        self(
            *("run", "--isolation", "chroot", "--volume", f"{draft}:/wheels"),
            *("--volume", f"{locks[0].parent}:/locks:ro"),
            *("--volume", "/etc/ssl/certs:/etc/ssl/certs:ro", *pip_settings()),
            *(container, "--", "sh", "-c"),
            "python3 -m venv /v && exec /v/bin/pip download -q --require-hashes "
            f"--only-binary :all: --no-deps -d /wheels {' '.join(read)}",
        )
        self("rm", container)
        for old in self._cache.glob("wheels-*"):
            shutil.rmtree(old)
        draft.rename(folder)
        return folder

    def build(self, target: str, wheels: Path) -> str:
        """Build a target of the Dockerfile from wheels alone; return its name."""
        name = f"localhost/sentinode-{target}:test"
        self(
            *("build", "--isolation", "chroot", "--format", "docker", "--pull-never"),
            *("--target", target, "--file", ROOT / "docker" / "Dockerfile"),
            *("--volume", f"{wheels}:/wheels:ro"),
            *("--build-arg", "PIP_NO_INDEX=1", "--build-arg", "PIP_FIND_LINKS=/wheels"),
            *("--tag", name, ROOT),
        )
        return name

    def configuration(self, image: str) -> dict:
        return json.loads(self("inspect", "--type", "image", image))["Docker"]["config"]

    def unpack(self, image: str) -> Path:
        """Return the root folder of a container of the image."""
        return Path(self("mount", self("from", "--pull-never", image)))


def debootstrap(tarball: Path, scratch: Path) -> None:
    """Set up Debian with Python in a tar file, from where this host has its own."""
    targets = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    found = [line.split() for line in targets]
    mirrors = [uri for uri, *rest in found if rest == [SUITE, "main"]]
    folder = scratch / SUITE
    done = subprocess.run(
        [
            *("debootstrap", "--variant=minbase"),
            "--include=python3,python3-venv,ca-certificates",
            *(SUITE, str(folder), *mirrors[:1]),
        ],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    draft = tarball.with_suffix(".part")
    with tarfile.open(draft, "w") as archive:
        archive.add(folder, ".", filter=_needed)
    draft.rename(tarball)
    shutil.rmtree(folder)


def _needed(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    name = member.name.removeprefix("./")
    return None if any(name.startswith(f"{one}/") for one in LEFT_OUT) else member


def pip_settings() -> list[str]:
    """Return where this host's pip finds packages, as options of `buildah run`."""
    given = {name: os.environ.get(f"PIP_{name}", "") for name in PIP_SETTINGS}
    return [
        option
        for name, value in given.items()
        if value and "file:" not in value
        for option in ("--env", f"PIP_{name}={value}")
    ]


def run_read_only(
    root: Path, data: Path, configuration: dict, extra: dict, command: Sequence[str]
) -> subprocess.Popen:
    """Start a command of an image as a careful host does.

    Its root is read-only, /tmp is in memory, the data folder is the only thing that it
    may write; it is user 10001 with no capability and no way to get one.
    """
    mounts = (
        f"mount --bind {root} {root} && mount -o remount,ro,bind {root} "
        f"&& mount -t tmpfs none {root / 'tmp'} && mount --rbind /dev {root / 'dev'} "
        f"&& mount --bind {data} {root}/var/lib/sentinode"
    )
    settings = [*configuration["Env"], *(f"{k}={v}" for k, v in extra.items())]
    inside = f'{mounts} && exec chroot {root} "$@"'
    return subprocess.Popen(
        [
            *("unshare", "--mount"),
            *("sh", "-ec", inside, "sh", "env", "-i", *settings, *NOTHING_OF_ROOT),
            *command,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
