"""A pool of worker processes, one of which is killed in the middle of its work: no job is lost."""

import asyncio
import sys
from asyncio.subprocess import PIPE, create_subprocess_exec
from collections import deque

from seigr_toolset_transmissions import NodeConfig, STTNode, generate_seed
from seigr_toolset_transmissions.errors import STTRequestError, STTRequestFailedError


async def run_jobs(node: STTNode, jobs: list[bytes], workers: list[bytes]) -> dict[bytes, bytes]:
    waiting = deque(dict.fromkeys(jobs))
    count = len(waiting)
    results: dict[bytes, bytes] = {}

    async def feed(worker: bytes) -> None:
        while len(results) < count:
            if not waiting:
                await asyncio.sleep(0.1)  # a job of another worker may come back
                continue
            job = waiting.popleft()
            try:
                results[job] = await node.endpoints.request(worker, job, timeout=60)
            except STTRequestFailedError as error:  # the job's own fault: nobody else can do it
                results[job] = error.data
            except STTRequestError as error:  # the worker is gone, or too slow
                print(f"job {job.decode()} goes to another worker (handled: {error.handled})")
                waiting.append(job)
                return

    await asyncio.gather(*map(feed, workers))
    if waiting:
        raise RuntimeError(f"no worker is left for {len(waiting)} jobs")
    return results


async def work(shared_seed: bytes, host: str, port: int) -> None:
    """Do jobs until the dispatcher has no more. Each worker is a process of its own."""
    async with STTNode(generate_seed(), shared_seed) as node:

        @node.on_request
        async def square(peer_node_id: bytes, data: bytes) -> bytes:
            await asyncio.sleep(0.05)
            return str(int(data) ** 2).encode()

        session = await node.connect(host, port)
        await session.send(b"ready")
        await session.wait_closed()


async def main() -> None:
    shared_seed = generate_seed()
    # A worker whose connection breaks has a second to come back before its job goes to another.
    dispatcher = STTNode(generate_seed(), shared_seed, config=NodeConfig(resume_window=1))
    async with dispatcher.listening():
        host, port = dispatcher.address or ("", 0)
        program = [sys.executable, __file__, host, str(port)]
        processes = [await create_subprocess_exec(*program, stdin=PIPE) for _ in range(4)]
        # The seed is not an argument: every user of the machine can read those.
        running = [asyncio.create_task(each.communicate(shared_seed)) for each in processes]
        workers = [(await dispatcher.endpoints.receive_any())[1] for _ in processes]

        jobs = [str(number).encode() for number in range(40)]
        working = asyncio.create_task(run_jobs(dispatcher, jobs, workers))
        await asyncio.sleep(0.2)
        processes[0].kill()  # SIGKILL: it can tell nobody
        results = await working
        print("the sum of all squares:", sum(map(int, results.values())))
    await asyncio.gather(*running)


if sys.argv[1:]:
    asyncio.run(work(sys.stdin.buffer.read(), sys.argv[1], int(sys.argv[2])))
else:
    asyncio.run(main())
