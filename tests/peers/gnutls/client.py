"""GnuTLS as a client of the matrix: `client.py CA CERT KEY HOST` obeys lines on stdin (../README.md).

`gnutls-cli` cannot choose its source address and keeps no session between two runs, so the library is called itself.
"""

import ctypes
import socket
import sys
import time
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_ssize_t, c_uint, c_void_p

PATIENCE = 10
# Of gnutls/gnutls.h.
GNUTLS_CLIENT = 1 << 1
GNUTLS_CRD_CERTIFICATE = 1
GNUTLS_NAME_DNS = 1
GNUTLS_SHUT_WR = 1
GNUTLS_X509_FMT_DER = 0
GNUTLS_X509_FMT_PEM = 1
GNUTLS_E_AGAIN = -28
GNUTLS_E_INTERRUPTED = -52
GNUTLS_E_PREMATURE_TERMINATION = -110
OID_COMMON_NAME = b"2.5.4.3"
PRIORITIES = {"tls1.2": b"NORMAL:-VERS-ALL:+VERS-TLS1.2", "tls1.3": b"NORMAL:-VERS-ALL:+VERS-TLS1.3"}


class Datum(ctypes.Structure):
    """gnutls_datum_t."""

    _fields_ = [("data", c_void_p), ("size", c_uint)]


library = ctypes.CDLL("libgnutls.so.30")
library.gnutls_free = ctypes.CFUNCTYPE(None, c_void_p).in_dll(library, "gnutls_free")
for function, result, arguments in [
    ("strerror", c_char_p, [c_int]),
    ("init", c_int, [POINTER(c_void_p), c_uint]),
    ("deinit", None, [c_void_p]),
    ("priority_set_direct", c_int, [c_void_p, c_char_p, POINTER(c_char_p)]),
    ("certificate_allocate_credentials", c_int, [POINTER(c_void_p)]),
    ("certificate_set_x509_trust_file", c_int, [c_void_p, c_char_p, c_int]),
    ("certificate_set_x509_key_file", c_int, [c_void_p, c_char_p, c_char_p, c_int]),
    ("credentials_set", c_int, [c_void_p, c_int, c_void_p]),
    ("server_name_set", c_int, [c_void_p, c_int, c_char_p, c_size_t]),
    ("session_set_verify_cert", None, [c_void_p, c_char_p, c_uint]),
    ("session_set_data", c_int, [c_void_p, c_char_p, c_size_t]),
    ("session_get_data2", c_int, [c_void_p, POINTER(Datum)]),
    ("session_is_resumed", c_int, [c_void_p]),
    ("transport_set_int2", None, [c_void_p, c_int, c_int]),
    ("handshake", c_int, [c_void_p]),
    ("record_send", c_ssize_t, [c_void_p, c_char_p, c_size_t]),
    ("record_recv", c_ssize_t, [c_void_p, c_char_p, c_size_t]),
    ("bye", c_int, [c_void_p, c_int]),
    ("certificate_get_peers", POINTER(Datum), [c_void_p, POINTER(c_uint)]),
    ("x509_crt_init", c_int, [POINTER(c_void_p)]),
    ("x509_crt_deinit", None, [c_void_p]),
    ("x509_crt_import", c_int, [c_void_p, POINTER(Datum), c_int]),
    ("x509_crt_get_dn_by_oid", c_int, [c_void_p, c_char_p, c_int, c_uint, c_char_p, POINTER(c_size_t)]),
]:
    entry = getattr(library, f"gnutls_{function}")
    entry.restype, entry.argtypes = result, arguments


