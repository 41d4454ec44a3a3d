"""One task in several processes of a Ray cluster, which Ray Train starts and connects.

The processes may be on several nodes. The first one sends progress events. An error of any process
ends all of them. If a node dies, all are started again, elsewhere if need be.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from a2d.errors import UserError
from a2d.progress import Report
from a2d.runs.ray_tasks import Setup, import_ray, run_task


class RayLauncher(NamedTuple):
    """Caller of a task in several processes of a cluster (`a2d.runs.processes.Launcher`).

    Attributes:
        setup: what each process needs.
        resources: cores (`CPU`) and GPUs (`GPU`) of each process.
        storage: folder of Ray Train's own records, which all nodes see.
        attempts: number of times that the processes are started, if they die.
    """

    setup: Setup
    resources: dict[str, int]
    storage: Path
    attempts: int

    def __call__(
        self, count: int, task: Callable[..., None], *arguments: Any, report: Report
    ) -> None:
        """Call a task in several processes of one PyTorch process group.

        Args:
            count: number of processes.
            task: function of a module, called as `task(*arguments, report)` in every process. It
                continues from what an earlier call of it has stored.
            arguments: its arguments, which can be pickled.
            report: unused, because the first process reports to the run by itself.

        Raises:
            UserError: a process raises it. Other errors are raised after the last attempt, because
                they may come from the death of another process.
        """
        import_ray()
        from ray.train import RunConfig, ScalingConfig, TrainingFailedError
        from ray.train.torch import TorchTrainer

        trainer = TorchTrainer(
            _run_share,
            train_loop_config={"setup": self.setup, "task": task, "arguments": arguments},
            scaling_config=ScalingConfig(
                num_workers=count,
                use_gpu="GPU" in self.resources,
                resources_per_worker=self.resources,
            ),
            run_config=RunConfig(storage_path=str(self.storage)),
        )
        for attempt in range(1, self.attempts + 1):
            try:
                trainer.fit()
                return
            except TrainingFailedError as error:
                failures = getattr(error, "worker_failures", {}).values()
                for failure in failures:
                    if isinstance(failure, UserError):
                        raise failure from error
                if attempt == self.attempts:
                    raise next(iter(failures), error) from error


def _run_share(config: dict[str, Any]) -> None:
    """Call the task in one of the processes."""
    run_task(config["setup"], config["task"], config["arguments"])
