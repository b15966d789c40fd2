"""Python's ssl module as a client of the matrix: `client.py CA CERT KEY HOST` obeys lines on stdin (../README.md)."""

import socket
import ssl
import sys

PATIENCE = 10


class Slot:
    """One simulated client and its last session; a session belongs to the context it was made in."""

    def __init__(self, ca, cert, key, version):
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.load_verify_locations(ca)
        self.context.load_cert_chain(cert, key)
        chosen = ssl.TLSVersion.TLSv1_2 if version == "tls1.2" else ssl.TLSVersion.TLSv1_3
        self.context.minimum_version = self.context.maximum_version = chosen
        self.session = None

    def connect(self, host, source, target, port):
        offered = self.session is not None
        with socket.create_connection((target, port), PATIENCE, source_address=(source, 0)) as tcp:
            with self.context.wrap_socket(tcp, server_hostname=host, session=self.session) as tls:
                tls.sendall(b"GET / HTTP/1.0\r\n\r\n")
                while tls.recv(4096):
                    pass
                self.session = tls.session if resumable(tls.session) else None
                subject = dict(pair for name in tls.getpeercert()["subject"] for pair in name)
                return f"ok {offered:d} {tls.session_reused:d} {subject['commonName']}"


def resumable(session):
    return session is not None and (session.has_ticket or len(session.id) > 0)


def main(ca, cert, key, host):
    slots = {}
    for line in sys.stdin:
        match line.split():
            case ["forget", name]:
                slots.pop(name, None)
                answer = "ok"
            case ["connect", name, version, source, target, port]:
                try:
                    slot = slots.setdefault(name, None) or Slot(ca, cert, key, version)
                    slots[name] = slot
                    answer = slot.connect(host, source, target, int(port))
                except (OSError, KeyError) as error:
                    answer = f"error {error!r}"
            case _:
                answer = f"error not understood: {line.strip()}"
        print(answer, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:5])
