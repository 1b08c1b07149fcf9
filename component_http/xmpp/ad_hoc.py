"""
Commands that a client shows in a menu and fills in as forms.

Source: XEP-0050 (ad-hoc commands), XEP-0004 (data forms), XEP-0030 (their discovery).
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from attrs import define, field, frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from twisted.words.protocols.jabber.jid import JID
from twisted.words.xish.domish import Element
from wokkel.data_form import NS_X_DATA, Field, Form, Option
from wokkel.disco import DiscoFeature, DiscoIdentity, DiscoInfo, DiscoItem, DiscoItems
from wokkel.iwokkel import IDisco
from wokkel.subprotocols import StreamManager
from zope.interface import implementer

from component_http.contract import conditions
from component_http.contract.conditions import StanzaError
from component_http.contract.stanza import Stanza
from component_http.contract.xml import NS_DISCO_INFO, NS_DISCO_ITEMS
from component_http.interfaces import Observer
from component_http.log import Logger
from component_http.throttle import Folded
from component_http.xmpp.intake import BEFORE_LAST, LateHandler

__all__ = ["AdHoc", "Ask", "BadValue", "Command", "Field", "Form", "Option", "Told"]

NS_COMMANDS = "http://jabber.org/protocol/commands"

MAX_SESSIONS = 100
"""Commands at once whose forms are being filled in, or that are carried out; the oldest makes room."""

SESSION_SECONDS = 600.0
"""Seconds in which a form has to be filled in."""

MAX_FIELDS, MAX_VALUES = 50, 200
"""Fields of a form that is read, and values of one of them."""


class BadValue(Exception):
    """A form was filled in with something that cannot be used; the text is a sentence for whoever filled it in."""


Stage = Coroutine[Any, Any, "Told | Ask"]
"""A stage of a command: it ends by the result, or by a form for the next one."""


@frozen
class Told:
    """The end of a command; `lines` are its result."""

    lines: Sequence[str]


@frozen
class Ask:
    """
    A form to be filled in.

    Attributes:
        form: The form; all of its fields have names.
        then: Called with the values of each field that was filled in, by its name. It may raise `BadValue`.
    """

    form: Form
    then: Callable[[Mapping[str, Sequence[str]]], Stage]


@frozen
class Command:
    """
    A command; `name` is what people see, `node` what programs say.

    Attributes:
        begin: Begins it.
    """

    node: str
    name: str
    begin: Callable[[], Stage]


@define
class _Session:
    """A command that somebody has begun; `stage` is the form that he has to fill in, None while it is carried out."""

    id: str
    user: str
    command: Command
    ends: float
    stage: Ask | None = None
    work: Deferred[Any] | None = field(default=None)


class _Refused(Exception):
    """A stanza cannot be carried out; `specific` is the condition of XEP-0050 section 4.4, "" for none."""

    def __init__(self, error: StanzaError, specific: str = "") -> None:
        self.error = error
        self.specific = specific


def _bad(specific: str, text: str | None = None) -> _Refused:
    return _Refused(StanzaError("modify", "bad-request", text), specific)


@implementer(IDisco)
class AdHoc(LateHandler):
    """
    Lists commands at the component's own domain, and carries them out, for some users; others cannot see them.

    It comes before what answers in the webhook's place, and leaves other commands alone.

    Args:
        commands: The commands, in the order of the menu.
        may: Says whether a user, given by his bare address, may see and use them.
        observer: Told `operator_asked` for each that is begun, and `operator_refused`.
        new_id: Makes ids that cannot be guessed.
    """

    KINDS = ("iq",)
    PRIORITY = BEFORE_LAST + 0.125
    _log = Logger()

    def __init__(
        self,
        domain: str,
        commands: Sequence[Command],
        may: Callable[[str], bool],
        observer: Observer,
        clock: IReactorTime,
        new_id: Callable[[], str],
    ) -> None:
        super().__init__(domain)
        self._new_id = new_id
        self._commands = {command.node: command for command in commands}
        self._may = may
        self._observer = observer
        self._clock = clock
        self._lines = Folded(clock.seconds)
        self._sessions: dict[str, _Session] = {}

    def _arrived(self, element: Element) -> None:
        # Most iqs are results of our own pings.
        if element.attributes.get("type") in ("get", "set"):
            super()._arrived(element)

    def take(self, stanza: Stanza) -> bool:
        """Deal with it if it is for one of the commands, or asks for them and may."""
        if stanza.recipient.local is not None:
            return False
        question = next(iter(stanza.element.elements()), None)
        if question is None:
            return False
        node, may = question.getAttribute("node") or "", self._may(str(stanza.sender.bare))
        if (question.uri, question.name) == (NS_COMMANDS, "command") and node in self._commands:
            self._command(stanza, question, may)
            return True
        if not may or stanza.type != "get" or (node != NS_COMMANDS and node not in self._commands):
            return False
        answer = self._discovered(question, node, str(stanza.recipient))
        if answer is not None:
            result = stanza.response("result")
            result.addChild(answer)
            self.send(result)
        return answer is not None

    def disownHandlerParent(self, parent: StreamManager) -> None:
        for session in self._sessions.values():
            if session.work is not None:
                session.work.cancel()
        self._sessions.clear()
        super().disownHandlerParent(parent)

    # -- disco --

    def _discovered(self, question: Element, node: str, address: str) -> Element | None:
        found: Any
        if (question.uri, question.name) == (NS_DISCO_ITEMS, "query"):
            found = DiscoItems()
            if node == NS_COMMANDS:
                for command in self._commands.values():
                    found.append(DiscoItem(_jid(address), command.node, command.name))
        elif (question.uri, question.name) == (NS_DISCO_INFO, "query"):
            found = DiscoInfo()
            if node == NS_COMMANDS:
                found.append(DiscoIdentity("automation", "command-list", "commands"))
            else:
                found.append(DiscoIdentity("automation", "command-node", self._commands[node].name))
                for namespace in (NS_COMMANDS, NS_X_DATA):
                    found.append(DiscoFeature(namespace))
        else:
            return None
        found.nodeIdentifier = node
        element: Element = found.toElement()
        return element

    def getDiscoInfo(self, requestor: JID, target: JID, nodeIdentifier: str = "") -> list[object]:
        """Show the commands to those who may use them."""
        shown = not nodeIdentifier and not target.user and self._may(f"{requestor.user}@{requestor.host}")
        return [DiscoFeature(NS_COMMANDS)] if shown else []

    def getDiscoItems(self, requestor: JID, target: JID, nodeIdentifier: str = "") -> list[object]:
        """None: the items of nodes are answered before."""
        return []

    # -- commands --

    def _command(self, stanza: Stanza, element: Element, may: bool) -> None:
        try:
            if not may:
                raise _Refused(StanzaError("auth", "forbidden"))
            if stanza.type != "set":
                raise _bad("")
            action, session_id = element.getAttribute("action") or "execute", element.getAttribute("sessionid")
            if action not in ("execute", "next", "complete", "prev", "cancel"):
                raise _bad("malformed-action")
            if session_id is None:
                self._begin(stanza, self._commands[str(element["node"])], action)
            else:
                self._go_on(stanza, element, session_id, action)
        except _Refused as refused:
            self._refuse(stanza, refused)

    def _refuse(self, stanza: Stanza, refused: _Refused) -> None:
        self._observer.count("operator_refused")
        if refused.error.condition == "forbidden":
            self._lines.write(
                "forbidden", self._log.warn, "somebody who is not in operations.admin_jids has tried a command"
            )
        answer = stanza.response("error")
        error = conditions.error_child(refused.error)
        if refused.specific:
            error.addElement((NS_COMMANDS, refused.specific))
        answer.addChild(error)
        self.send(answer)

    def _begin(self, stanza: Stanza, command: Command, action: str) -> None:
        if action != "execute":
            raise _bad("bad-action")
        now = self._clock.seconds()
        for session in [each for each in self._sessions.values() if each.ends <= now]:
            self._drop(session)
        if len(self._sessions) >= MAX_SESSIONS:
            self._drop(next(iter(self._sessions.values())))
        session = _Session(self._new_id(), str(stanza.sender), command, now + SESSION_SECONDS)
        self._sessions[session.id] = session
        self._observer.count("operator_asked")
        self._log.info("{operator} uses the command {command}", operator=str(stanza.sender.bare), command=command.node)
        self._carry_out(stanza, session, command.begin())

    def _go_on(self, stanza: Stanza, element: Element, session_id: str, action: str) -> None:
        session = self._sessions.get(session_id)
        if session is None or (session.user, session.command.node) != (str(stanza.sender), element["node"]):
            raise _bad("bad-sessionid")
        if session.ends <= self._clock.seconds():
            self._drop(session)
            raise _Refused(StanzaError("cancel", "not-allowed"), "session-expired")
        if action == "cancel":
            self._drop(session)
            self._answer(stanza, session, "canceled")
            return
        if action == "prev" or session.stage is None:
            raise _bad("bad-action")
        stage = session.stage
        values = _values(element)
        session.stage = None
        self._carry_out(stanza, session, stage.then(values), stage)

    def _drop(self, session: _Session) -> None:
        self._sessions.pop(session.id, None)
        if session.work is not None:
            session.work.cancel()

    def _carry_out(self, stanza: Stanza, session: _Session, work: Stage, asked: Ask | None = None) -> None:
        session.work = done = Deferred.fromCoroutine(work)
        done.addCallback(self._done, stanza, session)
        done.addErrback(self._failed, stanza, session, asked)

    def _done(self, result: Told | Ask, stanza: Stanza, session: _Session) -> None:
        session.work = None
        if isinstance(result, Ask):
            session.stage = result
            self._answer(stanza, session, "executing", form=result.form)
        else:
            self._drop(session)
            self._answer(stanza, session, "completed", lines=result.lines)

    def _failed(self, failure: Failure, stanza: Stanza, session: _Session, asked: Ask | None) -> None:
        session.work = None
        if failure.check(CancelledError):
            self._sessions.pop(session.id, None)
            self._refuse(stanza, _Refused(conditions.STOPPING))
        elif failure.check(BadValue) and asked is not None:
            session.stage = asked
            self._answer(stanza, session, "executing", form=asked.form, complaint=str(failure.value))
        else:
            self._drop(session)
            self._log.failure("the command {command} fails", failure=failure, command=session.command.node)
            self._refuse(stanza, _Refused(conditions.INTERNAL))

    def _answer(
        self,
        stanza: Stanza,
        session: _Session,
        status: str,
        *,
        form: Form | None = None,
        lines: Sequence[str] = (),
        complaint: str | None = None,
    ) -> None:
        if self.parent is None:
            return
        result = stanza.response("result")
        command = result.addElement((NS_COMMANDS, "command"))
        command["node"], command["sessionid"], command["status"] = session.command.node, session.id, status
        if status == "executing":
            actions = command.addElement("actions")
            actions["execute"] = "complete"
            actions.addElement("complete")
        if len(lines) > 1:
            text = Field("text-multi", "result", values=list(lines), label=session.command.name)
            form = Form("result", session.command.name, fields=[text])
        if form is not None:
            command.addChild(form.toElement())
        note = complaint or (lines[0] if len(lines) == 1 else None)
        if note is not None:
            command.addElement("note", content=note)["type"] = "info" if complaint is None else "error"
        self.send(result)


def _jid(address: str) -> JID:
    return JID(tuple=(None, address, None))


def _values(element: Element) -> dict[str, list[str]]:
    """Read the form that was filled in. Raises `_Refused`."""
    try:
        [form] = [
            Form.fromElement(child) for child in element.elements() if (child.uri, child.name) == (NS_X_DATA, "x")
        ]
        fields = form.fields
    except Exception:  # there is none, or two; or wokkel cannot read it, and raises as it likes
        raise _bad("bad-payload", "there must be one form") from None
    if form.formType != "submit" or len(fields) > MAX_FIELDS:
        raise _bad("bad-payload", "the form must be filled in")
    if any(len(one.values) > MAX_VALUES for one in fields.values()):
        raise _bad("bad-payload", "there are too many values")
    return {str(name): [str(value) for value in one.values] for name, one in fields.items()}
