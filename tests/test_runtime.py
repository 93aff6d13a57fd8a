"""What the parts of a node share: the voice with which it tells of errors, and its tasks."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from helpers.nodes import in_virtual_time, memory_nodes, until
from seigr_toolset_transmissions.errors import STTConnectError


@pytest.mark.parametrize("listener", ["a handler that hangs", "a stream that nobody reads"])
@in_virtual_time
async def test_reports_wait_for_the_last_one_and_count_what_they_leave_out(listener: str) -> None:
    async with memory_nodes() as nodes:
        node = await nodes.listen(allow=[])
        assert node.address is not None
        dialer = await nodes.start()
        may_go_on = asyncio.Event()
        heard: list[dict[str, Any]] = []

        async def hang(error_type: str, details: dict[str, Any]) -> None:
            assert error_type == "peer_denied"
            heard.append(details)
            await may_go_on.wait()

        async def be_refused(times: int) -> None:
            for _ in range(times):
                with pytest.raises(STTConnectError):
                    await dialer.connect(*node.address)  # type: ignore[misc]
                await asyncio.sleep(2)

        if listener == "a handler that hangs":
            node.events.register("error", hang)
            await be_refused(1)
            count = len(asyncio.all_tasks())
            await be_refused(50)
            assert len(asyncio.all_tasks()) == count
            assert len(heard) == 1
            may_go_on.set()
            await be_refused(1)
            await until(lambda: len(heard) == 2)
            assert heard[1]["count"] == 51
        else:
            async with node.events.stream("error", maxsize=1) as stream:
                await be_refused(2)
                count = len(asyncio.all_tasks())
                await be_refused(50)
                assert len(asyncio.all_tasks()) == count
                counts = [(await anext(stream)).kwargs["details"]["count"] for _ in range(2)]
                assert counts == [1, 1]
                await be_refused(1)
                assert (await anext(stream)).kwargs["details"]["count"] == 51
