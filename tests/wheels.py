"""Packages for pip, made by hand: nothing here needs a network or a build backend that is installed."""

import base64
import hashlib
import zipfile
from pathlib import Path

_BACKEND = """\
import os, pathlib, sys, time
sys.path.insert(0, os.path.dirname(__file__))
from shoal_t_wheels import wheel

def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    {before}
    return wheel(pathlib.Path(wheel_directory), {name!r}, {version!r}, {code!r}).name
"""


def wheel(folder, name, version, code="", requires=(), scripts=None, module="", files=None):
    """A wheel with ``files``, or one ``module``, by default of its name; returns its path.

    ``scripts``: {command: "module:function"}. ``files``: {path: text}.
    """
    information = f"{name}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {each}\n" for each in requires)
    files = {
        **(files or {f"{module or name}.py": f"VERSION = {version!r}\n{code}"}),
        f"{information}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        f"{information}/WHEEL": "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    if scripts:
        lines = "".join(f"{command} = {target}\n" for command, target in scripts.items())
        files[f"{information}/entry_points.txt"] = f"[console_scripts]\n{lines}"
    record = ""
    for path, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content.encode()).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(content.encode())}\n"
    files[f"{information}/RECORD"] = f"{record}{information}/RECORD,,\n"
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(made, "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    return made


def source(folder, name, version, code="", before="pass"):
    """A directory with a package that builds itself; ``before`` runs first, in the process that pip builds it in."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pyproject.toml").write_text(
        "[build-system]\nrequires = []\nbuild-backend = 'shoal_t_backend'\nbackend-path = ['.']\n"
    )
    (folder / "shoal_t_wheels.py").write_text(Path(__file__).read_text())
    (folder / "shoal_t_backend.py").write_text(
        _BACKEND.format(before=before, name=name, version=version, code=code)
    )
    return folder
