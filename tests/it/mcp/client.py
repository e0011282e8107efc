"""Talks to the server as a program that nobody of its authors wrote, and prints what it was told as JSON.

Arguments: the mode of the client, the program, and its arguments.
"""

import asyncio
import json
import sys

from mcp import Client, StdioServerParameters
from mcp.types import ElicitResult

questions = []


async def answer(context, parameters):
    """Types what the question asks for, as a person would."""
    questions.append(parameters.message)
    phrase = parameters.message.rsplit("Type ", 1)[1].split(" to approve")[0]
    return ElicitResult(action="accept", content={"approval": phrase})


def told(result):
    return result.model_dump(mode="json", by_alias=True, exclude_none=True)


async def main(mode, program, *arguments):
    server = StdioServerParameters(command=program, args=list(arguments), cwd="/")
    said = {}
    async with Client(server, mode=mode, elicitation_callback=answer) as client:
        said["version"] = client.protocol_version
        said["tools"] = [tool.name for tool in (await client.list_tools()).tools]
        said["hosts"] = told(await client.call_tool("list_hosts", {}))
        said["deploy"] = told(await client.call_tool("deploy", {"hostname": "test1", "branch": "main"}))
        production = {"tier": "prod", "hostname": "ns1", "branch": "main"}
        said["wrong_tier"] = told(await client.call_tool("deploy_admin", {**production, "hostname": "test1"}))
        said["deploy_admin"] = told(await client.call_tool("deploy_admin", production))
        preview = told(await client.call_tool("preview_plan", {"plan": "plan"}))
        plan = {"plan": "plan", "plan_hash": preview["structuredContent"]["plan_hash"]}
        said["apply_plan"] = told(await client.call_tool("apply_plan", plan))
    said["questions"] = questions
    print(json.dumps(said))


asyncio.run(main(*sys.argv[1:]))
