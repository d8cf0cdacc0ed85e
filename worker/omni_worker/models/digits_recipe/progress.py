"""What a training shows of itself."""

import time

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from omni_worker.models.digits_recipe import teaching


def shown() -> Progress:
    """Lines that `reporter` adds to."""
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


def reporter(progress: Progress, name: str, total: int) -> teaching.Report:
    """A line of progress with the loss, smoothed, and the time left; a plain line now and then without a terminal."""
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
