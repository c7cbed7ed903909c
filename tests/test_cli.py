import subprocess
import sys

import pytest

from lrtape.cli import main


def lrtape(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of the command."""
    monkeypatch.setattr(sys, "argv", ["lrtape", *arguments])
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else -1
    return 0


@pytest.mark.parametrize("argument", ["-h", "--help"])
def test_help_is_there(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], argument: str) -> None:
    """On stdout, with every command and no error."""
    assert lrtape(monkeypatch, argument) == 0
    out, err = capsys.readouterr()

    assert out.startswith("usage: lrtape ")
    assert [command for command in ("train", "recover") if f"\n    {command} " not in out] == []
    assert err == ""


@pytest.mark.parametrize(("arguments", "said"), [(["trian"], "'trian'"), ([], "COMMAND")])
def test_an_unknown_command_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    """And so is none, with what there is, and the exit code of a wrong input."""
    assert lrtape(monkeypatch, *arguments) == 2
    out, err = capsys.readouterr()

    assert err.startswith("usage: lrtape ")
    assert said in err.splitlines()[-1]
    assert out == ""


def test_the_command_is_light() -> None:
    """Asking what there is loads neither torch, mlflow nor hydra."""
    script = (
        "import sys; sys.argv = ['lrtape', '--help']\n"
        "from lrtape.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'mlflow', 'hydra'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert ended.stdout.splitlines()[-1] == "[]"
