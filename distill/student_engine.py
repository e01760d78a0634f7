"""The student in a vLLM of its own while it is trained: what it answers there is what on-policy distillation scores.

The server is a child of the trainer and ends with it. Every ``sample_refresh_steps`` steps it takes the student's
weights as a swap in place does, which drops its prefix cache, and its log-probabilities of fixed tokens are held to
those of the model that is trained.
"""

import asyncio
import shutil
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, Final, cast

import httpx
import msgspec
import torch
from transformers import PreTrainedModel

from distill.sampling import Answer, LocalSampler, Prompts, Sampler, end_ids, until_end
from distill.student import copy_companions, new_folder
from distill.student_model import dtype_of, merged, sampling_of
from distill.train_config import ConfigError, TrainConfig
from serving.engine import Device, EngineOptions
from serving.parity import model_logprobs
from serving.server import EngineError, VllmServer, free_port
from serving.swap_in_place import Fresh, SwapError, Target, check, probe, probes_of, swap_in_place

__all__ = ("SamplerError", "StudentEngine", "sampler_of")

NAME: Final = "student"
LOG: Final = "sampler.log"
READY_S: Final = 600.0
ANSWER_S: Final = 600.0
DRAIN_S: Final = 5.0
RESTARTS: Final = 3
"""Of a server that died, answers no more or did not take the weights, between two that it took."""
TOLERANCE: Final[dict[Device, float]] = {"cpu": 0.02, "cuda": 0.5}
"""Nats between vLLM and transformers of the same weights: float32 on both sides, or bfloat16 beside float32."""


class SamplerError(Exception):
    """The student's server cannot be had; the message says why and where its log is."""


@contextmanager
def sampler_of(config: TrainConfig, job: Path, source: Path) -> Generator[Sampler | None]:
    """What draws the samples of a run, if it has any. Raises `ConfigError` where vLLM is wanted and is not here."""
    if not config.on_policy_share:
        yield None
    elif not config.samples_on_server:
        yield LocalSampler(sampling_of(config))
    elif find_spec("vllm") is None:
        raise ConfigError('sampler = "vllm" needs vLLM where the trainer runs: install it, or take "local"')
    else:
        engine = StudentEngine(config, job, source)
        try:
            yield engine
        finally:
            engine.close()


