"""Try random overrides, right and wrong: each must run, or end with one clear line.

    python scripts/fuzz_overrides.py --cases 500 --seed 0

A tiny network with random weights and noise for images. Every case is composed, and put together as `run.py` would;
one in `--run-every` of those that can be is also run. The exit code is 1 where a case ended in anything but a result or
a `SaintpruneError` of one line, or took longer than `--seconds`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import random
import resource
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from saintprune import wiring
from saintprune.config import compose_run, config_dir
from saintprune.errors import SaintpruneError

TINY = [
    "model.net.architecture=vit_tiny_patch16_224", "model.net.weights=hub", "model.net.img_size=64",
    "model.pretrained=false", "model.head=none", "dataset=synthetic", "dataset.size=4", "hardware=cpu",
    "hardware.batch_size=2", "hardware.num_workers=0", "hardware.threads=1", "benchmark.pairs=5",
    "benchmark.max_seconds=0.1", "benchmark.batches=1",
]  # fmt: skip
VALUES = [
    "-1", "0", "1", "2", "3", "0.5", "1.5", "-0.5", "100000", "1e-9", "1e30", ".nan", ".inf", "null", "true", "false",
    "abc", "''", "'a b'", "a/b", "[]", "[1]", "[1,2]", "[0.25,0.5]", "[-1]", "[99]", "[a]", "{}", "{a:1}", "'7:17'",
    "'1:3'", "all", "first_half", "aligner", "flops:0.5", "speedup:0.1", "flops:", "tokens:x", "/dev/null", "'${seed}'",
    "'${nothing}'", "x" * 300,
]  # fmt: skip
TASKS = ("evaluate", "benchmark")  # the others write into conf/
MEMORY = 24 * 2**30  # bytes of address space, so that a case that asks for too much is refused, not killed


@dataclass(frozen=True)
class Outcome:
    """How a case ended: `kind` is ran, built, refused, unclear, crashed or hung."""

    kind: str
    message: str = ""

    @property
    def bad(self) -> bool:
        """Whether a user would be left alone with it."""
        return self.kind in ("unclear", "crashed", "hung")


def cases(number: int, seed: int) -> list[list[str]]:
    """Return lists of one or two overrides, the same for the same seed."""
    draw = random.Random(seed)
    keys = sorted(_leaves(compose_run([*TINY, "pruning=saint"])[0]))
    return [[_override(draw, keys) for _ in range(draw.choice((1, 1, 2)))] for _ in range(number)]


def try_case(overrides: Sequence[str], run: bool, seconds: int = 60) -> Outcome:
    """Compose and put together a run, and do it where `run` says so.

    Args:
        overrides: of the tiny run.
        run: do it, where its task writes nothing but a record.
        seconds: after which the case counts as hung.
    """
    signal.signal(signal.SIGALRM, _ring)
    signal.alarm(seconds)
    try:
        with _silence(), tempfile.TemporaryDirectory() as folder:
            cfg, names = compose_run([*TINY, "pruning=saint", *overrides])
            wiring.identity_of(cfg)
            if not run or cfg.task.value not in TASKS:
                wiring.build(cfg, names)
                return Outcome("built")
            wiring.run(cfg, Path(folder), names)
            return Outcome("ran")
    except SaintpruneError as error:
        message = str(error)
        clear = message.strip() and "\n" not in message.strip() and len(message) < 1500
        return Outcome("refused" if clear else "unclear", message)
    except TimeoutError:
        return Outcome("hung", f"took longer than {seconds} s")
    except Exception as error:
        return Outcome("crashed", f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
    finally:
        signal.alarm(0)


def main() -> int:
    """Try all cases and say how they ended; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # pyright: ignore[reportOptionalMemberAccess]
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run-every", type=int, default=10, help="run one case in so many; the others are built")
    parser.add_argument("--seconds", type=int, default=60, help="longest time of a case")
    parser.add_argument("--show", action="store_true", help="print every case and how it ended")
    arguments = parser.parse_args()
    limit_memory()
    found: Counter[str] = Counter()
    for number, overrides in enumerate(cases(arguments.cases, arguments.seed)):
        outcome = try_case(overrides, number % arguments.run_every == 0, arguments.seconds)
        found[outcome.kind] += 1
        if outcome.bad or arguments.show:
            print(f"{outcome.kind}: {' '.join(overrides)[:200]}: {outcome.message}", flush=True)
    print(f"{arguments.cases} cases, seed {arguments.seed}: {', '.join(f'{n} {kind}' for kind, n in found.items())}")
    return int(any(Outcome(kind).bad for kind in found))


def limit_memory() -> None:
    """Let this process have no more than `MEMORY`."""
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard), hard))


def _override(draw: random.Random, keys: Sequence[str]) -> str:
    """Return one override: another file, another value, a mistyped name or key, one key more or one less."""
    kind = draw.choice(("file", "file", "value", "value", "value", "value", "name", "key", "more", "less"))
    key, value = draw.choice(keys), draw.choice(VALUES)
    if kind in ("file", "name"):
        group = draw.choice(("pruning", "pruning", "dataset", "hardware", "model", "logger"))
        files = sorted((config_dir() / group).glob("**/*.yaml"))
        name = draw.choice(files).relative_to(config_dir() / group).with_suffix("").as_posix()
        return f"{group}={_mistyped(draw, name) if kind == 'name' else name}"
    if kind == "key":
        return f"{_mistyped(draw, key)}={value}"
    return {"value": f"{key}={value}", "more": f"+{key}x={value}", "less": f"~{key}"}[kind]


def _mistyped(draw: random.Random, word: str) -> str:
    place = draw.randrange(len(word))
    return draw.choice(
        (
            word[:place] + word[place + 1 :],
            word[:place] + draw.choice("aeioxyz._") + word[place:],
            word[: place + 1] + word[place:],
        )
    )


def _leaves(node: DictConfig, path: str = "") -> Iterator[str]:
    """Yield the keys of a config, groups and values alike, apart from what names the code to call."""
    for key in node:
        name = f"{path}.{key}" if path else str(key)
        if key == "_target_":
            continue
        yield name
        if OmegaConf.is_dict(child := node._get_node(key)) and not child._is_none():
            yield from _leaves(child, name)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep what a run prints, and its warnings, off the screen."""
    lost = io.StringIO()
    with contextlib.redirect_stdout(lost), contextlib.redirect_stderr(lost), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _ring(signum: int, frame: object) -> None:
    raise TimeoutError


if __name__ == "__main__":
    sys.exit(main())
