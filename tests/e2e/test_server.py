"""A tracking server for several people, on PostgreSQL: what ``docs/server.md`` says, and that nothing is lost there."""

import base64
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from lrtape.cli import main
from lrtape.errors import TrackingError
from lrtape.tape import Point, Status
from lrtape.tracking.mlflow_run import MlflowRun
from lrtape.tracking.mlflow_sink import MlflowSink
from lrtape.tracking.sink import RefusedError

pytest.importorskip("psycopg", reason='the driver of PostgreSQL is not installed: pip install "lrtape[server]"')
pytest.importorskip("flask_wtf", reason='what MLflow needs for logins is not installed: pip install "lrtape[server]"')

from rig.outages import CLOSED_WITHIN_S, IMPATIENT
from rig.place import TRAIN_PY, Place
from rig.postgres import Postgres, find_postgres
from rig.proxy import OLD, Proxy
from rig.team_server import ADA, ADMIN, BOB, PAGE, ROLE, PostgresStore, TeamServer
from rig.training import LoopTraining
from rig.truth import Truth
from rig.verdict import Counts, Verdict, count, judge

N_STEPS = 200
N_AT_ONCE = 8
EXIT_REFUSED = 2
EXPERIMENT = "loops"
WRONG = "swordfish-of-nobody"
PASSWORDS = (ADA, ADMIN, BOB, ROLE, WRONG)
KNOWS_THEM = {".pgpass"}
"""Files in which the page itself puts a password."""
STEPLR = "experiment=steplr tracking.keep_spool=true"

Said = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with Place(tmp_path_factory.mktemp("team") / "place") as place:
        yield place


@pytest.fixture(scope="module")
def commands(place: Place) -> Iterator[set[str]]:
    """The command lines of all processes that run in the place, as anybody on the machine can see them."""
    seen: set[str] = set()
    is_over = threading.Event()

    def look() -> None:
        while not is_over.wait(0.25):
            for pid in place.processes_in(place.folder):
                try:
                    seen.add(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode())
                except OSError:
                    continue

    watcher = threading.Thread(target=look)
    watcher.start()
    yield seen
    is_over.set()
    watcher.join()


@pytest.fixture(scope="module")
def server(place: Place, commands: set[str]) -> Iterator[TeamServer]:
    """The server of the page; who trains is Ada, and has an experiment of her own for her loops."""
    programs = find_postgres()
    if programs is None:
        pytest.skip("PostgreSQL is not installed here: apt install postgresql")
    if not TRAIN_PY.exists():
        pytest.skip("the wheel is tested here, and neither train.py nor the page is part of it")
    postgres = Postgres(programs)
    try:
        server = TeamServer(place, postgres)
        MlflowClient(server.as_user("ada", ADA)).create_experiment(EXPERIMENT)
        place.variables["MLFLOW_EXPERIMENT_NAME"] = EXPERIMENT
        yield server
        place.close()
    finally:
        postgres.close()


