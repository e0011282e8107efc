// The same as client.py, with the TypeScript SDK.
//
// Arguments: the folder with the SDK, the mode of the client, the program, and its arguments.

import { createRequire } from "node:module";

const [folder, mode, command, ...args] = process.argv.slice(2);
const require = createRequire(`${folder}/`);
const { Client } = require("@modelcontextprotocol/client");
const { StdioClientTransport } = require("@modelcontextprotocol/client/stdio");

const questions = [];
const options = { capabilities: { elicitation: { form: {} } }, versionNegotiation: { mode } };
const client = new Client({ name: "typescript", version: "1" }, options);
// Types what the question asks for, as a person would.
client.setRequestHandler("elicitation/create", async (request) => {
  questions.push(request.params.message);
  const approval = request.params.message.split("Type ").pop().split(" to approve")[0];
  return { action: "accept", content: { approval } };
});
await client.connect(new StdioClientTransport({ command, args, cwd: "/" }));

const call = (name, args) => client.callTool({ name, arguments: args });
const said = { version: client.getNegotiatedProtocolVersion?.() };
said.tools = (await client.listTools()).tools.map((tool) => tool.name);
said.hosts = await call("list_hosts", {});
said.deploy = await call("deploy", { hostname: "test1", branch: "main" });
const production = { tier: "prod", hostname: "ns1", branch: "main" };
said.wrong_tier = await call("deploy_admin", { ...production, hostname: "test1" });
said.deploy_admin = await call("deploy_admin", production);
const preview = await call("preview_plan", { plan: "plan" });
said.apply_plan = await call("apply_plan", { plan: "plan", plan_hash: preview.structuredContent.plan_hash });
await client.close();
said.questions = questions;
console.log(JSON.stringify(said));
