"""Load a busy extension's status once for all the telephones that show it."""

import asyncio

from snippets.caching.single_flight import SingleFlight


async def main() -> None:
    """Ask together, ask again, and lose the one who asked first."""
    flights: SingleFlight[str] = SingleFlight()
    may_answer = asyncio.Event()
    loads = 0

    async def status() -> str:
        nonlocal loads
        loads += 1
        await may_answer.wait()
        return "busy"

    async def ask() -> str:
        result, _ = await flights.run("extension:1001", status)
        return result

    phones = [asyncio.create_task(ask()) for _ in range(200)]
    await asyncio.sleep(0)  # all have asked
    may_answer.set()
    answers = await asyncio.gather(*phones)
    print(answers.count("busy"), "times busy after", loads, "load")
    # > 200 times busy after 1 load

    print(await ask(), "after", loads, "loads")
    # > busy after 2 loads

    may_answer.clear()
    phones = [asyncio.create_task(ask()) for _ in range(3)]
    await asyncio.sleep(0)
    phones[0].cancel()
    may_answer.set()
    print(await asyncio.gather(*phones[1:]), "after", loads, "loads")
    # > ['busy', 'busy'] after 4 loads


if __name__ == "__main__":
    asyncio.run(main())
