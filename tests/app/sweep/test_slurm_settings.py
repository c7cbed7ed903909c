import pytest

from lrtape.app.sweep.slurm_settings import SlurmSettings


@pytest.mark.parametrize(
    ("given", "n_trials", "expected"),
    [(None, 12, 1), (None, 33, 2), (None, 64, 2), (None, 65, 3), (4, 12, 4), (4, 3, 3)],
)
def test_a_task_has_no_more_trials_than_it_must(given: int | None, n_trials: int, expected: int) -> None:
    """By default there are as many tasks as may run at the same time; the minutes are those of all its trials."""
    settings = SlurmSettings(trials_per_task=given, timeout_min=10)

    assert settings.n_per_task(n_trials) == expected
    assert settings.options(n_trials)["time"] == 10 * expected


def test_nothing_is_begun_again_by_slurm() -> None:
    """Jobs are not requeued, and are asked to end as by SIGTERM; what a person adds goes before."""
    options = SlurmSettings(additional_parameters={"constraint": "a100"}).options(1)

    assert options["no-requeue"] is True
    assert options["signal"] == "TERM@60"
    assert options["constraint"] == "a100"
    assert "partition" not in options
