"""Progress bars of a training."""

import time

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from omni_worker.models.digits_recipe import teaching


def progress_display() -> Progress:
    """The display to which `reporter` adds a bar."""
    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, refresh_per_second=2)


def reporter(progress: Progress, name: str, total: int) -> teaching.LossReporter:
    """Add a bar with the smoothed loss and the time left, or print lines without a terminal; returns its callback."""
    task = progress.add_task(name, total=total, loss=0.0)
    started = time.monotonic()
    smooth = 0.0

    def report(step: int, loss: float) -> None:
        nonlocal smooth
        weight = max(0.02, 1 / step)
        smooth += weight * (loss - smooth)
        progress.update(task, completed=step, loss=smooth)
        if not progress.console.is_terminal and step % 100 == 0:
            left = (time.monotonic() - started) / step * (total - step)
            print(f"{name}: step {step} of {total}, loss {smooth:.4f}, {left:.0f} s left", flush=True)

    return report
