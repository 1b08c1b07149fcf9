// An echo bot. Run it with: node echo_bot.mjs 8080
//
// If the environment variable SIGNING_SECRET has the gateway's secret, it only answers requests that are signed with it.
import { createHmac, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";

const secret = process.env.SIGNING_SECRET;
const key = Buffer.from((secret ?? "").replace(/^whsec_/, ""), "base64");

async function read(request) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  return Buffer.concat(chunks);
}

// Whether a request was signed with the secret in the last five minutes (standardwebhooks.com).
function isSigned(headers, body) {
  const timestamp = headers["webhook-timestamp"];
  const signed = createHmac("sha256", key).update(`${headers["webhook-id"]}.${timestamp}.`).update(body);
  const wanted = Buffer.from(`v1,${signed.digest("base64")}`);
  const given = (headers["webhook-signature"] ?? "").split(" ").map((each) => Buffer.from(each));
  const fits = given.filter((each) => each.length === wanted.length && timingSafeEqual(each, wanted));
  return key.length > 0 && fits.length > 0 && Math.abs(Date.now() / 1000 - Number(timestamp)) < 300;
}

const server = createServer(async (request, response) => {
  const content = await read(request);
  if (secret !== undefined && !isSigned(request.headers, content)) {
    response.writeHead(401).end();
    return;
  }
  const { body } = JSON.parse(content.toString("utf8"));
  // A message without a body (somebody is typing, say) needs no reply.
  const reply = body === undefined ? {} : { body: `You said: ${body}` };
  response.setHeader("Content-Type", "application/json");
  response.end(JSON.stringify(reply));
});

server.listen(Number(process.argv[2] ?? 8080), "127.0.0.1", () => {
  console.log(`component_post_url: http://127.0.0.1:${server.address().port}/`);
});
