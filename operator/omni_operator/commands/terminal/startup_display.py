"""Shows how far the processes of `omni up` have started."""

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from omni_operator.local.local_process import LocalProcess


class StartupDisplay:
    """On a terminal, a live line for each process while the context is open; otherwise a line for each change."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tasks: dict[str, TaskID] = {}
        self._progress = Progress(
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.description}"),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._is_live = False

    def __enter__(self) -> "StartupDisplay":
        self._is_live = self._console.is_terminal
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        self._is_live = False

    def report(self, process: LocalProcess, state: str) -> None:
        """Show the new state of a process."""
        if not self._is_live:
            self._console.print(f"{process.name}: {state}", markup=False)
            return
        if process.name not in self._tasks:
            self._tasks[process.name] = self._progress.add_task(process.name, total=1, state=state)
        self._progress.update(self._tasks[process.name], state=state, completed=int(process.is_ready))
