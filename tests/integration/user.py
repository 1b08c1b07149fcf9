"""
A person with a real client (slixmpp), used from plain synchronous tests.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, TypeVar
from xml.etree.ElementTree import Element, fromstring

from slixmpp import JID, ClientXMPP
from slixmpp.exceptions import IqError

from tests.integration.closing import Closing
from tests.integration.waiting import PATIENCE

__all__ = ["User"]

T = TypeVar("T")


class User(Closing):
    """
    An account on a server of this machine, without TLS, its event loop in a thread of its own.

    Attributes:
        messages: Every message that came, as slixmpp stanzas.
        presences: Every presence that came, own ones left out.
    """

    def __init__(self, jid: str, password: str, port: int, resource: str = "phone") -> None:
        self.jid = f"{jid}/{resource}"
        self._password = password
        self._port = port
        self._changed = threading.Condition()
        self.messages: list[Any] = []
        self.presences: list[Any] = []
        self._client: ClientXMPP | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"user {jid}", daemon=True)
        self._thread.start()

    def _do(self, work: Coroutine[Any, Any, T], what: str, seconds: float = PATIENCE) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(seconds)
        except FutureTimeout:
            future.cancel()
            raise AssertionError(f"waited {seconds:g} s for {what} of {self.jid}") from None

    @property
    def client(self) -> ClientXMPP:
        """The client that is logged in."""
        assert self._client is not None, "not logged in"
        return self._client

    def log_in(self) -> None:
        """Log in with a fresh client, fetch the roster and send initial presence."""
        self._do(self._log_in(), "the login")

    async def _log_in(self) -> None:
        client = ClientXMPP(self.jid, self._password)
        client.enable_direct_tls = False
        client.enable_starttls = False
        client.enable_plaintext = True
        for plugin in ("xep_0030", "xep_0050", "xep_0092", "xep_0199"):
            client.register_plugin(plugin)
        client.plugin["feature_mechanisms"].unencrypted_plain = True
        client.plugin["feature_mechanisms"].unencrypted_scram = True
        client.auto_authorize = None  # nobody subscribes to this user without the test saying so
        client.auto_subscribe = False
        client.add_event_handler("message", self._message)
        client.add_event_handler("message_error", self._message)
        client.add_event_handler("groupchat_message", self._message)
        for kind in ("available", "unavailable", "subscribe", "subscribed", "unsubscribed", "error"):
            client.add_event_handler(f"presence_{kind}", self._presence)
        started: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        client.add_event_handler("session_start", lambda event: _settle(started, True))
        client.add_event_handler("failed_all_auth", lambda event: _settle(started, False))
        client.connect("127.0.0.1", self._port)
        assert await started, "the login was refused"
        await client.get_roster()
        client.send_presence()
        self._client = client

    def log_out(self) -> None:
        """Say goodbye and close the connection; what came before is forgotten."""
        client, self._client = self._client, None
        if client is not None:
            self._do(self._log_out(client), "the logout")
        self.forget()

    async def _log_out(self, client: ClientXMPP) -> None:
        await client.disconnect(wait=2.0)

    def forget(self) -> None:
        """Forget what came."""
        with self._changed:
            self.messages.clear()
            self.presences.clear()

    def _message(self, message: Any) -> None:
        with self._changed:
            if message not in self.messages:
                self.messages.append(message)
            self._changed.notify_all()

    def _presence(self, presence: Any) -> None:
        if presence["from"].bare == JID(self.jid).bare:
            return
        with self._changed:
            self.presences.append(presence)
            self._changed.notify_all()

    def _wait(self, look: Callable[[], Any], what: str, seconds: float) -> Any:
        with self._changed:
            found = self._changed.wait_for(look, seconds)
            if not found:
                came = [str(one) for one in (*self.messages, *self.presences)]
                raise AssertionError(f"{self.jid} waited {seconds:g} s for {what}; came: {came}")
            return found

    def say(self, to: str, body: str, kind: str = "chat", id: str | None = None) -> str:
        """
        Send a message.

        Returns:
            Its id.
        """
        return self._do(self._say(to, body, kind, id), "sending a message")

    async def _say(self, to: str, body: str, kind: str, id: str | None) -> str:
        message = self.client.make_message(mto=to, mbody=body, mtype=kind)
        message["id"] = id or self.client.new_id()
        message.send()
        return str(message["id"])

    def heard(self, wanted: Callable[[Any], bool], what: str, seconds: float = PATIENCE) -> Any:
        """Wait for a message of this description."""
        return self._wait(lambda: next((one for one in self.messages if wanted(one)), None), what, seconds)

    def saw(self, jid: str, kind: str, seconds: float = PATIENCE) -> Any:
        """Wait for presence of a type ("available" for none) from an address."""
        return self._wait(
            lambda: next((one for one in self.presences if one["type"] == kind and one["from"] == jid), None),
            f"presence {kind} of {jid}",
            seconds,
        )

    def presence(self, to: str, kind: str) -> None:
        """Send presence to somebody."""
        self._do(self._send_presence(to, kind), "sending presence")

    async def _send_presence(self, to: str, kind: str) -> None:
        self.client.send_presence(pto=to, ptype=kind)

    def show(self, to: str, status: str) -> None:
        """Send somebody presence with a text."""
        self._do(self._show(to, status), "sending presence")

    async def _show(self, to: str, status: str) -> None:
        self.client.send_presence(pto=to, pstatus=status)

    def join(self, room: str, nick: str) -> None:
        """Enter a chat room, and wait until the room says so."""
        self._do(self._join(f"{room}/{nick}"), "entering a room")
        self.saw(f"{room}/{nick}", "available")

    async def _join(self, occupant: str) -> None:
        presence = self.client.make_presence(pto=occupant)
        presence.append(fromstring("<x xmlns='http://jabber.org/protocol/muc'/>"))
        presence.send()

    def invite(self, room: str, somebody: str) -> None:
        """Let a chat room invite somebody (XEP-0045 section 7.8.2)."""
        self._do(self._invite(room, somebody), "an invitation")

    async def _invite(self, room: str, somebody: str) -> None:
        message = self.client.make_message(mto=room)
        invitation = f"<invite to='{somebody}'><reason>Come in</reason></invite>"
        message.append(fromstring(f"<x xmlns='http://jabber.org/protocol/muc#user'>{invitation}</x>"))
        message.send()

    def subscription(self, to: str) -> str:
        """What the roster says about an address: `to`, `both`, `none`, ..."""
        return str(self._do(self._subscription(to), "the roster"))

    async def _subscription(self, to: str) -> str:
        await self.client.get_roster()
        return str(self.client.client_roster[to]["subscription"])

    def ask(self, to: str, payload: str, kind: str = "get", seconds: float = PATIENCE) -> Element:
        """
        Send an iq and wait for the answer.

        Args:
            to: Whom.
            payload: The child, as XML.
            kind: `get` or `set`.

        Returns:
            The whole answer, also if it is an error.
        """
        return self._do(self._ask(to, payload, kind, seconds), f"the answer of {to} to an iq", seconds + 1.0)

    async def _ask(self, to: str, payload: str, kind: str, seconds: float) -> Element:
        iq = self.client.make_iq(ito=to, itype=kind)
        iq.append(fromstring(payload))
        try:
            answer = await iq.send(timeout=seconds)
        except IqError as error:
            answer = error.iq
        xml = answer.xml
        assert isinstance(xml, Element)
        return xml

    def disco(self, to: str) -> tuple[set[tuple[str, str]], set[str]]:
        """
        Ask what an address is and can (XEP-0030).

        Returns:
            Its identities (category, type) and its features.
        """
        info = self._do(self._disco(to), f"disco#info of {to}")
        return {(one[0], one[1]) for one in info["identities"]}, set(info["features"])

    async def _disco(self, to: str) -> Any:
        answer = await self.client.plugin["xep_0030"].get_info(jid=to, cached=False, timeout=PATIENCE)
        return answer["disco_info"]

    def commands(self, to: str) -> dict[str, str]:
        """Ask which commands an address has (XEP-0050); returns their names by their nodes."""
        found = self._do(self._commands(to), f"the commands of {to}")["disco_items"]["items"]
        return {node: name for _, node, name in found}

    async def _commands(self, to: str) -> Any:
        return await self.client.plugin["xep_0050"].get_commands(jid=to, timeout=PATIENCE)

    def command(self, to: str, node: str, **values: str | list[str]) -> Any:
        """
        Use a command of an address, and fill in its form if it has one.

        Returns:
            The answer that ends it, as slixmpp has it.

        Raises:
            IqError: It is refused.
        """
        return self._do(self._command(to, node, values), f"the command {node}")["command"]

    async def _command(self, to: str, node: str, values: dict[str, str | list[str]]) -> Any:
        plugin = self.client.plugin["xep_0050"]
        answer = await plugin.send_command(to, node, timeout=PATIENCE)
        if answer["command"]["status"] != "executing":
            return answer
        form = self.client.plugin["xep_0004"].make_form(ftype="submit")
        for name, value in values.items():
            form.add_field(var=name, ftype="list-multi" if isinstance(value, list) else None, value=value)
        session, action = answer["command"]["sessionid"], answer["command"]["actions"]
        assert "complete" in str(action), answer
        return await plugin.send_command(to, node, action="complete", payload=form, sessionid=session, timeout=PATIENCE)

    def ping(self, to: str) -> None:
        """Have an address answer a ping (XEP-0199)."""
        self._do(self._ping(to), f"the pong of {to}")

    async def _ping(self, to: str) -> None:
        await self.client.plugin["xep_0199"].ping(jid=to, timeout=PATIENCE)

    def version(self, to: str) -> tuple[str, str]:
        """
        Returns:
            Name and version of an address's software (XEP-0092).
        """
        return self._do(self._version(to), f"the version of {to}")

    async def _version(self, to: str) -> tuple[str, str]:
        answer = await self.client.plugin["xep_0092"].get_version(to, timeout=PATIENCE)
        return str(answer["software_version"]["name"]), str(answer["software_version"]["version"])

    def close(self) -> None:
        """Log out and stop the thread."""
        try:
            self.log_out()
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(PATIENCE)
            tasks = asyncio.all_tasks(self._loop)
            for task in tasks:
                task.cancel()
            if tasks:
                self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            self._loop.close()


def _settle(future: asyncio.Future[bool], value: bool) -> None:
    if not future.done():
        future.set_result(value)