@pytest.fixture
def login(server: TeamServer, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes this process a user of the server."""

    def log_in(name: str, password: str) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", name)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")

    return log_in


@pytest.fixture
def lrtape(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Runs the command `lrtape` in this process; returns its exit code, and all that it said."""

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["lrtape", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, said.out + said.err

    return run


@pytest.fixture
def run(server: TeamServer, login: Callable[..., None]) -> MlflowRun:
    """A run of Ada's; who uses it may be somebody else."""
    login("ada", ADA)
    run = MlflowRun.create(server.uri, EXPERIMENT)
    MlflowSink(server.uri, run.run_id).send([Point("lr/all", step, 1000, 0.1) for step in range(3)])
    return run


@pytest.fixture(scope="module")
def store(server: TeamServer) -> PostgresStore:
    assert isinstance(server.store, PostgresStore)
    return server.store


def folder_of(server: TeamServer, name: str) -> Path:
    """A folder to train in, with the ``train.py`` of a clone."""
    folder = server.folder.parent / name
    folder.mkdir()
    (folder / TRAIN_PY.name).symlink_to(TRAIN_PY)
    return folder


@pytest.fixture(scope="module")
def trained(server: TeamServer) -> dict[str, Said]:
    """Trainings and sweeps with a password in the environment, as the page has it, in the URI of a server, and in that
    of the database itself, and with a wrong one; what they said. Their spools are kept.
    """
    (as_on_the_page,) = PAGE.commands("Train")
    read_uri = "read -rs MLFLOW_TRACKING_URI; export MLFLOW_TRACKING_URI; unset MLFLOW_TRACKING_USERNAME\n"
    by_uri = f"python train.py tracking=server {STEPLR} tracking.experiment=by_uri\n"
    address = f"export MLFLOW_TRACKING_URI={server.uri}; read -rs MLFLOW_TRACKING_PASSWORD\n"
    jobs = {
        "page": (as_on_the_page.replace("tracking=server", "tracking=server tracking.keep_spool=true"), ADA),
        "uri": (
            f"{read_uri}{by_uri}{by_uri.replace('train.py', 'train.py -m scheduler.gamma=0.2,0.3')}",
            server.as_user("ada", ADA),
        ),
        "database": (
            f"{read_uri}python train.py {STEPLR} tracking.experiment=database",
            f"postgresql://mlflow:{ROLE}@127.0.0.1:{server.postgres.port}/mlflow",
        ),
        "refused": (f"{address}python train.py tracking=server {STEPLR} tracking.when_unreachable=spool", WRONG),
    }

    def run(name: str) -> Said:
        script, answer = jobs[name]
        done = server.type(script, f"{answer}\n", folder_of(server, name))
        (server.folder.parent / f"{name}.said").write_text(done.stdout + done.stderr)
        return done

    with ThreadPoolExecutor() as pool:
        return dict(zip(jobs, pool.map(run, jobs), strict=True))


def test_what_the_page_says_trains_and_sweeps(
    trained: dict[str, Said], store: PostgresStore, login: Callable[..., None], lrtape: Callable[..., tuple[int, str]]
) -> None:
    """Every row of the training is there, once, and what torch's scheduler used; tape and config came back through the
    server. The sweep has a parent and two children, each with its ten steps, and a report.
    """
    assert trained["page"].returncode == 0, trained["page"].stderr
    login("ada", ADA)
    tags = {run_id: store.tags(run_id) for run_id in store.run_ids_of("lrtape")}
    (alone,) = [run_id for run_id, its in tags.items() if its.get("lrtape.steps") == "460"]
    (parent,) = [r for r, its in tags.items() if "scheduler.gamma=0.1,0.5" in its.get("lrtape.sweep.command", "")]
    children = [run_id for run_id, its in tags.items() if its.get("mlflow.parentRunId") == parent]

    assert count(steplr(), store, alone) == Counts(460, 460)
    assert tags[alone]["lrtape.complete"] == "true"
    assert "rows of 4 keys are stored as they were recorded" in lrtape("verify", alone)[1]
    assert [store.status(run_id) for run_id in (alone, parent, *children)] == ["FINISHED"] * 4
    for child in children:
        assert sorted(store.values(child)) == [("lr/all", step) for step in range(10)]
        assert lrtape("verify", child)[0] == 0
    client = MlflowClient()
    assert {item.path for item in client.list_artifacts(alone)} >= {"checkpoints", "config", "lr"}
    assert {item.path for item in client.list_artifacts(parent, "sweep")} >= {"sweep/best.yaml", "sweep/trials.json"}
    assert client.get_run(alone).info.artifact_uri.startswith("mlflow-artifacts:/")
    assert "lr/all" in lrtape("why", alone, "--step", 138)[1]


def steplr() -> Truth:
    """What torch alone uses in the page's training: 20 epochs of 23 steps, a tenth after each six epochs."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 6)
    used = []
    for _ in range(20):
        used += [float(optimizer.param_groups[0]["lr"])] * 23
        optimizer.step()
        scheduler.step()
    return Truth({"lr/all": used})


def test_where_a_password_stands_in_the_uri_all_is_the_same(trained: dict[str, Said], store: PostgresStore) -> None:
    """A training, a sweep, and a training into the database itself, each with its rows; what is printed leads to the
    server without the password, and without anything in its place.
    """
    by_uri, by_database = trained["uri"].stdout, trained["database"].stdout
    (direct,) = store.run_ids_of("database")
    assert len(store.values(direct)) == 10
    assert 'mlflow ui --backend-store-uri "$MLFLOW_TRACKING_URI"' in by_database
    alone = [run_id for run_id in store.run_ids_of("by_uri") if len(store.values(run_id)) == 10]
    assert len(alone) == 3
    assert "http://127.0.0.1" in by_uri
    assert "@127.0.0.1" not in by_uri


def prove(*verdicts: Verdict) -> None:
    """Nothing that was promised was broken."""
    complaints = [complaint for verdict in verdicts for complaint in verdict.complaints]
    assert not complaints, "\n".join(complaints)


@pytest.fixture(scope="module")
def at_once(server: TeamServer, place: Place) -> list[LoopTraining]:
    """Eight trainings by `attach`, in loops of their own, begun at the same time; each waits in its midst, when it has
    stored something. The last one waits only some seconds for the rest to be stored.
    """
    trainings = [
        LoopTraining(place, f"loop-{index}", server.store, N_STEPS, *options, uri=server.uri, pauses=[N_STEPS // 2])
        for index, options in enumerate([()] * (N_AT_ONCE - 1) + [IMPATIENT])
    ]
    for training in trainings:
        training.wait_for_pause()
    return trainings


def test_a_death_and_an_upgrade_cost_nothing(server: TeamServer, at_once: list[LoopTraining]) -> None:
    """One of eight trainings at once is killed, and so is the server, which is started again after the upgrade of the
    page, when the others have made their last step. Nothing is lost, doubled or wrong, nobody warns, all that live
    compute the same, and the run of the dead one is KILLED.
    """
    dead, *living = at_once[:-1]
    server.kill()
    dead.kill()
    for training in living:
        training.go_on()
    _, upgrade = PAGE.commands("Backup and upgrade")
    upgraded = server.type(upgrade)
    assert upgraded.returncode == 0, upgraded.stderr
    for training in living:
        training.wait_for_note("stopping")
    server.start()
    for training in living:
        training.wait()
    verdicts = [judge("server away", training, result=living[0].result) for training in living]
    dead.wait_for_shippers()
    prove(*verdicts, judge("trainer killed", dead, result="", statuses=["KILLED"], exit_code=-signal.SIGKILL))


def test_a_password_that_is_changed_while_training(server: TeamServer, at_once: list[LoopTraining]) -> None:
    """The training goes on; its end says that the password is refused, and which command sends the rest. With the new
    password that command brings everything.
    """

    def change(password: str) -> None:
        server.as_admin("PATCH", "2.0/mlflow/users/update-password", username="ada", password=password)

    training = at_once[-1]
    change(WRONG)
    training.go_on()
    training.wait(CLOSED_WITHIN_S)
    change(ADA)
    prove(judge("password changed", training, n_warnings=1, broken=training.follow_advice()))
    (warning,) = training.warnings
    assert "must be given a user and a password that it knows, but refuses those in the environment (401)" in warning
    assert "The store refuses them: mend that, then run: lrtape recover" in warning


def test_a_wrong_password_is_said_by_every_command(
    server: TeamServer, run: MlflowRun, login: Callable[..., None], lrtape: Callable[..., tuple[int, str]]
) -> None:
    """401: what is refused, and where to put the right one; exit code 2."""
    login("ada", WRONG)
    run_id = run.run_id
    for arguments in (("verify", run_id), ("show", run_id), ("why", run_id, "--step", 0), ("report", run_id)):
        code, said = lrtape(*arguments)
        assert (code, said.count("\n")) == (EXIT_REFUSED, 1), said
        assert f"lrtape: the tracking server {server.uri} must be given a user and a password that it knows" in said
        assert "refuses those in the environment (401). Put them into the environment: MLFLOW_TRACKING_USERNAME" in said


def test_what_mlflow_prints_at_the_end_of_a_run_has_no_password(
    server: TeamServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its "View run ... at", in a loop of one's own, is a link that works for whoever reads it."""
    monkeypatch.delenv("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", raising=False)  # our commands print their own
    run = MlflowRun.create(server.as_user("ada", ADA), EXPERIMENT)
    run.finish(Status.FINISHED)
    said = capsys.readouterr().out
    assert f"at: {server.uri}/#/experiments/{run.experiment_id}/runs/{run.run_id}\n" in said
    assert ADA not in said


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, "but is given none (401)"),
        ({"MLFLOW_TRACKING_USERNAME": "ada"}, "but is given a user without a password (401)"),
        ({"MLFLOW_TRACKING_URI": ""}, "but refuses those in its URI (401)"),
    ],
)
def test_what_was_given_is_said(
    server: TeamServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variables: dict[str, str], said: str
) -> None:
    """Nothing, half of it, or a password in the URI; and never the password."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RefusedError) as refused:
        MlflowRun.create(server.as_user("ada", WRONG) if "MLFLOW_TRACKING_URI" in variables else server.uri)
    assert said in str(refused.value)
    assert WRONG not in str(refused.value)


def test_a_permission_that_is_missing_is_said(
    server: TeamServer, run: MlflowRun, login: Callable[..., None], lrtape: Callable[..., tuple[int, str]]
) -> None:
    """403: Bob may look at Ada's runs, and not write into her experiment: what is forbidden, and what to ask for."""
    login("bob", BOB)
    run_id = run.run_id
    assert lrtape("show", run_id)[0] == 0
    with pytest.raises(RefusedError, match=r"must let this user write in .*, but forbids it \(runs/create\)"):
        MlflowRun.create(server.uri, EXPERIMENT)


