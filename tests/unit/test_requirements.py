"""runtime_env["pip"] as it is written, and what becomes of it."""

import pytest

from shoal.requirements import Local, checked, local

NAME = "pip"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "made").mkdir()
    (tmp_path / "made-1.0-py3-none-any.whl").write_bytes(b"")
    return tmp_path


def packages(value):
    return checked(NAME, value)["packages"]


def test_requirements_and_options_stay_as_they_are(here):
    lines = ["torch==2.1", "made", "x[a,b]>=1 ; python_version > '3'", "--index-url https://h/simple"]
    lines += [
        "git+https://h/x.git@main",
        "y @ https://h/y.whl",
        "${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}/z.whl",
    ]
    assert packages(lines) == lines
    assert [local(line) for line in lines] == [None] * len(lines)


def test_local_packages_become_absolute(here):
    found = packages(["./made", "made-1.0-py3-none-any.whl", "./made[a,b]", "-e ./made"])
    wheel = str(here / "made-1.0-py3-none-any.whl")
    assert found == [str(here / "made"), wheel, f"{here / 'made'}[a,b]", str(here / "made")]
    assert local(found[2]) == Local(str(here / "made"), "[a,b]")
    assert local(found[1]) == Local(wheel, "")


def test_a_file_is_read_with_the_files_that_it_names(here):
    (here / "files").mkdir()
    (here / "files" / "all.txt").write_text(
        "# all\nnumpy>=1 \\\n  ,<9  # why\n\n-r more.txt\n-c known.txt\n--find-links ../wheels\n-f https://h/\nx#y\n"
    )
    (here / "files" / "more.txt").write_text("../made\n--no-index\n")
    (here / "files" / "known.txt").write_text("numpy<3\n")
    made = [f"{here / 'made'}", "--no-index", f"--find-links {here / 'wheels'}", "-f https://h/", "x#y"]
    assert packages("files/all.txt") == ["numpy>=1    ,<9", *made]
    assert packages(here / "files" / "all.txt") == packages(["-r files/all.txt"])
    for given in ("files/all.txt", ["-r files/all.txt"], {"packages": "files/all.txt"}):
        assert checked(NAME, given)["constraints"] == ["numpy<3"]


def test_a_dict_with_options_may_be_checked_again(here):
    given = {
        "packages": ["./made"],
        "pip_check": True,
        "pip_install_options": ["--no-index"],
        "constraints": ["x<2"],
        "pip_version": "==24.0",
    }
    found = checked(NAME, given)
    assert found == {**given, "packages": [str(here / "made")]}
    assert checked(NAME, found) == found
    assert checked(NAME, {"packages": ["x"], "pip_check": False}) == {"packages": ["x"]}


@pytest.mark.parametrize(
    ("given", "kind", "text"),
    [
        (7, TypeError, "list of texts"),
        ([7], TypeError, "list of texts"),
        ([""], ValueError, "no single requirement"),
        (["a\nb"], ValueError, "no single requirement"),
        (["./absent"], ValueError, "neither a directory nor a wheel"),
        (["absent-1.0-py3-none-any.whl"], ValueError, "neither a directory nor a wheel"),
        ("absent.txt", ValueError, "cannot be read"),
        ("self.txt", ValueError, "more than 10 files in a row"),
        ({"package": ["x"]}, ValueError, "did you mean 'packages'"),
        ({"packages": ["x"], "pip_install_options": "--no-index"}, TypeError, "list of texts"),
        ({"packages": ["x"], "pip_version": 24}, TypeError, "needs a text like"),
    ],
)
def test_what_is_wrong_is_refused(here, given, kind, text):
    (here / "self.txt").write_text("-r self.txt\n")
    with pytest.raises(kind, match=text):
        checked(NAME, given)
