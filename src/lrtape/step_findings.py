"""What a recorder finds while it records: what is to be said of single steps."""

from lrtape.tape import Finding

AMBIGUOUS_LR = "ambiguous-lr"
CUDA_GRAPH = "cuda-graph"
STEPS_SKIPPED = "steps-skipped"


def ambiguous_lr(key: str, lr: float, change: str, step: int) -> Finding:
    """Something set an lr between the two hooks of a recorder, perhaps before the update.

    Args:
        key: of the param group.
        lr: that is recorded.
        change: as ``from 0.1 to 0.01``.
        step: its index, from 0.
    """
    return Finding(
        AMBIGUOUS_LR,
        f"{key} changed {change} while step {step} ran, and nothing tells which of the two the step used; {lr!r} is "
        "recorded. Set the lr before optimizer.step(), and step the scheduler after it has returned.",
        key,
        step,
    )


def captured_step(class_name: str, key: str, step: int) -> Finding:
    """The step of an optimizer of this class was captured into a CUDA graph; `step` is the index of the next one."""
    return Finding(
        CUDA_GRAPH,
        f"the step of {class_name} was captured into a CUDA graph, whose replays run no Python, and so are not "
        "recorded by themselves. Call session.record() after each graph.replay(), before the scheduler is stepped.",
        key,
        step,
    )


def steps_skipped(n_skipped: int, n_steps: int, key: str) -> Finding:
    """A GradScaler has skipped so many steps, beside those that were made."""
    return Finding(
        STEPS_SKIPPED,
        f"{n_skipped} of {n_steps + n_skipped} steps were skipped by a GradScaler, as their gradients had overflowed. "
        "They used no lr and have no row; a scheduler that was stepped all the same has come further than the "
        "optimizer.",
        key,
        n_steps,
        "note",
    )
