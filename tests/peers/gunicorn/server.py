# gunicorn as a server of the matrix: its configuration and its application, with TLS_VERSION (tls1.2, tls1.3) and TICKETS
# (on, off) in the environment. One sync worker, as it is by default; it makes a TLS context for each connection.
import ctypes
import os
import signal
import ssl

control_socket_disable = True
cert_reqs = ssl.CERT_REQUIRED
PR_SET_PDEATHSIG = 1


def post_fork(_arbiter, _worker):
    # The port is free as soon as the server is killed.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def ssl_context(_config, make):
    context = make()
    version = ssl.TLSVersion.TLSv1_2 if os.environ["TLS_VERSION"] == "tls1.2" else ssl.TLSVersion.TLSv1_3
    context.minimum_version = context.maximum_version = version
    if os.environ["TICKETS"] == "off":
        context.options |= ssl.OP_NO_TICKET
    return context


def application(_environ, start):
    start("200 OK", [("Content-Length", "3"), ("Connection", "close")])
    return [b"ok\n"]
