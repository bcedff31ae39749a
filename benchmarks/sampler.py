"""What choosing tokens costs beside the model's forward pass, at 32 rows.

    .venv/bin/python benchmarks/sampler.py [--rows 32] [--rounds 30]

Logits are the prepared model's own, 24 tokens into 32 different answers. Each round times one
decode step and then the sampler in every setting; the figure is the median of the rounds.
"""

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np

from inference.engine import Grammar, GrammarKind, Logits, Sampling, Text, load_text, read_manifest
from inference.engine.grammar import Grammars
from inference.engine.loading import load_runner
from inference.engine.odds import Odds
from inference.engine.sampler import Sampler

MODEL = Path("var/models/smollm2-135m-instruct")
SUBJECTS = ("lighthouse", "python", "ocean", "money", "bread", "engine", "music", "history")
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
SETTINGS = {
    "greedy": Sampling(256),
    "temperature": Sampling(256, 0.8),
    "top_p": Sampling(256, 0.8, 0.95),
    "top_k, top_p, min_p": Sampling(256, 0.8, 0.95, top_k=40, min_p=0.02),
    "top_p, penalties": Sampling(
        256, 0.8, 0.95, presence_penalty=0.5, frequency_penalty=0.5, repetition_penalty=1.1
    ),
    "top_p, 5 logprobs": Sampling(256, 0.8, 0.95, logprobs=5),
    "top_p, JSON Schema": Sampling(
        256, 0.8, 0.95, grammar=Grammar(GrammarKind.json_schema, json.dumps(PERSON))
    ),
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rows", type=int, default=32)
    arguments.add_argument("--rounds", type=int, default=30)
    options = arguments.parse_args()
    text = load_text(MODEL)
    step, logits, answers = _model(text, options.rows)
    settings = {name: _odds(text, sampling, answers) for name, sampling in SETTINGS.items()}
    sampler = Sampler()
    times: dict[str, list[float]] = {name: [] for name in ("decode", *settings)}
    for number in range(options.rounds + 3):
        found = {"decode": _time(step)}
        for name, odds in settings.items():
            found[name] = _time(partial(sampler.sample, logits, odds))
        for name, took in found.items() if number >= 3 else ():
            times[name].append(took)
    forward = median(times["decode"])
    say = sys.stdout.write
    say(f"decode of {options.rows} rows: {forward * 1e3:.2f} ms\n")
    for name in settings:
        took = median(times[name])
        say(f"{name:22} {took * 1e3:6.2f} ms  {took / (forward + took):6.1%} of the step\n")


def _model(text: Text, rows: int) -> tuple[Callable[[], object], Logits, list[list[int]]]:
    """A decode step to time, logits as they come, and each row's tokens."""
    runner = load_runner(MODEL, read_manifest(MODEL), slots=rows, threads=2)
    draw = np.random.default_rng(0)
    tokens: list[list[int]] = []
    for row in range(rows):
        subject = SUBJECTS[row % len(SUBJECTS)]
        question = f"Tell me story number {row}, about a {subject}, please."
        prompt = text.chat([{"role": "user", "content": question}])
        tokens.append([*prompt, int(runner.prefill(row, prompt, 0).argmax())])

    def step() -> Logits:
        last = [row[-1] for row in tokens]
        return runner.decode(range(rows), last, [len(row) - 1 for row in tokens])

    for _ in range(24):
        logits = step().copy()
        for answer, scores in zip(tokens, logits, strict=True):
            weights = np.exp((scores - scores.max()).astype(np.float64))
            answer.append(int(draw.choice(len(weights), p=weights / weights.sum())))
    return step, logits, tokens


def _odds(text: Text, sampling: Sampling, answers: list[list[int]]) -> list[Odds]:
    grammars = Grammars(text)
    made = [
        Odds(sampling, tuple(answer[:-24]), grammars.matcher(sampling.grammar))
        for answer in answers
    ]
    if sampling.grammar is None:
        for odds, answer in zip(made, answers, strict=True):
            for token in answer[-24:]:
                odds.note(token)
    return made


def _time(work: Callable[[], object]) -> float:
    started = perf_counter()
    work()
    return perf_counter() - started


if __name__ == "__main__":
    main()
