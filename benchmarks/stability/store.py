"""The folder of `make stability`: runs, and a file for each measurement, written at once, so that the same command goes on."""

from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from benchmarks.stability.plan import NOISE, PROCESSES, Plan
from distillkac import distill, train
from distillkac.base import files
from distillkac.runs import checkpoints
from distillkac.runs.config import load_config
from distillkac.runs.run import student_folder


class Store:
    """OUT: `plan.json`, the runs, and OUT/PART/NAME.json. given: run folders of teachers that are there, by process."""

    def __init__(self, out: Path, plan: Plan, given: dict[str, Path]) -> None:
        self.out, self.plan, self.given = out, plan, given

    def check(self) -> None:
        """Raises ValueError if the folder has figures of another plan, or a run that was given is no teacher for it."""
        path, described = self.out / "plan.json", files.as_json(self.plan.described())
        if path.exists() and files.read_json(path) != described:
            raise ValueError(f"{self.out} holds figures of another plan; choose another --out, or delete it")
        for process, folder in self.given.items():
            _check_teacher(folder, process)
        self.out.mkdir(parents=True, exist_ok=True)
        files.write_json(path, described)

    def network(self, process: str, network: str) -> Path:
        """The folder of a teacher or a student."""
        if network == "teacher":
            return self.given.get(process, self.out / f"{process}-teacher")
        return student_folder(self.out / f"{process}-student", 4, "consistency")

    def train(self, process: str) -> None:
        """Teacher and student of a process; what is there stays, what was cut short goes on. What is printed goes to
        OUT/PROCESS.log."""
        with (
            open(self.out / f"{process}.log", "a", encoding="utf-8") as log,
            redirect_stdout(log),
            redirect_stderr(log),
        ):
            self._train(process)

    def _train(self, process: str) -> None:
        teacher, student = self.network(process, "teacher"), self.network(process, "student").parent
        seed = ("--seed", str(self.plan.seed))
        if process not in self.given:
            resume = ("--resume",) if (teacher / checkpoints.STATE).exists() else ()
            done(train.main, ["--run", str(teacher), *self.plan.teacher, *NOISE[process], *seed, *resume])
        resume = ("--resume",) if student.exists() else ()
        done(distill.main, [str(teacher), "--out", str(student), *self.plan.student, *seed, *resume])

    def read(self, part: str, name: str) -> Any:
        """What was measured under this name, None if nothing was yet."""
        path = self.out / part / f"{name}.json"
        return files.read_json(path) if path.exists() else None

    def write(self, part: str, name: str, value: Any) -> None:
        files.write_json(self.out / part / f"{name}.json", value)

    def rows(self, part: str) -> list[dict[str, Any]]:
        """All that was measured of a part."""
        found = [files.read_json(path) for path in sorted((self.out / part).glob("[!.]*.json"))]
        return [row for value in found for row in (value if isinstance(value, list) else [value])]

    def digest(self, process: str, network: str) -> str:
        """Of the weights of a network. Raises ValueError if there is none."""
        folder = self.network(process, network)
        if (found := checkpoints.described(folder)) is None:
            raise ValueError(f"{folder} has no trained network")
        return found[1]

    def checked(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The rows, all of the networks that are there now. Raises ValueError naming one that is of other weights."""
        known: dict[tuple[str, str], str] = {}
        for row in (row for row in rows if "weights" in row):  # an exact velocity has none
            key = (row["process"], row["network"])
            if key not in known:
                known[key] = self.digest(*key)
            if row["weights"] != known[key]:
                raise ValueError(
                    f"{self.out} holds figures of another {key[1]} of {key[0]} noise than {self.network(*key)}: choose "
                    "another --out, or delete it"
                )
        return rows


def done(main: Any, words: list[str]) -> None:
    """Runs a command. Raises RuntimeError if it fails: it has said why."""
    print("$", *words, flush=True)
    if code := main(words):
        raise RuntimeError(f"{' '.join(words)}: ended with exit code {code}")


def _check_teacher(folder: Path, process: str) -> None:
    config, wanted = load_config(folder), PROCESSES[process]
    if config.student is not None or config.objective != "flow-matching":
        raise ValueError(f"{folder} is no teacher: give the run folder of one, of train --preset demo")
    if config.noise.build() != wanted:
        raise ValueError(f"{folder} has the noise {config.noise.build()}, and {process} is {wanted}: give another run")
    if config.label_drop == 0:
        raise ValueError(f"{folder} was trained with label_drop 0 and cannot be guided: give another run")