def test_a_training_is_refused_before_it_begins_whatever_is_wrong(trained: dict[str, Said], server: TeamServer) -> None:
    """`when_unreachable=spool` hides no wrong password: exit code 2, one message, no spool."""
    refused = trained["refused"]
    assert (refused.returncode, "(401)" in refused.stderr) == (EXIT_REFUSED, True), refused.stderr
    assert not list((server.folder.parent / "refused" / ".lrtape").glob("*/spool"))


def test_a_server_that_is_none_or_too_old_is_said(
    server: TeamServer, login: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page to log in, an MLflow that is too old, a web server that knows nothing of MLflow: what was found, and what
    to do, within seconds.
    """
    login("ada", ADA)
    with Proxy(server) as proxy:
        for answers, said in (("HTML", r"must be an MLflow server.*\(no JSON\)"), (OLD, "3.0 or later, but is 2.22.0")):
            proxy.answer(answers)
            with pytest.raises(TrackingError, match=said):
                MlflowRun.create(proxy.uri)
    web = ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler)
    thread = threading.Thread(target=web.serve_forever, args=(0.05,))
    thread.start()
    try:
        with pytest.raises(TrackingError, match="must be an MLflow server"):
            MlflowRun.create(f"http://127.0.0.1:{web.server_port}")
    finally:
        web.shutdown()
        thread.join()
        web.server_close()


def test_a_database_that_refuses_is_said_at_once(server: TeamServer) -> None:
    """Not after the minutes for which MLflow would try: a wrong password, and nobody there."""
    begin = time.monotonic()
    with pytest.raises(RefusedError, match=r"postgresql://\*\*\*@127.0.0.1:\d+/mlflow refuses: .*password"):
        MlflowRun.create(f"postgresql://mlflow:{WRONG}@127.0.0.1:{server.postgres.port}/mlflow")
    with pytest.raises(TrackingError, match=r"postgresql://\*\*\*@127.0.0.1:9/mlflow"):
        MlflowRun.create(f"postgresql://mlflow:{WRONG}@127.0.0.1:9/mlflow")
    assert time.monotonic() - begin < 20


def test_a_backup_and_no_password_anywhere(
    server: TeamServer, place: Place, trained: dict[str, Said], commands: set[str]
) -> None:
    """The backup of the page works. No password that was used in this module stands in a file
    (spools, logs, configs, checkpoints, artifacts, what was printed), in the dumps of both databases, or on a command
    line.
    """
    backup, _ = PAGE.commands("Backup and upgrade")
    done = server.type(backup)
    assert done.returncode == 0, done.stderr

    secrets = [password.encode() for password in PASSWORDS]
    secrets += [base64.b64encode(b"ada:" + ADA.encode()), base64.b64encode(ADA.encode())]
    files = [path for path in place.folder.rglob("*") if path.is_file() and not path.is_symlink()]
    names = {path.name for path in files}
    assert {"mlflow.sql", "spool", "last.pt", "resolved.yaml", "overrides.yaml", "shipper.log"} <= names, names
    found = [
        f"{path}: {secret.decode()}"
        for path in files
        if path.name not in KNOWS_THEM
        for secret in secrets
        if secret in path.read_bytes()
    ]
    found += [command for command in commands if any(secret.decode() in command for secret in secrets)]
    assert not found, "\n".join(found)
    assert b"COPY public.metrics" in (server.folder / "mlflow.sql").read_bytes()
    assert any("lrtape.companion" in command for command in commands)
