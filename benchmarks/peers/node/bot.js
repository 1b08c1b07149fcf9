// The same with Node: @xmpp/component and undici.
import { component, xml } from "@xmpp/component";
import { Agent, request } from "undici";

const [port, url] = process.argv.slice(2);
const http = new Agent({ connections: 100 });
const xmpp = component({
  service: `xmpp://127.0.0.1:${port}`,
  domain: "bot.localhost",
  password: "secret",
});

xmpp.on("error", (error) => console.error(error));
xmpp.on("stanza", async (stanza) => {
  const body = stanza.is("message") && stanza.getChildText("body");
  if (!body) return;
  const { to, from, type, id } = stanza.attrs;
  const response = await request(url, {
    method: "POST",
    dispatcher: http,
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ to, from, kind: "message", type, id, body, stanza: stanza.toString() }),
  });
  const answer = await response.body.json();
  await xmpp.send(xml("message", { to: from, from: to, type: "chat" }, xml("body", {}, answer.body)));
});
xmpp.start().catch(console.error);
