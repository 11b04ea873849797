"""How many requests a second the service of a bundle answers, how long they take, and whether any is lost."""

import asyncio
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Annotated

import httpx
import numpy as np
import typer

sys.path.insert(0, str(Path(__file__).parents[1]))
from configs import UserError
from configs.command_line import command

SERVER = Path(__file__).parents[1] / "fusion" / "serve.py"
TIMEOUT = 300.0  # seconds that a client waits


def main(
    clip: Annotated[Path | None, typer.Argument(help="A clip to send. Default: a text alone.")] = None,
    bundle: Annotated[Path | None, typer.Option(help="Default: the bundle of the profile that dvc.yaml names.")] = None,
    requests: Annotated[int, typer.Option(min=1, help="Of each number of clients.")] = 64,
) -> None:
    """Start fusion/serve.py on this machine, ask it with 1, 8 and 32 clients at a time, and print what they met.

    A client that is told to come again (503) does, as it is told; its wait counts. Every answer must be that of the
    first client, to 1e-5.
    """
    if clip and not clip.is_file():
        raise UserError(f"{clip}: no such file")
    arguments = [*(["--bundle", str(bundle)] if bundle else []), "--port", "0"]
    with subprocess.Popen([sys.executable, str(SERVER), *arguments], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        found = re.match(r"(http\S+)", server.stdout.readline())
        if not found:
            raise UserError("the service did not start: what it says stands above")
        try:
            asyncio.run(_measure(found[1], clip, requests))
        finally:
            server.terminate()
    if server.returncode:
        raise UserError(f"the service ended with exit code {server.returncode}")


async def _measure(url: str, clip: Path | None, n: int) -> None:
    content = clip.read_bytes() if clip else b""
    waits = Counter[int]()

    async def ask(client: httpx.AsyncClient) -> dict[str, float]:
        files = {"video": (clip.name, content)} if clip else None
        body = {} if clip else {"text": "I did not think that I would pass, and I did!"}
        while True:
            response = await client.post("predict", files=files, json=None if clip else body)
            if response.status_code != 503:
                response.raise_for_status()
                return dict(response.json()["probabilities"])
            waits[clients] += 1
            await asyncio.sleep(float(response.headers["retry-after"]))

    async def work(client: httpx.AsyncClient, left: list[int], seconds: list[float]) -> int:
        wrong = 0
        while left:
            left.pop()
            began = time.perf_counter()
            p = await ask(client)
            seconds.append(time.perf_counter() - began)
            wrong += any(abs(p[name] - q) > 1e-5 for name, q in expected.items())
        return wrong

    print(f"{clip or 'a text'}; {n} requests each")
    print("clients  requests/s  p50 s  p99 s  told to wait  lost  other answers")
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT, limits=httpx.Limits(max_connections=64)) as client:
        clients = 0
        expected = await ask(client)
        for clients in (1, 8, 32):
            left, seconds = list(range(n)), list[float]()
            began = time.perf_counter()
            wrong = sum(await asyncio.gather(*(work(client, left, seconds) for _ in range(clients))))
            rate = n / (time.perf_counter() - began)
            half, most = np.quantile(seconds, [0.5, 0.99])
            lost = n - len(seconds)
            print(f"{clients:7}  {rate:10.2f}  {half:5.2f}  {most:5.2f}  {waits[clients]:12}  {lost:4}  {wrong:13}")
            if lost or wrong:
                raise UserError("requests were lost, or answered otherwise")


if __name__ == "__main__":
    command(main)
