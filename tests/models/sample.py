#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Raw text for the corpus: answers of the default model to the prompts of prompts.py, through `lacuna serve` itself.

usage: sample.py [--megabytes 40] [--clients 48] [--dir DIR]
       sample.py --keep [--dir DIR]

Writes DIR/raw.jsonl, a line per answer, as they come; started again, it goes on where it stopped.  --keep moves what is
there to a new part in tests/models/text, compressed: sampling takes hours, and what was sampled on one machine is wanted
on another.  The default DIR is build/models.  Needs nothing but Python; lacuna is looked for in build/release.
"""
import asyncio
import json
import lzma
import os
import pathlib
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "bench"))
import http_load  # noqa: E402
from common import ROOT, TEXT, answers, arguments, lines  # noqa: E402
from prompts import MOST_TOKENS, prompt  # noqa: E402
from serving import free_port, serving  # noqa: E402

REPORT_SECONDS = 60
PATIENCE_SECONDS = 3 * 3600  # whoever needs the machine meanwhile may stop both processes for a while
SAMPLING = {"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.08, "max_tokens": MOST_TOKENS}


def request(number):
    topic, asked, opening = prompt(number)
    chat = f"<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n{opening}"
    return topic, opening, http_load.request_bytes("/v1/completions", {"prompt": chat, "seed": number, **SAMPLING})


class Raw:
    """The answers there are."""

    def __init__(self, directory):
        path = directory / "raw.jsonl"
        self.done, self.n_bytes = set(), 0
        self.cut_partial_line(path)
        for answer in answers(directory):
            self.count(answer)
        self.file = open(path, "a", encoding="utf-8")

    @staticmethod
    def cut_partial_line(path):
        """Whatever stopped the last run may have stopped it within a line."""
        if path.exists():
            os.truncate(path, path.read_bytes().rfind(b"\n") + 1)

    def count(self, answer):
        self.done.add(answer["number"])
        self.n_bytes += len(answer["text"].encode())

    def add(self, answer):
        self.count(answer)
        self.file.write(json.dumps(answer) + "\n")
        self.file.flush()


class Run:
    def __init__(self, raw, port, n_bytes):
        self.raw, self.port, self.n_bytes = raw, port, n_bytes
        self.next, self.n_tokens, self.begin = 0, 0, time.perf_counter()

    def take(self):
        """The next prompt that was not answered yet."""
        while self.next in self.raw.done:
            self.next += 1
        self.next += 1
        return self.next - 1

    async def client(self):
        while self.raw.n_bytes < self.n_bytes:
            number = self.take()
            topic, opening, data = request(number)
            answer = await http_load.ask(self.port, data, PATIENCE_SECONDS)
            if not answer.is_good:
                raise SystemExit(f"prompt {number}: {answer.status} {answer.error} {answer.body[:200]}")
            body = json.loads(answer.body)
            choice = body["choices"][0]
            self.n_tokens += body["usage"]["completion_tokens"]
            self.raw.add({"number": number, "topic": topic, "text": opening + choice["text"],
                          "ended": choice["finish_reason"] == "stop"})

    async def report(self):
        while True:
            await asyncio.sleep(REPORT_SECONDS)
            seconds = time.perf_counter() - self.begin
            print(f"{len(self.raw.done)} answers, {self.raw.n_bytes / 1e6:.2f} of {self.n_bytes / 1e6:.0f} MB; "
                  f"{self.n_tokens / seconds:.0f} tok/s", flush=True)

    async def all(self, n_clients):
        reporter = asyncio.create_task(self.report())
        await asyncio.gather(*[self.client() for _ in range(n_clients)])
        reporter.cancel()


def server_command(lacuna, port):
    model = subprocess.check_output([ROOT / "deploy/fetch-model.sh"], text=True).strip()
    return [lacuna, "serve", "-m", model, "--listen", f"127.0.0.1:{port}", "--parse-special", "--drain-delay", "0s",
            "--max-queue-wait", f"{PATIENCE_SECONDS}s"]


def keep(directory):
    raw = directory / "raw.jsonl"
    Raw.cut_partial_line(raw)
    kept = sorted(lines(raw), key=lambda answer: answer["number"])
    TEXT.mkdir(exist_ok=True)
    part = TEXT / f"part-{len(list(TEXT.glob('*.jsonl.xz'))):02}.jsonl.xz"
    with lzma.open(part, "xt", preset=9 | lzma.PRESET_EXTREME, encoding="utf-8") as file:
        file.writelines(json.dumps(answer) + "\n" for answer in kept)
    raw.unlink()
    print(f"{len(kept)} answers in {part}, {part.stat().st_size / 1e6:.2f} MB")


def main():
    parser = arguments(__doc__)
    parser.add_argument("--megabytes", type=float, default=40)
    parser.add_argument("--clients", type=int, default=48)
    parser.add_argument("--lacuna", type=pathlib.Path, default=ROOT / "build/release/lacuna")
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    if options.keep:
        keep(options.dir)
        return
    options.dir.mkdir(parents=True, exist_ok=True)
    raw, port = Raw(options.dir), free_port()
    with serving(server_command(options.lacuna, port), port):
        run = Run(raw, port, options.megabytes * 1e6)
        asyncio.run(run.all(options.clients))
    print(f"{len(raw.done)} answers, {raw.n_bytes / 1e6:.2f} MB; {run.n_tokens / (time.perf_counter() - run.begin):.0f} tok/s")


if __name__ == "__main__":
    main()