class StudentEngine:
    """A `Sampler` whose answers are of the student as it was at the last step that ``sample_refresh_steps`` divides.

    Weights are in ``sampler/step-N`` of the job's folder, where a run that goes on finds those it sampled with. The
    log is ``sampler.log``. The server is started when the first answer is wanted.
    """

    def __init__(self, config: TrainConfig, job: Path, source: Path) -> None:
        """For the student that is trained from ``source``."""
        self._config = config
        self._job = job
        self._source = source
        self._device: Device = "cuda" if torch.cuda.is_available() else "cpu"
        self._weights: Path | None = None
        self._fresh: Fresh | None = None
        self._failures = 0
        self.server: VllmServer | None = None

    def answers(self, model: PreTrainedModel, prompts: Sequence[Prompts], step: int) -> list[list[Answer]]:
        """See `Sampler`. Raises `SamplerError` when there is no server to be had."""
        rows = [prompt for batch in prompts for prompt in batch]
        target = self._newest(model, step)
        ends = end_ids(model)
        while True:
            try:
                drawn = iter(asyncio.run(self._drawn(target, rows, ends, step)))
                return [list(islice(drawn, len(batch))) for batch in prompts]
            except (EngineError, SwapError, httpx.HTTPError) as error:
                cause = self._cause(error)
                self.close()
                self._failures += 1
                if self._failures > RESTARTS or self._weights is None or _refused(error):
                    raise SamplerError(f"the student's vLLM gave no samples: {cause}") from error

    def close(self) -> None:
        """End the server."""
        if self.server is not None:
            asyncio.run(self.server.stop(0))
            self.server = None

    def _newest(self, model: PreTrainedModel, step: int) -> Target:
        """The weights to sample with at a step: written now, unless this run or the one before it has done so."""
        folder = self._job / "sampler" / f"step-{step - step % self._config.sample_refresh_steps}"
        if not folder.exists():
            self._write(model, folder)
        if folder != self._weights:
            for other in (path for path in folder.parent.iterdir() if path != folder):
                shutil.rmtree(other)
        return Target(folder.name, folder, self._fresh, TOLERANCE[self._device])

    def _write(self, model: PreTrainedModel, folder: Path) -> None:
        with torch.random.fork_rng():  # a new adapter, before it is filled, is drawn at random
            plain: Any = merged(cast("Any", model), self._source) if self._config.lora_rank is not None else model
        dtype = torch.float32 if self._device == "cpu" else dtype_of(self._source)
        training = plain.training
        plain.eval()
        self._fresh = model_logprobs(plain, probes_of(self._source))
        plain.train(training)
        with new_folder(folder) as made:
            plain.save_pretrained(made, state_dict={name: t.to(dtype) for name, t in plain.state_dict().items()})
            copy_companions(self._source, made)

    async def _drawn(self, target: Target, rows: Prompts, ends: list[int], step: int) -> list[Answer]:
        await self._serving(target)
        server = cast("VllmServer", self.server)
        async with server.trusted_client(ANSWER_S) as client:
            return await asyncio.gather(
                *(self._answer(client, prompt, ends, (step, place)) for place, prompt in enumerate(rows))
            )

    async def _serving(self, target: Target) -> None:
        """Have the server serve these weights. One that has failed meanwhile shows when it is asked."""
        if self.server is None:
            self.server = VllmServer(self._options(target), self._job / LOG)
            await self.server.start()
            await self.server.wait_ready(READY_S, lambda _: None)
            if target.fresh is not None:
                check(await probe(self.server, target.weights), target.fresh, None, TOLERANCE[self._device])
        elif target.weights != self._weights:
            await swap_in_place(self.server, target, DRAIN_S)
            self._failures = 0
        self._weights = target.weights

    def _options(self, target: Target) -> EngineOptions:
        config: dict[str, Any] = msgspec.json.decode((target.weights / "config.json").read_bytes())
        wanted = self._config.max_length + self._config.sample_tokens
        more = ("--gpu-memory-utilization", str(self._config.sample_gpu_share)) if self._device == "cuda" else ()
        return EngineOptions(
            weights=target.weights,
            served_name=NAME,
            release=target.release,
            port=free_port(),
            context_tokens=min(wanted, config.get("max_position_embeddings", wanted)),
            device=self._device,
            # what a token was drawn with, its temperature included; nothing of the model's own ways to sample
            extra_args=("--logprobs-mode", "processed_logprobs", "--generation-config", "vllm", *more),
            threads=self._config.threads,
            swap="in_place",
        )

    def _cause(self, error: Exception) -> str:
        """One line: what happened, what the server answered, and how its log ends."""
        what = (str(error).splitlines() or [type(error).__name__])[0].partition("; its last")[0]
        said = error.response.text[:500] if isinstance(error, httpx.HTTPStatusError) else ""
        return f"{what} {said}({self._job / LOG} ends: {self.server.tail(1) if self.server else ''})"

    async def _answer(
        self, client: httpx.AsyncClient, prompt: list[int], ends: list[int], place: tuple[int, int]
    ) -> Answer:
        server = cast("VllmServer", self.server)
        body: dict[str, Any] = {
            "model": NAME,
            "prompt": prompt,
            "max_tokens": max(1, min(self._config.sample_tokens, server.options.context_tokens - len(prompt))),
            "temperature": self._config.sample_temperature,
            "seed": hash((self._config.seed, *place)),
            "stop_token_ids": ends,
            "logprobs": 0,
            "return_token_ids": True,
        }
        answer = await client.post("/v1/completions", json=body)
        answer.raise_for_status()
        choice = answer.json()["choices"][0]
        ids = until_end(choice["token_ids"], ends)
        return Answer(ids, choice["logprobs"]["token_logprobs"][: len(ids)])


def _refused(error: Exception) -> bool:
    return isinstance(error, httpx.HTTPStatusError) and error.response.is_client_error
