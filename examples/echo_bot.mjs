// An echo bot. Run it with: node echo_bot.mjs 8080
import { createServer } from "node:http";

async function read(request) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  return JSON.parse(Buffer.concat(chunks).toString("utf8"));
}

const server = createServer(async (request, response) => {
  const { body } = await read(request);
  // A message without a body (somebody is typing, say) needs no reply.
  const reply = body === undefined ? {} : { body: `You said: ${body}` };
  response.setHeader("Content-Type", "application/json");
  response.end(JSON.stringify(reply));
});

server.listen(Number(process.argv[2] ?? 8080), "127.0.0.1", () => {
  console.log(`component_post_url: http://127.0.0.1:${server.address().port}/`);
});
