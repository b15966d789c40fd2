"""libcurl as a client of the matrix: `client.py LIBRARIES CA CERT KEY HOST` obeys lines on stdin (../README.md).

One easy handle is one simulated client: the session cache is the handle's, and connections are never kept. What it
resumed is asked of OpenSSL, for libcurl does not say; that it offers a session it says in its log only.
"""

import ctypes
import glob
import sys
from ctypes import byref, c_char_p, c_int, c_long, c_size_t, c_void_p

# Of curl/curl.h.
URL, PORT, INTERFACE, TIMEOUT, SSLVERSION, HTTP_VERSION = 10002, 3, 10062, 13, 32, 84
CAINFO, SSLCERT, SSLKEY, FORBID_REUSE, CONNECT_TO, NOSIGNAL = 10065, 10025, 10087, 75, 10243, 99
WRITEFUNCTION, PREREQFUNCTION, DEBUGFUNCTION, VERBOSE = 20011, 20312, 20094, 41
INFO_TLS_SSL_PTR = 0x400000 + 45
HTTP_1_0 = 1
VERSIONS = {"tls1.2": 6 | 6 << 16, "tls1.3": 7 | 7 << 16}
OK = 0
# Of openssl/obj_mac.h.
NID_COMMON_NAME = 13
WRITER = ctypes.CFUNCTYPE(c_size_t, c_void_p, c_size_t, c_size_t, c_void_p)
LOGGER = ctypes.CFUNCTYPE(c_int, c_void_p, c_int, ctypes.POINTER(ctypes.c_char), c_size_t, c_void_p)
BEFORE_REQUEST = ctypes.CFUNCTYPE(c_int, c_void_p, c_char_p, c_char_p, c_int, c_int)


class TlsSession(ctypes.Structure):
    """struct curl_tlssessioninfo."""

    _fields_ = [("backend", c_int), ("internals", c_void_p)]


curl, ssl = (ctypes.CDLL(glob.glob(f"{sys.argv[1]}/{name}-*")[0]) for name in ["libcurl", "libssl"])
curl.curl_easy_init.restype = c_void_p
curl.curl_easy_strerror.restype = c_char_p
curl.curl_slist_append.restype = c_void_p
for name in ["SSL_get1_peer_certificate", "X509_get_subject_name"]:
    getattr(ssl, name).restype = c_void_p


class Slot:
    """One simulated client."""

    def __init__(self, ca, cert, key):
        self.easy = c_void_p(curl.curl_easy_init())
        # As long as the handle: libcurl keeps what it is given.
        self.writer = WRITER(lambda _data, size, n, _own: size * n)
        self.logger, self.before_request = LOGGER(self.log), BEFORE_REQUEST(self.look)
        for option, value in [(CAINFO, ca), (SSLCERT, cert), (SSLKEY, key)]:
            self.set(option, c_char_p(value.encode()))
        for option, value in [(VERBOSE, 1), (FORBID_REUSE, 1), (NOSIGNAL, 1), (TIMEOUT, 10), (HTTP_VERSION, HTTP_1_0)]:
            self.set(option, c_long(value))
        self.set(WRITEFUNCTION, self.writer)
        self.set(DEBUGFUNCTION, self.logger)
        self.set(PREREQFUNCTION, self.before_request)

    def set(self, option, value):
        if curl.curl_easy_setopt(self.easy, c_int(option), value) != OK:
            raise OSError(f"libcurl takes no option {option}")

    def log(self, _easy, _kind, data, size, _own):
        self.offered |= b"SSL reusing session" in data[:size]
        return OK

    def look(self, *_addresses):
        """After the handshake."""
        session = ctypes.POINTER(TlsSession)()
        curl.curl_easy_getinfo(self.easy, c_int(INFO_TLS_SSL_PTR), byref(session))
        connection = c_void_p(session.contents.internals)
        self.resumed = ssl.SSL_session_reused(connection)
        subject = c_void_p(ssl.X509_get_subject_name(c_void_p(ssl.SSL_get1_peer_certificate(connection))))
        text = ctypes.create_string_buffer(64)
        ssl.X509_NAME_get_text_by_NID(subject, NID_COMMON_NAME, text, 64)
        self.server = text.value.decode()
        return OK

    def connect(self, host, version, source, target, port):
        self.offered, self.server = False, None
        self.set(URL, c_char_p(f"https://{host}:{port}/".encode()))
        self.set(INTERFACE, c_char_p(f"host!{source}".encode()))
        self.set(SSLVERSION, c_long(VERSIONS[version]))
        way = c_void_p(curl.curl_slist_append(None, f"::{target}:{port}".encode()))
        self.set(CONNECT_TO, way)
        code = curl.curl_easy_perform(self.easy)
        curl.curl_slist_free_all(way)
        if self.server is None:
            return f"error {curl.curl_easy_strerror(code).decode()}"
        return f"ok {self.offered:d} {self.resumed:d} {self.server}"

    def __del__(self):
        curl.curl_easy_cleanup(self.easy)


def main(ca, cert, key, host):
    slots = {}
    for line in sys.stdin:
        match line.split():
            case ["forget", name]:
                slots.pop(name, None)
                answer = "ok"
            case ["connect", name, version, source, target, port]:
                try:
                    slot = slots.setdefault(name, None) or Slot(ca, cert, key)
                    slots[name] = slot
                    answer = slot.connect(host, version, source, target, int(port))
                except OSError as error:
                    answer = f"error {error}"
            case _:
                answer = f"error not understood: {line.strip()}"
        print(answer, flush=True)


if __name__ == "__main__":
    main(*sys.argv[2:6])
