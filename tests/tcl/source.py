#!/usr/bin/env python3
"""Redis's sources, from Debian, by apt's own means but with lists and caches of our own: those of this Debian's version, for the
tests in them, and those of a later Debian's, built. Run as a program it does the latter. All of it lies in target/tcl/.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
SCRATCH = TARGET / "tcl"

VERSION = "7.0.15"
# A later Debian and its Redis, where the tests look for it.
NEWER = ("trixie", "8.0.2")
PROGRAMS = ["redis-server", "redis-cli", "redis-benchmark"]


def fetch():
    """This Debian's, with its patches."""
    source = SCRATCH / f"redis-{VERSION}"
    if not (source / "runtest").exists():
        apt("apt", codename(), ["apt-get", "source", "-qq", "redis"])
    if not (source / "runtest").exists():
        sys.exit(f"the source package is not redis {VERSION}")
    return source


def fetch_newer():
    """The later Debian's as Redis published them, and built there: without TLS, with the C library's allocator."""
    suite, version = NEWER
    source = SCRATCH / f"redis-{version}"
    if not (source / "built").exists():
        apt("apt-newer", suite, ["apt-get", "source", "-qq", "--tar-only", "redis"])
        archive = SCRATCH / f"redis_{version}.orig.tar.gz"
        if not archive.exists():
            sys.exit(f"the source package is not redis {version}")
        # Whoever else does the same meanwhile is not disturbed.
        with tempfile.TemporaryDirectory(prefix="build-", dir=SCRATCH) as tree:
            subprocess.run(["tar", "-xf", archive, "-C", tree], check=True)
            built = next(pathlib.Path(tree).iterdir())
            make = ["make", "-s", "-C", built / "src", "-j2", "MALLOC=libc", "BUILD_TLS=no", "OPTIMIZATION=-O1", *PROGRAMS]
            with (SCRATCH / "build.log").open("w") as log:
                if subprocess.run(make, stdout=log, stderr=log).returncode != 0:
                    sys.exit(f"redis {version} cannot be built: see {SCRATCH / 'build.log'}")
            (built / "built").touch()
            shutil.rmtree(source, ignore_errors=True)
            built.rename(source)
    # Where tests/common looks for it.
    link = SCRATCH / "newer"
    if not link.is_symlink() or os.readlink(link) != source.name:
        link.unlink(missing_ok=True)
        link.symlink_to(source.name)
    return source


def apt(name, suite, command):
    """Runs `command` with the lists of the sources of `suite`."""
    own = SCRATCH / name
    for folder in ["lists/partial", "archives/partial"]:
        (own / folder).mkdir(parents=True, exist_ok=True)
    (own / "debian.sources").write_text(source_lists(suite))
    (own / "apt.conf").write_text(
        f'Dir::Etc::SourceList "{own}/debian.sources";\nDir::Etc::SourceParts "-";\n'
        f'Dir::State "{own}";\nDir::State::Lists "{own}/lists";\nDir::Cache "{own}";\nAPT::Sandbox::User "";\n'
    )
    environment = os.environ | {"APT_CONFIG": str(own / "apt.conf")}
    for each in [["apt-get", "update", "-qq"], command]:
        subprocess.run(each, cwd=SCRATCH, env=environment, check=True, stdout=subprocess.DEVNULL)


def codename():
    return re.search(r"^VERSION_CODENAME=(\w+)", pathlib.Path("/etc/os-release").read_text(), re.M).group(1)


def source_lists(suite):
    """Where this machine has Debian's packages from, asked for the sources of `suite`, as one deb822 text."""
    stanzas = []
    files = [pathlib.Path("/etc/apt/sources.list"), *sorted(pathlib.Path("/etc/apt/sources.list.d").glob("*"))]
    for file in (file for file in files if file.suffix in (".list", ".sources") and file.is_file()):
        lines = [line for line in file.read_text().splitlines() if not line.startswith("#")]
        if file.suffix == ".sources":
            for stanza in "\n".join(lines).split("\n\n"):
                fields = dict(re.findall(r"^([\w-]+):\s*(.*(?:\n[ \t].*)*)", stanza, re.M))
                stanzas.append({name.title(): value for name, value in fields.items()})
        else:
            for options, uri, of, components in re.findall(r"^deb\s+(?:\[(.*?)\]\s+)?(\S+)\s+(\S+)\s+(.*)$", "\n".join(lines), re.M):
                signed = re.search(r"signed-by=(\S+)", options, re.I)
                stanza = {"Uris": uri, "Suites": of, "Components": components}
                stanzas.append(stanza | ({"Signed-By": signed.group(1)} if signed else {}))
    kept = ("Uris", "Suites", "Components", "Signed-By")
    ours = [stanza for stanza in stanzas if stanza.get("Suites", "").startswith(codename())]
    if not ours:
        sys.exit(f"no list of {codename()}'s packages in /etc/apt")
    for stanza in ours:
        stanza["Suites"] = stanza["Suites"].replace(codename(), suite)
    return "\n".join("Types: deb-src\n" + "".join(f"{name}: {stanza[name]}\n" for name in kept if name in stanza) for stanza in ours)


if __name__ == "__main__":
    print(fetch_newer())