def call(function, *arguments):
    """Calls a function that answers with a negative code where it fails; again for a while if it says so.

    A ticket that arrives while application data is read makes the library say so on a blocking socket, too.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        code = getattr(library, f"gnutls_{function}")(*arguments)
        if code >= 0:
            return code
        if code not in (GNUTLS_E_AGAIN, GNUTLS_E_INTERRUPTED) or time.monotonic() > deadline:
            raise GnuTlsError(function, code)


class GnuTlsError(OSError):
    """A function that failed."""

    def __init__(self, function, code):
        super().__init__(f"{function}: {library.gnutls_strerror(code).decode()} ({code})")
        self.code = code


def credentials(ca, cert, key):
    made = c_void_p()
    call("certificate_allocate_credentials", byref(made))
    call("certificate_set_x509_trust_file", made, ca.encode(), GNUTLS_X509_FMT_PEM)
    call("certificate_set_x509_key_file", made, cert.encode(), key.encode(), GNUTLS_X509_FMT_PEM)
    return made


def visit(shown, host, version, session, source, target, port):
    """Connects, offers `session` if there is one, and returns whether it was resumed, the new session, and who answered."""
    with socket.create_connection((target, port), PATIENCE, source_address=(source, 0)) as tcp:
        # Blocking: the library reads the descriptor itself. The kernel bounds a silent peer.
        tcp.settimeout(None)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            tcp.setsockopt(socket.SOL_SOCKET, option, PATIENCE.to_bytes(8, "little") + bytes(8))
        tls = c_void_p()
        call("init", byref(tls), GNUTLS_CLIENT)
        try:
            return converse(tls, tcp, shown, host.encode(), version, session)
        finally:
            library.gnutls_deinit(tls)


def converse(tls, tcp, shown, host, version, session):
    call("priority_set_direct", tls, PRIORITIES[version], None)
    call("credentials_set", tls, GNUTLS_CRD_CERTIFICATE, shown)
    call("server_name_set", tls, GNUTLS_NAME_DNS, host, len(host))
    library.gnutls_session_set_verify_cert(tls, host, 0)
    if session is not None:
        call("session_set_data", tls, session, len(session))
    library.gnutls_transport_set_int2(tls, tcp.fileno(), tcp.fileno())
    call("handshake", tls)
    request = b"GET / HTTP/1.0\r\n\r\n"
    call("record_send", tls, request, len(request))
    read_to_end(tls)
    given = Datum()
    call("session_get_data2", tls, byref(given))
    kept = ctypes.string_at(given.data, given.size)
    library.gnutls_free(given.data)
    resumed = library.gnutls_session_is_resumed(tls) != 0
    name = common_name(tls)
    library.gnutls_bye(tls, GNUTLS_SHUT_WR)
    return resumed, kept, name


def read_to_end(tls):
    piece = ctypes.create_string_buffer(4096)
    try:
        while call("record_recv", tls, piece, len(piece)) > 0:
            pass
    except GnuTlsError as error:
        if error.code != GNUTLS_E_PREMATURE_TERMINATION:
            raise


def common_name(tls):
    shown = library.gnutls_certificate_get_peers(tls, byref(c_uint()))
    if not shown:
        raise OSError("the server showed no certificate")
    certificate = c_void_p()
    call("x509_crt_init", byref(certificate))
    try:
        call("x509_crt_import", certificate, shown, GNUTLS_X509_FMT_DER)
        name, size = ctypes.create_string_buffer(256), c_size_t(256)
        call("x509_crt_get_dn_by_oid", certificate, OID_COMMON_NAME, 0, 0, name, byref(size))
        return name.value.decode()
    finally:
        library.gnutls_x509_crt_deinit(certificate)


def main(ca, cert, key, host):
    shown = credentials(ca, cert, key)
    sessions = {}
    for line in sys.stdin:
        match line.split():
            case ["forget", slot]:
                sessions.pop(slot, None)
                answer = "ok"
            case ["connect", slot, version, source, target, port]:
                session = sessions.get(slot)
                try:
                    resumed, sessions[slot], name = visit(shown, host, version, session, source, target, int(port))
                    answer = f"ok {session is not None:d} {resumed:d} {name}"
                except OSError as error:
                    answer = f"error {error}"
            case _:
                answer = f"error not understood: {line.strip()}"
        print(answer, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:5])
