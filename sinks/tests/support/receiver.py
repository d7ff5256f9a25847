"""An SMTP server that takes mails apart: prints its port, then a line of JSON for each mail that it has accepted.

Arguments: a file that the lines are appended to before a mail is accepted; then, if there are any, `starttls` or `tls` with certificate
and key, and `login` with user and password. Recipients: never@ is refused (550), later@ is put off the first time (450), full@ is put off
always (452), closing@ has the server close (421).
"""
import asyncio
import json
import logging
import os
import ssl
import sys
import warnings
from email import message_from_bytes, policy

from aiosmtpd.smtp import SMTP, AuthResult


class Receiver:
    def __init__(self, path):
        self.file = open(path, "a")
        self.put_off = set()

    async def handle_RCPT(self, server, session, envelope, address, options):
        user = address.split("@")[0]
        if user == "never":
            return "550 5.1.1 nobody of that name here"
        if user == "full":
            return "452 4.2.2 the mailbox is full"
        if user == "closing":
            return "421 4.3.2 closing for today"
        if user == "later" and address not in self.put_off:
            self.put_off.add(address)
            return "450 4.2.0 greylisted, come back later"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        raw = envelope.original_content
        mail = message_from_bytes(raw, policy=policy.default)
        part = lambda kind: (lambda part: part and part.get_content().rstrip("\r\n"))(mail.get_body((kind,)))
        self.file.write(json.dumps({
            "id": mail["message-id"],
            "from": [[a.display_name, a.addr_spec] for a in mail["from"].addresses],
            "to": [[a.display_name, a.addr_spec] for a in mail["to"].addresses],
            "cc": [[a.display_name, a.addr_spec] for a in mail["cc"].addresses] if mail["cc"] else [],
            "reply_to": str(mail["reply-to"] or ""),
            "subject": mail["subject"],
            "headers": sorted(name.lower() for name in mail.keys()),
            "text": part("plain"),
            "html": part("html"),
            "defects": [str(d) for d in mail.defects],
            "ascii": raw.isascii(),
            "envelope": [envelope.mail_from, envelope.rcpt_tos],
            "tls": server.transport.get_extra_info("sslcontext") is not None,
            "user": session.auth_data and session.auth_data.decode(),
        }) + "\n")
        self.file.flush()
        os.fsync(self.file.fileno())
        return "250 accepted"


async def main(path, *options):
    options, kwargs, context = list(options), {}, None
    while options:
        what, one, two = options.pop(0), options.pop(0), options.pop(0)
        if what == "login":
            def check(server, session, envelope, mechanism, data, user=one, password=two):
                good = (data.login, data.password) == (user.encode(), password.encode())
                return AuthResult(success=good, handled=good, auth_data=data.login)
            kwargs.update(authenticator=check, auth_required=True, auth_require_tls=False)
        else:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(one, two)
            if what == "starttls":
                kwargs.update(tls_context=context, require_starttls=True)
                context = None
    receiver = Receiver(path)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(receiver, hostname="receiver.test", **kwargs), "127.0.0.1", 0, ssl=context)
    print(server.sockets[0].getsockname()[1], flush=True)
    # Ends with the process that started it.
    await loop.run_in_executor(None, sys.stdin.read)
    os._exit(0)


# That a login without TLS is possible is what a test asks for.
logging.disable(logging.WARNING)
warnings.simplefilter("ignore")
asyncio.run(main(*sys.argv[1:]))
